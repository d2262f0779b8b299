//! Checks of the services: whether they can be reached, speak the right protocol and let this host in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use deadpool_redis::redis;
use sqlx::{Connection as _, Row as _};

use super::{Exit, Finding};
use crate::config::{Backend, ServiceUrl, Vars};
use crate::embedded;

/// How long a service may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

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

/// What a service said about itself, and what mends it where that is not all that a host needs.
struct Greeting {
    said: String,
    mend: Option<&'static str>,
}

impl From<String> for Greeting {
    fn from(said: String) -> Self {
        Self { said, mend: None }
    }
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
    async fn greet(&self, url: &ServiceUrl, greeting: impl Future<Output = Result<Greeting, String>>) -> Finding {
        if let Err(finding) = self.reach(url).await {
            return finding;
        }
        let greeting = tokio::time::timeout(ANSWER_TIMEOUT, greeting).await;
        match greeting.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))) {
            Ok(Greeting { said, mend: None }) => Finding::ok(self.check, format!("{url} {said}")),
            Ok(Greeting { said, mend: Some(mend) }) => Finding::warning(self.check, format!("{url} {said}"), mend),
            Err(why) => {
                let mend = format!("correct the user, password, path or scheme in {}", self.variable);
                self.problem(format!("{url}: something listens there, but {why}"), mend)
            }
        }
    }
}

/// The broker.
pub(super) async fn broker(backend: &Backend) -> Finding {
    match backend {
        Backend::Embedded => Finding::ok(BROKER.check, "embedded: in process, tasks do not survive a restart"),
        Backend::Url(url) => BROKER.greet(url, greet_broker(url)).await,
    }
}

async fn greet_broker(url: &ServiceUrl) -> Result<Greeting, String> {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(url.expose(), options).await.map_err(|error| error.to_string())?;
    let opened = connection.create_channel().await.map(|_| "lets this host in".to_owned().into());
    // The answer is known; a goodbye that fails changes nothing.
    let _ = connection.close(200, "checked".into()).await;
    opened.map_err(|error| error.to_string())
}

/// Key-value and cache.
pub(super) async fn cache(backend: &Backend) -> Finding {
    match backend {
        Backend::Embedded => Finding::ok(CACHE.check, "embedded: in process, values do not survive a restart"),
        Backend::Url(url) => CACHE.greet(url, greet_cache(url)).await,
    }
}

async fn greet_cache(url: &ServiceUrl) -> Result<Greeting, String> {
    let said = async {
        let client = redis::Client::open(url.expose())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("INFO").arg("server").query_async::<String>(&mut connection).await
    };
    let info = said.await.map_err(|error: redis::RedisError| error.to_string())?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("of unknown version");
    Ok(format!("is Redis {version}").into())
}

/// The database.
pub(super) async fn database(backend: &Backend, data_dir: &Path, vars: &dyn Vars) -> Finding {
    match backend {
        Backend::Embedded => embedded_database(data_dir, vars),
        Backend::Url(url) => DATABASE.greet(url, greet_database(url)).await,
    }
}

async fn greet_database(url: &ServiceUrl) -> Result<Greeting, String> {
    let said = async {
        let mut connection = sqlx::PgConnection::connect(url.expose()).await?;
        let query = "SELECT current_setting('server_version'), rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user";
        let row = sqlx::query(query).fetch_one(&mut connection).await?;
        let answer = (row.try_get::<String, _>(0)?, row.try_get::<bool, _>(1)?);
        connection.close().await?;
        Ok(answer)
    };
    let (version, may_create_roles) = said.await.map_err(|error: sqlx::Error| error.to_string())?;
    if may_create_roles {
        return Ok(format!("is PostgreSQL {version}").into());
    }
    Ok(Greeting {
        said: format!("is PostgreSQL {version}, whose role may not create roles"),
        mend: Some("ALTER ROLE … CREATEROLE: each agent that is granted sql gets a login role of its own"),
    })
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
        let finding = cache(&backend).await;
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.found.contains("something listens there"), "{}", finding.found);
        serving.abort();
        let _ = serving.await;
        let finding = cache(&backend).await;
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
