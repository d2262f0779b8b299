//! Declaring, checking and measuring queues, each on a channel of its own: any refusal closes the channel.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};

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

/// The number of ready messages in a queue.
pub(super) async fn message_count(connection: &Connection, queue: &str) -> Result<u64, BrokerError> {
    let channel = open(connection).await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let counted = channel.queue_declare(short(queue)?, options, FieldTable::default()).await;
    let counted = counted.map_err(|error| BrokerError(format!("queue {queue} cannot be inspected: {error}")))?;
    close(&channel).await;
    Ok(counted.message_count().into())
}

async fn open(connection: &Connection) -> Result<Channel, BrokerError> {
    connection.create_channel().await.map_err(|error| BrokerError(format!("no channel could be opened: {error}")))
}

async fn close(channel: &Channel) {
    if let Err(error) = channel.close(REPLY_SUCCESS, "done".into()).await {
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
            channel.exchange_declare(name.as_str().into(), kind, options, FieldTable::default()).await
        }
        Declaration::Queue { name, arguments } => {
            let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.as_str().into(), options, table(arguments)).await.map(|_| ())
        }
        Declaration::Binding { exchange, queue, routing_key } if !passive => {
            let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
            let options = QueueBindOptions::default();
            channel.queue_bind(queue, exchange, routing_key.as_str().into(), options, FieldTable::default()).await
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
    let code = match error.kind() {
        ErrorKind::ProtocolError(refusal) => Some(refusal.get_id()),
        _ => None,
    };
    BrokerError(match code {
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

fn short(name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name).map_err(|_| BrokerError(format!("{name:?} is too long for a queue's name")))
}
