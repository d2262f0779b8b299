//! The services from `docker-compose.yml`, under a project name of this run, on free ports.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::server::free_ports;
use crate::workspace::Workspace;
use crate::{process, ui};

/// `docker info` asks a local engine; this only bounds one that does not answer.
const ENGINE_PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Services that run in containers until this is dropped.
pub(super) struct Compose {
    root: std::path::PathBuf,
    project: String,
    ports: [u16; 3],
}

impl Compose {
    /// Whether an engine runs and has compose.
    pub(super) fn available() -> bool {
        let works = |args: &[&str]| {
            process::output_within("docker", Command::new("docker").args(args), Some(ENGINE_PROBE_LIMIT)).is_ok()
        };
        works(&["info"]) && works(&["compose", "version"])
    }

    /// Starts them and waits for their health checks.
    pub(super) fn up(workspace: &Workspace) -> Result<Self> {
        ui::say("starting rabbitmq, postgres and redis with docker compose");
        let project = format!("agent-host-test-{}", std::process::id());
        // Made before anything runs, so that a failed start is also taken down.
        let compose = Self { root: workspace.root.clone(), project, ports: free_ports()? };
        process::run(
            "docker compose up",
            compose.command().args(["up", "--detach", "--wait", "rabbitmq", "postgres", "redis"]),
        )?;
        Ok(compose)
    }

    /// The address that a variable should hold. Users and passwords are those of `docker-compose.yml`.
    pub(super) fn url(&self, variable: &str) -> Option<String> {
        let [amqp, database, redis] = self.ports;
        match variable {
            "AMQP_URL" => Some(format!("amqp://agent-host:agent-host@127.0.0.1:{amqp}/%2f")),
            "DATABASE_URL" => Some(format!("postgres://agent_host:agent-host@127.0.0.1:{database}/agent_host")),
            "REDIS_URL" => Some(format!("redis://127.0.0.1:{redis}/0")),
            _ => None,
        }
    }

    fn command(&self) -> Command {
        let [amqp, database, redis] = self.ports;
        let mut command = Command::new("docker");
        command
            .current_dir(&self.root)
            .args(["compose", "--project-name", &self.project])
            .env("RABBITMQ_PORT", amqp.to_string())
            .env("RABBITMQ_MANAGEMENT_PORT", "")
            .env("POSTGRES_PORT", database.to_string())
            .env("REDIS_PORT", redis.to_string())
            // Compose checks the variables of the host service too, which is not started here.
            .env("AGENT_HOST_ADMIN_TOKEN", "unused");
        command
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let down = process::clean_up("docker compose down", self.command().args(["down", "--volumes"]));
        if let Err(error) = down {
            ui::warn(&format!("compose project {} may still run: {error:#}", self.project));
        }
    }
}
