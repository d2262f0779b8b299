//! What every catalog must do, as one suite over both.
#![expect(clippy::expect_used, reason = "a test suite: breaking a rule is a panic")]

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Actor, Added, AgentEntry, Catalog, Change, ChangeRefused, Following, HostDoing, HostFigures, HostSeen, Migration,
    NewEvent, NewRevision, Tally, Traffic,
};
use crate::signature::{Signature, SignedImage};
use crate::task::AgentName;

/// Runs every case, each on agents of its own; `make` opens the catalog.
///
/// # Panics
/// Where a rule is broken.
pub async fn exercise<C: Catalog>(make: impl AsyncFn() -> C) {
    numbers_from_one_and_knows_what_it_has(make().await).await;
    gives_back_what_was_added(make().await).await;
    adds_signatures_to_what_is_known(make().await).await;
    keeps_the_migrations_that_came_last(make().await).await;
    activates_one_revision_of_an_agent(make().await).await;
    changes_what_there_is_and_refuses_the_rest(make().await).await;
    counts_for_the_split_that_there_is(make().await).await;
    logs_what_was_done(make().await).await;
    tells_of_changes(make().await).await;
    knows_how_far_hosts_are(make().await).await;
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
        signatures: Vec::new(),
    }
}

/// An agent that no other case knows.
#[must_use]
pub fn new_agent() -> AgentName {
    AgentName::parse(&format!("a{}", uuid::Uuid::now_v7().simple())).expect("a letter and 32 hex digits")
}

/// An event of what a case does.
#[must_use]
pub fn event(agent: &AgentName, action: &'static str) -> NewEvent {
    let (actor, host) = (Actor::new("a test"), "here:1".to_owned());
    NewEvent { actor, host, action, agent: Some(agent.clone()), detail: format!("{action}, \"ä\"") }
}

async fn changed(catalog: &impl Catalog, agent: &AgentName, change: Change) -> Result<AgentEntry, ChangeRefused> {
    catalog.change(agent, change, event(agent, "changed")).await.expect("writable")
}

async fn entry(catalog: &impl Catalog, agent: &AgentName) -> Option<AgentEntry> {
    catalog.entries().await.expect("readable").into_iter().find(|entry| entry.agent == *agent)
}

/// An agent with so many revisions, the last one active.
async fn deployed(catalog: &impl Catalog, revisions: u64) -> AgentName {
    let agent = new_agent();
    for number in 1..=revisions {
        let new = revision(&agent, &format!("m{number}"), "module");
        catalog.add(new, event(&agent, "added")).await.expect("writable");
        changed(catalog, &agent, Change::Activate(number)).await.expect("it was added");
    }
    agent
}

async fn knows_how_far_hosts_are(catalog: impl Catalog) {
    let (agent, other) = (new_agent(), new_agent());
    let [first, second] = ["a", "b"].map(|name| format!("{agent}-{name}:8080"));
    let said = |change, error: Option<&str>| Following { change, error: error.map(str::to_owned) };
    let ours = async |of| {
        let mut hosts = catalog.hosts(of).await.expect("readable");
        hosts.retain(|seen| seen.host == first || seen.host == second);
        hosts
    };
    assert_eq!(ours(&agent).await, []);
    let report = async |host: &str, following, figures: &HostFigures| {
        catalog.report(host, &[(agent.clone(), following)].into(), figures).await.expect("writable");
    };
    let busy = HostFigures { per_second: 1.5, p95_ms: Some(7.0), running: 3, ..HostFigures::default() };
    report(&first, said(3, None), &busy).await;
    report(&second, said(3, Some("no \"ä\"")), &HostFigures::default()).await;
    let seen = |host: &String, following| HostSeen { host: host.clone(), following };
    let expected = [seen(&first, Some(said(3, None))), seen(&second, Some(said(3, Some("no \"ä\""))))];
    assert_eq!(ours(&agent).await, expected);
    assert_eq!(ours(&other).await, [seen(&first, None), seen(&second, None)]);
    let doing = async || {
        let mut doing = catalog.doing().await.expect("readable");
        doing.retain(|one| one.host == first || one.host == second);
        doing
    };
    let does = |host: &String, figures: &HostFigures| HostDoing { host: host.clone(), figures: Some(figures.clone()) };
    assert_eq!(doing().await, [does(&first, &busy), does(&second, &HostFigures::default())]);
    report(&second, said(4, None), &busy).await;
    catalog.leave(&first).await.expect("writable");
    assert_eq!(ours(&agent).await, [seen(&second, Some(said(4, None)))]);
    assert_eq!(doing().await, [does(&second, &busy)]);
}

async fn numbers_from_one_and_knows_what_it_has(catalog: impl Catalog) {
    let (agent, other) = (new_agent(), new_agent());
    let added =
        async |revision| catalog.add(revision, event(&agent, "added")).await.expect("the catalog takes a revision");
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
        assert_eq!(catalog.add(new.clone(), event(&agent, "added")).await.expect("writable"), Added::New(number));
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

async fn adds_signatures_to_what_is_known(catalog: impl Catalog) {
    let agent = new_agent();
    let image = SignedImage { payload: "{\"ä\": 1.0}".to_owned(), manifest: "{ \"b\": [] }".to_owned() };
    let signatures = [
        Signature::of_module("AAAA").expect("base64"),
        Signature::of_image("BBBB", image).expect("base64"),
        Signature::of_module("CCCC").expect("base64"),
    ];
    let [first, second, third] = &signatures;
    let add = async |signatures: &[&Signature]| {
        let signatures = signatures.iter().map(|signature| (*signature).clone()).collect();
        let new = NewRevision { signatures, ..revision(&agent, "m", "module") };
        catalog.add(new, event(&agent, "added")).await.expect("writable")
    };
    let kept = async || {
        let count = catalog.revisions(&agent).await.expect("readable").first().map(|summary| summary.signatures);
        let stored = catalog.get(&agent, 1).await.expect("readable").expect("it was added");
        assert_eq!(count, u32::try_from(stored.content.signatures.len()).ok());
        stored.content.signatures
    };
    assert_eq!(add(&[first, second]).await, Added::New(1));
    assert_eq!(kept().await, signatures[..2]);
    assert_eq!(add(&[third, first]).await, Added::Known(1));
    assert_eq!(kept().await, [third.clone(), first.clone(), second.clone()], "the newest come first");
    assert_eq!(add(&[]).await, Added::Known(1));
    assert_eq!(kept().await.len(), 3, "and none goes");
}

async fn keeps_the_migrations_that_came_last(catalog: impl Catalog) {
    let agent = new_agent();
    let all = revision(&agent, "m", "module");
    let first = NewRevision { migrations: all.migrations.iter().take(1).cloned().collect(), ..all.clone() };
    let signature = Signature::of_module("AAAA").expect("base64");
    let signed = NewRevision { signatures: vec![signature], ..all.clone() };
    let add = async |new| catalog.add(new, event(&agent, "added")).await.expect("writable");
    let kept = async || catalog.get(&agent, 1).await.expect("readable").expect("it was added").content;
    assert_eq!(add(first.clone()).await, Added::New(1));
    assert_eq!(add(signed.clone()).await, Added::Known(1));
    assert!(kept().await == signed, "what is signed and what it is signed with are kept together");
    assert_eq!(add(first.clone()).await, Added::Known(1));
    assert!(kept().await == NewRevision { signatures: signed.signatures, ..first }, "also fewer, without a signature");
}

async fn activates_one_revision_of_an_agent(catalog: impl Catalog) {
    let agent = new_agent();
    let active = async || entry(&catalog, &agent).await.and_then(|entry| entry.traffic);
    let activated = async |revision| changed(&catalog, &agent, Change::Activate(revision)).await;
    assert_eq!(activated(1).await, Err(ChangeRefused::NotDeployed), "an unknown agent");
    for manifest in ["m1", "m2"] {
        let new = revision(&agent, manifest, "module");
        catalog.add(new, event(&agent, "added")).await.expect("writable");
    }
    assert_eq!(active().await, None, "adding does not activate");
    for number in [2, 1, 2] {
        assert_eq!(activated(number).await.expect("it is there").traffic, Some(Traffic::all_to(number)));
        assert_eq!(active().await, Some(Traffic::all_to(number)));
    }
    for unknown in [0, 3, u64::MAX >> 1] {
        assert_eq!(activated(unknown).await, Err(ChangeRefused::UnknownRevision(unknown)));
    }
    assert_eq!(active().await, Some(Traffic::all_to(2)), "activating what does not exist changes nothing");
    let flags = catalog.revisions(&agent).await.expect("readable");
    assert_eq!(flags.iter().map(|s| s.active).collect::<Vec<_>>(), [false, true]);
}

async fn changes_what_there_is_and_refuses_the_rest(catalog: impl Catalog) {
    let agent = deployed(&catalog, 3).await;
    let split = Traffic::by_weights(&[(2, 75), (3, 25)]).expect("two revisions");
    let after = changed(&catalog, &agent, Change::Split(split)).await.expect("both are there");
    assert_eq!((after.traffic, after.previous, after.is_paused), (Some(split), Some(3), false));
    assert_eq!(entry(&catalog, &agent).await.as_ref(), Some(&after), "what was answered is what is kept");
    let unknown = Traffic::by_weights(&[(2, 75), (9, 25)]).expect("two revisions");
    let refused = changed(&catalog, &agent, Change::Split(unknown)).await;
    assert_eq!(refused, Err(ChangeRefused::UnknownRevision(9)));
    let paused = changed(&catalog, &agent, Change::Pause).await.expect("it is deployed");
    assert!(paused.is_paused && paused.change == after.change + 1);
    let late = changed(&catalog, &agent, Change::EndCanary { of_change: after.change }).await;
    assert_eq!(late, Err(ChangeRefused::Overtaken));
    let ended =
        changed(&catalog, &agent, Change::EndCanary { of_change: paused.change }).await.expect("it is that one");
    assert_eq!((ended.traffic, ended.is_paused), (Some(Traffic::all_to(2)), true));
    let back = changed(&catalog, &agent, Change::RollBack).await.expect("there was one before");
    assert_eq!(back.traffic, Some(Traffic::all_to(3)));
    changed(&catalog, &agent, Change::Remove).await.expect("it is deployed");
    assert_eq!(entry(&catalog, &agent).await, None);
    assert_eq!(changed(&catalog, &agent, Change::Pause).await, Err(ChangeRefused::NotDeployed));
    let again = catalog.add(revision(&agent, "m4", "module"), event(&agent, "added")).await.expect("writable");
    assert_eq!(again, Added::New(4), "numbers go on after a removal");
    changed(&catalog, &agent, Change::Activate(4)).await.expect("a removed agent can be deployed again");
}

async fn counts_for_the_split_that_there_is(catalog: impl Catalog) {
    let agent = deployed(&catalog, 2).await;
    let split = Change::Split(Traffic::by_weights(&[(1, 50), (2, 50)]).expect("two revisions"));
    let change = changed(&catalog, &agent, split).await.expect("both are there").change;
    let tally = |succeeded, failed| Tally { succeeded, failed };
    let sums = async |of_change, counted: &[(u64, Tally)]| {
        let mut sums = catalog.tally(&agent, of_change, counted).await.expect("writable");
        sums.sort_unstable_by_key(|(revision, _)| *revision);
        sums
    };
    assert_eq!(sums(change, &[]).await, []);
    sums(change, &[(1, tally(5, 0)), (2, tally(1, 2))]).await;
    assert_eq!(sums(change, &[(2, tally(0, 3))]).await, [(1, tally(5, 0)), (2, tally(1, 5))]);
    assert_eq!(sums(change - 1, &[(2, tally(0, 3))]).await, [], "of an earlier split");
    changed(&catalog, &agent, Change::Pause).await.expect("it is deployed");
    assert_eq!(sums(change, &[(2, tally(0, 3))]).await, [], "the agent was changed since");
}

async fn logs_what_was_done(catalog: impl Catalog) {
    let (agent, other) = (deployed(&catalog, 1).await, deployed(&catalog, 1).await);
    changed(&catalog, &agent, Change::Activate(1)).await.expect("it is there");
    changed(&catalog, &agent, Change::Activate(2)).await.expect_err("there is no such revision");
    catalog.add(revision(&agent, "m1", "module"), event(&agent, "added")).await.expect("writable");
    catalog.log(event(&agent, "looked")).await.expect("writable");
    let events = catalog.events(Some(&agent), None, 10).await.expect("readable");
    let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["looked", "changed", "added"], "the newest first, and nothing of what changed nothing");
    let newest = events.first().expect("it was logged");
    assert_eq!((newest.actor.as_str(), newest.host.as_str()), ("a test", "here:1"));
    assert_eq!((newest.agent.as_deref(), newest.detail.as_str()), (Some(agent.as_str()), "looked, \"ä\""));
    assert!(newest.at_ms > 1_700_000_000_000);
    let page = catalog.events(Some(&agent), Some(newest.id), 1).await.expect("readable");
    assert_eq!(page.iter().map(|event| event.action.as_str()).collect::<Vec<_>>(), ["changed"]);
    let all = catalog.events(None, None, 100).await.expect("readable");
    assert!(all.iter().any(|event| event.agent.as_deref() == Some(other.as_str())));
    assert!(all.is_sorted_by(|a, b| a.id > b.id));
}

async fn tells_of_changes(catalog: impl Catalog) {
    let agent = deployed(&catalog, 1).await;
    // What was told before, or that it has begun to listen.
    let told = async || tokio::time::timeout(std::time::Duration::from_secs(30), catalog.changed()).await;
    told().await.expect("something changed before").expect("the catalog is there");
    let (paused, told) = tokio::join!(changed(&catalog, &agent, Change::Pause), told());
    paused.expect("it is deployed");
    told.expect("the change is told").expect("the catalog is there");
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
        let event = event(&agent, "added");
        adding.spawn(async move { catalog.add(new, event).await.expect("writable") });
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
