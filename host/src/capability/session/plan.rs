//! What a revision may reach.

use std::sync::Arc;

use crate::capability::cache;
use crate::capability::key_value::Bucket;
use crate::capability::outbound_http::Outbound;
use crate::manifest::{Manifest, SqlGrant};
use crate::task::AgentName;

/// What a revision may reach. Made once per revision, shared by all of its tasks.
#[derive(Debug)]
pub struct SessionPlan {
    pub(super) agent: AgentName,
    pub(super) revision: u64,
    pub(super) manifest: Arc<Manifest>,
    buckets: Vec<(String, Bucket)>,
    cache_space: Option<cache::Space>,
    outbound: Arc<Outbound>,
}

impl SessionPlan {
    pub(in crate::capability) fn new(
        agent: AgentName,
        revision: u64,
        manifest: Arc<Manifest>,
        counts: Arc<cache::Counts>,
        outbound: Arc<Outbound>,
    ) -> Self {
        let named = |name: &String| (name.clone(), Bucket::new(&agent, name));
        Self {
            buckets: manifest.grants.key_value.iter().map(named).collect(),
            cache_space: manifest.grants.cache.then(|| cache::Space::new(&agent, counts)),
            agent,
            revision,
            manifest,
            outbound,
        }
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }

    /// The revision's number.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(in crate::capability) fn outbound(&self) -> &Arc<Outbound> {
        &self.outbound
    }

    pub(in crate::capability) fn bucket(&self, name: &str) -> Option<&Bucket> {
        self.buckets.iter().find(|(granted, _)| granted == name).map(|(_, bucket)| bucket)
    }

    pub(in crate::capability) fn cache_space(&self) -> Option<&cache::Space> {
        self.cache_space.as_ref()
    }

    pub(in crate::capability) fn sql_grant(&self, name: &str) -> Option<(usize, &SqlGrant)> {
        self.manifest.grants.sql.iter().enumerate().find(|(_, grant)| grant.name == name)
    }
}
