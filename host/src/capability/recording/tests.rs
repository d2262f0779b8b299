//! Both sides of a tape against each other, and files of anybody's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::forms::blob;
use super::tape::Side;
use super::*;
use crate::capability::cache::{Cache, MemoryCache, Space};
use crate::capability::key_value::{Bucket, KeyValue, MemoryKeyValue, Swap};
use crate::capability::outbound_http::{MemoryNetwork, Outbound};
use crate::capability::secrets::{EnvironmentSecrets, variable};
use crate::capability::sql::{Column, Kind, LazyDatabase, RowBatch, SqlError, Value as SqlValue};
use crate::capability::{Backends, chain};
use crate::manifest::Manifest;
use crate::task::{AgentName, Completion, Outcome, Task};

const SECRET: &str = "hunter2-and-more";

fn agent() -> AgentName {
    "a".parse().unwrap()
}

fn manifest() -> Manifest {
    let text = "manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\n[secrets]\nrequired = [\"key\"]\n";
    Manifest::parse(text).unwrap()
}

fn backends() -> Backends {
    let secrets = EnvironmentSecrets::new([(variable(&agent(), "key"), SECRET.to_owned())]);
    let directory = |agent: &AgentName| agent.as_str() == "b";
    Backends {
        database: Arc::new(LazyDatabase::new("nowhere".into())),
        key_value: Arc::new(MemoryKeyValue::new()),
        cache: Arc::new(MemoryCache::new()),
        secrets: Arc::new(secrets),
        outbound: Arc::new(Outbound::new(Arc::new(MemoryNetwork::new()))),
        directory: Arc::new(directory),
    }
}

/// The same calls on whatever side: what came of each.
async fn calls(backends: &Backends, key: &str) -> Vec<String> {
    let (bucket, space) = (Bucket::new(&agent(), "b"), Space::new(&agent(), Arc::default()));
    let (kv, cache): (&dyn KeyValue, &dyn Cache) = (&*backends.key_value, &*backends.cache);
    let secret = backends.secrets.get(&agent(), "key").await.unwrap().unwrap();
    kv.set(&bucket, key, vec![0xff, 0]).await.unwrap();
    cache.set(&space, "secret", secret.reveal().as_bytes().to_vec(), Some(Duration::from_secs(9))).await.unwrap();
    vec![
        format!("{:?}", kv.get(&bucket, key).await.unwrap()),
        format!("{:?}", kv.get(&bucket, "nothing").await.unwrap()),
        format!("{:?}", kv.list_keys(&bucket, None).await.unwrap()),
        format!("{:?}", kv.swap(&bucket, key, None, vec![1]).await.unwrap()),
        format!("{:?}", kv.swap(&bucket, key, Some(&[0xff, 0]), vec![1]).await.unwrap() == Swap::Done),
        chain(&kv.increment(&bucket, key, 1).await.unwrap_err()),
        format!("{:?}", kv.get_many(&bucket, &[key.to_owned(), "no".to_owned()]).await.unwrap()),
        format!("{:?}", cache.increment(&space, "n", 3).await.unwrap()),
        format!("{:?}", cache.get(&space, "secret").await.unwrap().map(|value| value.len())),
        format!("{:?}", backends.directory.is_deployed(&"b".parse().unwrap())),
        format!("{:?}", backends.secrets.get(&agent(), "other").await.unwrap()),
    ]
}

async fn file(tape: &Arc<Tape>, body: &str) -> Vec<u8> {
    let recorder = Recorder { tape: Arc::clone(tape), secrets: backends().secrets };
    let completion = Completion::without_a_run(Outcome::Rejected { message: "no".to_owned() });
    let task = Task::new(agent(), body.to_owned());
    recorder.finish((3, "sha256:00", &manifest()), &task, &completion).await.unwrap().unwrap()
}

async fn recorded() -> (Vec<String>, Vec<u8>) {
    let tape = Tape::recording(1 << 20).unwrap();
    let answers = calls(&taped(&backends(), &tape), "k").await;
    for now in [5, 5, 7, 6] {
        tape.read(super::clocks::Which::Wall, || now);
    }
    (answers, file(&tape, &format!("say {SECRET}")).await)
}

#[tokio::test]
async fn what_was_recorded_is_answered_again_without_its_secrets() {
    let (answers, file) = recorded().await;
    assert!(!String::from_utf8_lossy(&file).contains("hunter2"), "{}", String::from_utf8_lossy(&file));
    let recording = Arc::new(Recording::read(&file).unwrap());
    assert_eq!(recording.head.task.body, format!("say {}", super::redact::stand_in("key", SECRET.len())).into_bytes());
    let tape = Tape::playing(Arc::clone(&recording), HashMap::new());
    // Nobody is asked: these would answer otherwise.
    let again = calls(&taped(&backends(), &tape), "k").await;
    assert_eq!(again, answers);
    assert_eq!((tape.over(), tape.left()), (None, None));
    let readings = [(); 5].map(|()| tape.read(super::clocks::Which::Wall, || 0));
    assert_eq!(readings, [5, 5, 7, 6, 6]);
    assert_eq!(tape.over(), Some(Over::PastTheEnd("a reading of the time of day".to_owned())));
}

#[tokio::test]
async fn the_first_other_call_ends_a_replay_and_is_told() {
    let (_, file) = recorded().await;
    let recording = Arc::new(Recording::read(&file).unwrap());
    let tape = Tape::playing(recording, HashMap::new());
    let over = tape.over_token();
    tokio::select! {
        _ = calls_of(&tape, "another") => panic!("it does not go on"),
        () = over.cancelled() => {}
    }
    let Some(Over::Differs(difference)) = tape.over() else { panic!("{:?}", tape.over()) };
    assert_eq!(difference.number, 2);
    assert_eq!(difference.recorded.0, "key-value.set");
    assert_eq!(difference.asked.unwrap().1.get(1), Some(&json!("another")));
}

async fn calls_of(tape: &Arc<Tape>, key: &str) -> Vec<String> {
    calls(&taped(&backends(), tape), key).await
}

#[tokio::test]
async fn a_call_that_was_stopped_is_recorded_without_an_answer() {
    let tape = Tape::recording(1 << 20).unwrap();
    let never = tape.call::<()>("key-value.get", &("b", "k"), std::future::pending());
    assert!(tokio::time::timeout(Duration::from_millis(1), never).await.is_err());
    let recording = Recording::read(&file(&tape, "").await).unwrap();
    assert_eq!(recording.calls, [Call { call: "key-value.get".to_owned(), asked: json!(["b", "k"]), answered: None }]);
}

#[tokio::test]
async fn what_was_ready_when_is_the_same_again() {
    let looks = [true, true, false, false, false, true, false];
    for looks in [&looks[..], &looks[2..], &[]] {
        let tape = Tape::recording(1 << 20).unwrap();
        let Side::Writes(writer) = &tape.side else { panic!("it records") };
        looks.iter().for_each(|is_ready| writer.note_ready(*is_ready));
        let recording = Arc::new(Recording::read(&file(&tape, "").await).unwrap());
        let tape = Tape::playing(recording, HashMap::new());
        let Side::Plays(player) = &tape.side else { panic!("it plays") };
        let again: Vec<bool> = looks.iter().map_while(|_| player.is_ready()).collect();
        assert_eq!(again, looks);
        assert_eq!((tape.over(), player.is_ready()), (None, None));
        assert!(matches!(tape.over(), Some(Over::PastTheEnd(_))));
    }
}

#[tokio::test]
async fn what_passes_the_cap_is_left_out_from_there_on() {
    let tape = Tape::recording(4096).unwrap();
    let call = async |value: String| tape.call("cache.get", &("k",), async { value }).await;
    call("small".to_owned()).await;
    call("x".repeat(5000)).await;
    call("small again".to_owned()).await;
    let recording = Recording::read(&file(&tape, "").await).unwrap();
    assert_eq!(recording.calls.len(), 1);
    assert!(recording.end.left_out.unwrap().contains("record.size = 4KiB"));
    let large = Recording::read(&file(&Tape::recording(4096).unwrap(), &"x".repeat(5000)).await).unwrap();
    assert!(large.head.task.body.is_empty() && large.end.left_out.unwrap().contains("body"));
}

#[tokio::test]
async fn a_secret_that_cannot_be_taken_out_leaves_nothing_in() {
    // Nothing that a task's id, of random hexadecimal digits, has in it by chance.
    for (value, number) in [("xyz", 1), ("1234567890", 1_234_567_890)] {
        let tape = Tape::recording(1 << 20).unwrap();
        let Side::Writes(writer) = &tape.side else { panic!("it records") };
        writer.knows("pin", &crate::secrets::Secret::new(value.to_owned()));
        tape.call("sql.query", &(number,), async { "x".to_owned() }).await;
        let file = file(&tape, "a body").await;
        let recording = Recording::read(&file).unwrap();
        assert_eq!((recording.calls.len(), recording.head.task.body.len()), (0, 0));
        assert!(recording.end.left_out.unwrap().starts_with("everything: "));
        assert!(!String::from_utf8_lossy(&file).contains(value));
    }
}

#[test]
fn values_of_sql_are_the_same_bit_for_bit() {
    let odd = f64::from_bits(0x7ff8_0000_dead_beef);
    let row = vec![
        SqlValue::Null,
        SqlValue::Float64(odd),
        SqlValue::Float32(f32::NEG_INFINITY),
        SqlValue::Float64(0.1 + 0.2),
        SqlValue::Binary(vec![0, 0xff]),
        SqlValue::Json(b"{}".to_vec()),
        SqlValue::ArrayText(vec![None, Some("x".to_owned())]),
    ];
    let batch = RowBatch { rows: vec![row], bytes: 7 };
    let text = serde_json::to_string(&batch).unwrap();
    let read: RowBatch = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    let SqlValue::Float64(number) = read.rows[0][1] else { panic!("{read:?}") };
    assert_eq!(number.to_bits(), odd.to_bits());
    let column = Column { name: "n".to_owned(), kind: Kind::Other("point".to_owned()) };
    assert_eq!(serde_json::from_value::<Column>(serde_json::to_value(&column).unwrap()).unwrap(), column);
    let error = SqlError::Unavailable { what: "away".into(), source: "10.0.0.1".into() };
    let told = serde_json::to_string(&error).unwrap();
    assert!(!told.contains("10.0.0.1"), "{told}");
    assert_eq!(serde_json::from_str::<SqlError>(&told).unwrap().to_string(), "away");
}

fn small() -> Vec<u8> {
    let head = Head {
        format: FORMAT,
        host_version: "1".to_owned(),
        revision: 1,
        digest: "sha256:00".to_owned(),
        manifest: manifest(),
        task: TaskGiven::of(&Task::new(agent(), "x")),
        random_seed: "0".repeat(64),
    };
    let came_of_it = Recorded { outcome: "rejected".to_owned(), message: None, after_ms: None, follow_ups: Vec::new() };
    let end = End {
        monotonic_ns: Readings(vec![(1, 2)]),
        wall_ms: Readings::default(),
        pollable_ready: Vec::new(),
        used_files: false,
        came_of_it,
        left_out: None,
    };
    let call = Call { call: "cache.get".to_owned(), asked: json!(["k"]), answered: Some(Value::Null) };
    let lines = [json!(head), json!(call), json!(end)].map(|line| line.to_string());
    lines.join("\n").into_bytes()
}

#[test]
fn a_file_that_is_no_recording_says_what_is_wrong() {
    let whole = String::from_utf8(small()).unwrap();
    assert_eq!(Recording::read(whole.as_bytes()).unwrap().calls[0].answered, Some(Value::Null));
    let lines: Vec<&str> = whole.lines().collect();
    let without_end = lines[..2].join("\n");
    for (file, told) in [
        (String::new(), "not whole"),
        ("hello".to_owned(), "line 1"),
        (without_end, "not whole"),
        (whole.replace("\"format\":2", "\"format\":1"), "format 1"),
        (whole.replace("\"call\":", "\"cal\":"), "line 2"),
        (whole.replace(&"0".repeat(64), "0"), "random_seed"),
        (whole.replace("\"module\":\"a.wasm\"", "\"module\":\"/etc/passwd\""), "agent.module"),
    ] {
        let error = Recording::read(file.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(told), "{told}: {error}");
    }
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Recording::read(&bytes);
    }

    #[test]
    fn any_damage_to_a_file_is_read_or_refused(at in any::<prop::sample::Index>(), with in any::<u8>(), until in any::<prop::sample::Index>()) {
        let mut file = small();
        let (at, until) = (at.index(file.len()), until.index(file.len()));
        file[at] = with;
        let _ = Recording::read(&file);
        file.truncate(until);
        let _ = Recording::read(&file);
    }

    #[test]
    fn bytes_of_any_kind_come_back(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let text = serde_json::to_string(&blob::Lent(&bytes)).unwrap();
        let blob::Blob(back) = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(back, bytes);
    }
}
