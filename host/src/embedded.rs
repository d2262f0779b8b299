//! Private servers that a host starts for itself, where no address is given.

mod postgres;

pub use postgres::{Postgres, StartError, check_reachable};
