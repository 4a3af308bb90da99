//! Whom a relay serves and how much, and where it lets others make it dial.
//!
//! Invariants: a reservation is given only to a peer that may have one, and to at most so many peers at a time, whose
//! renewals are never refused for that; the table holds connected peers only; an address that a test of reachability
//! dials is public, unless the relay is for a private network.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use engine::identity::AccountId;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::admission::{self, Verdict};
use crate::keys;

/// Who has a reservation, and who may.
#[derive(Debug)]
pub(crate) struct Guests {
    /// Served without a certificate.
    peers: BTreeSet<PeerId>,
    accounts: BTreeSet<AccountId>,
    /// Connected peers that have shown a certificate of one of the accounts.
    admitted: BTreeSet<PeerId>,
    /// Connected peers with a reservation, and until when it stands.
    held: BTreeMap<PeerId, Instant>,
    held_max: usize,
    stands: Duration,
}

/// The table, shared by the relay's task and by libp2p, which asks it about each reservation.
#[derive(Debug, Clone)]
pub(crate) struct SharedGuests(Arc<Mutex<Guests>>);

impl SharedGuests {
    pub(crate) fn new(guests: Guests) -> SharedGuests {
        SharedGuests(Arc::new(Mutex::new(guests)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Guests> {
        // Each change is one step, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    pub(crate) fn new(
        peers: BTreeSet<PeerId>,
        accounts: BTreeSet<AccountId>,
        held_max: usize,
        stands: Duration,
    ) -> Guests {
        Guests { peers, accounts, admitted: BTreeSet::new(), held: BTreeMap::new(), held_max, stands }
    }

    /// Whether this peer may have a reservation.
    pub(crate) fn serves(&self, peer: &PeerId) -> bool {
        let everybody = self.peers.is_empty() && self.accounts.is_empty();
        everybody || self.peers.contains(peer) || self.admitted.contains(peer)
    }

    /// A connected peer shows a certificate.
    pub(crate) fn present(&mut self, peer: PeerId, request: &[u8]) -> Verdict {
        let verdict =
            admission::judge(request, keys::key_of(&peer), |account| self.accounts.contains(account));
        if verdict == Verdict::Served {
            self.admitted.insert(peer);
        } else if self.peers.contains(&peer) {
            return Verdict::Served;
        }
        verdict
    }

    /// Takes a place for a peer that asks for a reservation or renews it; false if there is none.
    pub(crate) fn reserve(&mut self, peer: PeerId, now: Instant) -> bool {
        self.held.retain(|_, until| *until > now);
        if !self.held.contains_key(&peer) && self.held.len() >= self.held_max {
            return false;
        }
        self.held.insert(peer, now + self.stands);
        true
    }

    /// The peer's last connection, or its reservation's time, has ended.
    pub(crate) fn release(&mut self, peer: &PeerId) {
        self.held.remove(peer);
    }

    /// The peer's last connection has ended.
    pub(crate) fn gone(&mut self, peer: &PeerId) {
        self.release(peer);
        self.admitted.remove(peer);
    }

    pub(crate) fn held(&self, now: Instant) -> usize {
        self.held.values().filter(|until| **until > now).count()
    }
}

/// Keeps others from making a relay dial where they please: the only dials that it makes are tests of reachability,
/// which anybody may ask for.
#[derive(Debug)]
pub(crate) struct TestsOnly {
    private: bool,
    refused: Arc<AtomicU64>,
}

/// Why a test was not made.
#[derive(Debug, thiserror::Error)]
#[error("an address that is not public is not tested")]
struct NotPublic;

impl TestsOnly {
    /// With `private`, any address is dialed.
    pub(crate) fn new(private: bool, refused: Arc<AtomicU64>) -> TestsOnly {
        TestsOnly { private, refused }
    }
}

impl NetworkBehaviour for TestsOnly {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.private || addresses.iter().all(is_public) {
            return Ok(Vec::new());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(ConnectionDenied::new(NotPublic))
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, never: THandlerOutEvent<Self>) {
        match never {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// True for an IP address that the whole internet may be asked about. A name is none: it may lead anywhere.
pub(crate) fn is_public(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => is_public_ip(ip.into()),
        Some(Protocol::Ip6(ip)) => is_public_ip(ip.into()),
        _ => false,
    }
}

fn is_public_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// Shared by the customers of a provider, behind its NAT (RFC 6598).
pub(crate) fn is_shared(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    a == 100 && b & 0xc0 == 64
}

/// By the registry of special addresses (RFC 6890 and what followed).
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || a == 0
        || a >= 224
        || is_shared(ip)
        // Of a protocol's own; for measurements; the old 6to4 relays.
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && b & 0xfe == 18)
        || (a, b, c) == (192, 88, 99);
    !special
}

/// Global unicast, without what leads to an IPv4 address by another name, and without documentation.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let tunnel = a == 0x2002 || (a == 0x2001 && b < 0x0200);
    let documentation = (a == 0x2001 && b == 0x0db8) || a == 0x3fff;
    a & 0xe000 == 0x2000 && !tunnel && !documentation
}

#[cfg(test)]
mod tests {
    use engine::identity::{DeviceCert, PeerKey, SecretKey};

    use super::*;

    fn peer(seed: u8) -> PeerId {
        let key = PeerKey(SecretKey::from_bytes(&[seed; 32]).public());
        keys::peer_of(&key).expect("a key")
    }

    #[test]
    fn only_public_addresses_are_tested() {
        let public = ["/ip4/8.8.8.8/tcp/1", "/ip4/45.0.0.1/udp/1/quic-v1", "/ip6/2a00:1450::1/tcp/1"];
        let others = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/172.16.0.1/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip4/169.254.169.254/tcp/80",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/198.18.0.1/tcp/1",
            "/ip4/224.0.0.1/udp/1/quic-v1",
            "/ip4/255.255.255.255/udp/1/quic-v1",
            "/ip6/::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/ip6/64:ff9b::a00:1/tcp/1",
            "/ip6/2002:a00:1::1/tcp/1",
            "/ip6/2001:0:1::1/tcp/1",
            "/dns/localhost/tcp/1",
        ];
        let refused = Arc::new(AtomicU64::new(0));
        let dials = |private: bool, text: &str| {
            let address = text.parse().expect(text);
            let mut gate = TestsOnly::new(private, Arc::clone(&refused));
            let id = ConnectionId::new_unchecked(1);
            gate.handle_pending_outbound_connection(id, None, &[address], Endpoint::Dialer).is_ok()
        };
        for text in public {
            assert!(dials(false, text), "{text}");
        }
        for text in others {
            assert!(!dials(false, text) && dials(true, text), "{text}");
        }
        assert_eq!(refused.load(Ordering::Relaxed), others.len() as u64);
    }

    #[test]
    fn so_many_have_a_place_at_a_time_and_keep_it_by_renewing() {
        let (mut now, stands) = (Instant::now(), Duration::from_secs(60));
        let mut guests = Guests::new(BTreeSet::new(), BTreeSet::new(), 1, stands);
        assert!(guests.serves(&peer(1)) && guests.reserve(peer(1), now));
        for _ in 0..10 {
            now += stands / 2;
            assert!(!guests.reserve(peer(2), now), "full");
            assert!(guests.reserve(peer(1), now), "a renewal");
        }
        now += stands;
        assert!(guests.reserve(peer(2), now), "the other's time is over");
        guests.gone(&peer(2));
        assert_eq!(guests.held(now), 0);
        assert!(guests.reserve(peer(1), now), "the other has gone");
    }

    #[test]
    fn a_certificate_serves_as_long_as_its_device_is_connected() {
        let root = SecretKey::from_bytes(&[1; 32]);
        let account = AccountId(root.public());
        let cert = |root: &SecretKey, seed: u8| {
            let key = keys::key_of(&peer(seed)).expect("a key");
            DeviceCert::issue(root, key, "laptop", 7, false).expect("a name").to_bytes()
        };
        let mut guests =
            Guests::new(BTreeSet::from([peer(9)]), BTreeSet::from([account]), 9, Duration::from_secs(60));
        assert!(guests.serves(&peer(9)) && !guests.serves(&peer(2)));
        assert_eq!(
            guests.present(peer(2), &cert(&SecretKey::from_bytes(&[3; 32]), 2)),
            Verdict::OtherAccount
        );
        assert_eq!(guests.present(peer(2), &cert(&root, 4)), Verdict::NotGenuine);
        assert_eq!(guests.present(peer(9), b"nothing"), Verdict::Served, "it needs no certificate");
        assert!(!guests.serves(&peer(2)));
        assert_eq!(guests.present(peer(2), &cert(&root, 2)), Verdict::Served);
        assert!(guests.serves(&peer(2)));
        guests.gone(&peer(2));
        assert!(!guests.serves(&peer(2)));
    }
}
