//! How much of what clients send is held at the same time, and for how long.
//!
//! A submission holds a place and the bytes that it has sent so far until its task is published. Whoever finds no room
//! gets `429` at once: queueing inside the host would only hide the load from the client that makes it. The same goes for
//! time: where the submissions to an agent wait too long for their confirms, its further ones are shed until the wait is
//! over, because all that a request could do inside the host is wait behind them. Agent by agent, so that a queue that
//! confirms nothing (a quorum queue without a majority, say) leaves the intake of the others open.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Config;
use super::problem::{Kind, Problem};
use crate::memory::{Charge, MemoryLedger};
use crate::task::AgentName;
use crate::units::format_duration;

/// Bytes are accounted in these, so that a budget of any size fits a semaphore's 32-bit permits.
const UNIT_BYTES: u64 = 1 << 10;

/// Room for submissions.
pub(crate) struct Intake {
    requests: Arc<Semaphore>,
    units: Arc<Semaphore>,
    memory: MemoryLedger,
    wait_max: Duration,
    waiting: Arc<Mutex<Waiting>>,
}

/// When each submission began that waits for its record and its confirm.
#[derive(Default)]
struct Waiting {
    /// The number of the next one.
    next: u64,
    /// By agent and number: the smallest number has waited longest. Agents without any are not in it.
    since: HashMap<AgentName, BTreeMap<u64, Instant>>,
}

impl Waiting {
    fn begin(&mut self, agent: &AgentName, now: Instant) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.since.entry(agent.clone()).or_default().insert(number, now);
        number
    }

    fn end(&mut self, agent: &AgentName, number: u64) {
        if let Some(since) = self.since.get_mut(agent) {
            since.remove(&number);
            if since.is_empty() {
                self.since.remove(agent);
            }
        }
    }

    /// How long the agent's oldest submission has waited.
    fn longest(&self, agent: &AgentName, now: Instant) -> Option<Duration> {
        let (_, began) = self.since.get(agent)?.first_key_value()?;
        Some(now.saturating_duration_since(*began))
    }
}

/// The lock is held for one look or change, and nothing in there panics.
fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wait of one submission, until it is dropped.
pub(crate) struct Wait {
    waiting: Arc<Mutex<Waiting>>,
    agent: AgentName,
    number: u64,
}

impl Drop for Wait {
    fn drop(&mut self) {
        lock(&self.waiting).end(&self.agent, self.number);
    }
}

/// The room that one submission holds, until it is dropped.
pub(crate) struct Reservation {
    units: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    memory: MemoryLedger,
    charges: Vec<Charge>,
    charged_bytes: u64,
    _request: OwnedSemaphorePermit,
}

fn full() -> Problem {
    Problem::new(Kind::Busy, "the host holds as many unpublished tasks as it may; send the request again soon")
}

impl Intake {
    pub(crate) fn new(config: &Config, memory: MemoryLedger) -> Self {
        let units = config.intake_bytes_max.0.div_ceil(UNIT_BYTES);
        let units = usize::try_from(units).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let requests = usize::try_from(config.intake_requests_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            requests: Arc::new(Semaphore::new(requests)),
            units: Arc::new(Semaphore::new(units)),
            memory,
            wait_max: config.intake_wait_max,
            waiting: Arc::default(),
        }
    }

    /// Takes a place for a submission to this agent, or says that there is none.
    pub(crate) fn admit(&self, agent: &AgentName) -> Result<Reservation, Problem> {
        let longest = lock(&self.waiting).longest(agent, Instant::now());
        if longest.is_some_and(|waited| waited >= self.wait_max) {
            let wait_max = format_duration(self.wait_max);
            return Err(Problem::new(
                Kind::Busy,
                format!(
                    "submissions to agent {agent} have waited for {wait_max} and more to be recorded and confirmed; send the \
                     request again soon"
                ),
            ));
        }
        let request = Arc::clone(&self.requests).try_acquire_owned().map_err(|_| full())?;
        let (units, memory) = (Arc::clone(&self.units), self.memory.clone());
        Ok(Reservation { units, held: None, memory, charges: Vec::new(), charged_bytes: 0, _request: request })
    }

    /// Says that a submission to this agent waits from now on, until the answer is dropped.
    pub(crate) fn wait(&self, agent: &AgentName) -> Wait {
        let number = lock(&self.waiting).begin(agent, Instant::now());
        Wait { waiting: Arc::clone(&self.waiting), agent: agent.clone(), number }
    }
}

impl Reservation {
    /// Makes room for `bytes` in all.
    fn grow_to(&mut self, bytes: u64) -> Result<(), Problem> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = usize::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
        let Some(more) = wanted.checked_sub(held).filter(|more| *more > 0) else {
            return Ok(());
        };
        let more = u32::try_from(more).map_err(|_| full())?;
        self.charge_for(bytes);
        let more = Arc::clone(&self.units).try_acquire_many_owned(more).map_err(|_| full())?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }

    /// Accounts for `bytes` in all: for as much again where that does not do, since a body comes in small pieces.
    fn charge_for(&mut self, bytes: u64) {
        if let Some(more) = bytes.checked_sub(self.charged_bytes).filter(|more| *more > 0) {
            let more = more.max(self.charged_bytes);
            self.charges.push(self.memory.charge(more));
            self.charged_bytes += more;
        }
    }

    /// Reads a request body of at most `bytes_max`, making room for it as it arrives.
    pub(crate) async fn read(&mut self, headers: &HeaderMap, body: Body, bytes_max: u64) -> Result<Bytes, Problem> {
        let too_large = || Problem::too_large("the body", bytes_max);
        let declared = content_length(headers);
        let mut chunks = body.into_data_stream();
        if declared.is_some_and(|bytes| bytes > bytes_max) {
            return Err(too_large());
        }
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        let mut bytes = 0u64;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Problem::bad_request(format!("the body could not be read: {error}")))?;
            bytes += chunk.len() as u64;
            if bytes > bytes_max {
                return Err(too_large());
            }
            self.grow_to(bytes)?;
            if first.is_empty() {
                // Nearly every body comes in one chunk and need not be copied.
                first = chunk;
                continue;
            }
            if all.is_empty() {
                all.reserve(
                    declared.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(first.len() + chunk.len()),
                );
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&chunk);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteSize;
    use axum::http::StatusCode;

    fn intake() -> Intake {
        let config = Config { intake_bytes_max: ByteSize(2 << 10), intake_requests_max: 2, ..Config::default() };
        Intake::new(&config, MemoryLedger::new(1 << 20, 1))
    }

    fn with_wait(intake_wait_max: Duration) -> Intake {
        Intake::new(&Config { intake_wait_max, ..Config::default() }, MemoryLedger::new(1 << 20, 1))
    }

    fn agent(name: &str) -> AgentName {
        AgentName::parse(name).unwrap()
    }

    /// A body that comes in chunks, written with `|` between them.
    fn chunked(chunks: &'static str) -> Body {
        let chunks: Vec<_> =
            chunks.split('|').map(|chunk| Ok::<_, std::io::Error>(Bytes::from_static(chunk.as_bytes()))).collect();
        Body::from_stream(futures::stream::iter(chunks))
    }

    async fn read(intake: &Intake, body: Body, bytes_max: u64) -> Result<Bytes, StatusCode> {
        let mut reservation = intake.admit(&agent("echo")).map_err(|problem| problem.status())?;
        reservation.read(&HeaderMap::new(), body, bytes_max).await.map_err(|problem| problem.status())
    }

    #[tokio::test]
    async fn a_body_in_any_number_of_chunks_is_read_whole() {
        let intake = intake();
        for (chunks, expected) in [("", ""), ("one", "one"), ("a||bc", "abc"), ("|x", "x")] {
            assert_eq!(read(&intake, chunked(chunks), 16).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn one_byte_too_many_is_refused_however_it_is_cut() {
        let intake = intake();
        assert_eq!(read(&intake, chunked("1234"), 4).await.unwrap(), "1234");
        assert_eq!(read(&intake, chunked("12345"), 4).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
        assert_eq!(read(&intake, chunked("12|34|5"), 4).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_comes_free_again() {
        let intake = intake();
        let mut first = intake.admit(&agent("echo")).unwrap();
        first.read(&HeaderMap::new(), Body::from(vec![0; 1_500]), 4_096).await.unwrap();
        let mut second = intake.admit(&agent("echo")).unwrap();
        assert!(intake.admit(&agent("echo")).is_err(), "a third place");
        let refused = second.read(&HeaderMap::new(), Body::from(vec![0; 10]), 4_096).await;
        assert_eq!(refused.unwrap_err().status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(intake.memory.accounts().reserved_bytes, 1_510, "in the account, refused or not, until it is gone");
        drop(first);
        assert_eq!(intake.memory.accounts().reserved_bytes, 10);
        assert!(second.read(&HeaderMap::new(), Body::from(vec![0; 2_048]), 4_096).await.is_ok());
    }

    #[test]
    fn the_oldest_wait_of_an_agent_counts_in_whatever_order_they_end() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let (echo, other) = (agent("echo"), agent("other"));
        let after = |seconds| start + Duration::from_secs(seconds);
        let numbers: Vec<u64> = (0..3).map(|second| waiting.begin(&echo, after(second))).collect();
        let longest = |waiting: &Waiting| waiting.longest(&echo, after(10)).map(|waited| waited.as_secs());
        assert_eq!((longest(&waiting), waiting.longest(&other, after(10))), (Some(10), None));
        waiting.end(&echo, numbers[1]);
        assert_eq!(longest(&waiting), Some(10));
        waiting.end(&echo, numbers[0]);
        assert_eq!(longest(&waiting), Some(8));
        waiting.end(&echo, numbers[2]);
        assert_eq!(longest(&waiting), None);
        assert!(waiting.since.is_empty(), "nothing is kept of an agent without submissions");
    }

    #[test]
    fn only_the_agent_whose_submissions_wait_too_long_is_shut_out() {
        let intake = with_wait(Duration::ZERO);
        let waits = [intake.wait(&agent("echo")), intake.wait(&agent("echo"))];
        let refused = intake.admit(&agent("echo")).map(|_| ()).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(intake.admit(&agent("other")).is_ok());
        drop(waits);
        assert!(intake.admit(&agent("echo")).is_ok());
        let patient = with_wait(Duration::MAX);
        let _waiting = patient.wait(&agent("echo"));
        assert!(patient.admit(&agent("echo")).is_ok());
    }
}
