//! `agent-sim replay`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{Cli, Exit, Failed, Format, data_dir, machine};
use crate::capability::recording::{Difference, Recorded, Recording};
use crate::capability::secrets::variable;
use crate::manifest::Manifest;
use crate::package::{MANIFEST_NAME, Package};
use crate::sim::fixtures::World;
use crate::sim::replay::secrets;
use crate::sim::{Agent, Machine, Recorder, Replayed, Verdict};
use crate::text::escaped;

/// Most bytes of a call's values that are shown, from a little before where two of them differ.
const SHOWN_BYTES: usize = 600;
/// What is shown of both before they differ.
const BEFORE_BYTES: usize = 60;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ReplayCommand {
    /// The recording, as `agent-host dead-letters recording` gives it
    recording: PathBuf,
    /// The folder of the agent to run, or its manifest [default: the current folder]
    #[arg(long, value_name = "PATH", conflicts_with = "module")]
    agent: Option<PathBuf>,
    /// A module to run under the recorded manifest, in place of an agent's folder
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// The folder that `grants.files` are folders of, for a run that used files: these are not recorded
    #[arg(long, value_name = "DIR")]
    files_root: Option<PathBuf>,
}

impl ReplayCommand {
    pub(super) async fn run(
        &self,
        cli: &Cli,
        guests: Handle,
        recorder: Recorder,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<Exit, Failed> {
        let path = self.recording.display().to_string();
        let text = std::fs::read(&self.recording).map_err(|error| Failed::Usage(format!("{path}: {error}")))?;
        let recording = Recording::read(&text).map_err(|source| Failed::Recording { path, source })?;
        if recording.end.used_files && self.files_root.is_none() {
            let text = "the recorded run had files, and files are not recorded: give a folder with what it needs as --files-root";
            return Err(Failed::Usage(text.to_owned()));
        }
        let recording = Arc::new(recording);
        let data = data_dir()?;
        let machine = machine(cli, &data, guests, recorder)?;
        let agent = self.agent(&machine, &recording).await?;
        let world = World::open(self.files_root.as_deref())?;
        let given = secrets(&agent, &world.secrets).await;
        let missing: Vec<String> = asked_for(&recording)
            .filter(|name| !given.contains_key(*name))
            .map(|name| variable(&agent.manifest.agent.name, name))
            .collect();
        let replayed = machine.replay(&agent, Arc::clone(&recording), given, &world).await?;
        match cli.format {
            Format::Text => tell(&recording, &agent, &replayed, &missing, (out, err))?,
            Format::Json => writeln!(out, "{}", document(&recording, &replayed))?,
        }
        Ok(if replayed.verdict.is_same() { Exit::Fine } else { Exit::NotFine })
    }

    async fn agent(&self, machine: &Machine, recording: &Recording) -> Result<Agent, Failed> {
        // Of an agent that did not ask for its folders: there are none here.
        let manifest = |mut manifest: Manifest| {
            if !recording.end.used_files {
                manifest.grants.files.clear();
            }
            manifest
        };
        if let Some(path) = &self.module {
            let module = std::fs::read(path).map_err(|error| Failed::Usage(format!("{}: {error}", path.display())))?;
            return Ok(machine.load_module(&module.into(), manifest(recording.head.manifest.clone())).await?);
        }
        let here = Path::new(".");
        let path = self.agent.as_deref().unwrap_or(here);
        if self.agent.is_none() && !here.join(MANIFEST_NAME).is_file() {
            let digest = &recording.head.digest;
            let text = format!(
                "no agent.toml here: name the agent's folder with --agent, or the module {digest} with --module"
            );
            return Err(Failed::Usage(text));
        }
        let mut package = Package::read(path)?;
        package.manifest = manifest(package.manifest);
        Ok(machine.load(&package).await?)
    }
}

/// The secrets that the recorded run was given, by name.
fn asked_for(recording: &Recording) -> impl Iterator<Item = &str> {
    let of_secrets = recording.calls.iter().filter(|call| call.call == "secrets.get");
    of_secrets.filter_map(|call| call.asked.get(0)?.as_str())
}

fn told(came_of_it: &Recorded) -> String {
    let message = came_of_it.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    format!("{}{message}", came_of_it.outcome)
}

fn tell(
    recording: &Recording,
    agent: &Agent,
    replayed: &Replayed,
    missing: &[String],
    (out, err): (&mut dyn Write, &mut dyn Write),
) -> std::io::Result<()> {
    for line in &replayed.log {
        writeln!(err, "{line}")?;
    }
    let head = &recording.head;
    if head.digest != replayed.digest {
        writeln!(err, "another module: recorded {}, here {}", head.digest, replayed.digest)?;
    }
    let mut manifest = head.manifest.clone();
    if !recording.end.used_files {
        manifest.grants.files.clear();
    }
    if manifest != *agent.manifest {
        writeln!(err, "another manifest than the recorded one")?;
    }
    for variable in missing {
        writeln!(err, "a stand-in for a secret: set {variable} to give the agent its value")?;
    }
    let then = &recording.end.came_of_it;
    let calls = recording.calls.len();
    match &replayed.verdict {
        Verdict::Same => writeln!(out, "same: {calls} calls, then {}", told(then)),
        Verdict::SameUntilStopped(place) => {
            writeln!(out, "same, up to where the recorded run was stopped from outside, {place}: {}", told(then))
        }
        Verdict::SameAsFarAsRecorded(left_out) => {
            writeln!(out, "same as far as it was recorded, which is not to the end. Left out: {left_out}")
        }
        Verdict::OtherCall(difference) => tell_difference(difference, &replayed.came_of_it, out),
        Verdict::OneMoreCall(asked) => {
            writeln!(out, "different after the last recorded call, {calls}\n  recorded: {}", told(then))?;
            writeln!(out, "  here:     {asked}")
        }
        Verdict::OtherEnd => {
            writeln!(out, "different at the end, after {calls} calls that are the same")?;
            writeln!(out, "  recorded: {}", told(then))?;
            writeln!(out, "  here:     {}", told(&replayed.came_of_it))?;
            if then.follow_ups != replayed.came_of_it.follow_ups {
                writeln!(out, "  and the tasks that it submitted are others")?;
            }
            Ok(())
        }
        Verdict::Unreadable(number) => {
            writeln!(out, "the recorded answer to call {number} cannot be read: another version of the host wrote it")
        }
    }
}

fn tell_difference(difference: &Difference, here: &Recorded, out: &mut dyn Write) -> std::io::Result<()> {
    let Difference { number, recorded: (call, asked), asked: other } = difference;
    writeln!(out, "different at call {number}")?;
    let recorded = asked.to_string();
    let Some((other_call, other)) = other else {
        writeln!(out, "  recorded: {call} {}", escaped(&recorded, SHOWN_BYTES))?;
        return writeln!(out, "  here:     the end, {}", told(here));
    };
    let other = other.to_string();
    let from = if call == other_call { shared(&recorded, &other) } else { 0 };
    writeln!(out, "  recorded: {call} {}", part(&recorded, from))?;
    writeln!(out, "  here:     {other_call} {}", part(&other, from))
}

/// Bytes at the beginning that both texts have in common, but for what is shown of them.
fn shared(one: &str, other: &str) -> usize {
    let same = one.char_indices().zip(other.chars()).take_while(|((_, a), b)| a == b).last();
    let same = same.map_or(0, |((index, _), _)| index);
    let mut from = same.saturating_sub(BEFORE_BYTES);
    while !one.is_char_boundary(from) {
        from = from.saturating_sub(1);
    }
    from
}

fn part(text: &str, from: usize) -> String {
    let shown = escaped(text.get(from..).unwrap_or(text), SHOWN_BYTES);
    if from == 0 { shown } else { format!("…{shown}") }
}

fn document(recording: &Recording, replayed: &Replayed) -> Value {
    let shown = |difference: &Difference| {
        let call = |(call, asked): &(String, Value)| json!({ "call": call, "asked": asked });
        json!({
            "number": difference.number,
            "recorded": call(&difference.recorded),
            "here": difference.asked.as_ref().map(call),
        })
    };
    let (verdict, detail) = match &replayed.verdict {
        Verdict::Same => ("same", Value::Null),
        Verdict::SameUntilStopped(place) => ("same-until-stopped", json!(place)),
        Verdict::SameAsFarAsRecorded(left_out) => ("same-as-far-as-recorded", json!(left_out)),
        Verdict::OtherCall(difference) => ("other-call", shown(difference)),
        Verdict::OneMoreCall(asked) => ("one-more-call", json!(asked)),
        Verdict::OtherEnd => ("other-end", Value::Null),
        Verdict::Unreadable(number) => ("unreadable", json!(number)),
    };
    let log: Vec<String> = replayed.log.iter().map(ToString::to_string).collect();
    json!({
        "verdict": verdict,
        "detail": detail,
        "calls": recording.calls.len(),
        "recorded": recording.end.came_of_it,
        "here": replayed.came_of_it,
        "digest": { "recorded": recording.head.digest, "here": replayed.digest },
        "log": log,
    })
}
