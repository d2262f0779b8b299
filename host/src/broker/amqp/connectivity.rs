//! Whether both connections stand, as one value.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::delivery::Connectivity;

/// What a connection is for. Publishing first: it is the one that refuses its login or its vhost to the user's face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Publishes.
    Publish,
    /// Consumes and declares.
    Consume,
}

/// Both, in the order in which they are made.
pub(super) const ROLES: [Role; 2] = [Role::Publish, Role::Consume];

impl Role {
    /// Its name in logs and in RabbitMQ's list of connections.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }
}

/// The state of each connection and what it makes together.
#[derive(Debug)]
pub(super) struct Health {
    links: Mutex<Links>,
    combined: watch::Sender<Connectivity>,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    publish: Connectivity,
    consume: Connectivity,
}

impl Default for Health {
    fn default() -> Self {
        let links = Links { publish: Connectivity::Down, consume: Connectivity::Down };
        Self { links: Mutex::new(links), combined: watch::channel(Connectivity::Down).0 }
    }
}

impl Health {
    pub(super) fn set(&self, role: Role, state: Connectivity) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        match role {
            Role::Publish => links.publish = state,
            Role::Consume => links.consume = state,
        }
        let combined = match (links.publish, links.consume) {
            (Connectivity::Down, _) | (_, Connectivity::Down) => Connectivity::Down,
            // The broker holds back publishers only; a consumer's connection is never blocked by what it does not send.
            (Connectivity::Blocked, _) => Connectivity::Blocked,
            (Connectivity::Up, _) => Connectivity::Up,
        };
        self.combined.send_if_modified(|known| std::mem::replace(known, combined) != combined);
    }

    /// The state of the publishing connection alone.
    pub(super) fn publishing(&self) -> Connectivity {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).publish
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Connectivity> {
        self.combined.subscribe()
    }
}
