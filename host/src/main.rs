//! The `agent-host` command.
fn main() {}
