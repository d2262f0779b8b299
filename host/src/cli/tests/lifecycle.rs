use super::*;
use crate::catalog::{Actor, Change, NewEvent, Traffic};
use crate::task::AgentName;

#[tokio::test]
async fn operators_roll_back_split_pause_and_remove() {
    let host = Host::start(Auth::default()).await;
    let ended = host.run(&["traffic", "echo", "2=90", "3=10"]).await;
    assert_eq!(
        (ended.status, ended.text()),
        (0, "echo is consuming; new tasks go to revision 2: 90 %, revision 3: 10 %\n"),
        "{}",
        ended.err
    );
    assert_eq!(host.run(&["rollback", "echo", "--format", "json"]).await.json()["revision"], 2);
    assert!(host.run(&["rollback", "echo", "--revision", "1"]).await.text().contains("revision 1: 100 %"));
    assert!(host.run(&["agents", "pause", "echo"]).await.text().starts_with("echo is paused"));
    assert!(host.run(&["agents", "resume", "echo"]).await.text().starts_with("echo is consuming"));
    assert_eq!(host.run(&["agents", "remove", "echo", "--force"]).await.text(), "echo is removed\n");
    let changes: Vec<_> =
        host.doubles.lock().changes.iter().map(|(_, change, force, _)| (change.clone(), *force)).collect();
    let split = Traffic::by_weights(&[(2, 90), (3, 10)]).unwrap();
    let expected = [
        (Change::Split(split), false),
        (Change::RollBack, false),
        (Change::Activate(1), false),
        (Change::Pause, false),
        (Change::Resume, false),
        (Change::Remove, true),
    ];
    assert_eq!(changes, expected);
    let ended = host.run(&["rollback", "echo"]).await;
    assert!(ended.status == 64 && ended.err.contains("No such agent"), "{}", ended.err);
}

#[tokio::test]
async fn weights_that_do_not_sum_up_are_refused() {
    let host = Host::start(Auth::default()).await;
    let ended = host.run(&["traffic", "echo", "2=90", "3=20"]).await;
    assert!(ended.status == 64 && ended.err.contains("sum to 110"), "{}", ended.err);
    let ended = host.run(&["traffic", "echo", "2=50", "2=50"]).await;
    assert!(ended.status == 64 && ended.err.contains("twice"), "{}", ended.err);
}

#[tokio::test]
async fn a_plan_is_printed_as_a_difference() {
    let host = Host::start(Auth::default()).await;
    let folder = agent_folder();
    let ended = host.run(&["deploy", "--plan", folder.path().to_str().unwrap()]).await;
    let expected = "a new revision would follow on 2\n~ limits.memory: \"64MiB\" -> \"1MiB\"\n";
    assert_eq!((ended.status, ended.text()), (0, expected), "{}", ended.err);
    assert!(host.doubles.lock().deploys.is_empty());
}

#[tokio::test]
async fn events_are_listed() {
    let host = Host::start(Auth { admin: Some(Token::new("a")), read: Some(Token::new("r")), submit: None }).await;
    host.doubles.lock().events.push(NewEvent {
        actor: Actor::host(),
        host: "h:1".to_owned(),
        action: "canary-rolled-back",
        agent: Some(AgentName::parse("echo").unwrap()),
        detail: "revision 4 failed 15 of 40 tasks".to_owned(),
    });
    let vars = [("AGENT_HOST_URL", host.url.as_str()), ("AGENT_HOST_READ_TOKEN", "r")];
    let ended = run_in(&vars, &Started::default(), &["events", "--agent", "echo"]).await;
    assert!(ended.text().starts_with("AT ") && ended.text().contains("canary-rolled-back"), "{}", ended.text());
    assert!(ended.text().contains("2026-11-23T14:08:08.001Z"), "{}", ended.text());
}
