//! `docs/writing-agents.md`: every command of it prints what the page shows.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::common::{Host, HostBuilder, agent_host, agents_dir};
use super::dev::shown;
use super::fleet::Fleet;
use super::sim::cache_dir;

/// The manifest's part that the page shows.
const RECORD: &str = "\n[record]\non = \"failure\"\n";
/// What the page has an author change in a module, on both sides of the same length.
const CHANGED: [&[u8]; 2] = [b"WHERE name = $1", b"WHERE name ~ $1"];

fn root() -> PathBuf {
    agents_dir().join("..").canonicalize().unwrap()
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/writing-agents.md")).unwrap()
}

/// The part of the page under a heading.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading} is gone"));
    rest.split("\n#").next().unwrap()
}

/// Its blocks of code: the language of each, and its text.
fn blocks(section: &str) -> Vec<(&str, &str)> {
    section.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap()).collect()
}

/// Commands, each with what follows it.
fn commands(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push((command.to_owned(), String::new())),
            (None, Some((_, output))) => *output += &format!("{line}\n"),
            (None, None) => panic!("an output without a command: {text}"),
        }
    }
    found
}

fn documented(section: &str) -> Vec<(String, String)> {
    blocks(section).into_iter().filter(|(kind, _)| *kind == "console").flat_map(|(_, text)| commands(text)).collect()
}

/// A text with every number as `N`: how long something took is the machine's. A digest is one, cut short or not.
fn plain(text: &str) -> String {
    let mut shown = String::new();
    for (place, part) in text.trim_end().split("sha256:").enumerate() {
        let is_of_a_digest = |letter: char| letter.is_ascii_hexdigit() || letter == '…';
        let part = if place == 0 { part } else { part.trim_start_matches(is_of_a_digest) };
        if place > 0 {
            shown += "sha256:D";
        }
        for letter in part.chars() {
            let is_of_a_number = letter.is_ascii_digit() || (letter == '.' && shown.ends_with('N'));
            if !is_of_a_number {
                shown.push(letter);
            } else if !shown.ends_with('N') {
                shown.push('N');
            }
        }
    }
    shown
}

/// What a command prints, to standard error first. What a compiler says is left out.
async fn printed(command: &str, folder: &Path, url: &str) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_agent-host")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([programs.to_owned()].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).env("AGENT_HOST_URL", url);
    shell.env("AGENT_SIM_CACHE_DIR", cache_dir()).env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
    let output = shell.kill_on_drop(true).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    if command.starts_with("agent-host build") { out } else { err + &out }
}

async fn prints(command: &str, expected: &str, folder: &Path, url: &str) {
    let printed = printed(command, folder, url).await;
    assert_eq!(plain(&printed), plain(expected), "{command}");
}

#[tokio::test]
async fn the_tutorial_does_what_it_says() {
    let page = page();
    let folder = TempDir::new().unwrap();
    let agent = folder.path().join("greet");
    // What was compiled for an earlier run of this test.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tutorial");
    std::fs::create_dir_all(&built).unwrap();
    let mut host: Option<(Host, usize)> = None;
    let mut ran = 0;
    for (kind, text) in blocks(section(&page, "## Start")) {
        if kind == "text" {
            let (host, from) = host.as_mut().expect("a host tells it");
            for line in text.lines() {
                shown(host, from, |told| plain(told).ends_with(&plain(line)), line).await;
            }
            continue;
        }
        for (command, expected) in commands(text) {
            ran += 1;
            let url = host.as_ref().map_or_else(String::new, |(host, _)| host.url(""));
            if command == "cd greet" {
                std::os::unix::fs::symlink(&built, agent.join("target")).unwrap();
            } else if command.starts_with("agent-host dev") {
                host = Some((HostBuilder::dev(&agent).start().await, 0));
            } else if let Some(new) = command.strip_prefix("agent-host new ") {
                let sdk = root().join("agent-sdk");
                let command = format!("agent-host new --sdk '{}' {new}", sdk.display());
                prints(&command, &expected, folder.path(), &url).await;
            } else {
                prints(&command, &expected, &agent, &url).await;
            }
        }
    }
    assert!(ran >= 7, "{ran}");
}

#[tokio::test]
async fn the_simulator_prints_what_is_shown() {
    let page = page();
    let mut shown = documented(section(&page, "## Simulator"));
    shown.extend(documented(section(&page, "### Scenarios")));
    assert!(shown.len() >= 2, "{shown:?}");
    for (command, expected) in shown {
        prints(&command, &expected, &root(), "").await;
    }
    let scenario = std::fs::read_to_string(agents_dir().join("voter/scenarios/votes-count-once.toml")).unwrap();
    assert!(page.contains(&scenario), "the scenario that is shown is the voter's");
}

/// Copies an agent, as one that is recorded.
fn copied(name: &str, to: &Path) -> PathBuf {
    let (from, to) = (agents_dir().join(name), to.join("agents").join(name));
    std::fs::create_dir_all(to.join("migrations")).unwrap();
    for file in std::fs::read_dir(from.join("migrations")).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, to.join("migrations").join(file.file_name().unwrap())).unwrap();
    }
    let module = format!("{name}.wasm");
    std::fs::copy(from.join(&module), to.join(&module)).unwrap();
    let manifest = std::fs::read_to_string(from.join("agent.toml")).unwrap() + RECORD;
    std::fs::write(to.join("agent.toml"), manifest).unwrap();
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_prints_what_is_shown() {
    let page = page();
    let shown = documented(section(&page, "### Replay a failure"));
    assert!(section(&page, "### Replay a failure").contains(RECORD.trim_end()), "the manifest's part is another");
    let [(get, nothing), (replay, same), (again, different)] = shown.as_slice() else { panic!("{shown:?}") };
    let folder = TempDir::new().unwrap();
    let agent = copied("task-worker", folder.path());
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let mut deploy = agent_host();
    deploy.arg("deploy").arg(&agent).env("AGENT_HOST_URL", host.url(""));
    let deployed = deploy.output().await.unwrap();
    assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
    let id = host.submit("task-worker", "", r#"{"kind":"fax","payload":1}"#).await;
    let task: Value = host.finished(&id).await;
    assert_eq!(task["status"], "failed", "{task}");
    let shown_id = get.split(' ').find(|word| word.len() == id.len()).expect("an id");
    prints(&get.replace(shown_id, &id), nothing, folder.path(), &host.url("")).await;
    prints(replay, same, folder.path(), "").await;
    let module = agent.join("task-worker.wasm");
    let mut bytes = std::fs::read(&module).unwrap();
    let [was, is] = CHANGED;
    let at = bytes.windows(was.len()).position(|part| part == was).expect("the statement is in the module");
    bytes[at..at + is.len()].copy_from_slice(is);
    std::fs::write(&module, bytes).unwrap();
    prints(again, different, folder.path(), "").await;
    drop(host);
    fleet.end().await;
}

#[test]
fn no_command_of_the_page_is_left_out() {
    let page = page();
    let sections = ["## Start", "## Simulator", "### Scenarios", "### Replay a failure"];
    let ran: Vec<_> = sections.into_iter().flat_map(|heading| documented(section(&page, heading))).collect();
    // What the template for Go is built with, and is built with by `cargo xtask conformance`.
    let go = std::fs::read_to_string(root().join("host/templates/go/agent.toml")).unwrap();
    for (command, output) in documented(&page) {
        let is_of_go = output.is_empty() && go.contains(&command.replace("summer", "{{name}}"));
        assert!(is_of_go || ran.contains(&(command.clone(), output)), "{command}");
    }
}
