use std::borrow::Cow;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use crate::HashMap;
use futures_core::future::BoxFuture;
use futures_util::FutureExt;

use crate::common::StatementCache;
use crate::error::Error;
use crate::ext::ustr::UStr;
use crate::io::{PortalId, StatementId};
use crate::message::{
    BackendMessageFormat, Bind, Close, Execute, Parse, Query, ReadyForQuery, ReceivedMessage, Terminate,
    TransactionStatus,
};
use crate::statement::PgStatementMetadata;
use crate::transaction::Transaction;
use crate::types::Oid;
use crate::{PgConnectOptions, PgTypeInfo, Postgres};

pub(crate) use sqlx_core::connection::*;

pub use self::describe::PgTypeTooDeep;
pub use self::stream::{MessageRoom, PgMessageTooLarge, PgNoMessageRoom, PgStream};

pub(crate) mod describe;
mod establish;
mod executor;
mod function_call;
mod sasl;
mod stream;
mod tls;

/// A connection to a PostgreSQL database.
///
/// See [`PgConnectOptions`] for connection URL reference.
pub struct PgConnection {
    pub(crate) inner: Box<PgConnectionInner>,
}

pub struct PgConnectionInner {
    // underlying TCP or UDS stream,
    // wrapped in a potentially TLS stream,
    // wrapped in a buffered stream
    pub(crate) stream: PgStream,

    // process id of this backend
    // used to send cancel requests
    #[allow(dead_code)]
    process_id: u32,

    // secret key of this backend
    // used to send cancel requests
    #[allow(dead_code)]
    secret_key: u32,

    // sequence of statement IDs for use in preparing statements
    // in PostgreSQL, the statement is prepared to a user-supplied identifier
    next_statement_id: StatementId,

    // cache statement by query string to the id and columns
    cache_statement: StatementCache<(StatementId, Arc<PgStatementMetadata>)>,

    // cache user-defined types by id <-> info
    cache_type_info: HashMap<Oid, PgTypeInfo>,
    cache_type_oid: HashMap<UStr, Oid>,
    cache_elem_type_to_array: HashMap<Oid, Oid>,

    // number of ReadyForQuery messages that we are currently expecting
    pub(crate) pending_ready_for_query_count: usize,

    // current transaction status
    transaction_status: TransactionStatus,
    pub(crate) transaction_depth: usize,

    // a command that is to go out before the next statement, and whether it did and was not answered yet
    before: Option<&'static str>,
    before_unanswered: bool,

    // a simple query that went out with a function call, and whose answers were not read yet
    sent: Option<String>,

    // levels of types that are being fetched at this moment
    type_depth: u8,

    log_settings: LogSettings,
}

impl PgConnection {
    /// the version number of the server in `libpq` format
    pub fn server_version_num(&self) -> Option<u32> {
        self.inner.stream.server_version_num
    }

    // will return when the connection is ready for another query
    pub(crate) async fn wait_until_ready(&mut self) -> Result<(), Error> {
        self.write_before_alone()?;
        self.wait_for_answers().await
    }

    // will return when everything that was sent is answered
    pub(crate) async fn wait_for_answers(&mut self) -> Result<(), Error> {
        if !self.inner.stream.write_buffer_mut().is_empty() {
            self.inner.stream.flush().await?;
        }

        while self.inner.pending_ready_for_query_count > 0 {
            let message = self.inner.stream.recv().await?;

            if let BackendMessageFormat::ReadyForQuery = message.format {
                self.handle_ready_for_query(message)?;
            }
        }

        Ok(())
    }

    /// Sends a command that answers no rows in the same write as the next statement, before it. Where it fails, so does
    /// that statement.
    pub fn send_before(&mut self, command: &'static str) {
        self.inner.before = Some(command);
    }

    /// Takes that back. Whether it had not been sent.
    pub fn cancel_before(&mut self) -> bool {
        self.inner.before.take().is_some()
    }

    /// Whether such a command has gone out, and the server has not answered it.
    pub fn is_before_unanswered(&self) -> bool {
        self.inner.before_unanswered
    }

    // the caller writes a `Sync` behind it: with one of its own the server would answer it in a write of its own
    fn write_before(&mut self) -> Result<(), Error> {
        if let Some(before) = self.inner.before.take() {
            self.inner.before_unanswered = true;
            self.inner.stream.write_msg(Parse {
                statement: StatementId::UNNAMED,
                query: before,
                param_types: &[],
            })?;
            self.inner.stream.write_msg(Bind {
                portal: PortalId::UNNAMED,
                statement: StatementId::UNNAMED,
                formats: &[],
                num_params: 0,
                params: &[],
                result_formats: &[],
            })?;
            self.inner.stream.write_msg(Execute {
                portal: PortalId::UNNAMED,
                limit: 0,
            })?;
        }

        Ok(())
    }

    // where what comes next has no `Sync`
    fn write_before_alone(&mut self) -> Result<(), Error> {
        if self.inner.before.is_some() {
            self.write_before()?;
            self.write_sync();
        }

        Ok(())
    }

    /// Reads the answers to what went out before a statement.
    async fn wait_for_before(&mut self) -> Result<(), Error> {
        while self.inner.before_unanswered {
            let message = self.inner.stream.recv().await?;

            if let BackendMessageFormat::CommandComplete = message.format {
                self.inner.before_unanswered = false;
            }
        }

        Ok(())
    }

    /// Whether a query has gone out behind a function call, and its answers are still to be read.
    pub fn is_sent_ahead(&self) -> bool {
        self.inner.sent.is_some() && self.inner.pending_ready_for_query_count > 0
    }

    /// Reads what is left of the answers to the function call before the query that was sent ahead.
    async fn wait_for_sent(&mut self) -> Result<(), Error> {
        while self.inner.pending_ready_for_query_count > 1 {
            match self.inner.stream.recv().await {
                Ok(message) if message.format == BackendMessageFormat::ReadyForQuery => {
                    self.handle_ready_for_query(message)?;
                }
                // Told to whoever called that function.
                Ok(_) | Err(Error::Database(_)) => {}
                Err(error) => return Err(error),
            }
        }

        Ok(())
    }

    async fn recv_ready_for_query(&mut self) -> Result<(), Error> {
        let r: ReadyForQuery = self.inner.stream.recv_expect().await?;

        self.inner.pending_ready_for_query_count -= 1;
        self.inner.transaction_status = r.transaction_status;
        self.inner.before_unanswered = false;

        Ok(())
    }

    #[inline(always)]
    fn handle_ready_for_query(&mut self, message: ReceivedMessage) -> Result<(), Error> {
        self.inner.pending_ready_for_query_count = self
            .inner
            .pending_ready_for_query_count
            .checked_sub(1)
            .ok_or_else(|| err_protocol!("received more ReadyForQuery messages than expected"))?;

        self.inner.transaction_status = message.decode::<ReadyForQuery>()?.transaction_status;
        // it was the first of what was not answered
        self.inner.before_unanswered = false;

        Ok(())
    }

    /// Queue a simple query (not prepared) to execute the next time this connection is used.
    ///
    /// Used for rolling back transactions and releasing advisory locks.
    #[inline(always)]
    pub(crate) fn queue_simple_query(&mut self, query: &str) -> Result<(), Error> {
        self.inner.stream.write_msg(Query(query))?;
        self.inner.pending_ready_for_query_count += 1;

        Ok(())
    }

    pub(crate) fn in_transaction(&self) -> bool {
        match self.inner.transaction_status {
            TransactionStatus::Transaction => true,
            TransactionStatus::Error | TransactionStatus::Idle => false,
        }
    }

    /// Has somebody asked for room before a large message of the server is read; nobody by default.
    ///
    /// Where there is none, the statement fails with [`Error::Io`] around a [`PgNoMessageRoom`],
    /// and the connection is of no more use.
    pub fn set_message_room(&mut self, room: Option<MessageRoom>) {
        self.inner.stream.set_message_room(room);
    }

    /// Whether the server is outside of any transaction, a failed one included, and has answered everything.
    pub fn is_idle(&self) -> bool {
        self.inner.pending_ready_for_query_count == 0
            && matches!(self.inner.transaction_status, TransactionStatus::Idle)
    }
}

impl Debug for PgConnection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgConnection").finish()
    }
}

impl Connection for PgConnection {
    type Database = Postgres;

    type Options = PgConnectOptions;

    fn close(mut self) -> BoxFuture<'static, Result<(), Error>> {
        // The normal, graceful termination procedure is that the frontend sends a Terminate
        // message and immediately closes the connection.

        // On receipt of this message, the backend closes the
        // connection and terminates.

        Box::pin(async move {
            self.inner.stream.send(Terminate).await?;
            self.inner.stream.shutdown().await?;

            Ok(())
        })
    }

    fn close_hard(mut self) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            self.inner.stream.shutdown().await?;

            Ok(())
        })
    }

    fn ping(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        // Users were complaining about this showing up in query statistics on the server.
        // By sending a comment we avoid an error if the connection was in the middle of a rowset
        // self.execute("/* SQLx ping */").map_ok(|_| ()).boxed()

        Box::pin(async move {
            // The simplest call-and-response that's possible.
            self.write_sync();
            self.wait_until_ready().await
        })
    }

    fn begin(&mut self) -> BoxFuture<'_, Result<Transaction<'_, Self::Database>, Error>>
    where
        Self: Sized,
    {
        Transaction::begin(self, None)
    }

    fn begin_with(
        &mut self,
        statement: impl Into<Cow<'static, str>>,
    ) -> BoxFuture<'_, Result<Transaction<'_, Self::Database>, Error>>
    where
        Self: Sized,
    {
        Transaction::begin(self, Some(statement.into()))
    }

    fn cached_statements_size(&self) -> usize {
        self.inner.cache_statement.len()
    }

    fn clear_cached_statements(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.inner.cache_type_oid.clear();

            let mut cleared = 0_usize;

            self.wait_until_ready().await?;

            while let Some((id, _)) = self.inner.cache_statement.remove_lru() {
                self.inner.stream.write_msg(Close::Statement(id))?;
                cleared += 1;
            }

            if cleared > 0 {
                self.write_sync();
                self.inner.stream.flush().await?;

                self.wait_for_close_complete(cleared).await?;
                self.recv_ready_for_query().await?;
            }

            Ok(())
        })
    }

    fn shrink_buffers(&mut self) {
        self.inner.stream.shrink_buffers();
    }

    #[doc(hidden)]
    fn flush(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        self.wait_until_ready().boxed()
    }

    #[doc(hidden)]
    fn should_flush(&self) -> bool {
        !self.inner.stream.write_buffer().is_empty()
    }
}

// Implement `AsMut<Self>` so that `PgConnection` can be wrapped in
// a `PgAdvisoryLockGuard`.
//
// See: https://github.com/launchbadge/sqlx/issues/2520
impl AsMut<PgConnection> for PgConnection {
    fn as_mut(&mut self) -> &mut PgConnection {
        self
    }
}
