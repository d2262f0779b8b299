//! What breaks in a simulation, as the command line and scenario files say it: `sql:2`, `kv=200ms`, `commit`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::units::parse_duration;

/// What agents call, as faults and price tags name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Statements.
    Sql,
    /// Buckets.
    KeyValue,
    /// The cache.
    Cache,
    /// Connections for outbound HTTP.
    Http,
}

impl Port {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sql, Self::KeyValue, Self::Cache, Self::Http];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::KeyValue => "kv",
            Self::Cache => "cache",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fault that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?}: expected {expected}")]
pub struct InvalidFault {
    given: String,
    expected: &'static str,
}

fn port(name: &str) -> Option<Port> {
    Port::ALL.into_iter().find(|port| port.name() == name)
}

/// A call, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Of what.
    pub port: Port,
    /// Which one, from 1; nothing for each.
    pub number: Option<u64>,
}

impl Call {
    fn is(self, port: Port, number: u64) -> bool {
        self.port == port && self.number.is_none_or(|wanted| wanted == number)
    }
}

impl FromStr for Call {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
        let invalid = || InvalidFault {
            given: text.to_owned(),
            expected: "sql, kv, cache or http, and which call of it, such as sql:2",
        };
        let number = number.map(|number| number.parse().ok().filter(|number| *number > 0).ok_or_else(invalid));
        Ok(Self { port: port(name).ok_or_else(invalid)?, number: number.transpose()? })
    }
}

/// How slow each call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Of what.
    pub port: Port,
    /// How long it takes at least.
    pub delay: Duration,
}

impl FromStr for Slow {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let parts = text.split_once('=');
        let parsed = parts.and_then(|(name, delay)| Some((port(name)?, parse_duration(delay).ok()?)));
        let (port, delay) = parsed.ok_or_else(|| InvalidFault {
            given: text.to_owned(),
            expected: "sql, kv, cache or http, and a time, such as kv=200ms",
        })?;
        Ok(Self { port, delay })
    }
}

/// When the host dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillAt {
    /// When the agent has answered, and its effects and its end are about to be committed.
    Commit,
    /// When it makes this call.
    Call(Call),
}

impl FromStr for KillAt {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        if text == "commit" {
            return Ok(Self::Commit);
        }
        let call: Result<Call, _> = text.parse();
        call.map(Self::Call)
            .map_err(|_| InvalidFault { given: text.to_owned(), expected: "commit, or a call such as sql:2" })
    }
}

/// Everything that breaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Calls that fail as they do where the other side is away.
    pub fail: Vec<Call>,
    /// Calls that are slow.
    pub slow: Vec<Slow>,
    /// When the host dies, the first time that the task runs.
    pub kill_at: Option<KillAt>,
    /// At which call somebody cancels the task.
    pub cancel_at: Option<Call>,
}

impl Faults {
    /// How long this call is held up.
    pub(super) fn delay(&self, port: Port) -> Duration {
        self.slow.iter().filter(|slow| slow.port == port).map(|slow| slow.delay).sum()
    }

    /// Whether this call fails.
    pub(super) fn fails(&self, port: Port, number: u64) -> bool {
        self.fail.iter().any(|call| call.is(port, number))
    }

    /// Whether the host dies at this call.
    pub(super) fn kills(&self, port: Port, number: u64) -> bool {
        matches!(self.kill_at, Some(KillAt::Call(call)) if call.is(port, number))
    }

    /// Whether the task is cancelled at this call.
    pub(super) fn cancels(&self, port: Port, number: u64) -> bool {
        self.cancel_at.is_some_and(|call| call.is(port, number))
    }

    /// What is left of it once the host has died: it does so once.
    pub(super) fn after_a_death(&self) -> Self {
        Self { kill_at: None, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn faults_are_said_in_a_word() {
        assert_eq!("sql:2".parse(), Ok(Call { port: Port::Sql, number: Some(2) }));
        assert_eq!("http".parse(), Ok(Call { port: Port::Http, number: None }));
        assert_eq!("kv=200ms".parse(), Ok(Slow { port: Port::KeyValue, delay: Duration::from_millis(200) }));
        assert_eq!("commit".parse(), Ok(KillAt::Commit));
        assert_eq!("cache:1".parse(), Ok(KillAt::Call(Call { port: Port::Cache, number: Some(1) })));
        for wrong in ["", "sql:", "sql:0", "sql:-1", "sql:x", "disk:1", "sql:1:2"] {
            assert!(wrong.parse::<Call>().is_err(), "{wrong:?}");
        }
        for wrong in ["", "kv", "kv=", "kv=soon", "disk=1s"] {
            assert!(wrong.parse::<Slow>().is_err(), "{wrong:?}");
        }
        let told = "crash".parse::<KillAt>().unwrap_err().to_string();
        assert_eq!(told, "\"crash\": expected commit, or a call such as sql:2");
    }

    #[test]
    fn a_fault_is_of_its_call() {
        let faults = Faults { fail: vec!["sql:2".parse().unwrap(), "kv".parse().unwrap()], ..Faults::default() };
        assert_eq!([1, 2, 3].map(|number| faults.fails(Port::Sql, number)), [false, true, false]);
        assert!(faults.fails(Port::KeyValue, 7) && !faults.fails(Port::Cache, 2));
        let dying = Faults { kill_at: Some("sql:1".parse().unwrap()), ..faults };
        assert!(dying.kills(Port::Sql, 1) && !dying.kills(Port::Sql, 2));
        assert!(!dying.after_a_death().kills(Port::Sql, 1));
        let cancelled = Faults { cancel_at: Some("cache:2".parse().unwrap()), ..Faults::default() };
        assert!(cancelled.cancels(Port::Cache, 2) && !cancelled.cancels(Port::Cache, 1));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}") {
            let _ = (text.parse::<Call>(), text.parse::<Slow>(), text.parse::<KillAt>());
        }
    }
}
