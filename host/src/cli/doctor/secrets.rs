//! Whether a host with these settings could read the secrets that are stored.

use sqlx::Connection as _;

use super::{Exit, Finding};
use crate::config::Backend;
use crate::secrets::{Inspected, Keyring, inspect};

const CHECK: &str = "secrets";

/// Looks at the database, where there is one. Whether it can be reached is another check's to say.
pub(super) async fn stored(database: &Backend, keys: &Keyring) -> Vec<Finding> {
    match database {
        Backend::Embedded => {
            vec![Finding::ok(CHECK, "those that are set while a host runs end with it, as the database is embedded")]
        }
        Backend::Url(url) => {
            let looked = async {
                let mut connection = sqlx::PgConnection::connect(url.expose()).await?;
                let inspected = inspect(&mut connection, keys).await?;
                connection.close().await?;
                Ok::<_, sqlx::Error>(inspected)
            };
            match tokio::time::timeout(super::services::ANSWER_TIMEOUT, looked).await {
                Ok(Ok(inspected)) => findings(&inspected, keys),
                Ok(Err(sqlx::Error::Database(error))) => {
                    let mend = "run doctor as the role that hosts use, which owns the schema agent_host";
                    vec![Finding::warning(CHECK, format!("what is stored cannot be read: {error}"), mend)]
                }
                Ok(Err(_)) | Err(_) => Vec::new(),
            }
        }
    }
}

fn findings(inspected: &Inspected, keys: &Keyring) -> Vec<Finding> {
    let stored = inspected.stored;
    if let Some((agent, name, why)) = inspected.unreadable.first() {
        let unreadable = inspected.unreadable.len();
        return vec![Finding::problem(
            CHECK,
            Exit::Usage,
            format!("{unreadable} of {stored} stored secrets cannot be read, such as {name:?} of {agent}: {why}"),
            format!(
                "give this host the AGENT_HOST_SECRETS_KEY of the others; what is set anew is stored with this host's key: \
                 agent-host secrets set {agent} {name}"
            ),
        )];
    }
    if inspected.with_previous_key > 0 {
        let found = format!("{} of {stored} are stored with the previous key", inspected.with_previous_key);
        let mend =
            "agent-host secrets list AGENT names them: set each again, and unset AGENT_HOST_SECRETS_KEY_PREVIOUS";
        return vec![Finding::warning(CHECK, found, mend)];
    }
    match &keys.current {
        None => vec![Finding::ok(CHECK, "none is stored; to store some, set AGENT_HOST_SECRETS_KEY")],
        Some(key) => vec![Finding::ok(CHECK, format!("{stored} are stored, with the key {}", key.id()))],
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::secrets::{SecretsKey, Unreadable};

    #[test]
    fn secrets_that_no_key_opens_are_a_problem() {
        let key = SecretsKey::parse(&"ab01".repeat(16)).unwrap();
        let keys = Keyring { current: Some(key.clone()), previous: None };
        let inspected = |with_previous_key, unreadable| Inspected { stored: 2, with_previous_key, unreadable };
        let level = |inspected: Inspected, keys: &Keyring| findings(&inspected, keys).remove(0).level;
        assert_eq!(level(inspected(0, Vec::new()), &keys), Level::Ok);
        assert_eq!(level(inspected(1, Vec::new()), &keys), Level::Warning);
        let closed = vec![("voter".to_owned(), "api-key".to_owned(), Unreadable::NoKey(key.id()))];
        let found = findings(&inspected(0, closed), &Keyring::default()).remove(0);
        assert_eq!(found.level, Level::Problem);
        assert!(found.found.contains("1 of 2") && found.found.contains("voter"), "{}", found.found);
        let none = Inspected { stored: 0, with_previous_key: 0, unreadable: Vec::new() };
        assert!(findings(&none, &Keyring::default())[0].found.contains("AGENT_HOST_SECRETS_KEY"));
    }
}
