//! The relays that this device wants to be reachable through: which one is due to be asked for a
//! reservation, and how things stand with each. Pure.
//!
//! Invariants: a relay has at most one listener, by whose id its end is told from a renewal; after a
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
/// Wait after the first failure, in milliseconds.
const FIRST_MS: u64 = 1_000;
/// Longest wait between two attempts, in milliseconds: a relay that is back is found in that time.
const WAIT_MS_MAX: u64 = 30_000;

/// How things stand with a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayDetails {
    /// Its address, with its `/p2p/` id.
    pub address: String,
    /// Whether it holds a reservation for this device, so that others reach it there.
    pub reserved: bool,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// Why the latest attempt failed, or the latest reservation ended.
    pub last_error: Option<String>,
}

#[derive(Debug)]
enum State {
    Waiting { until: Instant },
    Asking(ListenerId),
    Reserved(ListenerId),
}

#[derive(Debug)]
struct Relay {
    key: PeerKey,
    /// With `/p2p/` suffix.
    address: Multiaddr,
    state: State,
    failures: u32,
    last_error: Option<String>,
    dial_error: Option<String>,
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
        let relay = |text: &String| {
            let (key, address) = relay_address(text)?;
            let state = State::Waiting { until: now };
            Ok(Relay { key, address, state, failures: 0, last_error: None, dial_error: None })
        };
        let relays = addresses.iter().map(relay).collect::<Result<_, _>>()?;
        Ok(Relays { relays, random: seed })
    }

    /// Where anybody is found who has a reservation with one of our relays.
    pub(crate) fn meeting_points(&self) -> impl Iterator<Item = Multiaddr> {
        self.relays.iter().map(|relay| relay.address.clone().with(Protocol::P2pCircuit))
    }

    pub(crate) fn is_relay(&self, peer: &PeerKey) -> bool {
        self.relays.iter().any(|relay| relay.key == *peer)
    }

    /// The addresses to begin to listen on now, with the places in the table to report to.
    pub(crate) fn due(&self, now: Instant) -> Vec<(usize, Multiaddr)> {
        let due = |relay: &Relay| matches!(relay.state, State::Waiting { until } if until <= now);
        let relays = self.relays.iter().enumerate().filter(|(_, relay)| due(relay));
        relays.map(|(at, relay)| (at, relay.address.clone().with(Protocol::P2pCircuit))).collect()
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        let until = |relay: &Relay| match relay.state {
            State::Waiting { until } => Some(until),
            State::Asking(_) | State::Reserved(_) => None,
        };
        self.relays.iter().filter_map(until).min()
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
        let ended = "the connection with the relay ended".to_owned();
        let error = error.or_else(|| self.relays[at].dial_error.take()).unwrap_or(ended);
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

    pub(crate) fn details(&self) -> Vec<RelayDetails> {
        let details = |relay: &Relay| RelayDetails {
            address: relay.address.to_string(),
            reserved: matches!(relay.state, State::Reserved(_)),
            failures: relay.failures,
            last_error: relay.last_error.clone(),
        };
        self.relays.iter().map(details).collect()
    }

    fn fail(&mut self, at: usize, error: String, now: Instant) {
        let relay = &mut self.relays[at];
        let plain = (FIRST_MS << relay.failures.min(10)).min(WAIT_MS_MAX);
        // Between three quarters and the whole: devices that lost one relay together do not return together.
        let wait = plain - splitmix(&mut self.random) % (plain / 4);
        relay.failures = relay.failures.saturating_add(1);
        relay.last_error = Some(error);
        relay.state = State::Waiting { until: now + Duration::from_millis(wait) };
    }
}

/// Reads a relay's address.
fn relay_address(text: &str) -> Result<(PeerKey, Multiaddr), AddressError> {
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
        assert_eq!(relays.details()[0].failures, 12);
        assert_eq!(relays.details()[0].last_error.as_deref(), Some("denied"));
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
        assert!(relays.details()[0].reserved);
        relays.closed(id, None, now);
        assert!(!relays.details()[0].reserved);
        let id = ListenerId::next();
        relays.asking(0, id);
        let key = relays.relays[0].key;
        relays.unreachable(&key, "refused");
        relays.closed(id, None, now);
        assert_eq!(relays.details()[0].last_error.as_deref(), Some("refused"));
    }
}
