//! A fleet that no other test is part of: with a RabbitMQ and a database of its own, and with a proxy before each of its
//! servers, so that they can be taken from it.
//!
//! Redis is that of all tests; keys are by the agents' names. The tests that have such a fleet take turns.

#[expect(dead_code, reason = "what the tests of the broker alone need of it")]
#[path = "../broker_amqp/server.rs"]
mod server;

use sqlx::{ConnectOptions, Connection, Executor};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedMutexGuard, watch};

use self::server::Server;
use super::common::{HostBuilder, service};

/// Servers of the test's own. Hosts see them through the proxies, the test itself does not.
pub(crate) struct Fleet {
    pub(crate) broker: Proxy,
    pub(crate) database: Proxy,
    pub(crate) cache: Proxy,
    /// The fleet's database, past the proxy.
    pub(crate) pool: sqlx::PgPool,
    database_name: String,
    server: OwnedMutexGuard<Server>,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        let server = Server::lend().await;
        let database_name = super::scripts::unique("fleet");
        let mut url: url::Url = service("DATABASE_URL").parse().unwrap();
        admin(&format!("CREATE DATABASE {database_name}")).await;
        url.set_path(&database_name);
        Self {
            broker: Proxy::before(&server.url()).await,
            database: Proxy::before(url.as_str()).await,
            cache: Proxy::before(&service("REDIS_URL")).await,
            pool: sqlx::PgPool::connect(url.as_str()).await.unwrap(),
            database_name,
            server,
        }
    }

    /// A host of this fleet.
    pub(crate) fn host(&self) -> HostBuilder {
        HostBuilder::bare()
            .env("AMQP_URL", &self.broker.url)
            .env("DATABASE_URL", &self.database.url)
            .env("REDIS_URL", &self.cache.url)
    }

    /// Transactions of agents that have inserted a row and do nothing at the moment.
    pub(crate) async fn idle_transactions(&self) -> i64 {
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE 'ah\\_%'
             AND state = 'idle in transaction' AND query LIKE 'INSERT INTO effects%'";
        sqlx::query_scalar(idle).fetch_one(&self.pool).await.unwrap()
    }

    /// The URL of its broker for a user of this password.
    pub(crate) fn broker_with_password(&self, password: &str) -> String {
        const USER: &str = "somebody";
        self.server.control(&["add_user", USER, password]);
        self.server.control(&["set_permissions", USER, ".*", ".*", ".*"]);
        let mut url: url::Url = self.broker.url.parse().unwrap();
        url.set_username(USER).unwrap();
        url.set_password(Some(password)).unwrap();
        url.into()
    }

    /// Removes its database. Its hosts must be gone.
    pub(crate) async fn end(self) {
        self.pool.close().await;
        admin(&format!("DROP DATABASE {} WITH (FORCE)", self.database_name)).await;
    }
}

async fn admin(statement: &str) {
    let options: sqlx::postgres::PgConnectOptions = service("DATABASE_URL").parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    connection.execute(statement).await.unwrap();
    connection.close().await.unwrap();
}

/// A server as its clients see it.
pub(crate) struct Proxy {
    url: String,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    There,
    /// Connections end, and new ones are refused.
    Cut,
    /// Connections stay, and nothing is said on them: the machine has lost its power, and with it all that it knew of them.
    Silent,
}

impl Proxy {
    async fn before(server: &str) -> Self {
        let mut url: url::Url = server.parse().unwrap();
        let target = (url.host_str().unwrap().to_owned(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        url.set_ip_host(own.ip()).unwrap();
        url.set_port(Some(own.port())).unwrap();
        let (state, seen) = watch::channel(State::There);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target.clone(), seen.clone()));
            }
        });
        Self { url: url.into(), state }
    }

    /// The server's URL with this proxy's address in it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Ends all connections, and takes no more.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Says nothing any more on any connection. Those that there are stay so for good.
    pub(crate) fn fall_silent(&self) {
        self.state.send_replace(State::Silent);
    }

    /// Lets new connections through again.
    pub(crate) fn mend(&self) {
        self.state.send_replace(State::There);
    }
}

/// Carries one connection until either side ends it or the proxy's state does.
async fn carry(mut client: TcpStream, target: (String, u16), mut state: watch::Receiver<State>) {
    let now = *state.borrow();
    if now == State::There {
        client.set_nodelay(true).unwrap();
        let Ok(mut server) = TcpStream::connect(target).await else { return };
        server.set_nodelay(true).unwrap();
        tokio::select! {
            biased;
            _ = state.wait_for(|state| *state != State::There) => {}
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
        }
    }
    if *state.borrow() == State::Silent {
        // The client keeps its end for as long as it likes.
        let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
    } else {
        // A reset, as from a machine where nobody listens.
        let _ = client.set_zero_linger();
    }
}
