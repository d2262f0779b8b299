//! Delays on the real broker.

use super::common::HostBuilder;

const TASKS: u64 = 200;
const SHORTEST_MS: u64 = 300;
const LONGEST_MS: u64 = 8_000;

/// How late they are is told, not asserted: that depends on the machine. What the delays are made of is tested exactly in
/// `broker/topology/tests.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn no_delayed_task_of_many_starts_early() {
    let host = HostBuilder::real().with_samples().start().await;
    let mut tasks = Vec::new();
    for number in 0..TASKS {
        let delay_ms = SHORTEST_MS + (LONGEST_MS - SHORTEST_MS) * number / (TASKS - 1);
        let id = host.submit("echo", &format!("?delay={delay_ms}ms"), number.to_string()).await;
        tasks.push((id, delay_ms));
    }
    let mut late = Vec::new();
    for (id, delay_ms) in tasks {
        let task = host.finished(&id).await;
        assert_eq!(task["status"], "succeeded", "{task}");
        let waited_ms = task["started_at"].as_u64().unwrap() - task["enqueued_at"].as_u64().unwrap();
        assert!(waited_ms >= delay_ms, "a delay of {delay_ms} ms took {waited_ms} ms: {task}");
        late.push((waited_ms - delay_ms, delay_ms));
    }
    late.sort_unstable();
    let beyond = late.iter().filter(|(late_ms, delay_ms)| *late_ms > (delay_ms / 10).max(250)).count();
    let (median, worst) = (late[late.len() / 2], late[late.len() - 1]);
    eprintln!(
        "{TASKS} delays: late by {} ms at the median, by {} ms (of {} ms) at most; {beyond} by more than promised",
        median.0, worst.0, worst.1
    );
}
