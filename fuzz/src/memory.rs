//! A stand-in for the host's ledger, which the files under test only name.

/// What something takes of the host's memory.
#[derive(Debug)]
pub(crate) struct Charge;
