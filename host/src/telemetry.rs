//! Logs and metrics of the process.

mod host_metrics;

pub use host_metrics::{HostMetrics, HostReadings, resident_bytes};

use tracing_subscriber::EnvFilter;

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

/// What is logged where `RUST_LOG` says nothing: our own progress, and only the warnings of libraries.
const FILTER_DEFAULT: &str = "warn,agent_host=info,agent=info";

/// An agent can have PostgreSQL send notices whose text the driver would log as it is: forged log lines.
const GUEST_NOTICES_OFF: &str = "sqlx::postgres::notice=off";

/// Starts logging to standard error; standard output belongs to commands' results.
///
/// # Errors
/// A `RUST_LOG` that is no filter.
pub fn init_logs(format: LogFormat, filter: Option<&str>) -> Result<(), String> {
    let filter = filter.filter(|filter| !filter.trim().is_empty()).unwrap_or(FILTER_DEFAULT);
    let filter = EnvFilter::try_new(filter)
        .and_then(|filter| Ok(filter.add_directive(GUEST_NOTICES_OFF.parse()?)))
        .map_err(|error| format!("RUST_LOG={filter:?} is no filter ({error}); expected for example \"info\""))?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    // A second call in one process (tests) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
