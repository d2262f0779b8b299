//! Dead letters: listed by the records, held by the broker's queues.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Relay;
use crate::dead_letters::{DeadLetters, DeadLettersError, Opened, Redriven, Selection};
use crate::delivery::envelope::headers::GENERATION_MAX;
use crate::delivery::{Message, Route, envelope, outgoing};
use crate::records::{DeadLetter, DeadLetterCursor, DeadLetterFilter, DeadLetterList, Outgoing, Taken, outgoing_id};
use crate::task::{AgentName, TaskId, random_fraction, unix_ms_now};

/// Letters that one commit takes off the list.
const LETTERS_PER_COMMIT: u32 = 200;
/// Bytes of messages from which on a commit takes no more letters. They are in memory several times while they are read,
/// written anew and sent.
const COMMIT_BYTES: usize = 4 << 20;

/// How often letters that were taken off the list and were not found in their queue are looked for again.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The longest wait, in such rounds, for those of an agent of which none was found several times: an hour. A sweep goes
/// through the whole queue.
const SWEEP_ROUNDS_MAX: u32 = 60;

/// Looks after dead letters.
#[derive(Clone)]
pub struct DeadLetterOffice {
    relay: Relay,
    listed: Arc<dyn DeadLetterList>,
    /// One sweep at a time: it walks through a whole queue.
    sweeping: Arc<Mutex<()>>,
}

/// When an agent's queue is swept next.
#[derive(Debug, Default)]
pub(super) struct Pace {
    rounds_left: u32,
    rounds: u32,
}

impl Pace {
    /// Whether it is time, now that another round has begun.
    fn is_due(&mut self) -> bool {
        let is_due = self.rounds_left == 0;
        self.rounds_left = self.rounds_left.saturating_sub(1);
        is_due
    }

    /// After a sweep: twice as long, unless it was worth it.
    fn swept(&mut self, found_some: bool) {
        self.rounds = if found_some { 0 } else { (self.rounds * 2).clamp(1, SWEEP_ROUNDS_MAX) };
        self.rounds_left = self.rounds;
    }
}

impl DeadLetterOffice {
    /// An office for the letters of this list, which sends through this relay.
    #[must_use]
    pub fn new(relay: Relay, listed: Arc<dyn DeadLetterList>) -> Self {
        Self { relay, listed, sweeping: Arc::default() }
    }

    /// Removes letters that were taken off the list from their queues, until it is told to stop: those that a host took
    /// which died, which could not reach the broker, or which met another reader of the queue.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled_owned(self.sweep_for_ever()).await;
    }

    async fn sweep_for_ever(self) {
        let mut paces: HashMap<AgentName, Pace> = HashMap::new();
        // The hosts of a fleet were perhaps started together, and would meet in the queues.
        let first_at = tokio::time::Instant::now() + SWEEP_EVERY.mul_f64(random_fraction());
        let mut ticks = tokio::time::interval_at(first_at, SWEEP_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.relay.is_connected() {
                self.sweep_those_due(&mut paces).await;
            }
        }
    }

    /// One round.
    pub(super) async fn sweep_those_due(&self, paces: &mut HashMap<AgentName, Pace>) {
        let agents = match self.listed.agents_with_taken().await {
            Ok(agents) => agents,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "dead letters are not swept this time");
                return;
            }
        };
        paces.retain(|agent, _| agents.contains(agent));
        for agent in agents {
            let pace = paces.entry(agent.clone()).or_default();
            if pace.is_due() {
                pace.swept(self.sweep(&agent).await > 0);
            }
        }
    }

    /// Removes letters that were taken off the list from their queue, in the background.
    fn sweep_soon(&self, agent: AgentName) {
        let office = self.clone();
        tokio::spawn(async move { office.sweep(&agent).await });
    }

    /// Removes letters that were taken off the list from their queue. Answers how many there were.
    async fn sweep(&self, agent: &AgentName) -> usize {
        let _alone = self.sweeping.lock().await;
        match self.try_to_sweep(agent).await {
            Ok(removed) => removed,
            Err(error) => {
                tracing::warn!(%agent, error, "dead letters that were taken off the list still lie in their queue");
                0
            }
        }
    }

    async fn try_to_sweep(&self, agent: &AgentName) -> Result<usize, String> {
        let taken = self.listed.taken_dead_letters(agent).await.map_err(|error| error.to_string())?;
        if taken.is_empty() {
            return Ok(0);
        }
        let taken: HashSet<(String, u32)> =
            taken.into_iter().map(|(id, generation)| (id.to_string(), generation)).collect();
        let is_taken = |message: &Message| name(message).is_some_and(|name| taken.contains(&name));
        let removed =
            self.relay.broker.remove_dead_letters(agent, &is_taken).await.map_err(|error| error.to_string())?;
        // Those that were not met may be in the hands of another reader just now, or on their way; the next sweep looks
        // again.
        let named = removed.iter().filter_map(name);
        let named = named.filter_map(|(id, generation)| Some((id.parse().ok()?, generation))).collect();
        self.listed.forget_taken(named).await.map_err(|error| error.to_string())?;
        Ok(removed.len())
    }

    /// The letters of an agent behind the ones before, without their messages. Letters that come meanwhile were not meant:
    /// they are in front.
    async fn page(
        &self,
        agent: &AgentName,
        after: &mut Option<DeadLetterCursor>,
    ) -> Result<Option<Vec<DeadLetter>>, DeadLettersError> {
        let filter = DeadLetterFilter { agent: Some(agent.clone()) };
        let page = self.listed.dead_letters(filter, after.take(), LETTERS_PER_COMMIT).await?;
        *after = page.last().map(|last| DeadLetterCursor { failed_at_ms: last.failed_at_ms, id: last.id.clone() });
        Ok(Some(page).filter(|page| !page.is_empty()))
    }

    async fn redrive_all(&self, agent: &AgentName) -> Result<Redriven, DeadLettersError> {
        let mut sum = Redriven::default();
        let mut after = None;
        while let Some(page) = self.page(agent, &mut after).await? {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            for listed in page {
                let letter = self.listed.dead_letter(&listed.id).await?;
                // One that has failed again meanwhile was not meant either.
                let Some(letter) = letter.filter(|letter| letter.generation == listed.generation) else { continue };
                match redrive(&letter) {
                    Ok(outgoing) => {
                        bytes += outgoing.payload.len();
                        batch.push(taken(letter, Some(outgoing)));
                    }
                    Err(DeadLettersError::Unsendable { .. }) => sum.unsendable += 1,
                    Err(DeadLettersError::Unreadable { .. }) => sum.unreadable += 1,
                    Err(error @ DeadLettersError::Records(_)) => return Err(error),
                }
                if bytes >= COMMIT_BYTES {
                    sum.redriven += self.take(std::mem::take(&mut batch)).await?;
                    bytes = 0;
                }
            }
            sum.redriven += self.take(batch).await?;
        }
        Ok(sum)
    }

    async fn drop_all(&self, agent: &AgentName) -> Result<u64, DeadLettersError> {
        let mut dropped = 0;
        let mut after = None;
        while let Some(page) = self.page(agent, &mut after).await? {
            dropped += self.take(page.into_iter().map(|letter| taken(letter, None)).collect()).await?;
        }
        Ok(dropped)
    }

    /// Takes letters off the list and sends their tasks on their way. Answers how many were still listed.
    async fn take(&self, letters: Vec<Taken>) -> Result<u64, DeadLettersError> {
        if letters.is_empty() {
            return Ok(0);
        }
        let really = self.listed.take_dead_letters(letters.clone()).await?;
        let really: HashSet<TaskId> = really.into_iter().collect();
        let leaving = letters.into_iter().filter(|taken| really.contains(&taken.id)).filter_map(|taken| taken.redrive);
        // What cannot be sent now is sent later: it is in the outbox.
        self.relay.send(leaving.collect()).await;
        Ok(really.len() as u64)
    }
}

fn name(message: &Message) -> Option<(String, u32)> {
    Some((message.message_id.clone()?, envelope::generation(message)))
}

fn taken(letter: DeadLetter, redrive: Option<Outgoing>) -> Taken {
    Taken { id: letter.id, generation: letter.generation, redrive }
}

/// The message that has a letter's task run again. Refused here and now is what would never leave the outbox.
fn redrive(letter: &DeadLetter) -> Result<Outgoing, DeadLettersError> {
    let unsendable = |why| DeadLettersError::Unsendable { id: letter.id.clone(), why };
    let opened = open(letter.clone())?;
    let generation = letter.generation.saturating_add(1);
    if generation > GENERATION_MAX {
        let text = format!("its generation would be {generation}, expected at most {GENERATION_MAX}");
        return Err(unsendable(text));
    }
    let message = envelope::redriven(&opened.message, generation, unix_ms_now());
    envelope::check_size(&message).map_err(|error| unsendable(error.to_string()))?;
    let payload = outgoing::encode(&Route::Agent(letter.agent.clone()), &message);
    Ok(Outgoing { id: outgoing_id(), payload })
}

fn open(letter: DeadLetter) -> Result<Opened, DeadLettersError> {
    match outgoing::decode(&letter.message) {
        Ok((_, message)) => Ok(Opened { letter, message }),
        Err(_) => Err(DeadLettersError::Unreadable { id: letter.id }),
    }
}

#[async_trait::async_trait]
impl DeadLetters for DeadLetterOffice {
    async fn list(
        &self,
        agent: Option<AgentName>,
        after: Option<DeadLetterCursor>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, DeadLettersError> {
        Ok(self.listed.dead_letters(DeadLetterFilter { agent }, after, limit).await?)
    }

    async fn show(&self, id: &TaskId) -> Result<Option<Opened>, DeadLettersError> {
        self.listed.dead_letter(id).await?.map(open).transpose()
    }

    async fn recording(&self, id: &TaskId) -> Result<Option<Option<Bytes>>, DeadLettersError> {
        Ok(self.listed.recording(id).await?)
    }

    async fn redrive(&self, selection: Selection) -> Result<Redriven, DeadLettersError> {
        let (agent, redriven) = match selection {
            Selection::One(id) => {
                let Some(letter) = self.listed.dead_letter(&id).await? else { return Ok(Redriven::default()) };
                let (agent, outgoing) = (letter.agent.clone(), redrive(&letter)?);
                let redriven = self.take(vec![taken(letter, Some(outgoing))]).await?;
                (agent, Ok(Redriven { redriven, ..Redriven::default() }))
            }
            Selection::AllOf(agent) => {
                let redriven = self.redrive_all(&agent).await;
                (agent, redriven)
            }
        };
        // Also where it failed on the way.
        self.sweep_soon(agent);
        redriven
    }

    async fn drop(&self, selection: Selection) -> Result<u64, DeadLettersError> {
        let (agent, dropped) = match selection {
            Selection::One(id) => {
                let Some(letter) = self.listed.dead_letter(&id).await? else { return Ok(0) };
                let agent = letter.agent.clone();
                (agent, self.take(vec![taken(letter, None)]).await)
            }
            Selection::AllOf(agent) => {
                let dropped = self.drop_all(&agent).await;
                (agent, dropped)
            }
        };
        self.sweep_soon(agent);
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_in_which_nothing_is_found_is_swept_less_and_less_often() {
        let mut pace = Pace::default();
        let mut rounds_between = |found_some| {
            let waited = std::iter::repeat_with(|| pace.is_due()).take_while(|is_due| !is_due).count();
            pace.swept(found_some);
            waited
        };
        let waits: Vec<usize> = std::iter::repeat_with(|| rounds_between(false)).take(9).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!([rounds_between(true), rounds_between(false), rounds_between(false)], [60, 0, 1]);
    }
}
