//! Tasks that the broker took out of an agent's queue because they expired before a host saw them.
//!
//! Left at that, such a task would vanish from its sender's view: no status, no result, no dead letter with a reason. So
//! it goes back to its agent's queue with its deadline written down, where the next host that gets it ends it as
//! `expired` in the one way in which tasks end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::publisher::Publisher;
use crate::broker::topology;
use crate::delivery::envelope::{self, DeathNote};
use crate::delivery::{Delivery, Message, PublishError, Route};
use crate::task::{AgentName, Outcome, unix_ms_now};

/// Wait before a task that could not be sent on is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends expired tasks, which come with their routing key, back to their agents until the end of the deliveries.
pub(super) async fn send_round(
    mut deliveries: mpsc::Receiver<(String, Delivery)>,
    publisher: Arc<Publisher>,
    closing: CancellationToken,
) {
    while let Some((routing_key, delivery)) = deliveries.recv().await {
        let came_from = || envelope::first_queue(&delivery.message).and_then(|queue| topology::agent_of_queue(&queue));
        let Some(agent) = topology::agent_of(&routing_key).or_else(came_from) else {
            tracing::error!(routing_key, "a message in agents.expired is no agent's; it is dropped");
            delivery.receipt.acknowledge();
            continue;
        };
        let sent = if Publisher::can_be_published(&delivery.message) {
            send(&publisher, &agent, envelope::expired_again(&delivery.message, unix_ms_now())).await
        } else {
            // No host could send it on. Its letter is all that can be made of it.
            let letter = envelope::dead_letter(&delivery.message, &note(&delivery.message));
            publisher.publish(Route::DeadLetter(agent.clone()), letter).await
        };
        match sent {
            Ok(()) => delivery.receipt.acknowledge(),
            Err(error) => {
                tracing::warn!(%agent, %error, "an expired task could not be sent on; trying later");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = closing.cancelled() => {}
                }
                delivery.receipt.hand_back();
            }
        }
    }
}

/// Why a message is a dead letter that expired and is too large for a task.
fn note(message: &Message) -> DeathNote {
    let reason = "it expired, and is larger than any task may be";
    let malformed = envelope::malformed(message, reason);
    DeathNote {
        task_id: malformed.task_id,
        error_type: Outcome::Expired.name().to_owned(),
        error_message: reason.to_owned(),
        failed_at_ms: unix_ms_now(),
        attempts: 0,
        generation: envelope::generation(message),
        revision: None,
        digest: None,
        host: String::new(),
    }
}

/// An agent whose queue was deleted meanwhile gets it back: the task has to end somewhere.
async fn send(publisher: &Publisher, agent: &AgentName, message: Message) -> Result<(), PublishError> {
    match publisher.publish(Route::Agent(agent.clone()), message.clone()).await {
        Err(PublishError::Unroutable { .. }) => {
            publisher.declare(agent).await.map_err(PublishError::Unavailable)?;
            publisher.publish(Route::Agent(agent.clone()), message).await
        }
        settled => settled,
    }
}
