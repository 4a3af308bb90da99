//! Requests about the other devices: who they are, how they are reached, how far in sync they are.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahenk::NodeStatus;
use engine::identity::{DeviceCert, PeerKey};
use engine::pairing::fingerprint;
use engine::statement::Forked;
use engine::store::StoreRead as _;
use engine::transport::PathKind;
use transport_libp2p::{DialError, PeerDetails, RelayDetails};

use crate::error::{CliError, Kind, Result, closed};
use crate::report::{Added, Device, Fork, Paused, Peer, PeerStat, Relay, Stats, Status, Synced};
use crate::service::Context;

/// How long to wait for a device that was just dialed to say who it is.
const HELLO_TIME_MAX: Duration = Duration::from_secs(10);
/// Difference of clocks from which to warn, in milliseconds.
const SKEW_WARN_MS: u64 = 60_000;

pub(crate) async fn node_status(context: &Context) -> Result<NodeStatus> {
    context.db.status().await.ok_or_else(closed)
}

pub(crate) fn path_name(kind: PathKind) -> String {
    match kind {
        PathKind::Relayed => "relayed",
        PathKind::DirectTcp => "direct-tcp",
        PathKind::DirectQuic => "direct-quic",
        PathKind::InProcess => "in-process",
    }
    .to_owned()
}

/// What this device is called now, which its own certificate may not know.
fn own_name(context: &Context, node: &NodeStatus) -> String {
    let own = node.members.iter().find(|cert| cert.key == context.identity.peer_key());
    own.unwrap_or(&context.identity.cert).name.clone()
}

/// Why this device was revoked; empty if no reason was given.
fn reason_of(node: &NodeStatus, context: &Context) -> String {
    let own = context.identity.device();
    let found = node.revocations.iter().find(|revocation| revocation.device == own);
    found.map(|revocation| revocation.reason.clone()).unwrap_or_default()
}

/// The forks that are proven, by the names of their devices.
pub(crate) fn forks_of(node: &NodeStatus) -> Vec<Fork> {
    let name = |id| node.members.iter().find(|cert| cert.device() == id).map(|cert| cert.name.clone());
    let fork = |fork: &Forked| Fork {
        device: name(fork.replica.device).unwrap_or_else(|| fork.replica.device.to_string()),
        device_id: fork.replica.device.to_string(),
        replica: fork.replica.to_string(),
        seq: fork.seq,
    };
    node.forks.iter().map(fork).collect()
}

/// The key under which it is kept when a device was last connected.
pub(crate) fn seen_key(peer: &PeerKey) -> String {
    format!("seen/{}", engine::identity::hex(&peer.0))
}

/// The key under which it is kept when the database was last found to be a copy.
pub(crate) const COPIED_KEY: &str = "copied";

/// A time that is kept on this device.
fn noted_ms(context: &Context, key: &str) -> Result<Option<u64>> {
    let stored = context.db.store().local(key)?;
    Ok(stored.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))))
}

pub(crate) async fn devices(context: &Context) -> Result<Vec<Device>> {
    let status = node_status(context).await?;
    let device = |cert: &DeviceCert| -> Result<Device> {
        let path = status.paths.get(&cert.key);
        let ready = status.stats.peers.iter().any(|peer| peer.peer == cert.key && peer.ready);
        Ok(Device {
            name: cert.name.clone(),
            id: cert.device().to_string(),
            fingerprint: fingerprint(&cert.key),
            this: cert.key == context.identity.peer_key(),
            admin: cert.admin,
            revoked: status.revocations.iter().any(|revocation| revocation.device == cert.device()),
            paired_ms: cert.issued_ms,
            connected: ready,
            seen_ms: noted_ms(context, &seen_key(&cert.key))?,
            path: path.filter(|_| ready).map(|path| path_name(path.path.kind)),
        })
    };
    let mut devices = status.members.iter().map(device).collect::<Result<Vec<_>>>()?;
    devices.sort_by(|a, b| (!a.this, &a.name, &a.id).cmp(&(!b.this, &b.name, &b.id)));
    Ok(devices)
}

pub(crate) async fn peers(context: &Context) -> Result<Vec<Peer>> {
    let status = node_status(context).await?;
    peers_of(context, &status).await
}

async fn peers_of(context: &Context, status: &NodeStatus) -> Result<Vec<Peer>> {
    let details = match &context.net {
        Some(net) => net.peers().await?,
        None => Vec::new(),
    };
    let others = others(context, status);
    let mut peers: Vec<Peer> =
        others.map(|cert| peer(cert, status, details.iter().find(|peer| peer.peer == cert.key))).collect();
    peers.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(peers)
}

/// The account's other devices, without those that were revoked.
fn others<'a>(context: &Context, status: &'a NodeStatus) -> impl Iterator<Item = &'a DeviceCert> {
    let own = context.identity.peer_key();
    let revoked =
        |cert: &DeviceCert| status.revocations.iter().any(|revocation| revocation.device == cert.device());
    status.members.iter().filter(move |cert| cert.key != own && !revoked(cert))
}

fn peer(cert: &DeviceCert, status: &NodeStatus, details: Option<&PeerDetails>) -> Peer {
    let stats = status.stats.peers.iter().find(|peer| peer.peer == cert.key && peer.ready);
    let path = status.paths.get(&cert.key).filter(|_| stats.is_some());
    let traffic = stats.map(|stats| stats.traffic).unwrap_or_default();
    Peer {
        name: cert.name.clone(),
        id: cert.device().to_string(),
        connected: stats.is_some(),
        path: path.map(|path| path_name(path.path.kind)),
        address: path.map(|path| path.path.address.clone()),
        round_trip_micros: path.and_then(|path| path.round_trip_micros),
        connected_ms: path.map(|path| path.since_ms),
        in_sync: stats.map(|stats| stats.synced),
        peer_lacks: stats.map(|stats| stats.behind),
        we_lack: stats.map(|stats| stats.ahead),
        clock_offset_ms: stats.and_then(|stats| stats.clock_offset_ms),
        ops_sent: traffic.ops_sent,
        ops_received: traffic.ops_received,
        bytes_sent: traffic.bytes_sent,
        bytes_received: traffic.bytes_received,
        relay: path.and_then(|path| relay_of(&path.path.address)),
        addresses: details.map(|details| details.addresses.clone()).unwrap_or_default(),
        addresses_ms: details.and_then(|details| details.said_ms),
        dial_failures: details.map_or(0, |details| details.dial_failures),
        last_error: details.and_then(|details| details.last_error.clone()),
        next_attempt_ms: details.and_then(|details| details.next_attempt_in).map(millis),
    }
}

/// The relay in an address that leads through one.
fn relay_of(address: &str) -> Option<String> {
    address.split_once("/p2p-circuit").map(|(relay, _)| relay.to_owned())
}

fn relay(details: RelayDetails) -> Relay {
    let RelayDetails { address, reserved, learnt, failures, last_error, .. } = details;
    Relay { address, reserved, learnt, failures, last_error }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The digest as text.
pub(crate) fn digest_text(digest: u128) -> String {
    format!("{digest:032x}")
}

pub(crate) async fn status(context: &Context) -> Result<Status> {
    let node = node_status(context).await?;
    let peers = peers_of(context, &node).await?;
    let listening = match &context.net {
        Some(net) => net.listen_addresses().await?,
        None => Vec::new(),
    };
    let relays = match &context.net {
        Some(net) => net.relays().await?.into_iter().map(relay).collect(),
        None => Vec::new(),
    };
    let running = context.stop.is_some();
    Ok(Status {
        running,
        pid: running.then(std::process::id),
        home: context.home.dir().display().to_string(),
        account: context.identity.account().to_string(),
        device: context.identity.device().to_string(),
        name: own_name(context, &node),
        replica: node.stats.replica.to_string(),
        admin: node.administers,
        up_ms: running.then(|| millis(context.started.elapsed())),
        sync_enabled: running && context.net.is_some(),
        paused: context.paused.load(Ordering::Relaxed),
        listening,
        relays,
        clock_skew_ms: node.stats.clock_offset_ms().filter(|offset| offset.unsigned_abs() > SKEW_WARN_MS),
        peers,
        position: node.position,
        digest: digest_text(node.digest),
        last_sync_ms: Some(node.stats.last_sync_ms).filter(|&ms| ms > 0),
        waiting_commits: node.stats.waiting_commits,
        revoked: node.revoked.then(|| reason_of(&node, context)),
        forks: forks_of(&node),
        copied_ms: noted_ms(context, COPIED_KEY)?,
        log: context.home.log_path().display().to_string(),
    })
}

/// Sync in numbers.
pub(crate) async fn stats(context: &Context) -> Result<Stats> {
    let node = node_status(context).await?;
    let mut peers: Vec<PeerStat> = others(context, &node).map(|cert| peer_stat(cert, &node)).collect();
    peers.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    let path = context.home.database_path()?;
    let file = std::fs::metadata(&path).map_err(|error| CliError::io("read", &path, &error))?;
    Ok(Stats {
        account: context.identity.account().to_string(),
        device: context.identity.device().to_string(),
        name: own_name(context, &node),
        replica: node.stats.replica.to_string(),
        up_ms: context.stop.is_some().then(|| millis(context.started.elapsed())),
        position: node.position,
        digest: digest_text(node.digest),
        last_sync_ms: Some(node.stats.last_sync_ms).filter(|&ms| ms > 0),
        waiting_commits: node.stats.waiting_commits,
        waiting_bytes: node.stats.waiting_bytes,
        // Their ids begin at 1.
        conflicts: context.db.store().recover()?.conflict_next.saturating_sub(1),
        database_bytes: file.len(),
        total: node.stats.total,
        peers,
    })
}

fn peer_stat(cert: &DeviceCert, node: &NodeStatus) -> PeerStat {
    let stats = node.stats.peers.iter().find(|peer| peer.peer == cert.key && peer.ready);
    PeerStat {
        name: cert.name.clone(),
        id: cert.device().to_string(),
        connected: stats.is_some(),
        in_sync: stats.map(|stats| stats.synced),
        rows_equal: stats.and_then(|stats| stats.rows_equal),
        peer_lacks: stats.map(|stats| stats.behind),
        we_lack: stats.map(|stats| stats.ahead),
        round_trip_micros: node.paths.get(&cert.key).and_then(|path| path.round_trip_micros),
        clock_offset_ms: stats.and_then(|stats| stats.clock_offset_ms),
        last_sync_ms: stats.map(|stats| stats.last_sync_ms).filter(|&ms| ms > 0),
        traffic: stats.map(|stats| stats.traffic).unwrap_or_default(),
    }
}

pub(crate) async fn sync(context: &Context, within: Duration) -> Result<Synced> {
    let started = Instant::now();
    let status = node_status(context).await?;
    if status.revoked {
        return Err(CliError::new(Kind::NotAuthorised, "this device was removed from the account")
            .hint("`ahenk-cli status` says why; to take part again, pair it anew into another home folder"));
    }
    let devices = others(context, &status).count();
    if devices == 0 {
        return Err(CliError::new(Kind::NotFound, "this account has no other device yet")
            .hint("`ahenk-cli device invite` here, then `ahenk-cli device join` there"));
    }
    context.net()?.network_changed().await?;
    let report = context.db.sync(within).await?;
    let status = node_status(context).await?;
    Ok(Synced {
        peers: report.peers,
        devices,
        position: status.position,
        digest: digest_text(status.digest),
        took_ms: millis(started.elapsed()),
    })
}

/// Pauses sync, or lets it go on.
pub(crate) async fn pause(context: &Context, paused: bool) -> Result<Paused> {
    let changed = context.net_even_paused()?.pause(paused).await?;
    context.paused.store(paused, Ordering::Relaxed);
    Ok(Paused { paused, changed })
}

/// Connects to an address, and remembers it if a device of the account is there.
pub(crate) async fn add(context: &Context, address: &str) -> Result<Added> {
    let net = context.net()?;
    if net.listen_addresses().await?.iter().any(|own| same_place(own, address)) {
        return Err(CliError::usage("that is an address of this device itself")
            .hint("give one of the other device's, as `ahenk-cli status` lists them there"));
    }
    let mut events = context.db.events();
    let peer = net.dial(address).await.map_err(dial_error)?;
    let added = |cert: &DeviceCert| Added {
        device: cert.device().to_string(),
        name: cert.name.clone(),
        address: address.to_owned(),
    };
    let known = node_status(context).await?.members.into_iter().find(|cert| cert.key == peer);
    if let Some(cert) = known {
        net.add_address(peer, address).await.map_err(CliError::usage)?;
        return Ok(added(&cert));
    }
    // Not known yet: a device that another one admitted, or a stranger. Its greeting tells.
    let waiting = async {
        loop {
            use engine::io::Event;
            match events.recv().await {
                Ok(Event::Connected { device }) if device == peer.device() => return Ok(()),
                Ok(Event::PeerFault { device, text, .. }) if device == peer.device() => return Err(text),
                Ok(Event::Disconnected { device, reason, .. }) if device == peer.device() => {
                    return Err(reason);
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return Err("closed".to_owned()),
                _ => {}
            }
        }
    };
    let heard = tokio::time::timeout(HELLO_TIME_MAX, waiting).await;
    let cert = node_status(context).await?.members.into_iter().find(|cert| cert.key == peer);
    match (heard, cert) {
        (_, Some(cert)) => {
            net.add_address(peer, address).await.map_err(CliError::usage)?;
            Ok(added(&cert))
        }
        (Ok(Err(reason)), None) => Err(stranger(&reason)),
        (_, None) => Err(stranger("it did not say who it is")),
    }
}

/// Whether two addresses are the same, with or without the id at the end. At a relay, that id tells devices apart.
fn same_place(a: &str, b: &str) -> bool {
    if a.contains("/p2p-circuit") || b.contains("/p2p-circuit") {
        return a == b;
    }
    let place = |address: &str| address.split("/p2p/").next().unwrap_or_default().to_owned();
    place(a) == place(b)
}

fn stranger(reason: &str) -> CliError {
    CliError::new(Kind::NotAuthorised, format!("the device there is not one of this account: {reason}"))
        .hint("to admit it: `ahenk-cli device invite` here, then `ahenk-cli device join` there")
}

fn dial_error(error: DialError) -> CliError {
    match error {
        DialError::Address(error) => {
            CliError::usage(error).hint("`ahenk-cli status` on the other device lists its addresses")
        }
        DialError::Failed(_) => CliError::new(Kind::Network, error)
            .hint("is `ahenk-cli start` running there, and does a firewall let it through?"),
        _ => closed(),
    }
}

#[cfg(test)]
mod tests {
    use super::same_place;

    #[test]
    fn two_devices_at_one_relay_are_at_two_places() {
        let direct = "/ip4/192.0.2.1/tcp/1";
        assert!(
            same_place(direct, "/ip4/192.0.2.1/tcp/1/p2p/A") && !same_place(direct, "/ip4/192.0.2.1/tcp/2")
        );
        let at = |id: &str| format!("{direct}/p2p/R/p2p-circuit/p2p/{id}");
        assert!(same_place(&at("A"), &at("A")));
        assert!(!same_place(&at("A"), &at("B")) && !same_place(direct, &at("A")));
    }
}
