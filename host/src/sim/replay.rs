//! `agent-sim replay`: one recorded run again, with the answers that it got then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::fixtures::World;
use super::{Agent, LogLine, Machine, SimError, SimulatedRun};
use crate::agent::{Run, Stops};
use crate::capability::cache::MemoryCache;
use crate::capability::key_value::MemoryKeyValue;
use crate::capability::outbound_http::{MemoryNetwork, Outbound};
use crate::capability::recording::{Difference, Over, Recorded, Recording, Tape};
use crate::capability::secrets::EnvironmentSecrets;
use crate::capability::{Backends, Capabilities};
use crate::secrets::Secret;
use crate::task::AgentName;

/// What a replay showed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It made the same calls and ended in the same way.
    Same,
    /// It did the same up to where the recorded run was stopped from outside. Where that was.
    SameUntilStopped(String),
    /// It did the same as far as was recorded. What was left out.
    SameAsFarAsRecorded(String),
    /// It asked for something else, or ended without asking.
    OtherCall(Box<Difference>),
    /// It asked for this when the recorded run was at its end.
    OneMoreCall(String),
    /// It made the same calls and ended in another way, or submitted other tasks.
    OtherEnd,
    /// The recorded answer to this call, from 1, is none to such a call.
    Unreadable(usize),
}

impl Verdict {
    /// Whether the whole recorded run was met again.
    #[must_use]
    pub(super) fn is_same(&self) -> bool {
        matches!(self, Self::Same | Self::SameUntilStopped(_))
    }
}

/// What came of a replay.
#[derive(Debug)]
pub(super) struct Replayed {
    /// What it showed.
    pub(super) verdict: Verdict,
    /// How it ended here.
    pub(super) came_of_it: Recorded,
    /// The module here, as `sha256:<hex>`.
    pub(super) digest: String,
    /// What it said.
    pub(super) log: Vec<LogLine>,
}

impl Machine {
    /// Runs a recorded task again. Of secrets the agent gets these values, and stand-ins for the others; of files it finds
    /// those of the world.
    ///
    /// # Errors
    /// What it needs beside the recording is not there.
    pub(super) async fn replay(
        &self,
        agent: &Agent,
        recording: Arc<Recording>,
        secrets: HashMap<String, Secret>,
        world: &World,
    ) -> Result<Replayed, SimError> {
        let wrong = |error: &dyn std::fmt::Display| SimError::Fixture(format!("the recording: {error}"));
        let task = recording.head.task.task(agent.manifest.agent.name.clone()).map_err(|error| wrong(&error))?;
        let folders = world.files.grant(&agent.manifest.grants.files);
        let folders = folders.map_err(|error| SimError::Fixture(error.to_string()))?;
        let tape = Tape::playing(Arc::clone(&recording), secrets);
        let capabilities = Capabilities::replaying(nobody(self), Arc::clone(&tape));
        let (code, digest, manifest) = (agent.code.clone(), agent.digest.clone(), Arc::clone(&agent.manifest));
        let number = recording.head.revision;
        let revision = Arc::new(code.into_revision(number, digest.clone(), manifest, &capabilities, folders));
        let run = SimulatedRun { task, revision, is_replay: true, progress: Mutex::default() };
        let runner = self.runner(capabilities);
        self.recorder.take();
        let stops = Stops { interrupt: tape.over_token(), cancel: CancellationToken::new() };
        let (completion, _) = runner.run(Arc::new(run) as Arc<dyn Run>, stops).await;
        let came_of_it = tape.came_of_it(&completion);
        let verdict = verdict(&recording, &tape, &came_of_it);
        Ok(Replayed { verdict, came_of_it, digest, log: self.recorder.take() })
    }
}

fn verdict(recording: &Recording, tape: &Tape, here: &Recorded) -> Verdict {
    let then = &recording.end.came_of_it;
    let left_out = recording.end.left_out.clone();
    match tape.over() {
        Some(Over::Differs(difference)) => Verdict::OtherCall(difference),
        Some(Over::Unreadable(number)) => Verdict::Unreadable(number),
        Some(Over::Stopped(number)) => Verdict::SameUntilStopped(format!("during call {number}")),
        Some(Over::PastTheEnd(asked)) => match left_out {
            Some(left_out) => Verdict::SameAsFarAsRecorded(left_out),
            None if then.is_from_outside() => Verdict::SameUntilStopped("between two calls".to_owned()),
            None => Verdict::OneMoreCall(asked),
        },
        // Where time ran out it may have done so a little earlier or later.
        None if then.is_from_outside() && here.is_from_outside() => {
            if then == here {
                Verdict::Same
            } else {
                Verdict::SameUntilStopped("while the agent computed".to_owned())
            }
        }
        None => match tape.left() {
            Some(difference) => Verdict::OtherCall(Box::new(difference)),
            None if then == here => Verdict::Same,
            None => Verdict::OtherEnd,
        },
    }
}

/// The values of an agent's secrets that the environment sets, as a host has them.
pub(super) async fn secrets(agent: &Agent, environment: &EnvironmentSecrets) -> HashMap<String, Secret> {
    use crate::capability::secrets::SecretSource as _;
    let mut found = HashMap::new();
    for name in &agent.manifest.secrets.required {
        if let Ok(Some(secret)) = environment.get(&agent.manifest.agent.name, name).await {
            found.insert(name.clone(), secret);
        }
    }
    found
}

/// Backends that a replay asks nothing.
fn nobody(machine: &Machine) -> Backends {
    let directory = |_: &AgentName| false;
    Backends {
        database: Arc::clone(&machine.database),
        key_value: Arc::new(MemoryKeyValue::default()),
        cache: Arc::new(MemoryCache::default()),
        secrets: Arc::new(EnvironmentSecrets::default()),
        outbound: Arc::new(Outbound::new(Arc::new(MemoryNetwork::new()))),
        directory: Arc::new(directory),
    }
}
