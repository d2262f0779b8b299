//! The threads that guests run on.

use tokio::runtime::{Handle, Runtime};

/// How many guests a thread goes on with before it looks for a new one, and before it looks at its timers and sockets. Each
/// keeps it for an epoch of 10 ms at most (`turns`); with tokio's defaults of up to 255 and 61, a burst of new ones that
/// compute could hold up a timer for half a second. A look at the timers after each guest costs nothing that shows.
const GUESTS_BEFORE_NEW: u32 = 4;
const GUESTS_BEFORE_TIMERS: u32 = 1;

/// The guests' threads. Dropping them does not wait: a guest may be in a bulk operation that nothing interrupts, and
/// nobody is left who wants its answer.
pub struct GuestThreads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl GuestThreads {
    /// As many as there are cores.
    ///
    /// # Errors
    /// The system gives none.
    pub fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("guest")
            .global_queue_interval(GUESTS_BEFORE_NEW)
            .event_interval(GUESTS_BEFORE_TIMERS)
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where to spawn what is to run on them.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
