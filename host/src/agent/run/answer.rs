//! What became of a call, as an outcome.

use std::time::Duration;

use wasmtime::Store;

use super::caps::{self, FAILURE_BYTES_MAX, HEADER_BYTES, OUTPUT_HEADERS_BYTES_MAX};
use crate::agent::limits::{Refused, Stopped};
use crate::agent::load::Revision;
use crate::agent::shape::Answer;
use crate::agent::state::InstanceState;
use crate::capability::log::GuestLog;
use crate::memory::NoRoom;
use crate::task::{Limit, Outcome, Output, Task, Usage, unix_ms_now};
use crate::trace::Span;
use crate::units::{ByteSize, format_duration};

/// Frames of a trap that go into its message.
const TRAP_FRAMES_MAX: usize = 5;

/// What the agent answered, held against the limits on outputs and on the messages of failures.
pub(super) fn lowered(answer: Answer, revision: &Revision, log: &GuestLog) -> Outcome {
    let message = |text: &str| log.presentable(text, FAILURE_BYTES_MAX);
    match answer {
        Answer::Succeeded(None) => Outcome::Succeeded(None),
        Answer::Succeeded(Some(output)) => lowered_output(output, revision),
        Answer::Retry { message: text, after_ms } => Outcome::Retry { message: message(&text), after_ms },
        Answer::Rejected { message: text } => Outcome::Rejected { message: message(&text) },
        Answer::Broken { message: text } => Outcome::Trapped { message: message(text) },
    }
}

fn lowered_output(mut output: Output, revision: &Revision) -> Outcome {
    let limit = revision.manifest.limits.output;
    if output.body.len() > limit.as_usize() {
        return Outcome::LimitExceeded(Limit { name: "limits.output", allowed: limit.to_string() });
    }
    let headers = output.headers.iter().map(|(name, value)| name.len().saturating_add(value.len()));
    let content_type_bytes = output.content_type.as_ref().map_or(0, String::len);
    let bytes = headers.fold(content_type_bytes, |sum, bytes| sum.saturating_add(bytes).saturating_add(HEADER_BYTES));
    if bytes > OUTPUT_HEADERS_BYTES_MAX.as_usize() {
        let allowed = OUTPUT_HEADERS_BYTES_MAX.to_string();
        return Outcome::LimitExceeded(Limit { name: "host.output_headers_bytes", allowed });
    }
    output.content_type = output.content_type.filter(|content_type| is_media_type(content_type));
    Outcome::Succeeded(Some(output))
}

/// Whether a content type can be one of an AMQP message and of an HTTP answer. Where it cannot, the output has none.
fn is_media_type(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

pub(super) fn classify(error: &wasmtime::Error, store: &Store<InstanceState>, revision: &Revision) -> Outcome {
    let limits = &revision.manifest.limits;
    if error.downcast_ref::<Stopped>().is_some() {
        return Outcome::TimedOut(Limit { name: "limits.cpu", allowed: format_duration(limits.cpu) });
    }
    let refused = store.data().memory.was_refused();
    // Others have the memory: it comes again, and then has room.
    if error.downcast_ref::<NoRoom>().is_some() && refused != Some(Refused::Budget) {
        return Outcome::Interrupted;
    }
    match refused {
        Some(Refused::Limit) => {
            return Outcome::OutOfMemory(Limit { name: "limits.memory", allowed: limits.memory.to_string() });
        }
        Some(Refused::Budget) => {
            let budget = ByteSize(store.data().memory.budget_bytes());
            let allowed = format!("{budget} less what the host itself needs");
            return Outcome::OutOfMemory(Limit { name: "memory_budget", allowed });
        }
        None => {}
    }
    if let Some(cap) = caps::reached(error, store.hostcall_fuel()) {
        return Outcome::LimitExceeded(cap);
    }
    let mut message = trap_message(error);
    // An agent that gives up says why on its standard error, and then executes `unreachable`.
    if let Some(last_words) = store.data().stderr.last_words() {
        message = format!("{message}: {last_words}");
    }
    // The names of functions are the module's own, and so is what it printed.
    Outcome::Trapped { message: store.data().session.log().presentable(&message, FAILURE_BYTES_MAX) }
}

/// The trap and the innermost functions.
fn trap_message(error: &wasmtime::Error) -> String {
    let cause = error.root_cause().to_string();
    let frames: Vec<String> = error
        .downcast_ref::<wasmtime::WasmBacktrace>()
        .map(|backtrace| {
            let frames = backtrace.frames().iter().filter_map(wasmtime::FrameInfo::func_name);
            frames.take(TRAP_FRAMES_MAX).map(str::to_owned).collect()
        })
        .unwrap_or_default();
    if frames.is_empty() { cause } else { format!("{cause}, in {}", frames.join(" < ")) }
}

pub(super) fn timed_out(revision: &Revision) -> Outcome {
    Outcome::TimedOut(Limit { name: "limits.timeout", allowed: format_duration(revision.manifest.limits.timeout) })
}

/// What is left of the manifest's timeout for an attempt that has spent some of it.
pub(super) fn timeout_left(revision: &Revision, spent: Duration) -> Duration {
    revision.manifest.limits.timeout.saturating_sub(spent)
}

/// Ends the span of a run, or of a start that did not come to one.
pub(super) fn end_span(mut span: Span, outcome: &Outcome, usage: &Usage, calls_left_out: u32) {
    span.set("agent_host.cpu_us", usage.cpu_us);
    span.set("agent_host.memory_bytes_peak", usage.memory_bytes_peak);
    if calls_left_out > 0 {
        span.set("agent_host.calls_without_span", calls_left_out);
    }
    span.ended(outcome);
}

/// Waits until the task's own deadline, whatever it is doing: that one is a time of day.
pub(super) async fn expired(task: &Task) {
    match task.deadline_ms {
        Some(deadline_ms) => tokio::time::sleep(Duration::from_millis(deadline_ms.saturating_sub(unix_ms_now()))).await,
        None => std::future::pending().await,
    }
}
