use super::*;
use crate::broker::conformance::Fixture;
use std::sync::atomic::{AtomicU32, Ordering};

struct Embedded {
    broker: MemoryBroker,
    agents: AtomicU32,
}

#[async_trait::async_trait]
impl Fixture for Embedded {
    fn broker(&self) -> &dyn Broker {
        &self.broker
    }

    fn agent(&self) -> AgentName {
        AgentName::parse(&format!("agent-{}", self.agents.fetch_add(1, Ordering::Relaxed))).unwrap()
    }

    async fn reply_queue(&self) -> (String, mpsc::Receiver<Message>) {
        ("replies".to_owned(), self.broker.reply_queue("replies"))
    }

    async fn dead_letter(&self, agent: &AgentName) -> Message {
        let oldest = self.broker.dead_letters(agent).remove(0);
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let first = |_: &Message| is_first.swap(false, Ordering::Relaxed);
        self.broker.remove_dead_letters(agent, &first).await.unwrap();
        oldest
    }

    async fn clean_up(&self) {}
}

crate::broker_conformance!(Embedded { broker: MemoryBroker::default(), agents: AtomicU32::new(0) });

fn agent() -> AgentName {
    AgentName::parse("a").unwrap()
}

fn of_size(bytes: usize) -> Message {
    Message { body: vec![0; bytes].into(), ..Message::default() }
}

#[tokio::test]
async fn a_full_broker_refuses_new_tasks_and_takes_what_ends_old_ones() {
    let broker = MemoryBroker::new(MemoryLimits { bytes_max: 10_000, ..MemoryLimits::default() });
    broker.declare(&agent()).await.unwrap();
    broker.publish(Route::Agent(agent()), of_size(9_000)).await.unwrap();
    let refused = broker.publish(Route::Agent(agent()), of_size(9_000)).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    broker.publish(Route::Delayed(agent(), Duration::from_secs(60)), of_size(9_000)).await.unwrap();
    broker.publish(Route::DeadLetter(agent()), of_size(9_000)).await.unwrap();
    let refused = broker.publish(Route::Delayed(agent(), Duration::from_secs(60)), of_size(9_000)).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    let mut consumer = broker.consume(&agent(), 1).await.unwrap();
    consumer.deliveries.recv().await.unwrap().receipt.acknowledge();
    broker.publish(Route::Agent(agent()), of_size(100)).await.unwrap();
}

#[tokio::test]
async fn a_reply_queue_that_nobody_reads_refuses_for_good() {
    let broker = MemoryBroker::new(MemoryLimits { replies_max: 1, ..MemoryLimits::default() });
    let mut replies = broker.reply_queue("replies");
    let reply = async || broker.publish(Route::Reply("replies".to_owned()), of_size(1)).await;
    reply().await.unwrap();
    let refused = reply().await;
    assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?}");
    replies.recv().await.unwrap();
    reply().await.unwrap();
}

#[tokio::test]
async fn the_oldest_dead_letters_make_room() {
    let broker = MemoryBroker::new(MemoryLimits { dead_letters_bytes_max: 2_000, ..MemoryLimits::default() });
    broker.declare(&agent()).await.unwrap();
    for id in ["one", "two", "three"] {
        let dead = Message { message_id: Some(id.to_owned()), ..of_size(600) };
        broker.publish(Route::DeadLetter(agent()), dead).await.unwrap();
    }
    let kept: Vec<_> = broker.dead_letters(&agent()).into_iter().filter_map(|letter| letter.message_id).collect();
    assert_eq!(kept, ["two", "three"]);
}

#[tokio::test]
async fn removed_dead_letters_make_room() {
    let broker = MemoryBroker::new(MemoryLimits { dead_letters_bytes_max: 2_000, ..MemoryLimits::default() });
    broker.declare(&agent()).await.unwrap();
    let bury = async |id: &str| {
        let dead = Message { message_id: Some(id.to_owned()), ..of_size(600) };
        broker.publish(Route::DeadLetter(agent()), dead).await.unwrap();
    };
    bury("one").await;
    bury("two").await;
    let is_two = |message: &Message| message.message_id.as_deref() == Some("two");
    assert_eq!(broker.remove_dead_letters(&agent(), &is_two).await.unwrap().len(), 1);
    bury("three").await;
    let kept: Vec<_> = broker.dead_letters(&agent()).into_iter().filter_map(|letter| letter.message_id).collect();
    assert_eq!(kept, ["one", "three"]);
}
