use super::*;
use crate::secrets::Secret;

fn store(host: &Host, agent: &str, name: &str) {
    let secret = (agent.to_owned(), name.to_owned(), Secret::new("hunter2".to_owned()), "admin token".to_owned());
    host.doubles.lock().secrets.stored.push(secret);
}

#[tokio::test]
async fn secrets_are_listed_and_removed() {
    let host = Host::start(Auth::default()).await;
    store(&host, "echo", "api-key");
    let ended = host.run(&["secrets", "list", "echo"]).await;
    let expected = "NAME     SOURCE  REQUIRED  SET                       BY           KEY\n\
                    api-key  store   false     2026-11-23T14:08:08.001Z  admin token  current\n";
    assert_eq!((ended.status, ended.text(), ended.err.as_str()), (0, expected, ""));
    let listed = host.run(&["secrets", "list", "echo", "--format", "json"]).await.json();
    assert_eq!((&listed[0]["name"], &listed[0]["set_at"]), (&"api-key".into(), &1_795_442_888_001_u64.into()));
    let ended = host.run(&["secrets", "remove", "echo", "api-key"]).await;
    assert_eq!((ended.status, ended.text()), (0, "secret api-key of echo is removed\n"), "{}", ended.err);
    let ended = host.run(&["secrets", "remove", "echo", "api-key"]).await;
    assert!(ended.status == 64 && ended.err.contains("No such secret"), "{}", ended.err);
    let ended = host.run(&["secrets", "list", "echo"]).await;
    assert!(ended.status == 0 && ended.err.contains("requires no secret"), "{}", ended.err);
    let ended = host.run(&["secrets", "list", "ecko"]).await;
    assert!(ended.status == 64 && ended.err.contains("echo"), "{}", ended.err);
}

#[tokio::test]
async fn a_reader_lists_and_changes_nothing() {
    let host = Host::start(Auth { admin: Some(Token::new("a")), read: Some(Token::new("r")), submit: None }).await;
    store(&host, "echo", "api-key");
    let vars = [("AGENT_HOST_URL", host.url.as_str()), ("AGENT_HOST_READ_TOKEN", "r")];
    let ended = run_in(&vars, &Started::default(), &["secrets", "list", "echo"]).await;
    assert_eq!(ended.status, 0, "{}", ended.err);
    let ended = run_in(&vars, &Started::default(), &["secrets", "remove", "echo", "api-key"]).await;
    assert!(ended.status == 64 && ended.err.contains("AGENT_HOST_ADMIN_TOKEN"), "{}", ended.err);
    assert_eq!(host.doubles.lock().secrets.stored.len(), 1);
}

#[test]
fn a_value_has_no_place_on_the_command_line() {
    let words = ["agent-host", "secrets", "set", "echo", "api-key", "hunter2"];
    assert!(Cli::try_parse_from(words).is_err());
}
