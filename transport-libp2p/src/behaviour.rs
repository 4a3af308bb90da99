//! The network behaviours: our own [`Streams`], which opens streams and keeps the door, and
//! [`Behaviour`], which joins it with libp2p's.
//!
//! Invariants: every connected peer is an Ed25519 identity; at most [`UNKNOWN_MAX`] connections are
//! with peers that are not members.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use engine::identity::PeerKey;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{
    Multiaddr, PeerId, autonat, connection_limits, dcutr, gossipsub, identify, mdns, ping, relay, upnp,
};

use crate::admission;
use crate::gate::MembersOnly;
use crate::handler::{FromHandler, Handler, Purpose, ToHandler};
use crate::hub::Hub;
use crate::keys;
use crate::telling;

/// Most connections with peers that are not members.
pub(crate) const UNKNOWN_MAX: usize = 16;

/// Everything that runs on a connection. The limits come first, so that a connection over them
/// costs the others nothing.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) streams: Streams,
    pub(crate) ping: ping::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) gossip: MembersOnly<gossipsub::Behaviour<gossipsub::IdentityTransform, Topics>>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    /// The same over IPv6.
    pub(crate) mdns6: Toggle<mdns::tokio::Behaviour>,
    pub(crate) relay: relay::client::Behaviour,
    /// Shows our certificate to relays that ask for it.
    pub(crate) admission: admission::Behaviour,
    /// Makes a direct path of a relayed one, with members.
    pub(crate) punch: MembersOnly<dcutr::Behaviour>,
    /// Has members and our relays test whether we can be dialed.
    pub(crate) reach: MembersOnly<autonat::v2::client::Behaviour>,
    /// Makes such tests for members.
    pub(crate) probe: MembersOnly<autonat::v2::server::Behaviour>,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
    /// Tells members where devices are found.
    pub(crate) telling: MembersOnly<telling::Behaviour>,
}

/// Peers may subscribe to our one topic only.
pub(crate) type Topics = gossipsub::WhitelistSubscriptionFilter;

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the peer's identity is not an Ed25519 key")]
    NotEd25519,
    #[error("too many connections with unknown peers")]
    TooManyUnknown,
    #[error("this device has paused")]
    Paused,
}

/// News of a stream.
#[derive(Debug)]
pub(crate) struct StreamNews {
    pub(crate) peer: PeerKey,
    pub(crate) connection: ConnectionId,
    pub(crate) news: FromHandler,
}

/// Opens streams and keeps the door.
#[derive(Debug)]
pub(crate) struct Streams {
    hub: Arc<Hub>,
    connections: BTreeMap<ConnectionId, PeerKey>,
    offer_pairing: bool,
    /// Nobody is admitted.
    pub(crate) paused: bool,
    queue: VecDeque<ToSwarm<StreamNews, ToHandler>>,
}

impl Streams {
    pub(crate) fn new(hub: Arc<Hub>) -> Streams {
        Streams {
            hub,
            connections: BTreeMap::new(),
            offer_pairing: false,
            paused: false,
            queue: VecDeque::new(),
        }
    }

    /// Opens a stream; a [`StreamNews`] follows, unless the connection closes.
    pub(crate) fn open(&mut self, peer: PeerId, connection: ConnectionId, purpose: Purpose) {
        self.notify(peer, connection, ToHandler::Open(purpose));
    }

    /// Offers pairing on all connections, or on none.
    pub(crate) fn offer_pairing(&mut self, offer: bool) {
        if self.offer_pairing == offer {
            return;
        }
        self.offer_pairing = offer;
        for (connection, peer) in self.connections.clone() {
            if let Some(peer) = keys::peer_of(&peer) {
                self.notify(peer, connection, ToHandler::OfferPairing(offer));
            }
        }
    }

    fn notify(&mut self, peer_id: PeerId, connection: ConnectionId, event: ToHandler) {
        let handler = NotifyHandler::One(connection);
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id, handler, event });
    }

    fn admit(&self, peer: &PeerId) -> Result<Handler, ConnectionDenied> {
        if self.paused {
            return Err(ConnectionDenied::new(Denied::Paused));
        }
        let key = keys::key_of(peer).ok_or_else(|| ConnectionDenied::new(Denied::NotEd25519))?;
        if !self.hub.is_member(&key) {
            let members = self.hub.members();
            let unknown = self.connections.values().filter(|peer| !members.contains(peer)).count();
            if unknown >= UNKNOWN_MAX {
                return Err(ConnectionDenied::new(Denied::TooManyUnknown));
            }
        }
        Ok(Handler::new(self.offer_pairing))
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = StreamNews;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(&peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(&peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                if let Some(peer) = keys::key_of(&peer_id) {
                    self.connections.insert(connection_id, peer);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.connections.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        connection: ConnectionId,
        news: THandlerOutEvent<Self>,
    ) {
        if let Some(&peer) = self.connections.get(&connection) {
            self.queue.push_back(ToSwarm::GenerateEvent(StreamNews { peer, connection, news }));
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<StreamNews, THandlerInEvent<Self>>> {
        // No waker is kept: whoever queues something is the swarm's own task, which polls again.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
