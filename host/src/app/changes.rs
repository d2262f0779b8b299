//! Files that change: told once they have been quiet for a while. What `dev` builds from and what a host deploys from a
//! folder are both watched by this.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Changes of files, gathered until somebody asks. A path is kept once, however often it changes.
pub(super) struct Changes {
    watcher: RecommendedWatcher,
    gathered: Arc<Gathered>,
}

#[derive(Default)]
struct Gathered {
    paths: Mutex<BTreeSet<PathBuf>>,
    some: Notify,
}

impl Gathered {
    fn paths(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The system gives out no (more) watchers.
    pub(super) fn new() -> notify::Result<Self> {
        let gathered = Arc::<Gathered>::default();
        let into = Arc::clone(&gathered);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event
                && !matches!(event.kind, notify::EventKind::Access(_))
            {
                into.paths().extend(event.paths);
                into.some.notify_one();
            }
        })?;
        Ok(Self { watcher, gathered })
    }

    /// Watches a folder, and what is in it.
    ///
    /// # Errors
    /// It is not there, or the system watches no more.
    pub(super) fn watch(&mut self, folder: &Path, mode: RecursiveMode) -> notify::Result<()> {
        self.watcher.watch(folder, mode)
    }

    /// Waits until something changes, and then until nothing has for `quiet`. Gives the paths that changed.
    pub(super) async fn next(&self, quiet: Duration) -> BTreeSet<PathBuf> {
        self.gathered.some.notified().await;
        while tokio::time::timeout(quiet, self.gathered.some.notified()).await.is_ok() {}
        std::mem::take(&mut *self.gathered.paths())
    }
}
