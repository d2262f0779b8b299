//! Looking through the tasks.

use super::{MemoryRecords, locked};
use crate::records::{TaskCursor, TaskFilter, TaskPage, TaskRecord};

impl MemoryRecords {
    pub(super) fn searched(&self, filter: &TaskFilter, after: Option<&TaskCursor>, limit: u32) -> TaskPage {
        let place = |record: &TaskRecord| TaskCursor {
            at: i64::try_from(record.enqueued_at_ms).unwrap_or(i64::MAX),
            id: record.id.clone(),
        };
        let is_meant = |record: &TaskRecord| {
            filter.agent.as_ref().is_none_or(|agent| record.agent == *agent)
                && filter.status.is_none_or(|status| record.status == status)
                && after.is_none_or(|after| {
                    let place = place(record);
                    (place.at, &place.id) < (after.at, &after.id)
                })
        };
        let mut tasks = Vec::new();
        for shard in &self.shards {
            let shard = locked(shard);
            let meant = shard.kept.values().map(|kept| &kept.record).filter(|record| is_meant(record));
            tasks.extend(meant.map(|record| TaskRecord { output: None, ..record.clone() }));
        }
        tasks.sort_unstable_by(|a, b| (b.enqueued_at_ms, &b.id).cmp(&(a.enqueued_at_ms, &a.id)));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_last = tasks.len() <= limit;
        tasks.truncate(limit);
        let next = if is_last { None } else { tasks.last().map(place) };
        TaskPage { tasks, next }
    }
}
