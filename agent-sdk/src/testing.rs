//! The host as an agent's own tests have it, in memory: `cargo test` runs a handler natively, without any WebAssembly.
//!
//! A handler is an ordinary function. On any target but WebAssembly what it calls is answered by the test's world: buckets,
//! a cache with times to live, settings, secrets, log lines and follow-up tasks are kept in memory; statements and requests are
//! answered by functions of the test, which has no PostgreSQL and no network.
//!
//! ```
//! use agent_sdk::testing::World;
//! use agent_sdk::{Failure, kv, tasks};
//!
//! #[agent_sdk::agent]
//! fn handle(page: String) -> Result<String, Failure> {
//!     let visits = kv::Bucket::open("default")?.increment(&page, 1)?;
//!     tasks::to("mail").submit(page)?;
//!     Ok(visits.to_string())
//! }
//!
//! let world = World::new();
//! world.set("default", "/", "41");
//! assert_eq!(handle("/".to_owned()), Ok("42".to_owned()));
//! assert_eq!(world.get("default", "/").as_deref(), Some(&b"42"[..]));
//! assert_eq!(world.submitted()[0].agent, "mail");
//! ```
//!
//! A world belongs to its thread, as each test has one of its own, and ends with the value. What needs the host itself, grants,
//! limits, transactions and SQL as PostgreSQL understands it, is tested by `agent-sim test`.

pub(crate) mod cache;
pub(crate) mod config;
pub(crate) mod http;
pub(crate) mod key_value;
pub(crate) mod log;
pub(crate) mod secrets;
pub(crate) mod sql;
pub(crate) mod tasks;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::log::Level;
use crate::sql::Param;

pub use self::http::Sent;
pub use self::sql::Answer;
pub use self::tasks::Submitted;

/// A line that was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// The module that said it.
    pub context: String,
    /// What it said.
    pub message: String,
}

type AnswerSql = Box<dyn FnMut(&str, &[Param]) -> Answer>;
type AnswerHttp = Box<dyn FnMut(&Sent) -> Result<crate::http::Response, crate::http::Error>>;

#[derive(Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    cache: BTreeMap<String, cache::Entry>,
    /// By how much the clock is ahead.
    passed: Duration,
    config: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    lines: Vec<Line>,
    submitted: Vec<Submitted>,
    progress: Option<(f64, Option<String>)>,
    is_cancelled: bool,
    sql: Option<AnswerSql>,
    http: Option<AnswerHttp>,
}

impl State {
    fn now(&self) -> Instant {
        Instant::now() + self.passed
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with<T>(look: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(look)
}

/// What an agent that is tested finds, and what it leaves. Of this thread.
#[derive(Debug)]
pub struct World {
    /// Stays on its thread.
    _here: PhantomData<*const ()>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        STATE.take();
    }
}

impl World {
    /// An empty one. What another of this thread had is gone.
    pub fn new() -> Self {
        STATE.take();
        Self { _here: PhantomData }
    }

    /// Sets a key of a bucket.
    pub fn set(&self, bucket: &str, key: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref().to_vec();
        with(|state| state.buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), value));
    }

    /// The value of a bucket's key.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        with(|state| state.buckets.get(bucket)?.get(key).cloned())
    }

    /// Sets a key of the cache, for as long as the world lasts.
    pub fn set_cached(&self, key: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref().to_vec();
        with(|state| state.cache.insert(key.to_owned(), cache::Entry { value, until: None }));
    }

    /// The cached value of a key.
    pub fn cached(&self, key: &str) -> Option<Vec<u8>> {
        with(|state| cache::look(state, key))
    }

    /// Lets time pass for what is cached.
    pub fn pass(&self, time: Duration) {
        with(|state| state.passed += time);
    }

    /// Sets a value of `[config]`.
    pub fn set_config(&self, key: &str, value: &str) {
        with(|state| state.config.insert(key.to_owned(), value.to_owned()));
    }

    /// Sets a secret.
    pub fn set_secret(&self, name: &str, value: &str) {
        with(|state| state.secrets.insert(name.to_owned(), value.to_owned()));
    }

    /// Has statements answered by this function, which gets the statement and its parameters.
    pub fn answer_sql(&self, answer: impl FnMut(&str, &[Param]) -> Answer + 'static) {
        with(|state| state.sql = Some(Box::new(answer)));
    }

    /// Has requests over HTTP answered by this function.
    pub fn answer_http(
        &self,
        answer: impl FnMut(&Sent) -> Result<crate::http::Response, crate::http::Error> + 'static,
    ) {
        with(|state| state.http = Some(Box::new(answer)));
    }

    /// Cancels the task.
    pub fn cancel(&self) {
        with(|state| state.is_cancelled = true);
    }

    /// The follow-up tasks so far, in their order.
    pub fn submitted(&self) -> Vec<Submitted> {
        with(|state| state.submitted.clone())
    }

    /// The log so far.
    pub fn log(&self) -> Vec<Line> {
        with(|state| state.lines.clone())
    }

    /// How far the task said it was last, and its note.
    pub fn progress(&self) -> Option<(f64, Option<String>)> {
        with(|state| state.progress.clone())
    }
}
