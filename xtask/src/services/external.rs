//! Servers that the user named in the environment: reached before anything runs, and left as they were found.

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::server::Probe;
use super::{postgres, rabbitmq, redis};
use crate::workspace::find_program;
use crate::{process, ui};

/// Creating and dropping an empty database takes well under a second.
const PSQL_LIMIT: Duration = Duration::from_secs(30);

/// Checks that a server of the right kind answers at `url`.
pub(super) fn probe(name: &str, variable: &str, url: &str) -> Result<()> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    let (probe, port): (Option<&Probe>, u16) = match (variable, scheme) {
        ("AMQP_URL", "amqp") => (Some(&rabbitmq::PROBE), 5672),
        ("DATABASE_URL", "postgres" | "postgresql") => (Some(&postgres::PROBE_ANY), 5432),
        ("REDIS_URL", "redis") => (Some(&redis::PROBE), 6379),
        // Behind TLS the first bytes are not the protocol's; that something listens must do.
        ("AMQP_URL", "amqps") => (None, 5671),
        ("REDIS_URL", "rediss") => (None, 6379),
        _ => bail!("{variable} must be the URL of a real {name} server (tests do not run against the embedded one)"),
    };
    let address = address_of(url, port).with_context(|| format!("{variable} does not name a reachable host"))?;
    let answered = match probe {
        Some(probe) => probe.ask(address),
        None => std::net::TcpStream::connect(address).map(|_| true),
    };
    match answered {
        Ok(true) => Ok(()),
        Ok(false) => bail!("{variable}: what listens on {address} does not answer as {name}"),
        Err(error) => Err(error).with_context(|| format!("{variable}: no {name} answers on {address}")),
    }
}

/// The address in a URL's authority.
fn address_of(url: &str, default_port: u16) -> Result<SocketAddr> {
    let (_, rest) = url.split_once("://").context("a URL has `://`")?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let ends_with_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let mut addresses = if ends_with_port { host.to_socket_addrs() } else { (host, default_port).to_socket_addrs() }?;
    addresses.next().context("the name has no address")
}

/// A database of our own on the user's server, dropped at the end.
pub(super) struct PrivateDatabase {
    server_url: String,
    name: String,
    url: String,
}

impl PrivateDatabase {
    /// Makes one, if `psql` is there to do it; otherwise the user's database is used as it stands, and we say so.
    pub(super) fn create(server_url: &str) -> Result<Option<Self>> {
        if find_program("psql").is_none() {
            ui::warn("psql was not found, so the tests run in the very database that DATABASE_URL names");
            return Ok(None);
        }
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().map(|time| time.as_secs()).unwrap_or_default();
        let name = format!("agent_host_test_{since}_{}", std::process::id());
        process::output_within("psql", &mut psql(server_url, &format!("CREATE DATABASE {name}")), Some(PSQL_LIMIT))
            .context("DATABASE_URL's user could not create a private database there (it needs CREATEDB)")?;
        let url = with_database(server_url, &name);
        Ok(Some(Self { server_url: server_url.to_owned(), name, url }))
    }

    /// Its URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for PrivateDatabase {
    fn drop(&mut self) {
        let mut drop = psql(&self.server_url, &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        if let Err(error) = process::clean_up("psql", &mut drop) {
            ui::warn(&format!("the database {} is left on the server: {error:#}", self.name));
        }
    }
}

fn psql(url: &str, statement: &str) -> Command {
    let mut command = Command::new("psql");
    // The password goes through the environment: arguments are visible to every user of the machine.
    let (url, password) = without_password(url);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    command.args(["--no-psqlrc", "--quiet", "--no-password"]);
    command.args(["--dbname", &url, "--command", statement]);
    command
}

/// The URL without its password, and the password decoded.
fn without_password(url: &str) -> (String, Option<String>) {
    let split = || {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        let (user, _) = authority.rsplit_once('@')?;
        let (name, password) = user.split_once(':')?;
        let after = rest.strip_prefix(user)?;
        Some((format!("{scheme}://{name}{after}"), percent_decoded(password)))
    };
    split().map_or_else(|| (url.to_owned(), None), |(url, password)| (url, Some(password)))
}

/// `%40` becomes `@`, and so on; what is no such escape stays.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        match escape.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = escape.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(b'%');
                rest = escape;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The URL with another database in its path.
fn with_database(url: &str, name: &str) -> String {
    let (before, query) = url.split_once('?').map_or((url, None), |(before, query)| (before, Some(query)));
    let authority_at = before.find("://").map_or(0, |at| at + 3);
    let path_at = before.get(authority_at..).and_then(|rest| rest.find('/')).map(|at| authority_at + at);
    let server = path_at.and_then(|at| before.get(..at)).unwrap_or(before);
    query.map_or_else(|| format!("{server}/{name}"), |query| format!("{server}/{name}?{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced_and_nothing_else() {
        assert_eq!(with_database("postgres://a:b@h:1/old", "new"), "postgres://a:b@h:1/new");
        assert_eq!(with_database("postgres://h", "new"), "postgres://h/new");
        assert_eq!(with_database("postgres://h/old?sslmode=disable", "new"), "postgres://h/new?sslmode=disable");
    }

    #[test]
    fn the_address_of_a_url_leaves_out_user_path_and_query() {
        let address = |url| address_of(url, 9).unwrap().to_string();
        assert_eq!(address("amqp://u:p@127.0.0.1:7/%2f"), "127.0.0.1:7");
        assert_eq!(address("redis://127.0.0.1"), "127.0.0.1:9");
        assert_eq!(address("postgres://u:p%40@127.0.0.1?x=/"), "127.0.0.1:9");
    }

    #[test]
    fn a_password_leaves_the_url_decoded() {
        let split = |url| without_password(url);
        let expected = ("postgres://u@h:1/d?x=y".to_owned(), Some("p@%/".to_owned()));
        assert_eq!(split("postgres://u:p%40%%2f@h:1/d?x=y"), expected);
        assert_eq!(split("postgres://u@h/d"), ("postgres://u@h/d".to_owned(), None));
        assert_eq!(split("postgres://h"), ("postgres://h".to_owned(), None));
    }
}
