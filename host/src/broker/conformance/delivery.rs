//! Cases about consumers and receipts.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Fixture, as_sent, consume, declared, id, message, next, publish, until_depth, within};
use crate::delivery::{PublishError, QueueDepth, Route};

/// No delivery beyond the prefetch, and the next one as soon as there is room.
pub async fn prefetch_bounds_what_is_unsettled(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    for n in 0..5 {
        publish(fixture, &agent, &format!("m{n}")).await;
    }
    let mut consumer = consume(fixture, &agent, 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut consumer).await);
    }
    // The broker has the other two ready, and the consumer is idle: nothing is on its way.
    until_depth(fixture.broker(), &agent, QueueDepth { ready: 2, dead: 0 }).await;
    assert!(consumer.deliveries.try_recv().is_err());
    held.pop().unwrap().receipt.acknowledge();
    assert_eq!(id(&next(&mut consumer).await), "m3");
}

/// As much as the prefetch lets through arrives, however much comes at once.
pub async fn a_prefetch_full_arrives_whole(fixture: &dyn Fixture) {
    const MESSAGES: u16 = 300;
    let agent = declared(fixture).await;
    let ids: Vec<String> = (0..MESSAGES).map(|n| format!("m{n}")).collect();
    within("publishing", futures::future::join_all(ids.iter().map(|id| publish(fixture, &agent, id)))).await;
    let mut consumer = consume(fixture, &agent, MESSAGES).await;
    let mut held = Vec::new();
    for _ in 0..MESSAGES {
        held.push(next(&mut consumer).await);
    }
    let came: BTreeSet<String> = held.iter().map(id).collect();
    assert_eq!(came, ids.into_iter().collect());
    held.into_iter().for_each(|delivery| delivery.receipt.acknowledge());
    until_depth(fixture.broker(), &agent, QueueDepth::default()).await;
}

/// Handed back, it comes again, marked, unchanged, before what is behind it.
pub async fn a_handed_back_delivery_comes_again(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    publish(fixture, &agent, "first").await;
    let mut consumer = consume(fixture, &agent, 1).await;
    let delivery = next(&mut consumer).await;
    publish(fixture, &agent, "second").await;
    delivery.receipt.hand_back();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.redelivered, id(&delivery) == "first");
        assert_eq!(as_sent(&delivery.message), message(&id(&delivery)));
        seen.push(id(&delivery));
        delivery.receipt.acknowledge();
    }
    seen.sort();
    assert_eq!(seen, ["first", "second"]);
}

/// A receipt that nobody spends, and those of a consumer that is dropped whole.
pub async fn a_dropped_receipt_comes_back(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    publish(fixture, &agent, "m").await;
    let mut consumer = consume(fixture, &agent, 2).await;
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    drop((again, consumer));
    let mut other = consume(fixture, &agent, 2).await;
    let delivery = next(&mut other).await;
    assert!(delivery.redelivered);
    delivery.receipt.acknowledge();
    until_depth(fixture.broker(), &agent, QueueDepth::default()).await;
}

/// After its stop a consumer's deliveries end, and what it did not take is there for others.
pub async fn what_a_stopped_consumer_left_goes_to_another(fixture: &dyn Fixture) {
    const MESSAGES: usize = 40;
    let agent = declared(fixture).await;
    for n in 0..MESSAGES {
        publish(fixture, &agent, &format!("m{n}")).await;
    }
    let mut consumer = consume(fixture, &agent, 30).await;
    let taken = next(&mut consumer).await;
    consumer.stop.cancel();
    let mut done = BTreeSet::from([id(&taken)]);
    taken.receipt.acknowledge();
    while let Some(delivery) = within("the end of deliveries", consumer.deliveries.recv()).await {
        delivery.receipt.hand_back();
    }
    assert!(!*within("the consumer's end", consumer.live.wait_for(|live| !live)).await.unwrap());
    let mut other = consume(fixture, &agent, 30).await;
    while done.len() < MESSAGES {
        let delivery = next(&mut other).await;
        done.insert(id(&delivery));
        delivery.receipt.acknowledge();
    }
    until_depth(fixture.broker(), &agent, QueueDepth::default()).await;
}

/// Tasks that run while their consumer is stopped still settle.
pub async fn receipts_outlive_the_stop(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    for n in ["a", "b"] {
        publish(fixture, &agent, n).await;
    }
    let mut consumer = consume(fixture, &agent, 2).await;
    let (a, b) = (next(&mut consumer).await, next(&mut consumer).await);
    consumer.stop.cancel();
    assert!(within("the end of deliveries", consumer.deliveries.recv()).await.is_none());
    a.receipt.acknowledge();
    b.receipt.hand_back();
    let mut other = consume(fixture, &agent, 2).await;
    let delivery = next(&mut other).await;
    assert_eq!(id(&delivery), "b");
    delivery.receipt.acknowledge();
    until_depth(fixture.broker(), &agent, QueueDepth::default()).await;
    assert!(other.deliveries.try_recv().is_err());
}

/// Two consumers get every message once between them, and both get some.
pub async fn consumers_share_a_queue(fixture: &dyn Fixture) {
    const MESSAGES: usize = 100;
    let agent = declared(fixture).await;
    let mut consumers = [consume(fixture, &agent, 5).await, consume(fixture, &agent, 5).await];
    for n in 0..MESSAGES {
        publish(fixture, &agent, &format!("m{n}")).await;
    }
    let (mut seen, mut counts) = (BTreeSet::new(), [0; 2]);
    while seen.len() < MESSAGES {
        let [first, second] = &mut consumers;
        let (who, delivery) = within("a delivery", async {
            tokio::select! {
                delivery = first.deliveries.recv() => (0, delivery),
                delivery = second.deliveries.recv() => (1, delivery),
            }
        })
        .await;
        let delivery = delivery.unwrap();
        assert!(seen.insert(id(&delivery)), "{} came twice", id(&delivery));
        counts[who] += 1;
        delivery.receipt.acknowledge();
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// Tasks finish in any order; one that takes long holds nobody up, and in the end nothing is left.
pub async fn acknowledgements_in_any_order_all_count(fixture: &dyn Fixture) {
    const MESSAGES: usize = 1000;
    let agent = declared(fixture).await;
    let sent = (0..MESSAGES).map(|n| {
        let (agent, id) = (agent.clone(), format!("m{n}"));
        async move { publish(fixture, &agent, &id).await }
    });
    within("publishing", futures::future::join_all(sent)).await;
    let mut consumer = consume(fixture, &agent, 20).await;
    let oldest = next(&mut consumer).await;
    let mut held = Vec::new();
    // Far more than a prefetch full, while the oldest is still running; settled newest first, every seventh handed back.
    let (mut settled, mut handed_back) = (0, BTreeSet::new());
    while settled < MESSAGES - 1 {
        held.push(next(&mut consumer).await);
        if held.len() == 10 || held.len() + settled == MESSAGES - 1 {
            while let Some(delivery) = held.pop() {
                if settled % 7 == 0 && handed_back.insert(id(&delivery)) {
                    delivery.receipt.hand_back();
                } else {
                    settled += 1;
                    delivery.receipt.acknowledge();
                }
            }
        }
    }
    oldest.receipt.acknowledge();
    until_depth(fixture.broker(), &agent, QueueDepth::default()).await;
    consumer.stop.cancel();
    assert!(within("the end of deliveries", consumer.deliveries.recv()).await.is_none());
    within("the consumer's end", consumer.live.wait_for(|live| !live)).await.unwrap();
    let mut other = consume(fixture, &agent, 20).await;
    publish(fixture, &agent, "marker").await;
    let delivery = next(&mut other).await;
    assert_eq!(id(&delivery), "marker");
    delivery.receipt.acknowledge();
}

/// After `close`, consumers have ended and nothing is promised any more.
pub async fn a_closed_broker_does_nothing(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    let mut consumer = consume(fixture, &agent, 1).await;
    within("the close", fixture.broker().close()).await;
    assert!(within("the end of deliveries", consumer.deliveries.recv()).await.is_none());
    let refused = fixture.broker().publish(Route::Delayed(agent.clone(), Duration::ZERO), message("m")).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    assert!(fixture.broker().consume(&agent, 1).await.is_err());
}
