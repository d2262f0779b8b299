//! Whether all connections stand, as one value.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::delivery::Connectivity;

/// What a connection is for. Publishing first: it is the one that refuses its login or its vhost to the user's face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Publishes.
    Publish,
    /// Consumes.
    Consume,
    /// Declares, counts and looks.
    Declare,
}

/// All, in the order in which they are made.
pub(super) const ROLES: [Role; 3] = [Role::Publish, Role::Consume, Role::Declare];

impl Role {
    /// Its name in logs and in RabbitMQ's list of connections.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Declare => "declare",
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
    declare: Connectivity,
}

impl Default for Health {
    fn default() -> Self {
        let [publish, consume, declare] = [Connectivity::Down; 3];
        let links = Links { publish, consume, declare };
        Self { links: Mutex::new(links), combined: watch::channel(Connectivity::Down).0 }
    }
}

impl Health {
    pub(super) fn set(&self, role: Role, state: Connectivity) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        match role {
            Role::Publish => links.publish = state,
            Role::Consume => links.consume = state,
            Role::Declare => links.declare = state,
        }
        let Links { publish, consume, declare } = *links;
        let is_down = [publish, consume, declare].contains(&Connectivity::Down);
        // The broker holds back publishers only; a consumer's connection is never blocked by what it does not send.
        let combined = if is_down { Connectivity::Down } else { publish };
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
