//! Logs, metrics and traces of the process.

mod host_metrics;
mod one_line;
mod otlp;

pub use host_metrics::{HostMetrics, HostReadings, rendered, resident_bytes};
pub use otlp::{Batching, ExportMetrics, MetricPush, OtlpError, OtlpSettings, SpanExport, Target, collector, resource};

use tracing_subscriber::EnvFilter;

use self::one_line::OneLine;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What drivers would log of other people's text, as it is: PostgreSQL's notices, which an agent can have sent, and whole
/// messages that the broker returns. Both could forge log lines.
const FOREIGN_TEXT_OFF: [&str; 2] = ["sqlx::postgres::notice=off", "lapin::returned_messages=off"];

/// Starts logging to standard error; standard output belongs to commands' results.
///
/// # Errors
/// A `RUST_LOG` that is no filter.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), String> {
    let without_foreign_text = |filter: EnvFilter| {
        FOREIGN_TEXT_OFF.iter().try_fold(filter, |filter, off| Ok(filter.add_directive(off.parse()?)))
    };
    let filter = EnvFilter::try_new(filter)
        .and_then(without_foreign_text)
        .map_err(|error| format!("RUST_LOG={filter:?} is no filter ({error}); expected for example \"info\""))?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    // A second call in one process (tests) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => builder.fmt_fields(OneLine::default()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
