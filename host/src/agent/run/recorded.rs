//! A run's tape: what its instance gets of it, and keeping the recording where it failed.

use std::sync::Arc;
use std::time::Instant;

use wasmtime_wasi::WasiCtxBuilder;

use super::Run;
use crate::agent::clock::{CoarseInstant, CoarseUnixTime};
use crate::capability::Session;
use crate::capability::recording::{Recorder, Taped};
use crate::memory::MemoryLedger;
use crate::task::{Completion, Outcome, RunRecording};

/// Gives an instance that begins now its clocks and its random numbers: the host's, on the run's tape where it has one.
pub(super) fn give_time_and_chance(wasi: &mut WasiCtxBuilder, session: &Session, began: Instant) {
    let clock = CoarseInstant::since(began);
    match session.tape() {
        None => {
            wasi.monotonic_clock(clock).wall_clock(CoarseUnixTime);
        }
        Some(tape) => {
            tape.seed(wasi);
            wasi.monotonic_clock(Taped::new(tape, clock)).wall_clock(Taped::new(tape, CoarseUnixTime));
        }
    }
}

/// Makes the recording of a run that may be its task's last and was no success.
pub(super) async fn keep(recorder: &Recorder, completion: &mut Completion, run: &dyn Run, ledger: &MemoryLedger) {
    match completion.outcome {
        // Nothing failed, or it is run again.
        Outcome::Succeeded(_) | Outcome::Cancelled | Outcome::Interrupted => return,
        Outcome::Retry { .. }
        | Outcome::Rejected { .. }
        | Outcome::Trapped { .. }
        | Outcome::TimedOut(_)
        | Outcome::OutOfMemory(_)
        | Outcome::LimitExceeded(_)
        | Outcome::Expired
        | Outcome::HostError { .. }
        | Outcome::HostKiller => {}
    }
    let (revision, task) = (run.revision(), run.task());
    let ran = (revision.number, revision.digest.as_str(), revision.manifest.as_ref());
    match recorder.finish(ran, task, completion).await {
        Ok(file) => {
            completion.recording = file.map(|file| {
                let charge = ledger.charge(file.len() as u64);
                Arc::new(RunRecording::new(file.into(), charge))
            });
        }
        Err(error) => {
            let (agent, task_id) = (&task.agent, &task.id);
            tracing::warn!(%agent, %task_id, error = &error as &dyn std::error::Error,
                "a run is not recorded: its secrets cannot be read, and so not be taken out");
        }
    }
}
