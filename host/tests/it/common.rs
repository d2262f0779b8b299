//! What every test here needs: a host on the real servers, and a client of its HTTP API.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use agent_host::broker::conformance::keep_looking;
pub(crate) use agent_host::broker::conformance::wait_until;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// How long anything here may take before it counts as hung: far beyond what it takes on a slow machine.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// A service's URL from the environment.
pub(crate) fn service(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run cargo xtask test, or set it to a server's URL"))
}

/// The folder of the sample agents.
pub(crate) fn agents_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../agents")
}

/// The program with nothing of this process's environment that configures it.
pub(crate) fn agent_host() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-host"));
    for (name, _) in std::env::vars() {
        if name.starts_with("AGENT_HOST_")
            || ["AMQP_URL", "DATABASE_URL", "REDIS_URL", "RUST_LOG", "CARGO_TARGET_DIR"].contains(&name.as_str())
        {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A host in the making.
pub(crate) struct HostBuilder {
    command: Command,
    data: TempDir,
    client: reqwest::Client,
}

/// A running host.
pub(crate) struct Host {
    child: Child,
    url: String,
    client: reqwest::Client,
    log: mpsc::UnboundedReceiver<String>,
    seen: Vec<String>,
    _data: TempDir,
}

impl HostBuilder {
    /// A host on the real servers, without agents of its own. What earlier tests deployed is there, and is loaded first: such
    /// hosts keep nothing but compiled code, and share it, so that a module is compiled once and not by every host after it.
    pub(crate) fn real() -> Self {
        Self::bare()
            .env("AGENT_HOST_DATA_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/hosts"))
            .env("AMQP_URL", &service("AMQP_URL"))
            .env("DATABASE_URL", &service("DATABASE_URL"))
            .env("REDIS_URL", &service("REDIS_URL"))
    }

    /// A host with everything embedded, without agents.
    pub(crate) fn bare() -> Self {
        Self::embedded(&["serve"])
    }

    /// A host that develops the agents of this folder.
    pub(crate) fn dev(folder: &Path) -> Self {
        Self::embedded(&["dev", folder.to_str().unwrap()])
    }

    fn embedded(arguments: &[&str]) -> Self {
        // The client is built without a default; a second test of the process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let data = TempDir::new().unwrap();
        let mut command = agent_host();
        command.args(arguments).env("AGENT_HOST_LISTEN", "127.0.0.1:0").env("AGENT_HOST_DATA_DIR", data.path());
        Self { command, data, client: reqwest::Client::new() }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Asked by a client that trusts this authority alone.
    pub(crate) fn trusting(mut self, authority_pem: &str) -> Self {
        let authority = reqwest::Certificate::from_pem(authority_pem.as_bytes()).unwrap();
        self.client = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
        self
    }

    /// Deploys all sample agents at the start.
    pub(crate) fn with_samples(self) -> Self {
        let dir = agents_dir();
        self.env("AGENT_HOST_AGENTS_DIR", dir.to_str().unwrap())
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(mut self) -> Child {
        self.command.spawn().unwrap()
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Host {
        let mut host = self.listening().await;
        let ready = keep_looking(async || host.get("/readyz").await.ok().filter(|answer| answer.status() == 200));
        if tokio::time::timeout(HANG, ready).await.is_err() {
            let why = host.get("/readyz").await.unwrap().text().await.unwrap();
            panic!("the host is not ready after {HANG:?}: {why}\n{}", host.log());
        }
        host
    }

    /// Starts it and waits until it answers, ready or not.
    pub(crate) async fn listening(mut self) -> Host {
        let mut child = self.command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, mut log) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // The receiver goes with the test.
                let _ = sender.send(line);
            }
        });
        let mut seen = Vec::new();
        let url = tokio::time::timeout(HANG, async {
            loop {
                let Some(line) = log.recv().await else { panic!("the host ended at its start:\n{}", seen.join("\n")) };
                let url = line.split_once("listening on ").map(|(_, rest)| {
                    // Nothing of what may colour it.
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || ".:/".contains(*c)).collect::<String>()
                });
                seen.push(line);
                if let Some(url) = url {
                    // A certificate names the host.
                    return url.replace("https://127.0.0.1", "https://localhost");
                }
            }
        })
        .await
        .expect("the host says where it listens");
        Host { child, url, client: self.client, log, seen, _data: self.data }
    }
}

impl Host {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The same host, asked with this token.
    pub(crate) fn with_token(mut self, token: &str) -> Self {
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.client = reqwest::Client::builder().default_headers(headers).build().unwrap();
        self
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        self.client.get(self.url(path)).send().await
    }

    /// Submits a body and waits for the result, over HTTP.
    pub(crate) async fn run(
        &self,
        agent: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Response {
        self.client
            .post(self.url(&format!("/v1/agents/{agent}/tasks")))
            .header("content-type", content_type)
            .header("prefer", "wait=60")
            .body(body)
            .send()
            .await
            .unwrap()
    }

    /// Submits JSON and gives the JSON that the agent answered with.
    pub(crate) async fn run_json(&self, agent: &str, body: &Value) -> Value {
        let answer = self.run(agent, "application/json", body.to_string()).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{agent} {body}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{agent} answered {text:?}: {error}"))
    }

    /// Submits without waiting and gives the task's id.
    pub(crate) async fn submit(&self, agent: &str, query: &str, body: impl Into<reqwest::Body>) -> String {
        let answer =
            self.client.post(self.url(&format!("/v1/agents/{agent}/tasks{query}"))).body(body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 202, "{text}");
        let accepted: Value = serde_json::from_str(&text).unwrap();
        accepted["id"].as_str().unwrap().to_owned()
    }

    /// The state of a task.
    pub(crate) async fn task(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/tasks/{id}")).await.unwrap();
        assert_eq!(answer.status(), 200, "task {id}");
        answer.json().await.unwrap()
    }

    /// Waits until a task has ended, and gives its state.
    pub(crate) async fn finished(&self, id: &str) -> Value {
        wait_until("the task has ended", async || {
            let task = self.task(id).await;
            ["succeeded", "failed", "cancelled"].contains(&task["status"].as_str().unwrap()).then_some(task)
        })
        .await
    }

    /// Deploys from a folder's files.
    pub(crate) async fn deploy(&self, agent: &str, manifest: &str, module: Vec<u8>) -> reqwest::Response {
        let form = reqwest::multipart::Form::new()
            .part("module", reqwest::multipart::Part::bytes(module).file_name("module.wasm"))
            .text("manifest", manifest.to_owned());
        self.client.post(self.url(&format!("/v1/agents/{agent}/revisions"))).multipart(form).send().await.unwrap()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.ended().await
    }

    /// Sends SIGTERM.
    pub(crate) fn ask_to_stop(&self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        // SAFETY: kill() takes two integers; the child has not been waited for, so the pid is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(HANG, self.child.wait()).await.expect("the host ends").unwrap()
    }

    /// The most memory that it has had resident so far, in KiB.
    pub(crate) fn memory_peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
        peak.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    /// Ends it, and gives everything that it has logged.
    pub(crate) async fn log_to_its_end(&mut self) -> String {
        self.terminate().await;
        while let Some(line) = self.log.recv().await {
            self.seen.push(line);
        }
        self.seen.join("\n")
    }

    /// Everything that it has logged so far.
    pub(crate) fn log(&mut self) -> String {
        while let Ok(line) = self.log.try_recv() {
            self.seen.push(line);
        }
        self.seen.join("\n")
    }
}
