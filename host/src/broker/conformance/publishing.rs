//! Cases about what `publish` promises.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{Fixture, as_sent, consume, declared, full_message, id, message, next, publish, until_depth, within};
use crate::delivery::envelope;
use crate::delivery::{Message, PublishError, QueueDepth, Route};
use crate::task::unix_ms_now;

/// Every property, every kind of header and the body come through unchanged.
pub async fn a_message_arrives_as_it_was_sent(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    fixture.broker().publish(Route::Agent(agent.clone()), full_message()).await.unwrap();
    let delivery = next(&mut consume(fixture, &agent, 1).await).await;
    assert_eq!(as_sent(&delivery.message), full_message());
    assert!(!delivery.redelivered);
    delivery.receipt.acknowledge();
}

/// A body of many frames.
pub async fn a_large_body_arrives(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    let body: Vec<u8> = (0..1024 * 1024u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let sent = Message { message_id: Some("large".to_owned()), body: body.into(), ..Message::default() };
    fixture.broker().publish(Route::Agent(agent.clone()), sent.clone()).await.unwrap();
    let delivery = next(&mut consume(fixture, &agent, 1).await).await;
    assert!(as_sent(&delivery.message) == sent);
    delivery.receipt.acknowledge();
}

/// First in, first out, for one consumer and messages that are sent one after the other.
pub async fn messages_arrive_in_order(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    let ids: Vec<String> = (0..50).map(|n| format!("m{n}")).collect();
    for id in &ids {
        publish(fixture, &agent, id).await;
    }
    let mut consumer = consume(fixture, &agent, 10).await;
    for wanted in &ids {
        let delivery = next(&mut consumer).await;
        assert_eq!(&id(&delivery), wanted);
        delivery.receipt.acknowledge();
    }
}

/// Nobody's agent, nobody's reply queue, nobody's dead letters.
pub async fn what_no_queue_takes_is_unroutable(fixture: &dyn Fixture) {
    let agent = fixture.agent();
    for route in [Route::Agent(agent.clone()), Route::Reply(format!("nobody.{agent}")), Route::DeadLetter(agent)] {
        let refused = fixture.broker().publish(route.clone(), message("lost")).await;
        assert!(matches!(refused, Err(PublishError::Unroutable { .. })), "{route:?}: {refused:?}");
    }
}

/// With many in flight, the ones that no queue takes are told apart from the others, each of them.
pub async fn every_message_gets_its_own_verdict(fixture: &dyn Fixture) {
    // So many, and one unroutable among ten, because confirms and returns overtake each other only now and then: under
    // a driver's own pairing a handful of these get the wrong verdict.
    const MESSAGES: u64 = 20_000;
    const ONE_IN: u64 = 10;
    let (agent, nobody) = (declared(fixture).await, fixture.agent());
    let is_lost = |n: u64| n.is_multiple_of(ONE_IN);
    let attempts = (0..MESSAGES).map(|n| {
        let (agent, id) = (if is_lost(n) { nobody.clone() } else { agent.clone() }, format!("m{n}"));
        async move { (n, fixture.broker().publish(Route::Agent(agent), message(&id)).await) }
    });
    for (n, verdict) in within("the verdicts", join_all(attempts)).await {
        match verdict {
            Ok(()) => assert!(!is_lost(n), "message {n} went nowhere and was called safe"),
            Err(PublishError::Unroutable { .. }) => {
                assert!(is_lost(n), "message {n} is safe and was called lost");
            }
            Err(error) => panic!("message {n}: {error:?}"),
        }
    }
    let ready = MESSAGES - MESSAGES / ONE_IN;
    until_depth(fixture.broker(), &agent, QueueDepth { ready, dead: 0 }).await;
}

/// The default exchange with the sender's routing key.
pub async fn results_reach_their_reply_queue(fixture: &dyn Fixture) {
    let (routing_key, mut replies) = fixture.reply_queue().await;
    fixture.broker().publish(Route::Reply(routing_key), full_message()).await.unwrap();
    assert_eq!(within("the reply", replies.recv()).await.unwrap(), full_message());
}

/// Dead letters are counted apart from tasks, and are read unchanged.
pub async fn dead_letters_are_kept(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    publish(fixture, &agent, "alive").await;
    fixture.broker().publish(Route::DeadLetter(agent.clone()), full_message()).await.unwrap();
    until_depth(fixture.broker(), &agent, QueueDepth { ready: 1, dead: 1 }).await;
    assert_eq!(as_sent(&fixture.dead_letter(&agent).await), full_message());
}

/// Some are taken out; the others stay, and whole.
pub async fn unwanted_dead_letters_are_removed(fixture: &dyn Fixture) {
    const LETTERS: usize = 50;
    let agent = declared(fixture).await;
    let is_odd = |message: &Message| {
        message.message_id.as_ref().and_then(|id| id.parse::<usize>().ok()).is_some_and(|n| n % 2 == 1)
    };
    let remove = || fixture.broker().remove_dead_letters(&agent, &is_odd);
    assert_eq!(within("an empty queue", remove()).await.unwrap(), []);
    for n in 0..LETTERS {
        fixture.broker().publish(Route::DeadLetter(agent.clone()), message(&n.to_string())).await.unwrap();
    }
    let removed = within("the removal", remove()).await.unwrap();
    let expected = (0..LETTERS).filter(|n| n % 2 == 1).map(|n| n.to_string());
    let expected: Vec<_> = expected.map(|id| Message { body: bytes::Bytes::new(), ..message(&id) }).collect();
    assert_eq!(removed.iter().map(as_sent).collect::<Vec<_>>(), expected);
    let left = u64::try_from(LETTERS / 2).unwrap();
    until_depth(fixture.broker(), &agent, QueueDepth { ready: 0, dead: left }).await;
    assert_eq!(within("nothing to remove", remove()).await.unwrap(), []);
    until_depth(fixture.broker(), &agent, QueueDepth { ready: 0, dead: left }).await;
    let mut kept = Vec::new();
    for _ in 0..left {
        let letter = fixture.dead_letter(&agent).await;
        let id = letter.message_id.clone().unwrap();
        assert_eq!(as_sent(&letter), message(&id));
        kept.push(id.parse::<usize>().unwrap());
    }
    kept.sort_unstable();
    assert_eq!(kept, (0..LETTERS).filter(|n| n % 2 == 0).collect::<Vec<_>>());
}

/// Delayed messages come after their delay, and shorter ones do not wait for longer ones.
pub async fn a_delay_is_never_early(fixture: &dyn Fixture) {
    const DELAYS_MS: [(&str, u64); 3] = [("long", 1100), ("short", 300), ("none", 0)];
    let agent = declared(fixture).await;
    let mut consumer = consume(fixture, &agent, 10).await;
    let delayed = async |id: &str, delay_ms| {
        let route = Route::Delayed(agent.clone(), Duration::from_millis(delay_ms));
        fixture.broker().publish(route, message(id)).await.unwrap();
    };
    // A broker may take its time with queues that are new.
    for (id, delay_ms) in DELAYS_MS {
        delayed(id, delay_ms).await;
    }
    for _ in DELAYS_MS {
        next(&mut consumer).await.receipt.acknowledge();
    }
    let began = Instant::now();
    for (id, delay_ms) in DELAYS_MS {
        delayed(id, delay_ms).await;
    }
    for (wanted, delay_ms) in DELAYS_MS.into_iter().rev() {
        let delivery = next(&mut consumer).await;
        assert_eq!(id(&delivery), wanted);
        assert!(began.elapsed() >= Duration::from_millis(delay_ms), "{wanted} came after {:?}", began.elapsed());
        delivery.receipt.acknowledge();
    }
}

/// A message whose expiration passes in the queue is not lost to its sender: it arrives, and its deadline has passed.
pub async fn an_expired_message_arrives_with_its_deadline(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    let sent = Message { expiration: Some("1".to_owned()), ..message("late") };
    fixture.broker().publish(Route::Agent(agent.clone()), sent).await.unwrap();
    // Not consumed before it has expired: an expired message leaves the queue of itself only at its head.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let delivery = next(&mut consume(fixture, &agent, 1).await).await;
    let task = envelope::parse(&agent, &delivery.message, unix_ms_now()).unwrap();
    assert_eq!(task.id.as_str(), "late");
    assert!(task.is_expired(unix_ms_now()), "{task:?}");
    delivery.receipt.acknowledge();
}
