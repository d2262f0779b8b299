//! Makes typed values of the settings' texts, and checks those that depend on each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::sources::{Source, Value, Values};
use super::{Backend, Config, ConfigErrors, MEMORY_BUDGET_MIN, Vars};
use crate::http::{self, Auth, Token};
use crate::secrets::{Keyring, SecretsKey};
use crate::telemetry::{LogFormat, OtlpSettings, collector};
use crate::units::{ByteSize, format_duration, parse_duration};

/// Largest `payload_bytes_max`: RabbitMQ 4 refuses messages over 16 MiB by default, headers included.
const PAYLOAD_MAX: ByteSize = ByteSize(15 << 20);
/// Shortest retention: below it a client could not read what it has just submitted.
const RETENTION_MIN: Duration = Duration::from_secs(60);
/// Least `compile_memory_max`: the compiler without a module takes about 30 MB.
const COMPILE_MEMORY_MIN: ByteSize = ByteSize(64 << 20);
/// Shortest `compile_time_max`: the system bounds processor time in whole seconds.
const COMPILE_TIME_MIN: Duration = Duration::from_secs(1);
/// Shortest `intake_wait_max`: a confirm that crosses an ocean and waits for a slow disk takes tens of milliseconds.
const INTAKE_WAIT_MIN: Duration = Duration::from_millis(100);

/// Reads values and collects complaints instead of stopping at the first.
struct Reader<'a> {
    values: &'a Values,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    fn value(&self, name: &str) -> Option<(&'a Value, &'a str)> {
        let value = self.values.get(name)?;
        value.text.as_deref().map(|text| (value, text))
    }

    /// A value by its parser, whose error says what was expected; nothing where it is not set or wrong.
    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (value, text) = self.value(name)?;
        match parse(text) {
            Ok(read) => Some(read),
            Err(problem) => {
                self.problems.push(format!("{}: {problem}", value.named()));
                None
            }
        }
    }

    fn size(&mut self, name: &str, min: ByteSize, max: ByteSize) -> Option<ByteSize> {
        self.read(name, |text| {
            let size = ByteSize::parse(text).map_err(|error| error.to_string())?;
            if size < min {
                return Err(format!("{size} is less than {min}, the least that works"));
            }
            if size > max {
                return Err(format!("{size} is more than {max}, the most that works"));
            }
            Ok(size)
        })
    }

    fn count(&mut self, name: &str) -> Option<u32> {
        self.read(name, |text| {
            let count = text.parse::<u32>().ok().filter(|count| *count > 0);
            count.ok_or_else(|| format!("{text:?}: expected a whole number, at least 1"))
        })
    }

    fn duration(&mut self, name: &str, min: Duration) -> Option<Duration> {
        self.read(name, |text| {
            let duration = parse_duration(text).map_err(|error| error.to_string())?;
            if duration < min {
                let (given, min) = (format_duration(duration), format_duration(min));
                return Err(format!("{given} is less than {min}, the least that works"));
            }
            Ok(duration)
        })
    }

    fn token(&mut self, name: &str) -> Option<Token> {
        self.read(name, |text| {
            if text.bytes().all(|byte| byte.is_ascii_graphic()) {
                Ok(Token::new(text))
            } else {
                Err("expected printable ASCII characters without spaces: it is sent as a header".to_owned())
            }
        })
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(|(_, text)| PathBuf::from(text))
    }

    /// Paths with `:` between them; none where it is not set.
    fn paths(&mut self, name: &str) -> Vec<PathBuf> {
        let paths = self.read(name, |text| {
            let paths: Vec<_> = text.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
            if paths.is_empty() { Err(format!("{text:?}: expected files, with : between them")) } else { Ok(paths) }
        });
        paths.unwrap_or_default()
    }
}

/// A service by its setting.
pub(super) fn backend(name: &str, text: &str) -> Result<Backend, String> {
    let schemes: &[&str] = match name {
        "amqp_url" => &["amqp", "amqps"],
        "database_url" => &["postgres", "postgresql"],
        _ => &["redis", "rediss", "redis+unix", "unix"],
    };
    Backend::parse(text, schemes)
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let loopback = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    loopback
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("{text:?}: expected an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080"))
}

fn one_of<T: Copy>(choices: &[(&str, T)]) -> impl FnOnce(&str) -> Result<T, String> {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let expected = names.join(" or ");
    move |text| {
        let choice = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        choice.ok_or_else(|| format!("{text:?}: expected {expected}"))
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    // tracing-subscriber 0.3.23 counts bytes from the first letter of a directive and cuts from the first blank: a blank before
    // letters that are not ASCII would make it panic.
    let trimmed = text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    match tracing_subscriber::EnvFilter::try_new(&trimmed) {
        Ok(_) => Ok(trimmed),
        Err(error) => Err(format!("{text:?} is no log filter ({error}): expected such as info,agent_host=debug")),
    }
}

/// Reads everything.
pub(super) fn config(values: &Values, problems: Vec<String>, vars: &dyn Vars) -> Result<Config, ConfigErrors> {
    const ANY: ByteSize = ByteSize(u64::MAX);
    let mut reader = Reader { values, problems };
    let listen = reader.read("listen", listen);
    let broker = reader.read("amqp_url", |text| backend("amqp_url", text));
    let database = reader.read("database_url", |text| backend("database_url", text));
    let cache = reader.read("redis_url", |text| backend("redis_url", text));
    let memory_budget = reader.size("memory_budget", MEMORY_BUDGET_MIN, ANY);
    let log = reader.read("log", one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
    let log_filter = reader.read("log_filter", log_filter);
    let predeclared = reader.read("predeclared", one_of(&[("true", true), ("false", false)]));
    let retentions = retentions(&mut reader);
    let grace_period = reader.duration("grace_period", Duration::ZERO);
    let http = http_config(&mut reader);
    contradictions(&mut reader, listen, http.as_ref());
    let tls = tls(&mut reader);
    let secrets_keys = secrets_keys(&mut reader);
    let data_dir = reader.path("data_dir");
    let compile_memory_max = reader.size("compile_memory_max", COMPILE_MEMORY_MIN, ANY);
    let compile_time_max = reader.duration("compile_time_max", COMPILE_TIME_MIN);
    let compile_cache_max = reader.size("compile_cache_max", ByteSize(0), ANY);
    let sql_connections_max = reader.count("sql_connections_max");
    let agents_watch = reader.read("agents_watch", one_of(&[("true", true), ("false", false)]));
    let signature_keys = reader.paths("signature_keys");
    let otlp = otlp(&mut reader, vars);
    let (agents_dir, files_root) = (reader.path("agents_dir"), reader.path("files_root"));
    let config = (|| {
        Some(Config {
            listen: listen?,
            tls,
            broker: broker?,
            database: database?,
            cache: cache?,
            memory_budget: memory_budget?,
            agents_dir,
            agents_watch: agents_watch?,
            signature_keys,
            data_dir: data_dir?,
            compile_memory_max: compile_memory_max?,
            compile_time_max: compile_time_max?,
            compile_cache_max: compile_cache_max?,
            sql_connections_max: sql_connections_max?,
            files_root,
            log: log?,
            log_filter: log_filter?,
            predeclared: predeclared?,
            record_retention: retentions?.0,
            inbox_retention: retentions?.1,
            grace_period: grace_period?,
            otlp,
            secrets_keys,
            http: http?,
            ignored: Vec::new(),
        })
    })();
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => Err(ConfigErrors(reader.problems)),
    }
}

/// How long records are shown, and how long ended tasks are remembered.
fn retentions(reader: &mut Reader<'_>) -> Option<(Duration, Duration)> {
    let record = reader.duration("record_retention", RETENTION_MIN);
    let inbox = reader.duration("inbox_retention", RETENTION_MIN);
    let (record, inbox) = (record?, inbox?);
    if inbox < record {
        let (record, inbox) = (format_duration(record), format_duration(inbox));
        reader.problems.push(format!(
            "inbox_retention = {inbox} is below record_retention = {record}: a task cannot be shown that is forgotten; raise \
             the first or lower the second"
        ));
    }
    Some((record, inbox))
}

/// Where traces and metrics go. Beside the endpoint it is the business of OpenTelemetry's own variables.
fn otlp(reader: &mut Reader<'_>, vars: &dyn Vars) -> Option<OtlpSettings> {
    let is_given = reader.value("otlp_endpoint").is_some();
    let endpoint = reader.read("otlp_endpoint", collector);
    // What is wrong with it is said already.
    if is_given && endpoint.is_none() {
        return None;
    }
    let settings = OtlpSettings::read(endpoint.as_ref(), &|name: &str| vars.get(name).ok().flatten());
    settings.unwrap_or_else(|problems| {
        reader.problems.extend(problems);
        None
    })
}

fn http_config(reader: &mut Reader<'_>) -> Option<http::Config> {
    let auth = Auth {
        admin: reader.token("admin_token"),
        read: reader.token("read_token"),
        submit: reader.token("submit_token"),
    };
    let payload_bytes_max = reader.size("payload_bytes_max", ByteSize(1), PAYLOAD_MAX);
    let intake_bytes_max = reader.size("intake_bytes_max", ByteSize(1), ByteSize(u64::MAX));
    let intake_requests_max = reader.count("intake_requests_max");
    let intake_wait_max = reader.duration("intake_wait_max", INTAKE_WAIT_MIN);
    if let (Some(payload), Some(intake)) = (payload_bytes_max, intake_bytes_max)
        && payload > intake
    {
        let problem = format!(
            "payload_bytes_max = {payload} is above intake_bytes_max = {intake}: no such body would ever be taken"
        );
        reader.problems.push(problem);
    }
    Some(http::Config {
        auth,
        payload_bytes_max: payload_bytes_max?,
        intake_bytes_max: intake_bytes_max?,
        intake_requests_max: intake_requests_max?,
        intake_wait_max: intake_wait_max?,
    })
}

/// The keys of stored secrets.
fn secrets_keys(reader: &mut Reader<'_>) -> Keyring {
    let key = |reader: &mut Reader<'_>, name| {
        reader.read(name, |text| SecretsKey::parse(text).map_err(|error| error.to_string()))
    };
    let (current, previous) = (key(reader, "secrets_key"), key(reader, "secrets_key_previous"));
    if previous.is_some() && reader.value("secrets_key").is_none() {
        reader.problems.push(
            "AGENT_HOST_SECRETS_KEY_PREVIOUS is set without AGENT_HOST_SECRETS_KEY: it is for the time between two keys; set \
             the other one, alone where there is one key"
                .to_owned(),
        );
    }
    Keyring { current, previous }
}

/// A certificate with its key. Where there is one, there are others who reach the host.
fn tls(reader: &mut Reader<'_>) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = (reader.path("tls_cert"), reader.path("tls_key"));
    if certificate.is_some() != key.is_some() {
        reader.problems.push("one of tls_cert and tls_key is set without the other: set both or neither".to_owned());
    }
    if certificate.is_some() && reader.value("admin_token").is_none() {
        reader.problems.push(
            "tls_cert is set without AGENT_HOST_ADMIN_TOKEN: whoever encrypts has others reach the host; set it, or neither"
                .to_owned(),
        );
    }
    certificate.zip(key)
}

fn contradictions(reader: &mut Reader<'_>, listen: Option<SocketAddr>, http: Option<&http::Config>) {
    let admin_given = reader.value("admin_token").is_some();
    if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback() && !admin_given) {
        let named = reader.value("listen").map_or_else(|| Source::Default.to_string(), |(value, _)| value.named());
        reader.problems.push(format!(
            "{named}: {listen} can be reached by others, so the host needs AGENT_HOST_ADMIN_TOKEN; set it, or listen on \
             127.0.0.1"
        ));
    }
    if http.is_some_and(|http| http.auth.read.is_some()) && !admin_given {
        reader.problems.push(
            "AGENT_HOST_READ_TOKEN is set without AGENT_HOST_ADMIN_TOKEN: nobody but this machine could deploy, and this \
             machine needs no token; set both or neither"
                .to_owned(),
        );
    }
}
