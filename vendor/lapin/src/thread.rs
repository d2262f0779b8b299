use crate::Result;
use flume::Receiver;
use std::sync::{Arc, Mutex, MutexGuard};

/// Tells how the io loop ended.
pub(crate) type JoinHandle = Receiver<Result<()>>;
type Inner = Option<JoinHandle>;

#[derive(Clone)]
pub(crate) struct ThreadHandle(Arc<Mutex<Inner>>);

impl Default for ThreadHandle {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }
}

impl ThreadHandle {
    pub(crate) fn register(&self, handle: JoinHandle) {
        *self.lock_inner() = Some(handle);
    }

    fn take(&self) -> Option<JoinHandle> {
        self.lock_inner().take()
    }

    pub(crate) fn wait(&self) -> Result<()> {
        // The sender is gone without a word where the runtime is.
        self.take()
            .map_or(Ok(()), |handle| handle.recv().unwrap_or(Ok(())))
    }

    fn lock_inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
