//! Connections to Redis: a few, long-lived, shared by all agents.
//!
//! Every command goes out on one of them as it comes, without waiting for the answers to earlier ones. A pool that hands
//! out a connection per command was measured 5 to 7 times slower here, because it pings at each checkout.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_redis::redis;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{IntoConnectionInfo, RedisError, ServerErrorKind};

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
    managers: Vec<ConnectionManager>,
    first: ConnectionManager,
    turn: AtomicUsize,
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
        let connect = || ConnectionManager::new_with_config(client.clone(), config.clone());
        let first = connect().await.map_err(RedisSetupError::Connect)?;
        let mut managers = vec![first.clone()];
        while managers.len() < CONNECTIONS {
            managers.push(connect().await.map_err(RedisSetupError::Connect)?);
        }
        Ok(Self { shared: Arc::new(Shared { managers, first, turn: AtomicUsize::new(0) }) })
    }

    /// The connection whose turn it is.
    pub(super) fn next(&self) -> ConnectionManager {
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed) % self.shared.managers.len().max(1);
        self.shared.managers.get(turn).unwrap_or(&self.shared.first).clone()
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
        f.debug_struct("RedisConnections").field("connections", &self.shared.managers.len()).finish()
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
