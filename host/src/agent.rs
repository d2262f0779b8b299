//! Running agents: one fresh, bounded instance per task.
//!
//! Isolation, in the order in which a guest meets it:
//! - its module was looked at ([`Loader`]) and then compiled in another process, within limits ([`ChildCompiler`]); code
//!   that was made before is loaded only where this host made it ([`Codes`]);
//! - its instance is made for one task from a copy-on-write image and dropped afterwards, whatever happened in it;
//! - its memories and tables are summed against the manifest's limit and rationed against the host's budget
//!   ([`MemoryLedger`](crate::memory::MemoryLedger));
//! - its processor time is looked at every 10 ms, its wall clock covers host calls too, and it can be stopped at any
//!   moment;
//! - it reaches the world only through `capability`, and only what its manifest grants.
//!
//! However a run ends, the caller gets a [`Completion`](crate::task::Completion): a guest cannot make the host fail.

mod clock;
mod codes;
pub mod compile;
mod engine;
mod footprint;
mod limits;
mod load;
mod preview1;
mod run;
mod shape;
mod state;
mod surface;
mod threads;
mod turns;

pub use codes::Codes;
pub use compile::{ChildCompiler, CompileError, CompileLimits, Compiler, InProcessCompiler};
pub use engine::{Engine, EngineConfig};
pub use load::{Code, LoadError, Loader, Revision};
pub use run::{Recorded, Run, Runner, RunnerConfig, Stops};
pub use threads::GuestThreads;
