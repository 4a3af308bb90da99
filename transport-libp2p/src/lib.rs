//! Ahenk's transport over libp2p: TCP (Noise, yamux) and QUIC, discovery on the local network,
//! gossip hints, a dialer of its own, one long-lived stream per peer, and the pairing channel.
//!
//! [`Libp2pTransport`] implements [`engine::transport::Transport`]; [`Libp2pControl`] is the handle
//! for people and for pairing.
//!
//! Architecture invariant: no libp2p type leaves this crate. Peers are public keys, addresses are
//! text, errors are enums.
//!
//! From the inside out: `frames` (bytes on a stream), `slot` and `hub` (the transport contract, without
//! IO), `carrier` (one sync stream), `handler`, `gate`, `late` and `behaviour` (opening streams, keeping
//! the door), `dialer`, `addresses`, `connections` and `discovery` (decisions, without IO), `relays`
//! (reservations with relays, without IO), `reach` (how others see us, without IO), `ports` (asking the router for ports),
//! `punch` (from a relayed path to a direct one), `watch` (interfaces and sleep), `whereabouts` (records of where devices are found, without IO),
//! `telling` (their exchange), `relay_server` (a relay for others), `relay_gate` (whom it serves), `throttle` (how fast), `outside` (where
//! it can be dialed), `admission` (showing it a certificate), `pairing`, `stack` (putting libp2p together), `driver`,
//! `swarm_events` and `events` (the task that owns the swarm), `control`.

mod addresses;
mod admission;
mod behaviour;
mod carrier;
mod config;
mod connections;
mod control;
mod dialer;
mod discovery;
mod driver;
mod events;
mod frames;
mod gate;
mod handler;
mod hub;
mod keys;
mod late;
mod outside;
mod pairing;
mod ports;
mod punch;
mod reach;
mod relay_gate;
mod relay_server;
mod relays;
mod slot;
#[cfg(test)]
mod slot_tests;
mod stack;
mod swarm_events;
mod telling;
mod throttle;
mod watch;
mod whereabouts;
#[cfg(test)]
mod whereabouts_vectors;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};

use engine::config::{BROADCAST_BYTES_MAX, FRAME_BYTES_MAX};
use engine::identity::PeerKey;
use engine::transport::{Transport, TransportEvent, TrySendError};
use tokio::sync::{mpsc, oneshot};

pub use crate::addresses::{AddressError, check_dial, check_listen};
pub use crate::config::{LISTEN, Libp2pConfig, SpawnError, Timings};
pub use crate::control::{
    AddAddressError, DialError, Libp2pControl, PeerDetails, SessionDetails, TransportClosed,
};
pub use crate::pairing::{
    FRAME_BYTES_MAX as PAIR_FRAME_BYTES_MAX, PairCandidate, PairChannel, PairChannelError, PairConnectError,
    PairListenError, PairListener,
};
pub use crate::reach::{Mapper, NatKind, PortMapping, ReachDetails, ReachTest};
pub use crate::relay_server::{RelayConfig, RelayCounters, RelayLimits, RelayServer, parse_peer};
pub use crate::relays::{RelayDetails, check_relay};
pub use crate::telling::{PingError, Pong};

use crate::driver::{COMMANDS_MAX, Driver};
use crate::hub::Hub;

/// A running transport. Dropping it ends all sessions, after what is queued has been sent or two
/// seconds have passed, and then the network stack.
#[derive(Debug)]
pub struct Libp2pTransport {
    hub: Arc<Hub>,
    commands: mpsc::Sender<control::Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Libp2pTransport {
    /// Starts listening, discovering and dialing. Returns when every listener is open. Must be
    /// called inside a tokio runtime with IO and time enabled, which the transport then lives in.
    pub async fn spawn(config: Libp2pConfig) -> Result<Libp2pTransport, SpawnError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| SpawnError::NoRuntime)?;
        let local = PeerKey(config.secret.public());
        let members = others(local, &config.members);
        let hub = Hub::new(local, members);
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (started, starting) = oneshot::channel();
        let driver = Driver::new(&config, Arc::clone(&hub), inbox, started)?;
        // From here on, dropping `transport` stops the task.
        let transport = Libp2pTransport { hub, commands, task: runtime.spawn(driver.run()) };
        starting.await.map_err(|_| SpawnError::NoRuntime)??;
        Ok(transport)
    }

    /// Our own key.
    pub fn local(&self) -> PeerKey {
        self.hub.local()
    }

    /// A handle to ask things of this transport.
    pub fn control(&self) -> Libp2pControl {
        Libp2pControl { commands: self.commands.clone() }
    }

    /// Closes the transport and waits until everything is down, which takes four seconds at most.
    /// A program that is about to end calls this, so that what it sent last still arrives.
    pub async fn close(mut self) {
        self.hub.leave();
        // An error would be a panic of the task, which then is down too.
        let _ = (&mut self.task).await;
    }

    /// The next event, for those who wait for nothing else; see [`Transport::poll_event`].
    pub async fn next_event(&mut self) -> Option<TransportEvent> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }
}

impl Drop for Libp2pTransport {
    fn drop(&mut self) {
        self.hub.leave();
    }
}

fn others(local: PeerKey, members: &[PeerKey]) -> BTreeSet<PeerKey> {
    members.iter().copied().filter(|member| *member != local).collect()
}

impl Transport for Libp2pTransport {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        self.hub.poll_event(cx)
    }

    fn try_send(&mut self, peer: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        debug_assert!(frame.len() <= FRAME_BYTES_MAX, "the engine never makes longer frames");
        self.hub.try_send(peer, frame)
    }

    fn broadcast(&mut self, frame: Vec<u8>) {
        debug_assert!(frame.len() <= BROADCAST_BYTES_MAX, "the engine never makes longer hints");
        if frame.len() <= BROADCAST_BYTES_MAX {
            self.hub.publish(frame);
        }
    }

    fn disconnect(&mut self, peer: PeerKey, reason: &str) {
        self.hub.disconnect(peer, reason);
    }

    fn set_members(&mut self, members: &[PeerKey]) {
        self.hub.set_members(others(self.hub.local(), members));
    }
}
