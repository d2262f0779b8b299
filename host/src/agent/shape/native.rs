//! The native shape: `agent:runtime/handler`, one function from a task to an answer.

use std::time::{Duration, Instant};

use wasmtime::Store;

use super::{Answer, started};
use crate::agent::load::Revision;
use crate::agent::state::InstanceState;
use crate::task::{Output, Task, UnixMs};
use crate::wit::native::HostNativePre;
use crate::wit::native::exports::agent::runtime::handler as wit;

pub(super) async fn call(
    pre: &HostNativePre<InstanceState>,
    store: &mut Store<InstanceState>,
    revision: &Revision,
    task: &Task,
) -> wasmtime::Result<Answer> {
    let began = Instant::now();
    let agent = pre.instantiate_async(&mut *store).await?;
    started(store, revision, began);
    let now_ms = store.data().session.unix_ms_now();
    let lifted = lifted(revision, task, now_ms);
    Ok(answer(agent.agent_runtime_handler().call_handle(store, &lifted).await?))
}

fn lifted(revision: &Revision, task: &Task, now_ms: UnixMs) -> wit::Task {
    let timeout_at_ms = now_ms.saturating_add(millis(revision.manifest.limits.timeout));
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

fn answer(answer: Result<Option<wit::Output>, wit::Failure>) -> Answer {
    match answer {
        Ok(output) => Answer::Succeeded(output.map(|output| Output {
            content_type: output.content_type,
            headers: output.headers,
            body: output.body.into(),
        })),
        Err(wit::Failure::Retry(message)) => Answer::Retry { message, after_ms: None },
        Err(wit::Failure::RetryAfter((after_ms, message))) => Answer::Retry { message, after_ms: Some(after_ms) },
        Err(wit::Failure::Reject(message)) => Answer::Rejected { message },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
