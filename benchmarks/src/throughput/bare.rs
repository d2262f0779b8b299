//! What a user would write without a runtime: consume, work, publish the result, wait for its confirm, acknowledge.
//!
//! Not a straw man: deliveries are handled concurrently under a generous prefetch, so confirms overlap. Each message is
//! acknowledged by itself, as every tutorial does, in one of two ways.

use anyhow::Result;
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::sync::mpsc;

/// The prefetch that RabbitMQ's guide calls the sweet spot.
const PREFETCH: u16 = 256;

/// How it acknowledges.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Acks {
    /// One after the other: the next once the driver has written the last.
    OneByOne,
    /// Each from the task that handled it. The driver then writes many at a time.
    Concurrent,
}

/// Consumes until it is aborted.
pub(crate) async fn consume(amqp_url: String, queue: &'static str, acks: Acks) -> Result<()> {
    let publishing = Connection::connect(&amqp_url, ConnectionProperties::default()).await?;
    let consuming = Connection::connect(&amqp_url, ConnectionProperties::default()).await?;
    let publisher = publishing.create_channel().await?;
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    let channel = consuming.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let mut deliveries = channel
        .basic_consume(queue.into(), "bare".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    let (confirmed, waiting) = mpsc::unbounded_channel();
    if let Acks::OneByOne = acks {
        tokio::spawn(acknowledge(waiting));
    }
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let (publisher, confirmed) = (publisher.clone(), confirmed.clone());
        tokio::spawn(async move {
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_content_type("application/octet-stream".into());
            let Some(reply_to) = delivery.properties.reply_to().clone() else { return };
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let published = publisher.basic_publish("".into(), reply_to, options, &delivery.data, properties).await;
            if let Ok(confirm) = published
                && confirm.await.is_ok()
            {
                // A failed acknowledgement shows as a result too many.
                match acks {
                    Acks::OneByOne => drop(confirmed.send(delivery)),
                    Acks::Concurrent => drop(delivery.ack(BasicAckOptions::default()).await),
                }
            }
        });
    }
    Ok(())
}

async fn acknowledge(mut confirmed: mpsc::UnboundedReceiver<Delivery>) {
    while let Some(delivery) = confirmed.recv().await {
        drop(delivery.ack(BasicAckOptions::default()).await);
    }
}
