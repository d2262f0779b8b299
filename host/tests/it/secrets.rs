//! Values that nobody but their owner is to read, planted and then looked for in everything that a host writes: its log in both
//! formats (its drivers' included), answers and errors of the API, metrics, its tables, `config show` and `doctor`.

use reqwest::StatusCode;
use sqlx::Row;

use super::common::{Host, agent_host, service};
use super::fleet::Fleet;
use super::hostile::guests::Leave;
use super::hostile::{NAME, SECRET_VARIABLE, deploy};

/// Everything that the host's own code and its drivers can log; the compiler's own steps alone would fill gigabytes.
const LOG_EVERYTHING: &str = "debug,agent_host=trace,sqlx=trace,lapin=trace,amq_protocol=trace,hyper=trace,tower=trace";

/// The planted values by what they are.
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    fn plant(database_url: &str) -> Self {
        let random = |what: &str| format!("{what}-{}", uuid::Uuid::new_v4().simple());
        let url: url::Url = database_url.parse().unwrap();
        let password = url.password().expect("the tests' PostgreSQL asks for a password").to_owned();
        assert!(password.len() >= 8, "a password that occurs by chance shows nothing");
        let mut planted: Vec<_> =
            ["agent-secret", "stored-secret", "admin-token", "read-token", "submit-token", "broker-password"]
                .map(|what| (what, random(what)))
                .into();
        planted.push(("database-password", password));
        for what in ["secrets-key", "previous-secrets-key"] {
            let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(|half| half.simple().to_string());
            planted.push((what, halves.concat()));
        }
        Self(planted)
    }

    fn get(&self, what: &str) -> &str {
        self.0.iter().find(|(name, _)| *name == what).map(|(_, value)| value.as_str()).unwrap()
    }

    fn assert_absent(&self, wherever: &str, text: &str) {
        for (what, value) in &self.0 {
            if let Some(at) = text.find(value.as_str()) {
                let line = text[..at].lines().count();
                panic!("the {what} is in {wherever}, line {line}");
            }
        }
        assert!(!text.contains("PASSWORD '"), "the password of a role is in {wherever}");
    }
}

/// What a host of the fleet is told.
fn environment(fleet: &Fleet, canaries: &Canaries) -> Vec<(&'static str, String)> {
    vec![
        ("AMQP_URL", fleet.broker_with_password(canaries.get("broker-password"))),
        ("DATABASE_URL", fleet.database.url().to_owned()),
        ("REDIS_URL", fleet.cache.url().to_owned()),
        ("AGENT_HOST_ADMIN_TOKEN", canaries.get("admin-token").to_owned()),
        ("AGENT_HOST_READ_TOKEN", canaries.get("read-token").to_owned()),
        ("AGENT_HOST_SUBMIT_TOKEN", canaries.get("submit-token").to_owned()),
        ("AGENT_HOST_SECRETS_KEY", canaries.get("secrets-key").to_owned()),
        ("AGENT_HOST_SECRETS_KEY_PREVIOUS", canaries.get("previous-secrets-key").to_owned()),
        (SECRET_VARIABLE, canaries.get("agent-secret").to_owned()),
    ]
}

/// The text of an answer, headers included.
async fn said(answer: reqwest::Response) -> String {
    let headers = format!("{} {:?}", answer.status(), answer.headers());
    format!("{headers}\n{}", answer.text().await.unwrap())
}

/// Stores the guests' secret, tries what is refused with it, and gives all that was answered.
async fn store_secret(host: &Host, value: &str) -> String {
    let put = async |name: &str, body: Vec<u8>| {
        let url = host.url(&format!("/v1/agents/{NAME}/secrets/{name}"));
        let answer = host.client().put(url).body(body).send().await.unwrap();
        (answer.status(), said(answer).await)
    };
    let mut answered = String::new();
    let cut = [value.as_bytes(), b"\xff"].concat();
    for (name, body, expected) in [
        ("api-key", value.as_bytes().to_vec(), StatusCode::OK),
        ("api-key", value.repeat(10_000).into_bytes(), StatusCode::PAYLOAD_TOO_LARGE),
        ("api-key", cut, StatusCode::BAD_REQUEST),
        ("no%20name", value.as_bytes().to_vec(), StatusCode::BAD_REQUEST),
    ] {
        let (status, text) = put(name, body).await;
        assert_eq!(status, expected, "{text}");
        answered.push_str(&text);
    }
    for path in [format!("/v1/agents/{NAME}/secrets"), "/v1/events".to_owned()] {
        answered.push_str(&said(host.get(&path).await.unwrap()).await);
    }
    answered
}

/// Has the guests tell their secret, asks for everything there is, and gives all that was answered.
async fn everything_answered(host: &Host) -> String {
    let mut answered = String::new();
    for guest in ["secret-told-to-everyone", "secret-told-before-a-trap"] {
        let deployed = deploy(host, guest, Leave::Entrusted).await;
        assert!(deployed.status().is_success(), "{}", deployed.text().await.unwrap());
        let ran = host.run(NAME, "text/plain", "task").await;
        assert_eq!(ran.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let id = ran.headers()["task-id"].to_str().unwrap().to_owned();
        answered.push_str(&said(ran).await);
        for path in [format!("/v1/tasks/{id}"), format!("/v1/tasks/{id}/output"), format!("/v1/dead-letters/{id}")] {
            answered.push_str(&said(host.get(&path).await.unwrap()).await);
        }
    }
    for path in ["/metrics", "/readyz", "/openapi.json", "/v1/agents", "/v1/agents/hostile", "/v1/dead-letters"] {
        answered.push_str(&said(host.get(path).await.unwrap()).await);
    }
    // An agent with a database, whose role gets a password, and a deploy that asks for what is not there.
    answered.push_str(&said(deploy(host, "sql-cursors-leaked", Leave::Granted).await).await);
    answered.push_str(&said(host.run(NAME, "text/plain", "task").await).await);
    answered.push_str(&said(host.deploy(NAME, "nonsense", vec![]).await).await);
    answered
}

/// Every row of the host's own tables, as text.
async fn tables(fleet: &Fleet) -> String {
    let names = sqlx::query(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'agent_host' AND c.relkind IN ('r', 'p')",
    );
    let names = names.fetch_all(&fleet.pool).await.unwrap();
    assert!(names.len() > 5, "the host's tables are looked at");
    let mut all = String::new();
    for name in names {
        let name: String = name.get(0);
        let rows = format!("SELECT row_to_json(t)::text FROM agent_host.\"{name}\" t");
        for row in sqlx::query(&rows).fetch_all(&fleet.pool).await.unwrap() {
            all.push_str(&row.get::<String, _>(0));
            all.push('\n');
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_a_host_writes() {
    let fleet = Fleet::start().await;
    let canaries = Canaries::plant(&service("DATABASE_URL"));
    let environment = environment(&fleet, &canaries);
    for format in ["text", "json"] {
        let mut host = fleet.host().env("AGENT_HOST_LOG", format).env("RUST_LOG", LOG_EVERYTHING);
        // Once by a variable, and once stored.
        let is_stored = format == "json";
        for (name, value) in environment.iter().filter(|(name, _)| !is_stored || *name != SECRET_VARIABLE) {
            host = host.env(name, value);
        }
        let mut host = host.start().await.with_token(canaries.get("admin-token"));
        if is_stored {
            canaries.assert_absent("an answer", &store_secret(&host, canaries.get("stored-secret")).await);
        }
        canaries.assert_absent("an answer", &everything_answered(&host).await);
        let wrong = reqwest::Client::new().get(host.url("/v1/agents")).bearer_auth("a guess").send().await.unwrap();
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
        canaries.assert_absent("the answer to a wrong token", &said(wrong).await);
        let log = host.log_to_its_end().await;
        assert!(log.contains("(secret)"), "what the guest said is logged without it");
        canaries.assert_absent(&format!("the log as {format}"), &log);
    }
    canaries.assert_absent("the host's tables", &tables(&fleet).await);
    for command in [["config", "show"].as_slice(), &["doctor"]] {
        for format in ["text", "json"] {
            let data = tempfile::TempDir::new().unwrap();
            let mut command_line = agent_host();
            command_line.args(["--format", format]).args(command).env("AGENT_HOST_DATA_DIR", data.path());
            command_line.envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
            let output = command_line.output().await.unwrap();
            let text = [output.stdout, output.stderr].concat();
            assert!(text.len() > 100, "{command:?}: {}", String::from_utf8_lossy(&text));
            canaries.assert_absent(&format!("{command:?} as {format}"), &String::from_utf8_lossy(&text));
        }
    }
    fleet.end().await;
}
