//! The relays that this device wants to be reachable through: which one is due to be asked for a
//! reservation, and how things stand with each. Pure.
//!
//! Relays come from the configuration, or are learnt from addresses of members that are reached through them. One that
//! was learnt is asked for a reservation only if none is configured.
//!
//! Before it is asked, a device that has a certificate connects, and shows it if the relay wants to see it
//! (`admission`): a relay that does not know of which account we are may refuse us.
//!
//! Invariants: at most [`RELAYS_MAX`] relays with [`ADDRESSES_MAX`] addresses each; a relay has at most one listener,
//! however many addresses it has, because a second reservation ends the first; by whose id its end is told from a renewal; after a
//! failure it is asked again, with waits that double from [`FIRST_MS`] to [`WAIT_MS_MAX`].

use std::time::{Duration, Instant};

use engine::identity::PeerKey;
use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;

use crate::addresses::{AddressError, Dialable, path_kind};
use crate::dialer::splitmix;
use crate::keys;

/// Most relays of one device.
pub(crate) const RELAYS_MAX: usize = 8;
/// Most addresses of one relay.
const ADDRESSES_MAX: usize = 4;
/// Wait after the first failure, in milliseconds.
const FIRST_MS: u64 = 1_000;
/// Longest wait between two attempts, in milliseconds: a relay that is back is found in that time.
const WAIT_MS_MAX: u64 = 10_000;
/// How long it may take until the relay knows who we are.
const INTRODUCTION: Duration = Duration::from_secs(15);

/// Why a reservation, or the way to one, ended, if nothing better is known.
pub(crate) const ENDED: &str = "the connection with the relay ended";

/// How things stand with a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayDetails {
    /// Its address, with its `/p2p/` id.
    pub address: String,
    /// Whether it holds a reservation for this device, so that others reach it there.
    pub reserved: bool,
    /// Whether it was learnt from another device, and not configured here.
    pub learnt: bool,
    /// Latest round-trip time to it, in microseconds.
    pub round_trip_micros: Option<u64>,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// Why the latest attempt failed, or the latest reservation ended.
    pub last_error: Option<String>,
}

#[derive(Debug)]
enum State {
    /// Others are met there; no reservation is wanted.
    Unasked,
    Waiting {
        until: Instant,
    },
    /// We connect, and show our certificate if that is wanted.
    Introducing {
        until: Instant,
        shown: bool,
    },
    Asking(ListenerId),
    Reserved(ListenerId),
}

#[derive(Debug)]
struct Relay {
    key: PeerKey,
    /// With `/p2p/` suffix, the best kind of path first. Not empty.
    addresses: Vec<Multiaddr>,
    learnt: bool,
    state: State,
    /// It knows who we are, or does not want to.
    introduced: bool,
    failures: u32,
    last_error: Option<String>,
    dial_error: Option<String>,
}

impl Relay {
    fn new(key: PeerKey, address: Multiaddr, learnt: bool, state: State) -> Relay {
        let addresses = vec![address];
        Relay {
            key,
            addresses,
            learnt,
            state,
            introduced: false,
            failures: 0,
            last_error: None,
            dial_error: None,
        }
    }

    /// The address to use next: another one after each failure.
    fn address(&self) -> &Multiaddr {
        &self.addresses[self.failures as usize % self.addresses.len()]
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Relays {
    relays: Vec<Relay>,
    random: u64,
}

impl Relays {
    /// Reads the addresses, each of which must say which peer the relay is.
    pub(crate) fn new(addresses: &[String], seed: u64, now: Instant) -> Result<Relays, AddressError> {
        if addresses.len() > RELAYS_MAX {
            return Err(AddressError::TooManyRelays { count: addresses.len(), max: RELAYS_MAX });
        }
        let mut relays = Relays { relays: Vec::new(), random: seed };
        for text in addresses {
            let (key, address) = relay_address(text)?;
            relays.add(key, address, false, State::Waiting { until: now });
        }
        Ok(relays)
    }

    /// Where anybody is found who has a reservation with one of our relays.
    pub(crate) fn meeting_points(&self) -> impl Iterator<Item = Multiaddr> {
        let addresses = self.relays.iter().flat_map(|relay| &relay.addresses);
        addresses.map(|address| address.clone().with(Protocol::P2pCircuit))
    }

    /// A member is reached at this address: if it is one through a relay, that relay is of use to us too. Returns the
    /// relay's key if it is new.
    pub(crate) fn learn(&mut self, address: &Multiaddr, now: Instant) -> Option<PeerKey> {
        let parts: Vec<Protocol<'_>> = address.iter().collect();
        let at = parts.iter().position(|part| *part == Protocol::P2pCircuit)?;
        let address: Multiaddr = parts.into_iter().take(at).collect();
        let (key, address) = relay_address(&address.to_string()).ok()?;
        let configured = self.relays.iter().any(|relay| !relay.learnt);
        let state = if configured { State::Unasked } else { State::Waiting { until: now } };
        self.add(key, address, true, state).then_some(key)
    }

    /// Adds a relay, or another address of one; true if the relay is new.
    fn add(&mut self, key: PeerKey, address: Multiaddr, learnt: bool, state: State) -> bool {
        if let Some(relay) = self.relays.iter_mut().find(|relay| relay.key == key) {
            if !relay.addresses.contains(&address) && relay.addresses.len() < ADDRESSES_MAX {
                relay.addresses.push(address);
                relay.addresses.sort_by_key(|address| std::cmp::Reverse(direct_kind(address)));
            }
            return false;
        }
        let room = self.relays.len() < RELAYS_MAX;
        if room {
            self.relays.push(Relay::new(key, address, learnt, state));
        }
        room
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = PeerKey> {
        self.relays.iter().map(|relay| relay.key)
    }

    pub(crate) fn is_relay(&self, peer: &PeerKey) -> bool {
        self.relays.iter().any(|relay| relay.key == *peer)
    }

    /// The addresses to begin to listen on now, with the places in the table to report to.
    pub(crate) fn due(&self, now: Instant) -> Vec<(usize, Multiaddr)> {
        let due = |relay: &Relay| matches!(relay.state, State::Waiting { until } if until <= now);
        let relays = self.relays.iter().enumerate().filter(|(_, relay)| due(relay));
        relays.map(|(at, relay)| (at, relay.address().clone().with(Protocol::P2pCircuit))).collect()
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        let until = |relay: &Relay| match relay.state {
            State::Waiting { until } | State::Introducing { until, .. } => Some(until),
            State::Unasked | State::Asking(_) | State::Reserved(_) => None,
        };
        self.relays.iter().filter_map(until).min()
    }

    /// Whether a relay that is due must be told first who we are; then this has begun, with the relay of that key.
    pub(crate) fn introduce(&mut self, at: usize, now: Instant) -> Option<PeerKey> {
        let relay = &mut self.relays[at];
        if relay.introduced {
            return None;
        }
        relay.state = State::Introducing { until: now + INTRODUCTION, shown: false };
        relay.dial_error = None;
        Some(relay.key)
    }

    /// Whether our certificate is to be shown to this relay now, if it wants to see it. True once an introduction.
    pub(crate) fn show(&mut self, peer: &PeerKey) -> bool {
        let shown = self.relays.iter_mut().find_map(|relay| match &mut relay.state {
            State::Introducing { shown, .. } if relay.key == *peer => Some(shown),
            _ => None,
        });
        shown.is_some_and(|shown| !std::mem::replace(shown, true))
    }

    /// The relay knows who we are, and serves us; or why it does not.
    pub(crate) fn introduced(&mut self, peer: &PeerKey, refusal: Option<String>, now: Instant) {
        let introducing =
            |relay: &Relay| relay.key == *peer && matches!(relay.state, State::Introducing { .. });
        let Some(at) = self.relays.iter().position(introducing) else { return };
        match refusal {
            Some(error) => self.fail(at, error, now),
            None => {
                self.relays[at].introduced = true;
                self.relays[at].state = State::Waiting { until: now };
            }
        }
    }

    /// Gives up introductions that take too long.
    pub(crate) fn tidy(&mut self, now: Instant) {
        for at in 0..self.relays.len() {
            if matches!(self.relays[at].state, State::Introducing { until, .. } if until <= now) {
                let error = self.relays[at].dial_error.take();
                self.fail(at, error.unwrap_or_else(|| "it did not answer in time".to_owned()), now);
            }
        }
    }

    pub(crate) fn asking(&mut self, at: usize, listener: ListenerId) {
        self.relays[at].state = State::Asking(listener);
        self.relays[at].dial_error = None;
    }

    pub(crate) fn refused(&mut self, at: usize, error: String, now: Instant) {
        self.fail(at, error, now);
    }

    /// A relay could not be reached; its listener's end, which follows, does not say why.
    pub(crate) fn unreachable(&mut self, peer: &PeerKey, error: &str) {
        for relay in self.relays.iter_mut().filter(|relay| relay.key == *peer) {
            relay.dial_error = Some(error.to_owned());
        }
    }

    /// A reservation was made; false if it was renewed, or is none of ours.
    pub(crate) fn reserved(&mut self, listener: ListenerId) -> bool {
        for relay in &mut self.relays {
            if matches!(relay.state, State::Asking(id) if id == listener) {
                relay.state = State::Reserved(listener);
                (relay.failures, relay.last_error, relay.dial_error) = (0, None, None);
                return true;
            }
        }
        false
    }

    /// A listener ended; false if it is none of ours.
    pub(crate) fn closed(&mut self, listener: ListenerId, error: Option<String>, now: Instant) -> bool {
        let listens =
            |relay: &Relay| matches!(relay.state, State::Asking(id) | State::Reserved(id) if id == listener);
        let Some(at) = self.relays.iter().position(listens) else { return false };
        let error = error.or_else(|| self.relays[at].dial_error.take()).unwrap_or_else(|| ENDED.to_owned());
        self.fail(at, error, now);
        true
    }

    /// The network is another one: all are asked at once.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        for relay in &mut self.relays {
            if let State::Waiting { until } = &mut relay.state {
                *until = now;
            }
        }
    }

    /// How things stand; `rtt` tells the latest round-trip time to a relay.
    pub(crate) fn details(&self, rtt: impl Fn(&PeerKey) -> Option<u64>) -> Vec<RelayDetails> {
        let details = |relay: &Relay| RelayDetails {
            address: relay.address().to_string(),
            reserved: matches!(relay.state, State::Reserved(_)),
            learnt: relay.learnt,
            round_trip_micros: rtt(&relay.key),
            failures: relay.failures,
            last_error: relay.last_error.clone(),
        };
        self.relays.iter().filter(|relay| !matches!(relay.state, State::Unasked)).map(details).collect()
    }

    fn fail(&mut self, at: usize, error: String, now: Instant) {
        let relay = &mut self.relays[at];
        let plain = (FIRST_MS << relay.failures.min(10)).min(WAIT_MS_MAX);
        // Between three quarters and the whole: devices that lost one relay together do not return together.
        let wait = plain - splitmix(&mut self.random) % (plain / 4);
        relay.failures = relay.failures.saturating_add(1);
        relay.introduced = false;
        relay.last_error = Some(error);
        relay.state = State::Waiting { until: now + Duration::from_millis(wait) };
    }
}

/// The kind of path to a relay, whose address ends in its id.
fn direct_kind(address: &Multiaddr) -> Option<engine::transport::PathKind> {
    let mut address = address.clone();
    address.pop();
    path_kind(&address)
}

/// Reads a relay's address.
pub(crate) fn relay_address(text: &str) -> Result<(PeerKey, Multiaddr), AddressError> {
    let Dialable { address, peer } = Dialable::parse(text)?;
    let direct = path_kind(&address) != Some(engine::transport::PathKind::Relayed);
    let named = peer.and_then(|key| Some((key, keys::peer_of(&key)?)));
    match named {
        Some((key, id)) if direct => Ok((key, address.with(Protocol::P2p(id)))),
        _ => Err(AddressError::NoRelay { address: text.to_owned() }),
    }
}

/// Checks an address that a user gives for a relay's.
pub fn check_relay(text: &str) -> Result<(), AddressError> {
    relay_address(text).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        let key = PeerKey(engine::identity::SecretKey::from_bytes(&[3; 32]).public());
        format!("/ip4/192.0.2.1/tcp/4001/p2p/{}", keys::peer_of(&key).expect("a key"))
    }

    #[test]
    fn a_relay_without_its_id_or_behind_another_relay_is_refused() {
        assert!(check_relay(&text()).is_ok());
        for bad in ["/ip4/192.0.2.1/tcp/4001".to_owned(), format!("{}/p2p-circuit{}", text(), &text()[23..])]
        {
            assert!(matches!(check_relay(&bad), Err(AddressError::NoRelay { .. })), "{bad}");
        }
    }

    #[test]
    fn a_relay_is_learnt_from_a_members_address_and_asked_only_if_none_is_configured() {
        let now = Instant::now();
        let circuit: Multiaddr = format!("{}/p2p-circuit", text()).parse().expect("an address");
        let mut none = Relays::new(&[], 1, now).expect("valid");
        assert!(none.learn(&circuit, now).is_some() && none.learn(&circuit, now).is_none());
        assert!(none.learn(&"/ip4/192.0.2.1/tcp/1".parse().expect("an address"), now).is_none());
        assert_eq!(none.due(now).len(), 1);
        assert!(none.details(|_| None)[0].learnt);
        let key = PeerKey(engine::identity::SecretKey::from_bytes(&[4; 32]).public());
        let own = format!("/ip4/192.0.2.2/tcp/4001/p2p/{}", keys::peer_of(&key).expect("a key"));
        let mut configured = Relays::new(&[own], 1, now).expect("valid");
        configured.learn(&circuit, now);
        assert_eq!((configured.due(now).len(), configured.meeting_points().count()), (1, 2));
    }

    #[test]
    fn a_relay_with_several_addresses_is_asked_once_at_the_best_and_then_at_the_others() {
        let now = Instant::now();
        let quic = text().replace("tcp/4001", "udp/4001/quic-v1");
        let mut relays = Relays::new(&[text(), quic.clone()], 1, now).expect("valid");
        assert_eq!(relays.due(now), vec![(0, format!("{quic}/p2p-circuit").parse().expect("valid"))]);
        relays.refused(0, "no".into(), now);
        let later = relays.next_due().expect("a next try");
        assert_eq!(relays.due(later), vec![(0, format!("{}/p2p-circuit", text()).parse().expect("valid"))]);
        for port in 1..100 {
            let circuit = format!("{}/p2p-circuit", text().replace("4001", &port.to_string()));
            relays.learn(&circuit.parse().expect("valid"), now);
        }
        assert_eq!(relays.meeting_points().count(), ADDRESSES_MAX);
    }

    #[test]
    fn a_lost_reservation_is_asked_for_again_with_growing_waits_and_at_once_on_another_network() {
        let mut now = Instant::now();
        let mut relays = Relays::new(&[text()], 1, now).expect("valid");
        let mut waits = Vec::new();
        for _ in 0..12 {
            let [(at, _)] = relays.due(now)[..] else { panic!("due") };
            let id = ListenerId::next();
            relays.asking(at, id);
            assert!(relays.due(now).is_empty() && relays.next_due().is_none());
            assert!(!relays.closed(ListenerId::next(), None, now), "another listener");
            assert!(relays.closed(id, Some("denied".into()), now));
            let next = relays.next_due().expect("a next try");
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] <= Duration::from_millis(FIRST_MS) && waits[2] > waits[0]);
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(WAIT_MS_MAX)));
        assert_eq!(relays.details(|_| None)[0].failures, 12);
        assert_eq!(relays.details(|_| None)[0].last_error.as_deref(), Some("denied"));
        relays.refused(0, "no".into(), now);
        relays.network_changed(now);
        assert_eq!(relays.due(now).len(), 1);
    }

    #[test]
    fn a_reservation_is_counted_once_and_a_dead_relay_says_why() {
        let now = Instant::now();
        let mut relays = Relays::new(&[text()], 1, now).expect("valid");
        let id = ListenerId::next();
        relays.asking(0, id);
        assert!(relays.reserved(id) && !relays.reserved(id));
        assert!(relays.details(|_| None)[0].reserved);
        relays.closed(id, None, now);
        assert!(!relays.details(|_| None)[0].reserved);
        let id = ListenerId::next();
        relays.asking(0, id);
        let key = relays.relays[0].key;
        relays.unreachable(&key, "refused");
        relays.closed(id, None, now);
        assert_eq!(relays.details(|_| None)[0].last_error.as_deref(), Some("refused"));
    }
}
