//! From a relayed path to a direct one: what the swarm's task does so that two devices behind NATs reach each other.
//!
//! A device learns from its relays where it is seen from outside, over TCP and over QUIC. On each relayed connection
//! that begins, the side that was called starts DCUtR: both sides tell where they are seen and dial at the same time.
//! libp2p does that for a new connection only, so a session that stays relayed now and then gets another circuit
//! beside it, for nothing but a new attempt; the session moves when a direct connection exists.

use std::time::Instant;

use engine::identity::PeerKey;
use engine::transport::PathKind;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, autonat, dcutr, identify, upnp};

use crate::addresses::{is_loopback, is_useless, path_kind};
use crate::driver::{Driver, Errand};
use crate::keys;
use crate::ports::{Port, PortNews};
use crate::reach::{Mapper, ReachDetails, Unmapped};

impl Driver {
    /// Tries to find a better way to a connected peer: addresses that would be better, and a hole in the NATs.
    pub(crate) fn upgrade(&mut self, peer: PeerKey, now: Instant) {
        let (Some(session), Some(id)) = (self.hub.session(&peer), keys::peer_of(&peer)) else { return };
        let better = |address: &Multiaddr| path_kind(address) > Some(session.path.kind);
        let addresses: Vec<Multiaddr> = self.book.of(&peer).into_iter().filter(better).collect();
        if !addresses.is_empty() {
            let opts = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses).build();
            self.dial(opts, Errand::Upgrade, now);
        }
        if session.path.kind == PathKind::Relayed {
            let circuits = self.circuits(&peer);
            if !circuits.is_empty() {
                let opts = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(circuits).build();
                self.dial(opts, Errand::Punch, now);
            }
        }
    }

    /// Where a peer may be called through a relay.
    pub(crate) fn circuits(&self, peer: &PeerKey) -> Vec<Multiaddr> {
        let relayed = |address: &Multiaddr| path_kind(address) == Some(PathKind::Relayed);
        let mut circuits: Vec<Multiaddr> = self.book.of(peer).into_iter().filter(relayed).collect();
        // It may have a reservation with a relay of ours, which is then where we meet.
        for meeting_point in self.relays.meeting_points() {
            if !circuits.contains(&meeting_point) && self.book.allow(&meeting_point).is_ok() {
                circuits.push(meeting_point);
            }
        }
        circuits
    }

    /// A member or a relay of ours says where it sees us.
    pub(crate) fn on_observed(&mut self, id: ConnectionId, info: &identify::Info) {
        let Some(connection) = self.connections.table.get(&id) else { return };
        let (peer, seen) = (connection.peer, info.observed_addr.clone());
        // Only a connection from the port where we listen tells where that port is seen.
        if !connection.from_listener || is_useless(&seen) || is_loopback(&seen) {
            return;
        }
        if self.reach.observe(peer, seen.clone()) {
            tracing::debug!(?peer, address = %seen, "this device is seen there");
            let behaviour = self.swarm.behaviour_mut();
            behaviour.punch.candidate(&seen);
            behaviour.reach.candidate(&seen);
        }
    }

    /// A relay of ours said who it is: have it see us on the other kinds of path as well, since a hole is punched for
    /// the ports that are known.
    pub(crate) fn have_relay_look(&mut self, relay: PeerKey, info: &identify::Info, now: Instant) {
        let Some(id) = keys::peer_of(&relay) else { return };
        for kind in [PathKind::DirectQuic, PathKind::DirectTcp] {
            if self.reach.seen_by(&relay, kind) {
                continue;
            }
            let usable = |address: &&Multiaddr| {
                path_kind(address) == Some(kind) && !is_useless(address) && !is_loopback(address)
            };
            let addresses: Vec<Multiaddr> =
                info.listen_addrs.iter().filter(usable).take(4).cloned().collect();
            if !addresses.is_empty() {
                let opts =
                    DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses).build();
                self.dial(opts, Errand::Look, now);
            }
        }
    }

    pub(crate) fn reach_details(&self) -> ReachDetails {
        let own: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        let mdns_seen = self.swarm.behaviour().mdns.is_enabled().then(|| self.discovery.seen());
        ReachDetails { mdns_seen, ..self.reach.details(&own, self.swarm.external_addresses()) }
    }

    pub(crate) fn on_punched(&mut self, event: dcutr::Event) {
        let peer = keys::key_of(&event.remote_peer_id);
        match event.result {
            Ok(_) => tracing::info!(?peer, "a direct path was made of a relayed one"),
            Err(error) => tracing::debug!(?peer, %error, "no direct path could be made of a relayed one"),
        }
    }

    pub(crate) fn on_reach_tested(&mut self, event: autonat::v2::client::Event) {
        let reachable = event.result.is_ok();
        tracing::debug!(address = %event.tested_addr, reachable, "tested from outside");
        self.reach.tested(event.tested_addr, reachable);
    }

    pub(crate) fn on_port_mapping(&mut self, event: upnp::Event) {
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                tracing::info!(address = %external_addr, "the router maps a port to this device (UPnP)");
                self.reach.mapped(external_addr, Mapper::Upnp);
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                self.reach.unmapped(&external_addr, Mapper::Upnp);
            }
            upnp::Event::GatewayNotFound => self.reach.not_mapped(true, Unmapped::NoGateway),
            upnp::Event::NonRoutableGateway => self.reach.not_mapped(true, Unmapped::NotPublic),
        }
        self.want_ports(false);
    }

    /// What came of asking the router by PCP and NAT-PMP.
    pub(crate) fn on_ports(&mut self, news: PortNews) {
        match news {
            PortNews::Mapped(address, by) if self.reach.mapper(&address).is_none() => {
                tracing::info!(%address, ?by, "the router maps a port to this device");
                self.swarm.add_external_address(address.clone());
                self.reach.mapped(address, by);
            }
            // A renewal, or UPnP was there first.
            PortNews::Mapped(..) => {}
            PortNews::Unmapped(address) => {
                if let Some(by) = self.reach.mapper(&address).filter(|by| *by != Mapper::Upnp) {
                    tracing::info!(%address, "the router no longer maps a port to this device");
                    self.swarm.remove_external_address(&address);
                    self.reach.unmapped(&address, by);
                }
            }
            PortNews::Not(why) => self.reach.not_mapped(false, why),
        }
    }

    /// Has the router asked for the ports that we listen on, unless it maps them by UPnP; `anew` if the network changed.
    pub(crate) fn want_ports(&self, anew: bool) {
        if let Some(ports) = &self.ports {
            let listening = self.swarm.listeners().filter(|_| !self.reach.mapped_by_upnp());
            ports.want(listening.filter_map(Port::of), anew);
        }
    }
}
