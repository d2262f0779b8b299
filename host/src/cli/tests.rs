//! The commands against the real HTTP API on a port of its own, over the API's own doubles.

mod dead_letters;
mod lifecycle;
mod secrets;
mod tasks;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::*;
use crate::catalog::{Following, HostSeen};
use crate::config::MapVars;
use crate::http::tests::Doubles;
use crate::http::tests::doubles::Published;
use crate::http::{Auth, Config as HttpConfig, Token};

/// Remembers how hosts were started.
#[derive(Default)]
struct Started(Mutex<Vec<(Config, Option<PathBuf>)>>, Mutex<Option<StartError>>);

#[async_trait::async_trait(?Send)]
impl Composition for Started {
    async fn serve(&self, config: Config) -> Result<(), StartError> {
        self.0.lock().unwrap().push((config, None));
        self.1.lock().unwrap().take().map_or(Ok(()), Err)
    }

    async fn dev(&self, config: Config, dir: PathBuf) -> Result<(), StartError> {
        self.0.lock().unwrap().push((config, Some(dir)));
        Ok(())
    }

    fn compile(&self, arguments: &CompileArguments) -> u8 {
        u8::try_from(arguments.memory_bytes).unwrap()
    }
}

/// How a command ended and what it printed.
struct Ended {
    status: u8,
    out: Vec<u8>,
    err: String,
}

impl Ended {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap()
    }
}

async fn run_in(vars: &[(&str, &str)], composition: &dyn Composition, arguments: &[&str]) -> Ended {
    let words = std::iter::once("agent-host").chain(arguments.iter().copied()).map(OsString::from);
    let cli = Cli::try_parse_from(words).unwrap();
    let (mut out, mut err, vars) = (Vec::new(), Vec::new(), MapVars::new(vars));
    let mut console = Console { out: &mut out, err: &mut err, vars: &vars, format: Format::Text };
    let status = run(cli, composition, &mut console).await;
    Ended { status, out, err: String::from_utf8(err).unwrap() }
}

/// A host's API, and the way to run commands against it.
struct Host {
    doubles: Doubles,
    published: Published,
    url: String,
}

impl Host {
    async fn start(auth: Auth) -> Self {
        let (doubles, published) = Doubles::new();
        let router = doubles.router(HttpConfig { auth, ..HttpConfig::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { doubles, published, url }
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        run_in(&[("AGENT_HOST_URL", &self.url)], &Started::default(), arguments).await
    }

    /// Runs a command while a host ends the task that it submits.
    async fn run_while(&mut self, arguments: &[&str], end: impl FnOnce(&Doubles, &crate::task::TaskId)) -> Ended {
        let (doubles, published) = (self.doubles.clone(), &mut self.published);
        let vars = [("AGENT_HOST_URL", self.url.as_str())];
        let composition = Started::default();
        let ending = async {
            let (task, _) = published.recv().await.unwrap();
            end(&doubles, &task.id);
        };
        tokio::join!(run_in(&vars, &composition, arguments), ending).0
    }
}

#[tokio::test]
async fn submit_prints_the_id_and_sends_what_was_given() {
    let mut host = Host::start(Auth::default()).await;
    let ended = host
        .run(&["submit", "echo", "{\"a\":1}", "--header", "color=red", "--delay", "5s", "--max-attempts", "2"])
        .await;
    assert_eq!(ended.status, 0, "{}", ended.err);
    let (task, delay) = host.published.recv().await.unwrap();
    assert_eq!(ended.text().trim(), task.id.as_str());
    assert_eq!((task.content_type.as_str(), &task.body[..]), ("application/json", &b"{\"a\":1}"[..]));
    assert_eq!(task.headers, [("color".to_owned(), "red".to_owned())]);
    assert_eq!((delay, task.attempts_max), (Some(std::time::Duration::from_secs(5)), Some(2)));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\xff\x00").unwrap();
    let body = format!("@{}", file.path().display());
    let keyed = ["submit", "echo", &body, "--idempotency-key", "k", "--format", "json"];
    let first = host.run(&keyed).await.json();
    assert_eq!(first, host.run(&keyed).await.json());
    let (task, _) = host.published.recv().await.unwrap();
    assert_eq!((task.content_type.as_str(), &task.body[..]), ("application/octet-stream", &b"\xff\x00"[..]));
}

#[tokio::test]
async fn submit_and_wait_prints_the_output_as_it_is() {
    let mut host = Host::start(Auth::default()).await;
    let wait = ["submit", "echo", "x", "--wait"];
    let ended = host.run_while(&wait, |doubles, id| doubles.succeed(id, Some("image/png"), b"\x89PNG\x00")).await;
    assert_eq!((ended.status, ended.out.as_slice(), ended.err.as_str()), (0, &b"\x89PNG\x00"[..], ""));
    let ended = host.run_while(&wait, |doubles, id| doubles.fail(id, "timed-out", "limits.timeout = 1s")).await;
    assert_eq!((ended.status, ended.out.len()), (1, 0));
    let said = ended.err.strip_prefix("agent-host: task ").unwrap();
    assert!(said.contains(" failed: timed-out: ") && said.contains("limits.timeout"), "{}", ended.err);
    let json = ["submit", "echo", "x", "--wait", "--format", "json"];
    let ended = host.run_while(&json, |doubles, id| doubles.fail(id, "rejected", "no")).await;
    assert_eq!((ended.status, &ended.json()["failure"]["message"]), (1, &"no".into()), "{}", ended.err);
    let ended = host.run_while(&json, |doubles, id| doubles.succeed(id, None, b"done")).await;
    assert_eq!((&ended.json()["status"], &ended.json()["output"]), (&"succeeded".into(), &"done".into()));
}

#[tokio::test]
async fn waiting_goes_on_by_events_where_the_host_answers_early() {
    /// The host holds no request once it drains, so the client has to ask again; the task ends after that.
    async fn run(end: impl FnOnce(&Doubles, &crate::task::TaskId) + Send + 'static) -> Ended {
        let mut host = Host::start(Auth::default()).await;
        let later = |doubles: &Doubles, id: &crate::task::TaskId| {
            let (doubles, id) = (doubles.clone(), id.clone());
            tokio::spawn(async move {
                doubles.until_followed(&id, true).await;
                doubles.draining.cancel();
                doubles.until_followed(&id, false).await;
                end(&doubles, &id);
            });
        };
        host.run_while(&["submit", "echo", "x", "--wait"], later).await
    }
    let ended = run(|doubles, id| doubles.succeed(id, None, b"late")).await;
    assert_eq!((ended.status, ended.text()), (0, "late"));
    let ended = run(|doubles, id| doubles.fail(id, "trapped", "unreachable")).await;
    assert!(ended.status == 1 && ended.err.contains("trapped: unreachable"), "{}", ended.err);
}

#[tokio::test]
async fn mistakes_say_what_to_do() {
    let host = Host::start(Auth { submit: Some(Token::new("s")), ..Auth::default() }).await;
    let ended = host.run(&["submit", "echo", "x"]).await;
    assert_eq!(ended.status, 64);
    assert!(
        ended.err.contains("submit token") && ended.err.contains("--token or in AGENT_HOST_SUBMIT_TOKEN"),
        "{}",
        ended.err
    );
    assert_eq!(host.run(&["submit", "echo", "x", "--token", "s"]).await.status, 0);
    let vars =
        [("AGENT_HOST_URL", host.url.as_str()), ("AGENT_HOST_SUBMIT_TOKEN", "s"), ("AGENT_HOST_ADMIN_TOKEN", "a")];
    assert_eq!(run_in(&vars, &Started::default(), &["submit", "echo", "x"]).await.status, 0);
    let ended = host.run(&["submit", "ecko", "x", "--token", "s"]).await;
    assert_eq!(ended.status, 64);
    let expected = "agent-host: No such agent: \"ecko\"; did you mean \"echo\"? Deployed are: echo\n";
    assert_eq!(ended.err, expected);
    let ended = host.run(&["tasks", "show", "nothing", "--token", "s"]).await;
    assert!(ended.status == 64 && ended.err.contains("nothing"), "{}", ended.err);

    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let ended = host.run(&["--url", &url, "agents", "list"]).await;
    assert_eq!(ended.status, 69);
    assert!(ended.err.contains("agent-host dev") && ended.err.contains("/ (Connection refused"), "{}", ended.err);
    assert!(!ended.err.contains("error sending"), "{}", ended.err);
    let ended = host.run(&["--url", "127.0.0.1:8080", "agents", "list"]).await;
    assert!(ended.status == 64 && ended.err.contains("http://"), "{}", ended.err);
    assert_eq!(host.run(&["submit", "echo", "@/nonexistent", "--token", "s"]).await.status, 64);
}

#[tokio::test]
async fn something_else_than_a_host_is_recognised() {
    let router = axum::Router::new().fallback(|| async { (axum::http::StatusCode::NOT_FOUND, "<html>nginx</html>") });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let ended = run_in(&[], &Started::default(), &["--url", &url, "agents", "list"]).await;
    assert!(ended.status == 70 && ended.err.contains("is it the address of one"), "{}", ended.err);
}

#[tokio::test]
async fn agents_and_tasks_are_shown() {
    let mut host = Host::start(Auth::default()).await;
    let list = host.run(&["agents", "list"]).await;
    assert!(list.text().starts_with("NAME") && list.text().contains("\necho"), "{}", list.text());
    assert_eq!(host.run(&["agents", "list", "--format", "json"]).await.json()[0]["name"], "echo");
    let shown = host.run(&["agents", "show", "echo"]).await;
    assert!(shown.text().contains("limits:\n  concurrency: 256"), "{}", shown.text());
    host.run(&["submit", "echo", "x"]).await;
    let (task, _) = host.published.recv().await.unwrap();
    let shown = host.run(&["tasks", "show", task.id.as_str()]).await;
    assert!(shown.text().contains("status: queued"), "{}", shown.text());
}

fn agent_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "manifest_version = 1\n[agent]\nname = \"echo\"\nmodule = \"e.wasm\"\n\
                    [grants]\nsql = [{ name = \"main\", migrations = \"m\" }]\n";
    std::fs::write(folder.path().join("agent.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("e.wasm"), b"\0asm").unwrap();
    std::fs::create_dir(folder.path().join("m")).unwrap();
    std::fs::write(folder.path().join("m/0001_a.sql"), "CREATE TABLE a ()").unwrap();
    folder
}

#[tokio::test]
async fn deploy_uploads_the_folder() {
    let host = Host::start(Auth::default()).await;
    let folder = agent_folder();
    let path = folder.path().to_str().unwrap();
    let ended = host.run(&["deploy", path]).await;
    assert_eq!(
        (ended.status, ended.text()),
        (0, "echo is deployed as revision 3 (active), sha256:3\nh:8080: serves it\n"),
        "{}",
        ended.err
    );
    let (agent, upload, activation) = host.doubles.lock().deploys.pop().unwrap();
    assert_eq!((agent.as_str(), &upload.module[..]), ("echo", &b"\0asm"[..]));
    assert_eq!(activation, crate::agents::Activation::Always);
    assert_eq!(upload.migrations[0].name, "0001_a.sql");
    assert_eq!(upload.migrations[0].sql, "CREATE TABLE a ()");
    assert_eq!(host.run(&["deploy", path, "--no-activate", "--format", "json"]).await.json()["status"], "inactive");
    host.doubles.lock().agents[0].hosts = vec![
        HostSeen { host: "good:1".to_owned(), following: Some(Following { change: 2, error: None }) },
        HostSeen {
            host: "bad:1".to_owned(),
            following: Some(Following { change: 2, error: Some("no disk".to_owned()) }),
        },
    ];
    let ended = host.run(&["deploy", path]).await;
    assert!(ended.text().ends_with("good:1: serves it\nbad:1: cannot: no disk\n"), "{}", ended.text());
    assert!(ended.status == 69 && ended.err.contains("bad:1 could not follow"), "{}", ended.err);
    let ended = host.run(&["deploy", path, "--format", "json"]).await;
    assert_eq!((ended.status, &ended.json()["hosts"][1]["error"]), (69, &"no disk".into()));
    assert_eq!(host.run(&["deploy", path, "--no-wait"]).await.status, 0);
    host.doubles.lock().agents[0].hosts[1].following = None;
    let ended = host.run(&["deploy", path, "--wait-max", "0"]).await;
    assert!(ended.status == 69 && ended.err.contains("bad:1 did not follow within 0 s"), "{}", ended.err);
    let above = tempfile::tempdir().unwrap();
    std::fs::create_dir(above.path().join("one")).unwrap();
    std::fs::copy(folder.path().join("agent.toml"), above.path().join("one/agent.toml")).unwrap();
    let ended = host.run(&["deploy", above.path().to_str().unwrap()]).await;
    assert!(ended.status == 64 && ended.err.trim_end().ends_with("/one"), "{}", ended.err);
    std::fs::remove_file(folder.path().join("e.wasm")).unwrap();
    let ended = host.run(&["deploy", path]).await;
    assert!(ended.status == 64 && ended.err.contains("build it first"), "{}", ended.err);
}

#[tokio::test]
async fn serve_and_dev_hand_their_configuration_over() {
    let started = Started::default();
    let vars = [("AMQP_URL", "amqp://rabbit"), ("HOME", "/h")];
    let ended = run_in(&vars, &started, &["serve", "--listen", "127.0.0.1:9", "--memory-budget", "1GB"]).await;
    assert_eq!(ended.status, 0, "{}", ended.err);
    assert_eq!(run_in(&vars, &started, &["dev", "agents/echo"]).await.status, 0);
    {
        let configs = started.0.lock().unwrap();
        assert_eq!(configs[0].0.listen.port(), 9);
        assert_eq!(configs[0].0.broker.to_string(), "amqp://rabbit");
        assert_eq!(
            (&configs[1].0.broker, configs[1].1.as_deref()),
            (&Backend::Embedded, Some(Path::new("agents/echo")))
        );
    }
    let ended = run_in(&vars, &started, &["serve", "--listen", "0.0.0.0:9", "--log", "xml"]).await;
    assert_eq!(ended.status, 64);
    assert!(ended.err.contains("AGENT_HOST_ADMIN_TOKEN") && ended.err.contains("text or json"), "{}", ended.err);
    *started.1.lock().unwrap() = Some(StartError::Unavailable(vec!["the broker".to_owned(), "the port".to_owned()]));
    let ended = run_in(&vars, &started, &["serve"]).await;
    assert!(ended.status == 69 && ended.err.contains("the broker\nthe port"), "{}", ended.err);
    *started.1.lock().unwrap() = Some(StartError::Internal(anyhow::anyhow!("inner").context("outer")));
    let ended = run_in(&vars, &started, &["serve"]).await;
    assert!(ended.status == 70 && ended.err.contains("outer: inner"), "{}", ended.err);
}

#[tokio::test]
async fn the_configuration_is_shown_even_where_it_is_wrong() {
    let vars = [("AGENT_HOST_ADMIN_TOKEN", "hunter2"), ("AMQP_URL", "amqp://u:hunter2@h"), ("AGENT_HOST_LOG", "xml")];
    let ended = run_in(&vars, &Started::default(), &["config", "show"]).await;
    assert_eq!(ended.status, 64);
    assert!(ended.text().contains("amqp://u:***@h") && ended.text().contains("AMQP_URL"), "{}", ended.text());
    assert!(ended.err.contains("AGENT_HOST_LOG"), "{}", ended.err);
    assert!(!ended.text().contains("hunter2") && !ended.err.contains("hunter2"));
    let json = run_in(&[], &Started::default(), &["config", "show", "--format", "json"]).await.json();
    assert_eq!((&json[0]["name"], &json[0]["source"]), (&"listen".into(), &"default".into()));
}

#[tokio::test]
async fn doctor_finds_what_is_wrong_and_says_what_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let busy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let vars = [("AGENT_HOST_DATA_DIR", folder.path().to_str().unwrap()), ("AGENT_HOST_LISTEN", address.as_str())];
    let ended = run_in(&vars, &Started::default(), &["doctor"]).await;
    assert_eq!(ended.status, 69, "{}", ended.text());
    assert!(
        ended.text().contains(&format!("PROBLEM  listen: {address}")) && ended.text().contains("mend: "),
        "{}",
        ended.text()
    );
    drop(busy);
    let ended = run_in(&vars, &Started::default(), &["doctor", "--format", "json"]).await;
    assert_eq!(ended.status, 0, "{}", ended.text());
    let broker = ended.json().as_array().unwrap().iter().find(|finding| finding["check"] == "broker").cloned();
    assert_eq!(broker.unwrap()["level"], "ok");
    let ended = run_in(&[("AGENT_HOST_LOG", "xml")], &Started::default(), &["doctor"]).await;
    assert_eq!(ended.status, 64, "{}", ended.text());
}

#[tokio::test]
async fn the_topology_is_printed_for_those_who_declare_it() {
    let vars = [("AMQP_URL", "amqp://h/v%2f1")];
    let named = run_in(&vars, &Started::default(), &["topology", "voter"]).await;
    assert_eq!(named.status, 0, "{}", named.err);
    let mut expected = Vec::new();
    let plan = crate::broker::topology::plan(&[crate::task::AgentName::parse("voter").unwrap()]);
    crate::broker::topology::print(&plan, &mut expected).unwrap();
    assert_eq!(named.text().as_bytes(), expected);

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("unbuilt")).unwrap();
    let manifest = "manifest_version = 1\n[agent]\nname = \"echo\"\nmodule = \"e.wasm\"\n";
    std::fs::write(folder.path().join("unbuilt/agent.toml"), manifest).unwrap();
    let in_folder = ["topology", "--format", "json", "--agents-dir", folder.path().to_str().unwrap()];
    let json = run_in(&vars, &Started::default(), &in_folder).await.json();
    let queues = json["queues"].as_array().unwrap();
    let queue = queues.iter().find(|queue| queue["name"] == "agent.echo").unwrap();
    assert_eq!((&queue["vhost"], &queue["durable"]), (&"v/1".into(), &true.into()));
    assert_eq!(queue["arguments"]["x-delivery-limit"], 1_000_000);
    assert_eq!(queue["arguments"]["x-queue-type"], "quorum");
    assert_eq!(json["exchanges"][0]["type"], "direct");
    let binding = json["bindings"].as_array().unwrap().iter().find(|binding| binding["destination"] == "agent.echo");
    assert_eq!(binding.unwrap()["routing_key"], "echo");

    let bare = run_in(&[], &Started::default(), &["topology"]).await;
    assert!(
        bare.status == 0 && bare.err.contains("--agents-dir") && !bare.text().contains("queue agent."),
        "{}",
        bare.err
    );
    assert_eq!(run_in(&[], &Started::default(), &["topology", "Not A Name"]).await.status, 64);
}

#[tokio::test]
async fn completions_are_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = run_in(&[], &Started::default(), &["completions", shell]).await;
        assert!(ended.status == 0 && ended.text().contains("dev") && ended.text().contains("memory-budget"), "{shell}");
        for word in ["dead-letters", "redrive", "cancel", "watch"] {
            assert!(ended.text().contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn the_command_line_is_consistent_and_mistakes_are_64() {
    Cli::command().debug_assert();
    let parsed = |arguments: &[&str]| {
        parse(std::iter::once("agent-host").chain(arguments.iter().copied()).map(OsString::from)).map(|_| ())
    };
    assert_eq!(parsed(&["serve", "--lisen", "x"]), Err(64));
    assert_eq!(parsed(&["serve", "--admin-token", "x"]), Err(64));
    assert_eq!(parsed(&["frobnicate"]), Err(64));
    assert_eq!(parsed(&[]), Err(64));
    assert_eq!(parsed(&["--version"]), Err(0));
    assert_eq!(parsed(&["serve", "--log-filter", "debug"]), Ok(()));
}
