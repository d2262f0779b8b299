//! agent-host: runs tasks from a message broker in sandboxed WebAssembly agents.
//!
//! Data flows one way, and modules are declared here in that order:
//!
//! ```text
//!  HTTP client ─► http ──publish──┐
//!                                 ▼
//!  RabbitMQ ────────────────► broker ─Delivery─► dispatch ─Task─► agent ─calls─► capability ─► PostgreSQL, Redis
//!                                 ▲                │   ▲            │
//!                                 └──Settlement────┘   └─Completion─┘        (results go back as return values)
//! ```
//!
//! A module imports only what stands to its right, the vocabulary ([`task`], [`manifest`], [`units`], [`text`], [`signature`],
//! [`trace`]) and the ports ([`delivery`], [`records`], [`catalog`], [`agents`], [`dead_letters`], [`secrets`]);
//! `tests/layering.rs` enforces it. Only `app` knows the concrete types.

pub mod agent;
pub mod agents;
pub mod app;
pub mod broker;
pub mod capability;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod dead_letters;
pub mod delivery;
pub mod deploy;
pub mod dispatch;
pub mod embedded;
pub mod http;
pub mod lifecycle;
pub mod manifest;
pub mod memory;
pub mod package;
pub mod records;
pub mod relay;
pub mod secrets;
pub mod signature;
pub mod sim;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod text;
pub mod trace;
pub mod units;
pub(crate) mod wit;
