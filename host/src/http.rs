//! The HTTP API (contract, section 4): tasks in, their state out, agents deployed.
//!
//! There is one way into an agent, the broker: this module publishes like any other client and never runs anything. It
//! meets the rest of the host on ports only ([`Submitter`], [`TaskRecords`], [`Agents`], [`DeadLetters`], [`SecretAdmin`]),
//! which `app` fills in.
//!
//! Promises that the handlers keep:
//! - a `202` is sent only when the broker has confirmed the task *and* its record is durable, so that no `GET` after it
//!   answers `404`;
//! - every error is a problem document (RFC 9457), those of axum's own extractors and of unknown routes included;
//! - what is held in memory for requests is bounded by [`Config`], whatever clients send, and so is the time that they
//!   wait for the broker: beyond it they get `429`;
//! - every route is in `/openapi.json`, because both come from the same registration.

mod agents;
mod auth;
mod batch;
mod dashboard;
mod dead_letters;
mod drain;
mod events;
mod extract;
mod failures;
mod health;
mod intake;
mod lifecycle;
mod live;
mod openapi;
mod outgoing;
mod paging;
mod patience;
mod problem;
mod revisions;
mod secrets;
mod server;
mod submission;
mod submit;
mod tasks;
mod traced;
mod view;

#[cfg(test)]
pub(crate) mod tests;

pub use auth::{Auth, Token};
pub use live::{AgentLive, ErrorLive, FleetHostLive, HostLive, STREAMS_MAX, Snapshot};
pub use server::{Tls, TlsError, serve};
pub use tasks::TASK_STREAMS_MAX;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::middleware;
use axum::response::Response;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::agents::Agents;
pub use crate::agents::MODULE_BYTES_MAX;
use crate::catalog::Events;
use crate::dead_letters::DeadLetters;
use crate::delivery::{Connectivity, Submitter};
use crate::memory::MemoryLedger;
use crate::records::TaskRecords;
use crate::secrets::SecretAdmin;
use crate::trace::Traces;
use crate::units::ByteSize;
use failures::Failures;
use intake::Intake;
use outgoing::Outgoing;

/// Largest body of one task, by default (contract, section 4).
pub const PAYLOAD_BYTES_MAX_DEFAULT: ByteSize = ByteSize(8 << 20);
/// Bytes of task bodies held for publishing at the same time, by default: room for one batch of the largest size.
pub const INTAKE_BYTES_MAX_DEFAULT: ByteSize = ByteSize(64 << 20);
/// Submissions handled at the same time, by default. At 1 ms per confirm this is far more than the broker takes in.
pub const INTAKE_REQUESTS_MAX_DEFAULT: u32 = 4_096;
/// How long the oldest submission to an agent may have waited before further ones are shed, by default. What was let in
/// just before waits about as long again, which makes the 2 s that 99 of 100 requests are to stay under (contract,
/// section 9).
pub const INTAKE_WAIT_MAX_DEFAULT: Duration = Duration::from_secs(1);
/// Largest body of a batch (contract, section 4).
pub const BATCH_BYTES_MAX: ByteSize = ByteSize(64 << 20);
/// Most tasks of a batch (contract, section 4).
pub const BATCH_TASKS_MAX: usize = 10_000;
/// Longest time that `Prefer: wait=N` holds a request; a larger N counts as this. Proxies cut requests off soon after.
pub const PREFER_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest `delay=` (contract, section 3).
pub const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Uploads of revisions held at the same time: each may hold a module of [`MODULE_BYTES_MAX`], and others wait.
const UPLOADS_MAX: usize = 1;

/// What the API allows.
#[derive(Clone, Debug)]
pub struct Config {
    /// The tokens in force.
    pub auth: Auth,
    /// Largest body of one task.
    pub payload_bytes_max: ByteSize,
    /// Bytes of task bodies held for publishing at the same time.
    pub intake_bytes_max: ByteSize,
    /// Submissions handled at the same time.
    pub intake_requests_max: u32,
    /// How long the oldest submission to an agent may have waited for its record and the broker's confirm before further
    /// ones are shed.
    pub intake_wait_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            auth: Auth::default(),
            payload_bytes_max: PAYLOAD_BYTES_MAX_DEFAULT,
            intake_bytes_max: INTAKE_BYTES_MAX_DEFAULT,
            intake_requests_max: INTAKE_REQUESTS_MAX_DEFAULT,
            intake_wait_max: INTAKE_WAIT_MAX_DEFAULT,
        }
    }
}

/// What the API stands on.
pub struct Ports {
    /// Publishes tasks.
    pub submit: Arc<dyn Submitter>,
    /// The connection to the broker, as it changes.
    pub connectivity: watch::Receiver<Connectivity>,
    /// The tasks' records.
    pub records: Arc<dyn TaskRecords>,
    /// The deployed agents.
    pub agents: Arc<dyn Agents>,
    /// The tasks that failed for good.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Secrets that operators set.
    pub secrets: Arc<dyn SecretAdmin>,
    /// The audit log.
    pub events: Arc<dyn Events>,
    /// The name of this host in it.
    pub host: Arc<str>,
    /// How the host does, as it changes every second.
    pub live: watch::Receiver<Arc<Snapshot>>,
    /// Renders all metrics in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Cancelled when the host begins to drain: readiness turns false, and waits and event streams end.
    pub draining: CancellationToken,
    /// Accounts for what is held of requests.
    pub memory: MemoryLedger,
    /// Where submissions are told of.
    pub traces: Traces,
}

/// What every handler sees.
struct ApiState {
    config: Config,
    ports: Ports,
    intake: Intake,
    outgoing: Outgoing,
    uploads: Semaphore,
    failures: Failures,
    streams: Arc<Semaphore>,
    task_streams: Arc<Semaphore>,
}

/// The API as a service: `axum::serve` it.
pub fn router(config: Config, ports: Ports) -> Router {
    let intake = Intake::new(&config, ports.memory.clone());
    let outgoing = Outgoing::new(ports.memory.clone());
    let state = Arc::new(ApiState {
        config,
        ports,
        intake,
        outgoing,
        uploads: Semaphore::new(UPLOADS_MAX),
        failures: Failures::default(),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        task_streams: Arc::new(Semaphore::new(TASK_STREAMS_MAX)),
    });
    let (routes, document) = documented(&state).split_for_parts();
    let text: Arc<str> = document.to_pretty_json().unwrap_or_default().into();
    routes
        .fallback(problem::unknown_route)
        .method_not_allowed_fallback(problem::method_not_allowed)
        // One layer, from the outside in: each of its own is a service in a box, which every request copies.
        .layer((
            middleware::from_fn(drain::refused_bodies),
            middleware::map_response(harden),
            axum::Extension(openapi::Document(text)),
        ))
        .with_state(state)
}

/// The routes, each with its documentation.
fn documented(state: &Arc<ApiState>) -> OpenApiRouter<Arc<ApiState>> {
    let mut tasks = OpenApiRouter::new().routes(routes!(submit::submit)).routes(routes!(batch::submit_batch));
    if state.ports.traces.is_on() {
        tasks = tasks.route_layer(middleware::from_fn_with_state(Arc::clone(state), traced::submission));
    }
    let tasks = tasks
        .routes(routes!(tasks::show, tasks::cancel))
        .routes(routes!(tasks::output))
        .routes(routes!(tasks::events))
        .routes(routes!(tasks::logs))
        .route_layer(middleware::from_fn_with_state(Arc::clone(state), auth::tasks));
    let admin = OpenApiRouter::new()
        .routes(routes!(agents::list))
        .routes(routes!(agents::show, lifecycle::remove))
        .routes(routes!(revisions::deploy))
        .routes(routes!(lifecycle::rollback))
        .routes(routes!(lifecycle::traffic))
        .routes(routes!(lifecycle::pause))
        .routes(routes!(lifecycle::resume))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::remove))
        .routes(routes!(events::list))
        .routes(routes!(tasks::search))
        .routes(routes!(live::stream))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show, dead_letters::drop_one))
        .routes(routes!(dead_letters::recording))
        .routes(routes!(dead_letters::redrive_one))
        .routes(routes!(dead_letters::redrive_all))
        .routes(routes!(dead_letters::drop_all))
        .route_layer(middleware::from_fn_with_state(Arc::clone(state), auth::admin));
    let open = OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(dashboard::page))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi::document));
    // Handlers bound what they read themselves, each by its own limit.
    open.merge(tasks).merge(admin).layer(DefaultBodyLimit::disable())
}

/// Outputs are whatever agents make of what strangers send: no browser may take one for a page of this host.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The dashboard has a policy of its own.
    let policy = headers.entry(header::CONTENT_SECURITY_POLICY);
    policy.or_insert(HeaderValue::from_static("default-src 'none'; sandbox"));
    response
}
