//! The pieces of work, each with what it starts from.

use amq_protocol::frame::parsing::parse_content_header;
use amq_protocol::protocol::basic::gen_properties;
use bytes::Bytes;

use crate::convert;
use crate::delivery::{Message, envelope, outgoing};
use crate::memory::{MemoryLedger, MemoryShare, Need};
pub use crate::task::Task;
use crate::task::{AgentName, Output, ReplyTo, TaskId};
use crate::watermark::Watermark;

const NOW_MS: u64 = 1_800_000_000_123;
const BODY: &[u8] = &[b'x'; 256];
/// Class id, weight and body size: what precedes the properties in a content header.
const BEFORE_PROPERTIES: [u8; 12] = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Deliveries that are acknowledged, and how many of them are out of order among themselves: a prefetch.
const DELIVERIES: u64 = 1_024;
const OUT_OF_ORDER: u64 = 64;
/// Finished deliveries after which the broker is told.
const TOLD_EVERY: usize = 64;
/// Tasks that are admitted one after the other, and how many of them run at once.
const TASKS: usize = 256;
const TASKS_AT_ONCE: usize = 64;

/// A task as a client sends it: with a trace, a few headers of its own, and a wish for the result.
#[must_use]
pub fn task() -> Task {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Task {
        id: TaskId::parse("0190a3c4-7c1e-7b3a-9d52-5f0e8e6a1b2c").expect("an id"),
        enqueued_at_ms: NOW_MS,
        deadline_ms: Some(NOW_MS + 60_000),
        headers: vec![header("customer", "4711"), header("region", "eu-west"), header("source", "checkout")],
        content_type: "application/json".to_owned(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        reply: Some(ReplyTo { routing_key: "replies".to_owned(), correlation_id: Some("17".to_owned()) }),
        ..Task::new(agent(), BODY)
    }
}

fn agent() -> AgentName {
    AgentName::parse("voter").expect("a name")
}

/// A task's content header and body as a broker sends them.
#[must_use]
pub fn delivery() -> Vec<u8> {
    let mut frame = submitted(&task());
    frame.extend(BODY);
    frame
}

/// From a delivery's bytes to the task.
#[must_use]
pub fn receive(delivery: &[u8]) -> Task {
    let (body, header) = parse_content_header(delivery).expect("a content header");
    let message = convert::message(&header.properties, body.to_vec());
    envelope::parse(&agent(), &message, NOW_MS).expect("a task")
}

/// From a task to the bytes that submit it.
#[must_use]
pub fn submitted(task: &Task) -> Vec<u8> {
    written(&envelope::submission(task))
}

/// From a task and its output to what is kept of its result, and to the bytes that send it.
#[must_use]
pub fn result(task: &Task) -> (Bytes, Vec<u8>) {
    let output = Output {
        content_type: Some("application/json".to_owned()),
        headers: Vec::new(),
        body: Bytes::from_static(BODY),
    };
    let (route, message) = envelope::result(task, "succeeded", Some(&output), None).expect("a reply is wanted");
    (outgoing::encode(&route, &message), written(&message))
}

/// From a task that failed to the bytes of its next attempt.
#[must_use]
pub fn retried(task: &Task) -> Vec<u8> {
    written(&envelope::retry(&envelope::submission(task), task, 2, 0))
}

fn written(message: &Message) -> Vec<u8> {
    let properties = convert::properties(message).expect("AMQP can carry it");
    cookie_factory::gen_simple(gen_properties(&properties), BEFORE_PROPERTIES.to_vec()).expect("memory can be written")
}

/// Finishes deliveries out of order, and tells the broker as the host does. Gives the number of acknowledgements.
#[must_use]
pub fn acknowledge() -> usize {
    let mut marks = Watermark::default();
    let mut told = 0;
    for first in (1..=DELIVERIES).step_by(usize::try_from(OUT_OF_ORDER).expect("small")) {
        for place in 0..OUT_OF_ORDER {
            // Each place once, none after its neighbour.
            marks.finished(first + place * 37 % OUT_OF_ORDER);
            if marks.untold() >= TOLD_EVERY {
                let acknowledgements = marks.take(false);
                told += usize::from(acknowledgements.up_to.is_some()) + acknowledgements.single.len();
            }
        }
    }
    told
}

/// A ledger with room for all, and an agent's share of it.
pub struct Room(MemoryLedger, MemoryShare);

/// An empty one.
#[must_use]
pub fn room() -> Room {
    let ledger = MemoryLedger::new(500_000_000, 1_000);
    let share = ledger.share();
    Room(ledger, share)
}

/// Admits tasks, with the body of each accounted for, while some others run. Gives how many were admitted.
#[must_use]
pub fn admit(Room(ledger, share): &Room) -> usize {
    let need = Need { initial_bytes: 1_200_000, growth_bytes: 65_536 };
    let mut running = std::collections::VecDeque::with_capacity(TASKS_AT_ONCE);
    let mut admitted = 0;
    for _ in 0..TASKS {
        if running.len() == TASKS_AT_ONCE {
            running.pop_front();
        }
        let charge = ledger.charge_body(BODY.len() as u64);
        if let Some(task) = ledger.try_admit(share, need) {
            admitted += 1;
            running.push_back((task, charge));
        }
    }
    admitted
}
