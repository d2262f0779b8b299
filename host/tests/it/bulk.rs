//! Ten thousand dead letters, and one command.

use serde_json::{Value, json};

use super::common::{Host, agent_host, wait_until};
use super::delivery::deploy_misbehaving;
use super::fleet::Fleet;
use super::scripts::unique;

const LETTERS: usize = 10_000;

/// What the list of the agent's letters has, in pages.
async fn listed(host: &Host, agent: &str) -> Vec<Value> {
    let (mut letters, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/dead-letters?agent={agent}&limit=1000{cursor}");
        let page: Value = host.get(&path).await.unwrap().json().await.unwrap();
        letters.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return letters,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_dead_letters_are_run_again_by_one_command() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agent = unique("rejecting");
    deploy_misbehaving(&host, &agent, "1s").await;

    let begun = std::time::Instant::now();
    let batch = vec![r#"{"do":"reject"}"#; LETTERS].join("\n");
    let url = host.url(&format!("/v1/agents/{agent}/tasks:batch"));
    let accepted = host.client().post(url).body(batch).send().await.unwrap();
    assert_eq!(accepted.status(), 202);
    let accepted: Value = accepted.json().await.unwrap();
    let mut ids: Vec<&str> = accepted["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    ids.sort_unstable();
    let until_all_are_of = async |generation: i64| {
        wait_until("all letters", async || {
            let letters = "SELECT count(*) FROM agent_host.dead_letters WHERE agent = $1 AND generation = $2";
            let letters: i64 =
                sqlx::query_scalar(letters).bind(&agent).bind(generation).fetch_one(&fleet.pool).await.unwrap();
            (letters == i64::try_from(LETTERS).unwrap()).then_some(())
        })
        .await;
    };
    until_all_are_of(0).await;
    eprintln!("{LETTERS} tasks were submitted and dead-lettered in {:?}", begun.elapsed());

    let begun = std::time::Instant::now();
    let mut redrive = agent_host();
    redrive.args(["--format", "json", "dead-letters", "redrive", "--agent", &agent, "--url"]).arg(host.url(""));
    let redriven = redrive.output().await.unwrap();
    assert!(redriven.status.success(), "{}", String::from_utf8_lossy(&redriven.stderr));
    let redriven: Value = serde_json::from_slice(&redriven.stdout).unwrap();
    assert_eq!(redriven["redriven"], LETTERS, "{redriven}");
    eprintln!("the command took {:?}", begun.elapsed());
    until_all_are_of(1).await;
    eprintln!("all had run again after {:?}", begun.elapsed());
    let letters = listed(&host, &agent).await;
    for letter in &letters {
        let told = (&letter["generation"], &letter["attempts"], &letter["failure"]["type"]);
        assert_eq!(told, (&json!(1), &json!(1), &json!("rejected")), "{letter}");
    }
    let mut again: Vec<&str> = letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    again.sort_unstable();
    assert_eq!(again, ids, "each once");
    drop(host);
    fleet.end().await;
}
