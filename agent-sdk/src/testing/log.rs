//! Log lines: kept, and printed for whom the test fails.

use super::{Line, with};
pub(crate) use crate::bindings::wasi::logging::logging::Level;
use crate::log::Level as Ours;

pub(crate) fn log(level: Level, context: &str, message: &str) {
    let level = match level {
        Level::Trace => Ours::Trace,
        Level::Debug => Ours::Debug,
        Level::Info => Ours::Info,
        Level::Warn => Ours::Warn,
        Level::Error => Ours::Error,
        Level::Critical => Ours::Critical,
    };
    println!("{level:?} {context}: {message}");
    with(|state| state.lines.push(Line { level, context: context.to_owned(), message: message.to_owned() }));
}
