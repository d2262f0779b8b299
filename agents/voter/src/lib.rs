//! Takes votes on proposals, one per voter and proposal, counts them, and declares consensus exactly once.
//!
//! Whatever is exact is left to the database: a vote is inserted and added to the tally, and the proposal decided, by
//! one statement that holds the proposal's row until the task commits. The order of concurrent votes does not matter.

mod store;

use agent_sdk::{Failure, Json, config, sql};
use serde::{Deserialize, Serialize};

/// The longest id of a proposal or a voter, in bytes.
const NAME_BYTES_MAX: usize = 128;

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op", deny_unknown_fields)]
enum Request {
    /// Opens a proposal. One that exists is left as it is.
    CreateProposal {
        proposal: String,
        #[serde(default)]
        title: String,
        /// How many may vote; by default the setting `voters`.
        voters: Option<i32>,
        /// Percent of the voters that must agree; by default the setting `quorum`.
        quorum: Option<i32>,
    },
    /// Casts a vote. The first one of a voter counts.
    Vote { proposal: String, agent: String, choice: Choice },
    /// Counts the votes.
    Count { proposal: String },
    /// Says whether the proposal is decided.
    Consensus { proposal: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Choice {
    Yes,
    No,
}

impl Choice {
    fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Reply {
    Created {
        proposal: String,
        /// `created` or `exists`.
        result: &'static str,
    },
    Voted {
        proposal: String,
        agent: String,
        /// `counted` or `duplicate`.
        result: &'static str,
        /// Whether this very vote decided the proposal.
        decides: bool,
        /// `open`, `accepted` or `rejected`.
        status: String,
    },
    Counted {
        proposal: String,
        yes: i64,
        no: i64,
        total: i64,
        voters: i32,
        status: String,
    },
    Consensus {
        proposal: String,
        status: String,
        yes: i32,
        no: i32,
        /// How many must agree.
        needed: i32,
        decided_by: Option<String>,
    },
}

#[agent_sdk::agent]
fn handle(Json(request): Json<Request>) -> Result<Json<Reply>, Failure> {
    check(&request)?;
    let database = sql::Connection::open("main")?;
    match request {
        Request::CreateProposal { proposal, title, voters, quorum } => {
            let voters = setting(voters, "voters", 100)?;
            let quorum = setting(quorum, "quorum", 60)?;
            check_terms(voters, quorum)?;
            store::create(&database, proposal, &title, voters, quorum)
        }
        Request::Vote { proposal, agent, choice } => store::vote(&database, proposal, agent, choice),
        Request::Count { proposal } => store::count(&database, proposal),
        Request::Consensus { proposal } => store::consensus(&database, proposal),
    }
    .map(Json)
}

/// What the request says, else what the manifest's `[config]` says, else the default.
fn setting(given: Option<i32>, key: &str, default: i32) -> Result<i32, Failure> {
    match given {
        Some(value) => Ok(value),
        None => Ok(config::get_as(key)?.unwrap_or(default)),
    }
}

fn check(request: &Request) -> Result<(), Failure> {
    match request {
        Request::Vote { proposal, agent, .. } => {
            check_name("proposal", proposal)?;
            check_name("agent", agent)
        }
        Request::CreateProposal { proposal, .. } | Request::Count { proposal } | Request::Consensus { proposal } => {
            check_name("proposal", proposal)
        }
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Failure::reject(format!("`{field}` must be 1 to {NAME_BYTES_MAX} bytes of printable text")));
    }
    Ok(())
}

fn check_terms(voters: i32, quorum: i32) -> Result<(), Failure> {
    if voters < 1 {
        return Err(Failure::reject(format!("`voters` must be at least 1, not {voters}")));
    }
    if !(1..=100).contains(&quorum) {
        return Err(Failure::reject(format!("`quorum` must be a percentage from 1 to 100, not {quorum}")));
    }
    Ok(())
}

/// How many voters must agree: the quorum's share, rounded up.
fn needed(voters: i32, quorum: i32) -> i32 {
    let share = (i64::from(voters) * i64::from(quorum) + 99) / 100;
    i32::try_from(share).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use agent_sdk::Task;

    use super::*;

    fn request(body: &str) -> Result<Request, Failure> {
        Task { body: body.into(), ..Task::default() }.json()
    }

    #[test]
    fn requests_are_told_apart_by_op() {
        assert_eq!(
            request(r#"{"op":"vote","proposal":"p1","agent":"a7","choice":"yes"}"#),
            Ok(Request::Vote { proposal: "p1".into(), agent: "a7".into(), choice: Choice::Yes })
        );
        assert!(request(r#"{"op":"vote","proposal":"p1","agent":"a7","choice":"perhaps"}"#).is_err());
        assert!(request(r#"{"op":"veto","proposal":"p1"}"#).is_err());
    }

    #[test]
    fn a_share_of_voters_is_rounded_up() {
        assert_eq!(needed(100, 60), 60);
        assert_eq!(needed(3, 50), 2);
        assert_eq!(needed(1, 1), 1);
        assert_eq!(needed(7, 100), 7);
        assert_eq!(needed(i32::MAX, 100), i32::MAX);
    }

    #[test]
    fn terms_and_names_are_checked() {
        assert!(check_terms(1, 100).is_ok());
        for (voters, quorum) in [(0, 60), (10, 0), (10, 101)] {
            assert!(matches!(check_terms(voters, quorum), Err(Failure::Reject { .. })));
        }
        let nameless = Request::Vote { proposal: "p1".into(), agent: String::new(), choice: Choice::No };
        assert_eq!(check(&nameless), Err(Failure::reject("`agent` must be 1 to 128 bytes of printable text")));
    }

    #[test]
    fn replies_are_flat() {
        let reply = Reply::Created { proposal: "p1".into(), result: "created" };
        let json = agent_sdk::Output::json(&reply).unwrap();
        assert_eq!(json.body, br#"{"proposal":"p1","result":"created"}"#);
    }
}
