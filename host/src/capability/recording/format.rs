//! The file: what is in it, and reading it, whoever wrote it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::forms::blob;
use crate::manifest::{Manifest, ManifestErrors};
use crate::task::{AgentName, Completion, FollowUp, InvalidName, Outcome, Task, TaskId};

/// The version of the format. It changes with whatever a reader of this one would not understand.
pub const FORMAT: u32 = 2;
/// Largest file that is read: twice what a manifest may have recorded, since what is no text takes more as text.
const FILE_BYTES_MAX: usize = 40 << 20;

/// The first line: what ran, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of the host.
    pub host_version: String,
    /// The revision's number.
    pub revision: u64,
    /// Its module, as `sha256:<hex>`.
    pub digest: String,
    /// Its manifest.
    pub manifest: Manifest,
    /// The task.
    pub task: TaskGiven,
    /// Where the run's random numbers began, in hexadecimal.
    pub random_seed: String,
}

/// The task, as its agent was given it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskGiven {
    /// Its id.
    pub id: String,
    /// The attempt.
    pub attempt: u32,
    /// The sender's limit on attempts.
    pub attempts_max: Option<u32>,
    /// How often it was redriven.
    pub generation: u32,
    /// What it is run in order by.
    pub partition_key: Option<String>,
    /// When it was enqueued.
    pub enqueued_at_ms: u64,
    /// Its deadline.
    pub deadline_ms: Option<u64>,
    /// The revision that it was pinned to.
    pub pinned_revision: Option<u64>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body's media type.
    pub content_type: String,
    /// Its body.
    #[serde(with = "blob")]
    pub body: Vec<u8>,
    /// Its trace.
    pub traceparent: Option<String>,
}

impl TaskGiven {
    pub(super) fn of(task: &Task) -> Self {
        Self {
            id: task.id.to_string(),
            attempt: task.attempt,
            attempts_max: task.attempts_max,
            generation: task.generation,
            partition_key: task.partition_key.clone(),
            enqueued_at_ms: task.enqueued_at_ms,
            deadline_ms: task.deadline_ms,
            pinned_revision: task.revision,
            headers: task.headers.clone(),
            content_type: task.content_type.clone(),
            body: task.body.to_vec(),
            traceparent: task.traceparent.clone(),
        }
    }

    /// The task again. Nobody waits for its result.
    ///
    /// # Errors
    /// Its id is none.
    pub fn task(&self, agent: AgentName) -> Result<Task, InvalidName> {
        Ok(Task {
            id: TaskId::parse(&self.id)?,
            attempt: self.attempt,
            attempts_max: self.attempts_max,
            generation: self.generation,
            partition_key: self.partition_key.clone(),
            enqueued_at_ms: self.enqueued_at_ms,
            deadline_ms: self.deadline_ms,
            revision: self.pinned_revision,
            headers: self.headers.clone(),
            content_type: self.content_type.clone(),
            traceparent: self.traceparent.clone(),
            ..Task::new(agent, self.body.clone())
        })
    }
}

/// A line in the middle: a call that somebody outside the run answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Which one.
    pub call: String,
    /// What was asked.
    pub asked: Value,
    /// What was answered; absent where the run was stopped before.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub answered: Option<Value>,
}

/// `null` is an answer too.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// What a clock read: by how much each reading is more than the one before, and how often it was read there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Readings(pub Vec<(u64, u32)>);

/// The last line: how the run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// What the clocks read.
    pub monotonic_ns: Readings,
    /// Likewise, in Unix milliseconds.
    pub wall_ms: Readings,
    /// How often in a row what the agent looked at without waiting was not ready, then was, then was not, and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pollable_ready: Vec<u32>,
    /// Whether it had files.
    pub used_files: bool,
    /// How it ended, and what it sent.
    pub came_of_it: Recorded,
    /// Why not everything of it is here; nothing where it is.
    pub left_out: Option<String>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The outcome's name.
    pub outcome: String,
    /// What its failure says.
    pub message: Option<String>,
    /// The delay that it asked for.
    pub after_ms: Option<u64>,
    /// Tasks that it submitted and that left.
    pub follow_ups: Vec<FollowedUp>,
}

/// A task that was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedUp {
    /// To whom.
    pub agent: String,
    /// Its id.
    pub id: String,
    /// Its body.
    #[serde(with = "blob")]
    pub body: Vec<u8>,
}

impl Recorded {
    /// What came of a run that has ended.
    #[must_use]
    pub fn of(completion: &Completion) -> Self {
        let outcome = &completion.outcome;
        let after_ms = if let Outcome::Retry { after_ms, .. } = outcome { *after_ms } else { None };
        let followed_up = |FollowUp { task, .. }: &FollowUp| FollowedUp {
            agent: task.agent.to_string(),
            id: task.id.to_string(),
            body: task.body.to_vec(),
        };
        Self {
            outcome: outcome.name().to_owned(),
            message: outcome.failure().map(|failure| failure.message),
            after_ms,
            follow_ups: completion.follow_ups.iter().map(followed_up).collect(),
        }
    }

    /// Whether it was ended from outside, at a moment that no other run of it meets again.
    #[must_use]
    pub fn is_from_outside(&self) -> bool {
        ["timed-out", "expired", "cancelled", "interrupted"].contains(&self.outcome.as_str())
    }
}

/// A recording that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// What ran.
    pub head: Head,
    /// What it asked and was told, in the order in which the answers came.
    pub calls: Vec<Call>,
    /// How it ended.
    pub end: End,
}

/// A file that is no recording, or none that can be read here.
#[derive(Debug, thiserror::Error)]
pub enum CannotRead {
    /// It is too large to be one.
    #[error("a recording has at most {FILE_BYTES_MAX} bytes, and this file has {0}")]
    TooLarge(usize),
    /// It has no end: it was not received whole.
    #[error("the recording is not whole: its last line, which says how the run ended, is missing")]
    NotWhole,
    /// It is of a version to come.
    #[error(
        "the recording has format {0}, and this version reads format {FORMAT}: use the agent-sim of the host that wrote it"
    )]
    Format(u64),
    /// A line is not as it should be.
    #[error("line {line} is not as in a recording: {source}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// Its manifest is wrong.
    #[error("the recording's manifest: {0}")]
    Manifest(#[from] ManifestErrors),
    /// It has no good random seed.
    #[error("the recording's random_seed: expected 64 hexadecimal digits")]
    Seed,
    /// Its task's id is none.
    #[error("the recording's task: {0}")]
    Task(#[from] InvalidName),
}

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    /// [`CannotRead`], any of them.
    pub fn read(text: &[u8]) -> Result<Self, CannotRead> {
        if text.len() > FILE_BYTES_MAX {
            return Err(CannotRead::TooLarge(text.len()));
        }
        let mut lines = text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        let (_, first) = lines.next().ok_or(CannotRead::NotWhole)?;
        // Before anything else: another version may have another head.
        let format = serde_json::from_slice::<Value>(first).map_err(wrong_in(0))?;
        if let Some(format) = format.get("format").and_then(Value::as_u64).filter(|format| *format != u64::from(FORMAT))
        {
            return Err(CannotRead::Format(format));
        }
        let mut head: Head = serde_json::from_slice(first).map_err(wrong_in(0))?;
        head.manifest = head.manifest.checked()?;
        seed(&head.random_seed).ok_or(CannotRead::Seed)?;
        head.task.task(head.manifest.agent.name.clone())?;
        let mut rest: Vec<_> = lines.collect();
        let (last_line, last) = rest.pop().ok_or(CannotRead::NotWhole)?;
        let end = match serde_json::from_slice::<End>(last) {
            Ok(end) => end,
            Err(_) if serde_json::from_slice::<Call>(last).is_ok() => return Err(CannotRead::NotWhole),
            Err(source) => return Err(wrong_in(last_line)(source)),
        };
        let call = |(line, text): (usize, &[u8])| serde_json::from_slice::<Call>(text).map_err(wrong_in(line));
        Ok(Self { head, calls: rest.into_iter().map(call).collect::<Result<_, _>>()?, end })
    }

    /// Where its random numbers begin.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        seed(&self.head.random_seed).unwrap_or_default()
    }
}

fn wrong_in(index: usize) -> impl Fn(serde_json::Error) -> CannotRead {
    move |source| CannotRead::Line { line: index.saturating_add(1), source }
}

fn seed(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let at = index.checked_mul(2)?;
        *byte = u8::from_str_radix(text.get(at..at.checked_add(2)?)?, 16).ok()?;
    }
    Some(bytes)
}
