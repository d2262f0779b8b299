//! What tasks say, kept with them.

use serde_json::{Value, json};

use super::common::{Host, HostBuilder, agent_host, wait_until};
use super::operate::{fixtures, manifest};
use super::scripts::{self, SQL, script, sql, unique};

async fn logs(host: &Host, id: &str) -> Vec<Value> {
    let answer = host.get(&format!("/v1/tasks/{id}/logs")).await.unwrap();
    assert_eq!(answer.status(), 200);
    let page: Value = answer.json().await.unwrap();
    assert_eq!(page["next"], Value::Null);
    page["items"].as_array().unwrap().clone()
}

async fn deploy(host: &Host, name: &str, attempts: u32) {
    let manifest =
        manifest(name, "talks").replace("max_attempts = 1", &format!("max_attempts = {attempts}\ninitial = \"10ms\""));
    assert_eq!(host.deploy(name, &manifest, fixtures()).await.status(), 201);
}

/// Each run of a task leaves what it said, on whichever host it was, cut where it is too much.
async fn each_run_leaves_what_it_said(host: &Host) {
    let name = unique("talks");
    deploy(host, &name, 2).await;
    let id = host.submit(&name, "", r#"{"do":"panic"}"#).await;
    assert_eq!(host.finished(&id).await["failure"]["type"], "trapped");
    // The last run's came with its end; the first one's was noted on the way.
    let runs = wait_until("both runs are there", async || {
        let runs = logs(host, &id).await;
        (runs.len() == 2).then_some(runs)
    })
    .await;
    for (run, attempt) in runs.iter().zip(1..) {
        assert_eq!(
            (&run["attempt"], &run["revision"], &run["is_cut"]),
            (&attempt.into(), &1.into(), &false.into()),
            "{run}"
        );
        let lines = run["lines"].as_array().unwrap();
        let panics = |line: &&Value| line["message"].as_str().unwrap().contains("panicked at");
        let line = lines.iter().find(panics).unwrap_or_else(|| panic!("{run}"));
        assert_eq!((&line["level"], &line["context"]), (&"warn".into(), &"stderr".into()));
        assert!(line["at"].as_u64().unwrap() > 0);
    }

    let id = host.submit(&name, "", r#"{"do":"flood"}"#).await;
    assert_eq!(host.finished(&id).await["status"], "succeeded");
    let runs = logs(host, &id).await;
    assert_eq!((runs.len(), &runs[0]["is_cut"]), (1, &true.into()));
    let lines = runs[0]["lines"].as_array().unwrap();
    assert_eq!((&lines[7]["message"], &lines[7]["level"]), (&"line 7 of a flood".into(), &"info".into()));
    assert!(runs[0].to_string().len() <= agent_host::capability::log::KEPT_BYTES_MAX + 1_000);

    let id = host.submit(&name, "", r#"{"do":"succeed"}"#).await;
    host.finished(&id).await;
    assert_eq!(logs(host, &id).await, Vec::<Value>::new());
    assert_eq!(host.get("/v1/tasks/none/logs").await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_said_is_kept_with_it() {
    each_run_leaves_what_it_said(&HostBuilder::real().start().await).await;
    each_run_leaves_what_it_said(&HostBuilder::bare().start().await).await;
}

/// Where a task's end is committed in its own transaction, and where it is cancelled in the middle of its run.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_said_is_kept_however_it_ended() {
    let mut host = HostBuilder::real().start().await;
    let agent = unique("says");
    scripts::deploy(&host, &agent, 1, &[SQL], "CREATE TABLE rows (id text NOT NULL);").await;
    let insert = sql("INSERT INTO rows VALUES ($1)");
    for (last, status) in [(json!({ "say": "after" }), "succeeded"), (json!("sleep"), "cancelled")] {
        let said = format!("before it has {status}");
        let id = host.submit(&agent, "", script(&[json!({ "say": said }), insert.clone(), last])).await;
        if status == "cancelled" {
            // It may be called running before it has come to anything.
            wait_until("it says so", || std::future::ready(host.log().contains(&said).then_some(()))).await;
            assert_eq!(host.client().delete(host.url(&format!("/v1/tasks/{id}"))).send().await.unwrap().status(), 202);
        }
        assert_eq!(host.finished(&id).await["status"], status);
        let runs =
            wait_until("what it said is there", async || Some(logs(&host, &id).await).filter(|runs| !runs.is_empty()));
        assert_eq!(runs.await[0]["lines"][0]["message"], said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_what_a_task_said() {
    let host = HostBuilder::bare().start().await;
    let name = unique("prints");
    deploy(&host, &name, 1).await;
    let id = host.submit(&name, "", r#"{"do":"flood-stderr"}"#).await;
    host.finished(&id).await;
    let print = async |format: &str| {
        let arguments = ["tasks", "logs", &id, "--format", format, "--url", &host.url("")];
        let printed = agent_host().args(arguments).output().await.unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        String::from_utf8(printed.stdout).unwrap()
    };
    let text = print("text").await;
    assert!(text.starts_with("attempt 1, revision 1, on "), "{text}");
    assert!(text.contains("WARN  stderr: line 0 of a flood\n"), "{text}");
    let page: Value = serde_json::from_str(&print("json").await).unwrap();
    assert_eq!(page["items"][0]["lines"][0]["message"], "line 0 of a flood");
}
