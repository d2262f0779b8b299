//! The price tag of a run: what it used, and limits that would fit.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Port, Ran};
use crate::manifest::{Limits, Manifest, OUTPUT_BYTES_MAX, TIMEOUT_MAX};
use crate::units::{ByteSize, format_duration};

/// How much room a fitting limit leaves over what was seen: other inputs need more, and so do busier machines. Memory is
/// what an input decides; times are what a machine decides.
const MEMORY_ROOM: u64 = 2;
const TIME_ROOM: u32 = 10;
const BYTES_ROOM: u64 = 4;
/// The least that is proposed.
const MEMORY_MIN: ByteSize = ByteSize(1 << 20);
const BYTES_MIN: ByteSize = ByteSize(16 << 10);
const CPU_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Limits that would fit a run, with some room.
pub(super) fn fitting(ran: &Ran, log_bytes: u64) -> Limits {
    let usage = &ran.completion.usage;
    let output = ran.completion.outcome.output().map_or(0, |output| output.body.len() as u64);
    let bytes = |seen: u64, room, min: ByteSize| {
        ByteSize(seen.saturating_mul(room).max(min.0).checked_next_power_of_two().unwrap_or(u64::MAX))
    };
    Limits {
        memory: bytes(usage.memory_bytes_peak, MEMORY_ROOM, MEMORY_MIN),
        cpu: round(Duration::from_micros(usage.cpu_us), CPU_MIN),
        timeout: round(Duration::from_micros(usage.wall_us), TIMEOUT_MIN).min(TIMEOUT_MAX),
        output: bytes(output, BYTES_ROOM, BYTES_MIN).min(OUTPUT_BYTES_MAX),
        log: bytes(log_bytes, BYTES_ROOM, BYTES_MIN),
        ..Limits::default()
    }
}

/// A time with room, as one would write it: 1, 2 or 5 of a power of ten.
fn round(seen: Duration, min: Duration) -> Duration {
    let wanted = seen.saturating_mul(TIME_ROOM).max(min);
    let steps = (0..10).flat_map(|power| [1_u64, 2, 5].map(|step| Duration::from_millis(step * 10_u64.pow(power))));
    steps.into_iter().find(|step| *step >= wanted).unwrap_or(wanted)
}

/// What a run used, for people.
pub(super) fn tag(ran: &Ran, manifest: &Manifest, log_bytes: u64) -> String {
    let usage = &ran.completion.usage;
    let limits = &manifest.limits;
    let mut text = String::new();
    let mut line = |what: &str, used: String, limit: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{what:<12}{used}{}{limit}", if limit.is_empty() { "" } else { " of " });
    };
    let shown = |micros: u64| format!("{:.1} ms", Duration::from_micros(micros).as_secs_f64() * 1_000.0);
    line("peak memory", amount(usage.memory_bytes_peak), limits.memory.to_string());
    line("guest cpu", shown(usage.cpu_us), format_duration(limits.cpu));
    line("wall clock", shown(usage.wall_us), format_duration(limits.timeout));
    if let Some(output) = ran.completion.outcome.output() {
        line("output", amount(output.body.len() as u64), limits.output.to_string());
    }
    line("log", format!("{} lines, {}", said(ran).count(), amount(log_bytes)), limits.log.to_string());
    line("host calls", usage.host_calls.to_string(), String::new());
    for (port, tally) in &ran.tallies {
        let (name, unit) = match port {
            Port::Sql => ("sql", "statements"),
            Port::KeyValue => ("key-value", "calls"),
            Port::Cache => ("cache", "calls"),
            Port::Http => ("http", "connections"),
        };
        let rows = if *port == Port::Sql { format!(", {} rows", tally.rows) } else { String::new() };
        let bytes = format!("{} out, {} in", amount(tally.bytes_out), amount(tally.bytes_in));
        line(name, format!("{} {unit}{rows}, {bytes}", tally.calls), String::new());
    }
    text
}

/// Limits that would fit, as a manifest has them.
pub(super) fn manifest_lines(limits: &Limits) -> String {
    format!(
        "[limits]\nmemory = \"{}\"\ntimeout = \"{}\"\ncpu = \"{}\"\noutput = \"{}\"\nlog = \"{}\"\n",
        limits.memory,
        format_duration(limits.timeout),
        format_duration(limits.cpu),
        limits.output,
        limits.log
    )
}

/// Bytes of what an agent has logged.
pub(super) fn log_bytes(ran: &Ran) -> u64 {
    said(ran).map(|line| line.text.len().saturating_add(line.context.len()) as u64).sum()
}

fn said(ran: &Ran) -> impl Iterator<Item = &super::LogLine> {
    ran.log.iter().filter(|line| line.is_the_agents)
}

/// Bytes as a person would say them.
fn amount(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    #[allow(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let found = UNITS.iter().find(|(_, size)| bytes >= *size).map(|(unit, size)| (unit, bytes as f64 / *size as f64));
    found.map_or_else(|| format!("{bytes} B"), |(unit, count)| format!("{count:.1} {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Completion, Outcome, Output, Usage};

    fn ran(usage: Usage, output: usize) -> Ran {
        let output = Output { body: vec![0; output].into(), ..Output::default() };
        let completion = Completion { usage, ..Completion::without_a_run(Outcome::Succeeded(Some(output))) };
        Ran { completion, tallies: Default::default(), injected: Vec::new(), log: Vec::new(), progress: None }
    }

    #[test]
    fn fitting_limits_have_room_and_are_round() {
        let usage = Usage { memory_bytes_peak: 3 << 20, cpu_us: 30_000, wall_us: 130_000, host_calls: 0 };
        let limits = fitting(&ran(usage, 100 << 10), 0);
        assert_eq!(limits.memory, ByteSize(8 << 20));
        assert_eq!(limits.cpu, Duration::from_millis(500));
        assert_eq!(limits.timeout, Duration::from_secs(2));
        assert_eq!(limits.output, ByteSize(512 << 10));
        assert_eq!(limits.log, BYTES_MIN);
        let lines = manifest_lines(&limits);
        let manifest = format!("manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\n{lines}");
        assert_eq!(Manifest::parse(&manifest).unwrap().limits, limits);
    }

    #[test]
    fn the_least_and_the_most_are_still_a_manifest() {
        for usage in [Usage::default(), Usage { cpu_us: u64::MAX, wall_us: u64::MAX, ..Usage::default() }] {
            let lines = manifest_lines(&fitting(&ran(usage, 15 << 20), 0));
            let manifest = format!("manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\n{lines}");
            assert!(Manifest::parse(&manifest).is_ok(), "{lines}");
        }
    }

    #[test]
    fn amounts_are_said_as_people_do() {
        assert_eq!([0, 1_023, 1_536, 5 << 20, 3 << 30].map(amount), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 GiB"]);
    }
}
