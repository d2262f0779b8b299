//! Text of a guest where others read it: in logs, HTTP answers and dead letters it is text, whatever it holds.

use reqwest::StatusCode;
use serde_json::Value;

use super::guests::Leave;
use super::{NAME, deploy_canary};
use crate::common::{Host, HostBuilder};

/// What moves a cursor, ends a line, or turns the direction of text.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

async fn deploy(host: &Host, guest: &str) {
    let answer = super::deploy(host, guest, Leave::Patient).await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{guest}: {}", answer.text().await.unwrap());
}

/// The log of a host that has run the guests which forge what they can.
async fn log_of_forgers(format: &str) -> Vec<String> {
    let mut host = HostBuilder::bare().env("AGENT_HOST_LOG", format).start().await;
    deploy_canary(&host).await;
    for guest in ["failure-forged", "log-forged"] {
        deploy(&host, guest).await;
        host.run(NAME, "text/plain", "task").await;
    }
    host.log_to_its_end().await.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_guest_forges_no_line_of_a_log_for_people() {
    let lines = log_of_forgers("text").await;
    for line in &lines {
        assert!(!line.contains(is_dangerous), "{line:?}");
        assert!(line.starts_with("20"), "every line begins with its time: {line:?}");
    }
}

#[tokio::test]
async fn a_guest_forges_no_record_of_a_log_for_programs() {
    let lines = log_of_forgers("json").await;
    let mut said = 0;
    for line in &lines {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        for member in ["timestamp", "level", "target"] {
            assert!(record[member].is_string(), "{line}");
        }
        assert_ne!(record["message"], "forged", "{line}");
        if record["target"] == "agent" {
            said += 1;
            assert_eq!(record["agent"], NAME, "{line}");
            let message = record["message"].as_str().unwrap();
            assert!(
                message.contains(r#"\n{"level":"ERROR","message":"forged"}\r\u{1b}[2J\u{202e}\u{2028}end"#),
                "{message}"
            );
        }
    }
    assert_eq!(said, 1, "one call of the guest is one record");
}

#[tokio::test]
async fn a_guest_forges_neither_a_failure_nor_a_header() {
    let host = HostBuilder::bare().start().await;
    deploy_canary(&host).await;

    deploy(&host, "failure-forged").await;
    let answer = host.run(NAME, "text/plain", "task").await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let id = answer.headers()["task-id"].to_str().unwrap().to_owned();
    let problem: Value = answer.json().await.unwrap();
    let task = host.task(&id).await;
    let letter: Value = host.get(&format!("/v1/dead-letters/{id}")).await.unwrap().json().await.unwrap();
    for document in [&problem, &task, &letter] {
        for_each_text(document, &mut |text| assert!(!text.contains(is_dangerous), "{text:?} in {document}"));
    }
    assert!(problem["failure"]["message"].as_str().unwrap().starts_with("refused\\n{"), "{problem}");

    deploy(&host, "failure-of-a-mebibyte").await;
    let answer = host.run(NAME, "text/plain", "task").await;
    let problem: Value = answer.json().await.unwrap();
    let message = problem["failure"]["message"].as_str().unwrap();
    assert!(message.len() < 5_000 && message.contains("bytes more"), "{} bytes", message.len());

    deploy(&host, "output-content-type-forged").await;
    let answer = host.run(NAME, "text/plain", "task").await;
    let id = answer.headers()["task-id"].to_str().unwrap().to_owned();
    let again = host.get(&format!("/v1/tasks/{id}/output")).await.unwrap();
    for answer in [answer, again] {
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "application/octet-stream");
        assert!(!answer.headers().contains_key("set-cookie"));
    }
}

fn for_each_text(document: &Value, look: &mut dyn FnMut(&str)) {
    match document {
        Value::String(text) => look(text),
        Value::Array(values) => values.iter().for_each(|value| for_each_text(value, look)),
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            look(name);
            for_each_text(value, look);
        }),
        _ => {}
    }
}
