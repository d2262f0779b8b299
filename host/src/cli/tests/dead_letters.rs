use super::*;
use crate::http::tests::doubles::dead_letter;

/// A host with these dead letters: (id, agent, when).
async fn host(letters: &[(&str, &str, u64)]) -> Host {
    let host = Host::start(Auth::default()).await;
    host.doubles.lock().letters = letters.iter().map(|(id, agent, at)| dead_letter(id, agent, *at)).collect();
    host
}

fn left(host: &Host) -> String {
    let ids: Vec<String> = host.doubles.lock().letters.iter().map(|opened| opened.letter.id.to_string()).collect();
    ids.join(" ")
}

#[tokio::test]
async fn they_are_listed_over_all_pages() {
    let host = host(&[("a", "echo", 1), ("b", "voter", 2)]).await;
    let ended = host.run(&["dead-letters", "list"]).await;
    let expected = "ID  AGENT  FAILED                    ATTEMPTS  TYPE     MESSAGE\n\
                    b   voter  1970-01-01T00:00:00.002Z  5         trapped  unreachable\n\
                    a   echo   1970-01-01T00:00:00.001Z  5         trapped  unreachable\n";
    assert_eq!((ended.status, ended.text(), ended.err.as_str()), (0, expected, ""));
    let ended = host.run(&["dead-letters", "list", "--agent", "echo", "--format", "json"]).await;
    assert_eq!((ended.json().as_array().unwrap().len(), &ended.json()[0]["id"]), (1, &"a".into()));

    host.doubles.lock().letters = (0..2_500).map(|at| dead_letter(&format!("t{at}"), "echo", at)).collect();
    let list = async |limit: &str| {
        let ended = host.run(&["dead-letters", "list", "--limit", limit, "--format", "json"]).await;
        let ids: Vec<String> =
            ended.json().as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect();
        (ids, ended.err)
    };
    let (ids, err) = list("10000").await;
    assert_eq!(ids, (0..2_500).rev().map(|at| format!("t{at}")).collect::<Vec<_>>());
    assert_eq!(err, "");
    let (ids, err) = list("1001").await;
    assert_eq!((ids.len(), ids[1_000].as_str()), (1_001, "t1499"));
    assert!(err.contains("--limit"), "{err}");
    assert_eq!(host.run(&["dead-letters", "list"]).await.text().lines().count(), 1_001);
}

#[tokio::test]
async fn none_is_said_to_be_none() {
    let host = host(&[]).await;
    let ended = host.run(&["dead-letters", "list"]).await;
    assert_eq!((ended.status, ended.err.as_str()), (0, "agent-host: there is no dead letter\n"));
    let ended = host.run(&["dead-letters", "redrive", "--agent", "echo"]).await;
    assert_eq!((ended.status, ended.text()), (0, "0 dead letters are redriven\n"));
    assert!(ended.err.contains("no dead letter of agent echo"), "{}", ended.err);
}

#[tokio::test]
async fn one_is_shown_with_reason_and_message() {
    let host = host(&[("a b/c", "echo", 7)]).await;
    let ended = host.run(&["dead-letters", "show", "a b/c"]).await;
    for line in
        ["id: a b/c", "failed_at: 1970-01-01T00:00:00.007Z", "  type: trapped", "  color: red", "  n: 1", "attempts: 5"]
    {
        assert!(ended.text().lines().any(|shown| shown == line), "{line}:\n{}", ended.text());
    }
    assert_eq!(host.run(&["dead-letters", "show", "a b/c", "--format", "json"]).await.json()["body"]["n"], 1);
    let ended = host.run(&["dead-letters", "show", "x"]).await;
    assert!(ended.status == 64 && ended.err.contains("No such dead letter"), "{}", ended.err);
}

#[tokio::test]
async fn some_are_redriven_and_the_missing_are_named() {
    let host = host(&[("a", "echo", 1), ("b", "echo", 2), ("c", "echo", 3)]).await;
    let ended = host.run(&["dead-letters", "redrive", "a", "nothing", "c", "nobody"]).await;
    assert_eq!((ended.status, ended.text()), (64, "2 dead letters are redriven\n"));
    assert!(ended.err.contains("\"nothing\"") && ended.err.contains("\"nobody\""), "{}", ended.err);
    assert_eq!((left(&host), host.doubles.lock().redriven.len()), ("b".to_owned(), 2));
    let ended = host.run(&["dead-letters", "drop", "b", "--format", "json"]).await;
    assert_eq!((ended.status, ended.json()), (0, serde_json::json!({ "dropped": 1 })));
    assert_eq!((left(&host), host.doubles.lock().redriven.len()), (String::new(), 2));
}

#[tokio::test]
async fn all_of_an_agent_are_redriven_or_dropped() {
    let host = host(&[("a", "echo", 1), ("b", "voter", 2), ("c", "echo", 3), ("d", "voter", 4)]).await;
    let ended = host.run(&["dead-letters", "redrive", "--agent", "echo"]).await;
    assert_eq!((ended.status, ended.text(), ended.err.as_str()), (0, "2 dead letters are redriven\n", ""));
    assert_eq!((left(&host), host.doubles.lock().redriven.len()), ("b d".to_owned(), 2));
    let ended = host.run(&["dead-letters", "drop", "--agent", "voter", "--format", "json"]).await;
    assert_eq!(ended.json(), serde_json::json!({ "dropped": 2 }));
    assert_eq!((left(&host), host.doubles.lock().redriven.len()), (String::new(), 2));
    let ended = host.run(&["dead-letters", "drop", "--agent", "Echo"]).await;
    let expected = "agent-host: No such agent: \"Echo\"; did you mean \"echo\"? Deployed are: echo\n";
    assert_eq!((ended.status, ended.err.as_str()), (64, expected));
}

#[tokio::test]
async fn what_cannot_run_again_is_told_and_stays() {
    let host = host(&[("large", "echo", 1), ("b", "echo", 2), ("c", "echo", 3)]).await;
    host.doubles.lock().unsendable = vec!["large".to_owned()];
    let ended = host.run(&["dead-letters", "redrive", "large", "b"]).await;
    assert_eq!((ended.status, ended.text()), (64, "1 dead letter is redriven\n"));
    assert!(ended.err.contains("large cannot be sent again: its body"), "{}", ended.err);
    let ended = host.run(&["dead-letters", "redrive", "--agent", "echo"]).await;
    assert_eq!((ended.status, ended.text()), (64, "1 dead letter is redriven\n"));
    assert!(ended.err.contains("1 left, too large"), "{}", ended.err);
    let ended = host.run(&["dead-letters", "redrive", "--agent", "echo", "--format", "json"]).await;
    let left = serde_json::json!({ "unsendable": 1, "unreadable": 0 });
    assert_eq!((ended.status, ended.json()), (64, serde_json::json!({ "redriven": 0, "left": left })));
    assert!(!ended.err.contains("there is no dead letter"), "{}", ended.err);
    assert_eq!(self::left(&host), "large");
}

#[tokio::test]
async fn what_fails_on_the_way_is_told_with_what_was_done() {
    let host = host(&[("a", "echo", 1)]).await;
    host.doubles.lock().records_fail = true;
    let ended = host.run(&["dead-letters", "drop", "a"]).await;
    assert_eq!((ended.status, ended.text()), (69, "0 dead letters are dropped\n"));
    assert!(ended.err.contains("cannot be reached"), "{}", ended.err);
    assert_eq!(host.run(&["dead-letters", "redrive", "--agent", "echo"]).await.status, 69);
    assert_eq!(host.run(&["dead-letters", "list"]).await.status, 69);
}

#[tokio::test]
async fn reading_takes_the_read_token_and_changing_the_admin_token() {
    let auth = Auth { admin: Some(Token::new("a")), read: Some(Token::new("r")), ..Auth::default() };
    let host = Host::start(auth).await;
    host.doubles.lock().letters.push(dead_letter("a", "echo", 1));
    let reader = [("AGENT_HOST_URL", host.url.as_str()), ("AGENT_HOST_READ_TOKEN", "r")];
    assert_eq!(run_in(&reader, &Started::default(), &["dead-letters", "list"]).await.status, 0);
    let ended = run_in(&reader, &Started::default(), &["dead-letters", "drop", "a"]).await;
    assert!(ended.status == 64 && ended.err.contains("AGENT_HOST_ADMIN_TOKEN"), "{}", ended.err);
    let admin = [reader[0], reader[1], ("AGENT_HOST_ADMIN_TOKEN", "a")];
    assert_eq!(run_in(&admin, &Started::default(), &["dead-letters", "drop", "a"]).await.status, 0);
}

#[test]
fn what_is_meant_has_to_be_said() {
    let parsed = |arguments: &[&str]| {
        Cli::try_parse_from(["agent-host", "dead-letters"].iter().chain(arguments))
            .map(|_| ())
            .map_err(|error| error.kind())
    };
    use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument, ValueValidation};
    for verb in ["redrive", "drop"] {
        assert_eq!(parsed(&[verb]), Err(MissingRequiredArgument));
        assert_eq!(parsed(&[verb, "a", "--agent", "echo"]), Err(ArgumentConflict));
        assert_eq!(parsed(&[verb, "a", "b"]), Ok(()));
        assert_eq!(parsed(&[verb, "--agent", "echo"]), Ok(()));
    }
    assert_eq!(parsed(&["list", "--limit", "0"]), Err(ValueValidation));
}
