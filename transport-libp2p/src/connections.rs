//! The table of established connections, and until when each must have proven its use. Pure.
//!
//! Invariant: a connection that carries neither a session nor a pairing, and a session with a peer
//! that is not a member, has a deadline; save connections with our own relays.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use engine::identity::PeerKey;
use engine::transport::Path;
use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use tokio::task::AbortHandle;

use crate::pairing::ConnectReply;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: PeerKey,
    pub(crate) path: Path,
    /// We open the sync stream.
    pub(crate) dialed_by_us: bool,
    /// The address of ours from which the system sends to the peer, as far as it can be told.
    pub(crate) source: Option<IpAddr>,
    /// Where the bytes go: to the peer, or to the relay between.
    pub(crate) remote: Multiaddr,
    /// We dialed it from the port where we listen, so that the peer sees where that port is seen.
    pub(crate) from_listener: bool,
    /// From when its time is counted.
    pub(crate) since: Instant,
    /// We asked for the sync stream.
    pub(crate) sync_asked: bool,
    /// Its sync stream, if there is one.
    pub(crate) carrier: Option<AbortHandle>,
    /// There is or was one.
    pub(crate) carried: bool,
    pub(crate) rtt_micros: Option<u64>,
    /// It is with a relay of ours, and may stay without a session.
    pub(crate) relay: bool,
    /// Whether the peer, as a relay, wants to see our certificate, once it has said.
    pub(crate) wants_certificate: Option<bool>,
    /// Who waits for pairing streams on it.
    pub(crate) pairing: VecDeque<ConnectReply>,
}

impl Connection {
    pub(crate) fn new(peer: PeerKey, path: Path, dialed_by_us: bool, now: Instant) -> Connection {
        Connection {
            peer,
            path,
            dialed_by_us,
            source: None,
            remote: Multiaddr::empty(),
            from_listener: false,
            since: now,
            sync_asked: false,
            carrier: None,
            carried: false,
            rtt_micros: None,
            relay: false,
            wants_certificate: None,
            pairing: VecDeque::new(),
        }
    }

    /// When the connection has had its time, if it is not needed.
    fn deadline(&self, member: bool, admission: Duration) -> Option<Instant> {
        (!self.relay && (self.carrier.is_none() || !member)).then(|| self.since + admission)
    }
}

/// All established connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    pub(crate) table: BTreeMap<ConnectionId, Connection>,
}

impl Connections {
    /// Connections with a peer.
    pub(crate) fn with(&self, peer: &PeerKey) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.table.iter().filter(move |(_, c)| c.peer == *peer).map(|(id, c)| (*id, c))
    }

    /// Connections whose time is over.
    pub(crate) fn overdue(
        &self,
        now: Instant,
        admission: Duration,
        is_member: impl Fn(&PeerKey) -> bool,
    ) -> Vec<ConnectionId> {
        let overdue = |c: &Connection| c.deadline(is_member(&c.peer), admission).is_some_and(|at| at <= now);
        self.table.iter().filter(|(_, c)| overdue(c)).map(|(id, _)| *id).collect()
    }

    /// When the next one's time will be over.
    pub(crate) fn next_deadline(
        &self,
        admission: Duration,
        is_member: impl Fn(&PeerKey) -> bool,
    ) -> Option<Instant> {
        self.table.values().filter_map(|c| c.deadline(is_member(&c.peer), admission)).min()
    }
}
