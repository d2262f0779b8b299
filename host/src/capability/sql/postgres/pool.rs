//! Connections in the name of one agent, and the slots that all agents share.
//!
//! Not sqlx's pool: that one pings on each return, and its limit knows one role only. Here a connection comes back as it
//! is after a commit that also reset it, or it does not come back. One that died meanwhile shows at the next `BEGIN`,
//! where nothing is lost by opening another.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, PgPool, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::kept::{KeptStatements, STATEMENTS_CACHED_MAX};
use super::provision::Login;
use super::running::{Running, ServerStart};
use super::{CONNECT_TIMEOUT, PostgresConfig};
use crate::capability::sql::SqlError;
use crate::records::EndTask;

/// A connection that nobody used for so long is closed: it costs the server memory, and a firewall may have forgotten it.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// How often idle connections are looked at.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(30);

/// The connections that one host may have open in the names of agents.
pub(super) struct Slots {
    free: Arc<Semaphore>,
    max: usize,
    /// Tasks that wait for a slot: a returned connection is then closed instead of kept.
    waiting: AtomicUsize,
    closed: AtomicBool,
    pools: Mutex<Vec<Weak<AgentPool>>>,
}

impl Slots {
    pub(super) fn new(max: usize) -> Self {
        let free = Arc::new(Semaphore::new(max));
        Self { free, max, waiting: AtomicUsize::new(0), closed: AtomicBool::new(false), pools: Mutex::default() }
    }

    pub(super) fn open_and_max(&self) -> (usize, usize) {
        (self.max.saturating_sub(self.free.available_permits()), self.max)
    }

    /// From now on connections that come back are closed.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits until every connection is gone, at the server too.
    pub(super) async fn all_free(&self) {
        let _ = self.free.acquire_many(u32::try_from(self.max).unwrap_or(u32::MAX)).await;
    }

    /// Closes connections that nobody has used for long, for as long as there are slots.
    pub(super) fn look_after_idle(self: &Arc<Self>) {
        let slots = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE_LOOK_EVERY).await;
                let Some(slots) = slots.upgrade() else { return };
                slots.pools().iter().for_each(|pool| pool.close_old(IDLE_MAX));
            }
        });
    }

    fn pools(&self) -> Vec<Arc<AgentPool>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    /// A slot for a new connection, taken from another agent's idle one where none is free.
    async fn take(self: &Arc<Self>) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(slot);
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waits = Waits(self);
        // One is enough; its slot is free once it is closed.
        if let Some(idle) = self.pools().iter().find_map(|pool| pool.pop_idle()) {
            close(idle);
        }
        Arc::clone(&self.free).acquire_owned().await.ok()
    }
}

struct Waits<'a>(&'a Slots);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The connections of one agent.
pub(super) struct AgentPool {
    login: Login,
    options: PgConnectOptions,
    admin: PgPool,
    end_task: Option<EndTask>,
    slots: Arc<Slots>,
    turns: Arc<Semaphore>,
    acquire_timeout: Duration,
    idle: Mutex<Vec<(Live, Instant)>>,
    generation: AtomicU64,
}

/// An open connection.
pub(super) struct Live {
    pub(super) connection: PgConnection,
    pub(super) running: Running,
    /// The statement timeout that the session started with, and that a reset restores.
    pub(super) timeout_default: Duration,
    /// The statement timeout in force.
    pub(super) timeout: Duration,
    /// The number of the function that ends a task, where the records are in this database.
    pub(super) end_task: Option<Oid>,
    /// What the driver keeps of its statements.
    pub(super) kept: KeptStatements,
    generation: u64,
}

/// A new session.
struct Opened {
    connection: PgConnection,
    /// Its process at the server.
    pid: i32,
    /// When that server started.
    server: ServerStart,
    end_task: Option<Oid>,
}

/// A connection in the hands of a task, with the agent's turn.
pub(super) struct Checkout {
    pub(super) live: Live,
    /// Whether it was open already, and so may have died unnoticed.
    pub(super) reused: bool,
    pub(super) turn: OwnedSemaphorePermit,
}

impl AgentPool {
    pub(super) fn new(
        login: Login,
        config: &PostgresConfig,
        admin: PgPool,
        end_task: Option<EndTask>,
        slots: Arc<Slots>,
    ) -> Arc<Self> {
        let options = login.options(&config.options).statement_cache_capacity(STATEMENTS_CACHED_MAX);
        let pool = Arc::new(Self {
            login,
            options,
            admin,
            end_task,
            slots: Arc::clone(&slots),
            turns: Arc::new(Semaphore::new(config.connections_per_agent_max)),
            acquire_timeout: config.acquire_timeout,
            idle: Mutex::default(),
            generation: AtomicU64::new(0),
        });
        let mut pools = slots.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// What records the end of a task in its own transaction, where the records are in this database.
    pub(super) fn end_task(&self) -> Option<&EndTask> {
        self.end_task.as_ref()
    }

    /// A connection, an idle one where there is one.
    pub(super) async fn checkout(self: &Arc<Self>, statement_timeout: Duration) -> Result<Checkout, SqlError> {
        let waited = tokio::time::timeout(self.acquire_timeout, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = match waited {
            Ok(Ok(turn)) => turn,
            Ok(Err(error)) => return Err(unavailable("the host is shutting down", error.into())),
            Err(elapsed) => {
                return Err(unavailable("no connection to the database became free in time", elapsed.into()));
            }
        };
        if let Some(live) = self.pop_idle() {
            return Ok(Checkout { live, reused: true, turn });
        }
        let live = self.connect(statement_timeout).await?;
        Ok(Checkout { live, reused: false, turn })
    }

    /// A new connection, never an idle one.
    pub(super) async fn connect(self: &Arc<Self>, statement_timeout: Duration) -> Result<Live, SqlError> {
        let slot = match tokio::time::timeout(self.acquire_timeout, self.slots.take()).await {
            Ok(Some(slot)) => slot,
            Ok(None) => return Err(unavailable("the host is shutting down", "no more slots".into())),
            Err(elapsed) => {
                return Err(unavailable("no connection to the database became free in time", elapsed.into()));
            }
        };
        let generation = self.generation.load(Ordering::Acquire);
        let opened = match tokio::time::timeout(CONNECT_TIMEOUT, self.log_in(statement_timeout)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(unavailable("no connection to the database could be made", error.into())),
            Err(elapsed) => return Err(unavailable("no connection to the database could be made", elapsed.into())),
        };
        let role = self.login.role().to_owned();
        let running = Running::new(opened.pid, role, opened.server, self.admin.clone(), slot);
        Ok(Live {
            connection: opened.connection,
            running,
            end_task: opened.end_task,
            timeout_default: statement_timeout,
            timeout: statement_timeout,
            kept: KeptStatements::default(),
            generation,
        })
    }

    async fn log_in(&self, statement_timeout: Duration) -> Result<Opened, sqlx::Error> {
        let options = self.options.clone().options([("statement_timeout", statement_timeout.as_millis().to_string())]);
        let mut connection = match options.connect().await {
            // Any role may change its own password, and an agent's is to be what the host thinks.
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "28P01") => {
                self.login.restore_password(&self.admin).await?;
                options.connect().await?
            }
            connected => connected?,
        };
        // With their schema: a role may set a search path for itself that leads to functions of its own. And without a name,
        // under which it would stay in the session.
        let who = format!(
            "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time(), {}",
            if self.end_task.is_some() { EndTask::FUNCTION } else { "NULL::pg_catalog.oid" },
        );
        let row = sqlx::query(&who).persistent(false).fetch_one(&mut connection).await?;
        Ok(Opened { connection, pid: row.try_get(0)?, server: row.try_get(1)?, end_task: row.try_get(2)? })
    }

    /// Takes back a connection that is outside a transaction and has been reset.
    pub(super) fn give_back(&self, live: Live) {
        let current = live.generation == self.generation.load(Ordering::Acquire);
        let wanted = self.slots.waiting.load(Ordering::Acquire) > 0;
        if current && !wanted && !self.slots.closed.load(Ordering::Acquire) {
            self.idle_connections().push((live, Instant::now()));
        } else {
            close(live);
        }
    }

    /// Closes the idle connections, and those in use once they come back.
    pub(super) fn retire_idle(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let idle = std::mem::take(&mut *self.idle_connections());
        idle.into_iter().for_each(|(live, _)| close(live));
    }

    /// Connections that wait for a task.
    pub(super) fn idle(&self) -> usize {
        self.idle_connections().len()
    }

    /// The connection that was used last: it is warm, and the others get old enough to be closed.
    fn pop_idle(&self) -> Option<Live> {
        self.close_old(IDLE_MAX);
        self.idle_connections().pop().map(|(live, _)| live)
    }

    /// Closes the connections that nobody has used for so long.
    fn close_old(&self, idle_max: Duration) {
        let mut idle = self.idle_connections();
        // In the order in which they came back.
        let old = idle.iter().take_while(|(_, since)| since.elapsed() >= idle_max).count();
        let old: Vec<_> = idle.drain(..old).collect();
        drop(idle);
        old.into_iter().for_each(|(live, _)| close(live));
    }

    fn idle_connections(&self) -> MutexGuard<'_, Vec<(Live, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says goodbye, so that the server does not log a lost client; without a runtime the socket just closes.
fn close(live: Live) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            // The slot is free once this is dropped.
            let Live { connection, running, .. } = live;
            let _ = connection.close().await;
            drop(running);
        });
    }
}

fn unavailable(what: &'static str, source: crate::capability::Cause) -> SqlError {
    SqlError::Unavailable { what: what.into(), source }
}
