//! One call of a guest, from its start to what it leaves.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::Store;

use super::answer::{classify, end_span, expired, lowered, timed_out, timeout_left};
use super::{Run, Stops};
use crate::agent::state::InstanceState;
use crate::agent::turns::Turns;
use crate::capability::Session;
use crate::memory::Leave;
use crate::task::{Completion, Outcome, Usage};
use crate::units::whole_micros;

/// Calls the guest, unless it is stopped before it answers or takes too long, and takes the instance down.
pub(super) async fn called(
    mut store: Store<InstanceState>,
    run: &dyn Run,
    (turns, stops, leave): (&Turns, &Stops, &Leave),
    spent: Duration,
) -> Called {
    let (revision, task) = (run.revision().as_ref(), run.task());
    let clock = Arc::clone(&store.data().clock);
    let answer = {
        let called = std::pin::pin!(revision.code.entry.call(&mut store, revision, task));
        let in_turns = std::pin::pin!(turns.run(&clock, called));
        if stops.cancel.is_cancelled() {
            Err(Outcome::Cancelled)
        } else {
            // The call first: one that ends without a wait need not say where it can be stopped. What stops it is looked at
            // after each of its turns.
            tokio::select! {
                biased;
                called = clock.within(timeout_left(revision, spent), in_turns) => Ok(called),
                stopped = stops.stopped_running() => Err(stopped),
                () = leave.asked() => Err(Outcome::Interrupted),
                () = expired(task), if !run.is_replay() => Err(Outcome::Expired),
            }
        }
    };
    let answer = match answer {
        // Whatever it says: it has stopped because somebody wants that.
        Ok(Some(_)) if stops.cancel.is_cancelled() => Err(Outcome::Cancelled),
        Ok(Some(Ok(answer))) => Ok(answer),
        Ok(Some(Err(error))) => Err(classify(&error, &store, revision)),
        Ok(None) => Err(timed_out(revision)),
        Err(stopped) => Err(stopped),
    };
    // Waiting for memory counts against no limit, also not where the attempt is run again.
    let wall = clock.began().elapsed().saturating_sub(clock.waited());
    let state = store.into_data();
    let usage = Usage {
        memory_bytes_peak: state.memory.peak_bytes(),
        cpu_us: whole_micros(clock.spent()),
        wall_us: whole_micros(wall),
        host_calls: 0,
    };
    let (asked_bytes, needed_bytes) = (state.memory.asked_bytes(), state.memory.peak_with_held_bytes());
    let outcome = answer.map_or_else(|outcome| outcome, |answer| lowered(answer, revision, state.session.log()));
    let left_out = state.session.calls().left_out();
    end_span(state.span, &outcome, &usage, left_out);
    // One that was stopped may not have come to what it needs.
    if outcome != Outcome::Interrupted {
        revision.footprint.used(needed_bytes);
    }
    let mut session = state.session;
    if let Some(tape) = session.tape().filter(|_| state.files.was_used()) {
        tape.note_files();
    }
    session.add_calls(state.http.requests());
    let completion =
        Completion { outcome, usage, init: state.init, follow_ups: Vec::new(), log: None, recording: None };
    Called { completion, session, asked_bytes }
}

/// What a call left.
pub(super) struct Called {
    pub(super) completion: Completion,
    pub(super) session: Session,
    /// Memory that it had or asked for.
    pub(super) asked_bytes: u64,
}
