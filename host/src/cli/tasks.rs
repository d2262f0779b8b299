//! `tasks show|watch|logs|cancel`.

use reqwest::Method;
use serde_json::Value;

use super::Format;
use super::client::Client;
use super::failed::{Exit, Failed};
use super::output::{Console, one_line};
use super::show::{field, print_document, shown};

/// `tasks`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Tasks {
    /// Show what is known about a task
    Show {
        /// Its id
        id: String,
    },
    /// Print each change of a task until it ends; the exit status is 1 where it does not succeed
    Watch {
        /// Its id
        id: String,
    },
    /// Print what the runs of a task said, once they have ended
    Logs {
        /// Its id
        id: String,
    },
    /// Cancel a task, queued or running
    Cancel {
        /// Its id
        id: String,
    },
}

impl Tasks {
    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        match self {
            Self::Show { id } => print_document(&client.task(id).await?, console),
            Self::Watch { id } => watch(id, client, console).await,
            Self::Logs { id } => logs(id, client, console).await,
            Self::Cancel { id } => {
                let cancelled = client.json(client.request(Method::DELETE, &["v1", "tasks", id])).await?;
                match console.format {
                    Format::Json => console.json(&cancelled)?,
                    Format::Text => console.text(&format!("task {id} is cancelled"))?,
                }
                Ok(())
            }
        }
    }
}

async fn logs(id: &str, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
    let page = client.json(client.request(Method::GET, &["v1", "tasks", id, "logs"])).await?;
    if console.format == Format::Json {
        return Ok(console.json(&page)?);
    }
    let runs = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if runs.is_empty() {
        console.complain("no run of the task that has ended said anything");
    }
    for run in runs {
        let [attempt, revision, host] = ["attempt", "revision", "host"].map(|name| field(run, name));
        console.text(&format!("attempt {attempt}, revision {revision}, on {host}:"))?;
        for line in run.get("lines").and_then(Value::as_array).into_iter().flatten() {
            console.text(&said(line))?;
        }
        if run.get("is_cut").and_then(Value::as_bool) == Some(true) {
            console.text("  (what it said beyond that was dropped)")?;
        }
    }
    Ok(())
}

/// A line of a task's log, such as `  2026-01-31T12:00:00.250Z WARN  stderr: out of ideas`.
fn said(line: &Value) -> String {
    let context = line.get("context").and_then(Value::as_str).unwrap_or_default();
    let separator = if context.is_empty() { "" } else { ": " };
    let level = field(line, "level").to_uppercase();
    format!("  {} {level:5} {context}{separator}{}", shown(line, "at"), field(line, "message"))
}

async fn watch(id: &str, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
    let mut said = String::new();
    let task = client.follow(id, |task| {
        if console.format == Format::Json {
            return Ok::<(), Failed>(console.json_line(task)?);
        }
        let line = change(task);
        // Not every change of a document is one that people can see.
        if line != said {
            console.line(&line)?;
            said = line;
        }
        Ok(())
    });
    match field(&task.await?, "status").as_str() {
        "succeeded" => Ok(()),
        // The last line says why.
        _ => Err(Failed::new(Exit::TaskFailed, "")),
    }
}

/// A task's state on one line, such as `running, attempt 2: 50 % of the pages`.
fn change(task: &Value) -> String {
    let status = field(task, "status");
    let mut line = match status.as_str() {
        "queued" => status.clone(),
        _ => format!("{status}, attempt {}", field(task, "attempt")),
    };
    let progress = task.get("progress").filter(|progress| status == "running" && progress.is_object());
    let failure = task.get("failure").filter(|failure| failure.is_object());
    if let Some(progress) = progress {
        let percent = progress.get("fraction").and_then(Value::as_f64).unwrap_or(0.0) * 100.0;
        line = format!("{line}: {percent:.0} % {}", one_line(&field(progress, "note")));
    } else if let Some(failure) = failure {
        line = format!("{line}: {}: {}", field(failure, "type"), one_line(&field(failure, "message")));
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_a_line_with_its_time() {
        let line =
            serde_json::json!({ "at": 1_795_442_888_559_i64, "level": "warn", "context": "stderr", "message": "no" });
        assert_eq!(said(&line), "  2026-11-23T14:08:08.559Z WARN  stderr: no");
        let line = serde_json::json!({ "at": 0, "level": "critical", "context": "", "message": "a" });
        assert_eq!(said(&line), "  1970-01-01T00:00:00.000Z CRITICAL a");
    }

    #[test]
    fn a_change_is_one_line() {
        let failure = serde_json::json!({ "type": "trapped", "message": "un\nreachable" });
        for (task, line) in [
            (serde_json::json!({ "status": "queued", "attempt": 1, "failure": null }), "queued"),
            (serde_json::json!({ "status": "running", "attempt": 2, "progress": null }), "running, attempt 2"),
            (
                serde_json::json!({
                    "status": "running", "attempt": 2, "progress": { "fraction": 0.5, "note": "half" }, "failure": failure,
                }),
                "running, attempt 2: 50 % half",
            ),
            (
                serde_json::json!({ "status": "running", "attempt": 1, "progress": { "fraction": 1, "note": "" } }),
                "running, attempt 1: 100 %",
            ),
            (
                serde_json::json!({ "status": "retrying", "attempt": 1, "failure": failure }),
                "retrying, attempt 1: trapped: un reachable",
            ),
        ] {
            assert_eq!(change(&task), line);
        }
    }
}
