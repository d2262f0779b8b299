//! Submitting the work of a schedule as careful clients do: again and again until somebody promises that it will run.
//!
//! What may be sent again without doubling it (a key, a message id) is sent again as it is. A request without a key has
//! an unknown fate once it failed; it goes on under a new label, and the old one may have at most one effect.

mod amqp;
mod change;
mod http;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt as _;
use futures::channel::mpsc;

use crate::book::Book;
use crate::database::Database;
use crate::progress::Progress;
use crate::schedule::{How, Schedule, Step};
use crate::work::{Parcel, Task, Way};

pub(crate) use amqp::Publisher;
pub(crate) use http::Client;

use change::Mending;

/// How long a sender waits before its next try, first and at most.
const RETRY_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(500);
/// How often a sender looks whether something has come about.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How many failed tasks are looked after at the same time.
const MENDED_AT_ONCE: usize = 64;

/// What all senders share.
pub(crate) struct Submitter {
    /// What makes the labels of this run its own.
    pub(crate) run: String,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) book: Arc<Book>,
    pub(crate) database: Database,
    pub(crate) http: Client,
    pub(crate) amqp: Publisher,
}

/// The pause before the next try.
fn pause(tries: u32) -> Duration {
    RETRY_PAUSE.start().saturating_mul(1 << tries.min(8)).min(*RETRY_PAUSE.end())
}

impl Submitter {
    /// Sends everything, burst by burst, cancels what is to be cancelled and redrives what is to be redriven. Returns when
    /// all that can be promised is promised.
    pub(crate) async fn run(&self, progress: &Progress) -> Result<()> {
        let (to_mend, accepted) = mpsc::unbounded();
        let mending = accepted.for_each_concurrent(MENDED_AT_ONCE, async |mending: Mending| {
            let label = mending.label.clone();
            self.book.doing(&label, Some("mending"));
            self.mend(mending).await;
            self.book.doing(&label, None);
        });
        let (sent, ()) = tokio::join!(self.send_all(progress, to_mend), mending);
        sent
    }

    async fn send_all(&self, progress: &Progress, to_mend: mpsc::UnboundedSender<Mending>) -> Result<()> {
        for burst in &self.schedule.bursts {
            progress.shrink_to(burst.backlog_max).await;
            tokio::time::sleep(Duration::from_millis(burst.pause_ms)).await;
            let mut sending = futures::stream::iter(&burst.steps)
                .map(|step| self.send(*step, &to_mend))
                .buffer_unordered(burst.senders);
            while let Some(sent) = sending.next().await {
                sent?;
            }
        }
        Ok(())
    }

    async fn send(&self, step: Step, to_mend: &mpsc::UnboundedSender<Mending>) -> Result<()> {
        let parcel = self.schedule.parcels.get(step.parcel).context("a step should name a parcel")?;
        let labels: Vec<String> = parcel.tasks.iter().map(|task| format!("{}-{}", self.run, task.number)).collect();
        let first = labels.first().cloned().unwrap_or_default();
        if step.how == How::Altered {
            self.book.doing(&first, Some("sending an altered"));
            self.send_altered(step.parcel, parcel, &labels).await;
            self.book.doing(&first, None);
            return Ok(());
        }
        self.book.doing(&first, Some("sending"));
        let accepted = match parcel.way {
            Way::Amqp => self.send_amqp(parcel, &labels).await,
            Way::Http { host, .. } | Way::Batch { host } => self.send_http(step.parcel, parcel, labels, host).await,
        };
        self.book.doing(&first, None);
        if step.how == How::First {
            for (task, (label, id)) in parcel.tasks.iter().zip(accepted) {
                if task.redrives() > 0 {
                    // The receiver lives as long as this.
                    let _ = to_mend.unbounded_send(Mending { label, id });
                } else if let Some(after_ms) = task.cancel_after_ms {
                    tokio::time::sleep(Duration::from_millis(after_ms)).await;
                    self.book.doing(&label, Some("cancelling"));
                    self.cancel(&label, &id, parcel.way).await;
                    self.book.doing(&label, None);
                }
            }
        }
        Ok(())
    }

    /// Gives the labels and ids under which they were accepted.
    async fn send_amqp(&self, parcel: &Parcel, labels: &[String]) -> Vec<(String, String)> {
        for (task, label) in parcel.tasks.iter().zip(labels) {
            for tries in 0.. {
                self.book.sending(label, *task);
                match self.amqp.publish(label, task).await {
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
        labels.iter().map(|label| (label.clone(), label.clone())).collect()
    }

    /// The key of a parcel.
    fn key(&self, index: usize) -> String {
        format!("{}-parcel-{index}", self.run)
    }

    /// Gives the labels and ids under which they were accepted.
    async fn send_http(
        &self,
        index: usize,
        parcel: &Parcel,
        mut labels: Vec<String>,
        host: usize,
    ) -> Vec<(String, String)> {
        let bases = labels.clone();
        let key = parcel.way.is_repeatable().then(|| self.key(index));
        for tries in 0.. {
            if key.is_none() && tries > 0 {
                labels = bases.iter().map(|base| format!("{base}-try-{tries}")).collect();
            }
            parcel.tasks.iter().zip(&labels).for_each(|(task, label)| self.book.sending(label, *task));
            // A careful client asks another host where one fails.
            let to = host.wrapping_add(usize::try_from(tries).unwrap_or(0));
            let answer = self.post(to, parcel, &labels, key.as_deref()).await;
            let first = labels.first().map_or("", String::as_str);
            let wait = match answer {
                http::Answer::Accepted(ids) => {
                    labels.iter().zip(&ids).for_each(|(label, id)| self.book.accepted(label, id));
                    if ids.len() != labels.len() {
                        self.book.refused(first, format!("{} ids for {} tasks", ids.len(), labels.len()));
                    }
                    return labels.into_iter().zip(ids).collect();
                }
                // The audit will blame the host; the run goes on, so that it finds what else there is.
                http::Answer::Refused(why) | http::Answer::Conflict(why) => {
                    self.book.refused(first, why);
                    None
                }
                http::Answer::Unknown { wait } => wait,
            };
            tokio::time::sleep(wait.unwrap_or(pause(tries))).await;
        }
        Vec::new()
    }

    async fn post(&self, host: usize, parcel: &Parcel, labels: &[String], key: Option<&str>) -> http::Answer {
        let bodies: Vec<String> = parcel.tasks.iter().zip(labels).map(|(task, label)| task.body(label)).collect();
        let sending = http::Sending {
            bodies: &bodies,
            is_batch: matches!(parcel.way, Way::Batch { .. }),
            key,
            delay_ms: parcel.delay_ms,
            attempts_max: parcel.tasks.first().and_then(Task::attempts_max),
        };
        self.http.submit(host, &sending).await
    }

    /// Sends something else under the key of a parcel that was accepted. Would it run, the audit would find its labels.
    async fn send_altered(&self, index: usize, parcel: &Parcel, labels: &[String]) {
        let Some(first) = labels.first() else { return };
        while !self.book.is_accepted(first) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let labels: Vec<String> = labels.iter().map(|label| format!("{label}-altered")).collect();
        for tries in 0.. {
            let host = index.wrapping_add(usize::try_from(tries).unwrap_or(0));
            match self.post(host, parcel, &labels, Some(&self.key(index))).await {
                http::Answer::Conflict(_) => return,
                http::Answer::Unknown { wait } => tokio::time::sleep(wait.unwrap_or(pause(tries))).await,
                http::Answer::Refused(why) => return self.book.refused(first, why),
                http::Answer::Accepted(_) => {
                    return self.book.refused(first, "its key was taken for another body".to_owned());
                }
            }
        }
    }
}
