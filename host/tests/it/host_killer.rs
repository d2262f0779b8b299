//! A task that is running whenever its host dies ends as such; those beside it are not blamed.

use std::cell::RefCell;

use serde_json::json;

use super::common::{Host, wait_until};
use super::fleet::Fleet;
use super::scripts::{KEY_VALUE, deploy, metric, script, unique};

/// Deaths until the task is suspected: from the fifth redelivery on (docs/delivery.md).
const DEATHS_BEFORE_SUSPICION: usize = 5;
/// Deaths while it runs alone, until it is convicted.
const DEATHS_ALONE: usize = 2;

async fn until_alive(host: &Host, instances: u64) {
    wait_until("so many instances are alive", async || {
        (metric(host, "host_live_instances").await == instances).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ran_alone_when_hosts_died_ends_as_host_killer_and_others_succeed() {
    let fleet = Fleet::start().await;
    let mut host = fleet.host().start().await;
    let agent = unique("killing");
    deploy(&host, &agent, 10, &[KEY_VALUE], "").await;
    let killer = host.submit(&agent, "", script(&[json!({ "await": "never" })])).await;
    let mut bystanders = Vec::new();
    for _ in 0..3 {
        bystanders.push(host.submit(&agent, "", script(&[json!({ "await": "gate" })])).await);
    }

    for death in 1..=DEATHS_BEFORE_SUSPICION {
        until_alive(&host, 4).await;
        if death == DEATHS_BEFORE_SUSPICION {
            host.run(&agent, "application/json", script(&[json!({ "key-value": "gate" })])).await;
            until_alive(&host, 1).await;
        }
        host.kill().await;
        host = fleet.host().start().await;
    }
    for _ in 0..DEATHS_ALONE {
        let seen = RefCell::new(&mut host);
        let says = |text: &str| seen.borrow_mut().log().contains(text);
        wait_until("it runs alone", async || says("running alone a task").then_some(())).await;
        assert!(says(&killer));
        host.kill().await;
        host = fleet.host().start().await;
    }

    let task = host.finished(&killer).await;
    assert_eq!(task["failure"]["type"], "host-killer", "{task}");
    let letters: serde_json::Value =
        host.get(&format!("/v1/dead-letters?agent={agent}")).await.unwrap().json().await.unwrap();
    assert!(letters.to_string().contains(&killer), "{letters}");
    for id in &bystanders {
        let task = host.finished(id).await;
        assert_eq!((&task["status"], &task["attempt"]), (&json!("succeeded"), &json!(1)), "{task}");
    }
    drop(host);
    fleet.end().await;
}
