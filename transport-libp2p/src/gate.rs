//! Keeps a behaviour away from connections with peers that are not members (nor, for some, our own relays): it never
//! hears of them, and its protocols are not offered on them. Used for gossip, hole punching and tests of reachability.
//!
//! What strangers say about our addresses is kept away too: the behaviours inside hear of candidates for external
//! addresses only through [`MembersOnly::candidate`], because they keep them for long and without bound.
//!
//! A connection is judged when it is established, and again when somebody was admitted ([`MembersOnly::let_in`]): the
//! behaviour inside then hears of it as of a new one, and its handler comes late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use engine::identity::PeerKey;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, NotifyHandler,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::hub::Hub;
use crate::keys;
use crate::late::{Late, ToLate};

/// A connection that the inner behaviour does not know.
struct Outside {
    peer: PeerId,
    /// How it was made; `None` until it is there.
    endpoint: Option<ConnectedPoint>,
}

/// See the module's documentation.
pub(crate) struct MembersOnly<B: NetworkBehaviour> {
    pub(crate) inner: B,
    hub: Arc<Hub>,
    /// Admitted besides the members: our relays.
    relays: BTreeSet<PeerKey>,
    /// The connections that the inner behaviour knows.
    open: BTreeMap<ConnectionId, PeerId>,
    outside: BTreeMap<ConnectionId, Outside>,
    /// Handlers that come late. They go before all that is for them.
    coming: VecDeque<ToSwarm<B::ToSwarm, ToLate<THandler<B>>>>,
}

impl<B: NetworkBehaviour> MembersOnly<B> {
    pub(crate) fn new(inner: B, hub: Arc<Hub>) -> MembersOnly<B> {
        MembersOnly {
            inner,
            hub,
            relays: BTreeSet::new(),
            open: BTreeMap::new(),
            outside: BTreeMap::new(),
            coming: VecDeque::new(),
        }
    }

    /// Admits our relays as well.
    pub(crate) fn and_relays(mut self, relays: BTreeSet<PeerKey>) -> MembersOnly<B> {
        self.relays = relays;
        self
    }

    /// Admits another relay.
    pub(crate) fn admit(&mut self, relay: PeerKey) {
        self.relays.insert(relay);
        self.let_in();
    }

    /// Looks again at the connections that the inner behaviour does not know, because somebody was admitted. Returns whose
    /// were let in.
    pub(crate) fn let_in(&mut self) -> BTreeSet<PeerId> {
        let table = self.outside.iter();
        let due = table.filter(|(_, outside)| outside.endpoint.is_some() && self.admits(&outside.peer));
        let due: Vec<ConnectionId> = due.map(|(id, _)| *id).collect();
        due.into_iter().filter_map(|id| self.let_in_one(id)).collect()
    }

    fn let_in_one(&mut self, id: ConnectionId) -> Option<PeerId> {
        let Outside { peer, endpoint } = self.outside.remove(&id)?;
        let endpoint = endpoint?;
        let made = match &endpoint {
            ConnectedPoint::Dialer { address, role_override, port_use } => self
                .inner
                .handle_established_outbound_connection(id, peer, address, *role_override, *port_use),
            ConnectedPoint::Listener { local_addr, send_back_addr } => {
                self.inner.handle_established_inbound_connection(id, peer, local_addr, send_back_addr)
            }
        };
        // One that the behaviour would have refused stays outside.
        let handler = made.ok()?;
        let event = ToLate::Come(handler);
        self.coming.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(id),
            event,
        });
        let other_established = self.others(&peer);
        self.open.insert(id, peer);
        self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id: id,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established,
        }));
        Some(peer)
    }

    fn stays_outside(&mut self, id: ConnectionId, peer: PeerId) -> THandler<Self> {
        self.outside.insert(id, Outside { peer, endpoint: None });
        Late(None)
    }

    fn admits(&self, peer: &PeerId) -> bool {
        keys::key_of(peer).is_some_and(|key| self.hub.is_member(&key) || self.relays.contains(&key))
    }

    fn others(&self, peer: &PeerId) -> usize {
        self.open.values().filter(|open| *open == peer).count()
    }

    /// Somebody whom we believe sees us at this address.
    pub(crate) fn candidate(&mut self, addr: &Multiaddr) {
        let candidate = NewExternalAddrCandidate { addr };
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for MembersOnly<B> {
    type ConnectionHandler = Late<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.admits(&peer) {
            return Ok(self.stays_outside(id, peer));
        }
        let handler = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        self.open.insert(id, peer);
        Ok(Late(Some(handler)))
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
            return Ok(self.stays_outside(id, peer));
        }
        let handler = self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)?;
        self.open.insert(id, peer);
        Ok(Late(Some(handler)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                if self.open.contains_key(&event.connection_id) {
                    let other_established = self.others(&event.peer_id) - 1;
                    let event = ConnectionEstablished { other_established, ..event };
                    self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(event));
                } else if let Some(outside) = self.outside.get_mut(&event.connection_id) {
                    outside.endpoint = Some(event.endpoint.clone());
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                self.outside.remove(&event.connection_id);
                if self.open.remove(&event.connection_id).is_some() {
                    let remaining_established = self.others(&event.peer_id);
                    let event = ConnectionClosed { remaining_established, ..event };
                    self.inner.on_swarm_event(FromSwarm::ConnectionClosed(event));
                }
            }
            FromSwarm::NewExternalAddrCandidate(_) => {}
            FromSwarm::AddressChange(event) if !self.open.contains_key(&event.connection_id) => {
                if let Some(outside) = self.outside.get_mut(&event.connection_id) {
                    outside.endpoint = Some(event.new.clone());
                }
            }
            event => self.inner.on_swarm_event(event),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(coming) = self.coming.pop_front() {
            return Poll::Ready(coming);
        }
        self.inner.poll(cx).map(|event| event.map_in(ToLate::For))
    }
}
