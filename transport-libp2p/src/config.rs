//! What a transport is started with, and why it may fail to start.

use std::collections::BTreeSet;

use engine::identity::{DeviceCert, PeerKey, SecretKey};
use engine::transport::PathKind;

use crate::addresses::AddressError;

/// Where a device listens unless told otherwise: on all interfaces, at ports that the system chooses.
pub const LISTEN: [&str; 4] =
    ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/0/quic-v1", "/ip6/::/tcp/0"];

/// What [`crate::Libp2pTransport::spawn`] needs.
#[derive(Debug, Clone)]
pub struct Libp2pConfig {
    /// The device's key; our peer id is made of it.
    pub secret: SecretKey,
    /// Multiaddrs to listen on, TCP (`/ip4/0.0.0.0/tcp/0`) and QUIC (`/ip6/::/udp/0/quic-v1`). Port 0
    /// lets the system choose. All IPv6 interfaces (`::`) are passed over on a machine without IPv6, if there is anything
    /// else. Without any, we can dial but not be dialed.
    pub listen: Vec<String>,
    /// The kinds of path that may be used. No address of another kind is listened on, dialed or remembered, and a
    /// connection over one is closed.
    pub paths: BTreeSet<PathKind>,
    /// Look for peers on the local network, and be found there.
    pub mdns: bool,
    /// The gossip topic of the account. Only those who know it can subscribe.
    pub topic: String,
    /// The members at the start; see [`engine::transport::Transport::set_members`].
    pub members: Vec<PeerKey>,
    /// Where peers were found before, as [`crate::Libp2pControl::known_addresses`] told.
    pub addresses: Vec<(PeerKey, Vec<String>)>,
    /// What devices said of where they are found, as [`crate::Libp2pControl::address_records`] told. Those that are not
    /// genuine are passed over.
    pub records: Vec<Vec<u8>>,
    /// Relays to be reachable through, and to look for members at: at most 8 multiaddrs that end in
    /// the relay's `/p2p/` id.
    pub relays: Vec<String>,
    /// What is shown to a relay that serves some accounts only.
    pub certificate: Option<DeviceCert>,
    /// Ask the router for ports at which we can be dialed from outside (UPnP, PCP or NAT-PMP).
    pub upnp: bool,
    /// Intervals and limits of time.
    pub timings: Timings,
}

impl Libp2pConfig {
    /// All kinds of path; listens on all interfaces, IPv4 and IPv6, with TCP and QUIC on ports that the system chooses, with
    /// discovery on the local network, no port mapping, and no members.
    pub fn new(secret: SecretKey, topic: impl Into<String>) -> Libp2pConfig {
        Libp2pConfig {
            secret,
            listen: LISTEN.map(str::to_owned).to_vec(),
            paths: BTreeSet::from([PathKind::Relayed, PathKind::DirectTcp, PathKind::DirectQuic]),
            mdns: true,
            topic: topic.into(),
            members: Vec::new(),
            addresses: Vec::new(),
            records: Vec::new(),
            relays: Vec::new(),
            certificate: None,
            upnp: false,
            timings: Timings::default(),
        }
    }
}

/// Intervals and limits of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Time between two pings on a connection, in milliseconds.
    pub ping_ms: u64,
    /// Time that the answer to a ping may take, in milliseconds. After two that took longer the
    /// connection is closed.
    pub ping_answer_ms_max: u64,
    /// Time in which a peer that is not a member must become one, and in which a connection must be
    /// put to use, in milliseconds.
    pub admission_ms_max: u64,
    /// Longest wait between two attempts to reach a member, in milliseconds.
    pub redial_ms_max: u64,
    /// How long a session over a path that is not the best stays alone before a better one is tried,
    /// in milliseconds. Each further try waits longer.
    pub upgrade_ms: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            ping_ms: 5_000,
            ping_answer_ms_max: 5_000,
            admission_ms_max: 10_000,
            redial_ms_max: crate::dialer::WAIT_MS_MAX,
            upgrade_ms: 1_000,
        }
    }
}

/// Why a transport did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// One of the addresses given is not usable.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Another program (or another instance of this one) listens there already.
    #[error("{address} is in use by another program")]
    AddressInUse {
        /// Where we wanted to listen.
        address: String,
    },
    /// This machine has no such address.
    #[error("{address} is not an address of this machine")]
    AddressNotAvailable {
        /// Where we wanted to listen.
        address: String,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where we wanted to listen.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A relay that does not know where others find it.
    #[error("a relay needs at least one external address: an IP address or a name at which devices find it")]
    NoExternalAddress,
    /// A relay that asked others where it can be dialed, and nobody could dial it.
    #[error("no address of this relay was confirmed from outside: {tried}")]
    NotConfirmed {
        /// What was tried, and what came of it.
        tried: String,
    },
    /// Discovery on the local network could not be started.
    #[error("cannot discover peers on the local network: {0}")]
    Discovery(std::io::Error),
    /// The cryptography or the protocol stack could not be set up.
    #[error("cannot set up the network stack: {0}")]
    Setup(String),
    /// Not called inside a tokio runtime, or the runtime is shutting down.
    #[error("the transport needs a running tokio runtime")]
    NoRuntime,
}
