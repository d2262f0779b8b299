//! A client that nobody here wrote: Python's pika enqueues for every sample agent and reads the replies.

use std::process::Stdio;

use tokio::process::Command;

use super::common::{HostBuilder, service};

#[tokio::test]
async fn a_stranger_enqueues_and_reads_the_replies() {
    let python = std::env::var("AGENT_HOST_TEST_PYTHON")
        .expect("AGENT_HOST_TEST_PYTHON names a Python with pika: run cargo xtask test, or set it");
    let mut host = HostBuilder::real().with_samples().start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/foreign_client.py");
    let output = Command::new(python)
        .arg(script)
        .env("AMQP_URL", service("AMQP_URL"))
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}\n{}", host.log());
    assert!(said.contains("every reply came and was right"), "{said}");
}
