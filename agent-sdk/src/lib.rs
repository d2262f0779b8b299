//! Write agents for agent-host in Rust.
//!
//! An agent is a function from a task to a result; the attribute [`agent`] makes it the component's entry:
//!
//! ```
//! use agent_sdk::{Failure, Json};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Order { item: String, count: u32 }
//! #[derive(Serialize)]
//! struct Receipt { text: String }
//!
//! #[agent_sdk::agent]
//! fn handle(Json(order): Json<Order>) -> Result<Json<Receipt>, Failure> {
//!     agent_sdk::info!("{} of {}", order.count, order.item);
//!     Ok(Json(Receipt { text: format!("{} × {}", order.count, order.item) }))
//! }
//! # fn main() {}
//! ```
//!
//! # What a handler takes and gives
//!
//! Arguments are anything that implements [`FromTask`]: the [`Task`] itself (or `&Task`), [`Json`] of a deserializable
//! type, the body as `String` or `Vec<u8>`. A body that does not fit rejects the task with a message that says why.
//!
//! The result is a `Result` whose success implements [`IntoOutput`] ([`Output`], [`Json`], `String`, `Vec<u8>`, `()`,
//! or an `Option` of one) and whose error turns into a [`Failure`]. `?` works on any [`std::error::Error`]: errors of
//! this crate that may pass (a lost connection, a serialization failure) become [`Failure::Retry`], everything else
//! [`Failure::Reject`].
//!
//! The function may be `async`; host calls themselves return when they are done.
//!
//! # What the host offers
//!
//! | module | capability | grant in `agent.toml` |
//! |---|---|---|
//! | [`sql`] | PostgreSQL | `sql = [{ name = "main" }]` |
//! | [`kv`] | key-value buckets | `key_value = ["default"]` |
//! | [`cache`] | a cache with times to live | `cache = true` |
//! | [`tasks`] | follow-up tasks, progress, cancellation | `tasks = ["other-agent"]` (to submit) |
//! | [`http`] | outbound HTTP | `allowed_outbound_hosts = ["https://api.example.com:443"]` |
//! | [`log`] | log lines | |
//! | [`config`] | the manifest's `[config]` | |
//! | [`secrets`] | secrets set by an operator | `[secrets] required = ["api-key"]` |
//!
//! Clocks and random numbers come with the standard library ([`std::time`]) as on any WASI target, and granted folders
//! with [`std::fs`].
//!
//! # Building
//!
//! Agents are `cdylib` crates built for `wasm32-wasip2`. On any other target this crate compiles too, so that an agent is
//! tested natively: there [`testing`] answers what it calls.

extern crate self as agent_sdk;

pub use agent_sdk_macros::agent;

mod failure;
mod output;
mod runtime;
mod task;

pub mod cache;
pub mod config;
pub mod http;
pub mod kv;
pub mod log;
pub mod secrets;
pub mod sql;
pub mod tasks;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::semicolon_if_nothing_returned,
    reason = "generated code; its documentation is that of the WIT"
)]
mod bindings;

pub use failure::Failure;
pub use output::{IntoOutcome, IntoOutput, Output};
pub use task::{FromTask, Json, Task};

/// What the expansion of [`agent`] refers to. Not for direct use.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::exports::agent::runtime::handler;
    pub use crate::runtime::{block_on, lower, task};
    pub use wit_bindgen;

    // A glob, since the module itself stays private to the crate.
    /// The raw bindings, for the macro that exports the handler.
    pub mod bindings {
        pub use crate::bindings::*;
    }
}
