//! The side that answers from a recording.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::clocks::Which;
use super::format::{Readings, Recording};
use super::redact::{Redactor, stand_in};
use crate::secrets::Secret;

/// Calls over HTTP. Several requests may be under way at once, so that theirs have an order for each of them only.
pub(super) const HTTP: &str = "http.";

/// Answers the calls of one run.
pub(super) struct Player {
    recording: Arc<Recording>,
    at: Mutex<At>,
    over: CancellationToken,
    /// Values that are given to the agent in place of stand-ins.
    secrets: HashMap<String, Secret>,
    redactor: Redactor,
}

#[derive(Default)]
struct At {
    call: usize,
    exchanges: u64,
    /// By request and kind of call: the next one, as an index into all calls.
    of_exchange: HashMap<(u64, &'static str), usize>,
    monotonic: Place,
    wall: Place,
    /// Of the runs of `pollable_ready`: which one, and how far into it.
    ready: (usize, u32),
    over: Option<Over>,
}

#[derive(Default)]
struct Place {
    step: usize,
    times: u32,
    last: u64,
}

/// Why a replay did not go on.
#[derive(Clone, Debug, PartialEq)]
pub enum Over {
    /// It did something else than what was recorded.
    Differs(Box<Difference>),
    /// It did something when the recording was at its end; what it was.
    PastTheEnd(String),
    /// It came to the call during which the recorded run was stopped; its number, from 1.
    Stopped(usize),
    /// The recorded answer to this call, from 1, is none to such a call.
    Unreadable(usize),
}

/// A recorded answer.
pub(super) struct Answer<'a> {
    player: &'a Player,
    number: usize,
    answered: &'a Value,
}

impl Answer<'_> {
    /// It, where it is one to such a call: a file may be anybody's.
    pub(super) fn read<R: DeserializeOwned>(self) -> Option<R> {
        self.read_where(|_| true)
    }

    /// Likewise, where it may not be just any.
    pub(super) fn read_where<R: DeserializeOwned>(self, is_one: impl FnOnce(&R) -> bool) -> Option<R> {
        let read = R::deserialize(self.answered).ok().filter(is_one);
        if read.is_none() {
            self.player.end(&mut self.player.at(), Over::Unreadable(self.number));
        }
        read
    }
}

/// The first thing that was not as recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The call's number in the recording, from 1.
    pub number: usize,
    /// What was recorded.
    pub recorded: (String, Value),
    /// What was asked in its place; nothing where the run ended instead.
    pub asked: Option<(String, Value)>,
}

impl Player {
    pub(super) fn new(recording: Arc<Recording>, secrets: HashMap<String, Secret>) -> Self {
        let values = secrets.iter().map(|(name, secret)| (name.as_str(), secret.reveal()));
        Self {
            redactor: Redactor::new(values),
            recording,
            at: Mutex::default(),
            over: CancellationToken::new(),
            secrets,
        }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seed(&self) -> [u8; 32] {
        self.recording.seed()
    }

    /// Cancelled where the replay does not go on.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.over
    }

    /// Why it did not go on. The first reason counts.
    pub(super) fn over(&self) -> Option<Over> {
        self.at().over.clone()
    }

    fn end(&self, at: &mut At, over: Over) {
        at.over.get_or_insert(over);
        self.over.cancel();
    }

    /// The answer to a call; nothing where the replay is over.
    pub(super) fn answer(&self, call: &str, asked: &(impl Serialize + ?Sized)) -> Option<Answer<'_>> {
        let mut at = self.at();
        let is_next = |index: &usize| self.recording.calls.get(*index).is_some_and(|next| !next.call.starts_with(HTTP));
        let next = (at.call..self.recording.calls.len()).find(is_next);
        let Some(index) = next else {
            self.end(&mut at, Over::PastTheEnd(call.to_owned()));
            return None;
        };
        at.call = index.saturating_add(1);
        self.answer_of(&mut at, index, call, asked)
    }

    /// The number of one more request over HTTP.
    pub(super) fn next_exchange(&self) -> u64 {
        let mut at = self.at();
        at.exchanges = at.exchanges.saturating_add(1);
        at.exchanges
    }

    /// The next answer to this kind of call of a request.
    pub(super) fn answer_of_exchange(
        &self,
        exchange: u64,
        call: &'static str,
        asked: &(impl Serialize + ?Sized),
    ) -> Option<Answer<'_>> {
        let mut at = self.at();
        let Some(index) = self.next_of_exchange(&mut at, exchange, call) else {
            self.end(&mut at, Over::PastTheEnd(call.to_owned()));
            return None;
        };
        self.answer_of(&mut at, index, call, asked)
    }

    /// The next part of a response's body, where there is one.
    pub(super) fn next_part(&self, exchange: u64, call: &'static str) -> Option<Answer<'_>> {
        let mut at = self.at();
        let index = self.next_of_exchange(&mut at, exchange, call)?;
        let answered = self.recording.calls.get(index)?.answered.as_ref()?;
        Some(Answer { player: self, number: index.saturating_add(1), answered })
    }

    fn next_of_exchange(&self, at: &mut At, exchange: u64, call: &'static str) -> Option<usize> {
        let from = at.of_exchange.get(&(exchange, call)).copied().unwrap_or(0);
        let is_its =
            |next: &super::Call| next.call == call && next.asked.get(0).and_then(Value::as_u64) == Some(exchange);
        let index =
            (from..self.recording.calls.len()).find(|index| self.recording.calls.get(*index).is_some_and(is_its))?;
        at.of_exchange.insert((exchange, call), index.saturating_add(1));
        Some(index)
    }

    /// What becomes of a request whose answer is not there: the agent went on without it, or the run was stopped.
    pub(super) fn unanswered(&self, exchange: u64, call: &'static str) {
        let mut at = self.at();
        let number = at.of_exchange.get(&(exchange, call)).copied().unwrap_or(0);
        let end = &self.recording.end;
        if end.left_out.is_some() {
            self.end(&mut at, Over::PastTheEnd(format!("the answer to call {number}")));
        } else if end.came_of_it.is_from_outside() {
            self.end(&mut at, Over::Stopped(number));
        }
    }

    /// Holds what a request carried against all that the recorded one did, as far as that was written down.
    pub(super) fn carried(&self, exchange: u64, call: &'static str, body: &[u8]) {
        let mut at = self.at();
        let mut recorded = Vec::new();
        let mut first = None;
        while let Some(index) = self.next_of_exchange(&mut at, exchange, call) {
            let part = self.recording.calls.get(index).and_then(|call| call.asked.get(1).cloned()).unwrap_or_default();
            first.get_or_insert(index);
            let Ok(part) = super::forms::blob::deserialize(&part) else { break };
            recorded.extend(part);
        }
        let body = self.redacted_bytes(body);
        if let Some(index) = first.filter(|_| !body.starts_with(&recorded)) {
            let shown = |bytes: &[u8]| (call.to_owned(), Value::from(String::from_utf8_lossy(bytes)));
            let difference =
                Difference { number: index.saturating_add(1), recorded: shown(&recorded), asked: Some(shown(&body)) };
            self.end(&mut at, Over::Differs(Box::new(difference)));
        }
    }

    fn redacted_bytes(&self, body: &[u8]) -> Vec<u8> {
        let mut document = serde_json::to_value(super::forms::blob::Lent(body)).unwrap_or_default();
        self.redactor.document(&mut document);
        super::forms::blob::deserialize(&document).unwrap_or_default()
    }

    fn answer_of(
        &self,
        at: &mut At,
        index: usize,
        call: &str,
        asked: &(impl Serialize + ?Sized),
    ) -> Option<Answer<'_>> {
        let recorded = self.recording.calls.get(index)?;
        let number = index.saturating_add(1);
        let mut asked = serde_json::to_value(asked).unwrap_or_default();
        self.redactor.document(&mut asked);
        if recorded.call != call || recorded.asked != asked {
            let recorded = (recorded.call.clone(), recorded.asked.clone());
            let difference = Difference { number, recorded, asked: Some((call.to_owned(), asked)) };
            self.end(at, Over::Differs(Box::new(difference)));
            return None;
        }
        match &recorded.answered {
            Some(answered) => Some(Answer { player: self, number, answered }),
            None => {
                self.end(at, Over::Stopped(number));
                None
            }
        }
    }

    /// What a clock shows.
    pub(super) fn read(&self, clock: Which) -> u64 {
        let mut at = self.at();
        let (Readings(readings), place) = match clock {
            Which::Monotonic => (&self.recording.end.monotonic_ns, &mut at.monotonic),
            Which::Wall => (&self.recording.end.wall_ms, &mut at.wall),
        };
        match readings.get(place.step) {
            Some((more, times)) => {
                if place.times == 0 {
                    place.last = place.last.wrapping_add(*more);
                }
                place.times = place.times.saturating_add(1);
                if place.times >= *times {
                    (place.step, place.times) = (place.step.saturating_add(1), 0);
                }
                place.last
            }
            None => {
                let last = place.last;
                let which = if clock == Which::Wall { "the time of day" } else { "the monotonic clock" };
                self.end(&mut at, Over::PastTheEnd(format!("a reading of {which}")));
                last
            }
        }
    }

    /// Whether something that the agent looks at without waiting is ready; nothing where the replay is over.
    pub(super) fn is_ready(&self) -> Option<bool> {
        let mut at = self.at();
        let runs = &self.recording.end.pollable_ready;
        while let Some(times) = runs.get(at.ready.0) {
            if at.ready.1 < *times {
                at.ready.1 = at.ready.1.saturating_add(1);
                return Some(at.ready.0 % 2 == 1);
            }
            at.ready = (at.ready.0.saturating_add(1), 0);
        }
        self.end(&mut at, Over::PastTheEnd("a look at what it waits for".to_owned()));
        None
    }

    /// A secret of this length.
    pub(super) fn secret(&self, name: &str, bytes: usize) -> Secret {
        self.secrets.get(name).cloned().unwrap_or_else(|| Secret::new(stand_in(name, bytes)))
    }

    /// The first recorded call that was not asked for, where the run ended by itself.
    pub(super) fn left(&self) -> Option<Difference> {
        let at = self.at();
        let calls = self.recording.calls.iter().enumerate().skip(at.call);
        let (index, call) = calls.filter(|(_, call)| !call.call.starts_with(HTTP)).min_by_key(|(index, _)| *index)?;
        let recorded = (call.call.clone(), call.asked.clone());
        Some(Difference { number: index.saturating_add(1), recorded, asked: None })
    }

    /// A document as it would be recorded here.
    pub(super) fn redacted(&self, mut document: Value) -> Value {
        self.redactor.document(&mut document);
        document
    }
}

impl std::fmt::Debug for Player {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Player").finish_non_exhaustive()
    }
}
