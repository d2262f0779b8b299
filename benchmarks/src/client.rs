//! HTTP for the benchmarks: one connection, kept open, one request after the other.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a task may take that is waited for, as its sender says it.
const WAIT: &str = "wait=60";
/// Separates the parts of a form; no module holds it.
const BOUNDARY: &str = "----------part-of-a-benchmarks-form";

/// A connection to a server.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

/// What a server answered.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The answer, where it has this status.
    ///
    /// # Errors
    /// It has another one; the error quotes the body.
    pub fn expect(self, status: StatusCode) -> Result<Self> {
        let said = String::from_utf8_lossy(&self.body);
        ensure!(self.status == status, "answered with {} instead of {status}: {}", self.status, said.trim());
        Ok(self)
    }

    /// Its body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).context("the answer is not JSON")
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // What breaks it breaks the request under way too, which tells.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, host: address.to_string() })
    }

    /// Makes a request and reads the whole answer.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes> + Send,
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
    }

    /// Reads a path.
    ///
    /// # Errors
    /// The connection breaks, or the server refuses.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.ask(Method::GET, path, &[], Bytes::new()).await?.expect(StatusCode::OK)
    }

    /// Runs a task to its end; the answer is its result.
    ///
    /// # Errors
    /// It does not succeed.
    pub async fn run(&mut self, agent: &str, body: impl Into<Bytes> + Send) -> Result<Answer> {
        let path = format!("/v1/agents/{agent}/tasks");
        self.ask(Method::POST, &path, &[("prefer", WAIT)], body).await?.expect(StatusCode::OK)
    }

    /// Submits a batch, one body a line. Returns when the host has taken all of it.
    ///
    /// # Errors
    /// The host's refusal.
    pub async fn submit_batch(&mut self, agent: &str, query: &str, lines: String) -> Result<()> {
        let path = format!("/v1/agents/{agent}/tasks:batch{query}");
        self.ask(Method::POST, &path, &[], lines).await?.expect(StatusCode::ACCEPTED).map(drop)
    }

    /// Deploys a revision of an agent that is new.
    ///
    /// # Errors
    /// The host's refusal.
    pub async fn deploy(&mut self, agent: &str, manifest: &str, module: &[u8]) -> Result<()> {
        let part = |name: &str| format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"");
        let head = format!(
            "{}\r\n\r\n{manifest}\r\n{}; filename=\"module.wasm\"\r\ncontent-type: application/wasm\r\n\r\n",
            part("manifest"),
            part("module")
        );
        let body = [head.as_bytes(), module, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat();
        let form = format!("multipart/form-data; boundary={BOUNDARY}");
        let path = format!("/v1/agents/{agent}/revisions");
        let answer = self.ask(Method::POST, &path, &[(CONTENT_TYPE.as_str(), &form)], body).await?;
        answer.expect(StatusCode::CREATED).map(drop)
    }

    /// Removes an agent, whatever it has to do.
    ///
    /// # Errors
    /// The host's refusal.
    pub async fn remove(&mut self, agent: &str) -> Result<()> {
        let path = format!("/v1/agents/{agent}?force=true");
        self.ask(Method::DELETE, &path, &[], Bytes::new()).await?.expect(StatusCode::NO_CONTENT).map(drop)
    }
}
