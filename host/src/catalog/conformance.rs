//! What every catalog must do, as one suite over both.
#![expect(clippy::expect_used, reason = "a test suite: breaking a rule is a panic")]

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Added, Catalog, Migration, NewRevision};
use crate::task::AgentName;

/// Runs every case, each on agents of its own; `make` opens the catalog.
///
/// # Panics
/// Where a rule is broken.
pub async fn exercise<C: Catalog>(make: impl AsyncFn() -> C) {
    numbers_from_one_and_knows_what_it_has(make().await).await;
    gives_back_what_was_added(make().await).await;
    activates_one_revision_of_an_agent(make().await).await;
    numbers_without_gaps_under_concurrency(&[Arc::new(make().await)]).await;
}

/// A revision of `agent` whose module holds these bytes.
#[must_use]
pub fn revision(agent: &AgentName, manifest: &str, module: impl Into<Bytes>) -> NewRevision {
    let module = module.into();
    let hex: String = Sha256::digest(&module).iter().map(|byte| format!("{byte:02x}")).collect();
    NewRevision {
        agent: agent.clone(),
        digest: format!("sha256:{hex}"),
        manifest: manifest.to_owned(),
        module,
        migrations: vec![
            Migration { name: "0001_a.sql".to_owned(), sql: "CREATE TABLE a (x int); -- \"ä\"".to_owned() },
            Migration { name: "0002_b.sql".to_owned(), sql: "SELECT 1".to_owned() },
        ],
    }
}

/// An agent that no other case knows.
#[must_use]
pub fn new_agent() -> AgentName {
    AgentName::parse(&format!("a{}", uuid::Uuid::now_v7().simple())).expect("a letter and 32 hex digits")
}

async fn numbers_from_one_and_knows_what_it_has(catalog: impl Catalog) {
    let (agent, other) = (new_agent(), new_agent());
    let added = async |revision| catalog.add(revision).await.expect("the catalog takes a revision");
    assert_eq!(added(revision(&agent, "m1", "one")).await, Added::New(1));
    assert_eq!(added(revision(&agent, "m2", "one")).await, Added::New(2), "another manifest is another revision");
    assert_eq!(added(revision(&agent, "m1", "two")).await, Added::New(3), "another module is another revision");
    assert_eq!(added(revision(&agent, "m1", "one")).await, Added::Known(1));
    assert_eq!(added(revision(&agent, "m1", "two")).await, Added::Known(3));
    assert_eq!(added(revision(&other, "m1", "one")).await, Added::New(1), "each agent counts for itself");
}

async fn gives_back_what_was_added(catalog: impl Catalog) {
    let agent = new_agent();
    assert_eq!(catalog.get(&agent, 1).await.expect("readable"), None);
    assert_eq!(catalog.revisions(&agent).await.expect("readable"), []);
    // Larger than any part that it may be kept in, with an odd end; and an empty one.
    let large: Bytes = (0..3_500_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (number, module) in [(1, large), (2, Bytes::new())] {
        let new = revision(&agent, "name = \"ä\"", module);
        assert_eq!(catalog.add(new.clone()).await.expect("writable"), Added::New(number));
        let stored = catalog.get(&agent, number).await.expect("readable").expect("it was added");
        assert_eq!(stored.revision, number);
        assert!(stored.created_at_ms > 1_700_000_000_000);
        assert!(stored.content == new, "what comes back is what was added");
    }
    for unknown in [0, 3, u64::MAX] {
        assert_eq!(catalog.get(&agent, unknown).await.expect("readable"), None);
    }
    let summaries = catalog.revisions(&agent).await.expect("readable");
    assert_eq!(summaries.iter().map(|s| (s.revision, s.module_bytes)).collect::<Vec<_>>(), [(1, 3_500_001), (2, 0)]);
}

async fn activates_one_revision_of_an_agent(catalog: impl Catalog) {
    let agent = new_agent();
    let active = async || {
        let all = catalog.active().await.expect("readable");
        all.into_iter().find(|(name, _)| *name == agent).map(|(_, revision)| revision)
    };
    let activated = async |revision| catalog.activate(&agent, revision).await.expect("writable");
    assert!(!activated(1).await, "an unknown agent");
    for manifest in ["m1", "m2"] {
        catalog.add(revision(&agent, manifest, "module")).await.expect("writable");
    }
    assert_eq!(active().await, None, "adding does not activate");
    for number in [2, 1, 2] {
        assert!(activated(number).await);
        assert_eq!(active().await, Some(number));
    }
    for unknown in [0, 3, u64::MAX] {
        assert!(!activated(unknown).await);
    }
    assert_eq!(active().await, Some(2), "activating what does not exist changes nothing");
    let flags = catalog.revisions(&agent).await.expect("readable");
    assert_eq!(flags.iter().map(|s| s.active).collect::<Vec<_>>(), [false, true]);
}

/// Deploys from all these catalogs (of one fleet) at once, every revision twice.
///
/// # Panics
/// Where a number is missing or given twice.
pub async fn numbers_without_gaps_under_concurrency<C: Catalog>(catalogs: &[Arc<C>]) {
    const REVISIONS: u64 = 20;
    let agent = new_agent();
    let mut adding = tokio::task::JoinSet::new();
    for number in 0..REVISIONS * 2 {
        let manifest = format!("manifest {}", number % REVISIONS);
        let new = revision(&agent, &manifest, "the same module");
        let catalog = catalogs.iter().cycle().nth(usize::try_from(number).unwrap_or(0)).map(Arc::clone);
        let catalog = catalog.expect("at least one catalog");
        adding.spawn(async move { catalog.add(new).await.expect("writable") });
    }
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for added in adding.join_all().await {
        match added {
            Added::New(number) => new.push(number),
            Added::Known(number) => known.push(number),
        }
    }
    new.sort_unstable();
    known.sort_unstable();
    let all: Vec<u64> = (1..=REVISIONS).collect();
    assert_eq!(new, all);
    assert_eq!(known, all);
}
