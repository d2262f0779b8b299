//! Ending a task inside of the transaction of its own SQL.
//!
//! The host calls `agent_host.end_task_now` (migration 13) on a connection in which an agent's role is logged in, and in which
//! that agent has run whatever SQL it likes. So nothing on this connection is a secret, and nothing that the session holds
//! is trusted:
//!
//! - What proves that the host calls is made anew for each call: a hash, keyed with what only hosts and the function can
//!   read, of every argument. Whoever gets hold of it can repeat this very call, which changes nothing, and no other.
//! - There is no statement: the function is called by its number. A statement that the session keeps has a name, under which
//!   the agent could put one of its own in its place, and so answer for the function; one that it does not keep is parsed and
//!   planned for each task.
//!
//! The commit goes out right behind the call, without waiting for its answer: where this is not the end of the task, the call
//! fails, and what fails cannot be committed.

use sha2::{Digest, Sha256};
use sqlx::postgres::PgArguments;
use sqlx::postgres::types::Oid;
use sqlx::{Arguments as _, PgConnection};
use uuid::Uuid;

use super::changes::{signed, signed_generation};
use crate::records::{Ended, Ending, TaskRecord, UNSENT_AFTER};

/// Calls the function `agent_host.end_task_now` on connections that are logged in as an agent's role.
#[derive(Clone)]
pub struct EndTask {
    inner_key: [u8; 32],
    outer_key: [u8; 32],
}

/// What the function fails with where the task has ended before.
const ENDED_BEFORE: &str = "AH001";

/// The arguments of a call, as they are bound and as they are proven.
struct Call<'a> {
    id: &'a str,
    agent: &'a str,
    generation: i32,
    revision: Option<i64>,
    attempt: i64,
    output_type: Option<&'a str>,
    output: Option<&'a [u8]>,
    memory_bytes_peak: Option<i64>,
    cpu_us: Option<i64>,
    wall_us: Option<i64>,
    host_calls: Option<i64>,
    enqueued_at_ms: i64,
    started_at_ms: Option<i64>,
    finished_at_ms: Option<i64>,
    outgoing_ids: Vec<Uuid>,
    payloads: Vec<&'a [u8]>,
    due_after_s: f64,
}

impl EndTask {
    /// With the key of the installation, of which the function knows the same.
    #[must_use]
    pub fn new(installation_key: &[u8]) -> Self {
        let key = |of: &str| Sha256::new().chain_update(installation_key).chain_update(of).finalize().into();
        Self { inner_key: key("end_task inner"), outer_key: key("end_task outer") }
    }

    /// The expression for the number of that function. It fails where there is none, rather than let a task end without it.
    pub const FUNCTION: &'static str = "'agent_host.end_task_now'::pg_catalog.regproc::pg_catalog.oid";

    /// Makes this the end of the task, and sends `commit` in the same write, for the caller to read what came of it. After
    /// [`Ended::Before`], and after any error, that has committed nothing.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn call(
        &self,
        connection: &mut PgConnection,
        function: Oid,
        ending: &Ending,
        commit: String,
    ) -> Result<Ended, sqlx::Error> {
        let change = TaskRecord::from(ending.update.clone());
        let call = Call::new(&change, ending);
        let arguments = call.arguments(&self.proof(&call)).map_err(sqlx::Error::Encode)?;
        match connection.call_function(function, arguments, commit).await {
            Ok(()) => Ok(Ended::Now),
            Err(error) if error.as_database_error().and_then(|error| error.code()).as_deref() == Some(ENDED_BEFORE) => {
                Ok(Ended::Before)
            }
            Err(error) => Err(error),
        }
    }

    /// Twice, as HMAC does: a hash of the key and the text alone could be continued by whoever knows both others.
    fn proof(&self, call: &Call<'_>) -> [u8; 32] {
        let inner = Sha256::new().chain_update(self.inner_key).chain_update(call.canonical()).finalize();
        Sha256::new().chain_update(self.outer_key).chain_update(inner).finalize().into()
    }
}

/// Types of PostgreSQL by their fixed numbers (its `pg_type.dat`).
mod oid {
    pub(super) const BYTEA: i32 = 17;
    pub(super) const INT8: i32 = 20;
    pub(super) const INT4: i32 = 23;
    pub(super) const FLOAT8: i32 = 701;
    pub(super) const UUID: i32 = 2950;
    pub(super) const UUIDS: i32 = 2951;
}

impl<'a> Call<'a> {
    fn new(change: &'a TaskRecord, ending: &'a Ending) -> Self {
        let usage = change.usage;
        Self {
            id: change.id.as_str(),
            agent: change.agent.as_str(),
            generation: signed_generation(change.generation),
            revision: change.revision.map(signed),
            attempt: i64::from(change.attempt),
            output_type: change.output.as_ref().and_then(|output| output.content_type.as_deref()),
            output: change.output.as_ref().map(|output| output.body.as_ref()),
            memory_bytes_peak: usage.map(|usage| signed(usage.memory_bytes_peak)),
            cpu_us: usage.map(|usage| signed(usage.cpu_us)),
            wall_us: usage.map(|usage| signed(usage.wall_us)),
            host_calls: usage.map(|usage| signed(usage.host_calls)),
            enqueued_at_ms: signed(change.enqueued_at_ms),
            started_at_ms: change.started_at_ms.map(signed),
            finished_at_ms: change.finished_at_ms.map(signed),
            outgoing_ids: ending.outgoing.iter().map(|outgoing| outgoing.id).collect(),
            payloads: ending.outgoing.iter().map(|outgoing| outgoing.payload.as_ref()).collect(),
            due_after_s: UNSENT_AFTER.as_secs_f64(),
        }
    }

    /// In the function's order.
    fn arguments(&self, proof: &[u8]) -> Result<PgArguments, sqlx::error::BoxDynError> {
        let mut arguments = PgArguments::default();
        arguments.add(proof)?;
        arguments.add(self.id)?;
        arguments.add(self.agent)?;
        arguments.add(self.generation)?;
        arguments.add(self.revision)?;
        arguments.add(self.attempt)?;
        arguments.add(self.output_type)?;
        arguments.add(self.output)?;
        arguments.add(self.memory_bytes_peak)?;
        arguments.add(self.cpu_us)?;
        arguments.add(self.wall_us)?;
        arguments.add(self.host_calls)?;
        arguments.add(self.enqueued_at_ms)?;
        arguments.add(self.started_at_ms)?;
        arguments.add(self.finished_at_ms)?;
        arguments.add(&self.outgoing_ids)?;
        arguments.add(&self.payloads)?;
        arguments.add(self.due_after_s)?;
        Ok(arguments)
    }

    /// What the function's `record_send(ROW(…))` makes of the same arguments: each with its type and its length, so that
    /// no two calls look alike. Of the large ones there is the hash.
    fn canonical(&self) -> Vec<u8> {
        let ids: Vec<&[u8]> = self.outgoing_ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let output = self.output.map(Sha256::digest);
        let mut payloads = Sha256::new();
        array(oid::BYTEA, &self.payloads, |bytes| payloads.update(bytes));
        let mut row = Row { bytes: Vec::with_capacity(512), columns: 0 };
        row.column(oid::BYTEA, Some(self.id.as_bytes()));
        row.column(oid::BYTEA, Some(self.agent.as_bytes()));
        row.column(oid::INT4, Some(&self.generation.to_be_bytes()));
        row.number(self.revision);
        row.number(Some(self.attempt));
        row.column(oid::BYTEA, self.output_type.map(str::as_bytes));
        row.column(oid::BYTEA, output.as_ref().map(|hash| hash.as_slice()));
        row.number(self.memory_bytes_peak);
        row.number(self.cpu_us);
        row.number(self.wall_us);
        row.number(self.host_calls);
        row.number(Some(self.enqueued_at_ms));
        row.number(self.started_at_ms);
        row.number(self.finished_at_ms);
        let mut array_of_ids = Vec::new();
        array(oid::UUID, &ids, |bytes| array_of_ids.extend_from_slice(bytes));
        row.column(oid::UUIDS, Some(&array_of_ids));
        row.column(oid::BYTEA, Some(&payloads.finalize()));
        row.column(oid::FLOAT8, Some(&self.due_after_s.to_be_bytes()));
        [row.columns.to_be_bytes().as_slice(), &row.bytes].concat()
    }
}

/// A row in PostgreSQL's binary format.
struct Row {
    bytes: Vec<u8>,
    columns: i32,
}

impl Row {
    fn column(&mut self, of: i32, value: Option<&[u8]>) {
        self.columns = self.columns.saturating_add(1);
        self.bytes.extend_from_slice(&of.to_be_bytes());
        self.bytes.extend_from_slice(&value.map_or(-1, length).to_be_bytes());
        self.bytes.extend_from_slice(value.unwrap_or_default());
    }

    fn number(&mut self, value: Option<i64>) {
        self.column(oid::INT8, value.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    }
}

/// An array in PostgreSQL's binary format, in pieces.
fn array(of: i32, items: &[&[u8]], mut piece: impl FnMut(&[u8])) {
    const FLAGS: i32 = 0;
    const FIRST_INDEX: i32 = 1;
    let dimensions = i32::from(!items.is_empty());
    for number in [dimensions, FLAGS, of] {
        piece(&number.to_be_bytes());
    }
    if !items.is_empty() {
        piece(&length(items).to_be_bytes());
        piece(&FIRST_INDEX.to_be_bytes());
    }
    for item in items {
        piece(&length(item).to_be_bytes());
        piece(item);
    }
}

/// PostgreSQL takes no message of 2 GiB, so what is longer is refused whatever its proof.
fn length<T>(items: &[T]) -> i32 {
    i32::try_from(items.len()).unwrap_or(i32::MAX)
}

impl std::fmt::Debug for EndTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the keys: whoever has them can end tasks.
        f.debug_struct("EndTask").finish_non_exhaustive()
    }
}
