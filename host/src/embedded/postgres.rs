//! A private PostgreSQL server: from the binaries found on the machine, with its data in the host's own folder.
//!
//! - It listens on a Unix socket only, in a folder that only its own user can enter, and asks for a password.
//! - PostgreSQL refuses to run as root. A host that does runs it as `postgres`, or else `nobody`.
//! - It ends with the host: by [`Postgres::stop`], or, where the host is killed, by the signal that the kernel then sends.
//! - A folder that a crash left behind is good: PostgreSQL recovers it, and a half-made one is made again.

mod binaries;
mod process;
mod user;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use self::binaries::Binaries;
use self::process::{Process, run};
use self::user::ServerUser;

/// How long the server may take until it answers, recovery after a crash included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// What PostgreSQL says, with messages in the locale C, of a folder that a dead server's workers still hold.
const STILL_HELD: &str = "pre-existing shared memory block";
/// How long an older server may take to leave the folder: its host was killed a moment ago.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the server is asked whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The role that the host itself uses.
const ROLE: &str = "agent_host";
/// The port is part of the socket's file name and nothing else.
const PORT: u16 = 5432;
/// Longest path of a Unix socket, in bytes, the closing NUL not counted.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Settings that differ from PostgreSQL's own. Sized for one host on one machine; the rest is the server's default, so
/// that a commit is as durable here as anywhere.
const SETTINGS: [&str; 7] = [
    "listen_addresses=",
    "max_connections=64",
    "shared_buffers=64MB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "log_min_messages=warning",
    "unix_socket_permissions=0700",
];

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no PostgreSQL on this machine.
    #[error(
        "an agent is granted sql, but this machine has no PostgreSQL server: install it (Debian, Ubuntu: `apt install \
         postgresql`; Fedora: `dnf install postgresql-server`; macOS: `brew install postgresql`), or set DATABASE_URL \
         (looked for initdb and postgres in {looked_in})"
    )]
    NoBinaries {
        /// The folders that were searched.
        looked_in: String,
    },
    /// The data is of another version than any binaries found.
    #[error(
        "the data in {data} is of PostgreSQL {version}, which is not installed: install it, or move the folder away"
    )]
    OtherVersion {
        /// The data folder.
        data: PathBuf,
        /// Its version.
        version: String,
    },
    /// Another server has the data folder.
    #[error("another host uses the data in {data} (process {pid}): give this one its own AGENT_HOST_DATA_DIR")]
    InUse {
        /// The data folder.
        data: PathBuf,
        /// The server's process id.
        pid: i32,
    },
    /// A folder or file cannot be made or read.
    #[error("{action} {path} failed")]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The host runs as root, and the user that the server would run as cannot reach the folder.
    #[error(
        "the host runs as root and PostgreSQL may not, but its user cannot enter {path}: set AGENT_HOST_DATA_DIR to a \
         folder that others can pass through, or run the host as another user"
    )]
    NotPassable {
        /// The first folder on the way that stops it.
        path: PathBuf,
    },
    /// No user to run it as.
    #[error("the host runs as root and PostgreSQL may not, and there is no user `postgres` or `nobody` to run it as")]
    NoUser,
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// The end of what it wrote.
        said: String,
    },
    /// It did not answer in time.
    #[error("the server did not answer within {} s: {said}", START_TIMEOUT.as_secs())]
    Silent {
        /// The end of its log.
        said: String,
    },
}

/// A running server. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    options: PgConnectOptions,
    /// Where the socket is, where that is not the data folder; removed with it.
    _socket_dir: Option<tempfile::TempDir>,
}

impl Postgres {
    /// Starts the server whose data is in the folder `postgres` of `data_dir`, and makes that first where there is none.
    /// Returns when it takes connections.
    ///
    /// # Errors
    /// See [`StartError`]; each says what to do.
    pub async fn start(data_dir: &Path) -> Result<Self, StartError> {
        let began = Instant::now();
        let (home, user, binaries, password) = {
            let data_dir = data_dir.to_owned();
            // Files and programs, not the network: seconds on a first start.
            let prepared = tokio::task::spawn_blocking(move || prepare(&data_dir)).await;
            prepared.map_err(|error| StartError::Program { program: "initdb", said: error.to_string() })??
        };
        let data = home.join("data");
        wait_for_predecessor(&data).await?;
        let (socket_dir, temporary) = socket_dir(&home, user.as_ref())?;
        let log = home.join("server.log");
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&socket_dir)
            .port(PORT)
            .username(ROLE)
            .password(&password)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging();
        let process = loop {
            let process = Process::spawn(&binaries.postgres, &data, &socket_dir, &SETTINGS, PORT, user, &log)?;
            match wait_until_ready(&process, &options, &log).await {
                Ok(()) => break process,
                // The workers of a server that was killed end a moment after it, and hold the folder until then.
                Err(StartError::Program { said, .. })
                    if said.contains(STILL_HELD) && began.elapsed() < TAKEOVER_TIMEOUT =>
                {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Err(error) => return Err(error),
            }
        };
        let server = Self { process, options, _socket_dir: temporary };
        tracing::info!(data = %data.display(), took_ms = began.elapsed().as_millis(), "embedded PostgreSQL is ready");
        Ok(server)
    }

    /// How to connect, in the host's own role.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops the server: open transactions are rolled back, what is committed is on disk.
    pub async fn stop(&self) {
        self.process.stop().await;
    }
}

/// Checks, and changes nothing, that the server's user could reach `data_dir`; trivial where the host is not root.
///
/// # Errors
/// [`StartError::NotPassable`] and [`StartError::NoUser`], as [`Postgres::start`] would say them.
pub fn check_reachable(data_dir: &Path) -> Result<(), StartError> {
    let Some(user) = ServerUser::needed()? else { return Ok(()) };
    let absolute = std::path::absolute(data_dir).map_err(file("finding the folder", data_dir))?;
    // What is missing is made at the start, open enough. So is the folder itself, which is the host's own.
    let Some(existing) = absolute.ancestors().find(|folder| folder.exists()) else { return Ok(()) };
    let own = usize::from(existing == absolute);
    let existing = existing.canonicalize().map_err(file("finding the folder", existing))?;
    user.check_passable(existing.ancestors().skip(own))
}

/// Makes the folder, the password and the data, as far as they are not there.
fn prepare(data_dir: &Path) -> Result<(PathBuf, Option<ServerUser>, Binaries, String), StartError> {
    let user = ServerUser::needed()?;
    let home = data_dir.join("postgres");
    std::fs::create_dir_all(&home).map_err(file("making the folder", &home))?;
    let home = home.canonicalize().map_err(file("finding the folder", &home))?;
    if let Some(user) = &user {
        user.make_passable(&home)?;
    }
    let data = home.join("data");
    let version = std::fs::read_to_string(data.join("PG_VERSION")).ok().map(|version| version.trim().to_owned());
    let binaries = Binaries::find(version.as_deref(), &data)?;
    let password = password(&home)?;
    if version.is_none() {
        initialise(&home, &data, user.as_ref(), &binaries, &password)?;
    }
    Ok((home, user, binaries, password))
}

/// The password of the host's own role: random, kept in a file that only the host's user can read.
fn password(home: &Path) -> Result<String, StartError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = home.join("password");
    match std::fs::read_to_string(&path) {
        Ok(password) if !password.is_empty() => return Ok(password),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(file("reading", &path)(error)),
    }
    let password = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let mut options = std::fs::OpenOptions::new();
    let mut created =
        options.write(true).create(true).truncate(true).mode(0o600).open(&path).map_err(file("writing", &path))?;
    created.write_all(password.as_bytes()).map_err(file("writing", &path))?;
    Ok(password)
}

/// Runs `initdb` beside the place of the data and moves the result there, so that a data folder is whole or absent.
fn initialise(
    home: &Path,
    data: &Path,
    user: Option<&ServerUser>,
    binaries: &Binaries,
    password: &str,
) -> Result<(), StartError> {
    let fresh = home.join("data.new");
    for left in [fresh.as_path(), data] {
        if left.exists() {
            // Without PG_VERSION it is the remains of an `initdb` that did not end.
            std::fs::remove_dir_all(left).map_err(file("removing the half-made folder", left))?;
        }
    }
    std::fs::create_dir(&fresh).map_err(file("making the folder", &fresh))?;
    let password_file = home.join("password.initdb");
    std::fs::write(&password_file, password).map_err(file("writing", &password_file))?;
    if let Some(user) = user {
        user.own(&fresh)?;
        user.own(&password_file)?;
    }
    let pwfile = format!("--pwfile={}", password_file.display());
    let arguments =
        ["--username", ROLE, pwfile.as_str(), "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--pgdata"];
    let result = run("initdb", &binaries.initdb, &arguments, &fresh, user);
    // Whatever happened: the password must not lie about in the server user's name.
    let removed = std::fs::remove_file(&password_file).map_err(file("removing", &password_file));
    result?;
    removed?;
    std::fs::rename(&fresh, data).map_err(file("moving into place", data))
}

/// Waits until the server takes connections.
async fn wait_until_ready(process: &Process, options: &PgConnectOptions, log: &Path) -> Result<(), StartError> {
    let began = Instant::now();
    loop {
        match options.connect().await {
            Ok(connection) => {
                let _ = connection.close().await;
                return Ok(());
            }
            // Refused credentials will not get better.
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code.starts_with("28")) => {
                return Err(StartError::Program { program: "postgres", said: error.to_string() });
            }
            Err(_) if process.has_ended() => {
                return Err(StartError::Program { program: "postgres", said: process::tail(log) });
            }
            Err(_) if began.elapsed() > START_TIMEOUT => {
                return Err(StartError::Silent { said: process::tail(log) });
            }
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// Waits until the server of a host that was killed has left the folder. A stale `postmaster.pid` is PostgreSQL's own
/// business: it sees that no such process holds the folder.
async fn wait_for_predecessor(data: &Path) -> Result<(), StartError> {
    let began = Instant::now();
    while let Some(pid) = process::server_of(data) {
        if began.elapsed() > TAKEOVER_TIMEOUT {
            return Err(StartError::InUse { data: data.to_owned(), pid });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Where the socket goes: beside the data, or, where that path is too long for a socket, in a folder for temporary files.
fn socket_dir(home: &Path, user: Option<&ServerUser>) -> Result<(PathBuf, Option<tempfile::TempDir>), StartError> {
    let beside = home.join("run");
    let name_bytes = ".s.PGSQL.".len() + PORT.to_string().len() + ".lock".len() + 1;
    let (path, temporary) = if beside.as_os_str().len() + name_bytes <= SOCKET_PATH_BYTES_MAX {
        std::fs::create_dir_all(&beside).map_err(file("making the folder", &beside))?;
        (beside, None)
    } else {
        let made = tempfile::Builder::new().prefix("agent-host-").tempdir();
        let made = made.map_err(file("making a folder in", &std::env::temp_dir()))?;
        (made.path().to_owned(), Some(made))
    };
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(file("closing", &path))?;
    if let Some(user) = user {
        user.own(&path)?;
    }
    Ok((path, temporary))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::File { action, path, source }
}
