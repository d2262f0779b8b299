//! One connection that remakes itself.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AmqpConfig;
use super::connectivity::{Health, Role};
use super::traffic::Traffic;
use crate::delivery::{BrokerError, Connectivity};

/// A connection that stands most of the time.
pub(super) struct Link {
    current: watch::Sender<Option<Arc<Connection>>>,
    traffic: Arc<Traffic>,
}

/// How often a connection's own status is read besides listening to its events: a net for events that never come.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// AMQP's reply code for a proper goodbye.
const REPLY_SUCCESS: u16 = 200;

impl Link {
    /// Keeps a connection alive from its first making to `closed`.
    pub(super) fn start(
        role: Role,
        first: Connection,
        config: &Arc<AmqpConfig>,
        health: &Arc<Health>,
        closed: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let link = Arc::new(Self { current: watch::channel(None).0, traffic: Arc::default() });
        let (config, health, closed) = (Arc::clone(config), Arc::clone(health), closed.clone());
        let first = link.stands(role, first, &health);
        tasks.spawn(Arc::clone(&link).keep(role, first, config, health, closed));
        link
    }

    /// The connection, if it stands.
    pub(super) fn get(&self) -> Option<Arc<Connection>> {
        self.current.borrow().clone()
    }

    /// What comes over it.
    pub(super) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// The connection, as soon as it stands.
    pub(super) async fn wait(&self) -> Arc<Connection> {
        let mut current = self.current.subscribe();
        loop {
            if let Some(connection) = current.borrow_and_update().clone() {
                return connection;
            }
            if current.changed().await.is_err() {
                // The sender lives as long as the link, which the caller holds.
                std::future::pending::<()>().await;
            }
        }
    }

    fn stands(&self, role: Role, connection: Connection, health: &Health) -> Arc<Connection> {
        let connection = Arc::new(connection);
        self.current.send_replace(Some(Arc::clone(&connection)));
        health.set(role, Connectivity::Up);
        connection
    }

    async fn keep(
        self: Arc<Self>,
        role: Role,
        mut connection: Arc<Connection>,
        config: Arc<AmqpConfig>,
        health: Arc<Health>,
        closed: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = closed.cancelled() => break,
                reason = until_lost(&connection, role, &health) => {
                    tracing::warn!(role = role.name(), reason, "lost the connection to the broker; remaking it");
                }
            }
            self.current.send_replace(None);
            health.set(role, Connectivity::Down);
            drop(connection);
            tokio::select! {
                () = closed.cancelled() => return,
                remade = remake(&config, role) => connection = self.stands(role, remade, &health),
            }
            tracing::info!(role = role.name(), "connected to the broker again");
        }
        self.current.send_replace(None);
        health.set(role, Connectivity::Down);
        if let Err(error) = connection.close(REPLY_SUCCESS, "the host is shutting down".into()).await {
            tracing::debug!(role = role.name(), %error, "closing the connection");
        }
    }
}

/// Waits until the connection is lost, minding the broker's alarms; says why it is lost.
async fn until_lost(connection: &Connection, role: Role, health: &Health) -> String {
    let mut events = std::pin::pin!(connection.events_listener());
    loop {
        // Covers alarms raised before anybody listened, too.
        let blocked = connection.status().blocked();
        health.set(role, if blocked { Connectivity::Blocked } else { Connectivity::Up });
        let event = tokio::time::timeout(STATUS_INTERVAL, events.next()).await;
        match event {
            Ok(Some(Event::ConnectionBlocked(reason))) => {
                tracing::warn!(role = role.name(), reason, "the broker holds publishers back");
            }
            Ok(Some(Event::ConnectionUnblocked)) => {
                tracing::info!(role = role.name(), "the broker takes messages again");
            }
            Ok(Some(Event::Error(error))) if !connection.status().connected() => {
                return error.to_string();
            }
            Ok(None) => return "its event stream ended".to_owned(),
            Ok(Some(_)) | Err(_) => {}
        }
        if !connection.status().connected() {
            return "it is closed".to_owned();
        }
    }
}

async fn remake(config: &AmqpConfig, role: Role) -> Connection {
    let mut backoff = Backoff::new(config);
    loop {
        tokio::time::sleep(backoff.next_wait()).await;
        match establish(config, role).await {
            Ok(connection) => return connection,
            Err(error) => tracing::debug!(role = role.name(), %error, "the broker is still away"),
        }
    }
}

/// Waits that double up to the configured maximum.
pub(super) struct Backoff {
    next: Duration,
    initial: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(config: &AmqpConfig) -> Self {
        Self { next: config.reconnect_initial, initial: config.reconnect_initial, max: config.reconnect_max }
    }

    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.max);
        wait
    }

    pub(super) fn reset(&mut self) {
        self.next = self.initial;
    }
}

/// The error of whatever needs a connection while there is none.
pub(super) fn down() -> BrokerError {
    BrokerError("the connection to the broker is down and being remade".to_owned())
}

/// Makes a connection, in one attempt.
pub(super) async fn establish(config: &AmqpConfig, role: Role) -> Result<Connection, BrokerError> {
    let mut uri: AMQPUri = config.url.parse().map_err(|_| {
        // The parser's own words may quote the URL, password and all.
        BrokerError(
            "the broker's URL cannot be read: expected amqp://user:password@host:port/vhost in AMQP_URL".to_owned(),
        )
    })?;
    let place = format!("{}:{}", uri.authority.host, uri.authority.port);
    let (vhost, tls) = (uri.vhost.clone(), uri.scheme == AMQPScheme::AMQPS);
    uri.query.heartbeat.get_or_insert(u16::try_from(config.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX));
    uri.query.connection_timeout.get_or_insert(u64::try_from(config.connect_timeout.as_millis()).unwrap_or(u64::MAX));
    let name = format!("agent-host {} ({})", role.name(), std::process::id());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = Connection::connect_uri(uri, properties);
    match tokio::time::timeout(config.connect_timeout, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(BrokerError(format!("the broker at {place} {}", explain(&error, &vhost, tls)))),
        Err(_) => Err(BrokerError(format!(
            "the broker at {place} did not answer within {:?}: is that address and port an AMQP listener{}, and is there a firewall in between?",
            config.connect_timeout,
            if tls { " with TLS" } else { " without TLS" },
        ))),
    }
}

/// What a failed connect means and what to check, for people.
fn explain(error: &lapin::Error, vhost: &str, tls: bool) -> String {
    match error.kind() {
        ErrorKind::IOError(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            "refused the connection: is RabbitMQ running there, and is AMQP_URL right?".to_owned()
        }
        ErrorKind::IOError(io) if tls => {
            format!("did not complete the TLS connection ({io}): does that port speak TLS, and is its certificate trusted here?")
        }
        ErrorKind::IOError(io) => {
            format!("cannot be reached ({io}): check host and port in AMQP_URL, and that the port speaks AMQP without TLS")
        }
        ErrorKind::ProtocolError(refusal) => match refusal.get_id() {
            ACCESS_REFUSED => "refused the login: check user and password in AMQP_URL (guest may log in from the broker's own machine only)".to_owned(),
            NOT_ALLOWED => format!("refused the vhost {vhost:?}: check that it exists and that the user may use it (a vhost of / is written %2f)"),
            _ => format!("refused the connection: {refusal}"),
        },
        _ => format!("did not complete the connection: {error}"),
    }
}

const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;
