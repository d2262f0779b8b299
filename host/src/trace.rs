//! Traces: what the host does for a task, as spans that follow each other from the sender to the result.
//!
//! ```text
//! POST …/tasks ─► publish ─► process ─┬─► instantiate
//!                                     ├─► run ──► one for each host call, up to a limit
//!                                     ├─► commit
//!                                     └─► settle
//! ```
//!
//! The context of a span travels in messages and requests as W3C's `traceparent`. Whoever makes spans holds a [`Scope`] to
//! make them under; where they go is a [`Tracer`], which the composition root chooses. Without one everything here is a
//! branch that is not taken: a [`Span`] holds nothing, and no name is written.
//!
//! A span never carries what a sender or an agent sent: no bodies, no statements, no parameters, no keys, no secrets. The
//! names of attributes are those of OpenTelemetry's semantic conventions; what they have no name for is under
//! `agent_host.`.

mod context;

pub use context::{TraceContext, TraceId};

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::task::{AgentName, Outcome, Task};

impl TraceId {
    /// The trace that a task is in.
    #[must_use]
    pub fn of(task: &Task) -> Option<Self> {
        task.traceparent.as_deref().and_then(TraceContext::parse).map(TraceContext::trace_id)
    }
}

/// How a span stands to those around it, as OpenTelemetry has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Makes a message.
    Producer,
    /// Handles a message.
    Consumer,
    /// Waits for somebody else's answer.
    Client,
    /// Work of the host itself.
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// What a span comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The other span.
    pub context: TraceContext,
    /// Whether another process made it.
    pub is_remote: bool,
}

/// Where spans go.
pub trait Tracer: Send + Sync + fmt::Debug {
    /// Begins a span now: its context, and the span itself where it is recorded. Nothing where spans go nowhere any more.
    fn start(&self, parent: Option<Parent>, kind: Kind, name: Cow<'static, str>) -> Option<Started>;
}

/// A span that has begun.
pub type Started = (TraceContext, Option<Recording>);

/// A span that is recorded. It ends when it is dropped.
pub type Recording = Box<dyn RecordingSpan>;

/// What is said of a span that is recorded.
pub trait RecordingSpan: Send + Sync {
    /// Sets an attribute.
    fn set(&mut self, key: &'static str, value: Value);
    /// Notes that what the span tells of failed.
    fn fail(&mut self);
}

/// What the host stands on, as OpenTelemetry names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Systems {
    /// `messaging.system`.
    pub broker: &'static str,
    /// `db.system.name` of the key-value store and the cache.
    pub store: &'static str,
}

/// Traces of one host. Cheap to clone; off unless it is made with a tracer.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    tracer: Box<dyn Tracer>,
    systems: Systems,
}

impl Traces {
    /// Traces that go there.
    #[must_use]
    pub fn new(tracer: Box<dyn Tracer>, systems: Systems) -> Self {
        Self(Some(Arc::new(On { tracer, systems })))
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span after that of another process, where there is one.
    #[must_use]
    pub fn start(&self, parent: Option<TraceContext>, kind: Kind, name: fmt::Arguments<'_>) -> Span {
        let Some(on) = &self.0 else { return Span::default() };
        Span::begin(on, parent.map(|context| Parent { context, is_remote: true }), kind, name)
    }

    /// Begins the span of a message to an agent, after the one that the task came with. The task travels with its context.
    #[must_use]
    pub fn publish(&self, task: &mut Task) -> Span {
        if self.0.is_none() {
            return Span::default();
        }
        let parent = task.traceparent.as_deref().and_then(TraceContext::parse);
        let mut span = self.start(parent, Kind::Producer, format_args!("publish {}", Queue(&task.agent)));
        span.is_of_a_message(&task.agent, "send", "publish");
        span.set_with("messaging.message.id", || task.id.to_string());
        span.set("messaging.message.body.size", task.body.len() as u64);
        task.traceparent = span.traceparent().or(task.traceparent.take());
        span
    }
}

/// A place in a trace, to begin further spans from. Cheap to clone; off by default.
#[derive(Clone, Debug, Default)]
pub struct Scope(Option<(Arc<On>, TraceContext)>);

impl Scope {
    /// The context that travels on from here.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|(_, context)| *context)
    }

    /// Whether there is a trace that is recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.0.as_ref().is_some_and(|(_, context)| context.is_sampled())
    }

    /// What the host stands on; nothing where there is no trace.
    #[must_use]
    pub fn systems(&self) -> Option<Systems> {
        self.0.as_ref().map(|(on, _)| on.systems)
    }

    /// Begins a span below this one. Of a trace that is not recorded nothing more is told.
    #[must_use]
    pub fn child(&self, kind: Kind, name: fmt::Arguments<'_>) -> Span {
        match &self.0 {
            Some((on, context)) if context.is_sampled() => {
                Span::begin(on, Some(Parent { context: *context, is_remote: false }), kind, name)
            }
            _ => Span { scope: self.clone(), recording: None },
        }
    }
}

/// A span under way, which ends when it is dropped; by default none at all.
#[derive(Default)]
pub struct Span {
    scope: Scope,
    recording: Option<Recording>,
}

impl Span {
    fn begin(on: &Arc<On>, parent: Option<Parent>, kind: Kind, name: fmt::Arguments<'_>) -> Self {
        let name = name.as_str().map_or_else(|| Cow::Owned(name.to_string()), Cow::Borrowed);
        let Some((context, recording)) = on.tracer.start(parent, kind, name) else { return Self::default() };
        Self { scope: Scope(Some((Arc::clone(on), context))), recording }
    }

    /// The place to begin further spans from.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The header that carries it on; nothing where traces are off.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.scope.context().map(|context| context.to_string())
    }

    /// Sets an attribute, where the span is recorded.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recording) = &mut self.recording {
            recording.set(key, value.into());
        }
    }

    /// Sets an attribute whose value costs something to make.
    pub fn set_with<T: Into<Value>>(&mut self, key: &'static str, make: impl FnOnce() -> T) {
        if let Some(recording) = &mut self.recording {
            recording.set(key, make().into());
        }
    }

    /// Notes a failure of this kind.
    pub fn fail(&mut self, error_type: impl Into<Value>) {
        if let Some(recording) = &mut self.recording {
            recording.set("error.type", error_type.into());
            recording.fail();
        }
    }

    /// Ends it, with a failure of this kind where there was one.
    pub fn failed(mut self, error_type: Option<&'static str>) {
        if let Some(error_type) = error_type {
            self.fail(error_type);
        }
    }

    /// Notes how an attempt ended. The kind alone: the message is the agent's.
    pub fn ended(&mut self, outcome: &Outcome) {
        self.set("agent_host.outcome", outcome.name());
        if !matches!(outcome, Outcome::Succeeded(_) | Outcome::Cancelled | Outcome::Interrupted) {
            self.fail(outcome.name());
        }
    }

    /// Says that it is of a message in an agent's queue.
    pub fn is_of_a_message(&mut self, agent: &AgentName, kind: &'static str, operation: &'static str) {
        let Some(systems) = self.scope.systems().filter(|_| self.recording.is_some()) else { return };
        self.set("messaging.system", systems.broker);
        self.set("messaging.operation.type", kind);
        self.set("messaging.operation.name", operation);
        self.set_with("messaging.destination.name", || Queue(agent).to_string());
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.scope.context()).finish()
    }
}

/// An agent's queue, as the broker names it.
pub struct Queue<'a>(pub &'a AgentName);

impl fmt::Display for Queue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent.{}", self.0)
    }
}

#[cfg(test)]
mod tests;
