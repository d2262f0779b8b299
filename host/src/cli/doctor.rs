//! `agent-host doctor`: what would keep a host from working here, and what mends it.

mod machine;
mod secrets;
mod services;
mod told;

use serde::Serialize;

use super::failed::{Exit, Failed};
use super::output::Console;
use super::{ConfigFlags, Format};
use crate::config::Config;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, though not as well as it could.
    Warning,
    /// A host does not start, or does not work.
    Problem,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was checked.
    check: &'static str,
    level: Level,
    /// What was found.
    found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), mend: None, exit: Exit::Clean }
    }

    fn warning(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warning, mend: Some(mend.into()), ..Self::ok(check, found) }
    }

    fn problem(check: &'static str, exit: Exit, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Problem, mend: Some(mend.into()), exit, ..Self::ok(check, found) }
    }
}

/// Checks everything and prints what it found. The exit status tells whether a host would work.
pub(super) async fn run(flags: &ConfigFlags, console: &mut Console<'_>) -> Result<(), Failed> {
    let findings = check(flags, console).await;
    match console.format {
        Format::Json => console.json(&findings)?,
        Format::Text => console.text(&text(&findings))?,
    }
    let problems: Vec<&Finding> = findings.iter().filter(|finding| finding.level == Level::Problem).collect();
    let Some(first) = problems.first() else {
        return Ok(());
    };
    // A wrong configuration comes first: the services that it names may not be those that were meant.
    let exit = problems.iter().map(|finding| finding.exit).find(|exit| *exit == Exit::Usage).unwrap_or(first.exit);
    let count = problems.len();
    Err(Failed::new(exit, format!("{count} problem{} found", if count == 1 { "" } else { "s" })))
}

async fn check(flags: &ConfigFlags, console: &Console<'_>) -> Vec<Finding> {
    let mut findings = machine::kernel();
    match Config::load(flags.file.as_deref(), console.vars, &flags.values) {
        Err(errors) => {
            let mend = "correct it; `agent-host config show` prints every setting and where it came from";
            findings.extend(errors.0.into_iter().map(|error| Finding::problem("config", Exit::Usage, error, mend)));
        }
        Ok(config) => {
            findings.push(Finding::ok("config", "valid"));
            let ignored = config.ignored.iter();
            findings.extend(ignored.map(|ignored| Finding::warning("config", ignored.as_str(), "unset it")));
            findings.push(machine::listen(config.listen).await);
            findings.push(machine::data_dir(&config.data_dir));
            findings.extend(machine::room(&config.data_dir));
            findings.extend(machine::files_root(config.files_root.as_deref()));
            findings.extend(machine::agents(config.agents_dir.as_deref()));
            let agents = machine::agent_names(config.agents_dir.as_deref());
            let (broker, database, cache, secrets) = tokio::join!(
                services::broker(&config.broker, &agents),
                services::database(&config.database, &config.data_dir, console.vars),
                services::cache(&config.cache),
                secrets::stored(&config.database, &config.secrets_keys),
            );
            findings.extend([broker, database, cache, secrets].concat());
        }
    }
    findings
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        text.push_str(&format!("{level}  {}: {}\n", finding.check, finding.found));
        if let Some(mend) = &finding.mend {
            text.push_str(&format!("         mend: {mend}\n"));
        }
    }
    text
}
