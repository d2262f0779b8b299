//! The rules of [`KeyValue`], as a suite that every implementation is run through.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test suite, compiled only for tests; a broken rule is told by a panic"
)]

use std::collections::BTreeSet;

use futures::future::join_all;

use super::{BATCH_BYTES_MAX, Bucket, KeyValue, KeyValueError, Swap, VALUE_BYTES_MAX};
use crate::task::AgentName;

/// Runs the suite. Each run has agents of its own, so it can be run at a server that is in use.
pub async fn exercise(store: &dyn KeyValue) {
    let agent = unique_agent();
    single_keys(store, &Bucket::new(&agent, "single")).await;
    buckets_do_not_meet(store, &agent).await;
    numbers(store, &Bucket::new(&agent, "numbers")).await;
    swaps(store, &Bucket::new(&agent, "swaps")).await;
    batches(store, &Bucket::new(&agent, "batches")).await;
    listing(store, &Bucket::new(&agent, "listing")).await;
}

fn unique_agent() -> AgentName {
    AgentName::parse(&format!("conformance-{}", uuid::Uuid::new_v4().simple())).unwrap()
}

async fn single_keys(store: &dyn KeyValue, bucket: &Bucket) {
    assert_eq!(store.get(bucket, "absent").await.unwrap(), None);
    assert!(!store.exists(bucket, "absent").await.unwrap());
    store.delete(bucket, "absent").await.unwrap();

    // Values are bytes, keys any text: also what another protocol would take for a command, a pattern or an end of line.
    let every_byte: Vec<u8> = (0..=255).collect();
    for key in ["plain", "", "a b", "line\r\nSET x y\r\n", "*", "k[a-z]?\\", "ключ", "{tag}:x", "nul\0key"] {
        store.set(bucket, key, every_byte.clone()).await.unwrap();
        assert_eq!(store.get(bucket, key).await.unwrap().as_deref(), Some(&*every_byte), "{key:?}");
        assert!(store.exists(bucket, key).await.unwrap(), "{key:?}");
        store.set(bucket, key, Vec::new()).await.unwrap();
        assert_eq!(store.get(bucket, key).await.unwrap().as_deref(), Some(&[][..]), "{key:?}");
        store.delete(bucket, key).await.unwrap();
        assert_eq!(store.get(bucket, key).await.unwrap(), None, "{key:?}");
    }

    let largest = vec![7; VALUE_BYTES_MAX];
    store.set(bucket, "largest", largest.clone()).await.unwrap();
    assert_eq!(store.get(bucket, "largest").await.unwrap(), Some(largest));
    store.delete(bucket, "largest").await.unwrap();
}

async fn buckets_do_not_meet(store: &dyn KeyValue, agent: &AgentName) {
    let (one, other, strangers) =
        (Bucket::new(agent, "a"), Bucket::new(agent, "a-b"), Bucket::new(&unique_agent(), "a"));
    store.set(&one, "key", b"mine".to_vec()).await.unwrap();
    for bucket in [&other, &strangers] {
        assert_eq!(store.get(bucket, "key").await.unwrap(), None);
        assert_eq!(all_keys(store, bucket).await, BTreeSet::new());
        store.delete(bucket, "key").await.unwrap();
    }
    assert_eq!(store.get(&one, "key").await.unwrap(), Some(b"mine".to_vec()));
    assert_eq!(all_keys(store, &one).await, BTreeSet::from(["key".to_owned()]));
}

async fn numbers(store: &dyn KeyValue, bucket: &Bucket) {
    assert_eq!(store.increment(bucket, "n", 5).await.unwrap(), 5);
    assert_eq!(store.increment(bucket, "n", -7).await.unwrap(), -2);
    assert_eq!(store.get(bucket, "n").await.unwrap(), Some(b"-2".to_vec()));

    for not_a_number in ["", "1.5", " 1", "+1", "01", "one", "9223372036854775808"] {
        store.set(bucket, "text", not_a_number.as_bytes().to_vec()).await.unwrap();
        let answer = store.increment(bucket, "text", 1).await;
        assert!(matches!(answer, Err(KeyValueError::NotANumber)), "{not_a_number:?}: {answer:?}");
    }
    store.set(bucket, "most", i64::MAX.to_string().into_bytes()).await.unwrap();
    let over = store.increment(bucket, "most", 1).await;
    assert!(matches!(over, Err(KeyValueError::NotANumber)), "{over:?}");
    assert_eq!(store.get(bucket, "most").await.unwrap(), Some(i64::MAX.to_string().into_bytes()));

    let sums = join_all((0..200).map(|_| store.increment(bucket, "race", 1))).await;
    let distinct: BTreeSet<i64> = sums.into_iter().map(Result::unwrap).collect();
    assert_eq!(distinct.len(), 200, "every increment saw another sum");
    assert_eq!(store.increment(bucket, "race", 0).await.unwrap(), 200);
}

async fn swaps(store: &dyn KeyValue, bucket: &Bucket) {
    // Absent is not the same as empty.
    assert_eq!(store.swap(bucket, "k", Some(b""), b"x".to_vec()).await.unwrap(), Swap::Changed(None));
    assert_eq!(store.swap(bucket, "k", None, b"".to_vec()).await.unwrap(), Swap::Done);
    assert_eq!(store.swap(bucket, "k", None, b"x".to_vec()).await.unwrap(), Swap::Changed(Some(b"".to_vec())));
    assert_eq!(store.swap(bucket, "k", Some(b""), b"\0\xff1".to_vec()).await.unwrap(), Swap::Done);
    assert_eq!(store.get(bucket, "k").await.unwrap(), Some(b"\0\xff1".to_vec()));

    // Of all who saw the same value, one wins.
    let swaps = join_all((0..50u8).map(|n| store.swap(bucket, "k", Some(b"\0\xff1"), vec![n]))).await;
    let won = swaps.into_iter().filter(|swap| matches!(swap, Ok(Swap::Done))).count();
    assert_eq!(won, 1);
}

async fn batches(store: &dyn KeyValue, bucket: &Bucket) {
    store.set_many(bucket, Vec::new()).await.unwrap();
    store.delete_many(bucket, &[]).await.unwrap();
    assert_eq!(store.get_many(bucket, &[]).await.unwrap(), Vec::<Option<Vec<u8>>>::new());

    let entries: Vec<(String, Vec<u8>)> = (0..500).map(|n: u32| (format!("k{n}"), n.to_be_bytes().to_vec())).collect();
    store.set_many(bucket, entries.clone()).await.unwrap();
    for step in [1, 100] {
        let mut keys: Vec<String> = entries.iter().step_by(step).map(|(key, _)| key.clone()).collect();
        keys.insert(1, "absent".to_owned());
        let values = store.get_many(bucket, &keys).await.unwrap();
        assert_eq!(values.len(), keys.len());
        assert_eq!(values[1], None);
        assert_eq!(values[2], Some(entries[step].1.clone()));
        assert_eq!(values[keys.len() - 1], entries.iter().step_by(step).next_back().map(|(_, value)| value.clone()));
    }
    let keys: Vec<String> = entries.into_iter().map(|(key, _)| key).collect();
    store.delete_many(bucket, &keys).await.unwrap();
    assert!(store.get_many(bucket, &keys).await.unwrap().iter().all(Option::is_none));

    // More than a batch may carry, set one by one: refused as a whole, and the store goes on answering.
    let many = BATCH_BYTES_MAX / VALUE_BYTES_MAX + 1;
    let large: Vec<String> = (0..many).map(|n| format!("large{n}")).collect();
    for key in &large {
        store.set(bucket, key, vec![1; VALUE_BYTES_MAX]).await.unwrap();
    }
    let answer = store.get_many(bucket, &large).await;
    assert!(matches!(answer, Err(KeyValueError::LimitExceeded(_))), "{answer:?}");
    assert_eq!(store.get_many(bucket, &large[1..]).await.unwrap().len(), many - 1);
    store.delete_many(bucket, &large).await.unwrap();
}

async fn listing(store: &dyn KeyValue, bucket: &Bucket) {
    assert_eq!(all_keys(store, bucket).await, BTreeSet::new());
    let keys: BTreeSet<String> = (0..2_500).map(|n| format!("key:{n}*")).collect();
    let entries: Vec<_> = keys.iter().map(|key| (key.clone(), b"v".to_vec())).collect();
    for chunk in entries.chunks(1_000) {
        store.set_many(bucket, chunk.to_vec()).await.unwrap();
    }
    assert_eq!(all_keys(store, bucket).await, keys);

    // Keys that stay are all listed, although others come and go meanwhile.
    let mut found = BTreeSet::new();
    let mut cursor = None;
    for round in 0.. {
        let page = store.list_keys(bucket, cursor).await.unwrap();
        found.extend(page.keys);
        store.set(bucket, &format!("new{round}"), Vec::new()).await.unwrap();
        store.delete(bucket, &format!("new{}", round - 1)).await.unwrap();
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert!(found.is_superset(&keys));

    // A cursor that was never given out is harmless.
    for invented in [1, 12_345, u64::MAX] {
        let page = store.list_keys(bucket, Some(invented)).await.unwrap();
        assert!(page.keys.iter().all(|key| keys.contains(key) || key.starts_with("new")));
    }
    let left: Vec<String> = all_keys(store, bucket).await.into_iter().collect();
    store.delete_many(bucket, &left).await.unwrap();
}

async fn all_keys(store: &dyn KeyValue, bucket: &Bucket) -> BTreeSet<String> {
    let (mut keys, mut cursor) = (BTreeSet::new(), None);
    loop {
        let page = store.list_keys(bucket, cursor).await.unwrap();
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return keys;
        }
    }
}
