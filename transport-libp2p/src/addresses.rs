//! Addresses: which multiaddrs we understand, and the book of who may be found where.
//!
//! Invariants: an address in the book is dialable (an IP or DNS name, then TCP or QUIC v1; perhaps
//! through a relay there) of a kind that may be used, and has no `/p2p/` suffix; at most [`PER_PEER_MAX`] addresses a peer and [`PEERS_MAX`] peers; when full,
//! the address that least deserves trust goes first.

use std::collections::{BTreeMap, BTreeSet};

use engine::identity::PeerKey;
use engine::transport::PathKind;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::keys;

/// Most addresses kept for one peer.
pub(crate) const PER_PEER_MAX: usize = 16;
/// Most of them that count as having worked.
const DIALED_MAX: usize = PER_PEER_MAX / 2;
/// Most peers in the book.
pub(crate) const PEERS_MAX: usize = 256;
/// Longest multiaddr we look at, in bytes of text.
pub(crate) const ADDRESS_BYTES_MAX: usize = 512;

/// Why an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a multiaddr at all.
    #[error("{address:?} is not a multiaddr, such as /ip4/192.0.2.7/tcp/4001: {reason}")]
    Malformed {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A multiaddr of a kind this transport does not speak.
    #[error("{address} is neither TCP nor QUIC v1 (…/tcp/PORT or …/udp/PORT/quic-v1)")]
    Unsupported {
        /// What was given.
        address: String,
    },
    /// A name, where the address of an interface is needed.
    #[error("{address} cannot be listened on: give an IP address (0.0.0.0 or :: for all interfaces)")]
    NoInterface {
        /// What was given.
        address: String,
    },
    /// The `/p2p/` part is not the id of a device: those are made of Ed25519 keys.
    #[error("{address} names a peer that is not an Ed25519 identity")]
    BadPeer {
        /// What was given.
        address: String,
    },
    /// Not a relay's address.
    #[error("{address} is not a relay's address: those end in /p2p/ and the relay's id")]
    NoRelay {
        /// What was given.
        address: String,
    },
    /// An address of a kind that was ruled out.
    #[error("{address} leads over a {kind} path, which the settings rule out")]
    RuledOut {
        /// What was given.
        address: String,
        /// Its kind.
        kind: PathKind,
    },
    /// More relays than a device can have.
    #[error("{count} relays are too many: at most {max} are used")]
    TooManyRelays {
        /// How many were given.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The address names another peer than the one it was given for.
    #[error("{address} belongs to another peer")]
    OtherPeer {
        /// What was given.
        address: String,
    },
}

/// A dialable address, and whose it is if it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dialable {
    /// Without `/p2p/` suffix.
    pub(crate) address: Multiaddr,
    pub(crate) peer: Option<PeerKey>,
}

impl Dialable {
    /// Reads an address given as text.
    pub(crate) fn parse(text: &str) -> Result<Dialable, AddressError> {
        let malformed = |reason: String| AddressError::Malformed {
            address: text.chars().take(ADDRESS_BYTES_MAX).collect(),
            reason,
        };
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(malformed(format!("longer than {ADDRESS_BYTES_MAX} bytes")));
        }
        let address: Multiaddr =
            text.parse().map_err(|e: libp2p::multiaddr::Error| malformed(e.to_string()))?;
        Dialable::of(address)
    }

    /// Checks an address that a peer, mDNS or the user gave.
    pub(crate) fn of(mut address: Multiaddr) -> Result<Dialable, AddressError> {
        let mut peer = None;
        if let Some(Protocol::P2p(id)) = address.iter().last() {
            let Some(key) = keys::key_of(&id) else {
                return Err(AddressError::BadPeer { address: address.to_string() });
            };
            peer = Some(key);
            address.pop();
        }
        if path_kind(&address).is_none() {
            return Err(AddressError::Unsupported { address: address.to_string() });
        }
        Ok(Dialable { address, peer })
    }
}

/// Checks an address that a user wants to listen on.
pub fn check_listen(text: &str) -> Result<(), AddressError> {
    let Dialable { address, .. } = Dialable::parse(text)?;
    let relayed = path_kind(&address) == Some(PathKind::Relayed);
    match address.iter().next() {
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) if !relayed => Ok(()),
        _ => Err(AddressError::NoInterface { address: address.to_string() }),
    }
}

/// Whether an address is one that can be dialed: where an entry of a configuration is checked.
pub fn check_dial(text: &str) -> Result<(), AddressError> {
    Dialable::parse(text).map(|_| ())
}

/// What kind of path an address leads to; `None` if it is not one that we can dial or listen on.
pub(crate) fn path_kind(address: &Multiaddr) -> Option<PathKind> {
    let mut parts = address.iter();
    if !matches!(
        parts.next()?,
        Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)
    ) {
        return None;
    }
    let (kind, next) = match parts.next()? {
        Protocol::Tcp(_) => (PathKind::DirectTcp, parts.next()),
        Protocol::Udp(_) if parts.next() == Some(Protocol::QuicV1) => (PathKind::DirectQuic, parts.next()),
        _ => return None,
    };
    match (next, parts.next(), parts.next()) {
        (None, None, None) => Some(kind),
        (Some(Protocol::P2p(_)), Some(Protocol::P2pCircuit), None) => Some(PathKind::Relayed),
        _ => None,
    }
}

/// True for an address on this machine only.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// True for addresses that another device can do nothing with: unspecified ones, and link-local
/// IPv6, which needs an interface that a multiaddr does not name.
pub(crate) fn is_useless(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
        _ => false,
    }
}

/// How we came to know an address, from least to most deserving to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The peer itself said so.
    Identify,
    /// The peer said so in a record, which others may have handed on.
    Told,
    /// Seen on the local network.
    Mdns,
    /// Given by the user or read from where it was saved.
    Given,
    /// A dial to it succeeded.
    Dialed,
}

#[derive(Debug)]
struct Entry {
    address: Multiaddr,
    source: Source,
    /// When it was last heard of or used, as a count of changes to the book.
    touched: u64,
}

/// Who may be found where.
#[derive(Debug)]
pub(crate) struct AddressBook {
    paths: BTreeSet<PathKind>,
    peers: BTreeMap<PeerKey, Vec<Entry>>,
    changes: u64,
}

impl AddressBook {
    /// An empty book for addresses of these kinds.
    pub(crate) fn new(paths: BTreeSet<PathKind>) -> AddressBook {
        AddressBook { paths, peers: BTreeMap::new(), changes: 0 }
    }

    /// Whether an address is of a kind that may be used.
    pub(crate) fn allow(&self, address: &Multiaddr) -> Result<(), AddressError> {
        match path_kind(address) {
            Some(kind) if !self.paths.contains(&kind) => {
                Err(AddressError::RuledOut { address: address.to_string(), kind })
            }
            _ => Ok(()),
        }
    }

    /// Notes an address. True if it is new.
    pub(crate) fn add(&mut self, peer: PeerKey, address: Multiaddr, source: Source) -> bool {
        if self.allow(&address).is_err() {
            return false;
        }
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MAX {
            return false;
        }
        self.changes += 1;
        let touched = self.changes;
        let entries = self.peers.entry(peer).or_default();
        if let Some(known) = entries.iter_mut().find(|entry| entry.address == address) {
            known.source = known.source.max(source);
            known.touched = touched;
            demote(entries);
            return false;
        }
        if entries.len() >= PER_PEER_MAX {
            let worst = (0..entries.len()).min_by_key(|&i| (entries[i].source, entries[i].touched));
            match worst {
                Some(worst) if entries[worst].source <= source => drop(entries.swap_remove(worst)),
                _ => return false,
            }
        }
        entries.push(Entry { address, source, touched });
        demote(entries);
        true
    }

    /// What was only heard of a peer is forgotten, but for these.
    pub(crate) fn forget_hearsay(&mut self, peer: &PeerKey, but: &[Multiaddr]) {
        if let Some(entries) = self.peers.get_mut(peer) {
            entries.retain(|entry| entry.source > Source::Told || but.contains(&entry.address));
        }
    }

    /// A peer's addresses, the most promising first.
    pub(crate) fn of(&self, peer: &PeerKey) -> Vec<Multiaddr> {
        let mut entries: Vec<&Entry> = self.peers.get(peer).into_iter().flatten().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.source, entry.touched)));
        entries.into_iter().map(|entry| entry.address.clone()).collect()
    }

    /// Everything, to be saved.
    pub(crate) fn all(&self) -> Vec<(PeerKey, Vec<String>)> {
        self.peers
            .keys()
            .map(|peer| (*peer, self.of(peer).iter().map(Multiaddr::to_string).collect()))
            .collect()
    }

    /// Forgets the peers that `keep` does not want, if the book is more than half full.
    pub(crate) fn prune(&mut self, keep: impl Fn(&PeerKey) -> bool) {
        if self.peers.len() > PEERS_MAX / 2 {
            self.peers.retain(|peer, _| keep(peer));
        }
    }
}

/// Of many addresses that worked once, the oldest count as hearsay: a device that moves about must not fill its place
/// in the book with where it has been.
fn demote(entries: &mut [Entry]) {
    let dialed = entries.iter().filter(|entry| entry.source == Source::Dialed);
    if dialed.clone().count() > DIALED_MAX
        && let Some(oldest) = dialed.map(|entry| entry.touched).min()
    {
        entries.iter_mut().filter(|entry| entry.touched == oldest).for_each(|e| e.source = Source::Identify);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerKey = PeerKey([1; 32]);

    fn book() -> AddressBook {
        AddressBook::new(BTreeSet::from([PathKind::DirectTcp]))
    }

    #[test]
    fn an_address_of_another_kind_than_may_be_used_is_not_kept() {
        let mut book = book();
        let quic: Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1".parse().expect("a multiaddr");
        assert!(!book.add(PEER, quic.clone(), Source::Given) && book.of(&PEER).is_empty());
        assert!(matches!(book.allow(&quic), Err(AddressError::RuledOut { kind: PathKind::DirectQuic, .. })));
        assert!(book.add(PEER, tcp(1), Source::Identify));
    }

    fn tcp(port: usize) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("a multiaddr")
    }

    #[test]
    fn tcp_and_quic_are_dialable_and_nothing_else() {
        for (text, kind) in [
            ("/ip4/192.0.2.1/tcp/1", PathKind::DirectTcp),
            ("/ip6/2001:db8::1/udp/1/quic-v1", PathKind::DirectQuic),
            ("/dns/example.org/tcp/1", PathKind::DirectTcp),
        ] {
            let parsed = Dialable::parse(text).expect(text);
            assert_eq!((path_kind(&parsed.address), parsed.peer), (Some(kind), None));
        }
        for text in ["/ip4/192.0.2.1", "/ip4/192.0.2.1/udp/1", "/memory/1", "/ip4/192.0.2.1/tcp/1/ws"] {
            assert!(matches!(Dialable::parse(text), Err(AddressError::Unsupported { .. })), "{text}");
        }
        for text in ["", "192.0.2.1:1", "/ip4/300.0.0.1/tcp/1", &"/tcp/1".repeat(1000)] {
            let result = Dialable::parse(text);
            assert!(result.is_err(), "{text}");
        }
    }

    #[test]
    fn the_peer_of_an_address_is_split_off() {
        let key = PeerKey(engine::identity::SecretKey::from_bytes(&[3; 32]).public());
        let id = keys::peer_of(&key).expect("a key");
        let parsed = Dialable::parse(&format!("/ip4/192.0.2.1/tcp/1/p2p/{id}")).expect("valid");
        assert_eq!(parsed, Dialable { address: tcp(1), peer: Some(key) });
        let hashed = "/ip4/192.0.2.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
        assert!(matches!(Dialable::parse(hashed), Err(AddressError::BadPeer { .. })));
    }

    #[test]
    fn link_local_and_unspecified_addresses_are_useless_to_others() {
        for (text, useless) in [
            ("/ip6/fe80::1/tcp/1", true),
            ("/ip4/0.0.0.0/tcp/1", true),
            ("/ip6/2001:db8::1/tcp/1", false),
            ("/ip4/169.254.0.1/tcp/1", false),
        ] {
            assert_eq!(is_useless(&text.parse().expect(text)), useless, "{text}");
        }
    }

    #[test]
    fn hearsay_never_pushes_out_an_address_that_worked() {
        let mut book = book();
        assert!(book.add(PEER, tcp(1), Source::Dialed));
        for port in 2..1000 {
            book.add(PEER, tcp(port), Source::Identify);
        }
        let addresses = book.of(&PEER);
        assert_eq!(addresses.len(), PER_PEER_MAX);
        assert_eq!(addresses[0], tcp(1));
        assert!(addresses.contains(&tcp(999)), "the newest hearsay replaces the oldest");
    }

    #[test]
    fn where_a_device_has_been_does_not_keep_out_where_it_is() {
        let mut book = book();
        for port in 1..100 {
            book.add(PEER, tcp(port), Source::Dialed);
        }
        assert!(book.add(PEER, tcp(1000), Source::Told));
        assert_eq!(book.of(&PEER)[0], tcp(99));
        book.add(PEER, tcp(1001), Source::Identify);
        book.forget_hearsay(&PEER, &[tcp(1000)]);
        let left = book.of(&PEER);
        assert!(left.contains(&tcp(1000)) && left.contains(&tcp(99)) && !left.contains(&tcp(1001)));
        assert_eq!(left.len(), DIALED_MAX + 1);
    }

    #[test]
    fn the_number_of_peers_is_bounded() {
        let mut book = book();
        for n in 0..1000u16 {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&n.to_be_bytes());
            book.add(PeerKey(key), tcp(1), Source::Given);
        }
        assert_eq!(book.all().len(), PEERS_MAX);
        book.prune(|peer| peer.0[1] == 0);
        assert_eq!(book.all().len(), 1);
    }
}
