//! Agents that try to get out, by SQL and by keys: each attempt of the corpora in `escapes/` is refused or harmless, and
//! whatever comes of it, nothing of another agent or of the host is told or changed.

use deadpool_redis::redis;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};

use super::common::{Host, HostBuilder, agents_dir, service, wait_until};
use super::scripts::unique;

/// What no attempt may tell.
const CANARY: &str = "CANARY-5f1c";
/// The default of `AGENT_HOST_MEMORY_BUDGET`, in KiB, as `/proc` counts.
const MEMORY_BUDGET_KIB: u64 = 500_000_000 / 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Corpus {
    attempt: Vec<Attempt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attempt {
    name: String,
    /// As the fixture takes them; a text is a query.
    steps: Vec<Value>,
    #[serde(default)]
    refused: Vec<String>,
    #[serde(default)]
    harmless: bool,
}

impl Attempt {
    /// Has the agent make it, with its words put in, and holds what came of it against what may.
    async fn make(&self, host: &Host, agent: &str, words: &[(&str, String)]) {
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|step| if step.is_string() { json!({ "query": step }) } else { step.clone() })
            .collect();
        let body = words.iter().fold(json!({ "do": "attempt", "steps": steps }).to_string(), |body, (word, value)| {
            body.replace(&format!("{{{word}}}"), value)
        });
        let answer = host.run(agent, "application/json", body).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        let name = &self.name;
        assert!(!text.contains(CANARY), "{name}: was told {text}");
        let told = if status == 200 {
            text
        } else {
            let problem: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((status.as_u16(), &problem["failure"]["type"]), (422, &json!("rejected")), "{name}: {text}");
            problem["failure"]["message"].as_str().unwrap().to_owned()
        };
        let last = told.rsplit(" / ").next().unwrap();
        let expected = match last.strip_prefix("error ") {
            Some(error) => self.harmless || self.refused.iter().any(|kind| error.starts_with(kind.as_str())),
            None => self.harmless,
        };
        assert!(expected, "{agent}: {name}: {told}");
    }
}

/// Deploys an agent for attempts.
async fn deploy(host: &Host, name: &str, transaction: &str, migration: &str) {
    let manifest = format!(
        r#"
        manifest_version = 1
        [agent]
        name = "{name}"
        module = "fixtures.wasm"
        [limits]
        memory = "96MiB"
        timeout = "2m"
        cpu = "1m"
        [retry]
        max_attempts = 1
        [effects]
        transaction = "{transaction}"
        [grants]
        sql = [{{ name = "main", max_rows = 1000, statement_timeout = "60s" }}]
        key_value = ["default", "a"]
        cache = true
        "#
    );
    let module =
        std::fs::read(agents_dir().join("fixtures/manifest/fixtures.wasm")).expect("cargo xtask agents built it");
    let form = reqwest::multipart::Form::new()
        .part("module", reqwest::multipart::Part::bytes(module).file_name("module.wasm"))
        .text("manifest", manifest)
        .part("migration", reqwest::multipart::Part::text(migration.to_owned()).file_name("0001_tables.sql"));
    let url = host.url(&format!("/v1/agents/{name}/revisions"));
    let deployed = host.client().post(url).multipart(form).send().await.unwrap();
    assert_eq!(deployed.status(), 201, "{}", deployed.text().await.unwrap());
}

/// A database of one test's own, and who owns it.
struct Scratch {
    admin: PgConnection,
    name: String,
    host_role: String,
    url: String,
}

impl Scratch {
    /// A database of the superuser that the tests have.
    async fn of_a_superuser() -> Self {
        let name = unique("escapes");
        let mut admin = PgConnection::connect(&service("DATABASE_URL")).await.unwrap();
        let host_role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut admin).await.unwrap();
        admin.execute(format!("CREATE DATABASE {name}").as_str()).await.unwrap();
        let mut url = url::Url::parse(&service("DATABASE_URL")).unwrap();
        url.set_path(&name);
        Self { admin, name, host_role, url: url.into() }
    }

    /// A database of a role that may do no more than a host needs.
    async fn of_an_owner() -> Self {
        let mut scratch = Self::of_a_superuser().await;
        let Self { name, admin, .. } = &mut scratch;
        admin.execute(format!("CREATE ROLE {name} LOGIN CREATEROLE PASSWORD '{name}'").as_str()).await.unwrap();
        admin.execute(format!("ALTER DATABASE {name} OWNER TO {name}").as_str()).await.unwrap();
        let mut url = url::Url::parse(&scratch.url).unwrap();
        url.set_username(&scratch.name).unwrap();
        url.set_password(Some(&scratch.name)).unwrap();
        Self { host_role: scratch.name.clone(), url: url.into(), ..scratch }
    }

    /// A superuser in this database.
    async fn inside(&self) -> PgConnection {
        let options: sqlx::postgres::PgConnectOptions = service("DATABASE_URL").parse().unwrap();
        options.database(&self.name).connect().await.unwrap()
    }

    async fn drop(mut self) {
        let mut inside = self.inside().await;
        let roles: Vec<String> =
            sqlx::query_scalar("SELECT role FROM agent_host.sql_roles").fetch_all(&mut inside).await.unwrap();
        inside.close().await.unwrap();
        self.admin.execute(format!("DROP DATABASE {} WITH (FORCE)", self.name).as_str()).await.unwrap();
        for role in roles {
            self.admin.execute(format!("DROP ROLE \"{role}\"").as_str()).await.unwrap();
        }
        self.admin.execute(format!("DROP ROLE IF EXISTS {}", self.name).as_str()).await.unwrap();
    }
}

/// The schema of whoever tries.
const OWN: &str = "CREATE TABLE t (n int)";
/// The schema of whoever is to be left alone. Its values are in the statistics too, once it is analyzed.
const VICTIM: &str = "
    CREATE TABLE t (n int PRIMARY KEY, secret text);
    INSERT INTO t SELECT n, 'CANARY-5f1c' FROM generate_series(1, 100) AS n;
    ANALYZE t;
    CREATE SEQUENCE counter;
    CREATE FUNCTION told() RETURNS text LANGUAGE sql AS $$ SELECT secret FROM t LIMIT 1 $$";

/// All that must stay as it is.
async fn snapshot(database: &mut PgConnection, victim: &str, roles: &[String]) -> Vec<String> {
    let roles = roles.iter().map(|role| format!("'{role}'")).collect::<Vec<_>>().join(", ");
    let queries = [
        format!("SELECT md5(string_agg(t::text, ',' ORDER BY n)) FROM {victim}.t AS t"),
        format!("SELECT (last_value, is_called)::text FROM {victim}.counter"),
        format!(
            "SELECT string_agg(relname || ':' || relacl::text, ',' ORDER BY relname) FROM pg_class WHERE relnamespace = '{victim}'::regnamespace"
        ),
        format!(
            "SELECT string_agg(proname || prosrc, ',' ORDER BY proname) FROM pg_proc WHERE pronamespace IN ('{victim}'::regnamespace, 'agent_host'::regnamespace)"
        ),
        "SELECT string_agg(i::text, ',') FROM agent_host.sql_installation AS i".to_owned(),
        "SELECT string_agg((role, name, digest)::text, ',' ORDER BY role, name) FROM agent_host.sql_migrations"
            .to_owned(),
        "SELECT count(*)::text FROM agent_host.outbox".to_owned(),
        "SELECT string_agg(nspname, ',' ORDER BY nspname) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'"
            .to_owned(),
        "SELECT count(*)::text FROM pg_class WHERE relnamespace = 'public'::regnamespace".to_owned(),
        "SELECT count(*)::text FROM pg_largeobject_metadata".to_owned(),
        "SELECT string_agg(extname, ',' ORDER BY extname) FROM pg_extension".to_owned(),
        format!(
            "SELECT string_agg((rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolconnlimit)::text, ',' ORDER BY rolname) FROM pg_roles WHERE rolname IN ({roles}) OR rolname LIKE 'intruder%'"
        ),
        format!(
            "SELECT string_agg((roleid::regrole, member::regrole)::text, ',' ORDER BY roleid, member) FROM pg_auth_members WHERE member::regrole::text IN ({roles})"
        ),
    ];
    let mut all = Vec::new();
    for query in queries {
        let value: Option<String> = database.fetch_one(query.as_str()).await.unwrap().get(0);
        all.push(value.unwrap_or_default());
    }
    all
}

/// Makes every attempt in both transaction modes, against a host on this database.
async fn by_sql(scratch: Scratch) {
    let corpus: Corpus = toml::from_str(include_str!("escapes/sql.toml")).unwrap();
    let mut host = HostBuilder::real().env("DATABASE_URL", &scratch.url).start().await;
    let (victim, task, statement) = (unique("victim"), unique("bytask"), unique("bystatement"));
    deploy(&host, &victim, "task", VICTIM).await;
    deploy(&host, &task, "task", OWN).await;
    deploy(&host, &statement, "statement", OWN).await;
    let mut inside = scratch.inside().await;
    let id: String =
        sqlx::query_scalar("SELECT id FROM agent_host.sql_installation").fetch_one(&mut inside).await.unwrap();
    let role = |agent: &str| format!("ah_{id}_{agent}");
    let roles = [role(&victim), role(&task), role(&statement)];
    let victim_schema = format!("agent_{victim}");
    let before = snapshot(&mut inside, &victim_schema, &roles).await;

    let words = |agent: &str| {
        [
            ("victim", victim_schema.clone()),
            ("role", role(&victim)),
            ("own", format!("agent_{agent}")),
            ("me", role(agent)),
            ("host", scratch.host_role.clone()),
        ]
    };
    let make_all = async |agent: &str| {
        for attempt in &corpus.attempt {
            attempt.make(&host, agent, &words(agent)).await;
        }
    };
    tokio::join!(make_all(&task), make_all(&statement));

    let look = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'ah_' || $1 || '_%' AND state <> 'idle'";
    wait_until("nothing of the agents runs at the server", async || {
        let mut inside = scratch.inside().await;
        let running: i64 = sqlx::query_scalar(look).bind(&id).fetch_one(&mut inside).await.unwrap();
        (running == 0).then_some(())
    })
    .await;
    assert_eq!(snapshot(&mut inside, &victim_schema, &roles).await, before);
    let peak_kib = host.memory_peak_kib();
    println!(
        "{} attempts twice; peak resident memory of the host: {} MB",
        corpus.attempt.len(),
        peak_kib * 1024 / 1_000_000
    );
    assert!(peak_kib < MEMORY_BUDGET_KIB, "{peak_kib} KiB");
    let log = host.log();
    assert!(!log.contains("CANARY-LOG"), "an agent's notices are in the log");
    // A host that starts, and a deploy, wait for nothing that an agent has taken and kept.
    deploy(&host, &unique("later"), "task", OWN).await;
    assert!(host.terminate().await.success());
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sql_gets_out_on_a_database_of_a_superuser() {
    by_sql(Scratch::of_a_superuser().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sql_gets_out_on_a_database_of_a_plain_owner() {
    by_sql(Scratch::of_an_owner().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_gets_out() {
    let corpus: Corpus = toml::from_str(include_str!("escapes/redis.toml")).unwrap();
    let host = HostBuilder::real().start().await;
    let (victim, intruder) = (unique("victim"), unique("intruder"));
    deploy(&host, &intruder, "task", OWN).await;
    let mut server =
        redis::Client::open(service("REDIS_URL")).unwrap().get_multiplexed_async_connection().await.unwrap();
    let planted = [
        format!("ah:{{{victim}}}:kv:default:secret"),
        format!("ah:{{{victim}}}:kv:a:secret"),
        format!("ah:{{{victim}}}:cache:secret"),
        // A name that begins with another agent's.
        format!("ah:{{{intruder}x}}:kv:default:secret"),
        // Beside every prefix.
        format!("ah:{{{intruder}}}:secret"),
        format!("secret:{victim}"),
    ];
    for key in &planted {
        let () = redis::cmd("SET").arg(key).arg(CANARY).query_async(&mut server).await.unwrap();
    }
    for attempt in &corpus.attempt {
        attempt.make(&host, &intruder, &[("victim", victim.clone()), ("me", intruder.clone())]).await;
    }
    for key in &planted {
        let value: Option<String> = redis::cmd("GET").arg(key).query_async(&mut server).await.unwrap();
        assert_eq!(value.as_deref(), Some(CANARY), "{key}");
        let ttl: i64 = redis::cmd("PTTL").arg(key).query_async(&mut server).await.unwrap();
        assert_eq!(ttl, -1, "{key} was to stay for ever");
        let () = redis::cmd("DEL").arg(key).query_async(&mut server).await.unwrap();
    }
}
