//! The side that writes down.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;

use super::format::{End, Head, Readings, Recorded};
use super::redact::{Redactor, VALUE_BYTES_MIN};
use crate::memory::{Held, Holder};
use crate::secrets::Secret;

/// What one change of a clock's reading takes of a recording, about.
const READING_BYTES: usize = 16;

/// Writes down one run.
#[derive(Debug)]
pub(super) struct Writer {
    written: Mutex<Written>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Written {
    /// Calls, one a line. Secrets are still in there.
    lines: Vec<u8>,
    monotonic: Reading,
    wall: Reading,
    /// As the file has it.
    pollable_ready: Vec<u32>,
    exchanges: u64,
    used_files: bool,
    left_out: Option<String>,
    /// What the lines take of the task's memory.
    held: Held,
    /// Secrets that the run was given, by name.
    secrets: Vec<(String, Secret)>,
}

#[derive(Debug, Default)]
struct Reading {
    last: u64,
    readings: Vec<(u64, u32)>,
}

impl Reading {
    fn read(&mut self, now: u64) {
        match self.readings.last_mut() {
            Some((_, times)) if now == self.last && *times < u32::MAX => *times = times.saturating_add(1),
            // A wall clock may be set back: it wraps, and does so again when it is read.
            _ => self.readings.push((now.wrapping_sub(self.last), 1)),
        }
        self.last = now;
    }
}

/// A call that is under way. Dropped without an answer it was stopped, which is written down too.
pub(super) struct Asked<'a> {
    writer: &'a Writer,
    line: Vec<u8>,
}

/// Text with an end.
struct Bounded<'a> {
    text: &'a mut Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len().saturating_add(bytes.len()) > self.bytes_max {
            return Err(io::Error::other("full"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writer {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { written: Mutex::default(), bytes_max }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn account_to(&self, holder: &Holder) {
        self.written().held = holder.nothing();
    }

    /// Whether there is anything left to write into.
    fn is_full(&self) -> bool {
        self.written().left_out.is_some()
    }

    /// Begins a line; nothing where the recording is full.
    pub(super) fn asked(&self, call: &str, asked: &(impl Serialize + ?Sized)) -> Option<Asked<'_>> {
        if self.is_full() {
            return None;
        }
        let mut line = Vec::new();
        let mut bounded = Bounded { text: &mut line, bytes_max: self.bytes_max };
        let written = write!(bounded, "{{\"call\":\"{call}\",\"asked\":")
            .and_then(|()| serde_json::to_writer(&mut bounded, asked).map_err(io::Error::other));
        if written.is_err() {
            self.leave_out_the_rest(call);
            return None;
        }
        Some(Asked { writer: self, line })
    }

    /// Writes a line whose answer is there.
    pub(super) fn note(&self, call: &str, asked: &(impl Serialize + ?Sized), answered: &(impl Serialize + ?Sized)) {
        if let Some(begun) = self.asked(call, asked) {
            begun.answered(answered);
        }
    }

    fn leave_out_the_rest(&self, call: &str) {
        let size = crate::units::ByteSize(self.bytes_max as u64);
        self.written().leave_out(format!("{call} and what came after it: it would be more than record.size = {size}"));
    }

    fn push(&self, line: &[u8]) {
        let mut written = self.written();
        if written.left_out.is_some() {
            return;
        }
        let bytes = written.bytes().saturating_add(line.len());
        if bytes > self.bytes_max {
            drop(written);
            self.leave_out_the_rest("a call");
            return;
        }
        written.lines.extend_from_slice(line);
        let capacity = written.lines.capacity();
        if written.held.resize(capacity).is_err() {
            written.leave_out("what came after: the memory budget had no room for it".to_owned());
        }
    }

    /// Notes what a clock showed.
    pub(super) fn read(&self, clock: super::clocks::Which, now: u64) {
        let mut written = self.written();
        if written.left_out.is_some() {
            return;
        }
        match clock {
            super::clocks::Which::Monotonic => written.monotonic.read(now),
            super::clocks::Which::Wall => written.wall.read(now),
        }
        if written.bytes() > self.bytes_max {
            drop(written);
            self.leave_out_the_rest("a reading of a clock");
        }
    }

    /// Notes whether something that the agent looked at was ready.
    pub(super) fn note_ready(&self, is_ready: bool) {
        let mut written = self.written();
        if written.left_out.is_some() {
            return;
        }
        let runs = &mut written.pollable_ready;
        // Runs of "not ready" stand first, third, and so on; an empty one is where the first look found it ready.
        if runs.is_empty() && is_ready {
            runs.push(0);
        }
        let continues = !runs.is_empty() && is_ready == runs.len().is_multiple_of(2);
        match runs.last_mut().filter(|_| continues) {
            Some(times) => *times = times.saturating_add(1),
            None => runs.push(1),
        }
        if written.bytes() > self.bytes_max {
            drop(written);
            self.leave_out_the_rest("a look at what it waits for");
        }
    }

    /// The number of one more request over HTTP.
    pub(super) fn next_exchange(&self) -> u64 {
        let mut written = self.written();
        written.exchanges = written.exchanges.saturating_add(1);
        written.exchanges
    }

    pub(super) fn note_files(&self) {
        self.written().used_files = true;
    }

    /// A secret that is not to be in the recording.
    pub(super) fn knows(&self, name: &str, secret: &Secret) {
        let mut written = self.written();
        if !written.secrets.iter().any(|(known, value)| known == name && value == secret) {
            written.secrets.push((name.to_owned(), secret.clone()));
        }
    }

    /// The recording, without secrets. One that cannot be rid of them has nothing in it but why.
    pub(super) fn finish(&self, mut head: Head, came_of_it: Recorded) -> Vec<u8> {
        let Written { lines, monotonic, wall, pollable_ready, used_files, left_out, held: _held, secrets, .. } =
            std::mem::take(&mut *self.written());
        let too_short = secrets.iter().find(|(_, value)| (1..VALUE_BYTES_MIN).contains(&value.reveal().len()));
        let mut end = End {
            monotonic_ns: Readings(monotonic.readings),
            wall_ms: Readings(wall.readings),
            pollable_ready,
            used_files,
            came_of_it,
            left_out,
        };
        let redactor = Redactor::new(secrets.iter().map(|(name, value)| (name.as_str(), value.reveal())));
        if let Some((name, _)) = too_short {
            let why = format!(
                "the secret {name:?} has fewer than {VALUE_BYTES_MIN} bytes, and cannot be told from other text"
            );
            return withheld(head, why);
        }
        if head.task.body.len() > self.bytes_max {
            head.task.body.clear();
            let size = crate::units::ByteSize(self.bytes_max as u64);
            end.left_out = Some(format!("the task's body and all calls: it has more than record.size = {size}"));
            return file(&head, &[], &end, &Redactor::default()).unwrap_or_default();
        }
        match file(&head, &lines, &end, &redactor) {
            // Where a value stands that is no text, such as a number.
            Some(file) if redactor.is_empty() || std::str::from_utf8(&file).is_ok_and(|text| !redactor.is_in(text)) => {
                file
            }
            _ => withheld(head, "a secret's value is in there where it cannot be replaced".to_owned()),
        }
    }
}

impl Written {
    fn bytes(&self) -> usize {
        let readings = [self.monotonic.readings.len(), self.wall.readings.len(), self.pollable_ready.len()];
        let readings = readings.into_iter().fold(0, usize::saturating_add);
        self.lines.len().saturating_add(readings.saturating_mul(READING_BYTES))
    }

    fn leave_out(&mut self, what: String) {
        self.left_out.get_or_insert(what);
    }
}

impl Asked<'_> {
    pub(super) fn answered(mut self, answered: &(impl Serialize + ?Sized)) {
        let bytes_max = self.writer.bytes_max;
        let mut bounded = Bounded { text: &mut self.line, bytes_max };
        let written = bounded
            .write_all(b",\"answered\":")
            .and_then(|()| serde_json::to_writer(&mut bounded, answered).map_err(io::Error::other));
        if written.is_err() {
            self.line.clear();
            self.writer.leave_out_the_rest("an answer");
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.line.extend_from_slice(b"}\n");
            self.writer.push(&self.line);
        }
    }
}

/// A recording of nothing but why it is none. What a task is given may hold the secret too.
fn withheld(mut head: Head, why: String) -> Vec<u8> {
    let task = &mut head.task;
    task.body.clear();
    task.headers.clear();
    task.content_type.clear();
    (task.partition_key, task.traceparent) = (None, None);
    head.manifest.config.clear();
    head.manifest.agent.description.clear();
    head.manifest.command = None;
    let end = End {
        monotonic_ns: Readings::default(),
        wall_ms: Readings::default(),
        pollable_ready: Vec::new(),
        used_files: false,
        came_of_it: Recorded { outcome: String::new(), message: None, after_ms: None, follow_ups: Vec::new() },
        left_out: Some(format!("everything: {why}")),
    };
    file(&head, &[], &end, &Redactor::default()).unwrap_or_default()
}

fn file(head: &Head, lines: &[u8], end: &End, redactor: &Redactor) -> Option<Vec<u8>> {
    let mut file = Vec::with_capacity(lines.len());
    let mut line = |mut document: Value| {
        redactor.document(&mut document);
        serde_json::to_writer(&mut file, &document).ok()?;
        file.push(b'\n');
        Some(())
    };
    line(serde_json::to_value(head).ok()?)?;
    for text in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        line(serde_json::from_slice(text).ok()?)?;
    }
    line(serde_json::to_value(end).ok()?)?;
    Some(file)
}
