//! What the swarm's task does about the swarm's own events: connections made and ended, listeners, failed dials.

use std::time::Instant;

use engine::transport::{Path, PathKind};
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId};

use crate::addresses::{Dialable, Source, path_kind};
use crate::behaviour::BehaviourEvent;
use crate::connections::Connection;
use crate::driver::{Driver, Errand};
use crate::handler::Purpose;
use crate::keys;
use crate::pairing::{ConnectReply, PairConnectError};
use crate::stack;
use crate::watch;

impl Driver {
    pub(crate) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = Instant::now();
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event, now),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint, now);
            }
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                let broken = cause.is_some();
                let reason = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                // Its carrier ends by itself, when what has arrived is read.
                self.forget_connection(connection_id, &reason, broken);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                if let Some(peer) = peer_id.as_ref().and_then(keys::key_of) {
                    self.relays.unreachable(&peer, &describe(&error));
                }
                if let Some(errand) = self.errands.remove(&connection_id) {
                    self.errand_failed(errand, describe(&error), now);
                }
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                tracing::info!(%address, "listening");
                if self.relays.reserved(listener_id) {
                    // Others may have come back to it too.
                    self.dialer.network_changed(now);
                }
                self.starting.retain(|(id, _)| *id != listener_id);
                self.want_ports(false);
                self.telling.moved(now);
                // An address at a relay is news for others, not for us.
                if self.started.is_none() && path_kind(&address) != Some(PathKind::Relayed) {
                    self.network_changed(now);
                }
                self.check_started();
            }
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.telling.moved(now);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                self.telling.moved(now);
                let error = reason.as_ref().err().map(|error| root_cause(error));
                if self.relays.closed(listener_id, error, now) {
                    tracing::info!(?reason, "a reservation with a relay ended or was refused");
                    return;
                }
                let Some(at) = self.starting.iter().position(|(id, _)| *id == listener_id) else {
                    tracing::warn!(?reason, "a listener closed");
                    return;
                };
                let (_, address) = self.starting.swap_remove(at);
                let error = reason.err().unwrap_or_else(|| std::io::ErrorKind::ConnectionAborted.into());
                if let Some(started) = self.started.take() {
                    let _ = started.send(Err(stack::listen_error(&address, error)));
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.telling.moved(now);
                tracing::info!(%address, "no longer listening");
                if path_kind(&address) != Some(PathKind::Relayed) {
                    self.network_changed(now);
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener has a problem"),
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                tracing::debug!(%error, from = %send_back_addr, "an incoming connection failed");
            }
            _ => {}
        }
    }

    pub(crate) fn check_started(&mut self) {
        if self.starting.is_empty()
            && let Some(started) = self.started.take()
        {
            let _ = started.send(Ok(()));
        }
    }

    fn on_established(&mut self, peer_id: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, now: Instant) {
        let errand = self.errands.remove(&id);
        let Some(peer) = keys::key_of(&peer_id) else { return };
        let address = match endpoint {
            // Of who calls through a relay, only the relay's address is known.
            ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => until_circuit(local_addr),
            _ => endpoint.get_remote_address().clone(),
        };
        let dialable = Dialable::of(address.clone()).ok();
        if let Some(Err(error)) = dialable.as_ref().map(|dialable| self.book.allow(&dialable.address)) {
            self.swarm.close_connection(id);
            if let Some(errand) = errand {
                self.errand_failed(errand, error.to_string(), now);
            }
            return;
        }
        let kind = dialable.as_ref().and_then(|d| path_kind(&d.address)).unwrap_or(PathKind::DirectTcp);
        let path =
            Path { kind, address: dialable.as_ref().map_or(address, |d| d.address.clone()).to_string() };
        // Not where a hole was punched or a test dialed: we did not choose those.
        if let (true, Some(dialable)) = (errand.is_some(), dialable) {
            self.remember(peer, dialable.address, Source::Dialed, now);
        }
        // The side that dialed opens the sync stream, so that there is exactly one on a connection. When a hole is
        // punched, both have dialed, and one plays the part of the other.
        let (dialed_by_us, from_listener) = match endpoint {
            ConnectedPoint::Dialer { role_override, port_use, .. } => {
                (*role_override == Endpoint::Dialer, *port_use == PortUse::Reuse && !endpoint.is_relayed())
            }
            ConnectedPoint::Listener { .. } => (false, false),
        };
        tracing::debug!(?peer, %path.address, dialed_by_us, "connected");
        let mut connection = Connection::new(peer, path, dialed_by_us, now);
        connection.relay = self.relays.is_relay(&peer);
        connection.from_listener = from_listener;
        connection.source = watch::source(endpoint.get_remote_address());
        connection.remote = endpoint.get_remote_address().clone();
        // A circuit for an attempt to punch a hole carries no session, nor does what somebody else had us dial (a hole
        // punched, a test of reachability), unless it is better than what there is.
        let better = self.hub.session(&peer).is_none_or(|session| session.path.kind < kind);
        connection.sync_asked = matches!(errand, Some(Errand::Punch)) || (errand.is_none() && !better);
        let first = self.connections.with(&peer).next().is_none();
        self.connections.table.insert(id, connection);
        if first && self.hub.is_member(&peer) {
            self.tell_all(&peer);
        }
        self.dialer.connected(&peer, now);
        self.rate(&peer, now);
        match errand {
            Some(Errand::Session(reply)) => {
                let _ = reply.send(Ok(peer));
                if let Some(connection) = self.connections.table.get_mut(&id) {
                    connection.sync_asked = true;
                }
                self.swarm.behaviour_mut().streams.open(peer_id, id, Purpose::Sync);
            }
            Some(Errand::Pair(reply)) => self.ask_for_pairing(id, reply),
            Some(_) | None => {}
        }
        self.ask_for_sync();
    }

    /// Opens a pairing stream on a connection.
    pub(crate) fn ask_for_pairing(&mut self, id: ConnectionId, reply: ConnectReply) {
        let Some(connection) = self.connections.table.get_mut(&id) else {
            let _ = reply.send(Err(PairConnectError::Unreachable("the connection ended".into())));
            return;
        };
        connection.pairing.push_back(reply);
        if let Some(peer) = keys::peer_of(&connection.peer) {
            self.swarm.behaviour_mut().streams.open(peer, id, Purpose::Pair);
        }
    }
}

/// An address through a relay, without who is called there.
fn until_circuit(address: &Multiaddr) -> Multiaddr {
    let mut parts: Vec<Protocol<'_>> = address.iter().collect();
    if let Some(at) = parts.iter().position(|part| *part == Protocol::P2pCircuit) {
        parts.truncate(at + 1);
    }
    parts.into_iter().collect()
}

/// One line about why a dial failed, without the debug output that libp2p's own text has.
pub(crate) fn describe(error: &libp2p::swarm::DialError) -> String {
    use libp2p::swarm::DialError as E;
    match error {
        E::Transport(errors) => {
            let each = errors.iter().map(|(address, error)| format!("{address}: {}", root_cause(error)));
            let mut text = each.collect::<Vec<_>>().join("; ");
            if text.len() > 500 {
                text.truncate(text.floor_char_boundary(500));
                text.push('…');
            }
            text
        }
        E::WrongPeerId { address, .. } => format!("{address} is another device by now"),
        E::LocalPeerId { address } => format!("{address} is this device itself"),
        E::Denied { cause } => root_cause(cause),
        E::NoAddresses => "no address is known".to_owned(),
        E::Aborted => "the attempt was given up".to_owned(),
        E::DialPeerConditionFalse(_) => "an attempt is under way already".to_owned(),
    }
}

/// The innermost error, which says what happened; those around it say where in the stack.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
