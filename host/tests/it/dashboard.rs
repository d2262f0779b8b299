//! The dashboard in a real browser, and what it draws from.

use serde_json::Value;

use super::browser::{Browser, Look};
use super::common::{HostBuilder, wait_until};
use super::fleet::Fleet;
use super::operate::{echo, fixtures, manifest};
use super::scripts::unique;

/// The first event of a stream, as JSON.
async fn first_event(mut answer: reqwest::Response) -> Value {
    let mut text = String::new();
    while let Some(part) = answer.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&part).unwrap());
        let whole = text.split("\n\n").find(|event| event.contains("data:") && text.contains("\n\n"));
        if let Some(data) = whole.and_then(|event| event.lines().find_map(|line| line.strip_prefix("data:"))) {
            return serde_json::from_str(data.trim()).unwrap();
        }
    }
    panic!("the stream ended: {text}");
}

#[tokio::test]
async fn the_live_stream_tells_how_the_host_does_and_has_a_limit() {
    let host = HostBuilder::bare().with_samples().start().await;
    host.run("echo", "text/plain", "x").await;
    let snapshot = first_event(host.get("/v1/live").await.unwrap()).await;
    assert!(snapshot["resources"]["memory_resident_bytes"].as_u64().unwrap() > 0, "{snapshot}");
    let agents: Vec<_> = snapshot["agents"].as_array().unwrap().iter().map(|agent| agent["agent"].clone()).collect();
    assert!(agents.contains(&"echo".into()), "{snapshot}");
    let mut open = Vec::new();
    for _ in 0..agent_host::http::STREAMS_MAX {
        let answer = host.get("/v1/live").await.unwrap();
        assert_eq!(answer.status(), 200);
        open.push(answer);
    }
    assert_eq!(host.get("/v1/live").await.unwrap().status(), 429);
    open.clear();
    wait_until("a place is free again", async || {
        host.get("/v1/live").await.ok().filter(|answer| answer.status() == 200).map(drop)
    })
    .await;
}

/// One page is enough to watch a fleet.
#[tokio::test(flavor = "multi_thread")]
async fn the_live_stream_of_a_host_tells_how_the_others_do() {
    let fleet = Fleet::start().await;
    let (mut one, mut other) = (fleet.host().start().await, fleet.host().start().await);
    wait_until("both are there and say what they hold", async || {
        let snapshot = first_event(one.get("/v1/live").await.unwrap()).await;
        let hosts = snapshot["hosts"].as_array().unwrap();
        let holds = |host: &Value| host["memory_resident_bytes"].as_u64().is_some_and(|bytes| bytes > 0);
        (hosts.len() == 2 && hosts.iter().all(holds)).then_some(())
    })
    .await;
    assert!(other.terminate().await.success());
    wait_until("one that stopped is there no more", async || {
        let snapshot = first_event(one.get("/v1/live").await.unwrap()).await;
        (snapshot["hosts"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    assert!(one.terminate().await.success());
    fleet.end().await;
}

/// Each page is drawn from what the host says, on a desk and on a phone, and nothing sticks out to the side.
#[tokio::test]
async fn every_page_draws_itself_on_a_desk_and_on_a_phone() {
    let host = HostBuilder::bare().with_samples().start().await;
    let id = host.submit("echo", "", "hello dashboard").await;
    host.finished(&id).await;
    let task = format!("tasks/{id}");
    for (look, of) in [(Look::Desk, "desk"), (Look::DeskDark, "dark"), (Look::Phone, "phone")] {
        let browser = Browser::start(look).await;
        let is_dark = browser.run("return matchMedia('(prefers-color-scheme: dark)').matches").await;
        assert_eq!(is_dark, matches!(look, Look::DeskDark));
        for (page, name, drawn) in [
            ("overview", "overview", "Database connections"),
            ("agents", "agents", "task-worker"),
            ("agents/echo", "agent", "revision-added"),
            ("tasks", "tasks", &id),
            (&task, "task", "hello dashboard"),
            ("dead-letters", "dead-letters", "No task failed for good"),
            ("events", "events", "agents folder"),
        ] {
            browser.go(&host.url(&format!("/#/{page}"))).await;
            browser.sees(drawn).await;
            assert_eq!(browser.run("return document.querySelectorAll('[role=alert]').length").await, 0, "{page}");
            let sticks_out = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(browser.run(sticks_out).await, 0, "{page} on a {of}");
            browser.keep_screen(&format!("{name}-{of}")).await;
        }
        browser.close().await;
    }
}

/// An operator's bad day: a revision that traps, seen, rolled back, and its dead letter run again.
#[tokio::test]
async fn an_operator_rolls_a_bad_revision_back_and_runs_its_dead_letter_again() {
    let host = HostBuilder::real().env("AGENT_HOST_ADMIN_TOKEN", "of-the-operator").start().await;
    let host = host.with_token("of-the-operator");
    let name = unique("day");
    assert_eq!(host.deploy(&name, &manifest(&name, "the good one"), echo()).await.status(), 201);

    let browser = Browser::start(Look::Desk).await;
    browser.go(&host.url("/")).await;
    browser.answer(Some("not the token")).await;
    // It asks again.
    browser.answer(Some("of-the-operator")).await;
    browser.sees(&name).await;

    assert_eq!(host.deploy(&name, &manifest(&name, "the bad one"), fixtures()).await.status(), 201);
    let id = host.submit(&name, "", r#"{"do":"trap"}"#).await;
    assert_eq!(host.finished(&id).await["failure"]["type"], "trapped");

    // By keyboard to the agents, then into the one that fails.
    browser.press("2").await;
    browser.click("a", &name).await;
    browser.sees("the bad one").await;
    browser.keep_screen("bad-revision").await;
    browser.click("button", "Roll back").await;
    browser.answer(None).await;
    browser.sees("the good one").await;
    browser.sees("rolled-back").await;

    browser.press("4").await;
    browser.click("code", &id).await;
    browser.sees("trapped").await;
    browser.keep_screen("dead-letter").await;
    browser.click("button", "Redrive").await;
    browser.answer(None).await;
    wait_until("the task has run again", async || (host.task(&id).await["status"] == "succeeded").then_some(())).await;
    assert_eq!(host.task(&id).await["revision"], 1);

    browser.press("5").await;
    browser.sees("redriven").await;
    browser.keep_screen("events-after").await;
    browser.press("3").await;
    browser.sees("Search").await;
    // To the search, by keyboard, and to the task.
    browser.press("/").await;
    browser.press(&format!("{id}\u{e007}")).await;
    browser.sees("Timings of the last attempt").await;
    assert!(browser.main().await.contains("succeeded"));
    browser.close().await;
}
