//! What the demo asks of the sample agents: the one table to change when an agent's request changes.

use serde_json::{Value, json};

use super::client::Status;

/// Says whether a task ended as planned, and otherwise what is wrong.
pub(super) type Check = Box<dyn Fn(&Status) -> Result<(), String> + Send + Sync>;

/// One task.
pub(super) struct Task {
    /// The agent that it is for.
    pub(super) agent: &'static str,
    /// The media type of its body.
    pub(super) content_type: &'static str,
    /// Its body.
    pub(super) body: Vec<u8>,
    /// What its end must look like.
    pub(super) check: Check,
}

/// Tasks that may run in any order. A stage begins when the one before it has ended.
pub(super) struct Stage {
    /// What it shows.
    pub(super) title: &'static str,
    /// Its tasks, the agents mixed.
    pub(super) tasks: Vec<Task>,
}

impl Stage {
    /// Its agents, by name.
    pub(super) fn agents(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.tasks.iter().map(|task| task.agent).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The demo, in order.
pub(super) fn stages() -> Vec<Stage> {
    vec![Stage {
        title: "echo",
        tasks: (0..100)
            .map(|number| json_task("echo", &json!({ "number": number })))
            .collect(),
    }]
}

fn json_task(agent: &'static str, body: &Value) -> Task {
    Task {
        agent,
        content_type: "application/json",
        body: body.to_string().into_bytes(),
        check: Box::new(succeeded),
    }
}

fn succeeded(status: &Status) -> Result<(), String> {
    if status.status == "succeeded" {
        Ok(())
    } else {
        Err(status.failure())
    }
}
