//! Transports within one process: one that reaches nobody, and a net of channels for tests, examples and
//! applications that hold several databases.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use engine::identity::PeerKey;
use engine::transport::{Path, PathKind, Transport, TransportEvent, TrySendError};

/// Frames under way to one device from one other, at most.
const QUEUE_MAX: usize = 64;

/// A transport that reaches nobody: for a database that is used without a network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offline;

impl Transport for Offline {
    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        Poll::Pending
    }

    fn try_send(&mut self, _: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        Err(TrySendError::Gone(frame))
    }

    fn broadcast(&mut self, _: Vec<u8>) {}

    fn disconnect(&mut self, _: PeerKey, _: &str) {}

    fn set_members(&mut self, _: &[PeerKey]) {}
}

#[derive(Debug, Default)]
struct Port {
    events: VecDeque<TransportEvent>,
    /// Frames in `events`, by sender.
    queued: BTreeMap<PeerKey, usize>,
    /// Senders that were refused and wait for room.
    refused: Vec<PeerKey>,
    waker: Option<Waker>,
}

impl Port {
    fn push(&mut self, event: TransportEvent) {
        self.events.push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[derive(Debug, Default)]
struct Net {
    ports: BTreeMap<PeerKey, Port>,
    links: BTreeMap<(PeerKey, PeerKey), ()>,
}

/// Devices in one process that can be connected and disconnected at will.
#[derive(Debug, Clone, Default)]
pub struct MemoryNet(Arc<Mutex<Net>>);

/// One device's end of a [`MemoryNet`].
#[derive(Debug)]
pub struct MemoryTransport {
    net: MemoryNet,
    own: PeerKey,
}

impl MemoryNet {
    /// A net without devices.
    pub fn new() -> MemoryNet {
        MemoryNet::default()
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        // No code here can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a device, connected to nobody.
    pub fn join(&self, own: PeerKey) -> MemoryTransport {
        self.lock().ports.insert(own, Port::default());
        MemoryTransport { net: self.clone(), own }
    }

    /// Connects two devices.
    pub fn connect(&self, a: PeerKey, b: PeerKey) {
        let mut net = self.lock();
        if a == b || !net.ports.contains_key(&a) || !net.ports.contains_key(&b) {
            return;
        }
        if net.links.insert((a.min(b), a.max(b)), ()).is_none() {
            for (own, peer) in [(a, b), (b, a)] {
                let path = Path { kind: PathKind::InProcess, address: "in process".into() };
                if let Some(port) = net.ports.get_mut(&own) {
                    port.push(TransportEvent::PeerUp { peer, path });
                }
            }
        }
    }

    /// Connects each device with each other.
    pub fn connect_all(&self) {
        let keys: Vec<PeerKey> = self.lock().ports.keys().copied().collect();
        for (n, a) in keys.iter().enumerate() {
            keys[n + 1..].iter().for_each(|b| self.connect(*a, *b));
        }
    }

    /// Disconnects two devices. What was sent before still arrives.
    pub fn disconnect(&self, a: PeerKey, b: PeerKey) {
        let mut net = self.lock();
        if net.links.remove(&(a.min(b), a.max(b))).is_some() {
            for (own, peer) in [(a, b), (b, a)] {
                if let Some(port) = net.ports.get_mut(&own) {
                    port.push(TransportEvent::PeerDown { peer, reason: "disconnected".into() });
                }
            }
        }
    }

    /// Disconnects all.
    pub fn disconnect_all(&self) {
        let links: Vec<_> = self.lock().links.keys().copied().collect();
        links.into_iter().for_each(|(a, b)| self.disconnect(a, b));
    }
}

impl Transport for MemoryTransport {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        let mut net = self.net.lock();
        let Some(port) = net.ports.get_mut(&self.own) else { return Poll::Ready(None) };
        let Some(event) = port.events.pop_front() else {
            port.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if let TransportEvent::Frame { peer, .. } = &event {
            *port.queued.entry(*peer).or_default() -= 1;
            if let Some(at) = port.refused.iter().position(|refused| refused == peer) {
                port.refused.remove(at);
                let (own, peer) = (self.own, *peer);
                if let Some(port) = net.ports.get_mut(&peer) {
                    port.push(TransportEvent::Writable { peer: own });
                }
            }
        }
        Poll::Ready(Some(event))
    }

    fn try_send(&mut self, peer: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        let mut net = self.net.lock();
        let own = self.own;
        if !net.links.contains_key(&(own.min(peer), own.max(peer))) {
            return Err(TrySendError::Gone(frame));
        }
        let Some(port) = net.ports.get_mut(&peer) else { return Err(TrySendError::Gone(frame)) };
        let queued = port.queued.entry(own).or_default();
        if *queued >= QUEUE_MAX {
            port.refused.push(own);
            return Err(TrySendError::Full(frame));
        }
        *queued += 1;
        port.push(TransportEvent::Frame { peer: own, bytes: frame });
        Ok(())
    }

    fn broadcast(&mut self, frame: Vec<u8>) {
        let mut net = self.net.lock();
        let own = self.own;
        let peers: Vec<PeerKey> = net
            .links
            .keys()
            .filter(|(a, b)| *a == own || *b == own)
            .map(|(a, b)| if *a == own { *b } else { *a })
            .collect();
        for peer in peers {
            if let Some(port) = net.ports.get_mut(&peer)
                && port.events.len() < QUEUE_MAX
            {
                port.push(TransportEvent::Broadcast { from: own, bytes: frame.clone() });
            }
        }
    }

    fn disconnect(&mut self, peer: PeerKey, _: &str) {
        self.net.disconnect(self.own, peer);
    }

    fn set_members(&mut self, _: &[PeerKey]) {}
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        let peers: Vec<PeerKey> = self.net.lock().ports.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.net.disconnect(self.own, peer));
        self.net.lock().ports.remove(&self.own);
    }
}
