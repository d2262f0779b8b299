//! Connections to Redis: a few, long-lived, shared by all agents.
//!
//! Every command goes out on one of them as it comes, without waiting for the answers to earlier ones. A pool that hands
//! out a connection per command was measured 5 to 7 times slower here, because it pings at each checkout.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use deadpool_redis::redis;
use futures::FutureExt as _;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Cmd, IntoConnectionInfo, Pipeline, RedisError, RedisFuture, ServerErrorKind, Value};

/// Connections of one host. Two: one is enough for the rate, the second keeps small commands moving while the first
/// carries a large value.
const CONNECTIONS: usize = 2;
/// How long an answer may take before the command counts as failed.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection attempt may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts to connect again before the commands that wait for it fail; the next command starts over.
const RECONNECT_ATTEMPTS_MAX: usize = 4;
/// First and longest pause between attempts.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(500);

/// Reads all keys, unless their values together pass `ARGV[1]` bytes: then it gives nil instead of building the reply.
pub(super) const GET_MANY_SCRIPT: &str = "\
local bytes = 0
for _, key in ipairs(KEYS) do
  bytes = bytes + redis.call('STRLEN', key)
  if bytes > tonumber(ARGV[1]) then return false end
end
return redis.call('MGET', unpack(KEYS))";

/// The shared connections. Cheap to clone.
#[derive(Clone)]
pub struct RedisConnections {
    shared: Arc<Shared>,
}

struct Shared {
    lanes: Vec<Arc<Lane>>,
    first: Arc<Lane>,
    turn: AtomicUsize,
}

/// One connection. The manager opens it again where it breaks, but not where it only says nothing any more, as after the
/// other machine has lost its power: then the manager is replaced.
struct Lane {
    client: redis::Client,
    config: ConnectionManagerConfig,
    /// With how many there were before it.
    manager: RwLock<(u64, ConnectionManager)>,
}

impl Lane {
    async fn open(client: redis::Client, config: ConnectionManagerConfig) -> Result<Arc<Self>, RedisError> {
        let manager = ConnectionManager::new_with_config(client.clone(), config.clone()).await?;
        Ok(Arc::new(Self { client, config, manager: RwLock::new((0, manager)) }))
    }

    fn connection(self: &Arc<Self>) -> RedisConnection {
        let (number, manager) = self.manager.read().unwrap_or_else(PoisonError::into_inner).clone();
        RedisConnection { lane: Arc::clone(self), number, manager }
    }

    /// Has the next command open a connection, unless that has been done since the given manager.
    fn replace(&self, number: u64) {
        let mut manager = self.manager.write().unwrap_or_else(PoisonError::into_inner);
        if manager.0 == number
            && let Ok(new) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
        {
            *manager = (number.saturating_add(1), new);
        }
    }
}

/// The connection of one command, or of a few.
pub(super) struct RedisConnection {
    lane: Arc<Lane>,
    number: u64,
    manager: ConnectionManager,
}

impl RedisConnection {
    fn seen<T>(&self, result: Result<T, RedisError>) -> Result<T, RedisError> {
        if let Err(error) = &result
            && error.is_timeout()
        {
            self.lane.replace(self.number);
        }
        result
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let result = self.manager.send_packed_command(command).await;
            self.seen(result)
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let result = self.manager.send_packed_commands(commands, offset, count).await;
            self.seen(result)
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.manager.get_db()
    }
}

/// Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedisSetupError {
    /// The URL is no Redis URL.
    #[error("REDIS_URL is not a Redis URL: expected redis://[user:password@]host[:port][/database] or rediss://…")]
    Url(#[source] RedisError),
    /// No connection could be made.
    #[error("no connection to Redis could be made: check REDIS_URL and that the server runs")]
    Connect(#[source] RedisError),
}

impl RedisConnections {
    /// Connects, and waits until every connection stands.
    ///
    /// # Errors
    /// A wrong URL, or a server that cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, RedisSetupError> {
        // The default waits for more to send before it sends (Nagle), which costs up to 40 ms a command.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = url.into_connection_info().map_err(RedisSetupError::Url)?.set_tcp_settings(tcp);
        let client = redis::Client::open(info).map_err(RedisSetupError::Url)?;
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_number_of_retries(RECONNECT_ATTEMPTS_MAX)
            .set_min_delay(RECONNECT_DELAY_MIN)
            .set_max_delay(RECONNECT_DELAY_MAX);
        let connect = || Lane::open(client.clone(), config.clone());
        let first = connect().await.map_err(RedisSetupError::Connect)?;
        let mut lanes = vec![Arc::clone(&first)];
        while lanes.len() < CONNECTIONS {
            lanes.push(connect().await.map_err(RedisSetupError::Connect)?);
        }
        Ok(Self { shared: Arc::new(Shared { lanes, first, turn: AtomicUsize::new(0) }) })
    }

    /// The connection whose turn it is.
    pub(super) fn next(&self) -> RedisConnection {
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed) % self.shared.lanes.len().max(1);
        self.shared.lanes.get(turn).unwrap_or(&self.shared.first).connection()
    }

    /// Whether Redis answers, for readiness and `doctor`.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Result<(), RedisError> {
        redis::cmd("PING").query_async(&mut self.next()).await
    }
}

impl std::fmt::Debug for RedisConnections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the connection info: it holds the password.
        f.debug_struct("RedisConnections").field("connections", &self.shared.lanes.len()).finish()
    }
}

/// What a failed command means to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The value is no whole number, or the sum does not fit.
    NotANumber,
    /// Redis is at its `maxmemory`.
    Full,
    /// Anything else.
    Unavailable,
}

pub(super) fn fault(error: &RedisError) -> Fault {
    // Redis gives these no code of their own, only `ERR` and this text, the same since version 2.
    let not_a_number = error.detail().is_some_and(|detail| {
        detail.contains("value is not an integer") || detail.contains("increment or decrement would overflow")
    });
    match error.kind() {
        redis::ErrorKind::Server(ServerErrorKind::ResponseError) if not_a_number => Fault::NotANumber,
        _ if error.code() == Some("OOM") => Fault::Full,
        _ => Fault::Unavailable,
    }
}

/// A text as it matches itself in a Redis pattern.
pub(super) fn glob_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
