//! Declaring, checking and measuring queues, each on a channel of its own: any refusal closes the channel.

use std::future::Future;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind, Queue};

use crate::broker::topology::{Argument, Declaration, ExchangeType};
use crate::delivery::BrokerError;

/// AMQP's reply code for a proper goodbye.
const REPLY_SUCCESS: u16 = 200;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// Makes sure that everything declared exists; with `predeclared`, only checks that the exchanges and queues do.
pub(super) async fn apply(
    connection: &Connection,
    declarations: &[Declaration],
    predeclared: bool,
) -> Result<(), BrokerError> {
    let channel = open(connection).await?;
    for declaration in declarations {
        one(&channel, declaration, predeclared).await.map_err(|error| explain(&error, declaration, predeclared))?;
    }
    close(&channel).await;
    Ok(())
}

/// Exchanges and queues that exist with other properties than these, each with what is expected and what the broker says.
/// Makes nothing. The broker logs an error for each that does not exist: not to be asked often.
///
/// # Errors
/// The broker does not answer.
pub async fn differing(
    connection: &Connection,
    declarations: &[Declaration],
) -> Result<Vec<(String, String)>, BrokerError> {
    let mut differing = Vec::new();
    for declaration in declarations {
        let name = match declaration {
            Declaration::Exchange { name, .. } | Declaration::Queue { name, .. } => name,
            Declaration::Binding { .. } => continue,
        };
        // A refusal closes the channel. That something exists is no reason why it should be as it is expected to be.
        let channel = open(connection).await?;
        let asked = match one(&channel, declaration, true).await {
            Ok(()) => one(&channel, declaration, false).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => close(&channel).await,
            Err(error) if refusal(&error) == Some(NOT_FOUND) => {}
            Err(error) if refusal(&error) == Some(PRECONDITION_FAILED) => {
                differing.push((name.clone(), error.to_string()));
            }
            Err(error) => return Err(explain(&error, declaration, true)),
        }
    }
    Ok(differing)
}

/// The number of ready messages in queues, together.
pub(super) async fn message_count(connection: &Connection, queues: &[String]) -> Result<u64, BrokerError> {
    let channel = open(connection).await?;
    let mut ready = 0;
    for queue in queues {
        let counted = inspect(&channel, queue).await;
        let counted = counted.map_err(|error| BrokerError(format!("queue {queue} cannot be inspected: {error}")))?;
        ready += u64::from(counted.message_count());
    }
    close(&channel).await;
    Ok(ready)
}

/// Whether a queue exists. Where it does not, the broker logs an error: not to be asked often.
pub(super) async fn exists(connection: &Connection, queue: &str) -> Result<bool, BrokerError> {
    let channel = open(connection).await?;
    match inspect(&channel, queue).await {
        Ok(_) => {
            close(&channel).await;
            Ok(true)
        }
        Err(error) if refusal(&error) == Some(NOT_FOUND) => Ok(false),
        Err(error) => Err(BrokerError(format!("queue {queue} cannot be looked for: {error}"))),
    }
}

/// Longest wait for the broker's answer to one of these questions. A quorum queue is made in milliseconds, but one without
/// a leader answers nobody, and the channel that asked is lost with the question.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer, or an error when none comes.
pub(super) async fn answered<T>(asked: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or_else(|_| Err(no_answer(ANSWER_TIMEOUT)))
}

/// The error of an answer that has not come.
pub(super) fn no_answer(within: Duration) -> lapin::Error {
    let text = format!("the broker did not answer within {within:?}");
    std::io::Error::new(std::io::ErrorKind::TimedOut, text).into()
}

/// Asks the broker about a queue; a channel dies of one that does not exist.
pub(super) async fn inspect(channel: &Channel, queue: &str) -> lapin::Result<Queue> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    answered(channel.queue_declare(queue.into(), options, FieldTable::default())).await
}

/// A channel for a few questions.
pub(super) async fn open(connection: &Connection) -> Result<Channel, BrokerError> {
    answered(connection.create_channel())
        .await
        .map_err(|error| BrokerError(format!("no channel could be opened: {error}")))
}

/// Ends it.
pub(super) async fn close(channel: &Channel) {
    if let Err(error) = answered(channel.close(REPLY_SUCCESS, "done".into())).await {
        tracing::debug!(%error, "closing a channel");
    }
}

async fn one(channel: &Channel, declaration: &Declaration, passive: bool) -> lapin::Result<()> {
    match declaration {
        Declaration::Exchange { name, kind } => {
            let kind = match kind {
                ExchangeType::Direct => ExchangeKind::Direct,
                ExchangeType::Fanout => ExchangeKind::Fanout,
            };
            let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
            answered(channel.exchange_declare(name.as_str().into(), kind, options, FieldTable::default())).await
        }
        Declaration::Queue { name, arguments } => {
            let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
            answered(channel.queue_declare(name.as_str().into(), options, table(arguments))).await.map(|_| ())
        }
        Declaration::Binding { exchange, queue, routing_key } if !passive => {
            let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
            let (routing_key, options) = (routing_key.as_str().into(), QueueBindOptions::default());
            answered(channel.queue_bind(queue, exchange, routing_key, options, FieldTable::default())).await
        }
        Declaration::Binding { .. } => Ok(()),
    }
}

fn table(arguments: &[(&'static str, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString((*text).into()),
            Argument::Int(number) => AMQPValue::LongLongInt(*number),
            Argument::Bool(value) => AMQPValue::Boolean(*value),
        };
        table.insert((*name).into(), value);
    }
    table
}

fn explain(error: &lapin::Error, declaration: &Declaration, predeclared: bool) -> BrokerError {
    let what = match declaration {
        Declaration::Exchange { name, .. } => format!("exchange {name}"),
        Declaration::Queue { name, .. } => format!("queue {name}"),
        Declaration::Binding { exchange, queue, .. } => format!("the binding of {queue} to {exchange}"),
    };
    BrokerError(match refusal(error) {
        Some(NOT_FOUND) if predeclared => {
            format!("{what} does not exist, and predeclared = true declares nothing: declare it as `{declaration}`")
        }
        Some(PRECONDITION_FAILED) => {
            format!(
                "{what} exists with other properties, expected `{declaration}`: move its messages and delete it ({error})"
            )
        }
        _ => format!("{what} could not be declared: {error}"),
    })
}

/// The broker's reply code, where it refused.
fn refusal(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => Some(refusal.get_id()),
        _ => None,
    }
}
