//! `agent-host doctor` on real servers: nothing to mend where all is well, and what is wrong with the command that mends it.

use std::path::Path;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use sqlx::Executor as _;

use super::common::{agent_host, agents_dir, service};
use super::fleet::Fleet;
use super::scripts::unique;

/// What it finds with these agents and variables, and its exit status.
async fn doctor(agents: &Path, vars: &[(&str, &str)]) -> (i32, Vec<Value>) {
    let data = tempfile::TempDir::new().unwrap();
    let mut command = agent_host();
    command.args(["doctor", "--format", "json"]).env("AGENT_HOST_LISTEN", "127.0.0.1:0");
    command.env("AGENT_HOST_DATA_DIR", data.path()).env("AGENT_HOST_AGENTS_DIR", agents);
    let ended = command.envs(vars.iter().copied()).output().await.unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&ended.stdout).unwrap();
    (ended.status.code().unwrap(), findings)
}

/// The one finding whose text holds this.
fn finding<'a>(findings: &'a [Value], text: &str) -> &'a Value {
    let found: Vec<_> = findings.iter().filter(|found| found["found"].as_str().unwrap().contains(text)).collect();
    assert_eq!(found.len(), 1, "{text}: {findings:#?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_is_wrong_with_servers_and_what_mends_it() {
    let fleet = Fleet::start().await;
    // Other tests use the same broker, with agents of other names.
    let (agents, name) = (tempfile::TempDir::new().unwrap(), unique("ill"));
    let manifest = format!("manifest_version = 1\n[agent]\nname = \"{name}\"\nmodule = \"m.wasm\"\n");
    let folder = agents.path().join("ill");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("agent.toml"), manifest).unwrap();
    std::fs::copy(agents_dir().join("echo/echo.wasm"), folder.join("m.wasm")).unwrap();
    let (broker, database) = (fleet.broker.url(), fleet.database.url());
    let good = [("AMQP_URL", broker), ("DATABASE_URL", database)];
    let (status, findings) = doctor(agents.path(), &good).await;
    let problems: Vec<_> = findings.iter().filter(|finding| finding["level"] == "problem").collect();
    assert_eq!((status, problems), (0, Vec::<&Value>::new()));
    finding(&findings, "is PostgreSQL ");
    finding(&findings, "lets this host in");

    // A queue that somebody declared in another way, and a role that may do little.
    let connection = Connection::connect(broker, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(format!("agent.{name}").into(), options, arguments).await.unwrap();
    let role = unique("small");
    fleet.pool.execute(format!("CREATE ROLE {role} LOGIN PASSWORD 'small'").as_str()).await.unwrap();
    let mut url: url::Url = database.parse().unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("small")).unwrap();

    let bad = [("AMQP_URL", broker), ("DATABASE_URL", url.as_str()), ("REDIS_URL", &service("REDIS_URL"))];
    let (status, findings) = doctor(agents.path(), &bad).await;
    assert_eq!(status, 69);
    let queue = finding(&findings, &format!("agent.{name} exists with other properties"));
    assert!(queue["mend"].as_str().unwrap().contains(&format!("rabbitmqctl delete_queue agent.{name}")), "{queue}");
    let schemas = finding(&findings, "may not create schemas");
    assert!(schemas["mend"].as_str().unwrap().contains(&format!("TO {role}'")), "{schemas}");
    let roles = finding(&findings, "may not create roles");
    assert_eq!(roles["mend"], format!("psql -c 'ALTER ROLE {role} CREATEROLE'"));
    finding(&findings, "is Redis ");

    connection.close(200, "done".into()).await.unwrap();
    fleet.pool.execute(format!("DROP ROLE {role}").as_str()).await.unwrap();
    fleet.end().await;
}
