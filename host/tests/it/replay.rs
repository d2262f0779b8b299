//! Recordings of failures, and the same runs again from them on a machine without a host.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

use super::common::{Host, HostBuilder, agent_host, agents_dir};
use super::fleet::Fleet;
use super::hostile::guests::{End, GUESTS, Leave};
use super::scripts::{script, sql, unique};

/// What an operator set for the agents here. In the forms that it may travel in it is nowhere in a recording.
const SECRET: &str = "correct \"horse\" battery/staple";

/// Recordings that the test is to have met again.
const FAILURES_MIN: usize = 100;
/// Submits more than any recording holds.
const TOO_MUCH: &str = "tasks-bodies-together-huge";

fn variable(agent: &str) -> String {
    format!("AGENT_HOST_SECRET_{}_API_KEY", agent.to_ascii_uppercase())
}

fn manifest(name: &str, time: &str, rest: &str) -> String {
    format!(
        "manifest_version = 1\n[agent]\nname = \"{name}\"\nmodule = \"m.wasm\"\n[limits]\nmemory = \"16MiB\"\n\
         output = \"64KiB\"\nlog = \"16KiB\"\ntimeout = \"{time}\"\ncpu = \"{time}\"\n[retry]\nmax_attempts = 1\n{rest}"
    )
}

const RECORD: &str = "[record]\n";
const GRANTS: &str =
    "[grants]\nsql = [{ name = \"main\" }]\nkey_value = [\"default\"]\ncache = true\ntasks = [\"echo\"]\n";
const ENTRUSTED: &str = "[secrets]\nrequired = [\"api-key\"]\n";

fn fixtures() -> PathBuf {
    agents_dir().join("fixtures/manifest/fixtures.wasm")
}

async fn deploy(host: &Host, name: &str, manifest: &str, module: &Path) -> reqwest::Response {
    let module = std::fs::read(module).unwrap_or_else(|error| panic!("{}: {error}", module.display()));
    host.deploy(name, manifest, module).await
}

/// Deploys the module of the fixtures under a manifest of the test's own.
async fn deploy_fixtures(host: &Host, name: &str, rest: &str) {
    let deployed = deploy(host, name, &manifest(name, "20s", rest), &fixtures()).await;
    let (status, text) = (deployed.status(), deployed.text().await.unwrap());
    assert!(status.is_success(), "{status} {text}");
}

/// Has a task fail, and gives its recording.
async fn recorded(host: &Host, name: &str, body: &str) -> (Value, Vec<u8>) {
    let id = host.submit(name, "", body.to_owned()).await;
    let task = host.finished(&id).await;
    assert_eq!(task["status"], "failed", "{name} {body}: {task}");
    let answer = host.get(&format!("/v1/dead-letters/{id}/recording")).await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        if answer.status() == 200 { "application/x-ndjson" } else { "application/problem+json" }
    );
    let (status, bytes) = (answer.status(), answer.bytes().await.unwrap().to_vec());
    assert_eq!(status, 200, "{name} {body}: {}", String::from_utf8_lossy(&bytes));
    (task, bytes)
}

/// What a replay said: status, standard output, standard error.
async fn sim(args: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-sim"));
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-sim");
    command.arg("replay").args(args).env("AGENT_SIM_CACHE_DIR", cache).envs(environment.iter().copied());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Replays a recording with a module, under the recorded manifest; as a document.
async fn replayed(recording: &[u8], module: &Path) -> Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), recording).unwrap();
    let args = [file.path().to_str().unwrap(), "--module", module.to_str().unwrap(), "--format", "json"];
    let (status, out, err) = sim(&args, &[]).await;
    let document: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let is_same = ["same", "same-until-stopped"].contains(&document["verdict"].as_str().unwrap());
    assert_eq!(status == 0, is_same, "{status} {document}");
    document
}

/// What is wrong with a replay of a failure, if anything is.
async fn misfit(host: &Host, name: &str, body: &str, module: &Path) -> Option<String> {
    let (task, recording) = recorded(host, name, body).await;
    let again = replayed(&recording, module).await;
    let failure = &task["failure"];
    let told = (failure["type"] == "timed-out").then_some("same-until-stopped");
    let is_same = again["verdict"] == "same" || told.is_some_and(|told| again["verdict"] == told);
    let recorded_same = again["recorded"]["outcome"] == failure["type"];
    // Bit for bit, but for where time ran out.
    let ended_same = told.is_some() || again["here"] == again["recorded"];
    (!is_same || !recorded_same || !ended_same).then(|| format!("{name} {body}: {failure} {again}"))
}

/// A server that answers with what it was sent.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let sent = String::from_utf8_lossy(&request[..length]).into_owned();
                let answer = format!("HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\n\r\n{sent}", sent.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

/// A server that answers requests by twos.
async fn server_of_pairs() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut waiting = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            waiting.push(stream);
            if waiting.len() == 2 {
                for mut stream in waiting.drain(..) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        }
    });
    port
}

/// Scripts that use everything, and then fail.
fn scripts(port: u16) -> Vec<String> {
    let refuse = json!("refuse");
    let failing = |steps: &[Value]| script(&[steps, std::slice::from_ref(&refuse)].concat());
    vec![
        failing(&[json!("random"), json!("random"), json!("now"), json!("random")]),
        failing(&[json!({ "cache": "a" }), json!({ "cache": "a" }), json!({ "key-value": "b" })]),
        failing(&[sql("CREATE TABLE IF NOT EXISTS t (id text)"), sql("INSERT INTO t VALUES ($1)")]),
        failing(&[
            json!({ "rows": "SELECT n, n::float8 / 7, now(), md5(random()::text), NULL::text FROM generate_series(1, 700) n" }),
        ]),
        failing(&[json!({ "rows": "SELECT repeat('x', 1000) FROM generate_series(1, 300)" }), json!("random")]),
        script(&[json!({ "rows": "SELECT 1 / (n - 30) FROM generate_series(1, 100) n" })]),
        script(&[sql("no SQL at all")]),
        script(&[sql("DO $$ BEGIN RAISE EXCEPTION 'because of %', now(); END $$")]),
        script(&[json!({ "cache": "c" }), sql("INSERT INTO nowhere VALUES (1)")]),
        failing(&[json!({ "submit": "echo" }), json!({ "submit": "echo" })]),
        failing(&[json!({ "get": format!("http://localhost:{port}/") }), json!("now")]),
        script(&[json!({ "get": "http://localhost:1/" })]),
        failing(&[json!({ "secret": "api-key" }), json!({ "cache": "d" })]),
        failing(&[json!({ "login": { "url": format!("http://localhost:{port}/"), "secret": "api-key" } })]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_failures_of_the_fixtures_replay_identically() {
    let name = unique("replayed");
    let fleet = Fleet::start().await;
    let host = fleet.host().env(&variable(&name), SECRET).start().await;
    let echo = agents_dir().join("echo");
    let deployed =
        deploy(&host, "echo", &std::fs::read_to_string(echo.join("agent.toml")).unwrap(), &echo.join("echo.wasm"))
            .await;
    assert_eq!(deployed.status(), 201, "{}", deployed.text().await.unwrap());
    let mut misfits = Vec::new();
    let mut met = 0;
    for (guest, leave, end) in GUESTS {
        if !matches!(end, End::Fails(..)) || *guest == TOO_MUCH {
            continue;
        }
        let (time, rest) = match leave {
            Leave::Tight => ("1s", String::new()),
            Leave::Patient => ("2m", String::new()),
            Leave::Granted => ("2m", GRANTS.to_owned()),
            Leave::Entrusted => ("2m", ENTRUSTED.to_owned()),
        };
        let module = agents_dir().join("fixtures/hostile").join(format!("{guest}.wasm"));
        let deployed = deploy(&host, &name, &manifest(&name, time, &format!("{rest}{RECORD}")), &module).await;
        assert_eq!(deployed.status(), 201, "{guest}: {}", deployed.text().await.unwrap());
        misfits.extend(misfit(&host, &name, "task", &module).await.map(|misfit| format!("{guest}: {misfit}")));
        met += 1;
    }
    let port = server().await;
    let grants = format!("{GRANTS}allowed_outbound_hosts = [\"http://localhost:*\"]\n{ENTRUSTED}{RECORD}");
    deploy_fixtures(&host, &name, &grants).await;
    for body in scripts(port) {
        misfits.extend(misfit(&host, &name, &body, &fixtures()).await);
        met += 1;
    }
    assert!(misfits.is_empty(), "{} of {met}:\n{}", misfits.len(), misfits.join("\n"));
    assert!(met >= FAILURES_MIN, "{met}");
    drop(host);
    fleet.end().await;
}

#[tokio::test]
async fn a_recording_has_no_secret_and_its_replay_may_be_given_it() {
    let name = unique("entrusted");
    let port = server().await;
    // Alone: other hosts of a fleet would miss the secret.
    let host = HostBuilder::bare().env(&variable(&name), SECRET).start().await;
    let grants =
        format!("[grants]\ncache = true\nallowed_outbound_hosts = [\"http://localhost:*\"]\n{ENTRUSTED}{RECORD}");
    deploy_fixtures(&host, &name, &grants).await;
    let login = json!({ "login": { "url": format!("http://localhost:{port}/"), "secret": "api-key" } });
    // Sent, stored, told by others, and in what the task was given.
    let steps = [login, json!({ "secret": "api-key" }), json!({ "say": SECRET }), json!("refuse")];
    let (_, recording) = recorded(&host, &name, &script(&steps)).await;
    let text = String::from_utf8(recording.clone()).unwrap();
    for form in ["correct", "battery", "horse", "staple"] {
        assert!(!text.contains(form), "{form}: {text}");
    }
    assert!(text.contains("secret:api-key."), "{text}");
    let again = replayed(&recording, &fixtures()).await;
    assert_eq!(again["verdict"], "same", "{again}");

    let folder = TempDir::new().unwrap();
    let file = folder.path().join("recording");
    std::fs::write(&file, &recording).unwrap();
    let fixtures = fixtures();
    let args = [file.to_str().unwrap(), "--module", fixtures.to_str().unwrap()];
    let (status, out, err) = sim(&args, &[]).await;
    assert!(status == 0 && err.contains(&format!("set {} to give", variable(&name))), "{out}{err}");
    let (status, out, err) = sim(&args, &[(&variable(&name), SECRET)]).await;
    assert!(status == 0 && out.starts_with("same: ") && !err.contains("stand-in"), "{out}{err}");
    // Another value is another run, if what is compared shows it; here it shows in the length alone.
    let (status, out, _) = sim(&args, &[(&variable(&name), "another one of them")]).await;
    assert!(status == 1 && out.starts_with("different "), "{out}");
}

#[tokio::test]
async fn another_module_shows_the_first_difference() {
    let name = unique("changed");
    let host = HostBuilder::bare().start().await;
    deploy_fixtures(&host, &name, &format!("[grants]\ncache = true\n{RECORD}")).await;
    let body = script(&[json!({ "cache": "a" }), json!({ "cache": "b" }), json!("refuse")]);
    let (_, recording) = recorded(&host, &name, &body).await;
    let folder = TempDir::new().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let fixtures = fixtures();
    let module = fixtures.to_str().unwrap();
    // A module that does something else with the same task: here the recording is changed, which is the same difference.
    let text = String::from_utf8(recording.clone()).unwrap();
    let changed = text.replace("[\"b\",1]", "[\"c\",1]");
    assert_ne!(changed, text);
    let (status, out, _) = sim(&[&file("call", changed.as_bytes()), "--module", module], &[]).await;
    assert_eq!(status, 1, "{out}");
    assert_eq!(
        out,
        "different at call 2\n  recorded: cache.increment [\"c\",1]\n  here:     cache.increment [\"b\",1]\n"
    );
    let more: Vec<&str> = text.lines().filter(|line| !line.contains("[\"b\",1]")).collect();
    let (status, out, _) = sim(&[&file("more", more.join("\n").as_bytes()), "--module", module], &[]).await;
    assert!(status == 1 && out.contains("different after the last recorded call, 1"), "{out}");
    let end = text.replace("\"outcome\":\"rejected\"", "\"outcome\":\"trapped\"");
    let (status, out, _) = sim(&[&file("end", end.as_bytes()), "--module", module], &[]).await;
    assert!(status == 1 && out.starts_with("different at the end, after 2 calls"), "{out}");
    // Another module, with its own manifest beside it: it answers and calls nobody.
    let echo = agents_dir().join("echo");
    let (status, out, err) = sim(&[&file("same", &recording), "--agent", echo.to_str().unwrap()], &[]).await;
    assert!(err.contains("another module: recorded sha256:"), "{err}");
    assert!(
        status == 1
            && out
                .contains("different at call 1\n  recorded: cache.increment [\"a\",1]\n  here:     the end, succeeded"),
        "{out}"
    );
    let (status, _, err) = sim(&[&file("half", &recording[..recording.len() / 2]), "--module", module], &[]).await;
    assert!(status == 64 && err.contains("recording"), "{err}");
}

#[tokio::test]
async fn what_is_too_large_is_left_out_and_said_to_be() {
    let name = unique("large");
    let host = HostBuilder::bare().start().await;
    let rest = "[grants]\ncache = true\n[record]\non = \"failure\"\nsize = \"16KiB\"\n";
    deploy_fixtures(&host, &name, rest).await;
    let steps: Vec<Value> = (0..300).map(|_| json!({ "cache": "a".repeat(30) })).chain([json!("refuse")]).collect();
    let (_, recording) = recorded(&host, &name, &script(&steps)).await;
    assert!(recording.len() < 64 << 10, "{}", recording.len());
    let again = replayed(&recording, &fixtures()).await;
    assert_eq!(again["verdict"], "same-as-far-as-recorded", "{again}");
    assert!(again["detail"].as_str().unwrap().contains("record.size = 16KiB"), "{again}");
}

#[tokio::test]
async fn what_was_there_first_is_so_again() {
    let name = unique("raced");
    let host = HostBuilder::bare().start().await;
    let grants = format!("[grants]\nallowed_outbound_hosts = [\"http://localhost:*\"]\n{RECORD}");
    deploy_fixtures(&host, &name, &grants).await;
    let race = |port: u16, ms: u64| json!({ "race": { "url": format!("http://localhost:{port}"), "ms": ms } });
    let (pairs, prompt) = (server_of_pairs().await, server().await);
    // An answer that came after the timer, which a replay has at once; one that came before it; and one that nobody waits for.
    for (step, first) in [(race(pairs, 20), 1), (race(prompt, 3_600_000), 0)] {
        let (task, recording) = recorded(&host, &name, &script(&[step, json!("refuse")])).await;
        let said = task["failure"]["message"].as_str().unwrap();
        assert!(said.ends_with(&format!(", {first}]")), "{task}");
        let again = replayed(&recording, &fixtures()).await;
        assert_eq!((&again["verdict"], again["here"]["message"].as_str()), (&json!("same"), Some(said)), "{again}");
    }
    let (task, recording) =
        recorded(&host, &name, &script(&[json!({ "abandon": format!("http://localhost:{pairs}") }), json!("refuse")]))
            .await;
    assert_eq!(task["failure"]["message"], "[1]", "{task}");
    let again = replayed(&recording, &fixtures()).await;
    assert_eq!((&again["verdict"], &again["here"]["message"]), (&json!("same"), &json!("[1]")), "{again}");
}

#[tokio::test]
async fn one_without_a_recording_says_so_and_the_command_line_gets_the_others() {
    let (silent, name) = (unique("silent"), unique("told"));
    let host = HostBuilder::bare().start().await;
    deploy_fixtures(&host, &silent, "").await;
    deploy_fixtures(&host, &name, RECORD).await;
    let id = host.submit(&silent, "", r#"{"do":"reject"}"#).await;
    assert_eq!(host.finished(&id).await["status"], "failed");
    let answer = host.get(&format!("/v1/dead-letters/{id}/recording")).await.unwrap();
    assert_eq!(answer.status(), 404);
    let problem: Value = answer.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("[record]"), "{problem}");
    let unknown = host.get("/v1/dead-letters/nobody/recording").await.unwrap();
    assert_eq!(unknown.status(), 404);

    let id = host.submit(&name, "", r#"{"do":"trap"}"#).await;
    assert_eq!(host.finished(&id).await["status"], "failed");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("recording");
    let mut command = agent_host();
    command.args(["dead-letters", "recording", &id, "-o"]).arg(&file).env("AGENT_HOST_URL", host.url(""));
    let done = command.output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let again = replayed(&std::fs::read(&file).unwrap(), &fixtures()).await;
    assert_eq!((&again["verdict"], &again["here"]["outcome"]), (&json!("same"), &json!("trapped")), "{again}");
}
