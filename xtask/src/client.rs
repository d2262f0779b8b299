//! The part of the host's HTTP API that the commands use.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Every call used here answers at once; this only bounds a host that hangs.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// For a task's answer; less than that.
const WAIT: &str = "wait=25";

/// A client of one host.
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
}

/// Where a task stands, as `GET /v1/tasks/{id}` tells it.
pub(crate) struct Status {
    /// `queued`, `running`, `retrying`, `succeeded`, `failed` or `cancelled`.
    pub(crate) status: String,
    /// The whole answer.
    pub(crate) record: Value,
}

impl Status {
    /// Whether nothing more will happen to it.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "cancelled")
    }

    /// A number from `usage`.
    pub(crate) fn usage(&self, key: &str) -> Option<u64> {
        self.record.get("usage")?.get(key)?.as_u64()
    }

    /// Why it failed.
    pub(crate) fn failure(&self) -> String {
        let part = |key| self.record.get("failure").and_then(|failure| failure.get(key)).and_then(Value::as_str);
        format!("{}: {}", part("type").unwrap_or(&self.status), part("message").unwrap_or("no message"))
    }
}

impl Client {
    /// A client of the host at `address`.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            // Problem documents say more than a status code; they are read below.
            .http_status_as_error(false)
            .timeout_global(Some(CALL_LIMIT))
            // A proxy in the environment is not meant for this machine itself.
            .proxy(None)
            .build();
        Self { agent: config.new_agent(), base: format!("http://{address}") }
    }

    /// Whether the host consumes tasks for every agent.
    pub(crate) fn is_ready(&self) -> bool {
        self.agent.get(format!("{}/readyz", self.base)).call().is_ok_and(|response| response.status() == 200)
    }

    /// The names of the deployed agents.
    pub(crate) fn agents(&self) -> Result<Vec<String>> {
        let answer = self.read(self.agent.get(format!("{}/v1/agents", self.base)).call(), 200)?;
        let items = answer.get("items").unwrap_or(&answer).as_array().context("GET /v1/agents gave no list")?;
        let name =
            |item: &Value| item.get("agent").or_else(|| item.get("name")).and_then(Value::as_str).map(str::to_owned);
        Ok(items.iter().filter_map(name).collect())
    }

    /// What the host measures, in Prometheus's text format.
    pub(crate) fn metrics(&self) -> Result<String> {
        let answer = self.agent.get(format!("{}/metrics", self.base)).call();
        let mut response = answer.with_context(|| format!("no answer from {}", self.base))?;
        response.body_mut().read_to_string().context("an answer broke off")
    }

    /// Hands in a task; gives its id.
    pub(crate) fn submit(&self, agent: &str, content_type: &str, body: &[u8]) -> Result<String> {
        let request = self.agent.post(format!("{}/v1/agents/{agent}/tasks", self.base));
        let answer = self.read(request.header("Content-Type", content_type).send(body), 202)?;
        Ok(answer.get("id").and_then(Value::as_str).context("the answer to a submission has no `id`")?.to_owned())
    }

    /// Hands in a task and waits for its answer.
    pub(crate) fn run(&self, agent: &str, content_type: &str, body: &[u8]) -> Result<Value> {
        let request = self.agent.post(format!("{}/v1/agents/{agent}/tasks", self.base));
        let request = request.header("Content-Type", content_type).header("Prefer", WAIT);
        self.read(request.send(body), 200)
    }

    /// Where a task stands.
    pub(crate) fn task(&self, id: &str) -> Result<Status> {
        let record = self.read(self.agent.get(format!("{}/v1/tasks/{id}", self.base)).call(), 200)?;
        let status = record.get("status").and_then(Value::as_str).context("a task has no `status`")?.to_owned();
        Ok(Status { status, record })
    }

    fn read(&self, result: Result<ureq::http::Response<ureq::Body>, ureq::Error>, expected: u16) -> Result<Value> {
        let mut response = result.with_context(|| format!("no answer from {}", self.base))?;
        let status = response.status();
        let text = response.body_mut().read_to_string().context("an answer broke off")?;
        if status.as_u16() != expected {
            bail!("the host answered {status} where {expected} was expected: {}", text.trim());
        }
        serde_json::from_str(&text).context("the host answered something that is not JSON")
    }
}
