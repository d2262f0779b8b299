//! A double of the dead letters.

use super::*;

impl Doubles {
    fn is_meant(selection: &Selection, opened: &Opened) -> bool {
        match selection {
            Selection::One(id) => opened.letter.id == *id,
            Selection::AllOf(agent) => opened.letter.agent == *agent,
        }
    }

    fn letters(&self, action: &'static str) -> Result<std::sync::MutexGuard<'_, State>, DeadLettersError> {
        let state = self.lock();
        if state.records_fail {
            return Err(RecordsError { action, is_passing: true, source: away() }.into());
        }
        Ok(state)
    }
}

#[async_trait::async_trait]
impl DeadLetters for Doubles {
    async fn list(
        &self,
        agent: Option<AgentName>,
        after: Option<DeadLetterCursor>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, DeadLettersError> {
        let state = self.letters("read")?;
        let mut letters: Vec<_> = state.letters.iter().map(|opened| opened.letter.clone()).collect();
        letters.sort_by(|a, b| (b.failed_at_ms, &b.id).cmp(&(a.failed_at_ms, &a.id)));
        let meant = |letter: &DeadLetter| agent.as_ref().is_none_or(|agent| letter.agent == *agent);
        let is_behind = |letter: &DeadLetter| {
            after.as_ref().is_none_or(|after| (letter.failed_at_ms, &letter.id) < (after.failed_at_ms, &after.id))
        };
        letters.retain(|letter| meant(letter) && is_behind(letter));
        letters.truncate(usize::try_from(limit).unwrap());
        Ok(letters)
    }

    async fn show(&self, id: &TaskId) -> Result<Option<Opened>, DeadLettersError> {
        Ok(self.letters("read")?.letters.iter().find(|opened| opened.letter.id == *id).cloned())
    }

    async fn recording(&self, id: &TaskId) -> Result<Option<Option<bytes::Bytes>>, DeadLettersError> {
        let state = self.letters("read")?;
        Ok(state.letters.iter().find(|opened| opened.letter.id == *id).map(|opened| opened.letter.recording.clone()))
    }

    async fn redrive(&self, selection: Selection) -> Result<Redriven, DeadLettersError> {
        let mut state = self.letters("written")?;
        let unsendable = state.unsendable.clone();
        let is_unsendable = |id: &TaskId| unsendable.iter().any(|other| other == id.as_str());
        if let Selection::One(id) = &selection
            && is_unsendable(id)
        {
            let why = "its body has 2 bytes, expected at most 1".to_owned();
            return Err(DeadLettersError::Unsendable { id: id.clone(), why });
        }
        let is_meant = |opened: &Opened| Self::is_meant(&selection, opened);
        let left = state.letters.iter().filter(|opened| is_meant(opened) && is_unsendable(&opened.letter.id)).count();
        let taken = state.letters.extract_if(.., |opened| is_meant(opened) && !is_unsendable(&opened.letter.id));
        let taken: Vec<TaskId> = taken.map(|opened| opened.letter.id).collect();
        let redriven = taken.len() as u64;
        state.redriven.extend(taken);
        Ok(Redriven { redriven, unsendable: left as u64, unreadable: 0 })
    }

    async fn drop(&self, selection: Selection) -> Result<u64, DeadLettersError> {
        let mut state = self.letters("written")?;
        Ok(state.letters.extract_if(.., |opened| Self::is_meant(&selection, opened)).count() as u64)
    }
}
