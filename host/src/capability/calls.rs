//! The calls of one task as spans below its run.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::trace::{Kind, Scope, Span};

/// Most spans of host calls of one run: enough to see what an agent does, few enough that one which calls in a loop takes
/// neither the places of others in the queue of spans nor the collector's. The rest is counted.
pub const CALL_SPANS_MAX: u32 = 128;

/// Begins the spans of one task's calls. Shared by all that answers calls; off by default.
#[derive(Clone, Debug, Default)]
pub struct Calls(Option<Arc<Traced>>);

#[derive(Debug)]
struct Traced {
    attempt: Scope,
    run: OnceLock<Scope>,
    begun: AtomicU32,
}

impl Calls {
    pub(super) fn new(attempt: &Scope) -> Self {
        let traced = || Arc::new(Traced { attempt: attempt.clone(), run: OnceLock::new(), begun: AtomicU32::new(0) });
        Self(attempt.context().is_some().then(traced))
    }

    /// The agent's code begins to run: what it calls from now on is below this.
    #[must_use]
    pub fn run_begins(&self) -> Span {
        let Some(traced) = &self.0 else { return Span::default() };
        let span = traced.attempt.child(Kind::Internal, format_args!("run"));
        // It runs once.
        let _ = traced.run.set(span.scope().clone());
        span
    }

    /// Begins the span of a call; none where the run has made too many.
    pub(super) fn begin(&self, kind: Kind, name: fmt::Arguments<'_>) -> Span {
        let Some(traced) = &self.0 else { return Span::default() };
        let scope = traced.scope();
        // Where nothing is recorded nothing is too much, and the context travels on all the same.
        if scope.is_recorded() && traced.begun.fetch_add(1, Ordering::Relaxed) >= CALL_SPANS_MAX {
            return Span::default();
        }
        scope.child(kind, name)
    }

    /// Begins the span of an operation on a database or a store.
    pub(super) fn operation(&self, on: On, operation: &'static str) -> Span {
        let mut span = self.begin(Kind::Client, format_args!("{operation} {}", on.name()));
        if let Some(systems) = span.scope().systems() {
            span.set("db.system.name", if on == On::Sql { "postgresql" } else { systems.store });
            span.set("db.operation.name", operation);
        }
        span
    }

    /// Begins the span of the end of what the task did in SQL, which is after its run.
    pub(super) fn end_of_sql(&self, operation: &'static str) -> Span {
        let Some(traced) = &self.0 else { return Span::default() };
        let mut span = traced.attempt.child(Kind::Client, format_args!("{operation} {}", On::Sql.name()));
        span.set("db.system.name", "postgresql");
        span.set("db.operation.name", operation);
        span
    }

    /// The header of what is called without a span of its own.
    pub(super) fn traceparent(&self) -> Option<String> {
        self.0.as_ref()?.scope().context().map(|context| context.to_string())
    }

    /// Calls that have no span because there were too many.
    #[must_use]
    pub fn left_out(&self) -> u32 {
        self.0.as_ref().map_or(0, |traced| traced.begun.load(Ordering::Relaxed).saturating_sub(CALL_SPANS_MAX))
    }
}

impl Traced {
    fn scope(&self) -> &Scope {
        self.run.get().unwrap_or(&self.attempt)
    }
}

/// What an operation is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Sql,
    KeyValue,
    Cache,
}

impl On {
    fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::KeyValue => "key-value",
            Self::Cache => "cache",
        }
    }
}
