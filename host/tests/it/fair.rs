//! One agent's backlog does not keep another agent's tasks from running.

use lapin::types::FieldTable;

use super::common::{Host, HostBuilder, wait_until};
use super::delivery::Stranger;
use super::scripts::{deploy, metric, runs, script, unique};

/// More than the agent is given at a time: its 256 places, and the 512 deliveries that may wait for their confirms.
const BACKLOG: u64 = 1_000;
/// Tasks of the other agent, one after the other.
const TASKS: u64 = 20;

/// How many instances of any agent there are on a host.
async fn instances(host: &Host) -> u64 {
    metric(host, "host_live_instances ").await
}

/// A backlog of tasks that want all processor time that there is, for minutes, and as many places as they are given. While
/// next to nothing of it is done, the other agent's tasks come and go.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_one_agent_does_not_hold_up_another() {
    let host = HostBuilder::real().with_samples().start().await;
    let (busy, stranger) = (unique("busy"), Stranger::connect().await);
    deploy(&host, &busy, 256, &[], "").await;
    let spin = script(&[serde_json::json!("spin")]);
    for _ in 0..BACKLOG {
        stranger.send(&busy, &unique("spin"), FieldTable::default(), spin.as_bytes()).await;
    }
    wait_until("the backlog has all instances that it gets", async || {
        let before = instances(&host).await;
        (before > 1 && before == instances(&host).await).then_some(())
    })
    .await;

    for number in 0..TASKS {
        let body = format!("task {number}");
        let answer = host.run("echo", "text/plain", body.clone()).await;
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, body));
    }
    // Each would spin for ten minutes.
    assert_eq!(runs(&host, &busy).await, 0, "the backlog was worked off first");
    drop(host);
    stranger.delete(&format!("agent.{busy}")).await;
}
