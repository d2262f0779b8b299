//! Connections in the name of one agent, and the slots that all agents share.
//!
//! Not sqlx's pool: that one pings on each return, and its limit knows one role only. Here a connection comes back as it
//! is after a commit that also reset it, or it does not come back. One that died meanwhile shows at the next `BEGIN`,
//! where nothing is lost by opening another.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, PgPool, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::provision::Login;
use super::{CONNECT_TIMEOUT, PostgresConfig};
use crate::capability::sql::SqlError;
use crate::records::EndTask;

/// Prepared statements kept per connection.
const STATEMENTS_CACHED_MAX: usize = 64;
/// A connection that nobody used for so long is closed rather than used: a firewall may have forgotten it.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// How long the server may take to say whether it has a connection.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

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

    /// A slot for a new connection, taken from another agent's idle one where none is free.
    async fn take(self: &Arc<Self>) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(slot);
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waits = Waits(self);
        let pools: Vec<_> = {
            let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        // One is enough; dropping it closes it and frees its slot.
        drop(pools.iter().find_map(|pool| pool.pop_idle()));
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
    generation: u64,
    _slot: OwnedSemaphorePermit,
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
        login: &Login,
        config: &PostgresConfig,
        admin: PgPool,
        end_task: Option<EndTask>,
        slots: Arc<Slots>,
    ) -> Arc<Self> {
        let options = login.options(&config.options).statement_cache_capacity(STATEMENTS_CACHED_MAX);
        let pool = Arc::new(Self {
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
        let options = self.options.clone().options([("statement_timeout", statement_timeout.as_millis().to_string())]);
        let open = async {
            let mut connection = options.connect().await?;
            // With its schema: a role may set a search path for itself that leads to a function of its own.
            let row = sqlx::query("SELECT pg_catalog.pg_backend_pid()").fetch_one(&mut connection).await?;
            Ok::<_, sqlx::Error>((connection, row.try_get::<i32, _>(0)?))
        };
        let (connection, pid) = match tokio::time::timeout(CONNECT_TIMEOUT, open).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(unavailable("no connection to the database could be made", error.into())),
            Err(elapsed) => return Err(unavailable("no connection to the database could be made", elapsed.into())),
        };
        let running =
            Running { pid, role: self.options.get_username().to_owned(), admin: self.admin.clone(), now: false };
        Ok(Live {
            connection,
            running,
            timeout_default: statement_timeout,
            timeout: statement_timeout,
            generation,
            _slot: slot,
        })
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
        let mut idle = self.idle_connections();
        let (live, since) = idle.pop()?;
        if since.elapsed() < IDLE_MAX {
            return Some(live);
        }
        // The others are older still.
        let old = std::mem::take(&mut *idle);
        drop(idle);
        close(live);
        old.into_iter().for_each(|(live, _)| close(live));
        None
    }

    fn idle_connections(&self) -> MutexGuard<'_, Vec<(Live, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says goodbye, so that the server does not log a lost client; without a runtime the socket just closes.
fn close(live: Live) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            let Live { connection, _slot, .. } = live;
            let _ = connection.close().await;
        });
    }
}

fn unavailable(what: &'static str, source: crate::capability::Cause) -> SqlError {
    SqlError::Unavailable { what, source }
}

/// Knows whether a statement is running on the connection. Dropped while one is (the task was stopped), it has the server
/// end it: a backend does not notice by itself that its client is gone while it computes.
pub(super) struct Running {
    pid: i32,
    role: String,
    admin: PgPool,
    /// Set while a statement runs.
    pub(super) now: bool,
}

impl Running {
    /// Whether the server has this connection, as far as it says anything.
    pub(super) async fn is_there(&self) -> bool {
        let look = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND usename = $2)";
        let look = sqlx::query_scalar::<_, bool>(look).bind(self.pid).bind(&self.role).fetch_one(&self.admin);
        matches!(tokio::time::timeout(LOOK_TIMEOUT, look).await, Ok(Ok(true)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (true, Ok(runtime)) = (self.now, tokio::runtime::Handle::try_current()) else { return };
        let (pid, role, admin) = (self.pid, std::mem::take(&mut self.role), self.admin.clone());
        runtime.spawn(async move {
            // By role too: the process may have ended meanwhile, and its number be another's.
            let stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND usename = $2";
            if let Err(error) = sqlx::query(stop).bind(pid).bind(role).execute(&admin).await {
                tracing::warn!(%error, "a statement of a stopped task could not be ended; its statement_timeout will");
            }
        });
    }
}
