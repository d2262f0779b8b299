//! What is logged while a task runs, line by line.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// What is an agent's own log.
const AGENT: &str = "agent";

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How loud it is.
    pub level: Level,
    /// Whether the agent said it, and not the host.
    pub is_the_agents: bool,
    /// What it is about: `stderr`, or the context that the agent gave.
    pub context: String,
    /// The line.
    pub text: String,
}

impl std::fmt::Display for LogLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (level, context) = (self.level, &self.context);
        if context.is_empty() {
            write!(f, "{level:>5} {}", self.text)
        } else {
            write!(f, "{level:>5} {context}: {}", self.text)
        }
    }
}

/// Keeps lines until they are taken. Clones keep the same.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    lines: Arc<Mutex<Vec<LogLine>>>,
}

impl Recorder {
    /// The lines since the last time.
    pub(super) fn take(&self) -> Vec<LogLine> {
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let is_the_agents = metadata.target() == AGENT;
        // Of the host only what an agent's author has to know.
        if !is_the_agents && *metadata.level() > Level::WARN {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let line = LogLine {
            level: *metadata.level(),
            is_the_agents,
            context: said.context,
            text: if is_the_agents { said.message } else { format!("{}{}", said.message, said.rest) },
        };
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

#[derive(Default)]
struct Said {
    message: String,
    context: String,
    rest: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "context" => value.clone_into(&mut self.context),
            "agent" | "task_id" => {}
            name => {
                let _ = write!(self.rest, ", {name}: {value}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => {
                let _ = write!(self.message, "{value:?}");
            }
            // What every line of a task has.
            "agent" | "revision" | "task_id" | "attempt" => {}
            name => {
                let _ = write!(self.rest, ", {name}: {value:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn an_agents_lines_and_the_hosts_warnings_are_kept() {
        let recorder = Recorder::default();
        let subscriber = tracing_subscriber::registry().with(recorder.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "agent", agent = %"a", attempt = 1, context = "stdout", "said");
            tracing::info!("of no interest");
            tracing::warn!(what = "kv", "denied");
        });
        let shown: Vec<_> = recorder.take().iter().map(ToString::to_string).collect();
        assert_eq!(shown, [" INFO stdout: said", " WARN denied, what: kv"]);
        assert_eq!(recorder.take(), []);
    }
}
