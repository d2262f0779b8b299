//! Ends, what leaves with them, and what comes back: the inbox, the outbox, cancelling, dead letters.

use bytes::Bytes;

use super::{NEVER, ended, got, new_task, queued, seen_to_end, until, update};
use crate::records::{
    Cancelled, DeadLetter, DeadLetterCursor, DeadLetterFilter, Ended, Ending, NewTask, Outgoing, Queued, Records,
    Status, Taken, UNSENT_BYTES_MAX, Update, outgoing_id,
};
use crate::task::AgentName;

fn outgoing(payload: &'static str) -> Outgoing {
    Outgoing { id: outgoing_id(), payload: Bytes::from_static(payload.as_bytes()) }
}

/// The failure of a task, with its dead letter.
fn failed(task: &NewTask, generation: u32, failed_at_ms: u64) -> (Ending, DeadLetter) {
    let letter = DeadLetter {
        id: task.id.clone(),
        agent: task.agent.clone(),
        generation,
        failed_at_ms,
        error_type: "rejected".to_owned(),
        error_message: "no: \u{e4}".to_owned(),
        attempts: 3,
        revision: Some(7),
        digest: Some("sha256:ab".to_owned()),
        host: "h1".to_owned(),
        message: Bytes::from_static(b"\0letter\xff"),
        recording: None,
    };
    let update = Update { generation, ..ended(task, Status::Failed) };
    (Ending { update, outgoing: vec![outgoing("letter")], dead_letter: Some(letter.clone()), log: None }, letter)
}

pub(super) async fn the_first_end_counts_and_says_so(records: impl Records) {
    let task = new_task("a");
    queued(&records, &task).await;
    let first = records.finished(&ended(&task, Status::Succeeded).into()).await.expect("writable");
    assert_eq!(first, Ended::Now);
    for status in [Status::Succeeded, Status::Failed, Status::Cancelled] {
        let later = Update { started_at_ms: Some(1), ..ended(&task, status) };
        assert_eq!(records.finished(&later.into()).await.expect("writable"), Ended::Before);
    }
    // Many at once: one of them, whichever.
    let task = new_task("b");
    let ends = (0..20).map(|time| {
        let end = Update { started_at_ms: Some(time), ..ended(&task, Status::Succeeded) };
        let records = &records;
        async move { records.finished(&end.into()).await }
    });
    let ends = futures::future::try_join_all(ends).await.expect("writable");
    assert_eq!(ends.iter().filter(|ended| **ended == Ended::Now).count(), 1, "{ends:?}");
}

pub(super) async fn an_end_is_known_to_whoever_asks_before_a_run(records: impl Records) {
    let task = new_task("a");
    let known = async |generation| records.ended(&task.id, generation).await.expect("readable");
    assert_eq!(known(0).await, None, "unknown");
    queued(&records, &task).await;
    assert_eq!(known(0).await, None, "queued");
    records.note(update(&task, Status::Running));
    until(&records, &task, |record| record.status == Status::Running).await;
    assert_eq!(known(0).await, None, "running");
    records.finished(&ended(&task, Status::Succeeded).into()).await.expect("writable");
    assert_eq!(known(0).await, got(&records, &task).await);
    assert_eq!(known(1).await, None, "a redrive is another generation");
}

pub(super) async fn what_leaves_with_an_end_is_kept_until_it_is_sent(records: impl Records) {
    let task = new_task("a");
    let (sent, kept) = (outgoing("sent"), outgoing("kept"));
    let ending = Ending { outgoing: vec![sent.clone(), kept.clone()], ..Ending::from(ended(&task, Status::Succeeded)) };
    records.finished(&ending).await.expect("writable");
    records.sent(vec![sent.id]);
    // The other one is given out after a while, to one caller at a time.
    let mut found = Vec::new();
    let looking = async {
        while found.is_empty() {
            let unsent = records.unsent().await.expect("readable");
            found.extend(unsent.into_iter().filter(|outgoing| [sent.id, kept.id].contains(&outgoing.id)));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, looking).await.expect("it is given out");
    assert_eq!(found, [kept]);
    let again = records.unsent().await.expect("readable");
    assert!(!again.contains(&found[0]), "whoever has it has some time");
}

pub(super) async fn what_would_leave_with_a_second_end_does_not(records: impl Records) {
    let task = new_task("a");
    records.finished(&ended(&task, Status::Succeeded).into()).await.expect("writable");
    let (ending, letter) = failed(&task, 0, 1_700_000_005_000);
    let never = ending.outgoing[0].id;
    assert_eq!(records.finished(&ending).await.expect("writable"), Ended::Before);
    assert_eq!(records.dead_letter(&letter.id).await.expect("readable"), None);
    // What is written after it is due after it.
    let (other, later) = (new_task("b"), outgoing("later"));
    let ending = Ending { outgoing: vec![later.clone()], ..Ending::from(ended(&other, Status::Succeeded)) };
    records.finished(&ending).await.expect("writable");
    let seen = unsent_until(&records, |seen| seen.contains(&later)).await;
    assert!(seen.iter().all(|outgoing| outgoing.id != never), "it was to leave with an end that does not count");
}

pub(super) async fn what_was_left_behind_is_given_out_in_pieces(records: impl Records) {
    // Two that would be too much together, one that is too much alone, and some small ones.
    let sizes = [UNSENT_BYTES_MAX * 5 / 8, UNSENT_BYTES_MAX * 5 / 8, UNSENT_BYTES_MAX + 1, 1_000, 1_000, 1_000];
    let left: Vec<Outgoing> =
        sizes.iter().map(|bytes| Outgoing { id: outgoing_id(), payload: vec![7; *bytes].into() }).collect();
    for outgoing in &left {
        let ending =
            Ending { outgoing: vec![outgoing.clone()], ..Ending::from(ended(&new_task("a"), Status::Succeeded)) };
        records.finished(&ending).await.expect("writable");
    }
    let seen = unsent_until(&records, |seen| left.iter().all(|outgoing| seen.contains(outgoing))).await;
    for outgoing in &left {
        assert_eq!(seen.iter().filter(|seen| seen.id == outgoing.id).count(), 1, "each is given out once");
    }
}

/// What is given out until that is enough, each piece no larger than it may be.
async fn unsent_until(records: &impl Records, is_enough: impl Fn(&[Outgoing]) -> bool) -> Vec<Outgoing> {
    let mut seen = Vec::new();
    let looking = async {
        while !is_enough(&seen) {
            let piece = records.unsent().await.expect("readable");
            let bytes: usize = piece.iter().map(|outgoing| outgoing.payload.len()).sum();
            assert!(bytes <= UNSENT_BYTES_MAX || piece.len() == 1, "{bytes} bytes in {} messages", piece.len());
            seen.extend(piece);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, looking).await.expect("it is given out");
    seen
}

pub(super) async fn a_cancelled_task_ends_in_no_other_way(records: impl Records) {
    let cancel = async |task: &NewTask| records.cancel(&task.id, 1_700_000_003_000).await.expect("writable");
    let (waiting, running, over, unknown) = (new_task("a"), new_task("b"), new_task("c"), new_task("d"));
    for task in [&waiting, &running, &over] {
        queued(&records, task).await;
    }
    records.note(update(&running, Status::Running));
    until(&records, &running, |record| record.status == Status::Running).await;
    records.finished(&ended(&over, Status::Succeeded).into()).await.expect("writable");
    assert_eq!(cancel(&unknown).await, Cancelled::Unknown);
    assert_eq!(cancel(&over).await, Cancelled::Finished(Status::Succeeded));
    let follower = records.follow(&running.id);
    for task in [&waiting, &running] {
        assert_eq!(cancel(task).await, Cancelled::Now);
        assert_eq!(cancel(task).await, Cancelled::Finished(Status::Cancelled));
        let record = got(&records, task).await.expect("it is known");
        assert_eq!((record.status, record.finished_at_ms), (Status::Cancelled, Some(1_700_000_003_000)));
        assert_eq!(record.failure.expect("it says so").kind, "cancelled");
        let late = records.finished(&ended(task, Status::Succeeded).into()).await.expect("writable");
        assert_eq!(late, Ended::Before);
        assert!(records.ended(&task.id, 0).await.expect("readable").is_some(), "it is not run any more");
    }
    assert_eq!(seen_to_end(follower).await.status, Status::Cancelled);
    let all = [&waiting, &running, &over, &unknown].map(|task| task.id.clone()).to_vec();
    let mut cancelled = records.cancelled(all).await.expect("readable");
    cancelled.sort();
    let mut expected = [waiting.id, running.id];
    expected.sort();
    assert_eq!(cancelled, expected);
}

pub(super) async fn runs_of_suspects_are_counted_until_one_ends(records: impl Records) {
    let (message, other) = (outgoing_id().to_string(), outgoing_id().to_string());
    for before in 0..3 {
        assert_eq!(records.suspect_begins(&message).await.expect("writable"), before);
    }
    assert_eq!(records.suspect_begins(&other).await.expect("writable"), 0);
    records.suspect_ends(&message).await.expect("writable");
    records.suspect_ends(&message).await.expect("writable");
    assert_eq!(records.suspect_begins(&message).await.expect("writable"), 0);
    assert_eq!(records.suspect_begins(&other).await.expect("writable"), 1);
}

pub(super) async fn dead_letters_are_listed_page_by_page(records: impl Records) {
    let agent = AgentName::parse(&format!("a{}", outgoing_id().simple())).expect("a valid name");
    let mut expected = Vec::new();
    for number in 0..25 {
        let task = NewTask { agent: agent.clone(), ..new_task("a") };
        // Several at one moment, in no order of their ids.
        let (ending, letter) = failed(&task, 0, 1_700_000_000_000 + number / 3);
        records.finished(&ending).await.expect("writable");
        expected.push(letter);
    }
    expected.sort_by(|a, b| (b.failed_at_ms, &b.id).cmp(&(a.failed_at_ms, &a.id)));
    let filter = DeadLetterFilter { agent: Some(agent.clone()) };
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = records.dead_letters(filter.clone(), after.clone(), 10).await.expect("readable");
        let Some(last) = page.last() else { break };
        after = Some(DeadLetterCursor { failed_at_ms: last.failed_at_ms, id: last.id.clone() });
        listed.extend(page);
    }
    assert!(listed.iter().all(|letter| letter.message.is_empty()), "a list leaves the messages out");
    let ids = |letters: &[DeadLetter]| letters.iter().map(|letter| letter.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&listed), ids(&expected));
    assert_eq!(records.dead_letter(&expected[0].id).await.expect("readable").as_ref(), Some(&expected[0]));
    let all = records.dead_letters(DeadLetterFilter::default(), None, 1_000).await.expect("readable");
    assert!(ids(&expected).iter().all(|id| ids(&all).contains(id)));
}

pub(super) async fn a_recording_goes_with_its_letter(records: impl Records) {
    let (recorded, silent) = (new_task("a"), new_task("b"));
    let file = Bytes::from_static(b"a recording\xff\0");
    let (mut ending, letter) = failed(&recorded, 0, 1_700_000_005_000);
    ending.dead_letter = Some(DeadLetter { recording: Some(file.clone()), ..letter.clone() });
    records.finished(&ending).await.expect("writable");
    records.finished(&failed(&silent, 0, 1_700_000_005_000).0).await.expect("writable");
    assert_eq!(records.recording(&recorded.id).await.expect("readable"), Some(Some(file)));
    assert_eq!(records.recording(&silent.id).await.expect("readable"), Some(None));
    // Nobody who looks at letters gets it.
    assert_eq!(records.dead_letter(&recorded.id).await.expect("readable"), Some(letter));
    let taken = Taken { id: recorded.id.clone(), generation: 0, redrive: None };
    records.take_dead_letters(vec![taken]).await.expect("writable");
    assert_eq!(records.recording(&recorded.id).await.expect("readable"), None);
}

pub(super) async fn a_redriven_task_is_new_and_a_dropped_one_stays_failed(records: impl Records) {
    let agent = AgentName::parse(&format!("a{}", outgoing_id().simple())).expect("a valid name");
    let [again, dropped] = ["a", "b"].map(|body| NewTask { agent: agent.clone(), ..new_task(body) });
    for task in [&again, &dropped] {
        assert_eq!(queued(&records, task).await, Queued::New);
        let (ending, _) = failed(task, 0, 1_700_000_005_000);
        assert_eq!(records.finished(&ending).await.expect("writable"), Ended::Now);
    }
    let take = async |task: &NewTask, generation, redrive: bool| {
        let redrive = redrive.then(|| outgoing("again"));
        let taken = vec![Taken { id: task.id.clone(), generation, redrive }];
        records.take_dead_letters(taken).await.expect("writable")
    };
    assert_eq!(take(&again, 1, true).await, [], "the letter of another generation");
    assert_eq!(take(&again, 0, true).await, std::slice::from_ref(&again.id));
    assert_eq!(take(&again, 0, true).await, [], "once");
    assert_eq!(take(&dropped, 0, false).await, std::slice::from_ref(&dropped.id));
    assert_eq!(records.dead_letter(&again.id).await.expect("readable"), None);
    let record = got(&records, &again).await.expect("it is known");
    assert_eq!((record.status, record.attempt, record.generation), (Status::Queued, 1, 1));
    assert_eq!((record.failure, record.finished_at_ms), (None, None));
    assert_eq!(got(&records, &dropped).await.expect("it is known").status, Status::Failed);
    // Of the letters in the broker's queue it is known that they were taken.
    let mut taken = records.taken_dead_letters(&agent).await.expect("readable");
    taken.sort();
    let mut expected = vec![(again.id.clone(), 0), (dropped.id.clone(), 0)];
    expected.sort();
    assert_eq!(taken, expected);
    let are_some_taken = async || records.agents_with_taken().await.expect("readable").contains(&agent);
    assert!(are_some_taken().await);
    records.forget_taken(taken).await.expect("writable");
    assert_eq!(records.taken_dead_letters(&agent).await.expect("readable"), []);
    assert!(!are_some_taken().await);
    // A late duplicate of the first generation finds that it has had its turn; the redriven one runs.
    assert!(records.ended(&again.id, 0).await.expect("readable").is_some());
    assert_eq!(records.ended(&again.id, 1).await.expect("readable"), None);
    let late = records.finished(&ended(&again, Status::Succeeded).into()).await.expect("writable");
    assert_eq!(late, Ended::Before);
    let second = Update { generation: 1, ..ended(&again, Status::Succeeded) };
    assert_eq!(records.finished(&second.into()).await.expect("writable"), Ended::Now);
    let record = got(&records, &again).await.expect("it is known");
    assert_eq!((record.status, record.generation, record.failure), (Status::Succeeded, 1, None));
    // And may fail again, which is another letter.
    let (ending, letter) = failed(&dropped, 1, 1_700_000_009_000);
    assert_eq!(records.finished(&ending).await.expect("writable"), Ended::Now);
    assert_eq!(records.dead_letter(&dropped.id).await.expect("readable"), Some(letter));
}

/// Also one from before there was a largest one.
pub(super) async fn a_letter_of_an_absurd_generation_is_in_nobodys_way(records: impl Records) {
    let (absurd, other) = (new_task("a"), new_task("b"));
    let mut taken = Vec::new();
    for (task, generation) in [(&absurd, u32::MAX), (&other, 0)] {
        let (ending, letter) = failed(task, generation, 1_700_000_005_000);
        assert_eq!(records.finished(&ending).await.expect("writable"), Ended::Now);
        let letter = records.dead_letter(&letter.id).await.expect("readable").expect("it is listed");
        taken.push(Taken { id: letter.id, generation: letter.generation, redrive: Some(outgoing("again")) });
    }
    let mut really = records.take_dead_letters(taken).await.expect("writable");
    really.sort();
    let mut expected = [absurd.id, other.id];
    expected.sort();
    assert_eq!(really, expected);
}
