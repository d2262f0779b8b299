//! Submitting the work of a schedule as careful clients do: again and again until somebody promises that it will run.
//!
//! What may be sent again without doubling it (a key, a message id) is sent again as it is. A request without a key has
//! an unknown fate once it failed; it goes on under a new label, and the old one may have at most one effect.

mod amqp;
mod http;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt as _;

use crate::book::Book;
use crate::progress::Progress;
use crate::schedule::{Schedule, Step};
use crate::work::{Parcel, Way};

pub(crate) use amqp::Publisher;
pub(crate) use http::Client;

/// How long a sender waits before its next try, first and at most.
const RETRY_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(500);

/// What all senders share.
pub(crate) struct Submitter {
    /// What makes the labels of this run its own.
    pub(crate) run: String,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) book: Arc<Book>,
    pub(crate) http: Client,
    pub(crate) amqp: Publisher,
}

/// The pause before the next try.
fn pause(tries: u32) -> Duration {
    RETRY_PAUSE.start().saturating_mul(1 << tries.min(8)).min(*RETRY_PAUSE.end())
}

impl Submitter {
    /// Sends everything, burst by burst. Returns when all that can be promised is promised.
    pub(crate) async fn run(&self, progress: &Progress) -> Result<()> {
        for burst in &self.schedule.bursts {
            progress.shrink_to(burst.backlog_max).await;
            tokio::time::sleep(Duration::from_millis(burst.pause_ms)).await;
            let mut sending =
                futures::stream::iter(&burst.steps).map(|step| self.send(*step)).buffer_unordered(burst.senders);
            while let Some(sent) = sending.next().await {
                sent?;
            }
        }
        Ok(())
    }

    async fn send(&self, step: Step) -> Result<()> {
        let parcel = self.schedule.parcels.get(step.parcel).context("a step should name a parcel")?;
        let labels: Vec<String> = parcel.tasks.iter().map(|task| format!("{}-{}", self.run, task.number)).collect();
        match parcel.way {
            Way::Amqp => self.send_amqp(parcel, &labels).await,
            Way::Http { host, .. } | Way::Batch { host } => self.send_http(step.parcel, parcel, labels, host).await,
        }
    }

    async fn send_amqp(&self, parcel: &Parcel, labels: &[String]) -> Result<()> {
        for (task, label) in parcel.tasks.iter().zip(labels) {
            for tries in 0.. {
                self.book.sending(label, *task);
                match self.amqp.publish(label, task.body(label).as_bytes()).await {
                    Ok(amqp::Confirmed::Routed) => {
                        self.book.accepted(label, label);
                        break;
                    }
                    Ok(amqp::Confirmed::Returned) => {
                        self.book.refused(label, "the broker returned it: the agent's queue is gone".to_owned());
                    }
                    // Sent or not, nobody knows: the same id again.
                    Err(_) => {}
                }
                tokio::time::sleep(pause(tries)).await;
            }
        }
        Ok(())
    }

    async fn send_http(&self, index: usize, parcel: &Parcel, mut labels: Vec<String>, host: usize) -> Result<()> {
        let bases = labels.clone();
        let key = parcel.way.is_repeatable().then(|| format!("{}-parcel-{index}", self.run));
        for tries in 0.. {
            if key.is_none() && tries > 0 {
                labels = bases.iter().map(|base| format!("{base}-try-{tries}")).collect();
            }
            let tasks = parcel.tasks.iter().zip(&labels);
            tasks.clone().for_each(|(task, label)| self.book.sending(label, *task));
            let bodies: Vec<String> = tasks.map(|(task, label)| task.body(label)).collect();
            let is_batch = matches!(parcel.way, Way::Batch { .. });
            // A careful client asks another host where one fails.
            let to = host.wrapping_add(usize::try_from(tries).unwrap_or(0));
            let answer = self.http.submit(to, &bodies, is_batch, key.as_deref(), parcel.delay_ms).await;
            let first = labels.first().map_or("", String::as_str);
            let wait = match answer {
                http::Answer::Accepted(ids) => {
                    labels.iter().zip(&ids).for_each(|(label, id)| self.book.accepted(label, id));
                    if ids.len() != labels.len() {
                        self.book.refused(first, format!("{} ids for {} tasks", ids.len(), labels.len()));
                    }
                    return Ok(());
                }
                // The audit will blame the host; the run goes on, so that it finds what else there is.
                http::Answer::Refused(why) => {
                    self.book.refused(first, why);
                    None
                }
                http::Answer::Unknown { wait } => wait,
            };
            tokio::time::sleep(wait.unwrap_or(pause(tries))).await;
        }
        Ok(())
    }
}
