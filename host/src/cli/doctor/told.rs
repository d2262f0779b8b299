//! What services tell of themselves, judged.

use super::{Exit, Finding};

/// What is older is not what the tests run on.
const POSTGRES_MIN: (i32, &str) = (150_000, "15");
const REDIS_MIN: (u32, &str) = (7, "7");
/// Connections of a server below which two hosts and a person are too many: a host takes some 40.
const CONNECTIONS_MIN: i32 = 100;
/// By how much clocks may differ before times in records, deadlines and delays look wrong.
const SKEW_MAX_MS: u64 = 2_000;

/// What a PostgreSQL tells.
#[derive(Debug)]
pub(super) struct Database {
    /// Its version, such as 150004.
    pub(super) version_number: i32,
    /// Whether the host's role may make those of agents.
    pub(super) may_create_roles: bool,
    /// Whether it may make schemas.
    pub(super) may_create_schemas: bool,
    /// Whether it only reads.
    pub(super) is_standby: bool,
    /// Its `max_connections`.
    pub(super) connections_max: i32,
    /// The host's role, quoted for SQL.
    pub(super) role: String,
    /// The database, likewise.
    pub(super) name: String,
}

impl Database {
    /// What is not as a host needs it.
    pub(super) fn findings(&self, check: &'static str) -> Vec<Finding> {
        let (role, name) = (&self.role, &self.name);
        let mut findings = Vec::new();
        if self.version_number < POSTGRES_MIN.0 {
            let found = format!("it is older than PostgreSQL {}, and nothing is tested with it", POSTGRES_MIN.1);
            findings.push(Finding::warning(check, found, format!("PostgreSQL {} or newer", POSTGRES_MIN.1)));
        }
        if self.is_standby {
            let mend = "name the primary in DATABASE_URL";
            let found = "it is a standby, which only reads";
            findings.push(Finding::problem(check, Exit::Unavailable, found, mend));
        }
        if !self.may_create_schemas {
            let found =
                format!("the role {role} may not create schemas: the host has one of its own, and so does each agent");
            let mend = format!("psql -c 'GRANT CREATE ON DATABASE {name} TO {role}'");
            findings.push(Finding::problem(check, Exit::Unavailable, found, mend));
        }
        if !self.may_create_roles {
            let found =
                format!("the role {role} may not create roles: each agent that is granted sql gets one of its own");
            findings.push(Finding::warning(check, found, format!("psql -c 'ALTER ROLE {role} CREATEROLE'")));
        }
        if self.connections_max < CONNECTIONS_MIN {
            let found = format!("max_connections is {}, which several hosts use up", self.connections_max);
            let mend = format!("psql -c 'ALTER SYSTEM SET max_connections = {}', and restart it", 3 * CONNECTIONS_MIN);
            findings.push(Finding::warning(check, found, mend));
        }
        findings
    }
}

/// A line of Redis' `INFO`.
pub(super) fn redis_field<'a>(info: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':').map(str::trim);
    info.lines().find_map(value).unwrap_or("unknown")
}

/// What of a Redis is not as a host needs it, from the text of `INFO`.
pub(super) fn cache(check: &'static str, info: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let version = redis_field(info, "redis_version");
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < REDIS_MIN.0 {
        let found = format!("it is older than Redis {}, and nothing is tested with it", REDIS_MIN.1);
        findings.push(Finding::warning(check, found, format!("Redis {} or newer", REDIS_MIN.1)));
    }
    let policy = redis_field(info, "maxmemory_policy");
    if policy.starts_with("allkeys") {
        findings.push(Finding::warning(
            check,
            format!("with maxmemory-policy {policy} it forgets what agents keep in their buckets once it is full"),
            "redis-cli CONFIG SET maxmemory-policy volatile-lru: what agents cache has a time to live, what they keep has none",
        ));
    }
    if redis_field(info, "role") == "slave" {
        let found = "it is a replica, which only reads";
        findings.push(Finding::problem(check, Exit::Unavailable, found, "name the primary in REDIS_URL"));
    }
    if redis_field(info, "aof_enabled") != "1" {
        findings.push(Finding::warning(
            check,
            "it writes no append-only file: what agents keep in their buckets may be lost with it",
            "redis-cli CONFIG SET appendonly yes, and in redis.conf",
        ));
    }
    findings
}

/// By how much a server's clock is ahead of ours (or behind, where negative), in milliseconds. It was asked between two of
/// our times.
pub(super) fn skew(asked_at_ms: u64, answered_at_ms: u64, server_ms: u64) -> i64 {
    let half = answered_at_ms.saturating_sub(asked_at_ms) / 2;
    let ours = i64::try_from(asked_at_ms.saturating_add(half)).unwrap_or(i64::MAX);
    i64::try_from(server_ms).unwrap_or(i64::MAX).saturating_sub(ours)
}

/// What is said of clocks that differ.
pub(super) fn clock(check: &'static str, skew_ms: i64) -> Option<Finding> {
    if skew_ms.unsigned_abs() <= SKEW_MAX_MS {
        return None;
    }
    let direction = if skew_ms > 0 { "ahead of" } else { "behind" };
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let seconds = skew_ms.unsigned_abs() as f64 / 1_000.0;
    Some(Finding::warning(
        check,
        format!(
            "its clock is {seconds:.1} s {direction} this machine's: deadlines and times of tasks are off by as much"
        ),
        "sudo timedatectl set-ntp true, on both machines",
    ))
}

/// What is said of queues that are not as they should be.
pub(super) fn queues(check: &'static str, differing: &[(String, String)]) -> Vec<Finding> {
    let finding = |(name, said): &(String, String)| {
        Finding::problem(
            check,
            Exit::Unavailable,
            format!("{name} exists with other properties than a host declares: {said}"),
            format!(
                "agent-host topology prints what is expected. Where nothing of value lies in it: rabbitmqctl delete_queue {name} \
                 (or remove the exchange, or the policy that changes it); the host makes it anew"
            ),
        )
    };
    differing.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_database_is_judged_by_what_its_role_may_do() {
        let good = || Database {
            version_number: 150_004,
            may_create_roles: true,
            may_create_schemas: true,
            is_standby: false,
            connections_max: 100,
            role: "\"a b\"".to_owned(),
            name: "d".to_owned(),
        };
        assert_eq!(levels(&good().findings("database")), []);
        let bad = Database {
            version_number: 140_000,
            may_create_roles: false,
            may_create_schemas: false,
            is_standby: true,
            connections_max: 20,
            ..good()
        };
        let findings = bad.findings("database");
        use Level::{Problem, Warning};
        assert_eq!(levels(&findings), [Warning, Problem, Problem, Warning, Warning]);
        assert_eq!(findings[2].mend.as_deref(), Some("psql -c 'GRANT CREATE ON DATABASE d TO \"a b\"'"));
        assert_eq!(findings[3].mend.as_deref(), Some("psql -c 'ALTER ROLE \"a b\" CREATEROLE'"));
    }

    #[test]
    fn a_redis_that_forgets_is_found() {
        let good = "# Server\r\nredis_version:7.2.4\r\nrole:master\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(redis_field(good, "redis_version"), "7.2.4");
        assert_eq!(cache("cache", good), []);
        let bad = good
            .replace("7.2.4", "6.0.1")
            .replace("noeviction", "allkeys-lru")
            .replace("aof_enabled:1", "aof_enabled:0");
        assert_eq!(levels(&cache("cache", &bad)), [Level::Warning; 3]);
        assert_eq!(levels(&cache("cache", &good.replace("master", "slave"))), [Level::Problem]);
    }

    #[test]
    fn clocks_may_differ_by_two_seconds() {
        assert_eq!(skew(1_000, 1_100, 1_050), 0);
        assert_eq!((clock("c", 2_000), clock("c", -2_000)), (None, None));
        assert!(clock("c", 2_001).unwrap().found.contains("2.0 s ahead of"));
        assert!(clock("c", skew(10_000, 10_000, 4_500)).unwrap().found.contains("5.5 s behind"));
    }

    #[test]
    fn a_queue_that_differs_is_named_with_what_mends_it() {
        let findings =
            queues("broker", &[("agent.voter".to_owned(), "inequivalent arg 'x-delivery-limit'".to_owned())]);
        assert!(findings[0].found.contains("x-delivery-limit"));
        assert!(findings[0].mend.as_ref().unwrap().contains("rabbitmqctl delete_queue agent.voter"));
    }
}
