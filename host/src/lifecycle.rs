//! How the process stops, in stages.
//!
//! First signal: stop the intake, let running tasks finish within the grace period, interrupt the rest and hand them
//! back, flush, exit 0. Second signal: exit at once; whatever was unacknowledged is delivered again, so nothing is lost.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that stop the host.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Starts listening: from here on SIGINT and SIGTERM no longer end the process by themselves.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
