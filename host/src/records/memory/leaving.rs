//! What leaves with the ends of tasks: messages that were not sent yet, and the list of dead letters.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use uuid::Uuid;

use super::MemoryRecords;
use crate::records::{
    DeadLetter, DeadLetterCursor, DeadLetterFilter, DeadLetterList, Outbox, Outgoing, RecordsError, Taken,
    UNSENT_AFTER, UNSENT_BYTES_MAX, UNSENT_CLAIM, order,
};
use crate::task::{AgentName, TaskId};

/// Bytes that the list of dead letters may take; beyond, those that failed first are forgotten. Their messages stay in the
/// broker's queue.
const LETTERS_BYTES_MAX: usize = 32 << 20;
/// What a letter takes beside its message and its reason.
const LETTER_BYTES: usize = 512;
/// Letters of which it is known that they were taken off the list, beyond which the first ones are forgotten and may stay in
/// the broker's queue: as many as the list can hold.
const TAKEN_MAX: usize = LETTERS_BYTES_MAX / LETTER_BYTES;
/// Messages that one call gives out, as in the database.
const UNSENT_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Leaving {
    outgoing: Mutex<HashMap<Uuid, (Outgoing, Instant)>>,
    letters: Mutex<Letters>,
}

#[derive(Debug, Default)]
struct Letters {
    listed: HashMap<TaskId, DeadLetter>,
    bytes: usize,
    /// Off the list, and perhaps still in the broker's queue; those taken first in front.
    taken: VecDeque<(AgentName, (TaskId, u32))>,
}

impl Leaving {
    fn outgoing(&self) -> MutexGuard<'_, HashMap<Uuid, (Outgoing, Instant)>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, outgoing: Vec<Outgoing>) {
        if outgoing.is_empty() {
            return;
        }
        let due_at = Instant::now() + UNSENT_AFTER;
        self.outgoing().extend(outgoing.into_iter().map(|outgoing| (outgoing.id, (outgoing, due_at))));
    }

    fn sent(&self, ids: &[Uuid]) {
        let mut outgoing = self.outgoing();
        for id in ids {
            outgoing.remove(id);
        }
    }

    fn unsent(&self) -> Vec<Outgoing> {
        let now = Instant::now();
        let mut outgoing = self.outgoing();
        let mut bytes: usize = 0;
        let mut unsent = Vec::new();
        for (outgoing, due_at) in outgoing.values_mut().filter(|(_, due_at)| *due_at <= now).take(UNSENT_MAX) {
            bytes = bytes.saturating_add(outgoing.payload.len());
            if bytes > UNSENT_BYTES_MAX && !unsent.is_empty() {
                break;
            }
            *due_at = now + UNSENT_CLAIM;
            unsent.push(outgoing.clone());
        }
        unsent
    }

    pub(super) fn list(&self, letter: DeadLetter) {
        let mut letters = self.locked();
        letters.bytes = letters.bytes.saturating_add(weight(&letter));
        if let Some(former) = letters.listed.insert(letter.id.clone(), letter) {
            letters.bytes = letters.bytes.saturating_sub(weight(&former));
        }
        while letters.bytes > LETTERS_BYTES_MAX {
            let first =
                letters.listed.values().min_by_key(|letter| letter.failed_at_ms).map(|letter| letter.id.clone());
            let Some(letter) = first.and_then(|id| letters.listed.remove(&id)) else { return };
            letters.bytes = letters.bytes.saturating_sub(weight(&letter));
        }
    }

    fn letters(&self, filter: &DeadLetterFilter, after: Option<&DeadLetterCursor>, limit: u32) -> Vec<DeadLetter> {
        let letters = self.locked();
        // The newest first, and of those of one moment the larger id first, as in the database.
        let comes_after = |letter: &&DeadLetter| {
            after.is_none_or(|after| (letter.failed_at_ms, &letter.id) < (after.failed_at_ms, &after.id))
        };
        let mut found: Vec<&DeadLetter> = letters
            .listed
            .values()
            .filter(|letter| filter.agent.as_ref().is_none_or(|agent| *agent == letter.agent))
            .filter(comes_after)
            .collect();
        found.sort_by(|a, b| (b.failed_at_ms, &b.id).cmp(&(a.failed_at_ms, &a.id)));
        let page = found.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX));
        page.map(|letter| DeadLetter { message: Bytes::new(), recording: None, ..letter.clone() }).collect()
    }

    fn letter(&self, id: &TaskId) -> Option<DeadLetter> {
        self.locked().listed.get(id).map(|letter| DeadLetter { recording: None, ..letter.clone() })
    }

    fn recording(&self, id: &TaskId) -> Option<Option<Bytes>> {
        self.locked().listed.get(id).map(|letter| letter.recording.clone())
    }

    /// Takes a letter off the list, if it is there in this generation.
    fn take(&self, id: &TaskId, generation: u32) -> Option<DeadLetter> {
        let mut letters = self.locked();
        if letters.listed.get(id)?.generation != generation {
            return None;
        }
        let letter = letters.listed.remove(id)?;
        letters.bytes = letters.bytes.saturating_sub(weight(&letter));
        letters.taken.push_back((letter.agent.clone(), (letter.id.clone(), generation)));
        if letters.taken.len() > TAKEN_MAX {
            letters.taken.pop_front();
        }
        Some(letter)
    }

    fn taken(&self, agent: &AgentName) -> Vec<(TaskId, u32)> {
        let letters = self.locked();
        letters.taken.iter().filter(|(of, _)| of == agent).map(|(_, letter)| letter.clone()).collect()
    }

    fn agents_with_taken(&self) -> Vec<AgentName> {
        let agents: HashSet<AgentName> = self.locked().taken.iter().map(|(agent, _)| agent.clone()).collect();
        agents.into_iter().collect()
    }

    fn forget_taken(&self, forgotten: &[(TaskId, u32)]) {
        let forgotten: HashSet<&(TaskId, u32)> = forgotten.iter().collect();
        self.locked().taken.retain(|(_, letter)| !forgotten.contains(letter));
    }
}

fn weight(letter: &DeadLetter) -> usize {
    let recording = letter.recording.as_ref().map_or(0, Bytes::len);
    LETTER_BYTES + letter.message.len() + letter.error_message.len() + recording
}

#[async_trait::async_trait]
impl Outbox for MemoryRecords {
    fn sent(&self, ids: Vec<Uuid>) {
        self.leaving.sent(&ids);
    }

    async fn unsent(&self) -> Result<Vec<Outgoing>, RecordsError> {
        Ok(self.leaving.unsent())
    }
}

#[async_trait::async_trait]
impl DeadLetterList for MemoryRecords {
    async fn dead_letters(
        &self,
        filter: DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, RecordsError> {
        Ok(self.leaving.letters(&filter, after.as_ref(), limit))
    }

    async fn dead_letter(&self, id: &TaskId) -> Result<Option<DeadLetter>, RecordsError> {
        Ok(self.leaving.letter(id))
    }

    async fn recording(&self, id: &TaskId) -> Result<Option<Option<Bytes>>, RecordsError> {
        Ok(self.leaving.recording(id))
    }

    async fn take_dead_letters(&self, taken: Vec<Taken>) -> Result<Vec<TaskId>, RecordsError> {
        let mut really = Vec::new();
        for taken in taken {
            let Some(letter) = self.leaving.take(&taken.id, taken.generation) else { continue };
            if let Some(outgoing) = taken.redrive {
                self.change(order::redriven(&letter));
                self.leaving.add(vec![outgoing]);
            }
            really.push(taken.id);
        }
        Ok(really)
    }

    async fn taken_dead_letters(&self, agent: &AgentName) -> Result<Vec<(TaskId, u32)>, RecordsError> {
        Ok(self.leaving.taken(agent))
    }

    async fn agents_with_taken(&self) -> Result<Vec<AgentName>, RecordsError> {
        Ok(self.leaving.agents_with_taken())
    }

    async fn forget_taken(&self, letters: Vec<(TaskId, u32)>) -> Result<(), RecordsError> {
        self.leaving.forget_taken(&letters);
        Ok(())
    }
}
