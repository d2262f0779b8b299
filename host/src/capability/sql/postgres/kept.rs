//! What the driver keeps of the statements of one connection.
//!
//! It keeps the text of each, and a description of each column of its result, for as long as the statement is prepared. A
//! wide result of a long statement takes half a megabyte, so a count of statements alone would bound nothing.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use sqlx::{Connection, PgConnection};

/// Statements prepared on one connection, more than most agents have.
const STATEMENTS_MAX: usize = 64;
/// What they may take, about, per connection: with 16 connections, 16 MiB.
const BYTES_MAX: usize = 1 << 20;
/// What a column or a parameter takes beside its name: type, origin, an entry in an index by name.
const COLUMN_BYTES: usize = 256;
/// The driver's own limit is never reached: it would forget statements one by one, and this count would be wrong. The
/// driver also keeps a handful of questions of its own about types.
pub(super) const STATEMENTS_CACHED_MAX: usize = STATEMENTS_MAX + 16;

/// Which statements the driver keeps for a connection, and what they take.
#[derive(Default)]
pub(super) struct KeptStatements {
    known: HashSet<u64>,
    hasher: RandomState,
    bytes: usize,
}

impl KeptStatements {
    /// Makes room for a statement that is about to be prepared: where there is none, all are forgotten.
    pub(super) async fn make_room(
        &mut self,
        connection: &mut PgConnection,
        statement: &str,
    ) -> Result<(), sqlx::Error> {
        let is_full = self.known.len() >= STATEMENTS_MAX || self.bytes >= BYTES_MAX;
        if is_full && !self.known.contains(&self.hasher.hash_one(statement)) {
            connection.clear_cached_statements().await?;
            self.known.clear();
            self.bytes = 0;
        }
        Ok(())
    }

    /// Notes a statement that was prepared, with so many columns and parameters.
    pub(super) fn note(&mut self, statement: &str, columns: usize) {
        if self.known.insert(self.hasher.hash_one(statement)) {
            let bytes = statement.len().saturating_add(columns.saturating_mul(COLUMN_BYTES));
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }
}
