//! The statements.

use agent_sdk::sql::{Connection, Row};
use agent_sdk::{Failure, params};

use crate::{Choice, Reply, needed};

/// Casts the vote, adds it to the tally, and decides the proposal if this vote does.
///
/// `taken` is empty for a vote that is there already (and for a proposal that is not), and then nothing is updated. A
/// concurrent vote waits here for the row; PostgreSQL then evaluates these expressions on the row as the other vote
/// left it, so that no vote is lost and one only finds the proposal open and the quorum met.
const VOTE: &str = "
    WITH taken AS (
        INSERT INTO votes (proposal, voter, choice)
        SELECT id, $2, $3 FROM proposals WHERE id = $1
        ON CONFLICT (proposal, voter) DO NOTHING
        RETURNING proposal, (choice = 'yes')::int AS yes, (choice = 'no')::int AS no
    ),
    tally AS (
        UPDATE proposals AS p SET
            yes = p.yes + taken.yes,
            no = p.no + taken.no,
            status = CASE
                WHEN p.status <> 'open' THEN p.status
                WHEN (p.yes + taken.yes)::bigint * 100 >= p.voters::bigint * p.quorum THEN 'accepted'
                WHEN (p.no + taken.no)::bigint * 100 > p.voters::bigint * (100 - p.quorum) THEN 'rejected'
                ELSE 'open'
            END,
            decided_by = CASE
                WHEN p.status = 'open' AND (
                    (p.yes + taken.yes)::bigint * 100 >= p.voters::bigint * p.quorum
                    OR (p.no + taken.no)::bigint * 100 > p.voters::bigint * (100 - p.quorum)
                ) THEN $2
                ELSE p.decided_by
            END,
            decided_at = CASE
                WHEN p.status = 'open' AND (
                    (p.yes + taken.yes)::bigint * 100 >= p.voters::bigint * p.quorum
                    OR (p.no + taken.no)::bigint * 100 > p.voters::bigint * (100 - p.quorum)
                ) THEN now()
                ELSE p.decided_at
            END
        FROM taken WHERE p.id = taken.proposal
        RETURNING p.status, p.decided_by
    )
    SELECT status, decided_by IS NOT NULL AND decided_by = $2 AS decides FROM tally";

const CREATE: &str = "
    INSERT INTO proposals (id, title, voters, quorum) VALUES ($1, $2, $3, $4)
    ON CONFLICT (id) DO NOTHING";

const COUNT: &str = "
    SELECT p.status, p.voters,
        count(v.voter) FILTER (WHERE v.choice = 'yes') AS yes,
        count(v.voter) FILTER (WHERE v.choice = 'no') AS no
    FROM proposals AS p LEFT JOIN votes AS v ON v.proposal = p.id
    WHERE p.id = $1
    GROUP BY p.id";

const CONSENSUS: &str = "SELECT status, voters, quorum, yes, no, decided_by FROM proposals WHERE id = $1";

pub(crate) fn create(
    database: &Connection,
    proposal: String,
    title: &str,
    voters: i32,
    quorum: i32,
) -> Result<Reply, Failure> {
    let created = database.execute(CREATE, params![proposal, title, voters, quorum])?;
    Ok(Reply::Created { proposal, result: if created == 1 { "created" } else { "exists" } })
}

pub(crate) fn vote(database: &Connection, proposal: String, agent: String, choice: Choice) -> Result<Reply, Failure> {
    if let Some(row) = database.query_opt(VOTE, params![proposal, agent, choice.as_str()])? {
        let (status, decides) = (row.get("status")?, row.get("decides")?);
        return Ok(Reply::Voted { proposal, agent, result: "counted", decides, status });
    }
    let status = find(database, CONSENSUS, &proposal)?.get("status")?;
    Ok(Reply::Voted { proposal, agent, result: "duplicate", decides: false, status })
}

pub(crate) fn count(database: &Connection, proposal: String) -> Result<Reply, Failure> {
    let row = find(database, COUNT, &proposal)?;
    let (yes, no): (i64, i64) = (row.get("yes")?, row.get("no")?);
    let (voters, status) = (row.get("voters")?, row.get("status")?);
    Ok(Reply::Counted { proposal, yes, no, total: yes + no, voters, status })
}

pub(crate) fn consensus(database: &Connection, proposal: String) -> Result<Reply, Failure> {
    let row = find(database, CONSENSUS, &proposal)?;
    Ok(Reply::Consensus {
        proposal,
        status: row.get("status")?,
        yes: row.get("yes")?,
        no: row.get("no")?,
        needed: needed(row.get("voters")?, row.get("quorum")?),
        decided_by: row.get("decided_by")?,
    })
}

/// The proposal's row. Tasks come in any order, so that one without a proposal may be early rather than wrong.
fn find(database: &Connection, statement: &str, proposal: &str) -> Result<Row, Failure> {
    database
        .query_opt(statement, params![proposal])?
        .ok_or_else(|| Failure::retry(format!("there is no proposal `{proposal}` (yet)")))
}
