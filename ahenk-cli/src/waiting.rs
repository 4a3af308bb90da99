//! Waiting until this device is connected to others, or in sync with them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ahenk::NodeStatus;
use engine::identity::DeviceId;

use crate::data::Names;
use crate::error::{CliError, Kind, Result, closed};
use crate::report::Waited;
use crate::service::Context;

/// Longest time between two looks; what happens is looked at at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Waits for these devices, or for whichever are connected; until they know what this one knows, if `synced`.
pub(crate) async fn wait(
    context: &Context,
    synced: bool,
    peers: &[String],
    within: Duration,
) -> Result<Waited> {
    let started = Instant::now();
    let names = Names::read(context).await?;
    let mut wanted = BTreeSet::new();
    for text in peers {
        let device = names.one(text)?;
        if device == context.identity.device() {
            return Err(CliError::usage("that is this device itself").hint("name another device"));
        }
        wanted.insert(device);
    }
    let mut events = context.db.events();
    context.net()?.network_changed().await?;
    if synced {
        let waiting = context.db.clone();
        // Has all devices compared; when that is done is seen below.
        tokio::spawn(async move { waiting.sync(within).await });
    }
    loop {
        let status = context.db.status().await.ok_or_else(closed)?;
        let missing = match state(&status, synced, &wanted) {
            Ok(devices) => {
                let peers = devices.into_iter().map(|device| names.name(device)).collect();
                let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Ok(Waited { peers, took_ms });
            }
            Err(missing) => missing,
        };
        let left = within.saturating_sub(started.elapsed());
        if left.is_zero() {
            let who = missing.into_iter().map(|device| names.name(device)).collect::<Vec<_>>().join(", ");
            let what = match (who.is_empty(), synced) {
                (true, _) => "no other device is connected".to_owned(),
                (_, true) => format!("not in sync with {who}"),
                (_, false) => format!("not connected to {who}"),
            };
            return Err(CliError::new(Kind::Network, format!("the time is up: {what}")).hint(
                "is the other device on, and its daemon running? `ahenk-cli peer list --verbose` shows what was tried",
            ));
        }
        // That there was an event, or that some were missed, is reason enough to look again.
        let _ = tokio::time::timeout(left.min(LOOK_EVERY), events.recv()).await;
    }
}

/// The devices that are as they are to be; those that are not yet, as an error.
fn state(
    status: &NodeStatus,
    synced: bool,
    wanted: &BTreeSet<DeviceId>,
) -> Result<Vec<DeviceId>, Vec<DeviceId>> {
    let connected = || status.stats.peers.iter().filter(|peer| peer.ready);
    let missing: Vec<DeviceId> = if wanted.is_empty() {
        connected().filter(|peer| synced && !peer.synced).map(|peer| peer.peer.device()).collect()
    } else {
        let so = |device: &DeviceId| {
            connected().any(|peer| peer.peer.device() == *device && (!synced || peer.synced))
        };
        wanted.iter().filter(|device| !so(device)).copied().collect()
    };
    if !missing.is_empty() || connected().next().is_none() {
        return Err(missing);
    }
    if wanted.is_empty() {
        return Ok(connected().map(|peer| peer.peer.device()).collect());
    }
    Ok(wanted.iter().copied().collect())
}
