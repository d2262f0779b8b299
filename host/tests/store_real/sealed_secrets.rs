//! Secrets in a real PostgreSQL: who has the key reads them, and whoever changes a row has it noticed.

use std::sync::Arc;

use agent_host::catalog::conformance::{event, new_agent};
use agent_host::catalog::{Catalog, PostgresCatalog};
use agent_host::secrets::conformance::{Hosts, exercise, named, secret};
use agent_host::secrets::{
    Keyring, PostgresSecretStore, Secret, SecretStore, SecretsError, SecretsKey, Unreadable, inspect,
};
use agent_host::store::HostDatabase;
use agent_host::task::AgentName;
use sqlx::{Executor, Row};

use super::{Scratch, with_database};

fn key(digits: &str) -> SecretsKey {
    SecretsKey::parse(&digits.repeat(16)).unwrap()
}

fn keyring(current: &str) -> Keyring {
    Keyring { current: Some(key(current)), previous: None }
}

/// A store as a host of its own has it.
fn store(database: &HostDatabase, keys: Keyring) -> PostgresSecretStore {
    PostgresSecretStore::beside(&PostgresCatalog::new(database), keys)
}

async fn set(store: &PostgresSecretStore, agent: &AgentName, name: &str, value: &str) -> Result<bool, SecretsError> {
    store.set(agent, &named(name), &secret(value), event(agent, "secret-set")).await
}

/// What a task gets after a look: the value, nothing, or why it cannot be read.
async fn got(store: &PostgresSecretStore, agent: &AgentName, name: &str) -> Result<Option<String>, Unreadable> {
    store.look().await.unwrap();
    match store.get(agent, name).await {
        Ok(found) => Ok(found.map(|secret: Secret| secret.reveal().to_owned())),
        Err(SecretsError::Unreadable(why)) => Err(why),
        Err(error) => panic!("{error:?}"),
    }
}

/// Changes rows behind the hosts' backs, so that they notice.
async fn behind_their_backs(scratch: &Scratch, statement: &str) {
    let mut connection = scratch.connect().await;
    let changed = connection.execute(statement).await.unwrap();
    assert_eq!(changed.rows_affected(), 1, "{statement}");
    connection.execute("UPDATE agent_host.secret_changes SET changes = changes + 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_secrets_keep_the_rules() {
    with_database(|scratch| async move {
        let database = scratch.open().await;
        exercise(async || {
            let catalogs = [PostgresCatalog::new(&database), PostgresCatalog::new(&database)];
            let [first, second] = catalogs.each_ref().map(|catalog| -> Arc<dyn SecretStore> {
                Arc::new(PostgresSecretStore::beside(catalog, keyring("ab01")))
            });
            let [_, catalog] = catalogs;
            let catalog: Arc<dyn Catalog> = Arc::new(catalog);
            Hosts { first, second, catalog }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_value_is_in_its_row_and_no_two_writes_look_alike() {
    with_database(|scratch| async move {
        let (database, agent) = (scratch.open().await, new_agent());
        let store = store(&database, keyring("ab01"));
        let mut connection = scratch.connect().await;
        let mut seen = Vec::new();
        for _ in 0..3 {
            set(&store, &agent, "key", "correct horse battery staple").await.unwrap();
            let row =
                connection.fetch_one("SELECT nonce, sealed, secrets::text FROM agent_host.secrets").await.unwrap();
            let (nonce, sealed): (Vec<u8>, Vec<u8>) = (row.get(0), row.get(1));
            assert!(!sealed.windows(7).any(|part| b"correct horse battery staple".windows(7).any(|of| of == part)));
            assert!(!row.get::<String, _>(2).contains("horse"));
            assert!(!seen.contains(&nonce) && !seen.contains(&sealed), "a nonce is used once");
            seen.extend([nonce, sealed]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_the_key_reads_nothing_and_says_which_key_it_takes() {
    with_database(|scratch| async move {
        let (database, agent) = (scratch.open().await, new_agent());
        let old = store(&database, keyring("ab01"));
        set(&old, &agent, "key", "hunter2").await.unwrap();
        let (stored, held) = (key("ab01").id(), key("cd02").id());

        let keyless = store(&database, Keyring::default());
        assert_eq!(got(&keyless, &agent, "key").await, Err(Unreadable::NoKey(stored)));
        assert_eq!(keyless.list(&agent).await.unwrap()[0].unreadable, Some(Unreadable::NoKey(stored)));
        assert!(matches!(set(&keyless, &agent, "other", "x").await, Err(SecretsError::NoKey)));

        let new = store(&database, keyring("cd02"));
        assert_eq!(got(&new, &agent, "key").await, Err(Unreadable::OtherKey { stored, held }));

        // Between two keys: the old one opens, the new one seals, and what is to be set again is told.
        let both = Keyring { current: Some(key("cd02")), previous: Some(key("ab01")) };
        let between = store(&database, both.clone());
        assert_eq!(got(&between, &agent, "key").await, Ok(Some("hunter2".to_owned())));
        assert!(between.list(&agent).await.unwrap()[0].has_previous_key);
        let mut connection = scratch.connect().await;
        let inspected = inspect(&mut connection, &both).await.unwrap();
        assert_eq!((inspected.stored, inspected.with_previous_key, inspected.unreadable), (1, 1, vec![]));
        set(&between, &agent, "key", "hunter2").await.unwrap();
        assert!(!between.list(&agent).await.unwrap()[0].has_previous_key);
        assert_eq!(got(&new, &agent, "key").await, Ok(Some("hunter2".to_owned())));
        let (stored, held) = (held, stored);
        assert_eq!(got(&old, &agent, "key").await, Err(Unreadable::OtherKey { stored, held }));
        let inspected = inspect(&mut connection, &keyring("ab01")).await.unwrap();
        let unreadable = (agent.to_string(), "key".to_owned(), Unreadable::OtherKey { stored, held });
        assert_eq!((inspected.stored, inspected.unreadable), (1, vec![unreadable]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_changed_or_moved_opens_no_more_and_one_that_is_set_again_does() {
    with_database(|scratch| async move {
        let (database, agent, other) = (scratch.open().await, new_agent(), new_agent());
        let store = store(&database, keyring("ab01"));
        let row = format!("WHERE agent = '{agent}' AND name = 'key'");
        for change in [
            "sealed = set_byte(sealed, 0, get_byte(sealed, 0) # 1)",
            "sealed = set_byte(sealed, length(sealed) - 1, get_byte(sealed, length(sealed) - 1) # 128)",
            "sealed = substr(sealed, 1, length(sealed) - 1)",
            "sealed = ''",
            "nonce = set_byte(nonce, 11, get_byte(nonce, 11) # 1)",
            "nonce = ''",
            "key_id = ''",
        ] {
            set(&store, &agent, "key", "hunter2").await.unwrap();
            assert_eq!(got(&store, &agent, "key").await, Ok(Some("hunter2".to_owned())));
            behind_their_backs(&scratch, &format!("UPDATE agent_host.secrets SET {change} {row}")).await;
            assert_eq!(got(&store, &agent, "key").await, Err(Unreadable::Damaged), "{change}");
        }
        // To another agent, to another name, and in the place of another secret of the same key.
        set(&store, &agent, "key", "hunter2").await.unwrap();
        behind_their_backs(&scratch, &format!("UPDATE agent_host.secrets SET agent = '{other}' {row}")).await;
        assert_eq!(got(&store, &other, "key").await, Err(Unreadable::Damaged));
        assert_eq!(got(&store, &agent, "key").await, Ok(None));
        set(&store, &agent, "key", "hunter2").await.unwrap();
        behind_their_backs(&scratch, &format!("UPDATE agent_host.secrets SET name = 'key2' {row}")).await;
        assert_eq!(got(&store, &agent, "key2").await, Err(Unreadable::Damaged));
        set(&store, &agent, "key", "hunter2").await.unwrap();
        set(&store, &other, "key", "hunter3").await.unwrap();
        let swap = format!(
            "UPDATE agent_host.secrets s SET nonce = o.nonce, sealed = o.sealed FROM agent_host.secrets o
             WHERE s.agent = '{agent}' AND s.name = 'key' AND o.agent = '{other}' AND o.name = 'key'"
        );
        behind_their_backs(&scratch, &swap).await;
        assert_eq!(got(&store, &agent, "key").await, Err(Unreadable::Damaged));
        assert_eq!(got(&store, &other, "key").await, Ok(Some("hunter3".to_owned())), "only the one that was changed");
        assert!(set(&store, &agent, "key", "hunter4").await.unwrap(), "it is set again");
        assert_eq!(got(&store, &agent, "key").await, Ok(Some("hunter4".to_owned())));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_get_their_secrets_while_the_database_is_away() {
    with_database(|scratch| async move {
        let (database, agent) = (scratch.open().await, new_agent());
        let store = store(&database, keyring("ab01"));
        set(&store, &agent, "key", "hunter2").await.unwrap();
        let mut admin = scratch.admin().await;
        let name = &scratch.name;
        admin.execute(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false").as_str()).await.unwrap();
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        admin.execute(end.as_str()).await.unwrap();
        assert!(matches!(store.look().await, Err(SecretsError::Away { action: "read", .. })));
        assert!(matches!(store.list(&agent).await, Err(SecretsError::Away { .. })), "operators see what is there now");
        let away = set(&store, &agent, "key", "hunter3").await;
        assert!(matches!(away, Err(SecretsError::Away { action: "written", .. })), "{away:?}");
        assert!(!format!("{away:?}").contains("hunter"), "{away:?}");
        assert_eq!(store.get(&agent, "key").await.unwrap().unwrap().reveal(), "hunter2");
        // A host that has seen nothing yet has nothing to give.
        let fresh = PostgresSecretStore::beside(&PostgresCatalog::new(&database), keyring("ab01"));
        assert!(matches!(fresh.get(&agent, "key").await, Err(SecretsError::Away { .. })));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_restored_is_believed() {
    with_database(|scratch| async move {
        let (database, agent) = (scratch.open().await, new_agent());
        let store = store(&database, keyring("ab01"));
        set(&store, &agent, "kept", "before").await.unwrap();
        set(&store, &agent, "lost", "after").await.unwrap();
        assert_eq!(got(&store, &agent, "lost").await, Ok(Some("after".to_owned())));
        // As it was between the two.
        let mut connection = scratch.connect().await;
        connection.execute("DELETE FROM agent_host.secrets WHERE name = 'lost'").await.unwrap();
        connection.execute("UPDATE agent_host.secret_changes SET changes = 1").await.unwrap();
        assert_eq!(got(&store, &agent, "lost").await, Ok(None));
        assert_eq!(got(&store, &agent, "kept").await, Ok(Some("before".to_owned())));
    })
    .await;
}
