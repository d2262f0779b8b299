//! The HTTP API, as a client sees it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::StatusCode;
use serde::Deserialize;

use crate::audit::Listed;
use crate::work::AGENT;

/// How long an answer is waited for. A host whose connections stall keeps a request open, and the client goes elsewhere.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The longest `Retry-After` that is honoured in full: the run should not sleep through its own faults.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

/// What became of a submission.
pub(super) enum Answer {
    /// Promised, under these ids.
    Accepted(Vec<String>),
    /// Refused for a reason that is not the weather: a mistake, here or there.
    Refused(String),
    /// The key stands for another submission.
    Conflict(String),
    /// It may run or not; send it again after the wait, where one was named.
    Unknown { wait: Option<Duration> },
}

/// What became of the wish to change a task: to cancel it, or to have it run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is done.
    Done,
    /// There is nothing to change: it has ended.
    Ended,
    /// The host knows nothing of it.
    Unknown,
    /// It is refused for a reason that no sound host gives.
    Refused(String),
    /// Nobody knows; ask again.
    Unclear,
}

/// What is to be sent in one request.
pub(super) struct Sending<'a> {
    pub(super) bodies: &'a [String],
    pub(super) is_batch: bool,
    pub(super) key: Option<&'a str>,
    pub(super) delay_ms: u64,
    pub(super) attempts_max: Option<u32>,
}

#[derive(Deserialize)]
struct Accepted {
    id: String,
}

#[derive(Deserialize)]
struct BatchAccepted {
    ids: Vec<String>,
}

/// A client of all hosts.
pub(crate) struct Client {
    inner: reqwest::Client,
    /// `http://address` of each.
    hosts: Vec<String>,
    /// The last request that nobody answered clearly, and what came instead.
    unclear: Mutex<String>,
}

impl Client {
    /// A client of the hosts at these addresses.
    pub(crate) fn new(hosts: Vec<String>) -> Result<Self> {
        // Built without a default provider; one that is installed already serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let inner = reqwest::Client::builder().timeout(ANSWER_LIMIT).no_proxy().build();
        Ok(Self { inner: inner.context("could not make an HTTP client")?, hosts, unclear: Mutex::default() })
    }

    /// The client itself.
    pub(crate) fn inner(&self) -> &reqwest::Client {
        &self.inner
    }

    fn host(&self, index: usize) -> &str {
        self.hosts.get(index % self.hosts.len().max(1)).map_or("", String::as_str)
    }

    /// Submits something to a host, counted round.
    pub(super) async fn submit(&self, host: usize, sending: &Sending<'_>) -> Answer {
        let Sending { bodies, is_batch, key, delay_ms, attempts_max } = *sending;
        let path = if is_batch { "tasks:batch" } else { "tasks" };
        let mut request = self.inner.post(format!("{}/v1/agents/{AGENT}/{path}", self.host(host)));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if delay_ms > 0 {
            request = request.query(&[("delay", format!("{delay_ms}ms"))]);
        }
        if let Some(attempts) = attempts_max {
            request = request.query(&[("max_attempts", attempts)]);
        }
        let content_type = if is_batch { "application/x-ndjson" } else { "application/json" };
        let request = request.header("content-type", content_type).body(bodies.join("\n"));
        let Some((status, wait, text)) = self.answer(request).await else { return Answer::Unknown { wait: None } };
        match status {
            StatusCode::ACCEPTED => accepted(&text, is_batch),
            StatusCode::UNPROCESSABLE_ENTITY => Answer::Conflict(text),
            status if is_passing(status) => Answer::Unknown { wait },
            status => Answer::Refused(format!("{status}: {text}")),
        }
    }

    /// Status, `Retry-After` and text of the answer. An answer that broke off says nothing.
    async fn answer(&self, request: reqwest::RequestBuilder) -> Option<(StatusCode, Option<Duration>, String)> {
        let asked = request.try_clone().and_then(|request| request.build().ok());
        let asked = asked.map(|request| format!("{} {}", request.method(), request.url())).unwrap_or_default();
        let answer = async {
            let response = request.send().await?;
            let (status, wait) = (response.status(), retry_after(&response));
            Ok::<_, reqwest::Error>((status, wait, response.text().await?))
        };
        let unclear = |what: String| {
            *self.unclear.lock().unwrap_or_else(PoisonError::into_inner) = format!("{asked}: {what}");
        };
        match answer.await {
            Ok((status, wait, text)) => {
                if is_passing(status) {
                    unclear(format!("{status} {text}"));
                }
                Some((status, wait, text))
            }
            Err(error) => {
                unclear(format!("{error:#}"));
                None
            }
        }
    }

    /// The last request that nobody answered clearly, and what came instead.
    pub(crate) fn last_unclear(&self) -> String {
        self.unclear.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cancels a task.
    pub(super) async fn cancel(&self, host: usize, id: &str) -> Change {
        self.change(self.inner.delete(format!("{}/v1/tasks/{id}", self.host(host)))).await
    }

    /// Has a task run again that is a dead letter.
    pub(super) async fn redrive(&self, host: usize, id: &str) -> Change {
        self.change(self.inner.post(format!("{}/v1/dead-letters/{id}/redrive", self.host(host)))).await
    }

    async fn change(&self, request: reqwest::RequestBuilder) -> Change {
        let Some((status, _, text)) = self.answer(request).await else { return Change::Unclear };
        match status {
            StatusCode::ACCEPTED => Change::Done,
            StatusCode::CONFLICT => Change::Ended,
            StatusCode::NOT_FOUND => Change::Unknown,
            status if is_passing(status) => Change::Unclear,
            status => Change::Refused(format!("{status}: {text}")),
        }
    }

    /// All dead letters, as one host lists them, page by page.
    pub(crate) async fn dead_letters(&self, host: usize) -> Result<Vec<Listed>> {
        #[derive(Deserialize)]
        struct Failure {
            #[serde(rename = "type")]
            kind: String,
        }
        #[derive(Deserialize)]
        struct Item {
            id: String,
            generation: i32,
            failure: Failure,
            attempts: i64,
        }
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Item>,
            next: Option<String>,
        }
        let mut listed = Vec::new();
        let mut cursor = None;
        loop {
            let request = self.inner.get(format!("{}/v1/dead-letters", self.host(host)));
            let request = request.query(&[("agent", AGENT), ("limit", "1000")]);
            let request = cursor.iter().fold(request, |request, cursor| request.query(&[("cursor", cursor)]));
            let page: Page = request.send().await?.error_for_status()?.json().await?;
            listed.extend(page.items.into_iter().map(|item| Listed {
                id: item.id,
                reason: item.failure.kind,
                attempts: item.attempts,
                generation: item.generation,
            }));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(listed);
            }
        }
    }

    /// The status of a task, as one host tells it.
    pub(crate) async fn status(&self, host: usize, id: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct View {
            status: String,
        }
        let answer = self.inner.get(format!("{}/v1/tasks/{id}", self.host(host))).send().await?;
        let http_status = answer.status();
        if http_status.is_success() { Ok(answer.json::<View>().await?.status) } else { Ok(http_status.to_string()) }
    }
}

/// Whether a sound host may answer another time.
fn is_passing(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn accepted(text: &str, is_batch: bool) -> Answer {
    let ids = if is_batch {
        serde_json::from_str(text).map(|BatchAccepted { ids }| ids)
    } else {
        serde_json::from_str(text).map(|Accepted { id }| vec![id])
    };
    ids.map_or_else(|error| Answer::Refused(format!("202 with {text:?}: {error}")), Answer::Accepted)
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}
