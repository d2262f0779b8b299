//! The host as its users meet it: the program, started as an operator starts it, on the real RabbitMQ, PostgreSQL and
//! Redis, with the sample agents deployed.
//!
//! `cargo xtask test` starts the servers and builds the agents. Each test has a host, a virtual broker user's view of
//! nothing but its own queues, and fails, never skips, where a server is missing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail like the test itself"
)]

mod bad_input;
mod blocking;
mod browser;
mod bulk;
mod cancelling;
mod common;
mod compiling;
mod conflicts;
mod converging;
mod dashboard;
mod delays;
mod delivery;
mod dev;
mod doctor;
mod documentation;
mod encrypted;
mod escapes;
mod fair;
mod files;
mod fleet;
mod foreign_client;
mod host_killer;
mod hostile;
mod http_api;
mod images;
mod lifecycle;
mod logs;
mod loss;
mod memory;
mod misbehaving;
mod observed;
mod operate;
mod outbound;
mod registry;
mod replay;
mod replies;
mod samples;
mod scripts;
mod secrets;
mod set_secrets;
mod shapes;
mod signed;
mod silence;
mod sim;
mod slow_clients;
mod strangers;
mod traces;
mod voting;
mod watched;
