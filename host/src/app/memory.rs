//! Measures what the process keeps resident, tells the accountant, and gives back to the system what is free.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::memory::MemoryLedger;
use crate::telemetry::resident_bytes;

/// How often it is measured: two epochs of the guests, in which they touch some tens of megabytes. A look takes microseconds.
const MEASURE_EVERY: Duration = Duration::from_millis(20);
/// How often free memory is given back. The allocator has it wait for a second in case that it is needed again, and then looks
/// only while it is used.
const COLLECT_EVERY: Duration = Duration::from_millis(250);
/// From how much of the budget on free memory does not wait, in percent.
const PRESSED_PERCENT: u64 = 85;
/// What the host is taken to need for itself where nothing can be measured. Working off a full queue of small tasks took
/// 135 to 160 MB.
const ASSUMED_BYTES: u64 = 160_000_000;

/// Keeps the accounts right until the host has drained.
pub(super) async fn measure(ledger: MemoryLedger, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(MEASURE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut was_overfull, mut collected_at) = (false, Instant::now());
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let resident = resident_bytes();
        let (resident, now) = (resident.unwrap_or(ASSUMED_BYTES), Instant::now());
        if now.saturating_duration_since(collected_at) >= COLLECT_EVERY {
            give_back(resident > ledger.budget_bytes() / 100 * PRESSED_PERCENT);
            collected_at = now;
        }
        let is_overfull = ledger.measured(resident, now);
        if is_overfull && !was_overfull {
            let budget = ledger.budget_bytes();
            tracing::warn!(
                resident,
                budget,
                "the host is about to be larger than its memory budget; handing tasks back"
            );
        }
        was_overfull = is_overfull;
    }
}

/// Has the allocator give free memory back: that which has waited for long enough, or all of it.
fn give_back(all: bool) {
    // SAFETY: mi_collect() may be called at any time from any thread, also where another allocator is in use, as in tests.
    unsafe { libmimalloc_sys::mi_collect(all) };
}
