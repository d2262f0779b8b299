//! Agents, their revisions and what was done with them, as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::agents::{AgentInfo, AgentState, Plan};
use crate::catalog::{Event, HostSeen, RevisionSummary};
use crate::task::{AgentName, UnixMs};

/// A deployed agent.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AgentView {
    /// Its name.
    name: String,
    /// One line for people, from its manifest.
    description: String,
    /// The active revision.
    revision: u64,
    /// Digest of the active revision's module.
    digest: Option<String>,
    /// Its state on this host.
    state: AgentState,
    /// Tasks of it that run on this host now.
    running: u64,
    /// Ready messages in its queue; null where the broker could not be asked.
    queue_depth: Option<u64>,
    /// Its dead letters, likewise.
    dead_letters: Option<u64>,
    /// Percent of new tasks by revision.
    traffic: BTreeMap<String, u8>,
    /// How often it was changed; in lists, as far as this host has followed.
    change: u64,
    /// The hosts of the fleet, and how far each of them is; left out in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostView>,
    /// Limits of the active revision.
    limits: LimitsView,
    /// While traffic is split: how first attempts ended on each revision since then, on all hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trial: Vec<TallyView>,
    /// Its revisions, oldest first.
    revisions: Vec<RevisionView>,
    /// What was done with it last, the newest first; left out in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    history: Vec<EventView>,
}

/// A host of the fleet.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct HostView {
    /// Its name.
    host: String,
    /// The change of the agent that it serves, or failed to; null where it does not have the agent.
    change: Option<u64>,
    /// Why it could not follow that change so far.
    error: Option<String>,
}

impl From<HostSeen> for HostView {
    fn from(seen: HostSeen) -> Self {
        let (change, error) = seen.following.map(|following| (following.change, following.error)).unzip();
        Self { host: seen.host, change, error: error.flatten() }
    }
}

/// How first attempts ended on a revision.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct TallyView {
    /// The revision.
    revision: u64,
    /// Tasks that succeeded.
    succeeded: u64,
    /// Tasks that failed.
    failed: u64,
}

/// Something that was done.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct EventView {
    /// Its place in the log.
    id: u64,
    /// When, in Unix milliseconds.
    at: UnixMs,
    /// Who did it: the token's role and the address that it came from, or `host` for what a host did by itself.
    actor: String,
    /// The host that it was done on.
    host: String,
    /// What was done, such as `deployed`, `rolled-back` or `canary-rolled-back`.
    action: String,
    /// To which agent.
    agent: Option<String>,
    /// One line for people.
    detail: String,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let Event { id, at_ms, actor, host, action, agent, detail } = event;
        Self { id, at: at_ms, actor, host, action, agent, detail }
    }
}

/// Limits of one run.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct LimitsView {
    /// Memory of one instance, in bytes.
    memory_bytes: u64,
    /// Wall clock, in milliseconds.
    timeout_ms: u64,
    /// Time inside the guest, in milliseconds.
    cpu_ms: u64,
    /// Instances per host.
    concurrency: u32,
    /// One output, in bytes.
    output_bytes: u64,
    /// Log lines of one task, in bytes.
    log_bytes: u64,
}

/// One revision of an agent.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RevisionView {
    /// Its number, from 1.
    revision: u64,
    /// `sha256:<hex>` of the module as sent.
    digest: String,
    /// Size of the module.
    module_bytes: u64,
    /// When it was added, in Unix milliseconds.
    created_at: UnixMs,
    /// How many signatures it has. Whether one of them is of a key that a host trusts, that host tells.
    signatures: u32,
    /// Whether new tasks run on it.
    active: bool,
}

impl From<RevisionSummary> for RevisionView {
    fn from(summary: RevisionSummary) -> Self {
        Self {
            revision: summary.revision,
            digest: summary.digest,
            module_bytes: summary.module_bytes,
            created_at: summary.created_at_ms,
            signatures: summary.signatures,
            active: summary.active,
        }
    }
}

impl From<AgentInfo> for AgentView {
    fn from(info: AgentInfo) -> Self {
        let limits = &info.manifest.limits;
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let active = info.revisions.iter().find(|revision| revision.revision == info.revision);
        Self {
            name: info.name.to_string(),
            description: info.manifest.agent.description.clone(),
            revision: info.revision,
            digest: active.map(|revision| revision.digest.clone()),
            state: info.state,
            running: info.running,
            queue_depth: info.queue_depth,
            dead_letters: info.dead_letters,
            traffic: info
                .traffic
                .weights()
                .into_iter()
                .map(|(revision, percent)| (revision.to_string(), percent))
                .collect(),
            change: info.change,
            hosts: info.hosts.into_iter().map(HostView::from).collect(),
            trial: info
                .tallies
                .into_iter()
                .map(|(revision, tally)| TallyView { revision, succeeded: tally.succeeded, failed: tally.failed })
                .collect(),
            history: info.history.into_iter().map(EventView::from).collect(),
            limits: LimitsView {
                memory_bytes: limits.memory.0,
                timeout_ms: ms(limits.timeout),
                cpu_ms: ms(limits.cpu),
                concurrency: limits.concurrency,
                output_bytes: limits.output.0,
                log_bytes: limits.log.0,
            },
            revisions: info.revisions.into_iter().map(RevisionView::from).collect(),
        }
    }
}

/// A revision that was deployed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeployedView {
    /// The agent.
    pub(crate) agent: String,
    /// The revision's number.
    pub(crate) revision: u64,
    /// `sha256:<hex>` of the module as sent.
    pub(crate) digest: String,
    /// `active` where new tasks run on it, else `inactive`.
    pub(crate) status: &'static str,
    /// The trusted key that vouches for it; left out where this host trusts everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signed_by: Option<String>,
}

/// What a deploy would change.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct PlanView {
    /// The agent.
    agent: String,
    /// `planned`.
    status: &'static str,
    /// `sha256:<hex>` of the module as sent.
    digest: String,
    /// Size of the module.
    module_bytes: u64,
    /// The number that this pair of module and manifest has already.
    known: Option<u64>,
    /// The revision that is active now.
    active: Option<u64>,
    /// What differs from that one: the module, its imports, keys of the manifest, migrations.
    differences: Vec<DifferenceView>,
}

/// One thing that a deploy would change.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DifferenceView {
    /// What.
    what: String,
    /// What it is now; null where it is new.
    from: Option<String>,
    /// What it would be; null where it goes.
    to: Option<String>,
}

impl PlanView {
    pub(crate) fn of(agent: &AgentName, plan: Plan) -> Self {
        let view = |difference: crate::agents::Difference| DifferenceView {
            what: difference.what,
            from: difference.from,
            to: difference.to,
        };
        Self {
            agent: agent.to_string(),
            status: "planned",
            digest: plan.digest,
            module_bytes: plan.module_bytes,
            known: plan.known,
            active: plan.active,
            differences: plan.differences.into_iter().map(view).collect(),
        }
    }
}

/// What a deploy answers. For the description alone.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answer in the OpenAPI document")]
pub(crate) enum DeployedOrPlanView {
    /// It is deployed.
    Deployed(DeployedView),
    /// It would be, with these changes.
    Plan(PlanView),
}
