//! The corpus of hostile guests, `agents/fixtures/hostile`: each is deployed and run on the real servers, ends as the table
//! says, and leaves a host behind that answers and holds nothing.

mod forgeries;
pub(crate) mod guests;
mod modules;

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde_json::Value;

use self::guests::{End, GUESTS, Leave};
use super::common::{Host, agents_dir, wait_until};
use super::fleet::Fleet;
use super::scripts::metric;

/// The name under which every guest is deployed, one after the other.
pub(crate) const NAME: &str = "hostile";

/// How much more than before the first guest the host may keep resident once a guest is gone: some guests take 16 MiB of
/// memory and bring 16 MiB to the host, so that what two of them leave behind does not fit.
const RESIDENT_SLACK_BYTES: u64 = 48 << 20;

const TIGHT: &str = r#"timeout = "1s"
cpu = "1s""#;
const PATIENT: &str = r#"timeout = "2m"
cpu = "2m""#;
const GRANTS: &str = r#"[grants]
sql = [{ name = "main" }]
key_value = ["default"]
cache = true
tasks = ["echo"]"#;
const ENTRUSTED: &str = r#"[secrets]
required = ["api-key"]"#;

/// Where the host finds that secret.
pub(crate) const SECRET_VARIABLE: &str = "AGENT_HOST_SECRET_HOSTILE_API_KEY";

fn manifest(leave: Leave) -> String {
    let (time, grants) = match leave {
        Leave::Tight => (TIGHT, ""),
        Leave::Patient => (PATIENT, ""),
        Leave::Granted => (PATIENT, GRANTS),
        Leave::Entrusted => (PATIENT, ENTRUSTED),
    };
    format!(
        r#"manifest_version = 1
[agent]
name = "{NAME}"
module = "hostile.wasm"
[limits]
memory = "16MiB"
output = "64KiB"
log = "16KiB"
{time}
[retry]
max_attempts = 1
{grants}
"#
    )
}

fn fixture(name: &str) -> String {
    let file = agents_dir().join("fixtures/hostile").join(format!("{name}.wat"));
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The component that was made of a fixture.
fn module(name: &str) -> Vec<u8> {
    let file = agents_dir().join("fixtures/hostile").join(format!("{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}; cargo xtask agents makes it", file.display()))
}

/// Deploys the agent that must always answer.
async fn deploy_canary(host: &Host) {
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let module = std::fs::read(agents_dir().join("echo/echo.wasm")).expect("cargo xtask agents has built it");
    let deployed = host.deploy("echo", &manifest, module).await;
    let (status, text) = (deployed.status(), deployed.text().await.unwrap());
    assert_eq!(status, StatusCode::CREATED, "{text}");
}

async fn canary_answers(host: &Host, after: &str) {
    let answer = host.run("echo", "text/plain", "still there").await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!((status, text.as_str()), (StatusCode::OK, "still there"), "after {after}");
}

async fn resident_bytes(host: &Host) -> u64 {
    metric(host, "host_memory_resident_bytes").await
}

/// Waits until no instance lives, none of the budget is taken, and the process is about as large as it was.
async fn until_nothing_is_left(host: &Host, after: &str, resident_before: u64) {
    for gauge in ["host_live_instances", "host_memory_reserved_bytes", "host_tasks_waiting_for_memory"] {
        let what = format!("{gauge} is 0 after {after}");
        wait_until(&what, async || (metric(host, gauge).await == 0).then_some(())).await;
    }
    let what = format!("no more than {resident_before} bytes and some are resident after {after}");
    let most = resident_before + RESIDENT_SLACK_BYTES;
    wait_until(&what, async || (resident_bytes(host).await <= most).then_some(())).await;
}

/// Runs a task of the guest. Gives how it ended, and what was said about that.
async fn ending(host: &Host) -> (String, String) {
    let answer = host.run(NAME, "text/plain", "task").await;
    if answer.status() == StatusCode::OK {
        return ("succeeded".to_owned(), String::new());
    }
    let problem: Value = answer.json().await.unwrap();
    let part = |name: &str| problem["failure"][name].as_str().unwrap_or_else(|| panic!("{problem}")).to_owned();
    (part("type"), part("message"))
}

/// Deploys a guest.
pub(crate) async fn deploy(host: &Host, guest: &str, leave: Leave) -> reqwest::Response {
    host.deploy(NAME, &manifest(leave), module(guest)).await
}

/// What is wrong with how this guest ended, if anything is.
async fn misfit(host: &Host, name: &str, leave: Leave, end: End) -> Option<String> {
    let deployed = deploy(host, name, leave).await;
    let (status, text) = (deployed.status(), deployed.text().await.unwrap());
    if let End::Refused(why) = end {
        let is_refused = status == StatusCode::UNPROCESSABLE_ENTITY && text.contains(why);
        return (!is_refused).then(|| format!("deployed: {status} {text}"));
    }
    if status != StatusCode::CREATED {
        return Some(format!("deployed: {status} {text}"));
    }
    let (outcome, message) = ending(host).await;
    let fits = match end {
        End::Fails(expected, why) => outcome == expected && message.contains(why),
        End::Answers | End::Refused(_) => outcome == "succeeded",
    };
    (!fits).then(|| format!("ran: {outcome}: {message}"))
}

#[test]
fn every_fixture_has_a_row_and_every_row_a_fixture() {
    let files = std::fs::read_dir(agents_dir().join("fixtures/hostile")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.filter(|name| name.ends_with(".wat")).collect();
    let rows: BTreeSet<String> = GUESTS.iter().map(|(name, ..)| format!("{name}.wat")).collect();
    assert_eq!(rows.len(), GUESTS.len(), "a guest has one row");
    assert_eq!(files, rows);
    for (name, ..) in GUESTS {
        assert!(fixture(name).starts_with(";; "), "{name}.wat says what it does");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_guest_ends_as_it_must_and_leaves_nothing_behind() {
    let fleet = Fleet::start().await;
    let host = fleet.host().env(SECRET_VARIABLE, "correct horse battery staple").start().await;
    deploy_canary(&host).await;
    canary_answers(&host, "the start").await;
    let resident_before = resident_bytes(&host).await;
    let mut misfits = Vec::new();
    for (name, leave, end) in GUESTS {
        if let Some(misfit) = misfit(&host, name, *leave, *end).await {
            misfits.push(format!("{name}: {misfit}"));
        }
        canary_answers(&host, name).await;
        until_nothing_is_left(&host, name, resident_before).await;
    }
    assert!(misfits.is_empty(), "{} of {}:\n{}", misfits.len(), GUESTS.len(), misfits.join("\n"));
    drop(host);
    fleet.end().await;
}
