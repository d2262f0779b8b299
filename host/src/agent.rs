//! Running agents: one fresh, bounded instance per task.
//!
//! Isolation, in the order in which a guest meets it:
//! - its code was validated and compiled here, from the module as it was deployed ([`Loader`]);
//! - its instance is made for one task from a copy-on-write image and dropped afterwards, whatever happened in it;
//! - its memories and tables are summed against the manifest's limit and rationed against the host's budget
//!   ([`MemoryLedger`](crate::memory::MemoryLedger));
//! - its processor time is looked at every 10 ms, its wall clock covers host calls too, and it can be stopped at any
//!   moment;
//! - it reaches the world only through `capability`, and only what its manifest grants.
//!
//! However a run ends, the caller gets a [`Completion`](crate::task::Completion): a guest cannot make the host fail.

mod engine;
mod footprint;
mod limits;
mod load;
mod run;
mod state;

pub use engine::{Engine, EngineConfig};
pub use load::{Code, LoadError, Loader, Revision};
pub use run::{Recorded, Run, Runner, RunnerConfig, Stops};
