//! The rules of [`Cache`], as a suite that every implementation is run through.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test suite, compiled only for tests; a broken rule is told by a panic"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{BATCH_BYTES_MAX, Cache, CacheError, Space, TTL_MAX, VALUE_BYTES_MAX};
use crate::task::AgentName;

/// Long enough that nothing set with it expires while the suite runs.
const LONG: Duration = Duration::from_secs(600);
/// What is waited at most for a value to expire.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the suite. Each run has agents of its own, so it can be run at a server that is in use.
pub async fn exercise(cache: &dyn Cache) {
    let space = unique_space();
    values(cache, &space).await;
    spaces_do_not_meet(cache, &space).await;
    times_to_live(cache, &space).await;
    numbers(cache, &space).await;
    many(cache, &space).await;
}

fn unique_space() -> Space {
    let name = format!("conformance-{}", uuid::Uuid::new_v4().simple());
    Space::new(&AgentName::parse(&name).unwrap(), Arc::default())
}

async fn values(cache: &dyn Cache, space: &Space) {
    assert_eq!(cache.get(space, "absent").await.unwrap(), None);
    assert!(!cache.delete(space, "absent").await.unwrap());
    let every_byte: Vec<u8> = (0..=255).collect();
    for key in ["plain", "", "line\r\nSET x y\r\n", "*", "ключ", "nul\0key"] {
        cache.set(space, key, every_byte.clone(), None).await.unwrap();
        assert_eq!(cache.get(space, key).await.unwrap().as_deref(), Some(&*every_byte), "{key:?}");
        assert!(cache.delete(space, key).await.unwrap(), "{key:?}");
        assert_eq!(cache.get(space, key).await.unwrap(), None, "{key:?}");
    }
    let largest = vec![7; VALUE_BYTES_MAX];
    cache.set(space, "largest", largest.clone(), Some(LONG)).await.unwrap();
    assert_eq!(cache.get(space, "largest").await.unwrap(), Some(largest));
    assert!(cache.delete(space, "largest").await.unwrap());
}

async fn spaces_do_not_meet(cache: &dyn Cache, space: &Space) {
    let other = unique_space();
    cache.set(space, "key", b"mine".to_vec(), Some(LONG)).await.unwrap();
    assert_eq!(cache.get(&other, "key").await.unwrap(), None);
    assert!(!cache.delete(&other, "key").await.unwrap());
    assert!(!cache.expire(&other, "key", Duration::from_millis(1)).await.unwrap());
    assert_eq!(cache.get(space, "key").await.unwrap(), Some(b"mine".to_vec()));
}

async fn times_to_live(cache: &dyn Cache, space: &Space) {
    let short = Duration::from_millis(30);
    cache.set(space, "short", b"1".to_vec(), Some(short)).await.unwrap();
    cache.set(space, "long", b"1".to_vec(), Some(LONG)).await.unwrap();
    cache.set(space, "longest", b"1".to_vec(), Some(TTL_MAX)).await.unwrap();
    cache.set(space, "forever", b"1".to_vec(), None).await.unwrap();
    until_gone(cache, space, "short").await;
    assert!(!cache.expire(space, "short", LONG).await.unwrap(), "what is gone does not come back");
    assert!(!cache.delete(space, "short").await.unwrap());
    for key in ["long", "longest", "forever"] {
        assert!(cache.get(space, key).await.unwrap().is_some(), "{key}");
    }

    // A new value has a new time to live, or none.
    cache.set(space, "again", b"1".to_vec(), Some(LONG)).await.unwrap();
    cache.set(space, "again", b"2".to_vec(), Some(short)).await.unwrap();
    until_gone(cache, space, "again").await;

    // `expire` shortens and lengthens.
    assert!(cache.expire(space, "forever", short).await.unwrap());
    until_gone(cache, space, "forever").await;
    cache.set(space, "kept", b"1".to_vec(), Some(Duration::from_secs(5))).await.unwrap();
    assert!(cache.expire(space, "kept", LONG).await.unwrap());

    // `increment` keeps it.
    cache.set(space, "number", b"1".to_vec(), Some(Duration::from_millis(300))).await.unwrap();
    assert_eq!(cache.increment(space, "number", 1).await.unwrap(), 2);
    until_gone(cache, space, "number").await;
    assert_eq!(cache.increment(space, "number", 1).await.unwrap(), 1);
}

async fn until_gone(cache: &dyn Cache, space: &Space, key: &str) {
    let began = Instant::now();
    while cache.get(space, key).await.unwrap().is_some() {
        assert!(began.elapsed() < PATIENCE, "{key} outlives its time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn numbers(cache: &dyn Cache, space: &Space) {
    assert_eq!(cache.increment(space, "n", 5).await.unwrap(), 5);
    assert_eq!(cache.increment(space, "n", -7).await.unwrap(), -2);
    for not_a_number in ["", "1.5", " 1", "one"] {
        cache.set(space, "text", not_a_number.as_bytes().to_vec(), None).await.unwrap();
        let answer = cache.increment(space, "text", 1).await;
        assert!(matches!(answer, Err(CacheError::NotANumber)), "{not_a_number:?}: {answer:?}");
    }
    cache.set(space, "least", i64::MIN.to_string().into_bytes(), None).await.unwrap();
    let under = cache.increment(space, "least", -1).await;
    assert!(matches!(under, Err(CacheError::NotANumber)), "{under:?}");

    let sums = join_all((0..200).map(|_| cache.increment(space, "race", 1))).await;
    let distinct: BTreeSet<i64> = sums.into_iter().map(Result::unwrap).collect();
    assert_eq!(distinct.len(), 200, "every increment saw another sum");
}

async fn many(cache: &dyn Cache, space: &Space) {
    assert_eq!(cache.get_many(space, &[]).await.unwrap(), Vec::<Option<Vec<u8>>>::new());
    let keys: Vec<String> = (0..300).map(|n| format!("m{n}")).collect();
    for key in keys.iter().step_by(2) {
        cache.set(space, key, key.clone().into_bytes(), Some(LONG)).await.unwrap();
    }
    for take in [3, 300] {
        let values = cache.get_many(space, &keys[..take]).await.unwrap();
        assert_eq!(values.len(), take);
        for (index, value) in values.into_iter().enumerate() {
            let expected = (index % 2 == 0).then(|| keys[index].clone().into_bytes());
            assert_eq!(value, expected, "{index}");
        }
    }
    let count = BATCH_BYTES_MAX / VALUE_BYTES_MAX + 1;
    let large: Vec<String> = (0..count).map(|n| format!("large{n}")).collect();
    for key in &large {
        cache.set(space, key, vec![1; VALUE_BYTES_MAX], Some(LONG)).await.unwrap();
    }
    let answer = cache.get_many(space, &large).await;
    assert!(matches!(answer, Err(CacheError::LimitExceeded(_))), "{answer:?}");
    for key in &large {
        assert!(cache.delete(space, key).await.unwrap());
    }
}
