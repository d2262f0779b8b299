//! `wasi:logging/logging`.

use super::Level;
use crate::capability::View;
use crate::wit::capabilities::wasi::logging::logging::{Host, Level as Said};

impl Host for View<'_> {
    fn log(&mut self, level: Said, context: String, message: String) -> wasmtime::Result<()> {
        self.session.count_call();
        let level = match level {
            Said::Trace => Level::Trace,
            Said::Debug => Level::Debug,
            Said::Info => Level::Info,
            Said::Warn => Level::Warn,
            Said::Error => Level::Error,
            Said::Critical => Level::Critical,
        };
        self.session.log().line(level, &context, &message);
        Ok(())
    }
}
