//! Checks of the services: whether they can be reached, speak the right protocol and let this host in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use deadpool_redis::redis;
use sqlx::{Connection as _, Row as _};

use super::{Exit, Finding, told};
use crate::broker::{amqp, topology};
use crate::config::{Backend, ServiceUrl, Vars};
use crate::embedded;
use crate::task::{AgentName, unix_ms_now};

/// How long a service may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What is said about a service that cannot be used.
struct Service {
    check: &'static str,
    variable: &'static str,
    port: u16,
    /// How to start one.
    start: &'static str,
}

const BROKER: Service = Service {
    check: "broker",
    variable: "AMQP_URL",
    port: 5672,
    start: "docker compose up -d rabbitmq, or sudo apt-get install rabbitmq-server",
};
const DATABASE: Service = Service {
    check: "database",
    variable: "DATABASE_URL",
    port: 5432,
    start: "docker compose up -d postgres, or sudo apt-get install postgresql",
};
const CACHE: Service = Service {
    check: "cache",
    variable: "REDIS_URL",
    port: 6379,
    start: "docker compose up -d redis, or sudo apt-get install redis-server",
};

/// What a service said about itself, and what of that is not as a host needs it.
struct Greeting {
    said: String,
    findings: Vec<Finding>,
}

impl Service {
    fn problem(&self, found: String, mend: String) -> Finding {
        Finding::problem(self.check, Exit::Unavailable, found, mend)
    }

    /// Whether anything listens there. Asked first, so that a wrong password is not mistaken for a missing server.
    async fn reach(&self, url: &ServiceUrl) -> Result<(), Finding> {
        let Some((host, port)) = url.address(self.port) else {
            return Ok(());
        };
        let connect = tokio::net::TcpStream::connect((host.as_str(), port));
        let why = match tokio::time::timeout(ANSWER_TIMEOUT, connect).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        };
        let mend = format!("start it ({}), or correct {}, or set it to embedded", self.start, self.variable);
        Err(self.problem(format!("{url}: {why}"), mend))
    }

    /// What the service said about itself, or why it did not.
    async fn greet(&self, url: &ServiceUrl, greeting: impl Future<Output = Result<Greeting, String>>) -> Vec<Finding> {
        if let Err(finding) = self.reach(url).await {
            return vec![finding];
        }
        let greeting = tokio::time::timeout(ANSWER_TIMEOUT, greeting).await;
        match greeting.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))) {
            Ok(Greeting { said, findings }) => {
                [vec![Finding::ok(self.check, format!("{url} {said}"))], findings].concat()
            }
            Err(why) => {
                let mend = if why.contains("certificate") {
                    "start the host with SSL_CERT_FILE=ca.pem, a file with the authority that signed the server's certificate"
                        .to_owned()
                } else {
                    format!("correct the user, password, path or scheme in {}", self.variable)
                };
                vec![self.problem(format!("{url}: something listens there, but {why}"), mend)]
            }
        }
    }
}

/// The broker, and the queues of these agents where there are any.
pub(super) async fn broker(backend: &Backend, agents: &[AgentName]) -> Vec<Finding> {
    match backend {
        Backend::Embedded => {
            vec![Finding::ok(BROKER.check, "embedded: in process, tasks do not survive a restart")]
        }
        Backend::Url(url) => BROKER.greet(url, greet_broker(url, agents)).await,
    }
}

async fn greet_broker(url: &ServiceUrl, agents: &[AgentName]) -> Result<Greeting, String> {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(url.expose(), options).await.map_err(|error| error.to_string())?;
    let opened = connection.create_channel().await.map_err(|error| error.to_string());
    let plan: Vec<_> = topology::shared().into_iter().chain(agents.iter().flat_map(topology::for_agent)).collect();
    let differing = match opened {
        Ok(_) => amqp::differing(&connection, &plan).await.map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    // The answer is known; a goodbye that fails changes nothing.
    let _ = connection.close(200, "checked".into()).await;
    let findings = told::queues(BROKER.check, &differing?);
    Ok(Greeting { said: "lets this host in".to_owned(), findings })
}

/// Key-value and cache.
pub(super) async fn cache(backend: &Backend) -> Vec<Finding> {
    match backend {
        Backend::Embedded => vec![Finding::ok(CACHE.check, "embedded: in process, values do not survive a restart")],
        Backend::Url(url) => CACHE.greet(url, greet_cache(url)).await,
    }
}

async fn greet_cache(url: &ServiceUrl) -> Result<Greeting, String> {
    let said = async {
        let client = redis::Client::open(url.expose())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let info = redis::cmd("INFO").query_async::<String>(&mut connection).await?;
        let asked_at_ms = unix_ms_now();
        let (seconds, micros) = redis::cmd("TIME").query_async::<(u64, u64)>(&mut connection).await?;
        let skew = told::skew(asked_at_ms, unix_ms_now(), seconds.saturating_mul(1_000).saturating_add(micros / 1_000));
        Ok((info, skew))
    };
    let (info, skew) = said.await.map_err(|error: redis::RedisError| error.to_string())?;
    let mut findings = told::cache(CACHE.check, &info);
    findings.extend(told::clock(CACHE.check, skew));
    Ok(Greeting { said: format!("is Redis {}", told::redis_field(&info, "redis_version")), findings })
}

/// The database.
pub(super) async fn database(backend: &Backend, data_dir: &Path, vars: &dyn Vars) -> Vec<Finding> {
    match backend {
        Backend::Embedded => vec![embedded_database(data_dir, vars)],
        Backend::Url(url) => DATABASE.greet(url, greet_database(url)).await,
    }
}

async fn greet_database(url: &ServiceUrl) -> Result<Greeting, String> {
    let said = async {
        let mut connection = sqlx::PgConnection::connect(url.expose()).await?;
        let query = "
            SELECT current_setting('server_version'), current_setting('server_version_num')::int, rolcreaterole OR rolsuper,
                has_database_privilege(current_database(), 'CREATE'), pg_is_in_recovery(),
                current_setting('max_connections')::int, quote_ident(current_user), quote_ident(current_database())
            FROM pg_roles WHERE rolname = current_user";
        let row = sqlx::query(query).fetch_one(&mut connection).await?;
        let told = told::Database {
            version_number: row.try_get(1)?,
            may_create_roles: row.try_get(2)?,
            may_create_schemas: row.try_get(3)?,
            is_standby: row.try_get(4)?,
            connections_max: row.try_get(5)?,
            role: row.try_get(6)?,
            name: row.try_get(7)?,
        };
        let version: String = row.try_get(0)?;
        let asked_at_ms = unix_ms_now();
        let now_ms: i64 = sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            .fetch_one(&mut connection)
            .await?;
        let skew = told::skew(asked_at_ms, unix_ms_now(), u64::try_from(now_ms).unwrap_or(0));
        connection.close().await?;
        Ok((version, told, skew))
    };
    let (version, told, skew) = said.await.map_err(|error: sqlx::Error| error.to_string())?;
    let mut findings = told.findings(DATABASE.check);
    findings.extend(told::clock(DATABASE.check, skew));
    Ok(Greeting { said: format!("is PostgreSQL {version}"), findings })
}

/// Where Debian keeps the servers' own programs, one folder a version.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";

fn embedded_database(data_dir: &Path, vars: &dyn Vars) -> Finding {
    if let Err(error) = embedded::check_reachable(data_dir) {
        let mend = "name another folder with --data-dir, or run the host as a user other than root";
        return DATABASE
            .problem(format!("embedded: no agent that is granted sql can be deployed: {error}"), mend.into());
    }
    let path = vars.get("PATH").ok().flatten().unwrap_or_default();
    match postgres_programs(&path, Path::new(DEBIAN_VERSIONS)) {
        Some(folder) => Finding::ok(DATABASE.check, format!("embedded: a private server from {}", folder.display())),
        None => Finding::warning(
            DATABASE.check,
            "embedded, but no PostgreSQL server is installed; agents that are granted sql need one",
            "sudo apt-get install postgresql, or set DATABASE_URL",
        ),
    }
}

/// The folder with `postgres` and `initdb`.
fn postgres_programs(path: &str, debian: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(debian).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    std::env::split_paths(path)
        .chain(versions)
        .find(|folder| ["postgres", "initdb"].iter().all(|program| folder.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[tokio::test]
    async fn a_service_that_is_not_there_is_told_from_one_that_speaks_another_language() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("redis://{address}");
        let backend = Backend::parse(&url, &["redis"]).unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        let finding = cache(&backend).await.remove(0);
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.found.contains("something listens there"), "{}", finding.found);
        serving.abort();
        let _ = serving.await;
        let finding = cache(&backend).await.remove(0);
        assert!(!finding.found.contains("something listens"), "{}", finding.found);
        assert!(finding.mend.unwrap().contains("REDIS_URL"));
    }

    #[test]
    fn the_server_programs_are_found_on_the_path_or_where_debian_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("15/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("postgres"), "").unwrap();
        let nowhere = Path::new("/nonexistent");
        assert_eq!(postgres_programs("", folder.path()), None);
        std::fs::write(bin.join("initdb"), "").unwrap();
        assert_eq!(postgres_programs("", folder.path()).as_ref(), Some(&bin));
        assert_eq!(postgres_programs(&bin.display().to_string(), nowhere), Some(bin));
    }
}
