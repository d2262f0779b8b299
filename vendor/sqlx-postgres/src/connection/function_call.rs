use crate::error::Error;
use crate::message::{BackendMessageFormat, FunctionCall};
use crate::types::Oid;
use crate::{PgArguments, PgConnection};
use sqlx_core::arguments::Arguments;

impl PgConnection {
    /// Calls a function by its number, without a statement that the server would parse and plan. What it answers is not read.
    ///
    /// `ahead` is a simple query that goes out in the same write, behind the call and whatever becomes of it. Its answers are
    /// those of the next statement, which is to be this very text.
    pub async fn call_function(
        &mut self,
        function: Oid,
        arguments: PgArguments,
        ahead: String,
    ) -> Result<(), Error> {
        self.inner.sent = None;
        self.wait_for_answers().await?;

        if arguments.are_incomplete() {
            return Err(err_protocol!(
                "call_function(): an argument whose type has to be asked for"
            ));
        }
        let num_args = i16::try_from(arguments.len()).map_err(|_| {
            err_protocol!("call_function(): too many arguments: {}", arguments.len())
        })?;

        self.write_before_alone()?;
        self.inner.stream.write_msg(FunctionCall {
            function,
            num_args,
            args: &arguments.buffer,
        })?;
        self.inner.pending_ready_for_query_count += 1;
        self.queue_simple_query(&ahead)?;
        self.inner.sent = Some(ahead);

        self.inner.stream.flush().await?;
        self.wait_for_before().await?;

        loop {
            let message = self.inner.stream.recv().await?;

            match message.format {
                BackendMessageFormat::FunctionCallResponse => {}

                BackendMessageFormat::ReadyForQuery => {
                    self.handle_ready_for_query(message)?;
                    return Ok(());
                }

                _ => {
                    return Err(err_protocol!(
                        "call_function(): unexpected message: {:?}",
                        message.format
                    ));
                }
            }
        }
    }
}
