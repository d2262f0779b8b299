//! Waiting until every host of the fleet serves what was deployed.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::Format;
use super::client::{Client, ClientError};
use super::failed::{Exit, Failed};
use super::output::{Console, one_line};
use super::show::field;

/// How often the hosts are looked at. They tell the fleet at once when they have followed.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whether and how long a command waits for the fleet.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Wait {
    /// Do not wait until every host of the fleet serves it
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait for the hosts, which may have to compile the module each
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait_max: u64,
}

/// Not every host serves it.
#[derive(Debug)]
pub(super) struct Lagging {
    /// The hosts, as the API shows them.
    hosts: Vec<Value>,
    /// Why, for people. Nothing where the host could not be asked, which `failed` tells.
    reason: String,
    failed: Option<Failed>,
}

impl From<Lagging> for Failed {
    fn from(lagging: Lagging) -> Self {
        lagging.failed.unwrap_or_else(|| Self::new(Exit::Unavailable, lagging.reason))
    }
}

/// The hosts of the fleet, once all of them serve the agent as it is; nothing where nobody waits.
pub(super) type Followed = Result<Option<Vec<Value>>, Lagging>;

/// Where one host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Serves,
    Behind,
    Failed,
}

fn standing(host: &Value, change: u64) -> Standing {
    let at = host.get("change").and_then(Value::as_u64);
    match (at, host.get("error").and_then(Value::as_str)) {
        (Some(at), None) if at >= change => Standing::Serves,
        (Some(at), Some(_)) if at >= change => Standing::Failed,
        _ => Standing::Behind,
    }
}

impl Wait {
    /// Waits until every host that is there serves the agent as the catalog has it now, and prints a line for
    /// each that does, or cannot.
    pub(super) async fn until_followed(&self, agent: &str, client: &Client, console: &mut Console<'_>) -> Followed {
        if self.no_wait {
            return Ok(None);
        }
        let until = Instant::now() + Duration::from_secs(self.wait_max);
        let mut told = BTreeSet::new();
        let unreachable = |failed: Failed| Lagging { hosts: Vec::new(), reason: String::new(), failed: Some(failed) };
        loop {
            let asked = client.json(client.request(Method::GET, &["v1", "agents", agent])).await;
            let document = match asked {
                // Behind a load balancer it may be a host that has not heard of the agent.
                Err(ClientError::Refused(refused)) if refused.status == 503 && Instant::now() < until => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                asked => asked.map_err(|error| unreachable(error.into()))?,
            };
            let change = document.get("change").and_then(Value::as_u64).unwrap_or(0);
            let hosts = document.get("hosts").and_then(Value::as_array).cloned().unwrap_or_default();
            for host in &hosts {
                let line = match standing(host, change) {
                    Standing::Serves => format!("{}: serves it", field(host, "host")),
                    Standing::Failed => format!("{}: cannot: {}", field(host, "host"), one_line(&field(host, "error"))),
                    Standing::Behind => continue,
                };
                if console.format == Format::Text && told.insert(line.clone()) {
                    console.line(&line).map_err(|error| unreachable(error.into()))?;
                }
            }
            let names = |of: Standing| -> Vec<String> {
                hosts.iter().filter(|host| standing(host, change) == of).map(|host| field(host, "host")).collect()
            };
            let (behind, failed) = (names(Standing::Behind), names(Standing::Failed));
            let is_settled = behind.is_empty() && !hosts.is_empty();
            if is_settled && failed.is_empty() {
                return Ok(Some(hosts));
            }
            if is_settled || Instant::now() >= until {
                let reason = reason(agent, &failed, &behind, self.wait_max);
                return Err(Lagging { hosts, reason, failed: None });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn reason(agent: &str, failed: &[String], behind: &[String], wait_max: u64) -> String {
    let mut parts = Vec::new();
    if !failed.is_empty() {
        parts.push(format!(
            "{} could not follow, and serves what it had; it tries again, and is not ready until it succeeds \
             (agent-host rollback {agent} goes back)",
            failed.join(", ")
        ));
    }
    if !behind.is_empty() {
        parts.push(format!("{} did not follow within {wait_max} s (--wait-max)", behind.join(", ")));
    }
    if parts.is_empty() {
        parts.push(format!("no host said within {wait_max} s that it serves {agent}"));
    }
    parts.join("; ")
}

/// Adds the hosts to what is printed as JSON.
pub(super) fn add_hosts(deployed: &mut Value, followed: &Followed) {
    let hosts = match followed {
        Ok(None) => return,
        Ok(Some(hosts)) => hosts,
        Err(lagging) => &lagging.hosts,
    };
    if let Some(fields) = deployed.as_object_mut() {
        fields.insert("hosts".to_owned(), Value::Array(hosts.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_host_serves_what_it_is_at_without_an_error() {
        for (host, expected) in [
            (json!({ "host": "a", "change": 3, "error": null }), Standing::Serves),
            (json!({ "host": "a", "change": 4, "error": null }), Standing::Serves),
            (json!({ "host": "a", "change": 2, "error": null }), Standing::Behind),
            (json!({ "host": "a", "change": 2, "error": "no" }), Standing::Behind),
            (json!({ "host": "a", "change": 3, "error": "no" }), Standing::Failed),
            (json!({ "host": "a", "change": null, "error": null }), Standing::Behind),
        ] {
            assert_eq!(standing(&host, 3), expected, "{host}");
        }
        let text = reason("voter", &["a".to_owned()], &["b".to_owned()], 9);
        assert!(
            text.starts_with("a could not follow") && text.ends_with("b did not follow within 9 s (--wait-max)"),
            "{text}"
        );
    }
}
