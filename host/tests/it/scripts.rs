//! Agents of the fixtures' deed `script`: they call the host as the body of each task says.

use serde_json::{Value, json};

use super::common::{Host, agents_dir};

/// A database without bounds that a test would meet.
pub(crate) const SQL: &str = r#"sql = [{ name = "main", max_rows = 10, statement_timeout = "5m" }]"#;
/// A bucket.
pub(crate) const KEY_VALUE: &str = r#"key_value = ["default"]"#;
/// The cache.
pub(crate) const CACHE: &str = "cache = true";

/// A name for an agent that no other test has, which is also a plain name in SQL.
pub(crate) fn unique(what: &str) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{what}{}", random.get(..12).unwrap())
}

/// Deploys an agent for scripts, with so many places per host. Its tasks have one attempt and far more time than any test.
pub(crate) async fn deploy(host: &Host, name: &str, concurrency: u32, grants: &[&str], migration: &str) {
    let manifest = format!(
        r#"
        manifest_version = 1
        [agent]
        name = "{name}"
        module = "fixtures.wasm"
        [limits]
        memory = "16MiB"
        timeout = "10m"
        cpu = "10m"
        concurrency = {concurrency}
        [retry]
        max_attempts = 1
        [grants]
        {}
        "#,
        grants.join("\n")
    );
    let module =
        std::fs::read(agents_dir().join("fixtures/manifest/fixtures.wasm")).expect("cargo xtask agents built it");
    let part = reqwest::multipart::Part::bytes(module).file_name("module.wasm");
    let mut form = reqwest::multipart::Form::new().part("module", part).text("manifest", manifest);
    if !migration.is_empty() {
        let part = reqwest::multipart::Part::text(migration.to_owned()).file_name("0001_tables.sql");
        form = form.part("migration", part);
    }
    let url = host.url(&format!("/v1/agents/{name}/revisions"));
    let deployed = host.client().post(url).multipart(form).send().await.unwrap();
    assert_eq!(deployed.status(), 201, "{}", deployed.text().await.unwrap());
}

/// The body of a task that takes these steps.
pub(crate) fn script(steps: &[Value]) -> String {
    json!({ "do": "script", "steps": steps }).to_string()
}

/// A step that runs a statement.
pub(crate) fn sql(statement: &str) -> Value {
    json!({ "sql": statement })
}

/// The series of `/metrics` that starts with this text; 0 where nothing has been counted in it.
pub(crate) async fn metric(host: &Host, series: &str) -> u64 {
    let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix(series));
    value.map_or(0, |value| value.trim().parse().unwrap())
}

/// How often a host has put off tasks of an agent for want of something that they need.
pub(crate) async fn put_off(host: &Host, agent: &str) -> u64 {
    metric(host, &format!("agent_settlements{{agent=\"{agent}\",reason=\"host-error\",settlement=\"retry\"}}")).await
}

/// How many runs of an agent have ended on a host.
pub(crate) async fn runs(host: &Host, agent: &str) -> u64 {
    metric(host, &format!("faas_invocations{{agent=\"{agent}\"}}")).await
}
