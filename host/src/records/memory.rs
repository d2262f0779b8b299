//! Records in process, for a host without a database: gone when it stops.
//!
//! The same rules as in PostgreSQL, and one limit more, because memory is small: past [`MemoryLimits::bytes_max`] the
//! oldest ended tasks are forgotten early.

mod leaving;
mod search;
#[cfg(test)]
mod tests;

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::leaving::Leaving;
use super::follow::Followers;
use super::{
    Cancelled, Ended, Ending, IdHolder, Inbox, NewTask, Progress, Queued, RETENTION_DEFAULT, RUNS_KEPT_MAX, Records,
    RecordsError, Status, TaskCursor, TaskFilter, TaskLog, TaskPage, TaskRecord, TaskRecords, UNFINISHED_RETENTION,
    Update, order,
};
use crate::task::{TaskId, UnixMs};

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// How long a record is kept after its task's end.
    pub retention: Duration,
    /// Bytes that all records together may take, outputs included. Beyond, the tasks that ended first are forgotten;
    /// with none left to forget, no more are taken.
    pub bytes_max: usize,
}

impl Default for MemoryLimits {
    /// 24 hours, and 64 MiB: an eighth of the process's default budget, and some 100,000 records without outputs.
    fn default() -> Self {
        Self { retention: RETENTION_DEFAULT, bytes_max: 64 << 20 }
    }
}

/// The map is split this often, so that tasks on different threads seldom meet at a lock.
const SHARDS: usize = 16;

/// How often a shard is searched for unfinished tasks that nobody will finish any more.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Task records in process memory.
#[derive(Debug)]
pub struct MemoryRecords {
    limits: MemoryLimits,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// Ended tasks, those that ended first in front.
    ended: Mutex<VecDeque<(Instant, TaskId)>>,
    bytes: AtomicUsize,
    followers: Followers,
    leaving: Leaving,
    suspects: Mutex<HashMap<String, u32>>,
}

#[derive(Debug)]
struct Shard {
    kept: HashMap<TaskId, Kept>,
    swept_at: Instant,
}

#[derive(Debug)]
struct Kept {
    record: TaskRecord,
    /// What its runs said, the oldest in front.
    logs: VecDeque<TaskLog>,
    body_sha256: Option<[u8; 32]>,
    /// Somebody else was told that it is known, so it may not be withdrawn.
    shared: bool,
    changed_at: Instant,
}

impl Kept {
    /// Of a record that is new.
    fn new(record: TaskRecord, body_sha256: Option<[u8; 32]>) -> Self {
        Self { record, logs: VecDeque::new(), body_sha256, shared: false, changed_at: Instant::now() }
    }

    /// Bytes that it holds.
    fn weight(&self) -> usize {
        order::weight(&self.record) + self.logs.iter().map(TaskLog::weight).sum::<usize>()
    }
}

impl Default for MemoryRecords {
    fn default() -> Self {
        Self::new(MemoryLimits::default())
    }
}

/// Nothing left to forget.
#[derive(Debug, thiserror::Error)]
#[error("the records of unfinished tasks fill the {bytes_max} bytes that records in process may take")]
struct Full {
    bytes_max: usize,
}

impl MemoryRecords {
    /// No records, to be kept within these limits.
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Self {
        let shard = || Mutex::new(Shard { kept: HashMap::new(), swept_at: Instant::now() });
        Self {
            limits,
            shards: std::array::from_fn(|_| shard()),
            hasher: RandomState::new(),
            ended: Mutex::default(),
            bytes: AtomicUsize::new(0),
            followers: Followers::default(),
            leaving: Leaving::default(),
            suspects: Mutex::default(),
        }
    }

    fn shard(&self, id: &TaskId) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits are used")]
        let index = self.hasher.hash_one(id) as usize % SHARDS;
        #[expect(clippy::indexing_slicing, reason = "the remainder is below the array's length")]
        locked(&self.shards[index])
    }

    /// Forgets what is past its time, and the oldest ends while there is too much. Answers whether there is room then:
    /// to look at the bytes again would be to see what others have taken meanwhile, who may have left some to forget.
    fn forget(&self) -> bool {
        loop {
            let (ended_at, id) = {
                let mut ended = locked(&self.ended);
                let too_much = self.bytes.load(Ordering::Relaxed) > self.limits.bytes_max;
                let due = |(at, _): &(Instant, TaskId)| too_much || at.elapsed() >= self.limits.retention;
                match ended.pop_front_if(|oldest| due(oldest)) {
                    Some(oldest) => oldest,
                    None => return !too_much,
                }
            };
            let mut shard = self.shard(&id);
            if let Entry::Occupied(entry) = shard.kept.entry(id)
                && entry.get().changed_at <= ended_at
            {
                self.bytes.fetch_sub(entry.remove().weight(), Ordering::Relaxed);
            }
        }
    }

    fn queue(&self, task: &NewTask) -> Queued {
        let mut shard = self.shard(&task.id);
        self.sweep(&mut shard);
        match shard.kept.entry(task.id.clone()) {
            Entry::Occupied(mut entry) => {
                let kept = entry.get_mut();
                if kept.body_sha256.is_some_and(|known| known != task.body_sha256) {
                    return Queued::Conflict;
                }
                kept.shared = true;
                Queued::Known(kept.record.status)
            }
            Entry::Vacant(entry) => {
                let record = TaskRecord::from(task);
                self.bytes.fetch_add(order::weight(&record), Ordering::Relaxed);
                self.followers.changed(&record);
                entry.insert(Kept::new(record, Some(task.body_sha256)));
                Queued::New
            }
        }
    }

    fn sweep(&self, shard: &mut Shard) {
        if shard.swept_at.elapsed() < SWEEP_EVERY {
            return;
        }
        shard.swept_at = Instant::now();
        shard.kept.retain(|_, kept| {
            let stays = kept.record.status.is_terminal() || kept.changed_at.elapsed() < UNFINISHED_RETENTION;
            if !stays {
                self.bytes.fetch_sub(kept.weight(), Ordering::Relaxed);
            }
            stays
        });
    }

    /// Answers whether the change was made.
    fn change(&self, update: Update) -> bool {
        let change = TaskRecord::from(update);
        let id = change.id.clone();
        let ended = {
            let mut shard = self.shard(&id);
            match shard.kept.get_mut(&id) {
                None => {
                    self.bytes.fetch_add(order::weight(&change), Ordering::Relaxed);
                    self.followers.changed(&change);
                    let ended = change.status.is_terminal();
                    shard.kept.insert(id.clone(), Kept::new(change, None));
                    ended
                }
                Some(kept) if order::supersedes(&change, &kept.record) => {
                    self.bytes.fetch_sub(order::weight(&kept.record), Ordering::Relaxed);
                    order::merge(&mut kept.record, &change);
                    kept.changed_at = Instant::now();
                    self.bytes.fetch_add(order::weight(&kept.record), Ordering::Relaxed);
                    self.followers.changed(&change);
                    kept.record.status.is_terminal()
                }
                Some(_) => return false,
            }
        };
        if ended {
            locked(&self.ended).push_back((Instant::now(), id));
            self.forget();
        }
        true
    }
}

#[async_trait::async_trait]
impl TaskRecords for MemoryRecords {
    async fn queued(&self, tasks: Vec<NewTask>) -> Result<Vec<Queued>, RecordsError> {
        if !self.forget() {
            let bytes_max = self.limits.bytes_max;
            return Err(RecordsError { action: "written", is_passing: true, source: Box::new(Full { bytes_max }) });
        }
        Ok(tasks.iter().map(|task| self.queue(task)).collect())
    }

    async fn withdraw(&self, ids: Vec<TaskId>) -> Result<(), RecordsError> {
        for id in ids {
            let mut shard = self.shard(&id);
            let may_go = |kept: &Kept| kept.record.status == Status::Queued && !kept.shared;
            if shard.kept.get(&id).is_some_and(may_go) {
                if let Some(kept) = shard.kept.remove(&id) {
                    self.bytes.fetch_sub(kept.weight(), Ordering::Relaxed);
                }
                self.followers.withdrawn(&id);
            }
        }
        Ok(())
    }

    async fn cancel(&self, id: &TaskId, at_ms: UnixMs) -> Result<Cancelled, RecordsError> {
        let known = self.shard(id).kept.get(id).map(|kept| kept.record.clone());
        let Some(record) = known else { return Ok(Cancelled::Unknown) };
        if self.change(order::cancelled(&record, at_ms)) {
            return Ok(Cancelled::Now);
        }
        let status = self.shard(id).kept.get(id).map(|kept| kept.record.status);
        Ok(status.map_or(Cancelled::Unknown, Cancelled::Finished))
    }

    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, RecordsError> {
        self.forget();
        Ok(self.shard(id).kept.get(id).map(|kept| kept.record.clone()))
    }

    async fn logs(&self, id: &TaskId) -> Result<Vec<TaskLog>, RecordsError> {
        self.forget();
        Ok(self.shard(id).kept.get(id).map(|kept| kept.logs.iter().cloned().collect()).unwrap_or_default())
    }

    async fn search(
        &self,
        filter: TaskFilter,
        after: Option<TaskCursor>,
        limit: u32,
    ) -> Result<TaskPage, RecordsError> {
        Ok(self.searched(&filter, after.as_ref(), limit))
    }

    fn follow(&self, id: &TaskId) -> watch::Receiver<Option<TaskRecord>> {
        // Under the shard's lock, so that no change falls between reading and following.
        let shard = self.shard(id);
        let known = shard.kept.get(id).map(|kept| kept.record.clone());
        self.followers.follow(id, known)
    }
}

#[async_trait::async_trait]
impl Inbox for MemoryRecords {
    fn note(&self, update: Update) {
        self.change(update);
    }

    fn note_progress(&self, id: &TaskId, progress: Progress) {
        let progress = order::storable_progress(progress);
        let mut shard = self.shard(id);
        if let Some(kept) = shard.kept.get_mut(id)
            && kept.record.status == Status::Running
        {
            self.bytes.fetch_sub(order::weight(&kept.record), Ordering::Relaxed);
            self.followers.progressed(id, &progress);
            kept.record.progress = Some(progress);
            self.bytes.fetch_add(order::weight(&kept.record), Ordering::Relaxed);
        }
    }

    fn note_log(&self, log: TaskLog) {
        let mut shard = self.shard(&log.task);
        let Some(kept) = shard.kept.get_mut(&log.task) else { return };
        self.bytes.fetch_add(log.weight(), Ordering::Relaxed);
        kept.logs.push_back(log);
        if kept.logs.len() > RUNS_KEPT_MAX
            && let Some(first) = kept.logs.pop_front()
        {
            self.bytes.fetch_sub(first.weight(), Ordering::Relaxed);
        }
    }

    async fn finished(&self, ending: &Ending) -> Result<Ended, RecordsError> {
        if !self.change(ending.update.clone()) {
            return Ok(Ended::Before);
        }
        if let Some(log) = &ending.log {
            self.note_log(log.clone());
        }
        self.leaving.add(ending.outgoing.clone());
        if let Some(letter) = &ending.dead_letter {
            self.leaving.list(letter.clone());
        }
        Ok(Ended::Now)
    }

    fn was_finished(&self, update: &Update) {
        self.change(update.clone());
    }

    async fn ended(&self, id: &TaskId, generation: u32) -> Result<Option<TaskRecord>, RecordsError> {
        let shard = self.shard(id);
        let record = shard.kept.get(id).map(|kept| &kept.record);
        Ok(record.filter(|record| order::has_ended(record, generation)).cloned())
    }

    async fn holder(&self, id: &TaskId) -> Result<Option<IdHolder>, RecordsError> {
        let holder = |Kept { record, .. }: &Kept| IdHolder {
            agent: record.agent.clone(),
            enqueued_at_ms: record.enqueued_at_ms,
            has_ended: record.status.is_terminal(),
        };
        Ok(self.shard(id).kept.get(id).map(holder))
    }

    async fn cancelled(&self, ids: Vec<TaskId>) -> Result<Vec<TaskId>, RecordsError> {
        let is_cancelled =
            |id: &TaskId| self.shard(id).kept.get(id).is_some_and(|kept| kept.record.status == Status::Cancelled);
        Ok(ids.into_iter().filter(is_cancelled).collect())
    }

    async fn suspect_begins(&self, message: &str) -> Result<u32, RecordsError> {
        let mut suspects = locked(&self.suspects);
        let runs = suspects.entry(message.to_owned()).or_default();
        *runs += 1;
        Ok(*runs - 1)
    }

    async fn suspect_ends(&self, message: &str) -> Result<(), RecordsError> {
        locked(&self.suspects).remove(message);
        Ok(())
    }
}

#[async_trait::async_trait]
impl Records for MemoryRecords {
    async fn close(&self) {}
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
