//! Dead letters: listed by the records, held by the broker's queues.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::Relay;
use crate::dead_letters::{DeadLetters, DeadLettersError, Opened, Selection};
use crate::delivery::{Broker, Message, Route, envelope, outgoing};
use crate::records::{DeadLetter, DeadLetterCursor, DeadLetterFilter, DeadLetterList, Outgoing, Taken, outgoing_id};
use crate::task::{AgentName, TaskId, unix_ms_now};

/// Letters that one commit takes off the list.
const LETTERS_PER_COMMIT: u32 = 200;

/// Looks after dead letters.
pub struct DeadLetterOffice {
    relay: Relay,
    listed: Arc<dyn DeadLetterList>,
    /// One sweep at a time: it walks through a whole queue.
    sweeping: Arc<Mutex<()>>,
}

/// What is to become of letters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Redriven,
    Dropped,
}

impl DeadLetterOffice {
    /// An office for the letters of this list, which sends through this relay.
    #[must_use]
    pub fn new(relay: Relay, listed: Arc<dyn DeadLetterList>) -> Self {
        Self { relay, listed, sweeping: Arc::default() }
    }

    async fn dispose(&self, selection: Selection, fate: Fate) -> Result<u64, DeadLettersError> {
        match selection {
            Selection::One(id) => {
                let Some(letter) = self.listed.dead_letter(&id).await? else { return Ok(0) };
                let agent = letter.agent.clone();
                let taken = self.take(vec![letter], fate).await?;
                self.sweep_soon(agent);
                Ok(taken)
            }
            Selection::AllOf(agent) => {
                let mut taken = 0;
                let mut after = None;
                loop {
                    let filter = DeadLetterFilter { agent: Some(agent.clone()) };
                    let page = self.listed.dead_letters(filter, after.take(), LETTERS_PER_COMMIT).await?;
                    let Some(last) = page.last() else { break };
                    // From here on in the list: letters that come meanwhile were not meant.
                    after = Some(DeadLetterCursor { failed_at_ms: last.failed_at_ms, id: last.id.clone() });
                    let mut letters = Vec::with_capacity(page.len());
                    for letter in page {
                        letters.extend(self.listed.dead_letter(&letter.id).await?);
                    }
                    taken += self.take(letters, fate).await?;
                }
                self.sweep_soon(agent);
                Ok(taken)
            }
        }
    }

    /// Takes letters off the list and sends their tasks on their way.
    async fn take(&self, letters: Vec<DeadLetter>, fate: Fate) -> Result<u64, DeadLettersError> {
        let mut taken = Vec::with_capacity(letters.len());
        for letter in letters {
            let redrive = match fate {
                Fate::Redriven => Some(redrive(&letter)?),
                Fate::Dropped => None,
            };
            taken.push(Taken { id: letter.id, generation: letter.generation, redrive });
        }
        let really = self.listed.take_dead_letters(taken.clone()).await?;
        let really: HashSet<TaskId> = really.into_iter().collect();
        let leaving = taken.into_iter().filter(|taken| really.contains(&taken.id)).filter_map(|taken| taken.redrive);
        // What cannot be sent now is sent later: it is in the outbox.
        self.relay.send(leaving.collect()).await;
        Ok(really.len() as u64)
    }

    /// Removes letters that were taken off the list from their queue, in the background.
    fn sweep_soon(&self, agent: AgentName) {
        let (broker, listed) = (Arc::clone(&self.relay.broker), Arc::clone(&self.listed));
        let sweeping = Arc::clone(&self.sweeping);
        tokio::spawn(async move {
            let _alone = sweeping.lock().await;
            if let Err(error) = sweep(&*broker, &*listed, &agent).await {
                tracing::warn!(%agent, error, "dead letters that were taken off the list still lie in their queue");
            }
        });
    }
}

async fn sweep(broker: &dyn Broker, listed: &dyn DeadLetterList, agent: &AgentName) -> Result<(), String> {
    let taken = listed.taken_dead_letters(agent).await.map_err(|error| error.to_string())?;
    if taken.is_empty() {
        return Ok(());
    }
    let taken: HashSet<(String, u32)> =
        taken.into_iter().map(|(id, generation)| (id.to_string(), generation)).collect();
    let is_taken = |message: &Message| name(message).is_some_and(|name| taken.contains(&name));
    let removed = broker.remove_dead_letters(agent, &is_taken).await.map_err(|error| error.to_string())?;
    // Those that were not met may be in the hands of another reader just now; the next sweep looks again.
    let removed = removed.iter().filter_map(name).filter_map(|(id, generation)| Some((id.parse().ok()?, generation)));
    listed.forget_taken(removed.collect()).await.map_err(|error| error.to_string())
}

fn name(message: &Message) -> Option<(String, u32)> {
    Some((message.message_id.clone()?, envelope::generation(message)))
}

fn redrive(letter: &DeadLetter) -> Result<Outgoing, DeadLettersError> {
    let opened = open(letter.clone())?;
    let generation = letter.generation.saturating_add(1);
    let message = envelope::redriven(&opened.message, generation, unix_ms_now());
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

    async fn redrive(&self, selection: Selection) -> Result<u64, DeadLettersError> {
        self.dispose(selection, Fate::Redriven).await
    }

    async fn drop(&self, selection: Selection) -> Result<u64, DeadLettersError> {
        self.dispose(selection, Fate::Dropped).await
    }
}
