//! `GET /v1/live`: how the host does, every second, as Server-Sent Events. What the dashboard draws.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::{Stream, stream};
use serde::Serialize;

use super::ApiState;
use super::problem::{Kind, Problem, ProblemDocument};
use crate::task::UnixMs;

/// Streams at the same time: one for each person who has the page open. Each costs a few KiB a second.
pub const STREAMS_MAX: usize = 64;

/// How one host does. Rates and latencies are over the last ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Snapshot {
    /// When, in Unix milliseconds.
    pub at: UnixMs,
    /// The host's name.
    pub host: String,
    /// Its resources.
    pub resources: HostLive,
    /// All agents together.
    pub total: AgentLive,
    /// Each agent that is deployed, in name order.
    pub agents: Vec<AgentLive>,
    /// Each host of the fleet that is there, in name order, as it said a few seconds ago.
    pub hosts: Vec<FleetHostLive>,
}

/// How a host of the fleet does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct FleetHostLive {
    /// Its name.
    pub host: String,
    /// Deliveries settled there per second.
    pub per_second: f64,
    /// Of 100 deliveries 95 took less, in milliseconds; null where there were none.
    pub p95_ms: Option<f64>,
    /// Failed attempts of all, from 0 to 1; null where there were none.
    pub error_ratio: Option<f64>,
    /// Tasks that run there.
    pub running: u64,
    /// What its process may keep resident, in bytes.
    pub memory_budget_bytes: u64,
    /// What is resident there, in bytes.
    pub memory_resident_bytes: u64,
}

/// The host's resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct HostLive {
    /// What the process may keep resident, in bytes.
    pub memory_budget_bytes: u64,
    /// What is accounted for: running tasks' memory, bodies and results in flight.
    pub memory_reserved_bytes: u64,
    /// What is resident.
    pub memory_resident_bytes: u64,
    /// Tasks that wait for memory.
    pub waiting_for_memory: u64,
    /// Instances alive.
    pub live_instances: u64,
    /// Connections to the agents' database that a task uses.
    pub connections_used: u64,
    /// How many there may be.
    pub connections_max: u64,
    /// Looked-up cache keys that were there, from 0 to 1, since the host started; null where none was looked up.
    pub cache_hit_ratio: Option<f64>,
}

/// How an agent's tasks do on this host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AgentLive {
    /// The agent; empty for all together.
    pub agent: String,
    /// Where its new tasks go, such as `3: 90 %, 4: 10 %`; empty for all together.
    pub traffic: String,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Tasks that run here now.
    pub running: u64,
    /// Ready messages in its queue, fleet-wide, as they were a few seconds ago.
    pub queue_depth: u64,
    /// Seconds that the oldest of them has waited, at most, likewise; of all together the most.
    pub queue_age_seconds: u64,
    /// Dead letters in its queue, likewise.
    pub dead_letters: u64,
    /// Deliveries settled here per second.
    pub per_second: f64,
    /// Half of the deliveries took less, in milliseconds; null where there were none.
    pub p50_ms: Option<f64>,
    /// Of 100 deliveries 95 took less.
    pub p95_ms: Option<f64>,
    /// Of 100 deliveries 99 took less.
    pub p99_ms: Option<f64>,
    /// Failed attempts of all, from 0 to 1; null where there were none.
    pub error_ratio: Option<f64>,
    /// Failed attempts per second, by reason.
    pub errors: Vec<ErrorLive>,
}

/// Failures of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ErrorLive {
    /// The outcome's name, such as `trapped`.
    pub reason: String,
    /// How many a second.
    pub per_second: f64,
}

/// How this host does, every second.
#[utoipa::path(
    get,
    path = "/v1/live",
    tag = "operation",
    responses(
        (status = 200, description = "One event a second", body = Snapshot, content_type = "text/event-stream"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many streams", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn stream(
    State(api): State<Arc<ApiState>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Ok(place) = Arc::clone(&api.streams).try_acquire_owned() else {
        return Err(Problem::new(
            Kind::Busy,
            format!("{STREAMS_MAX} streams of /v1/live are open, the most that this host serves; close one"),
        ));
    };
    let mut live = api.ports.live.clone();
    // What is there may be old: nobody may have looked at it.
    live.mark_unchanged();
    let draining = api.ports.draining.clone();
    let events = stream::unfold((live, place), move |(mut live, place)| {
        let draining = draining.clone();
        async move {
            tokio::select! {
                () = draining.cancelled() => return None,
                changed = live.changed() => changed.ok()?,
            }
            let json = serde_json::to_string(&**live.borrow_and_update()).unwrap_or_default();
            Some((Ok(Event::default().event("snapshot").data(json)), (live, place)))
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}
