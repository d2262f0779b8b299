//! What runs at the server on one connection, and how it is made to end.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::OwnedSemaphorePermit;

/// How long the server may take to say what it has.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between two looks at whether a process of the server has ended: the first, doubled up to the last.
const END_PAUSE_MIN: Duration = Duration::from_millis(5);
const END_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the host tries to end a statement whose task is gone, past any restart of the server.
const END_PATIENCE: Duration = Duration::from_secs(120);

/// When a server started: another time is another server.
pub(super) type ServerStart = chrono::DateTime<chrono::Utc>;

/// One process of the server's. Dropped while a statement runs in it (the task was stopped), it has the server end it: a
/// process does not notice by itself that its client is gone while it computes. Its slot is free once it is gone.
pub(super) struct Running {
    process: Process,
    slot: Option<OwnedSemaphorePermit>,
    /// Set while a statement runs.
    pub(super) now: bool,
}

#[derive(Clone)]
struct Process {
    pid: i32,
    role: String,
    server: ServerStart,
    admin: PgPool,
}

impl Running {
    pub(super) fn new(pid: i32, role: String, server: ServerStart, admin: PgPool, slot: OwnedSemaphorePermit) -> Self {
        Self { process: Process { pid, role, server, admin }, slot: Some(slot), now: false }
    }

    /// Whether the server has this process, as far as it says anything.
    pub(super) async fn is_there(&self) -> bool {
        let Process { pid, role, admin, .. } = &self.process;
        let look = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND usename = $2)";
        let look = sqlx::query_scalar::<_, bool>(look).bind(pid).bind(role).fetch_one(admin);
        matches!(tokio::time::timeout(LOOK_TIMEOUT, look).await, Ok(Ok(true)))
    }

    /// Whether the server that this process is of is up, whatever has become of the process.
    pub(super) async fn server_is_up(&self) -> bool {
        let look = sqlx::query_scalar::<_, ServerStart>("SELECT pg_postmaster_start_time()");
        let look = look.fetch_one(&self.process.admin);
        matches!(tokio::time::timeout(LOOK_TIMEOUT, look).await, Ok(Ok(server)) if server == self.process.server)
    }

    /// Has the server end the process, and waits until it is gone.
    pub(super) async fn end(&self) {
        self.process.end().await;
    }
}

impl Process {
    async fn end(&self) {
        let ended = async {
            let mut pause = END_PAUSE_MIN;
            loop {
                match self.is_told_to_end().await {
                    Ok(false) => return,
                    Ok(true) => {}
                    Err(sqlx::Error::PoolClosed) => return,
                    Err(error) => tracing::debug!(%error, "a statement of a stopped task could not be ended yet"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(END_PAUSE_MAX);
            }
        };
        if tokio::time::timeout(END_PATIENCE, ended).await.is_err() {
            tracing::warn!(role = self.role, "a statement of a stopped task could not be ended");
        }
    }

    /// Whether it was there to be told.
    async fn is_told_to_end(&self) -> Result<bool, sqlx::Error> {
        // By role too: the process may have ended meanwhile, and its number be another's.
        let stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND usename = $2";
        let told = sqlx::query(stop).bind(self.pid).bind(&self.role).fetch_optional(&self.admin).await?;
        Ok(told.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (true, Ok(runtime)) = (self.now, tokio::runtime::Handle::try_current()) else { return };
        let (process, slot) = (self.process.clone(), self.slot.take());
        runtime.spawn(async move {
            process.end().await;
            drop(slot);
        });
    }
}
