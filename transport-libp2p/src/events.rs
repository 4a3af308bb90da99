//! What the swarm's task does about the behaviours' events and the control handle's commands.

use std::time::Instant;

use engine::config::BROADCAST_BYTES_MAX;
use engine::identity::PeerKey;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::Message;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, gossipsub, identify, mdns, ping};

use crate::addresses::{Dialable, Source, is_loopback, is_useless};
use crate::admission;
use crate::behaviour::{BehaviourEvent, StreamNews};
use crate::carrier;
use crate::control::{Callee, Command, PeerDetails, SessionDetails};
use crate::driver::{Driver, Errand};
use crate::handler::{FromHandler, Purpose};
use crate::keys;
use crate::pairing::{ConnectReply, PairConnectError};
use crate::stack::PROTOCOL_FAMILY;

impl Driver {
    pub(crate) fn on_behaviour_event(&mut self, event: BehaviourEvent, now: Instant) {
        match event {
            BehaviourEvent::Streams(news) => self.on_stream_news(news),
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Identify(identify::Event::Received { connection_id, info, .. }) => {
                self.on_identified(connection_id, info, now);
            }
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.on_hint(propagation_source, &message_id, message);
            }
            BehaviourEvent::Mdns(event) | BehaviourEvent::Mdns6(event) => self.on_mdns(event, now),
            BehaviourEvent::Punch(event) => self.on_punched(event),
            BehaviourEvent::Admission(event) => self.on_admission(event, now),
            BehaviourEvent::Reach(event) => self.on_reach_tested(event),
            BehaviourEvent::Upnp(event) => self.on_port_mapping(event),
            BehaviourEvent::Telling(event) => self.on_telling(event, now),
            // A test that we made for a member is its affair.
            BehaviourEvent::Probe(_) => {}
            // A listener says what becomes of a reservation; see `Relays`.
            BehaviourEvent::Relay(_) | BehaviourEvent::Identify(_) | BehaviourEvent::Gossip(_) => {}
            BehaviourEvent::Limits(never) => match never {},
        }
    }

    fn on_stream_news(&mut self, StreamNews { peer, connection: id, news }: StreamNews) {
        let Some(connection) = self.connections.table.get_mut(&id) else { return };
        match news {
            FromHandler::Opened { purpose: Purpose::Sync, dialed_by_us, stream } => {
                // One sync stream on a connection, opened by the side that dialed; any other is
                // dropped, which resets it.
                if connection.carrier.is_none() && dialed_by_us == connection.dialed_by_us {
                    let run =
                        carrier::run(self.hub.clone(), peer, stream, connection.path.clone(), dialed_by_us);
                    connection.carried = true;
                    connection.carrier = Some(self.carriers.spawn(async move { (id, run.await) }));
                }
            }
            FromHandler::Opened { purpose: Purpose::Pair, dialed_by_us: true, stream } => {
                if let Some(reply) = connection.pairing.pop_front() {
                    self.desk.calling(peer, id, stream, reply);
                }
            }
            FromHandler::Opened { purpose: Purpose::Pair, dialed_by_us: false, stream } => {
                self.desk.called(peer, id, stream);
            }
            FromHandler::Failed { purpose: Purpose::Sync, error } => self.drop_connection(id, &error, false),
            FromHandler::Failed { purpose: Purpose::Pair, error } => {
                if let Some(reply) = connection.pairing.pop_front() {
                    let _ = reply.send(Err(PairConnectError::Unreachable(error)));
                }
            }
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        let Some(connection) = self.connections.table.get_mut(&event.connection) else { return };
        let peer = connection.peer;
        match event.result {
            Ok(rtt) => {
                let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
                connection.rtt_micros = Some(micros);
                if self.hub.session(&peer).is_some_and(|session| session.path == connection.path) {
                    self.hub.round_trip(peer, micros);
                }
            }
            // libp2p keeps the first failure in a row to itself, so this is the second.
            Err(error) => {
                let reason = format!("it does not answer: {error}");
                if self.connections.with(&peer).count() == 1 {
                    self.hub.expel(&peer, &reason);
                }
                self.drop_connection(event.connection, &reason, true);
            }
        }
    }

    fn on_identified(&mut self, id: ConnectionId, info: identify::Info, now: Instant) {
        let Some(connection) = self.connections.table.get_mut(&id) else { return };
        connection.wants_certificate = Some(info.protocols.contains(&admission::PROTOCOL));
        let peer = connection.peer;
        let ours = info.protocol_version == PROTOCOL_FAMILY;
        self.discovery.offers_pairing(peer, ours && info.protocols.contains(&Purpose::Pair.protocol()));
        self.tell_untold(&peer, &info.protocols);
        let relay = self.relays.is_relay(&peer);
        if relay || self.hub.is_member(&peer) {
            self.on_observed(id, &info);
        }
        if relay {
            self.show_certificate(&peer, now);
            self.have_relay_look(peer, &info, now);
        }
        if !ours || !self.hub.is_member(&peer) {
            return;
        }
        let Some(connection) = self.connections.table.get(&id) else { return };
        let here = connection.path.address.parse().is_ok_and(|address| is_loopback(&address));
        for address in info.listen_addrs {
            let Ok(dialable) = Dialable::of(address) else { continue };
            if !is_useless(&dialable.address) && (here || !is_loopback(&dialable.address)) {
                self.note(peer, dialable, Source::Identify, now);
            }
        }
    }

    /// What a relay says to our certificate.
    fn on_admission(&mut self, event: admission::Event, now: Instant) {
        let (peer, refusal) = match event {
            admission::Event::Message { peer, message: Message::Response { response, .. }, .. } => {
                (peer, response.refusal())
            }
            admission::Event::OutboundFailure { peer, error, .. } => (peer, Some(error.to_string())),
            _ => return,
        };
        if let Some(relay) = keys::key_of(&peer) {
            self.relays.introduced(&relay, refusal, now);
        }
    }

    /// Notes an address, unless it says that it is another peer's.
    fn note(&mut self, peer: PeerKey, dialable: Dialable, source: Source, now: Instant) {
        if dialable.peer.is_none_or(|named| named == peer)
            && self.remember(peer, dialable.address, source, now)
        {
            self.dialer.discovered(&peer, now);
        }
    }

    fn on_hint(&mut self, relay: libp2p::PeerId, id: &gossipsub::MessageId, message: gossipsub::Message) {
        let from = message.source.as_ref().and_then(keys::key_of).filter(|from| self.hub.is_member(from));
        let relayed_by_member = keys::key_of(&relay).is_some_and(|relay| self.hub.is_member(&relay));
        let acceptance = match from {
            Some(from) if relayed_by_member && message.data.len() <= BROADCAST_BYTES_MAX => {
                self.hub.heard(from, message.data);
                gossipsub::MessageAcceptance::Accept
            }
            _ => gossipsub::MessageAcceptance::Reject,
        };
        self.swarm.behaviour_mut().gossip.inner.report_message_validation_result(id, &relay, acceptance);
    }

    fn on_mdns(&mut self, event: mdns::Event, now: Instant) {
        match event {
            mdns::Event::Discovered(found) => {
                found.into_iter().for_each(|(peer, address)| self.on_discovered(peer, address, now));
            }
            // The address book keeps what it has: an announcement that was lost says nothing about a connection that
            // works.
            mdns::Event::Expired(gone) => {
                for (peer, address) in gone {
                    if let (Some(key), Ok(dialable)) = (keys::key_of(&peer), Dialable::of(address)) {
                        self.discovery.expired(key, &dialable.address);
                    }
                }
            }
        }
    }

    fn on_discovered(&mut self, peer: libp2p::PeerId, address: Multiaddr, now: Instant) {
        let (Some(key), Ok(dialable)) = (keys::key_of(&peer), Dialable::of(address)) else { return };
        if is_useless(&dialable.address) || dialable.peer.is_some_and(|named| named != key) {
            return;
        }
        tracing::debug!(peer = ?key, address = %dialable.address, "seen on the local network");
        self.discovery.found(key, dialable.address.clone());
        if self.hub.is_member(&key) {
            // Also for an address that we knew: the peer has just come (back) to this network.
            self.remember(key, dialable.address, Source::Mdns, now);
            self.dialer.discovered(&key, now);
        }
    }

    /// While somebody searches for a device to join: see what the peers around offer.
    pub(crate) fn probe_candidates(&mut self, now: Instant) {
        for (peer, addresses) in self.discovery.due_probes(now) {
            let connected = self.connections.with(&peer).next().is_some();
            let (false, Some(id)) = (connected, keys::peer_of(&peer)) else { continue };
            let condition = PeerCondition::DisconnectedAndNotDialing;
            let opts = DialOpts::peer_id(id).condition(condition).addresses(addresses).build();
            self.dial(opts, Errand::Probe, now);
        }
    }

    pub(crate) fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::ListenAddresses(reply) => {
                let local = *self.swarm.local_peer_id();
                let full = |address: &Multiaddr| match address.iter().last() {
                    Some(Protocol::P2p(id)) if id == local => address.to_string(),
                    _ => format!("{address}/p2p/{local}"),
                };
                let listening = self.swarm.listeners().filter(|address| !is_useless(address));
                let _ = reply.send(listening.map(full).collect());
            }
            Command::KnownAddresses(reply) => drop(reply.send(self.book.all())),
            Command::AddressRecords(reply) => {
                let members = self.hub.members();
                let _ = reply.send(self.whereabouts.all(|key| members.contains(key)));
            }
            Command::Ping(peer, reply) => self.ping(peer, reply, now),
            Command::AddAddress(peer, dialable) => self.note(peer, dialable, Source::Given, now),
            Command::Dial(dialable, reply) if self.is_own(&dialable) => {
                drop(reply.send(Err(crate::DialError::Failed(OURSELVES.into()))));
            }
            Command::Dial(dialable, reply) => {
                if let Err(error) = self.book.allow(&dialable.address) {
                    return drop(reply.send(Err(error.into())));
                }
                let opts = dial_opts(dialable.peer, vec![dialable.address]);
                match opts {
                    Some(opts) => self.dial(opts, Errand::Session(reply), now),
                    None => drop(reply.send(Err(crate::DialError::Failed(NO_SUCH_KEY.into())))),
                }
            }
            Command::Peers(reply) => drop(reply.send(self.peers(now))),
            Command::Relays(reply) => {
                let rtt = |relay: &PeerKey| self.connections.with(relay).find_map(|(_, c)| c.rtt_micros);
                let _ = reply.send(self.relays.details(rtt));
            }
            Command::Reach(reply) => drop(reply.send(self.reach_details())),
            Command::NetworkChanged => self.try_all(now),
            Command::Pause(paused, reply) => drop(reply.send(self.pause(paused, now))),
            Command::PairListen(reply) => drop(reply.send(self.desk.listen())),
            Command::PairConnect(callee, reply) => self.pair(callee, reply, now),
            Command::PairCandidates(found) => self.discovery.search(found),
        }
    }

    /// Ends all connections and makes no more, or makes them again; whether that is news.
    fn pause(&mut self, paused: bool, now: Instant) -> bool {
        let streams = &mut self.swarm.behaviour_mut().streams;
        if streams.paused == paused {
            return false;
        }
        streams.paused = paused;
        tracing::info!(paused, "the transport was told to pause, or to go on");
        if !paused {
            self.relays.network_changed(now);
            self.dialer.network_changed(now);
            return true;
        }
        let open: Vec<(ConnectionId, PeerKey)> =
            self.connections.table.iter().map(|(id, connection)| (*id, connection.peer)).collect();
        for (id, peer) in open {
            if self.hub.session(&peer).is_some() {
                // Its carrier sends what is under way and ends, and the connection with it.
                self.hub.expel(&peer, PAUSED);
            } else {
                self.drop_connection(id, PAUSED, false);
            }
        }
        true
    }

    fn pair(&mut self, callee: Callee, reply: ConnectReply, now: Instant) {
        let (peer, addresses) = match callee {
            Callee::At(dialable) if self.is_own(&dialable) => {
                let _ = reply.send(Err(PairConnectError::Unreachable(OURSELVES.into())));
                return;
            }
            Callee::At(dialable) => {
                if let Err(error) = self.book.allow(&dialable.address) {
                    let _ = reply.send(Err(error.into()));
                    return;
                }
                (dialable.peer, vec![dialable.address])
            }
            Callee::Candidate(candidate) => {
                let addresses = candidate.addresses.iter().filter_map(|text| Dialable::parse(text).ok());
                let addresses = addresses.map(|dialable| dialable.address);
                (Some(candidate.peer), addresses.filter(|address| self.book.allow(address).is_ok()).collect())
            }
        };
        let open = peer.and_then(|peer| self.connections.with(&peer).next().map(|(id, _)| id));
        if let Some(id) = open {
            self.ask_for_pairing(id, reply);
            return;
        }
        match dial_opts(peer, addresses) {
            Some(opts) => self.dial(opts, Errand::Pair(reply), now),
            None => drop(reply.send(Err(PairConnectError::Unreachable(NO_SUCH_KEY.into())))),
        }
    }

    /// True if the address leads to ourselves.
    fn is_own(&self, dialable: &Dialable) -> bool {
        dialable.peer == Some(self.hub.local()) || self.swarm.listeners().any(|own| *own == dialable.address)
    }

    fn peers(&self, now: Instant) -> Vec<PeerDetails> {
        let members = self.hub.members();
        let mut peers = members.clone();
        peers.extend(self.connections.table.values().map(|connection| connection.peer));
        let details = |peer: PeerKey| {
            let outlook = self.dialer.outlook(&peer);
            let session = self.hub.session(&peer).map(|session| SessionDetails {
                rtt_micros: self
                    .connections
                    .with(&peer)
                    .find(|(_, connection)| connection.path == session.path)
                    .and_then(|(_, connection)| connection.rtt_micros),
                path: session.path,
                up_for: now.saturating_duration_since(session.since),
            });
            PeerDetails {
                peer,
                member: members.contains(&peer),
                session,
                connections: self.connections.with(&peer).count(),
                addresses: self.book.of(&peer).iter().map(Multiaddr::to_string).collect(),
                said_ms: self.whereabouts.of(&peer).map(|record| record.at_ms),
                dial_failures: outlook.failures,
                last_error: outlook.last_error,
                next_attempt_in: outlook.next_attempt.map(|at| at.saturating_duration_since(now)),
            }
        };
        peers.into_iter().map(details).collect::<Vec<_>>()
    }
}

const PAUSED: &str = "this device has paused";
const OURSELVES: &str = "that is this device itself";
const NO_SUCH_KEY: &str = "no device can have such a key";

/// How to dial somebody at these addresses; `None` if the key is not one that anybody can have.
fn dial_opts(peer: Option<PeerKey>, mut addresses: Vec<Multiaddr>) -> Option<DialOpts> {
    match peer {
        Some(peer) => {
            let id = keys::peer_of(&peer)?;
            Some(DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses).build())
        }
        None => Some(DialOpts::unknown_peer_id().address(addresses.pop()?).build()),
    }
}
