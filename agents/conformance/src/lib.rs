//! Does what every SDK must be able to; the scenarios are in `agent-sdk/conformance/scenarios`.

use std::time::Duration;

use agent_sdk::{Failure, Output, Task, cache, config, http, kv, params, secrets, sql, tasks};
use serde_json::json;

const INSERT: &str = "INSERT INTO notes (text, number) VALUES ($1, $2)";
const NUMBER: i32 = 7;
const A_MINUTE: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_millis(5);

#[agent_sdk::agent]
fn handle(task: Task) -> Result<Option<Output>, Failure> {
    let deed = header(&task, "do");
    let text = String::from_utf8_lossy(&task.body).into_owned();
    let answer = match deed.as_str() {
        "echo" => return Ok(Some(Output::new(task.content_type, task.body))),
        "count" => {
            let sum: u64 = task.body.iter().copied().map(u64::from).sum();
            format!("{} bytes, sum {sum}", task.body.len())
        }
        "header" => header(&task, "colour"),
        "reject" => return Err(Failure::reject(text)),
        "retry" => return Err(Failure::retry(text)),
        "retry-after" => return Err(Failure::retry_after(LATER, text)),
        "second-attempt" if task.attempt < 2 => return Err(Failure::retry("not yet")),
        "second-attempt" => format!("attempt {}", task.attempt),
        "trap" => mistake(),
        "log" => {
            agent_sdk::info!("{text}");
            return Ok(None);
        }
        "spin" => spin(),
        "file" => {
            let text = std::fs::read_to_string("/data/in.txt")?;
            std::fs::write("/data/out.txt", &text)?;
            text
        }
        _ => return calls(&deed, text),
    };
    Ok(Some(Output::text(answer)))
}

/// What calls the host.
fn calls(deed: &str, text: String) -> Result<Option<Output>, Failure> {
    let answer = match deed {
        "config" => config::get(&text)?.unwrap_or_default(),
        "secret" => {
            let value = secrets::get(&text)?.reveal();
            agent_sdk::info!("the key is {value}");
            format!("{} characters", value.len())
        }
        "key-value" => kv::Bucket::open("default")?.increment(&text, 2)?.to_string(),
        "other-bucket" => format!("{:?}", kv::Bucket::open("other")?.get("key")?),
        "cache" => {
            cache::set_for("key", text, A_MINUTE)?;
            String::from_utf8_lossy(&cache::get("key")?.unwrap_or_default()).into_owned()
        }
        "cache-ttl" => {
            cache::set_for("key", text, SOON)?;
            while cache::get("key")?.is_some() {}
            "forgotten".to_owned()
        }
        "cancel" => {
            cache::set("key", "half done")?;
            while !tasks::is_cancelled() {}
            agent_sdk::info!("stopped tidily");
            return Ok(None);
        }
        "sql" => {
            let database = sql::Connection::open("main")?;
            database.execute(INSERT, params![text, NUMBER])?;
            let statement = "SELECT text, number, number < $1 AS fits, NULL::text IS NOT NULL AS nothing FROM notes";
            let row = database.query_one(statement, params![NUMBER + 1])?;
            let (text, number): (String, i32) = (row.get("text")?, row.get("number")?);
            let (fits, nothing): (bool, bool) = (row.get("fits")?, row.get("nothing")?);
            return Output::json(&json!({ "text": text, "number": number, "fits": fits, "nothing": nothing }))
                .map(Some);
        }
        "sql-reject" => {
            sql::Connection::open("main")?.execute(INSERT, params![text, NUMBER])?;
            return Err(Failure::reject("on second thoughts"));
        }
        "submit" | "submit-reject" => {
            tasks::to("echo").submit(text)?;
            let regretted = deed == "submit-reject";
            return if regretted { Err(Failure::reject("on second thoughts")) } else { Ok(None) };
        }
        "http" => {
            let response = http::Request::get(text).send()?;
            format!("{} {}", response.status, String::from_utf8_lossy(&response.body))
        }
        "http-post" => {
            let response = http::Request::post(text).header("content-type", "text/plain").body("tea").send()?.ok()?;
            format!("order {}", response.header("X-Order").unwrap_or_default())
        }
        other => return Err(Failure::reject(format!("this SDK does not do {other}"))),
    };
    Ok(Some(Output::text(answer)))
}

fn header(task: &Task, name: &str) -> String {
    let found = task.headers.iter().find(|(other, _)| other == name);
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

#[expect(clippy::panic, reason = "a mistake is what is asked for")]
fn mistake() -> String {
    panic!("a mistake");
}

fn spin() -> String {
    loop {
        std::hint::black_box(());
    }
}
