//! Keeps a behaviour away from connections with peers that are not members (nor, for some, our own relays): it never
//! hears of them, and its protocols are not offered on them. Used for gossip, hole punching and tests of reachability.
//!
//! What strangers say about our addresses is kept away too: the behaviours inside hear of candidates for external
//! addresses only through [`MembersOnly::candidate`], because they keep them for long and without bound.
//!
//! A connection is judged once, when it is established. A peer that is admitted later takes part in
//! gossip from its next connection on, which nothing depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Poll};

use either::Either;
use engine::identity::PeerKey;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::hub::Hub;
use crate::keys;

/// See the module's documentation.
pub(crate) struct MembersOnly<B> {
    pub(crate) inner: B,
    hub: Arc<Hub>,
    /// Admitted besides the members: our relays.
    relays: BTreeSet<PeerKey>,
    /// The connections that the inner behaviour knows.
    open: BTreeMap<ConnectionId, PeerId>,
}

impl<B> MembersOnly<B> {
    pub(crate) fn new(inner: B, hub: Arc<Hub>) -> MembersOnly<B> {
        MembersOnly { inner, hub, relays: BTreeSet::new(), open: BTreeMap::new() }
    }

    /// Admits our relays as well.
    pub(crate) fn and_relays(mut self, relays: BTreeSet<PeerKey>) -> MembersOnly<B> {
        self.relays = relays;
        self
    }

    /// Admits another relay from its next connection on.
    pub(crate) fn admit(&mut self, relay: PeerKey) {
        self.relays.insert(relay);
    }

    fn admits(&self, peer: &PeerId) -> bool {
        keys::key_of(peer).is_some_and(|key| self.hub.is_member(&key) || self.relays.contains(&key))
    }

    fn others(&self, peer: &PeerId) -> usize {
        self.open.values().filter(|open| *open == peer).count()
    }
}

impl<B: NetworkBehaviour> MembersOnly<B> {
    /// Somebody whom we believe sees us at this address.
    pub(crate) fn candidate(&mut self, addr: &Multiaddr) {
        let candidate = NewExternalAddrCandidate { addr };
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for MembersOnly<B> {
    type ConnectionHandler = Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.admits(&peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        self.open.insert(id, peer);
        Ok(Either::Left(handler))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.admits(&peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)?;
        self.open.insert(id, peer);
        Ok(Either::Left(handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                if self.open.contains_key(&event.connection_id) {
                    let other_established = self.others(&event.peer_id) - 1;
                    let event = ConnectionEstablished { other_established, ..event };
                    self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(event));
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                if self.open.remove(&event.connection_id).is_some() {
                    let remaining_established = self.others(&event.peer_id);
                    let event = ConnectionClosed { remaining_established, ..event };
                    self.inner.on_swarm_event(FromSwarm::ConnectionClosed(event));
                }
            }
            FromSwarm::NewExternalAddrCandidate(_) => {}
            FromSwarm::AddressChange(event) if !self.open.contains_key(&event.connection_id) => {}
            event => self.inner.on_swarm_event(event),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(event) => self.inner.on_connection_handler_event(peer, connection, event),
            Either::Right(never) => match never {},
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx).map(|event| event.map_in(Either::Left))
    }
}
