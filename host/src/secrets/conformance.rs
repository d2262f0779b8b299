//! What every store of secrets must do, as one suite over both.
#![expect(clippy::expect_used, reason = "a test suite: breaking a rule is a panic")]

use std::sync::Arc;

use super::{SECRETS_PER_AGENT_MAX, Secret, SecretName, SecretStore, SecretsError, VALUE_BYTES_MAX};
use crate::catalog::conformance::{event, new_agent};
use crate::catalog::{Catalog, Event};
use crate::task::{AgentName, unix_ms_now};

/// Two hosts of one fleet, and its catalog as the second one sees it.
pub struct Hosts {
    /// Where secrets are set.
    pub first: Arc<dyn SecretStore>,
    /// Where they are looked for.
    pub second: Arc<dyn SecretStore>,
    /// What logs and tells of it.
    pub catalog: Arc<dyn Catalog>,
}

/// Runs every case, each on agents of its own; `make` opens the stores.
///
/// # Panics
/// Where a rule is broken.
pub async fn exercise(make: impl AsyncFn() -> Hosts) {
    gives_what_was_set_to_its_agent_alone(make().await).await;
    keeps_any_text(make().await).await;
    replaces_and_removes(make().await).await;
    lists_who_set_what_and_when(make().await).await;
    logs_each_change_without_the_value(make().await).await;
    tells_of_changes(make().await).await;
    counts_changes(make().await).await;
    bounds_the_secrets_of_an_agent(make().await).await;
    keeps_one_of_two_that_are_set_at_once(make().await).await;
}

/// A name.
///
/// # Panics
/// Where it is none.
#[must_use]
pub fn named(text: &str) -> SecretName {
    SecretName::parse(text).expect("a name")
}

/// A value.
#[must_use]
pub fn secret(value: &str) -> Secret {
    Secret::new(value.to_owned())
}

impl Hosts {
    async fn set(&self, agent: &AgentName, name: &str, value: &str) -> bool {
        let set = self.first.set(agent, &named(name), &secret(value), event(agent, "secret-set")).await;
        set.expect("writable")
    }

    async fn remove(&self, agent: &AgentName, name: &str) -> bool {
        let removed = self.first.remove(agent, &named(name), event(agent, "secret-removed")).await;
        removed.expect("writable")
    }

    /// What a task gets on the host that it was set on, at once, and on the other one, after a look.
    async fn get(&self, agent: &AgentName, name: &str) -> Option<String> {
        let shown = |secret: Option<Secret>| secret.map(|secret| secret.reveal().to_owned());
        let first = shown(self.first.get(agent, name).await.expect("readable"));
        self.second.look().await.expect("readable");
        let second = shown(self.second.get(agent, name).await.expect("readable"));
        assert_eq!(first, second, "the hosts agree");
        second
    }

    async fn events(&self, agent: &AgentName) -> Vec<Event> {
        let mut events = self.catalog.events(Some(agent), None, 1_000).await.expect("readable");
        events.reverse();
        events
    }
}

async fn gives_what_was_set_to_its_agent_alone(hosts: Hosts) {
    let (mine, other) = (new_agent(), new_agent());
    assert_eq!(hosts.get(&mine, "api-key").await, None);
    assert!(!hosts.set(&mine, "api-key", "hunter2").await, "there was none before");
    assert_eq!(hosts.get(&mine, "api-key").await.as_deref(), Some("hunter2"));
    for (agent, name) in [(&other, "api-key"), (&mine, "api-key2"), (&mine, "API-KEY"), (&mine, "")] {
        assert_eq!(hosts.get(agent, name).await, None, "{agent} {name}");
    }
    assert_eq!(hosts.second.list(&other).await.expect("readable"), []);
}

async fn keeps_any_text(hosts: Hosts) {
    let agent = new_agent();
    let largest = "é".repeat(VALUE_BYTES_MAX / 2);
    for value in ["x", " leading and trailing \n", "two\nlines\r\n", "\0", "\u{10FFFF}", &largest] {
        hosts.set(&agent, "key", value).await;
        assert_eq!(hosts.get(&agent, "key").await.as_deref(), Some(value));
    }
}

async fn replaces_and_removes(hosts: Hosts) {
    let agent = new_agent();
    assert!(!hosts.remove(&agent, "key").await, "there is none");
    assert!(!hosts.set(&agent, "key", "one").await);
    assert!(hosts.set(&agent, "key", "two").await, "it is replaced");
    assert_eq!(hosts.get(&agent, "key").await.as_deref(), Some("two"));
    hosts.set(&agent, "other", "three").await;
    assert!(hosts.remove(&agent, "key").await);
    assert!(!hosts.remove(&agent, "key").await, "it is gone");
    assert_eq!(hosts.get(&agent, "key").await, None);
    assert_eq!(hosts.get(&agent, "other").await.as_deref(), Some("three"));
    assert!(!hosts.set(&agent, "key", "four").await, "set anew");
}

async fn lists_who_set_what_and_when(hosts: Hosts) {
    let (agent, before_ms) = (new_agent(), unix_ms_now());
    for name in ["b", "a", "C"] {
        hosts.set(&agent, name, "hunter2").await;
    }
    let listed = hosts.second.list(&agent).await.expect("readable");
    assert!(!format!("{listed:?}").contains("hunter2"), "{listed:?}");
    let names: Vec<_> = listed.iter().map(|stored| stored.name.as_str()).collect();
    assert_eq!(names, ["C", "a", "b"]);
    for stored in &listed {
        assert_eq!((stored.set_by.as_str(), stored.unreadable, stored.has_previous_key), ("a test", None, false));
        assert!((before_ms..=unix_ms_now()).contains(&stored.set_at_ms), "{stored:?}");
    }
}

async fn logs_each_change_without_the_value(hosts: Hosts) {
    let agent = new_agent();
    hosts.set(&agent, "key", "hunter2").await;
    hosts.set(&agent, "key", "hunter3").await;
    hosts.remove(&agent, "key").await;
    hosts.remove(&agent, "key").await;
    let events = hosts.events(&agent).await;
    let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["secret-set", "secret-set", "secret-removed"], "one event a change, and none for nothing");
    assert!(!format!("{events:?}").contains("hunter"), "{events:?}");
}

async fn tells_of_changes(hosts: Hosts) {
    let agent = new_agent();
    let told = async || tokio::time::timeout(std::time::Duration::from_secs(30), hosts.catalog.changed()).await;
    hosts.set(&agent, "key", "one").await;
    // What was told before, or that it has begun to listen.
    told().await.expect("something changed before").expect("the catalog is there");
    let (_, was_told) = tokio::join!(hosts.set(&agent, "key", "two"), told());
    was_told.expect("a set secret is told").expect("the catalog is there");
    let (_, was_told) = tokio::join!(hosts.remove(&agent, "key"), told());
    was_told.expect("a removed one is").expect("the catalog is there");
}

async fn counts_changes(hosts: Hosts) {
    let agent = new_agent();
    let look = async || hosts.second.look().await.expect("readable");
    let before = look().await;
    assert_eq!(look().await, before, "nothing has changed");
    hosts.set(&agent, "key", "one").await;
    let after = look().await;
    assert!(after > before, "{after} after {before}");
    hosts.remove(&agent, "key").await;
    let removed = look().await;
    assert!(removed > after, "{removed} after {after}");
    hosts.remove(&agent, "key").await;
    assert_eq!(look().await, removed, "nothing was removed");
}

async fn bounds_the_secrets_of_an_agent(hosts: Hosts) {
    let (agent, other) = (new_agent(), new_agent());
    for number in 0..SECRETS_PER_AGENT_MAX {
        hosts.set(&agent, &format!("n{number}"), "x").await;
    }
    let one_more = hosts.first.set(&agent, &named("one-more"), &secret("x"), event(&agent, "secret-set")).await;
    assert!(matches!(one_more, Err(SecretsError::TooMany(of)) if of == agent), "one too many is refused");
    assert_eq!(hosts.events(&agent).await.len(), SECRETS_PER_AGENT_MAX, "and nothing is logged of it");
    assert!(hosts.set(&agent, "n0", "y").await, "another value is not one more");
    assert!(!hosts.set(&other, "n0", "x").await, "other agents have their own");
    assert!(hosts.remove(&agent, "n1").await && !hosts.set(&agent, "one-more", "x").await);
}

async fn keeps_one_of_two_that_are_set_at_once(hosts: Hosts) {
    let agent = new_agent();
    for round in 0..10 {
        let set = |host: &Arc<dyn SecretStore>, value: &'static str| {
            let (host, agent) = (Arc::clone(host), agent.clone());
            let event = event(&agent, "secret-set");
            async move { host.set(&agent, &named("key"), &secret(value), event).await.expect("writable") }
        };
        let (first, second) = tokio::join!(set(&hosts.first, "one"), set(&hosts.second, "two"));
        let replaced = [first, second].into_iter().filter(|replaced| *replaced).count();
        assert_eq!(replaced, if round == 0 { 1 } else { 2 }, "one of them came first");
        hosts.first.look().await.expect("readable");
        let kept = hosts.get(&agent, "key").await;
        assert!(["one", "two"].contains(&kept.as_deref().unwrap_or_default()), "{kept:?}");
    }
}
