//! What runs said, as JSON.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::records::TaskLog;
use crate::task::UnixMs;

/// What one run of a task said.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RunLogView {
    /// The run's id. Of two the one that ended later has the larger one.
    run: String,
    /// The attempt that it was. A task that was handed back is run again as the same one.
    attempt: u32,
    /// How often the task had been redriven.
    generation: u32,
    /// The revision that ran.
    revision: Option<u64>,
    /// The host.
    host: String,
    /// Whether it said more than is kept.
    is_cut: bool,
    /// What it said, in its order.
    #[schema(value_type = Vec<LogLineView>)]
    lines: Vec<Box<RawValue>>,
}

/// A line. For the description alone: lines are kept as the JSON that they are shown as.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes a line in the OpenAPI document")]
pub(crate) struct LogLineView {
    /// When it was said, in Unix milliseconds.
    at: UnixMs,
    /// `trace`, `debug`, `info`, `warn`, `error` or `critical`.
    level: String,
    /// What it is about, as the agent named it; `stdout` and `stderr` for what it printed.
    context: String,
    /// The text, in which whatever is no plain text is escaped.
    message: String,
}

impl From<&TaskLog> for RunLogView {
    fn from(log: &TaskLog) -> Self {
        let lines = log.log.lines().lines();
        Self {
            run: log.run.to_string(),
            attempt: log.attempt,
            generation: log.generation,
            revision: log.revision,
            host: log.host.to_string(),
            is_cut: log.log.is_cut(),
            lines: lines.filter_map(|line| RawValue::from_string(line.to_owned()).ok()).collect(),
        }
    }
}
