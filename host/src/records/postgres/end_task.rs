//! Ending a task inside of the transaction of its own SQL.

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::changes::{signed, signed_generation};
use crate::records::{Ended, Ending, TaskRecord, UNSENT_AFTER};

/// Calls the function `agent_host.end_task` (migration 3) on connections that are logged in as an agent's role.
#[derive(Clone)]
pub struct EndTask {
    proof: Vec<u8>,
}

impl EndTask {
    /// With the key of the installation, of which the function knows the same.
    #[must_use]
    pub fn new(installation_key: &[u8]) -> Self {
        Self { proof: Sha256::new().chain_update(installation_key).chain_update("end_task").finalize().to_vec() }
    }

    /// Makes this the end of the task once the transaction commits. After [`Ended::Before`] it is to be rolled back.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn call(&self, connection: &mut PgConnection, ending: &Ending) -> Result<Ended, sqlx::Error> {
        const CALL: &str =
            "SELECT agent_host.end_task($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
            $16, $17, $18)";
        let change = TaskRecord::from(ending.update.clone());
        let usage = change.usage;
        let is_end: bool = sqlx::query_scalar(CALL)
            .bind(&self.proof)
            .bind(change.id.as_str())
            .bind(change.agent.as_str())
            .bind(signed_generation(change.generation))
            .bind(change.revision.map(signed))
            .bind(i64::from(change.attempt))
            .bind(change.output.as_ref().and_then(|output| output.content_type.as_deref()))
            .bind(change.output.as_ref().map(|output| output.body.as_ref()))
            .bind(usage.map(|usage| signed(usage.memory_bytes_peak)))
            .bind(usage.map(|usage| signed(usage.cpu_us)))
            .bind(usage.map(|usage| signed(usage.wall_us)))
            .bind(usage.map(|usage| signed(usage.host_calls)))
            .bind(signed(change.enqueued_at_ms))
            .bind(change.started_at_ms.map(signed))
            .bind(change.finished_at_ms.map(signed))
            .bind(ending.outgoing.iter().map(|outgoing| outgoing.id).collect::<Vec<_>>())
            .bind(ending.outgoing.iter().map(|outgoing| outgoing.payload.as_ref()).collect::<Vec<_>>())
            .bind(UNSENT_AFTER.as_secs_f64())
            .fetch_one(connection)
            .await?;
        Ok(if is_end { Ended::Now } else { Ended::Before })
    }
}

impl std::fmt::Debug for EndTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the proof: whoever has it can end tasks.
        f.debug_struct("EndTask").finish_non_exhaustive()
    }
}
