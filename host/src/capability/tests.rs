//! The boundary itself: what a guest's calls are answered with, with and without a grant.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wasmtime::component::{Linker, Resource, ResourceTable};

use super::outbound_http::{MemoryNetwork, Outbound};
use super::{Backends, Capabilities, Finished, MakeEnding, Session, View, cache, key_value, secrets, sql};
use crate::manifest::Manifest;
use crate::records::Progress;
use crate::task::{AgentName, FollowUp, Task, TaskId};
use crate::wit::capabilities::{agent::runtime as own, wasi};

const GRANTED: &str = r#"
[grants]
key_value = ["default"]
cache = true
tasks = ["counter", "gone"]
[limits]
log = "64B"
[config]
quorum = "60"
[secrets]
required = ["api-key", "unset"]
"#;

struct Guest {
    capabilities: Capabilities,
    session: Session,
    table: ResourceTable,
}

impl Guest {
    fn new(manifest: &str) -> Self {
        Self::of_task(manifest, "task-1")
    }

    fn of_task(manifest: &str, id: &str) -> Self {
        let head = "manifest_version = 1\n[agent]\nname = \"voter\"\nmodule = \"voter.wasm\"\n";
        let manifest = Arc::new(Manifest::parse(&[head, manifest].concat()).unwrap());
        let variable = ("AGENT_HOST_SECRET_VOTER_API_KEY".to_owned(), "hunter2".to_owned());
        let capabilities = Capabilities::new(Backends {
            // Never started: no agent here is granted sql.
            database: Arc::new(sql::LazyDatabase::new("no-such-folder".into())),
            key_value: Arc::new(key_value::MemoryKeyValue::new()),
            cache: Arc::new(cache::MemoryCache::new()),
            secrets: Arc::new(secrets::EnvironmentSecrets::new([variable])),
            outbound: Arc::new(Outbound::new(Arc::new(MemoryNetwork::new()))),
            directory: Arc::new(|agent: &AgentName| agent.as_str() != "gone"),
        });
        let name = AgentName::parse("voter").unwrap();
        let plan = capabilities.plan(&name, 3, manifest);
        let mut task = Task::new(name, "body");
        task.id = TaskId::parse(id).unwrap();
        task.traceparent = Some("00-trace".to_owned());
        let session = capabilities.session(&plan, &task);
        Self { capabilities, session, table: ResourceTable::new() }
    }

    fn view(&mut self) -> View<'_> {
        View { session: &mut self.session, table: &mut self.table }
    }

    fn submit(&mut self, agent: &str, options: own::tasks::SubmitOptions) -> Result<String, own::tasks::Error> {
        own::tasks::Host::submit(&mut self.view(), agent.to_owned(), b"x".to_vec(), options).unwrap()
    }
}

fn options() -> own::tasks::SubmitOptions {
    own::tasks::SubmitOptions {
        delay_ms: None,
        idempotency_key: None,
        content_type: None,
        headers: Vec::new(),
        max_attempts: None,
    }
}

#[test]
fn everything_that_the_host_offers_links_beside_wasi() {
    struct Store(Session, ResourceTable, wasmtime_wasi::WasiCtx);
    impl wasmtime_wasi::WasiView for Store {
        fn ctx(&mut self) -> wasmtime_wasi::WasiCtxView<'_> {
            wasmtime_wasi::WasiCtxView { ctx: &mut self.2, table: &mut self.1 }
        }
    }
    let engine = wasmtime::Engine::default();
    let mut linker = Linker::<Store>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    super::add_to_linker(&mut linker, |store| View { session: &mut store.0, table: &mut store.1 }).unwrap();
}

#[tokio::test]
async fn a_call_without_a_grant_is_answered_with_the_line_to_add() {
    let mut guest = Guest::new("");
    let denied = own::cache::Host::get(&mut guest.view(), "k".to_owned()).await.unwrap().unwrap_err();
    assert!(matches!(&denied, own::cache::Error::AccessDenied(text) if text.contains("[grants] cache = true")));
    let denied = own::sql::HostConnection::open(&mut guest.view(), "main".to_owned()).unwrap().unwrap_err();
    let line = r#"[grants] sql = [{ name = "main" }]"#;
    assert!(matches!(&denied, own::sql::Error::AccessDenied(text) if text.contains(line)), "{denied:?}");
    let denied = guest.submit("counter", options()).unwrap_err();
    assert!(matches!(&denied, own::tasks::Error::AccessDenied(text) if text.contains(r#"tasks = ["counter"]"#)));
    let denied = own::secrets::Host::get(&mut guest.view(), "api-key".to_owned()).await.unwrap().unwrap_err();
    assert!(matches!(&denied, own::secrets::Error::AccessDenied(text) if text.contains(r#"required = ["api-key"]"#)));
    use wasi::keyvalue0_2_0_draft2::store as kv;
    let denied = kv::Host::open(&mut guest.view(), "default".to_owned()).unwrap().unwrap_err();
    assert!(matches!(denied, kv::Error::AccessDenied));
    use wasi::keyvalue0_2_0_draft::store as older;
    let denied = older::Host::open(&mut guest.view(), "default".to_owned()).unwrap().unwrap_err();
    assert!(matches!(denied, older::Error::AccessDenied));

    let Finished { result, follow_ups, host_calls, .. } = guest.session.finish(Some(&no_ending)).await;
    assert!(result.is_ok() && follow_ups.is_empty());
    assert_eq!(host_calls, 6);
}

#[tokio::test]
async fn both_drafts_see_the_same_bucket() {
    use wasi::keyvalue0_2_0_draft::{atomics as older_atomics, store as older};
    use wasi::keyvalue0_2_0_draft2::{atomics, batch, store as newer};
    let mut guest = Guest::new(GRANTED);
    let one = older::Host::open(&mut guest.view(), "default".to_owned()).unwrap().unwrap().rep();
    let other = newer::Host::open(&mut guest.view(), "default".to_owned()).unwrap().unwrap().rep();
    let borrow = Resource::<key_value::Bucket>::new_borrow;
    older::HostBucket::set(&mut guest.view(), borrow(one), "k".to_owned(), b"v".to_vec()).await.unwrap().unwrap();
    let value = newer::HostBucket::get(&mut guest.view(), borrow(other), "k".to_owned()).await.unwrap().unwrap();
    assert_eq!(value, Some(b"v".to_vec()));
    let sum = older_atomics::Host::increment(&mut guest.view(), borrow(one), "n".to_owned(), 2).await.unwrap().unwrap();
    assert_eq!(sum, 2);
    let sum = atomics::Host::increment(&mut guest.view(), borrow(other), "n".to_owned(), -3).await.unwrap().unwrap();
    assert_eq!(sum, -1);
    let below = older_atomics::Host::increment(&mut guest.view(), borrow(one), "n".to_owned(), 0).await.unwrap();
    assert!(below.is_err(), "a number below 0 is none of the older draft's");
    let keys = vec!["k".to_owned(), "absent".to_owned()];
    let values = batch::Host::get_many(&mut guest.view(), borrow(other), keys).await.unwrap().unwrap();
    assert_eq!(values, vec![("k".to_owned(), Some(b"v".to_vec())), ("absent".to_owned(), None)]);

    // The handle that a lost race gives back knows the value of now, and wins.
    let cas = atomics::HostCas::new(&mut guest.view(), borrow(other), "k".to_owned()).await.unwrap().unwrap();
    older::HostBucket::set(&mut guest.view(), borrow(one), "k".to_owned(), b"w".to_vec()).await.unwrap().unwrap();
    let lost = atomics::Host::swap(&mut guest.view(), cas, b"x".to_vec()).await.unwrap().unwrap_err();
    let atomics::CasError::CasFailed(cas) = lost else { panic!("{lost:?}") };
    let seen = atomics::HostCas::current(&mut guest.view(), Resource::new_borrow(cas.rep())).await.unwrap().unwrap();
    assert_eq!(seen, Some(b"w".to_vec()));
    atomics::Host::swap(&mut guest.view(), cas, b"x".to_vec()).await.unwrap().unwrap();

    // Limits are answers, not traps; a handle that is not there is a trap.
    let long = "k".repeat(key_value::KEY_BYTES_MAX + 1);
    let error = newer::HostBucket::get(&mut guest.view(), borrow(other), long).await.unwrap().unwrap_err();
    assert!(matches!(error, newer::Error::Other(text) if text.contains("1024")));
    assert!(newer::HostBucket::get(&mut guest.view(), borrow(999), "k".to_owned()).await.is_err());
}

#[tokio::test]
async fn hits_and_misses_are_counted_per_agent() {
    let mut guest = Guest::new(GRANTED);
    own::cache::Host::set(&mut guest.view(), "k".to_owned(), b"v".to_vec(), Some(0)).await.unwrap().unwrap();
    own::cache::Host::set(&mut guest.view(), "k".to_owned(), b"v".to_vec(), None).await.unwrap().unwrap();
    own::cache::Host::get(&mut guest.view(), "k".to_owned()).await.unwrap().unwrap();
    let keys = vec!["k".to_owned(), "absent".to_owned(), "gone".to_owned()];
    own::cache::Host::get_many(&mut guest.view(), keys).await.unwrap().unwrap();
    let counts = guest.capabilities.cache_counts();
    assert_eq!(counts.len(), 1);
    assert_eq!((counts[0].1.hits(), counts[0].1.misses()), (2, 2));
}

/// For sessions that use no SQL: their ends are recorded elsewhere.
fn no_ending(_: &[FollowUp], _: u64) -> crate::records::Ending {
    panic!("nothing is committed")
}

#[tokio::test]
async fn follow_ups_leave_with_a_success_and_repeat_their_ids() {
    let submit_two = async |commit: bool| {
        let mut guest = Guest::new(GRANTED);
        let key = Some("key".to_owned());
        let first = guest.submit("counter", options()).unwrap();
        let second = guest.submit("counter", options()).unwrap();
        let named = guest.submit("counter", own::tasks::SubmitOptions { idempotency_key: key, ..options() }).unwrap();
        assert!(first != second && second != named);
        let finished = guest.session.finish(commit.then_some(&no_ending as MakeEnding<'_>)).await;
        (vec![first, second, named], finished.follow_ups)
    };
    let (ids, follow_ups) = submit_two(true).await;
    let left: Vec<&str> = follow_ups.iter().map(|follow_up| follow_up.task.id.as_str()).collect();
    assert_eq!(left, ids);
    assert_eq!(follow_ups[0].task.traceparent.as_deref(), Some("00-trace"));
    let counter = AgentName::parse("counter").unwrap();
    assert_eq!(ids[2], TaskId::from_idempotency_key(&counter, "key").as_str());
    let (again, none) = submit_two(false).await;
    assert_eq!(again, ids, "a retry of the task submits the same tasks");
    assert_eq!(none, Vec::new());
    let other = Guest::of_task(GRANTED, "task-2").submit("counter", options()).unwrap();
    assert!(!ids.contains(&other));
    // Where nothing is transactional, what was submitted was submitted.
    let mut guest = Guest::new(&[GRANTED, "[effects]\ntransaction = \"statement\"\n"].concat());
    guest.submit("counter", options()).unwrap();
    assert_eq!(guest.session.finish(None).await.follow_ups.len(), 1);
}

#[tokio::test]
async fn options_of_follow_ups_are_checked() {
    let mut guest = Guest::new(GRANTED);
    let header = |name: &str, value: &str| own::tasks::SubmitOptions {
        headers: vec![(name.to_owned(), value.to_owned())],
        ..options()
    };
    let invalid = [
        own::tasks::SubmitOptions { delay_ms: Some(u64::MAX), ..options() },
        own::tasks::SubmitOptions { max_attempts: Some(0), ..options() },
        own::tasks::SubmitOptions { idempotency_key: Some(String::new()), ..options() },
        own::tasks::SubmitOptions { idempotency_key: Some("\0task-1\0 0".to_owned()), ..options() },
        own::tasks::SubmitOptions { content_type: Some("a\nb".to_owned()), ..options() },
        header("X-Attempt", "9"),
        header("X-Generation", "9"),
        header("", "v"),
        header("a b", "v"),
        header("a", "line\r\nbreak"),
        header("a", &"v".repeat(20_000)),
    ];
    for options in invalid {
        let answer = guest.submit("counter", options);
        assert!(matches!(answer, Err(own::tasks::Error::InvalidOption(_))), "{answer:?}");
    }
    assert!(matches!(guest.submit("gone", options()), Err(own::tasks::Error::UnknownAgent(_))));
    for _ in 0..super::tasks::FOLLOW_UPS_MAX {
        guest.submit("counter", options()).unwrap();
    }
    assert!(matches!(guest.submit("counter", options()), Err(own::tasks::Error::LimitExceeded(_))));

    let mut guest = Guest::new(GRANTED);
    let sent = own::tasks::SubmitOptions {
        delay_ms: Some(1_500),
        headers: [("B", "2"), ("X-Partition-Key", "k"), ("a", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        content_type: Some("text/plain".to_owned()),
        max_attempts: Some(2),
        ..options()
    };
    guest.submit("counter", sent).unwrap();
    let follow_up = guest.session.finish(Some(&no_ending)).await.follow_ups.remove(0);
    assert_eq!(follow_up.delay, Duration::from_millis(1_500));
    let headers = vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
    assert_eq!((follow_up.task.headers, follow_up.task.attempts_max), (headers, Some(2)));
    assert_eq!(follow_up.task.content_type, "text/plain");
    assert_eq!(follow_up.task.partition_key.as_deref(), Some("k"));
}

#[tokio::test]
async fn secrets_and_config_are_the_agents_own() {
    let mut guest = Guest::new(GRANTED);
    let secret = own::secrets::Host::get(&mut guest.view(), "api-key".to_owned()).await.unwrap().unwrap();
    assert_eq!(own::secrets::HostSecret::reveal(&mut guest.view(), secret).unwrap(), "hunter2");
    let unset = own::secrets::Host::get(&mut guest.view(), "unset".to_owned()).await.unwrap().unwrap_err();
    let variable = "AGENT_HOST_SECRET_VOTER_UNSET";
    assert!(matches!(&unset, own::secrets::Error::NotSet(text) if text.contains(variable)), "{unset:?}");
    let manifest = guest.session.plan().manifest().clone();
    let unset = secrets::MissingSecret { name: "unset".to_owned(), unreadable: None };
    assert!(unset.told(&manifest.agent.name).contains(variable), "{}", unset.told(&manifest.agent.name));
    assert_eq!(guest.capabilities.missing_secrets(&manifest).await.unwrap(), [unset]);

    let get = |guest: &mut Guest, key: &str| wasi::config::store::Host::get(&mut guest.view(), key.to_owned());
    assert_eq!(get(&mut guest, "quorum").unwrap().unwrap(), Some("60".to_owned()));
    assert_eq!(get(&mut guest, "absent").unwrap().unwrap(), None);
}

#[test]
fn progress_cancellation_and_log_are_the_tasks_own() {
    let noted = Arc::new(Mutex::new(Vec::new()));
    let (sink, token) = (Arc::clone(&noted), CancellationToken::new());
    let mut guest = Guest::new(GRANTED);
    let session = guest.session.with_cancellation(token.clone());
    guest.session = session.with_progress(Arc::new(move |progress: Progress| sink.lock().unwrap().push(progress)));
    for fraction in [-1.0, 0.5, 7.0, f64::NAN] {
        own::tasks::Host::progress(&mut guest.view(), fraction, Some("a\nb".to_owned())).unwrap();
    }
    let fractions: Vec<f32> = noted.lock().unwrap().iter().map(|progress| progress.fraction).collect();
    assert_eq!(fractions, [0.0, 0.5, 1.0, 0.0]);
    assert_eq!(noted.lock().unwrap()[0].note, "a\\nb");

    assert!(!own::tasks::Host::is_cancelled(&mut guest.view()).unwrap());
    token.cancel();
    assert!(own::tasks::Host::is_cancelled(&mut guest.view()).unwrap());

    use wasi::logging::logging::{Host, Level};
    for expected in [false, false, true] {
        Host::log(&mut guest.view(), Level::Info, String::new(), "thirty bytes of text, or there".to_owned()).unwrap();
        assert_eq!(guest.session.log().is_cut(), expected);
    }
}
