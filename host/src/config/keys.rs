//! Every setting, once.

/// How a setting's value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Plain,
    /// Without its password.
    Url,
    /// As it is where it is right: it then holds no password.
    Endpoint,
    /// Not at all; nor is there a flag for it, as everyone on the machine can read a command line.
    Secret,
}

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in `agent-host.toml`; the flag is the same with `-` for `_`.
    pub name: &'static str,
    /// Its environment variable.
    pub variable: &'static str,
    /// Its default, as it would be written; empty where it is not set.
    pub default: &'static str,
    /// What it means, with its unit.
    pub meaning: &'static str,
    /// How it may be shown.
    pub kind: Kind,
}

const fn key(name: &'static str, variable: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, variable, default, meaning, kind: Kind::Plain }
}

const fn service(name: &'static str, variable: &'static str, meaning: &'static str) -> Key {
    Key { name, variable, default: "embedded", meaning, kind: Kind::Url }
}

const fn secret(name: &'static str, variable: &'static str, meaning: &'static str) -> Key {
    Key { name, variable, default: "", meaning, kind: Kind::Secret }
}

/// Every setting, in the order of the documentation.
pub const KEYS: [Key; 32] = [
    key("listen", "AGENT_HOST_LISTEN", "127.0.0.1:8080", "IP address and port of the HTTP API"),
    key(
        "tls_cert",
        "AGENT_HOST_TLS_CERT",
        "",
        "file with the certificate of the HTTP API in PEM, its own first and then those that lead to its authority; with it \
         the API is served by TLS alone",
    ),
    key("tls_key", "AGENT_HOST_TLS_KEY", "", "file with the certificate's private key in PEM"),
    service("amqp_url", "AMQP_URL", "RabbitMQ: `amqp://` or `amqps://`, or `embedded`: in process and volatile"),
    service(
        "database_url",
        "DATABASE_URL",
        "PostgreSQL: `postgres://`, or `embedded`: a private server under the data folder, started when an agent is granted sql",
    ),
    service("redis_url", "REDIS_URL", "Redis: `redis://` or `rediss://`, or `embedded`: in process and volatile"),
    key("memory_budget", "AGENT_HOST_MEMORY_BUDGET", "500MB", "resident memory of the process, a size; at least 128MB"),
    key(
        "agents_dir",
        "AGENT_HOST_AGENTS_DIR",
        "",
        "folder whose direct sub-folders with an `agent.toml` are deployed at start; content that was deployed \
         before displaces no revision that was activated since",
    ),
    key(
        "agents_watch",
        "AGENT_HOST_AGENTS_WATCH",
        "true",
        "`true` where what changes in `agents_dir` while the host runs is deployed too, once its files are quiet; `false` where \
         the folder counts at start alone",
    ),
    key(
        "signature_keys",
        "AGENT_HOST_SIGNATURE_KEYS",
        "",
        "files with public keys in PEM (ECDSA on P-256, as cosign makes them, or Ed25519), with `:` between them; with them \
         this host deploys and loads only modules that are signed by one of these keys",
    ),
    key(
        "data_dir",
        "AGENT_HOST_DATA_DIR",
        "",
        "folder of embedded state and compiled code; where not set: `$XDG_DATA_HOME/agent-host`, for root `/var/lib/agent-host`, \
         `~/.local/share/agent-host` or `./.agent-host`, the first that the environment allows",
    ),
    key(
        "compile_memory_max",
        "AGENT_HOST_COMPILE_MEMORY_MAX",
        "1GiB",
        "memory that compiling one module may take, a size; it is another process's, beside the budget",
    ),
    key(
        "compile_time_max",
        "AGENT_HOST_COMPILE_TIME_MAX",
        "60s",
        "processor time that compiling one module may take, a duration; by the clock it may take 4 times as long",
    ),
    key(
        "compile_cache_max",
        "AGENT_HOST_COMPILE_CACHE_MAX",
        "4GiB",
        "compiled code that is kept under the data folder, a size; beyond it what was loaded longest ago is removed",
    ),
    key(
        "sql_connections_max",
        "AGENT_HOST_SQL_CONNECTIONS_MAX",
        "16",
        "connections of this host to PostgreSQL in the names of agents, a count; one agent has half of them at most; PostgreSQL \
         allows 100 by default, for all hosts of a fleet and everyone else, and the host takes fewer where the server has \
         fewer to give",
    ),
    key("files_root", "AGENT_HOST_FILES_ROOT", "", "folder under which manifests may grant folders"),
    secret(
        "admin_token",
        "AGENT_HOST_ADMIN_TOKEN",
        "bearer token for everything; without it the host listens on loopback only",
    ),
    secret("read_token", "AGENT_HOST_READ_TOKEN", "bearer token for reading"),
    secret(
        "submit_token",
        "AGENT_HOST_SUBMIT_TOKEN",
        "bearer token for submitting tasks, and following or cancelling one by its id; all of it is open without it",
    ),
    secret(
        "secrets_key",
        "AGENT_HOST_SECRETS_KEY",
        "key that secrets of `agent-host secrets set` are stored with, 32 bytes as base64 or hex, the same on every host: \
         `openssl rand -base64 32` makes one; without it none are stored",
    ),
    secret(
        "secrets_key_previous",
        "AGENT_HOST_SECRETS_KEY_PREVIOUS",
        "key that opens secrets which were stored before `secrets_key` was there",
    ),
    key("payload_bytes_max", "AGENT_HOST_PAYLOAD_BYTES_MAX", "8MiB", "largest body of one task, a size; at most 15MiB"),
    key(
        "intake_bytes_max",
        "AGENT_HOST_INTAKE_BYTES_MAX",
        "64MiB",
        "task bodies held at the same time until the broker confirms them, a size; beyond it clients get 429",
    ),
    key(
        "intake_requests_max",
        "AGENT_HOST_INTAKE_REQUESTS_MAX",
        "4096",
        "submissions handled at the same time, a count; beyond it clients get 429",
    ),
    key(
        "intake_wait_max",
        "AGENT_HOST_INTAKE_WAIT_MAX",
        "1s",
        "how long the oldest submission to an agent may have waited for its confirm, a duration; beyond it further ones get \
         429",
    ),
    key(
        "predeclared",
        "AGENT_HOST_PREDECLARED",
        "false",
        "`true` where somebody else declares the broker's queues, as `agent-host topology` prints them: the host then \
         declares nothing",
    ),
    key(
        "record_retention",
        "AGENT_HOST_RECORD_RETENTION",
        "24h",
        "how long a task's record is shown after its end, a duration",
    ),
    key(
        "inbox_retention",
        "AGENT_HOST_INBOX_RETENTION",
        "7d",
        "how long a task that has ended is remembered, so that no duplicate of it runs and its `Idempotency-Key` holds, a \
         duration; at least `record_retention`",
    ),
    key(
        "grace_period",
        "AGENT_HOST_GRACE_PERIOD",
        "30s",
        "how long running tasks may finish at shutdown before they are handed back, a duration",
    ),
    key("log", "AGENT_HOST_LOG", "text", "`text` for people or `json` for machines"),
    key(
        "log_filter",
        "RUST_LOG",
        "info,lapin=off",
        "which log lines are written, as `tracing` directives such as `info,agent_host=debug`; the default leaves out what the \
         AMQP client logs of what the host then says itself, or only asked about",
    ),
    Key {
        name: "otlp_endpoint",
        variable: "OTEL_EXPORTER_OTLP_ENDPOINT",
        default: "",
        meaning: "URL of a collector that takes OTLP as protobuf over HTTP, such as `http://127.0.0.1:4318`: traces and metrics are \
                  sent there",
        kind: Kind::Endpoint,
    },
];

/// A variable that an operator may expect a host to follow, and that this version does not.
pub(super) struct Ignored {
    pub(super) variable: &'static str,
    /// What it may be set to all the same: what the host does anyway.
    pub(super) unless: &'static str,
    /// What to do instead.
    pub(super) instead: &'static str,
}

const fn ignored(variable: &'static str, unless: &'static str, instead: &'static str) -> Ignored {
    Ignored { variable, unless, instead }
}

const AUTHORITY: &str = "collectors are known by the certificates of this machine; add the authority's to those";
const CLIENT: &str =
    "this version shows a collector no certificate; use OTEL_EXPORTER_OTLP_HEADERS, or a collector on this machine";
const COMPRESSION: &str = "this version compresses nothing, which every collector takes";
const TIMEOUT: &str = "a request may take as long as OTEL_EXPORTER_OTLP_TIMEOUT says";
const PROPAGATORS: &str = "contexts travel as W3C's traceparent alone";

/// Variables of OpenTelemetry that have no effect.
pub(super) const IGNORED: [Ignored; 15] = [
    ignored("OTEL_EXPORTER_OTLP_CERTIFICATE", "", AUTHORITY),
    ignored("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "", AUTHORITY),
    ignored("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "", AUTHORITY),
    ignored("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "", CLIENT),
    ignored("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "", CLIENT),
    ignored("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "", CLIENT),
    ignored("OTEL_EXPORTER_OTLP_CLIENT_KEY", "", CLIENT),
    ignored("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "", CLIENT),
    ignored("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "", CLIENT),
    ignored("OTEL_EXPORTER_OTLP_COMPRESSION", "none", COMPRESSION),
    ignored("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none", COMPRESSION),
    ignored("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none", COMPRESSION),
    ignored("OTEL_BSP_EXPORT_TIMEOUT", "", TIMEOUT),
    ignored("OTEL_METRIC_EXPORT_TIMEOUT", "", TIMEOUT),
    ignored("OTEL_PROPAGATORS", "tracecontext", PROPAGATORS),
];

/// `AGENT_HOST_*` variables that are no settings of the host: the file's path, the command line client's address, and whom it
/// says to a registry that it is.
pub(super) const OTHER_VARIABLES: [&str; 5] = [
    "AGENT_HOST_CONFIG",
    "AGENT_HOST_URL",
    "AGENT_HOST_REGISTRY_USER",
    "AGENT_HOST_REGISTRY_PASSWORD",
    "AGENT_HOST_REGISTRY_HOST",
];

/// Prefixes of `AGENT_HOST_*` variables that are not the host's to name: Kubernetes' service links (for a service called
/// `agent-host`), agents' secrets, and this project's own tests.
pub(super) const FOREIGN_PREFIXES: [&str; 4] =
    ["AGENT_HOST_PORT", "AGENT_HOST_SERVICE_", "AGENT_HOST_SECRET_", "AGENT_HOST_TEST_"];

/// The settings as the table of `docs/configuration.md`.
#[must_use]
pub fn table() -> String {
    let mut table =
        "| `agent-host.toml` | environment | flag | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let flag = match key.kind {
            Kind::Secret => "none, a command line is no place for it".to_owned(),
            Kind::Plain | Kind::Url | Kind::Endpoint => format!("`--{}`", key.name.replace('_', "-")),
        };
        let default = if key.default.is_empty() { "not set".to_owned() } else { format!("`{}`", key.default) };
        table.push_str(&format!("| `{}` | `{}` | {flag} | {default} | {} |\n", key.name, key.variable, key.meaning));
    }
    table
}
