//! Calling the guest, and what became of the call as an outcome.

use std::time::{Duration, Instant};

use wasmtime::Store;

use super::caps::{self, FAILURE_BYTES_MAX, HEADER_BYTES, OUTPUT_HEADERS_BYTES_MAX};
use crate::agent::limits::{Refused, Stopped};
use crate::agent::load::Revision;
use crate::agent::state::InstanceState;
use crate::capability::log::GuestLog;
use crate::memory::NoRoom;
use crate::task::{Limit, Outcome, Output, Task, unix_ms_now};
use crate::units::{ByteSize, format_duration};
use crate::wit::native::exports::agent::runtime::handler as wit;

/// Frames of a trap that go into its message.
const TRAP_FRAMES_MAX: usize = 5;

/// What the agent answered.
pub(super) type Answer = Result<Option<wit::Output>, wit::Failure>;

pub(super) async fn call(
    store: &mut Store<InstanceState>,
    revision: &Revision,
    task: &Task,
) -> wasmtime::Result<Answer> {
    let began = Instant::now();
    let agent = revision.code.pre.instantiate_async(&mut *store).await?;
    revision.footprint.started_with(store.data().memory.used_bytes());
    store.data_mut().init = Some(began.elapsed());
    let lifted = lifted(revision, task);
    agent.agent_runtime_handler().call_handle(store, &lifted).await
}

fn lifted(revision: &Revision, task: &Task) -> wit::Task {
    let timeout_at_ms = unix_ms_now().saturating_add(millis(revision.manifest.limits.timeout));
    wit::Task {
        id: task.id.to_string(),
        agent: task.agent.to_string(),
        revision: u32::try_from(revision.number).unwrap_or(u32::MAX),
        attempt: task.attempt,
        max_attempts: task.attempts_max.unwrap_or(revision.manifest.retry.max_attempts),
        enqueued_at: task.enqueued_at_ms,
        deadline: task.deadline_ms.map_or(timeout_at_ms, |deadline_ms| deadline_ms.min(timeout_at_ms)),
        headers: task.headers.clone(),
        content_type: task.content_type.clone(),
        body: task.body.to_vec(),
        traceparent: task.traceparent.clone(),
    }
}

/// What the agent answered, held against the limits on outputs and on the messages of failures.
pub(super) fn lowered(answer: Answer, revision: &Revision, log: &GuestLog) -> Outcome {
    let message = |text: String| log.presentable(&text, FAILURE_BYTES_MAX);
    match answer {
        Ok(None) => Outcome::Succeeded(None),
        Ok(Some(output)) => lowered_output(output, revision),
        Err(wit::Failure::Retry(text)) => Outcome::Retry { message: message(text), after_ms: None },
        Err(wit::Failure::RetryAfter((after_ms, text))) => {
            Outcome::Retry { message: message(text), after_ms: Some(after_ms) }
        }
        Err(wit::Failure::Reject(text)) => Outcome::Rejected { message: message(text) },
    }
}

fn lowered_output(output: wit::Output, revision: &Revision) -> Outcome {
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
    Outcome::Succeeded(Some(Output {
        content_type: output.content_type.filter(|content_type| is_media_type(content_type)),
        headers: output.headers,
        body: output.body.into(),
    }))
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

/// Waits until the task's own deadline, whatever it is doing: that one is a time of day.
pub(super) async fn expired(task: &Task) {
    match task.deadline_ms {
        Some(deadline_ms) => tokio::time::sleep(Duration::from_millis(deadline_ms.saturating_sub(unix_ms_now()))).await,
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
