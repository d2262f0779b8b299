//! Carrying out the faults of a schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::hosts::Host;
use crate::progress::Progress;
use crate::relay::Relay;
use crate::schedule::{Fault, What};
use crate::servers::Servers;

/// What can be broken.
pub(crate) struct Fleet {
    pub(crate) hosts: Vec<Host>,
    /// In the order of `Server::ALL`.
    pub(crate) relays: Vec<Relay>,
    pub(crate) servers: Servers,
}

/// What was done so far.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) kills: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) cuts: AtomicU64,
}

/// Carries them out, each when its time has come; one may begin while others last. Returns when the last is over.
pub(crate) async fn run(faults: &[Fault], fleet: &Arc<Fleet>, done: &Arc<Done>, progress: &Progress) -> Result<()> {
    let mut under_way = JoinSet::new();
    for fault in faults {
        progress.reach(fault.after_ended).await;
        tokio::time::sleep(Duration::from_millis(fault.pause_ms)).await;
        under_way.spawn(carry_out(fault.what, Arc::clone(fleet), Arc::clone(done)));
        while let Some(ended) = under_way.try_join_next() {
            ended.context("a fault broke off")??;
        }
    }
    while let Some(ended) = under_way.join_next().await {
        ended.context("a fault broke off")??;
    }
    Ok(())
}

async fn carry_out(what: What, fleet: Arc<Fleet>, done: Arc<Done>) -> Result<()> {
    let count = match what {
        What::KillHost { host, down_ms } => {
            let host = fleet.hosts.get(host).context("a kill should name a host")?;
            host.kill(Duration::from_millis(down_ms)).await?;
            &done.kills
        }
        What::Restart { server, kill } => {
            fleet.servers.restart(server, kill).await?;
            &done.restarts
        }
        What::Disturb { server, how, for_ms } => {
            let relay = fleet.relays.get(server.index()).context("a disturbance should name a relay")?;
            relay.disturb(how, Duration::from_millis(for_ms)).await;
            &done.cuts
        }
    };
    count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
