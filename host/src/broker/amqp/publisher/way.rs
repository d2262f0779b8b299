//! How one message goes: where to, and through which delay queue.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::broker::topology::Bucket;
use crate::delivery::Route;
use crate::task::AgentName;

/// The way of a message.
pub(super) struct Way {
    pub(super) route: Route,
    /// The delay queue of a delayed one.
    pub(super) bucket: Option<Bucket>,
    /// Whether everything else was there, and the broker's answer was all that was waited for.
    pub(super) was_asked: Arc<AtomicBool>,
}

impl Way {
    pub(super) fn of(route: Route) -> Self {
        Self { route, bucket: None, was_asked: Arc::default() }
    }

    pub(super) fn through(bucket: Bucket, agent: AgentName, delay: Duration) -> Self {
        Self { bucket: Some(bucket), ..Self::of(Route::Delayed(agent, delay)) }
    }
}
