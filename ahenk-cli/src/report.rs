//! What the service tells about devices, peers and itself. These are the documents that `--json`
//! prints, so their field names are stable: add, never rename.

use engine::io::Traffic;
use serde::{Deserialize, Serialize};

/// A device of the account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) id: String,
    /// For comparing by eye.
    pub(crate) fingerprint: String,
    pub(crate) this: bool,
    pub(crate) admin: bool,
    /// Whether it is one of the account's no longer.
    #[serde(default)]
    pub(crate) revoked: bool,
    /// When its certificate was issued, in milliseconds since the Unix epoch.
    pub(crate) paired_ms: u64,
    pub(crate) connected: bool,
    /// When it was last connected, in milliseconds since the Unix epoch; `null` if that is not known.
    pub(crate) seen_ms: Option<u64>,
    /// How it is reached, while it is.
    pub(crate) path: Option<String>,
}

/// Another device, and the way to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) connected: bool,
    /// `direct-quic`, `direct-tcp` or `relayed`.
    pub(crate) path: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) round_trip_micros: Option<u64>,
    pub(crate) connected_ms: Option<u64>,
    /// Whether both know the same; `null` while not connected.
    pub(crate) in_sync: Option<bool>,
    /// Commits that this device has and the peer lacks.
    pub(crate) peer_lacks: Option<u64>,
    /// Commits that the peer has and this device lacks.
    pub(crate) we_lack: Option<u64>,
    pub(crate) clock_offset_ms: Option<i64>,
    pub(crate) ops_sent: u64,
    pub(crate) ops_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// The relay between, if there is one.
    #[serde(default)]
    pub(crate) relay: Option<String>,
    /// Where it may be found.
    pub(crate) addresses: Vec<String>,
    /// When it last said itself where it is found, by its own clock, in milliseconds since the Unix epoch; to whichever
    /// device, of which this one heard.
    #[serde(default)]
    pub(crate) addresses_ms: Option<u64>,
    pub(crate) dial_failures: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) next_attempt_ms: Option<u64>,
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Whether the daemon answers.
    pub(crate) running: bool,
    /// The daemon's process.
    pub(crate) pid: Option<u32>,
    pub(crate) home: String,
    pub(crate) account: String,
    pub(crate) device: String,
    pub(crate) name: String,
    pub(crate) replica: String,
    pub(crate) admin: bool,
    /// Milliseconds since the daemon started.
    pub(crate) up_ms: Option<u64>,
    /// Whether the daemon talks to other devices: the setting `sync.enabled` when it started.
    #[serde(default)]
    pub(crate) sync_enabled: bool,
    /// Whether sync is paused, until `resume` or the daemon's end.
    #[serde(default)]
    pub(crate) paused: bool,
    pub(crate) listening: Vec<String>,
    /// The relays of the setting `network.relay_servers`, or those learnt from other devices.
    #[serde(default)]
    pub(crate) relays: Vec<Relay>,
    pub(crate) peers: Vec<Peer>,
    /// Commits applied.
    pub(crate) position: u64,
    /// Equal on devices of equal knowledge.
    pub(crate) digest: String,
    /// When this device last knew the same as some peer, in milliseconds since the Unix epoch.
    pub(crate) last_sync_ms: Option<u64>,
    /// Commits that wait for what they depend on.
    pub(crate) waiting_commits: u64,
    /// The median of the peers' clocks minus ours, if it differs by more than a minute.
    pub(crate) clock_skew_ms: Option<i64>,
    /// Why this device was removed from the account, if it was; may be empty.
    #[serde(default)]
    pub(crate) revoked: Option<String>,
    /// Devices whose database was found to run twice.
    #[serde(default)]
    pub(crate) forks: Vec<Fork>,
    /// When it was noticed that the database is a copy, or an older state of it, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub(crate) copied_ms: Option<u64>,
    /// Where the daemon logs when it runs in the background.
    pub(crate) log: String,
}

/// A device's replica that is proven to have forked: two commits of one name were signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fork {
    /// The device's name.
    pub(crate) device: String,
    pub(crate) device_id: String,
    pub(crate) replica: String,
    /// The last of its commits that counts.
    pub(crate) seq: u64,
}

/// How things stand with a relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relay {
    pub(crate) address: String,
    /// Whether other devices reach this one through it.
    pub(crate) reserved: bool,
    /// Whether it was learnt from another device, and not configured here.
    #[serde(default)]
    pub(crate) learnt: bool,
    /// Failed attempts since the last success.
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
}

/// A round trip to another device, or why there was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pong {
    pub(crate) name: String,
    pub(crate) id: String,
    /// `null` if there was no answer.
    pub(crate) round_trip_micros: Option<u64>,
    /// The way it took: `direct-quic`, `direct-tcp` or `relayed`.
    pub(crate) path: Option<String>,
    pub(crate) address: Option<String>,
    /// Why there was no answer.
    pub(crate) error: Option<String>,
}

/// How this device stands in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetCheck {
    pub(crate) listening: Vec<String>,
    /// How far others can be expected to reach this device over IPv6: `off` if it does not listen there (the
    /// settings or the machine), `none` if the network has no IPv6, `local` or `global`.
    #[serde(default)]
    pub(crate) ipv6: String,
    /// The NAT in between, for QUIC: `unknown`, `none`, `endpoint-independent`, `endpoint-dependent` or `port-changing`.
    pub(crate) nat_udp: String,
    /// The same for TCP.
    pub(crate) nat_tcp: String,
    /// Where other devices and relays see this one.
    pub(crate) observed: Vec<String>,
    /// Addresses that can be dialed from outside, as far as known.
    pub(crate) confirmed: Vec<String>,
    /// What others found when they dialed this device to see whether that works.
    pub(crate) tests: Vec<DialTest>,
    /// What the router says to the wish for ports: `off`, `searching`, `no-gateway`, `not-public` or `mapped`.
    pub(crate) port_mapping: String,
    /// The addresses that the router maps to this device.
    pub(crate) mapped: Vec<String>,
    /// How it was asked: `upnp`, `pcp`, `nat-pmp`.
    #[serde(default)]
    pub(crate) mapped_by: Vec<String>,
    pub(crate) relays: Vec<RelayCheck>,
    /// Devices seen on the local network; `null` if discovery is off.
    pub(crate) mdns_seen: Option<u64>,
    /// The median of the peers' clocks minus ours.
    pub(crate) clock_offset_ms: Option<i64>,
    pub(crate) peers: Vec<Peer>,
}

/// What another device found when it dialed this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DialTest {
    pub(crate) address: String,
    pub(crate) reachable: bool,
}

/// A relay, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RelayCheck {
    pub(crate) address: String,
    pub(crate) reserved: bool,
    pub(crate) round_trip_micros: Option<u64>,
    pub(crate) last_error: Option<String>,
}

/// How the sync with one other device stands, in numbers. What is not known, or not while it is not connected, is
/// `null`; counters are of the present session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerStat {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) connected: bool,
    pub(crate) in_sync: Option<bool>,
    /// Whether its rows were ours when both last knew the same.
    pub(crate) rows_equal: Option<bool>,
    pub(crate) peer_lacks: Option<u64>,
    pub(crate) we_lack: Option<u64>,
    pub(crate) round_trip_micros: Option<u64>,
    pub(crate) clock_offset_ms: Option<i64>,
    pub(crate) last_sync_ms: Option<u64>,
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
}

/// Sync in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stats {
    pub(crate) account: String,
    pub(crate) device: String,
    pub(crate) name: String,
    pub(crate) replica: String,
    /// Milliseconds since the daemon started.
    pub(crate) up_ms: Option<u64>,
    /// Commits applied.
    pub(crate) position: u64,
    pub(crate) digest: String,
    pub(crate) last_sync_ms: Option<u64>,
    pub(crate) waiting_commits: u64,
    pub(crate) waiting_bytes: u64,
    /// Values that lost a true conflict, since the database was made.
    pub(crate) conflicts: u64,
    pub(crate) database_bytes: u64,
    /// Counters since the start, ended sessions included.
    pub(crate) total: Traffic,
    pub(crate) peers: Vec<PeerStat>,
}

/// What a wait has led to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Waited {
    /// The names of the devices that are connected, or in sync.
    pub(crate) peers: Vec<String>,
    pub(crate) took_ms: u64,
}

/// A completed sync.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Synced {
    /// Devices that know what this one knows.
    pub(crate) peers: usize,
    /// All other devices of the account, those that could not be reached included.
    #[serde(default)]
    pub(crate) devices: usize,
    pub(crate) position: u64,
    pub(crate) digest: String,
    pub(crate) took_ms: u64,
}

/// Whether sync is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paused {
    pub(crate) paused: bool,
    /// Whether it was otherwise before.
    pub(crate) changed: bool,
}

/// An address that is remembered now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Added {
    pub(crate) device: String,
    pub(crate) name: String,
    pub(crate) address: String,
}
