//! A delivery in its trace: the span of its processing, with the attempt and the settlement below it.

use super::{Dispatcher, Revision};
use crate::delivery::envelope::headers::TRACEPARENT;
use crate::delivery::{HeaderValue, Message};
use crate::task::{AgentName, Task};
use crate::trace::{Kind, Queue, Span, TraceContext, TraceId};

impl Dispatcher {
    /// Begins the span of a task's processing, after the one that its message came with. From here on the task, and with it
    /// its result and what it calls, is of this span; a retry and a dead letter are the message again, and so of the first.
    pub(super) fn processing(&self, task: &mut Task, is_redelivered: bool) -> Span {
        if !self.traces.is_on() {
            return Span::default();
        }
        let parent = task.traceparent.as_deref().and_then(TraceContext::parse);
        let mut span = self.process(&task.agent, parent);
        span.set_with("messaging.message.id", || task.id.to_string());
        span.set("messaging.message.body.size", task.body.len() as u64);
        span.set("agent_host.attempt", task.attempt);
        if is_redelivered {
            span.set("agent_host.redelivered", 1_u32);
        }
        task.traceparent = span.traceparent().or(task.traceparent.take());
        span
    }

    /// The span of a message that is no task, and the context of what answers it.
    pub(super) fn processing_malformed(&self, agent: &AgentName, message: &Message) -> (Span, Option<String>) {
        let header = message.headers.get(TRACEPARENT).and_then(HeaderValue::as_text);
        let parent = header.as_deref().and_then(TraceContext::parse);
        if !self.traces.is_on() {
            return (Span::default(), parent.map(|parent| parent.to_string()));
        }
        let mut span = self.process(agent, parent);
        span.fail("malformed");
        let traceparent = span.traceparent();
        (span, traceparent)
    }

    fn process(&self, agent: &AgentName, parent: Option<TraceContext>) -> Span {
        let mut span = self.traces.start(parent, Kind::Consumer, format_args!("process {}", Queue(agent)));
        span.is_of_a_message(agent, "process", "process");
        span.set_with("agent_host.agent", || agent.to_string());
        span.set_with("agent_host.host", || self.host.to_string());
        span
    }
}

/// Notes what the task runs on.
pub(super) fn runs_on(span: &mut Span, revision: &Revision) {
    span.set("agent_host.revision", revision.number);
}

/// The trace of a task, as its lines in the log have it.
pub(super) fn trace_id(task: &Task) -> Option<impl tracing::Value> {
    TraceId::of(task).map(tracing::field::display)
}
