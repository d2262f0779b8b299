//! Measures what the process keeps resident, and tells the accountant.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::memory::MemoryLedger;
use crate::telemetry::resident_bytes;

/// How often it is measured: two epochs of the guests, in which they touch some tens of megabytes. A look takes microseconds.
const MEASURE_EVERY: Duration = Duration::from_millis(20);
/// What the host is taken to need for itself where nothing can be measured. Working off a full queue of small tasks took
/// 135 to 160 MB.
const ASSUMED_BYTES: u64 = 160_000_000;

/// Keeps the accounts right until the host has drained.
pub(super) async fn measure(ledger: MemoryLedger, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(MEASURE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_overfull = false;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let resident = resident_bytes();
        let is_overfull = ledger.measured(resident.unwrap_or(ASSUMED_BYTES), Instant::now());
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
