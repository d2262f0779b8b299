use super::*;
use proptest::prelude::*;

fn load(vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::load(None, &MapVars::new(vars), &Flags::new())
}

fn problems(vars: &[(&str, &str)]) -> Vec<String> {
    load(vars).unwrap_err().0
}

#[test]
fn nothing_set_is_a_host_for_one_machine() {
    let config = load(&[("HOME", "/home/ada")]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(
        (config.broker, config.database, config.cache),
        (Backend::Embedded, Backend::Embedded, Backend::Embedded)
    );
    assert_eq!(config.memory_budget, ByteSize(500_000_000));
    assert_eq!(config.data_dir, Path::new("/home/ada/.local/share/agent-host"));
    assert_eq!(config.http.payload_bytes_max, http::PAYLOAD_BYTES_MAX_DEFAULT);
    assert_eq!(config.http.intake_bytes_max, http::INTAKE_BYTES_MAX_DEFAULT);
    assert_eq!(config.http.intake_requests_max, http::INTAKE_REQUESTS_MAX_DEFAULT);
    assert_eq!(config.http.intake_wait_max, http::INTAKE_WAIT_MAX_DEFAULT);
    assert_eq!(config.record_retention, crate::records::RETENTION_DEFAULT);
    assert_eq!(config.inbox_retention, crate::records::INBOX_RETENTION_DEFAULT);
    assert_eq!(config.grace_period, Duration::from_secs(30));
    assert_eq!(config.sql_connections_max, 16);
    assert!(config.http.auth.admin.is_none());
    assert!(config.agents_watch && config.signature_keys.is_empty());
    assert_eq!(load(&[]).unwrap().data_dir, Path::new("./.agent-host"));
    assert_eq!(load(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]).unwrap().data_dir, Path::new("/x/agent-host"));
    let of_root = MapVars::new(&[("HOME", "/root")]).of_root();
    let config = Config::load(None, &of_root, &Flags::new()).unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib/agent-host"), "root's home is closed to the server's user");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:1\"\ngrace_period = \"1s\"\npredeclared = true\nlog = \"json\"\n")
        .unwrap();
    let vars = MapVars::new(&[("AGENT_HOST_LISTEN", "127.0.0.1:2"), ("AGENT_HOST_GRACE_PERIOD", "2s")]);
    let flags = Flags::from([("listen", "127.0.0.1:3".to_owned())]);
    let config = Config::load(Some(&file), &vars, &flags).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.grace_period, Duration::from_secs(2));
    assert!(config.predeclared);
    assert_eq!(config.log, LogFormat::Json);
    let (settings, problems) = Config::show(Some(&file), &vars, &flags);
    assert_eq!(problems, None);
    let source = |name: &str| settings.iter().find(|setting| setting.name == name).unwrap().source.to_string();
    assert_eq!(source("listen"), "--listen");
    assert_eq!(source("grace_period"), "AGENT_HOST_GRACE_PERIOD");
    assert_eq!(source("log"), file.display().to_string());
    assert_eq!(source("memory_budget"), "default");
}

#[test]
fn every_mistake_is_reported_at_once_and_no_secret_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    std::fs::write(
        &file,
        "listn = \"x\"\nlog = [\"hunter2\"]\nadmin_token = \"hunter2 hunter2\"\ntls_cert = \"c.pem\"\n",
    )
    .unwrap();
    let vars = MapVars::new(&[
        ("AGENT_HOST_LISTEN", "everywhere"),
        ("AMQP_URL", "ampq://u:hunter2@h"),
        ("DATABASE_URL", "hunter2"),
        ("AGENT_HOST_MEMORY_BUDGET", "64MB"),
        ("AGENT_HOST_PAYLOAD_BYTES_MAX", "8"),
        ("AGENT_HOST_GRACE_PERIOD", "soon"),
        ("AGENT_HOST_PREDECLARED", "yes"),
        ("AGENT_HOST_SECRETS_KEY", "hunter2"),
        ("RUST_LOG", "a=b=c"),
        ("AGENT_HOST_MEMORY_BUGDET", "1GB"),
    ]);
    let ConfigErrors(problems) = Config::load(Some(&file), &vars, &Flags::new()).unwrap_err();
    for expected in [
        "listn",
        "log in",
        "admin_token in",
        "one of tls_cert and tls_key",
        "AGENT_HOST_LISTEN",
        "AMQP_URL",
        "DATABASE_URL",
        "AGENT_HOST_MEMORY_BUDGET:",
        "AGENT_HOST_PAYLOAD_BYTES_MAX",
        "AGENT_HOST_GRACE_PERIOD",
        "AGENT_HOST_PREDECLARED",
        "AGENT_HOST_SECRETS_KEY: expected 32 random bytes as base64 or hex: `openssl rand -base64 32`",
        "RUST_LOG",
        "did you mean AGENT_HOST_MEMORY_BUDGET?",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:#?}");
    }
    assert_eq!(problems.len(), 14, "{problems:#?}");
    assert!(!problems.concat().contains("hunter2"), "{problems:#?}");
    let (settings, _) = Config::show(Some(&file), &vars, &Flags::new());
    assert!(!format!("{settings:?}").contains("hunter2"), "{settings:#?}");
}

#[test]
fn a_broken_file_is_reported_by_line_without_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    std::fs::write(&file, "log = \"text\"\nadmin_token = hunter2\n").unwrap();
    let ConfigErrors(problems) = Config::load(Some(&file), &MapVars::default(), &Flags::new()).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("line 2") && !problems[0].contains("hunter2"), "{problems:#?}");
    let missing = Config::load(Some(&folder.path().join("b.toml")), &MapVars::default(), &Flags::new()).unwrap_err();
    assert!(missing.0[0].contains("cannot be read"), "{missing}");
}

#[test]
fn other_peoples_variables_are_left_alone() {
    for name in [
        "AGENT_HOST_PORT",
        "AGENT_HOST_PORT_8080_TCP",
        "AGENT_HOST_SERVICE_HOST",
        "AGENT_HOST_SECRET_VOTER_KEY",
        "AGENT_HOST_TEST_X",
        "AGENT_HOST_URL",
        "PATH",
    ] {
        assert!(load(&[(name, "x")]).is_ok(), "{name}");
    }
    assert_eq!(problems(&[("AGENT_HOST_COLOUR", "red")]).len(), 1);
    assert!(load(&[("AGENT_HOST_COLOUR", ""), ("AGENT_HOST_LISTEN", "")]).is_ok(), "empty is not set");
}

#[test]
fn what_has_no_effect_is_said() {
    let config = load(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]).unwrap();
    assert!(config.ignored.len() == 1 && config.ignored[0].contains("compresses nothing"), "{:?}", config.ignored);
    assert!(load(&[]).unwrap().ignored.is_empty());
    let ignored = |variables: &[_]| load(variables).unwrap().ignored;
    assert_eq!(ignored(&[("OTEL_PROPAGATORS", "tracecontext"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "none")]).len(), 0);
    let said = ignored(&[("OTEL_PROPAGATORS", "tracecontext,baggage"), ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "k")]);
    assert!(said.len() == 2 && said[0].contains("TRACES_CLIENT_KEY") && said[1].contains("traceparent"), "{said:?}");
}

#[test]
fn a_collector_is_said_by_opentelemetrys_variables() {
    assert!(load(&[("OTEL_SERVICE_NAME", "x")]).unwrap().otlp.is_none());
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    let otlp = load(&[endpoint]).unwrap().otlp.unwrap();
    assert_eq!(otlp.traces.unwrap().url.as_str(), "http://collector:4318/v1/traces");
    let grpc = problems(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert!(grpc[0].contains("OTEL_EXPORTER_OTLP_PROTOCOL") && grpc[0].contains("http/protobuf"), "{grpc:?}");
    let wrong = problems(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@collector")]);
    assert!(wrong.len() == 1 && !wrong[0].contains("hunter2"), "{wrong:?}");
    // A key there would be shown with the address.
    let keyed = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector/?api-key=hunter2")];
    assert!(problems(&keyed)[0].contains("OTEL_EXPORTER_OTLP_HEADERS"));
    let (settings, problems) = Config::show(None, &MapVars::new(&keyed), &Flags::new());
    assert!(!format!("{settings:?} {problems:?}").contains("hunter2"));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let open = problems(&[("AGENT_HOST_LISTEN", "0.0.0.0:8080")]);
    assert!(open[0].contains("AGENT_HOST_ADMIN_TOKEN"), "{open:?}");
    assert!(load(&[("AGENT_HOST_LISTEN", "0.0.0.0:8080"), ("AGENT_HOST_ADMIN_TOKEN", "t")]).is_ok());
    assert!(load(&[("AGENT_HOST_LISTEN", "[::1]:80")]).is_ok());
    assert_eq!(problems(&[("AGENT_HOST_READ_TOKEN", "t")]).len(), 1);
    assert_eq!(problems(&[("AGENT_HOST_INTAKE_BYTES_MAX", "1MiB")]).len(), 1);
    assert_eq!(problems(&[("AGENT_HOST_TLS_KEY", "k.pem")]).len(), 1);
    let tls = [("AGENT_HOST_TLS_CERT", "c.pem"), ("AGENT_HOST_TLS_KEY", "k.pem")];
    let open = problems(&tls);
    assert!(open.len() == 1 && open[0].contains("AGENT_HOST_ADMIN_TOKEN"), "{open:?}");
    assert!(load(&[tls[0], tls[1], ("AGENT_HOST_ADMIN_TOKEN", "t")]).is_ok());
    let key = "ab01".repeat(16);
    let alone = problems(&[("AGENT_HOST_SECRETS_KEY_PREVIOUS", &key)]);
    assert!(alone.len() == 1 && alone[0].contains("without AGENT_HOST_SECRETS_KEY:"), "{alone:?}");
    let both = [("AGENT_HOST_SECRETS_KEY", "cd02".repeat(16)), ("AGENT_HOST_SECRETS_KEY_PREVIOUS", key)];
    let config = load(&both.each_ref().map(|(name, value)| (*name, value.as_str()))).unwrap();
    assert!(config.secrets_keys.current.is_some() && config.secrets_keys.previous.is_some());
    assert!(!format!("{config:?}").contains("ab01ab01"), "{config:?}");
    let forgotten = problems(&[("AGENT_HOST_RECORD_RETENTION", "8d")]);
    assert!(forgotten.len() == 1 && forgotten[0].contains("inbox_retention = 7d"), "{forgotten:?}");
    assert!(load(&[("AGENT_HOST_RECORD_RETENTION", "8d"), ("AGENT_HOST_INBOX_RETENTION", "8d")]).is_ok());
}

#[test]
fn the_documentation_lists_the_settings_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&table()), "put this table into docs/configuration.md:\n{}", table());
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    for key in KEYS.iter().filter(|key| key.kind != Kind::Secret && !key.default.is_empty()) {
        let explicit = load(&[(key.variable, key.default)]).unwrap_or_else(|error| panic!("{}: {error}", key.name));
        assert_eq!(format!("{explicit:?}"), format!("{:?}", load(&[]).unwrap()), "{}", key.name);
    }
}

#[test]
fn key_files_are_listed_with_colons() {
    let config = load(&[("AGENT_HOST_SIGNATURE_KEYS", "ci.pub:/etc/keys/release.pub:")]).unwrap();
    assert_eq!(config.signature_keys, [Path::new("ci.pub"), Path::new("/etc/keys/release.pub")]);
    // Nothing that was meant to name keys leaves the host without them.
    for nothing in [":", ""] {
        let problems = problems(&[("AGENT_HOST_SIGNATURE_KEYS", nothing)]);
        assert!(problems.len() == 1 && problems[0].contains("AGENT_HOST_SIGNATURE_KEYS"), "{problems:?}");
    }
    assert!(!load(&[("AGENT_HOST_AGENTS_WATCH", "false")]).unwrap().agents_watch);
}

#[test]
fn a_log_filter_may_have_blanks_anywhere() {
    let filter = |text| load(&[("RUST_LOG", text)]).map(|config| config.log_filter);
    assert_eq!(filter(" info , agent_host=debug").unwrap(), "info,agent_host=debug");
    // Refused or not, it is read without a panic.
    let _ = filter("\u{b}0\u{a1}=");
}

proptest! {
    #[test]
    fn any_value_is_read_or_refused(index in 0..KEYS.len(), value in ".{0,40}", file in ".{0,200}") {
        let key = KEYS[index];
        let _ = load(&[(key.variable, &value)]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        std::fs::write(&path, file).unwrap();
        let _ = Config::load(Some(&path), &MapVars::default(), &Flags::new());
    }
}
