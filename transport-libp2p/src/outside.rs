//! Where a relay can be dialed from outside: other relays say where they see it (identify) and test whether it can be
//! dialed there (AutoNAT v2).
//!
//! Invariants: only those who are asked are listened to; an address is taken only if one of them has dialed it; it ends
//! within [`TIME_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::identity::SecretKey;
use futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, allow_block_list, autonat, identify, noise, tcp};

use crate::addresses::is_useless;
use crate::config::SpawnError;
use crate::{keys, relays, stack};

/// How long all of it may take.
const TIME_MAX: Duration = Duration::from_secs(40);
/// Time between two rounds of tests.
const TEST_EVERY: Duration = Duration::from_millis(500);
/// Most addresses that are tested.
const CANDIDATES_MAX: usize = 8;

#[derive(NetworkBehaviour)]
struct Behaviour {
    asked: allow_block_list::Behaviour<allow_block_list::AllowedPeers>,
    identify: identify::Behaviour,
    test: autonat::v2::client::Behaviour,
}

/// What is known of the addresses to be tested.
#[derive(Debug, Default)]
struct Candidates(BTreeMap<Multiaddr, Option<bool>>);

impl Candidates {
    /// Somebody sees us there: those of our listeners that would be at that IP address. Returns the new ones.
    fn seen(&mut self, observed: &Multiaddr, listening: impl Iterator<Item = Multiaddr>) -> Vec<Multiaddr> {
        let mut new = Vec::new();
        for mut address in listening.filter_map(|listener| at_ip_of(&listener, observed)) {
            if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
                address.pop();
            }
            if self.0.len() < CANDIDATES_MAX && !is_useless(&address) && !self.0.contains_key(&address) {
                self.0.insert(address.clone(), None);
                new.push(address);
            }
        }
        new
    }

    fn tested(&mut self, address: &Multiaddr, reachable: bool) {
        if let Some(result) = self.0.get_mut(address) {
            *result = Some(reachable);
        }
    }

    fn all_tested(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(Option::is_some)
    }

    fn confirmed(&self) -> Vec<Multiaddr> {
        self.0
            .iter()
            .filter(|(_, result)| **result == Some(true))
            .map(|(address, _)| address.clone())
            .collect()
    }
}

/// A listener's address, with the IP address of another one of the same family.
fn at_ip_of(listener: &Multiaddr, observed: &Multiaddr) -> Option<Multiaddr> {
    let (old, new) = (listener.iter().next()?, observed.iter().next()?);
    match (&old, &new) {
        (Protocol::Ip4(_), Protocol::Ip4(_)) | (Protocol::Ip6(_), Protocol::Ip6(_)) => {
            listener.replace(0, |_| Some(new.clone().acquire()))
        }
        _ => None,
    }
}

/// The addresses, among those that are listened on, at which the relay can be dialed.
pub(crate) async fn find(
    secret: &SecretKey,
    listen: &[Multiaddr],
    ask: &[String],
) -> Result<Vec<Multiaddr>, SpawnError> {
    let mut asked = BTreeMap::<PeerId, Vec<Multiaddr>>::new();
    for text in ask {
        let (key, address) = relays::relay_address(text)?;
        asked.extend(keys::peer_of(&key).map(|id| (id, Vec::new())));
        if let Some(addresses) = keys::peer_of(&key).and_then(|id| asked.get_mut(&id)) {
            addresses.push(address);
        }
    }
    let mut swarm = build(secret, asked.keys().copied())?;
    stack::listen(&mut swarm, listen)?;
    let mut candidates = Candidates::default();
    let mut failures = BTreeSet::new();
    let asking = ask_them(&mut swarm, asked, &mut candidates, &mut failures);
    let in_time = tokio::time::timeout(TIME_MAX, asking).await.is_ok();
    let listening: Vec<Multiaddr> = swarm.listeners().cloned().collect();
    drop(swarm);
    stack::released(&listening, Duration::from_secs(1)).await;
    let confirmed = candidates.confirmed();
    if !confirmed.is_empty() {
        return Ok(confirmed);
    }
    let mut tried: Vec<String> = failures.into_iter().collect();
    tried.extend(candidates.0.iter().map(|(address, result)| match result {
        Some(_) => format!("{address} cannot be dialed"),
        None => format!("{address} was not tested"),
    }));
    if tried.is_empty() {
        tried.push(if in_time { "nobody was asked" } else { "no answer in time" }.to_owned());
    }
    Err(SpawnError::NotConfirmed { tried: tried.join("; ") })
}

fn build(secret: &SecretKey, asked: impl Iterator<Item = PeerId>) -> Result<Swarm<Behaviour>, SpawnError> {
    let setup = |error: &dyn std::fmt::Display| SpawnError::Setup(error.to_string());
    let keypair = keys::keypair_of(secret);
    let mut list = allow_block_list::Behaviour::<allow_block_list::AllowedPeers>::default();
    for peer in asked {
        list.allow_peer(peer);
    }
    let tests = autonat::v2::client::Config::default().with_probe_interval(TEST_EVERY);
    let identify = identify::Config::new(stack::PROTOCOL_FAMILY.to_owned(), keypair.public())
        .with_agent_version(concat!("ahenk-relay/", env!("CARGO_PKG_VERSION")).to_owned());
    let behaviour = Behaviour {
        asked: list,
        identify: identify::Behaviour::new(identify),
        test: autonat::v2::client::Behaviour::new(rand::make_rng(), tests),
    };
    Ok(SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, stack::multiplexer)
        .map_err(|error| setup(&error))?
        .with_quic_config(stack::quic_limits)
        .with_dns()
        .map_err(|error| setup(&error))?
        .with_behaviour(|_| behaviour)
        .map_err(|never| setup(&never))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(TIME_MAX))
        .build())
}

/// Ends when each address has been tested, or when there is nobody left to ask.
async fn ask_them(
    swarm: &mut Swarm<Behaviour>,
    mut asked: BTreeMap<PeerId, Vec<Multiaddr>>,
    candidates: &mut Candidates,
    failures: &mut BTreeSet<String>,
) {
    let mut pending = BTreeSet::new();
    while !candidates.all_tested() {
        let event = swarm.select_next_some().await;
        match event {
            // From a port that is listened on, so that it is this port which is seen.
            SwarmEvent::NewListenAddr { .. } => {
                for (peer, addresses) in std::mem::take(&mut asked) {
                    let condition = PeerCondition::Always;
                    let opts = DialOpts::peer_id(peer).condition(condition).addresses(addresses).build();
                    pending.insert(opts.connection_id());
                    if let Err(error) = swarm.dial(opts) {
                        failures.insert(crate::swarm_events::describe(&error));
                    }
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                pending.remove(&connection_id);
                failures.insert(crate::swarm_events::describe(&error));
                if pending.is_empty() {
                    return;
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { info, .. })) => {
                let listening: Vec<Multiaddr> = swarm.listeners().cloned().collect();
                for addr in candidates.seen(&info.observed_addr, listening.into_iter()) {
                    let candidate = NewExternalAddrCandidate { addr: &addr };
                    let test = &mut swarm.behaviour_mut().test;
                    test.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Test(event)) => {
                candidates.tested(&event.tested_addr, event.result.is_ok());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tested_is_what_is_listened_on_at_the_address_that_was_seen() {
        let at = |text: &str| text.parse::<Multiaddr>().expect(text);
        let listening = || {
            ["/ip4/10.0.0.5/tcp/4001", "/ip4/10.0.0.5/udp/4001/quic-v1", "/ip6/fd00::1/tcp/4001"]
                .map(at)
                .into_iter()
        };
        let mut candidates = Candidates::default();
        let new = candidates.seen(&at("/ip4/45.0.0.1/tcp/50123"), listening());
        assert_eq!(new, [at("/ip4/45.0.0.1/tcp/4001"), at("/ip4/45.0.0.1/udp/4001/quic-v1")]);
        assert!(candidates.seen(&at("/ip4/45.0.0.1/tcp/50124"), listening()).is_empty(), "known");
        assert!(!candidates.all_tested());
        candidates.tested(&at("/ip4/45.0.0.1/tcp/4001"), true);
        candidates.tested(&at("/ip4/45.0.0.9/tcp/4001"), true);
        candidates.tested(&at("/ip4/45.0.0.1/udp/4001/quic-v1"), false);
        assert!(candidates.all_tested());
        assert_eq!(candidates.confirmed(), [at("/ip4/45.0.0.1/tcp/4001")]);
        for n in 0..100 {
            candidates.seen(&at(&format!("/ip4/45.0.1.{n}/tcp/1")), listening());
        }
        assert_eq!(candidates.0.len(), CANDIDATES_MAX);
    }
}
