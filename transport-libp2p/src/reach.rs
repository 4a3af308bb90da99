//! How others see this device: at which addresses they observe it, which of those were tested, what the router's
//! port mapping (UPnP, PCP,
//! NAT-PMP) does, and what kind of NAT follows from that. Pure.
//!
//! Invariants: only what members and our relays say is noted; at most [`OBSERVATIONS_MAX`] observations and
//! [`TESTS_MAX`] tests are kept, the newest.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use engine::identity::PeerKey;
use engine::transport::PathKind;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::addresses::path_kind;

/// Most observations kept, one for each peer and kind of path.
const OBSERVATIONS_MAX: usize = 32;
/// Most results of tests kept, one for each address.
const TESTS_MAX: usize = 32;
/// Most different addresses handed on as candidates, because what takes them never forgets one.
const CANDIDATES_MAX: usize = 256;

/// What a router does to our addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// Nobody outside has told us yet how it sees us.
    Unknown,
    /// None: others see the address that this device has.
    None,
    /// It keeps the port, or maps it to the same one whoever is called: hole punching works.
    EndpointIndependent,
    /// It maps the port anew for each that is called ("symmetric"): hole punching does not work, a relay does.
    EndpointDependent,
    /// It changes the port; whether it does so for each that is called takes a second relay or device to tell.
    PortChanging,
}

/// A test from outside whether an address of ours can be dialed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachTest {
    /// The address.
    pub address: String,
    /// Whether the dial from outside succeeded.
    pub reachable: bool,
}

/// How a router was asked for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapper {
    /// UPnP, the Internet Gateway Device protocol.
    Upnp,
    /// The Port Control Protocol.
    Pcp,
    /// Its forerunner.
    NatPmp,
}

/// Why nothing is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unmapped {
    NoGateway,
    NotPublic,
    Searching,
}

/// What the router says to the wish for ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortMapping {
    /// It is switched off.
    Off,
    /// Looking for a router that does it.
    Searching,
    /// There is no router that does it.
    NoGateway,
    /// The router is itself behind another NAT.
    NotPublic,
    /// Ports are mapped; others find us at these addresses, for which the router was asked so.
    Mapped(Vec<(String, Mapper)>),
}

/// How others see this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachDetails {
    /// What follows from the rest for UDP (QUIC).
    pub nat_udp: NatKind,
    /// What follows from the rest for TCP.
    pub nat_tcp: NatKind,
    /// Where members and relays observe us.
    pub observed: Vec<(PeerKey, String)>,
    /// Addresses that can be dialed from outside, as far as known.
    pub confirmed: Vec<String>,
    /// Tests that others made for us, one for each address.
    pub tests: Vec<ReachTest>,
    /// What the router's port mapping says.
    pub mapping: PortMapping,
    /// Devices seen on the local network; `None` if discovery is off.
    pub mdns_seen: Option<usize>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Reach {
    observed: VecDeque<(PeerKey, PathKind, Multiaddr)>,
    tests: VecDeque<(Multiaddr, bool)>,
    mapped: BTreeMap<Multiaddr, Mapper>,
    /// Whether the router may be asked.
    ask: bool,
    /// What came of it by UPnP, and by the other protocols, where nothing is mapped.
    upnp: Unmapped,
    others: Unmapped,
    handed_on: usize,
}

impl Reach {
    pub(crate) fn new(ask: bool) -> Reach {
        Reach {
            observed: VecDeque::new(),
            tests: VecDeque::new(),
            mapped: BTreeMap::new(),
            ask,
            upnp: Unmapped::Searching,
            // Asked only where there is a router in between.
            others: Unmapped::NoGateway,
            handed_on: 0,
        }
    }

    /// A peer that we trust so far sees us there, on a connection that we dialed from where we listen. True if the
    /// address is worth trying: it is new from this peer.
    pub(crate) fn observe(&mut self, by: PeerKey, address: Multiaddr) -> bool {
        let Some(kind) = path_kind(&address).filter(|kind| *kind != PathKind::Relayed) else { return false };
        let same = |(peer, k, _): &(PeerKey, PathKind, Multiaddr)| *peer == by && *k == kind;
        let before = self.observed.iter().position(same).and_then(|at| self.observed.remove(at));
        let new = before.is_none_or(|(_, _, known)| known != address);
        if self.observed.len() >= OBSERVATIONS_MAX {
            self.observed.pop_front();
        }
        self.observed.push_back((by, kind, address));
        if new {
            self.handed_on += 1;
        }
        new && self.handed_on <= CANDIDATES_MAX
    }

    /// Whether this peer has said how it sees us on a path of that kind.
    pub(crate) fn seen_by(&self, peer: &PeerKey, kind: PathKind) -> bool {
        self.observed.iter().any(|(by, k, _)| by == peer && *k == kind)
    }

    /// The network is another one: what was observed is void.
    pub(crate) fn network_changed(&mut self) {
        self.observed.clear();
        self.tests.clear();
    }

    pub(crate) fn tested(&mut self, address: Multiaddr, reachable: bool) {
        self.tests.retain(|(known, _)| *known != address);
        if self.tests.len() >= TESTS_MAX {
            self.tests.pop_front();
        }
        self.tests.push_back((address, reachable));
    }

    /// Why nothing is mapped by UPnP, or by the other protocols.
    pub(crate) fn not_mapped(&mut self, upnp: bool, why: Unmapped) {
        *(if upnp { &mut self.upnp } else { &mut self.others }) = why;
    }

    pub(crate) fn mapped(&mut self, address: Multiaddr, by: Mapper) {
        if self.mapped.len() < TESTS_MAX {
            self.mapped.insert(address, by);
        }
    }

    pub(crate) fn unmapped(&mut self, address: &Multiaddr, by: Mapper) {
        if self.mapped.get(address) == Some(&by) {
            self.mapped.remove(address);
        }
    }

    /// Whether a port is mapped by UPnP, so that nothing else need be tried.
    pub(crate) fn mapped_by_upnp(&self) -> bool {
        self.mapped.values().any(|by| *by == Mapper::Upnp)
    }

    /// How an address is mapped.
    pub(crate) fn mapper(&self, address: &Multiaddr) -> Option<Mapper> {
        self.mapped.get(address).copied()
    }

    fn mapping(&self) -> PortMapping {
        if !self.ask {
            return PortMapping::Off;
        }
        let mapped = self.mapped.iter().map(|(address, by)| (address.to_string(), *by));
        match self.upnp.max(self.others) {
            _ if !self.mapped.is_empty() => PortMapping::Mapped(mapped.collect()),
            Unmapped::Searching => PortMapping::Searching,
            Unmapped::NotPublic => PortMapping::NotPublic,
            Unmapped::NoGateway => PortMapping::NoGateway,
        }
    }

    fn nat(&self, kind: PathKind, own: &[Multiaddr]) -> NatKind {
        let seen = self.observed.iter().filter(|(_, k, _)| *k == kind);
        let mut places: Vec<_> = seen.filter_map(|(_, _, address)| place(address)).collect();
        // NATs are between IPv4 networks; that there is none for IPv6 says nothing about them.
        if places.iter().any(|(ip, _)| ip.is_ipv4()) {
            places.retain(|(ip, _)| ip.is_ipv4());
        }
        let Some(first) = places.first() else { return NatKind::Unknown };
        let own: Vec<_> =
            own.iter().filter(|address| path_kind(address) == Some(kind)).filter_map(place).collect();
        if places.iter().all(|place| own.contains(place)) {
            NatKind::None
        } else if places.iter().any(|(ip, port)| *ip == first.0 && *port != first.1) {
            NatKind::EndpointDependent
        } else if places.len() > 1 || own.iter().any(|(_, port)| *port == first.1) {
            NatKind::EndpointIndependent
        } else {
            NatKind::PortChanging
        }
    }

    /// For people. `own` is where we listen, `confirmed` what the swarm believes can be dialed from outside.
    pub(crate) fn details<'a>(
        &self,
        own: &[Multiaddr],
        confirmed: impl Iterator<Item = &'a Multiaddr>,
    ) -> ReachDetails {
        ReachDetails {
            nat_udp: self.nat(PathKind::DirectQuic, own),
            nat_tcp: self.nat(PathKind::DirectTcp, own),
            observed: self.observed.iter().map(|(by, _, address)| (*by, address.to_string())).collect(),
            confirmed: confirmed.map(Multiaddr::to_string).collect(),
            tests: self
                .tests
                .iter()
                .map(|(address, reachable)| ReachTest { address: address.to_string(), reachable: *reachable })
                .collect(),
            mapping: self.mapping(),
            mdns_seen: None,
        }
    }
}

/// IP address and port of a direct path.
fn place(address: &Multiaddr) -> Option<(IpAddr, u16)> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some((ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Multiaddr {
        text.parse().expect(text)
    }

    fn kind(own: &str, observed: &[&str]) -> NatKind {
        let mut reach = Reach::new(false);
        for (n, text) in observed.iter().enumerate() {
            reach.observe(PeerKey([u8::try_from(n).expect("few"); 32]), at(text));
        }
        reach.details(&[at(own)], std::iter::empty()).nat_udp
    }

    #[test]
    fn the_kind_of_nat_follows_from_what_others_observe() {
        let own = "/ip4/192.168.1.2/udp/4001/quic-v1";
        assert_eq!(kind(own, &[]), NatKind::Unknown);
        assert_eq!(kind(own, &[own, own]), NatKind::None);
        let kept = "/ip4/45.0.0.1/udp/4001/quic-v1";
        assert_eq!(kind(own, &[kept]), NatKind::EndpointIndependent);
        let (one, other) = ("/ip4/45.0.0.1/udp/5001/quic-v1", "/ip4/45.0.0.1/udp/5002/quic-v1");
        assert_eq!(kind(own, &[one]), NatKind::PortChanging);
        assert_eq!(kind(own, &[one, one]), NatKind::EndpointIndependent);
        assert_eq!(kind(own, &[one, other]), NatKind::EndpointDependent);
        assert_eq!(kind(own, &["/ip4/45.0.0.1/tcp/4001"]), NatKind::Unknown, "another kind of path");
        let six = "/ip6/2001:db8::1/udp/4001/quic-v1";
        assert_eq!(kind(six, &[six, one, other]), NatKind::EndpointDependent, "seen over IPv6 as well");
        assert_eq!(kind(six, &[six]), NatKind::None);
    }

    #[test]
    fn one_way_of_asking_the_router_does_not_hide_what_another_brought() {
        let mut reach = Reach::new(true);
        let mapping = |reach: &Reach| reach.details(&[], std::iter::empty()).mapping;
        assert_eq!(mapping(&reach), PortMapping::Searching);
        let address = at("/ip4/45.0.0.1/tcp/4001");
        reach.mapped(address.clone(), Mapper::Pcp);
        reach.not_mapped(true, Unmapped::NoGateway);
        assert_eq!(mapping(&reach), PortMapping::Mapped(vec![(address.to_string(), Mapper::Pcp)]));
        reach.unmapped(&address, Mapper::Upnp);
        assert_ne!(mapping(&reach), PortMapping::NoGateway, "another one's");
        reach.unmapped(&address, Mapper::Pcp);
        assert_eq!(mapping(&reach), PortMapping::NoGateway);
        reach.not_mapped(false, Unmapped::NotPublic);
        assert_eq!(mapping(&reach), PortMapping::NotPublic);
        assert_eq!(mapping(&Reach::new(false)), PortMapping::Off);
    }

    #[test]
    fn what_is_kept_is_bounded_and_candidates_are_handed_on_a_limited_number_of_times() {
        let mut reach = Reach::new(false);
        let mut handed_on = 0;
        for n in 0..1000u16 {
            let address = at(&format!("/ip4/45.0.0.1/udp/{}/quic-v1", n + 1));
            handed_on += usize::from(
                reach.observe(PeerKey([u8::try_from(n % 200).expect("u8"); 32]), address.clone()),
            );
            reach.tested(address.clone(), n % 2 == 0);
            reach.mapped(address, Mapper::Pcp);
        }
        assert_eq!(handed_on, CANDIDATES_MAX);
        assert_eq!((reach.observed.len(), reach.tests.len()), (OBSERVATIONS_MAX, TESTS_MAX));
        assert_eq!(reach.mapped.len(), TESTS_MAX);
    }
}
