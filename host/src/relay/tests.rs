use std::collections::HashSet;

use bytes::Bytes;

use super::*;
use crate::broker::conformance::wait_until;
use crate::broker::memory::MemoryBroker;
use crate::dead_letters::{DeadLetters, Redriven, Selection};
use crate::delivery::QueueDepth;
use crate::delivery::envelope::headers::GENERATION_MAX;
use crate::delivery::envelope::{self, BODY_BYTES_MAX};
use crate::records::{
    DeadLetter, DeadLetterCursor, DeadLetterList, MemoryRecords, Status, Taken, TaskRecords, outgoing_id,
};
use crate::task::{Task, TaskId};

/// Far longer than anything here takes: what is awaited never comes.
const NEVER: Duration = Duration::from_secs(60);

/// One message that has left.
const SENT: Tally = Tally { done: 1, waiting: 0, failed: 0 };

/// A host's relay and office over a broker and records in process.
struct Fixture {
    broker: Arc<MemoryBroker>,
    records: Arc<MemoryRecords>,
    relay: Relay,
    office: DeadLetterOffice,
    agent: AgentName,
}

impl Fixture {
    async fn new() -> Self {
        let (broker, records) = (Arc::new(MemoryBroker::default()), Arc::new(MemoryRecords::default()));
        let relay = Relay::new("h".into(), broker.clone(), records.clone(), records.clone());
        let office = DeadLetterOffice::new(relay.clone(), records.clone());
        let agent = AgentName::parse("voter").unwrap();
        broker.declare(&agent).await.unwrap();
        Self { broker, records, relay, office, agent }
    }

    /// A task with such a body that ended as a dead letter, which is in the queue.
    async fn dead(&self, bytes: usize) -> TaskId {
        self.dead_but(bytes, |_| ()).await
    }

    /// The same, with something else about the letter in the list.
    async fn dead_but(&self, bytes: usize, change: impl FnOnce(&mut DeadLetter)) -> TaskId {
        let task = Task::new(self.agent.clone(), vec![0; bytes]);
        let outcome = Outcome::Rejected { message: "no".to_owned() };
        let mut ending = buried::unsent("h", &self.agent, &envelope::submission(&task), &outcome);
        if let Some(letter) = &mut ending.dead_letter {
            change(letter);
        }
        let outgoing = ending.outgoing.clone();
        assert_eq!(self.records.finished(&ending).await.unwrap(), Ended::Now);
        assert_eq!(self.relay.send(outgoing).await, SENT);
        task.id
    }

    async fn redrive_all(&self) -> Redriven {
        self.office.redrive(Selection::AllOf(self.agent.clone())).await.unwrap()
    }

    async fn status(&self, id: &TaskId) -> Option<Status> {
        self.records.get(id).await.unwrap().map(|record| record.status)
    }

    async fn depth(&self) -> QueueDepth {
        self.broker.depth(&self.agent).await.unwrap()
    }

    async fn until_depth(&self, wanted: QueueDepth) {
        wait_until(&format!("{wanted:?}"), async || (self.depth().await == wanted).then_some(())).await;
    }

    async fn listed(&self) -> usize {
        let mut listed = 0;
        let mut after = None;
        loop {
            let page = self.office.list(None, after, 100).await.unwrap();
            let Some(last) = page.last() else { return listed };
            after = Some(DeadLetterCursor { failed_at_ms: last.failed_at_ms, id: last.id.clone() });
            listed += page.len();
        }
    }

    /// A follow-up on its way out.
    fn follow_up(&self, bytes: usize) -> (TaskId, Outgoing) {
        let task = Task::new(self.agent.clone(), vec![0; bytes]);
        let payload = outgoing::encode(&Route::Agent(self.agent.clone()), &envelope::submission(&task));
        (task.id, Outgoing { id: outgoing_id(), payload })
    }
}

#[tokio::test]
async fn all_letters_of_an_agent_are_redriven_and_leave_their_queue() {
    const LETTERS: u64 = 450;
    let host = Fixture::new().await;
    let mut ids = HashSet::new();
    for _ in 0..LETTERS {
        ids.insert(host.dead(10).await.to_string());
    }
    assert_eq!(host.depth().await, QueueDepth { ready: 0, dead: LETTERS });
    assert_eq!(host.redrive_all().await, Redriven { redriven: LETTERS, ..Redriven::default() });
    assert_eq!(host.listed().await, 0);
    host.until_depth(QueueDepth { ready: LETTERS, dead: 0 }).await;
    let mut consumer = host.broker.consume(&host.agent, 1_000).await.unwrap();
    for _ in 0..LETTERS {
        let delivery = tokio::time::timeout(NEVER, consumer.deliveries.recv()).await.unwrap().unwrap();
        let task = envelope::parse(&host.agent, &delivery.message, 1).unwrap();
        assert_eq!((task.generation, task.attempt), (1, 1));
        assert!(ids.remove(task.id.as_str()), "{} comes once", task.id);
        delivery.receipt.acknowledge();
    }
    assert_eq!(host.redrive_all().await, Redriven::default());
}

#[tokio::test]
async fn what_cannot_run_again_stays_and_the_others_do() {
    let host = Fixture::new().await;
    let fine = host.dead(10).await;
    let large = host.dead(BODY_BYTES_MAX + 1).await;
    let foreign = host.dead_but(10, |letter| letter.message = Bytes::from_static(b"\xff")).await;
    let worn = host.dead_but(10, |letter| letter.generation = GENERATION_MAX).await;
    let redriven = host.redrive_all().await;
    assert_eq!(redriven, Redriven { redriven: 1, unsendable: 2, unreadable: 1 });
    assert_eq!((host.status(&fine).await, host.depth().await.ready), (Some(Status::Queued), 1));
    for (id, why) in [(&large, "16777217 bytes"), (&worn, "generation"), (&foreign, "another version")] {
        let error = host.office.redrive(Selection::One(id.clone())).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(host.status(id).await, Some(Status::Failed));
    }
    assert_eq!(host.listed().await, 3);
    assert_eq!(host.office.drop(Selection::AllOf(host.agent.clone())).await.unwrap(), 3);
    assert_eq!(host.listed().await, 0);
}

#[tokio::test]
async fn all_letters_of_an_agent_are_dropped() {
    const LETTERS: u64 = 250;
    let host = Fixture::new().await;
    for _ in 0..LETTERS {
        host.dead(10).await;
    }
    assert_eq!(host.office.drop(Selection::AllOf(host.agent.clone())).await.unwrap(), LETTERS);
    assert_eq!(host.listed().await, 0);
    host.until_depth(QueueDepth::default()).await;
}

#[tokio::test]
async fn letters_that_a_dead_host_took_leave_their_queue_too() {
    let host = Fixture::new().await;
    let (taken, kept) = (host.dead(10).await, host.dead(10).await);
    let dropped = Taken { id: taken, generation: 0, redrive: None };
    host.records.take_dead_letters(vec![dropped]).await.unwrap();
    assert_eq!(host.depth().await.dead, 2);
    host.office.sweep_those_due(&mut HashMap::new()).await;
    let left = host.broker.dead_letters(&host.agent);
    assert_eq!(left.iter().filter_map(|letter| letter.message_id.as_deref()).collect::<Vec<_>>(), [kept.as_str()]);
    assert_eq!(host.records.agents_with_taken().await.unwrap(), []);
}

#[tokio::test]
async fn a_follow_up_that_can_never_be_sent_is_a_dead_letter_of_its_agent() {
    let host = Fixture::new().await;
    let (id, refused) = host.follow_up(BODY_BYTES_MAX + 1);
    assert_eq!(host.relay.send(vec![refused.clone()]).await, SENT);
    let record = host.records.get(&id).await.unwrap().unwrap();
    let failure = record.failure.unwrap();
    assert_eq!((record.status, failure.kind.as_str()), (Status::Failed, "rejected"));
    assert!(failure.message.contains("16777217 bytes"), "{failure:?}");
    let letter = host.records.dead_letter(&id).await.unwrap().unwrap();
    assert_eq!((letter.agent, letter.attempts, letter.host.as_str()), (host.agent.clone(), 0, "h"));
    // Once, and nothing more where it was sent again.
    assert_eq!(host.relay.send(vec![refused]).await, SENT);
    assert_eq!(host.listed().await, 1);
    let stop = CancellationToken::new();
    let relaying = tokio::spawn(host.relay.clone().run(stop.clone()));
    host.until_depth(QueueDepth { ready: 0, dead: 1 }).await;
    stop.cancel();
    tokio::time::timeout(NEVER, relaying).await.unwrap().unwrap();
    assert_eq!(host.broker.dead_letters(&host.agent).len(), 1);
}

#[tokio::test]
async fn a_follow_up_waits_for_an_agent_that_has_no_queue() {
    let host = Fixture { agent: AgentName::parse("gone").unwrap(), ..Fixture::new().await };
    let (id, waiting) = host.follow_up(10);
    for _ in 0..2 {
        let tally = host.relay.send(vec![waiting.clone()]).await;
        assert_eq!(tally, Tally { waiting: 1, ..Tally::default() });
    }
    assert_eq!(host.status(&id).await, None);
    assert!(!host.relay.complaints.is_due("gone"), "it was said once");
    host.broker.declare(&host.agent).await.unwrap();
    assert_eq!(host.relay.send(vec![waiting]).await, SENT);
    assert_eq!(host.depth().await, QueueDepth { ready: 1, dead: 0 });
}
