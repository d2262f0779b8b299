//! Write agents for agent-host in Rust.
