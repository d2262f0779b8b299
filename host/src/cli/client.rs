//! A client of a running host's HTTP API.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::task::Failure;

/// Most items of a page that a host gives.
const PAGE_ITEMS_MAX: usize = 1_000;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{0}")]
    Url(String),
    #[error(
        "no host answers at {url} ({cause}); start one with `agent-host dev` or `agent-host serve`, or name another with \
         --url"
    )]
    Unreachable { url: Url, cause: String },
    #[error("{0}")]
    Refused(Box<Refused>),
    #[error("{url} does not answer like an agent-host; is it the address of one?")]
    Protocol {
        url: Url,
        #[source]
        source: Option<reqwest::Error>,
    },
}

/// An error answer of the host.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Refused {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    pub(crate) status: u16,
    detail: String,
    #[serde(default)]
    pub(crate) failure: Option<Failure>,
    /// The task, where the answer is about one.
    #[serde(skip)]
    pub(crate) task_id: Option<String>,
    #[serde(default)]
    errors: Vec<String>,
    /// Names of the deployed agents, where the one that was asked for is none of them.
    #[serde(skip)]
    known_agents: Option<Vec<String>>,
    /// Which agent was asked for, where it is none of those.
    #[serde(skip)]
    unknown_agent: String,
    /// The variable whose token would do, where one is missing.
    #[serde(skip)]
    token_variable: &'static str,
}

impl Refused {
    fn is_unknown_agent(&self) -> bool {
        self.kind.ends_with(":unknown-agent")
    }

    /// Whether it is about the one dead letter alone: it is not there (any more), or cannot be sent again.
    pub(crate) fn is_about_one_dead_letter(&self) -> bool {
        self.kind.ends_with(":unknown-dead-letter") || self.kind.ends_with(":unsendable")
    }

    fn fmt_unknown_agent(&self, known: &[String], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// Below this two names have little in common.
        const SIMILAR: f64 = 0.8;
        let asked = &self.unknown_agent;
        if known.is_empty() {
            return write!(f, "{}: {asked:?}; none is deployed: agent-host deploy PATH", self.title);
        }
        write!(f, "{}: {asked:?}", self.title)?;
        let scored = known.iter().map(|name| (strsim::jaro_winkler(asked, name), name));
        let near = scored.filter(|(score, _)| *score >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
        match near {
            Some((_, name)) => write!(f, "; did you mean {name:?}? Deployed are: {}", known.join(", ")),
            None => write!(f, "; deployed are: {}", known.join(", ")),
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(known) = &self.known_agents {
            return self.fmt_unknown_agent(known, f);
        }
        if self.errors.is_empty() {
            write!(f, "{}: {}", self.title, self.detail)?;
        } else {
            write!(f, "{}:", self.title)?;
            self.errors.iter().try_for_each(|error| write!(f, "\n  - {error}"))?;
        }
        if matches!(self.status, 401 | 403) {
            // A token that is good, though not for this, is the narrower one.
            let variable = if self.status == 401 { self.token_variable } else { "AGENT_HOST_ADMIN_TOKEN" };
            write!(f, "; pass it with --token or in {variable}")?;
        }
        Ok(())
    }
}

impl From<Refused> for ClientError {
    fn from(refused: Refused) -> Self {
        Self::Refused(Box::new(refused))
    }
}

/// A client of one host.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    token_variable: &'static str,
}

impl Client {
    /// A client of the host at `base`. `token_variable` is where its user is told to put a token.
    pub(crate) fn new(base: &str, token: Option<String>, token_variable: &'static str) -> Result<Self, ClientError> {
        let expected = "expected such as http://127.0.0.1:8080";
        let base =
            Url::parse(base).map_err(|error| ClientError::Url(format!("--url {base:?}: {error}: {expected}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(ClientError::Url(format!("--url {base}: {expected}")));
        }
        // An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT);
        if base.scheme() == "http" {
            // The machine's certificates are not needed, and may not be there.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        let loopback = base.host().is_some_and(|host| match host {
            url::Host::Domain(name) => name == "localhost",
            url::Host::Ipv4(address) => address.is_loopback(),
            url::Host::Ipv6(address) => address.is_loopback(),
        });
        if loopback {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| ClientError::Url(format!("--url {base}: no client can be made: {error}")))?;
        Ok(Self { http, base, token, token_variable })
    }

    /// A request to a path given by its segments, which are escaped here.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; an error status is an error here.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|source| self.failed(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let agent = asked_agent(response.url());
        let task_id = response.headers().get("task-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let bytes = response.bytes().await.map_err(|source| self.failed(source))?;
        let refused = serde_json::from_slice::<Refused>(&bytes);
        let mut refused = refused.map_err(|_| ClientError::Protocol { url: self.base.clone(), source: None })?;
        (refused.task_id, refused.unknown_agent, refused.token_variable) = (task_id, agent, self.token_variable);
        if refused.is_unknown_agent() {
            refused.known_agents = Box::pin(self.agents()).await.ok().map(|agents| {
                agents.iter().filter_map(|agent| agent.get("name")?.as_str().map(str::to_owned)).collect()
            });
        }
        Err(refused.into())
    }

    fn failed(&self, source: reqwest::Error) -> ClientError {
        let url = self.base.clone();
        if source.is_builder() {
            return ClientError::Url(format!("the request cannot be made of what was given: {source}"));
        }
        if source.is_connect() || source.is_timeout() || source.is_request() || source.is_body() {
            // The layers of the HTTP client in between say nothing to people.
            ClientError::Unreachable { url, cause: innermost(&source).to_string() }
        } else {
            ClientError::Protocol { url, source: Some(source) }
        }
    }

    /// Sends a request and reads the JSON answer.
    pub(crate) async fn json(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let response = self.send(request).await?;
        let protocol = |source| ClientError::Protocol { url: self.base.clone(), source: Some(source) };
        response.json().await.map_err(protocol)
    }

    /// Every deployed agent, all pages.
    pub(crate) async fn agents(&self) -> Result<Vec<Value>, ClientError> {
        Ok(self.pages(&["v1", "agents"], &[], usize::MAX).await?.0)
    }

    /// The first items of a list, at most `items_max` of them, and whether there are more.
    pub(crate) async fn pages(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        items_max: usize,
    ) -> Result<(Vec<Value>, bool), ClientError> {
        let mut all = Vec::new();
        let mut cursor = None::<String>;
        loop {
            let limit = items_max.saturating_sub(all.len()).min(PAGE_ITEMS_MAX);
            let mut request = self.request(Method::GET, segments).query(query).query(&[("limit", limit)]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let mut page = self.json(request).await?;
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                all.extend(items);
            }
            let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if next.is_none() || next == cursor || all.len() >= items_max {
                return Ok((all, next.is_some()));
            }
            cursor = next;
        }
    }

    /// A task's document.
    pub(crate) async fn task(&self, id: &str) -> Result<Value, ClientError> {
        self.json(self.request(Method::GET, &["v1", "tasks", id])).await
    }

    /// Returns when a task has ended, with its document.
    pub(crate) async fn ended(&self, id: &str) -> Result<Value, ClientError> {
        self.follow(id, |_| Ok(())).await
    }

    /// Tells of each change of a task that is seen, the state that it is in now and its end included, and returns its
    /// document once it has ended.
    pub(crate) async fn follow<E: From<ClientError>>(
        &self,
        id: &str,
        mut changed: impl FnMut(&Value) -> Result<(), E>,
    ) -> Result<Value, E> {
        /// Between two looks, where a stream of events ends early: the host drains, or a proxy cut it off.
        const AGAIN_AFTER: Duration = Duration::from_millis(500);
        let mut last = Value::Null;
        let mut news = |task: Value, last: &mut Value| {
            if task == *last {
                return Ok(());
            }
            *last = task;
            changed(last)
        };
        loop {
            let mut stream = self.send(self.request(Method::GET, &["v1", "tasks", id, "events"])).await?;
            let mut events = Events::default();
            while let Ok(Some(chunk)) = stream.chunk().await {
                for task in events.read(&chunk) {
                    news(task, &mut last)?;
                }
            }
            if !has_ended(&last) {
                news(self.task(id).await?, &mut last)?;
            }
            if has_ended(&last) {
                return Ok(last);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// The rest of an answer's body.
    pub(crate) async fn bytes(&self, response: Response) -> Result<bytes::Bytes, ClientError> {
        response.bytes().await.map_err(|source| self.failed(source))
    }
}

/// Whether a task's document tells of its end.
fn has_ended(task: &Value) -> bool {
    matches!(task.get("status").and_then(Value::as_str), Some("succeeded" | "failed" | "cancelled"))
}

/// Server-Sent Events as they arrive: each is a line that holds a JSON document.
#[derive(Default)]
struct Events {
    /// The beginning of a line whose end has not arrived.
    begun: Vec<u8>,
}

impl Events {
    /// The documents that this chunk completes.
    fn read(&mut self, chunk: &[u8]) -> Vec<Value> {
        let mut documents = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.begun);
                // Other lines are comments that keep the connection busy.
                documents
                    .extend(line.strip_prefix(b"data:").and_then(|data| serde_json::from_slice::<Value>(data).ok()));
            }
        }
        documents
    }
}

/// Which agent a request was about: a part of its path, or of its query.
fn asked_agent(url: &Url) -> String {
    let of_path = url.path_segments().and_then(|path| path.skip_while(|part| *part != "agents").nth(1));
    let of_query = || url.query_pairs().find(|(name, _)| name == "agent").map(|(_, agent)| agent.into_owned());
    of_path.map(str::to_owned).or_else(of_query).unwrap_or_default()
}

fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    error.source().map_or(error, innermost)
}

/// Whether an answer says that the task's result is not there yet.
pub(crate) fn is_accepted(response: &Response) -> bool {
    response.status() == StatusCode::ACCEPTED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = b": hello\n\ndata: {\"status\":\"running\"}\n\n:\n\ndata:{\"status\":\"failed\"}\r\n\ndata: {\"sta";
        for size in 1..=text.len() {
            let mut events = Events::default();
            let documents: Vec<Value> = text.chunks(size).flat_map(|chunk| events.read(chunk)).collect();
            let statuses: Vec<_> = documents.iter().map(|document| document["status"].clone()).collect();
            assert_eq!(statuses, ["running", "failed"], "{size}");
        }
    }

    #[test]
    fn the_agent_asked_for_is_in_the_path_or_the_query() {
        for (url, agent) in [
            ("http://h/v1/agents/echo/tasks?agent=x", "echo"),
            ("http://h/v1/dead-letters:drop?limit=1&agent=a%20b", "a b"),
            ("http://h/v1/dead-letters", ""),
        ] {
            assert_eq!(asked_agent(&Url::parse(url).unwrap()), agent, "{url}");
        }
    }
}
