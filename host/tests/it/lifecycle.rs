//! Start and stop.

use serde_json::Value;

use super::common::{HANG, Host, HostBuilder, agents_dir, wait_until};
use super::fleet::Fleet;

#[tokio::test]
async fn a_drain_finishes_what_runs_and_exits_cleanly() {
    let mut host = HostBuilder::real().with_samples().start().await;
    let mut ids = Vec::new();
    for number in 0..200 {
        ids.push(host.submit("echo", "", number.to_string()).await);
    }
    assert!(host.terminate().await.success(), "{}", host.log());

    // Whatever the first host did not finish, the next one does: nothing is lost.
    let next = HostBuilder::real().with_samples().start().await;
    for id in ids {
        assert_eq!(next.finished(&id).await["status"], "succeeded");
    }
}

#[tokio::test]
async fn an_agent_is_deployed_to_a_running_host_and_is_there_after_a_restart() {
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let module = std::fs::read(agents_dir().join("echo/echo.wasm")).unwrap();
    let name = format!("echo-{}", uuid::Uuid::new_v4().simple());
    let manifest = manifest.replace("name = \"echo\"", &format!("name = \"{name}\""));

    let mut host = HostBuilder::real().start().await;
    assert_eq!(host.get("/readyz").await.unwrap().status(), 200, "ready with nothing deployed");
    let deployed = host.deploy(&name, &manifest, module.clone()).await;
    assert_eq!(deployed.status(), 201);
    let deployed: Value = deployed.json().await.unwrap();
    assert_eq!((deployed["revision"].as_u64(), deployed["status"].as_str()), (Some(1), Some("active")));
    assert!(deployed["digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(host.run(&name, "text/plain", "hello").await.text().await.unwrap(), "hello");

    let again = host.deploy(&name, &manifest, module.clone()).await;
    assert_eq!(again.status(), 200, "the same again changes nothing");
    assert_eq!(again.json::<Value>().await.unwrap()["revision"], 1);

    let changed = manifest.replace("description = \"", "description = \"Second. ");
    let second = host.deploy(&name, &changed, module).await;
    assert_eq!(second.status(), 201);
    assert_eq!(second.json::<Value>().await.unwrap()["revision"], 2);
    // The hosts of the other tests are of the same fleet, and follow within seconds.
    wait_until("a new task runs on the new revision", async || {
        let id = host.submit(&name, "", "x").await;
        (host.finished(&id).await["revision"] == 2).then_some(())
    })
    .await;
    assert!(host.terminate().await.success());

    let next = HostBuilder::real().start().await;
    wait_until("the agent is back", async || {
        next.get(&format!("/v1/agents/{name}")).await.ok().filter(|answer| answer.status() == 200)
    })
    .await;
    assert_eq!(next.run(&name, "text/plain", "again").await.text().await.unwrap(), "again");
}

/// Containers start with the agents folder of their image, and an operator's deploy must outlive them.
#[tokio::test]
async fn a_restart_with_an_agents_folder_undoes_no_deploy() {
    let name = format!("echo-{}", uuid::Uuid::new_v4().simple());
    let echo = agents_dir().join("echo");
    let manifest = std::fs::read_to_string(echo.join("agent.toml")).unwrap();
    let manifest = manifest.replace("name = \"echo\"", &format!("name = \"{name}\""));
    let folder = tempfile::tempdir().unwrap();
    let agent = folder.path().join("echo");
    std::fs::create_dir(&agent).unwrap();
    std::fs::copy(echo.join("echo.wasm"), agent.join("echo.wasm")).unwrap();
    std::fs::write(agent.join("agent.toml"), &manifest).unwrap();
    let start =
        async || HostBuilder::real().env("AGENT_HOST_AGENTS_DIR", folder.path().to_str().unwrap()).start().await;
    let revision = async |host: &Host| {
        let agent: Value = host.get(&format!("/v1/agents/{name}")).await.unwrap().json().await.unwrap();
        agent["revision"].as_u64().unwrap()
    };

    let mut host = start().await;
    assert_eq!(revision(&host).await, 1);
    let changed = manifest.replace("description = \"", "description = \"By hand. ");
    let module = std::fs::read(echo.join("echo.wasm")).unwrap();
    assert_eq!(host.deploy(&name, &changed, module).await.status(), 201);
    assert_eq!(revision(&host).await, 2);
    assert!(host.terminate().await.success());

    let mut host = start().await;
    assert_eq!(revision(&host).await, 2, "what was deployed by hand stays");
    assert!(host.terminate().await.success());

    std::fs::write(agent.join("agent.toml"), manifest.replace("description = \"", "description = \"Newer. ")).unwrap();
    let host = start().await;
    assert_eq!(revision(&host).await, 3, "what is new in the folder is deployed");
}

#[tokio::test]
async fn a_migration_that_is_added_alone_is_applied() {
    let name = format!("echo-{}", uuid::Uuid::new_v4().simple());
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let manifest = manifest.replace("name = \"echo\"", &format!("name = \"{name}\""));
    let manifest = format!("{manifest}\n[grants]\nsql = [{{ name = \"main\" }}]\n");
    let module = std::fs::read(agents_dir().join("echo/echo.wasm")).unwrap();
    let host = HostBuilder::real().start().await;
    let deploy = async |migrations: &[(&str, &str)]| {
        let part = reqwest::multipart::Part::bytes(module.clone()).file_name("module.wasm");
        let mut form = reqwest::multipart::Form::new().part("module", part).text("manifest", manifest.clone());
        for (name, sql) in migrations {
            let part = reqwest::multipart::Part::text((*sql).to_owned()).file_name((*name).to_owned());
            form = form.part("migration", part);
        }
        let url = host.url(&format!("/v1/agents/{name}/revisions"));
        let answer = host.client().post(url).multipart(form).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let first = ("0001_a.sql", "CREATE TABLE a (n int)");
    let (status, said) = deploy(&[first]).await;
    assert_eq!(status, 201, "{said}");
    let (status, said) = deploy(&[first, ("0002_b.sql", "CREATE TABLE b (n int)")]).await;
    assert_eq!(status, 200, "{said}");
    // It can only be refused as changed where it was applied.
    let (status, said) = deploy(&[first, ("0002_b.sql", "CREATE TABLE b (n bigint)")]).await;
    assert!(status == 422 && said.contains("0002_b.sql was changed after it was applied"), "{status} {said}");
}

#[tokio::test]
async fn another_host_of_the_fleet_follows_a_deploy_and_answers_for_its_tasks() {
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let module = std::fs::read(agents_dir().join("echo/echo.wasm")).unwrap();
    let name = format!("fleet-{}", uuid::Uuid::new_v4().simple());
    let manifest = manifest.replace("name = \"echo\"", &format!("name = \"{name}\""));
    let (first, second) = (HostBuilder::real().start().await, HostBuilder::real().start().await);
    assert_eq!(first.deploy(&name, &manifest, module).await.status(), 201);
    wait_until("the second host has the agent", async || {
        second.get(&format!("/v1/agents/{name}")).await.ok().filter(|answer| answer.status() == 200)
    })
    .await;
    let id = first.submit(&name, "", "x").await;
    assert_eq!(second.finished(&id).await["status"], "succeeded");
    assert_eq!(second.run(&name, "text/plain", "y").await.text().await.unwrap(), "y");
}

/// On a fleet of its own: hosts of other tests would take the task.
#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_the_grace_period_is_handed_back_without_using_an_attempt() {
    let folder = agents_dir().join("fixtures/manifest");
    let name = format!("sleepy-{}", uuid::Uuid::new_v4().simple());
    let manifest = std::fs::read_to_string(folder.join("agent.toml"))
        .unwrap()
        .replace("name = \"fixtures\"", &format!("name = \"{name}\""))
        .replace("timeout = \"1s\"", "timeout = \"10s\"");
    let module = std::fs::read(folder.join("fixtures.wasm")).expect("cargo xtask agents has built it");
    let fleet = Fleet::start().await;
    let mut host = fleet.host().env("AGENT_HOST_GRACE_PERIOD", "100ms").start().await;
    assert_eq!(host.deploy(&name, &manifest, module).await.status(), 201);
    let id = host.submit(&name, "", r#"{"do":"sleep"}"#).await;
    let running = async |host: &Host, since: u64| {
        wait_until("the task runs", async || {
            let task = host.task(&id).await;
            (task["status"] == "running" && task["started_at"].as_u64() > Some(since)).then_some(task)
        })
        .await
    };
    let first = running(&host, 0).await;
    assert!(host.terminate().await.success(), "{}", host.log());

    let next = fleet.host().start().await;
    let again = running(&next, first["started_at"].as_u64().unwrap()).await;
    assert_eq!(again["attempt"], 1, "{again}");
    drop(next);
    fleet.end().await;
}

/// On a fleet of its own: hosts of other tests would take the task.
#[tokio::test(flavor = "multi_thread")]
async fn a_draining_host_tells_of_its_tasks_and_takes_no_other() {
    let folder = agents_dir().join("fixtures/manifest");
    let name = format!("slow-{}", uuid::Uuid::new_v4().simple());
    let manifest = std::fs::read_to_string(folder.join("agent.toml"))
        .unwrap()
        .replace("name = \"fixtures\"", &format!("name = \"{name}\""))
        .replace("timeout = \"1s\"", "timeout = \"5s\"");
    let module = std::fs::read(folder.join("fixtures.wasm")).expect("cargo xtask agents has built it");
    let fleet = Fleet::start().await;
    let mut host = fleet.host().start().await;
    assert_eq!(host.deploy(&name, &manifest, module).await.status(), 201);
    let id = host.submit(&name, "", r#"{"do":"sleep"}"#).await;
    wait_until("the task runs", async || (host.task(&id).await["status"] == "running").then_some(())).await;

    host.ask_to_stop();
    wait_until("the host says that it drains", async || {
        let answer = host.get("/readyz").await.expect("the API answers while a task runs");
        (answer.status() == 503 && answer.text().await.unwrap().contains("draining")).then_some(())
    })
    .await;
    assert_eq!(host.get("/healthz").await.unwrap().status(), 200);
    assert_eq!(host.task(&id).await["status"], "running");
    assert_eq!(host.run(&name, "text/plain", "{}").await.status(), 503);
    assert!(host.ended().await.success(), "{}", host.log());
    fleet.end().await;
}

/// A database that takes connections and says nothing holds a start up for as long as it likes.
#[tokio::test]
async fn a_host_stops_before_its_start_is_over() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://user@{}/none", silent.local_addr().unwrap());
    let mut starting = HostBuilder::bare().env("AMQP_URL", "embedded").env("DATABASE_URL", &url).spawn();
    let _connection = tokio::time::timeout(HANG, silent.accept()).await.expect("the host connects").unwrap();
    let pid = i32::try_from(starting.id().unwrap()).unwrap();
    // SAFETY: kill() takes two integers; the child has not been waited for, so the pid is its own.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    let status = tokio::time::timeout(HANG, starting.wait()).await.expect("the host ends").unwrap();
    assert!(status.success(), "{status}");
}
