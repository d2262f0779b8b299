//! Log lines. The host adds the agent, its revision, the task's id and the attempt, and caps their length and rate.
//!
//! The macros format like `format!`: `agent_sdk::info!("{count} votes")`. What the agent prints to standard output
//! and standard error is logged as well, at `info` and `warn`.

#[cfg(target_family = "wasm")]
use crate::bindings::wasi::logging::logging as raw;
#[cfg(not(target_family = "wasm"))]
use crate::testing::log as raw;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The values of variables, the flow of control.
    Trace,
    /// For whoever debugs the agent.
    Debug,
    /// For whoever watches it run.
    Info,
    /// Something is dangerous.
    Warn,
    /// Something failed.
    Error,
    /// Nothing works any more.
    Critical,
}

/// Logs a line. The context groups lines; the macros give the module's path.
pub fn log(level: Level, context: &str, message: &str) {
    let level = match level {
        Level::Trace => raw::Level::Trace,
        Level::Debug => raw::Level::Debug,
        Level::Info => raw::Level::Info,
        Level::Warn => raw::Level::Warn,
        Level::Error => raw::Level::Error,
        Level::Critical => raw::Level::Critical,
    };
    raw::log(level, context, message);
}

/// Logs at [`Level::Trace`].
#[macro_export]
macro_rules! trace {
    ($($argument:tt)+) => { $crate::log::log($crate::log::Level::Trace, module_path!(), &format!($($argument)+)) };
}

/// Logs at [`Level::Debug`].
#[macro_export]
macro_rules! debug {
    ($($argument:tt)+) => { $crate::log::log($crate::log::Level::Debug, module_path!(), &format!($($argument)+)) };
}

/// Logs at [`Level::Info`].
#[macro_export]
macro_rules! info {
    ($($argument:tt)+) => { $crate::log::log($crate::log::Level::Info, module_path!(), &format!($($argument)+)) };
}

/// Logs at [`Level::Warn`].
#[macro_export]
macro_rules! warn {
    ($($argument:tt)+) => { $crate::log::log($crate::log::Level::Warn, module_path!(), &format!($($argument)+)) };
}

/// Logs at [`Level::Error`].
#[macro_export]
macro_rules! error {
    ($($argument:tt)+) => { $crate::log::log($crate::log::Level::Error, module_path!(), &format!($($argument)+)) };
}
