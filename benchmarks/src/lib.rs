//! Benchmarks of agent-host.
