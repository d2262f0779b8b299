//! Where results go, as its owner wants it: a reply queue that takes no more is nobody else's trouble.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::json;

use super::common::wait_until;
use super::delivery::deploy_misbehaving;
use super::fleet::Fleet;
use super::scripts::{metric, unique};

/// Declares a reply queue that has all that it takes.
async fn full_queue(channel: &Channel) -> String {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, arguments).await.unwrap().name().as_str().to_owned();
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish("".into(), queue.as_str().into(), options, b"all", properties).await.unwrap();
    assert!(sent.await.unwrap().is_ack());
    queue
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_queue_that_takes_no_more_loses_its_results_and_holds_up_nobody() {
    const TASKS: u64 = 30;
    let fleet = Fleet::start().await;
    let mut host = fleet.host().start().await;
    let agent = unique("unread");
    deploy_misbehaving(&host, &agent, "1s").await;
    let connection = Connection::connect(fleet.broker.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let replies = full_queue(&channel).await;
    let ids: Vec<String> = (0..TASKS).map(|_| unique("unread")).collect();
    for id in &ids {
        let properties = BasicProperties::default()
            .with_message_id(id.as_str().into())
            .with_reply_to(replies.as_str().into())
            .with_delivery_mode(2);
        let body = json!({ "do": "reject" }).to_string();
        let (exchange, key, options) = ("agents".into(), agent.as_str().into(), BasicPublishOptions::default());
        let sent = channel.basic_publish(exchange, key, options, body.as_bytes(), properties).await.unwrap();
        assert!(sent.await.unwrap().is_ack());
    }
    let counted = format!("agent_results_unroutable{{agent=\"{agent}\"}}");
    wait_until("each result is given up", async || (metric(&host, &counted).await >= TASKS).then_some(())).await;
    for id in &ids {
        let task = host.finished(id).await;
        assert_eq!((&task["status"], &task["failure"]["type"]), (&json!("failed"), &json!("rejected")), "{task}");
    }
    // Settled, each of them and once: none went back to its queue.
    let settled = format!("agent_settlements{{agent=\"{agent}\",reason=\"rejected\",settlement=\"dead-letter\"}}");
    wait_until("each is settled", async || (metric(&host, &settled).await >= TASKS).then_some(())).await;
    assert_eq!((metric(&host, &counted).await, metric(&host, &settled).await), (TASKS, TASKS));
    let log = host.log_to_its_end().await;
    assert!(!log.contains("handing a task back"), "{log}");
    drop(host);
    fleet.end().await;
}
