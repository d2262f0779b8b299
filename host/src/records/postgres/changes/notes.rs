//! The writer of notes, which nobody waits for, and of the ends that have to wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::{Lane, Pending, Statement, statements};
use crate::records::postgres::link::{Fault, Work};
use crate::records::postgres::logs::Keep;
use crate::records::postgres::noted::Noted;
use crate::records::{Progress, TaskLog};
use crate::task::TaskId;

/// How often notes that have been kept back long enough are looked for, and ends that had to wait are tried again.
const NOTES_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(in crate::records::postgres) struct NotesWriter {
    pub(in crate::records::postgres) lane: Lane,
    pub(in crate::records::postgres) noted: Arc<Noted>,
    /// Ends whose rows somebody else holds; closed by the writer of ends when it is done.
    pub(in crate::records::postgres) stuck: mpsc::UnboundedReceiver<Statement>,
}

impl NotesWriter {
    /// Writes until the writer of ends is done, and then every note and every end that somebody still waits for.
    pub(in crate::records::postgres) async fn run(mut self) {
        let mut stuck = Vec::new();
        loop {
            tokio::time::sleep(NOTES_EVERY).await;
            let is_over = loop {
                match self.stuck.try_recv() {
                    Ok(end) => stuck.push(end),
                    Err(TryRecvError::Empty) => break false,
                    Err(TryRecvError::Disconnected) => break true,
                }
            };
            let (mut changes, mut progress) = (Vec::new(), Vec::new());
            for (id, note) in self.noted.take(is_over) {
                changes.extend(note.change.map(Pending::note));
                progress.extend(note.progress.map(|progress| (id, progress)));
            }
            self.lane.write(statements(changes)).await;
            if !progress.is_empty() {
                self.write_progress(progress).await;
            }
            let logs = self.noted.take_logs();
            if !logs.is_empty() {
                self.write_logs(logs, is_over).await;
            }
            stuck = self.lane.write(stuck).await;
            if is_over && stuck.is_empty() {
                return;
            }
        }
    }

    /// Writes what runs said, later where the database is away.
    async fn write_logs(&mut self, logs: Vec<TaskLog>, is_over: bool) {
        let Err(fault) = self.lane.link.attempt(&Keep { logs: &logs }).await else { return };
        let dropped = match fault {
            Fault::Passing | Fault::Locked if !is_over => {
                logs.into_iter().map(|log| self.noted.log(log)).filter(|kept| !kept).count()
            }
            _ => logs.len(),
        };
        if dropped > 0 {
            tracing::warn!(runs = dropped, "task records: what runs said is not written");
            self.lane.notes_dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        }
    }

    async fn write_progress(&mut self, progress: Vec<(TaskId, Progress)>) {
        if let Err(fault) = self.lane.link.attempt(&ProgressUpdate { progress: &progress }).await {
            tracing::warn!(?fault, tasks = progress.len(), "task records: progress is not written");
            self.lane.notes_dropped.fetch_add(progress.len() as u64, Ordering::Relaxed);
        }
    }
}

struct ProgressUpdate<'a> {
    progress: &'a [(TaskId, Progress)],
}

impl Work for ProgressUpdate<'_> {
    type Answer = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Not of tasks whose rows are held: they are ending.
        const UPDATE: &str = "
            WITH free AS (
                SELECT id FROM tasks WHERE id = ANY($1) AND status = 1 FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE tasks AS t SET progress_fraction = p.fraction, progress_note = p.note, updated_at = now()
            FROM free JOIN unnest($1::text[], $2::real[], $3::text[]) AS p (id, fraction, note) USING (id)
            WHERE t.id = free.id";
        sqlx::query(UPDATE)
            .bind(self.progress.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
            .bind(self.progress.iter().map(|(_, progress)| progress.fraction).collect::<Vec<_>>())
            .bind(self.progress.iter().map(|(_, progress)| progress.note.as_str()).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }

    fn bytes(&self) -> usize {
        self.progress.iter().map(|(_, progress)| progress.note.len()).sum()
    }
}
