//! A transport at whose device somebody hostile speaks when the harness asks for it: as one of the device's peers, or as a
//! stranger that connects.
//!
//! Invariant: it passes on whatever the transport below gives and takes, and tells the harness in whose name it spoke before
//! the device can complain.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use engine::identity::PeerKey;
use engine::io::Input;
use engine::prng::Prng;
use engine::transport::{Path, PathKind, Transport, TransportEvent, TrySendError};
use tokio::sync::mpsc;

use crate::intruder::{Heads, Intrusion, Neighbour, by_peer, by_stranger};

/// Something hostile that is to be said to a device.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) by: Intrusion,
    /// How-manieth of the run.
    pub(crate) number: u64,
    pub(crate) fate: Prng,
    /// The last commits that all machines have.
    pub(crate) heads: Heads,
}

/// In whose names something hostile was said. Clones mean the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suspects(Arc<Mutex<Vec<PeerKey>>>);

impl Suspects {
    fn add(&self, peer: PeerKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
    }

    /// Those of the time since the last call.
    pub(crate) fn take(&self) -> Vec<PeerKey> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Intruded<T> {
    inner: T,
    visits: mpsc::UnboundedReceiver<Visit>,
    suspects: Suspects,
    /// The session numbers that peers use.
    sessions: BTreeMap<PeerKey, u32>,
    waiting: VecDeque<TransportEvent>,
}

impl<T: Transport> Intruded<T> {
    pub(crate) fn new(inner: T, visits: mpsc::UnboundedReceiver<Visit>, suspects: Suspects) -> Intruded<T> {
        Intruded { inner, visits, suspects, sessions: BTreeMap::new(), waiting: VecDeque::new() }
    }

    fn attack(&mut self, visit: Visit) {
        let Visit { by, number, fate, heads } = visit;
        let neighbour = self.sessions.first_key_value().map(|(peer, session)| (*peer, *session));
        let attack = by_stranger(by, number, fate.clone()).or_else(|| {
            let (peer, session) = neighbour?;
            by_peer(by, &Neighbour { peer, session, heads: &heads }, fate)
        });
        let Some(attack) = attack else { return };
        self.suspects.add(attack.peer);
        self.waiting.extend(attack.inputs.into_iter().filter_map(as_event));
    }
}

fn as_event(input: Input) -> Option<TransportEvent> {
    Some(match input {
        Input::PeerUp(peer) => {
            let path = Path { kind: PathKind::InProcess, address: "stranger".into() };
            TransportEvent::PeerUp { peer, path }
        }
        Input::PeerDown(peer) => TransportEvent::PeerDown { peer, reason: "it went away".into() },
        Input::Frame { peer, bytes } => TransportEvent::Frame { peer, bytes },
        _ => return None,
    })
}

impl<T: Transport> Transport for Intruded<T> {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        while let Poll::Ready(Some(visit)) = self.visits.poll_recv(cx) {
            self.attack(visit);
        }
        if let Some(event) = self.waiting.pop_front() {
            return Poll::Ready(Some(event));
        }
        let event = self.inner.poll_event(cx);
        match &event {
            Poll::Ready(Some(TransportEvent::Frame { peer, bytes })) => {
                if let Some(session) = bytes.get(6..10).and_then(|bytes| bytes.try_into().ok()) {
                    self.sessions.insert(*peer, u32::from_be_bytes(session));
                }
            }
            Poll::Ready(Some(TransportEvent::PeerDown { peer, .. })) => {
                self.sessions.remove(peer);
            }
            _ => {}
        }
        event
    }

    fn try_send(&mut self, peer: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        self.inner.try_send(peer, frame)
    }

    fn broadcast(&mut self, frame: Vec<u8>) {
        self.inner.broadcast(frame);
    }

    fn disconnect(&mut self, peer: PeerKey, reason: &str) {
        self.inner.disconnect(peer, reason);
    }

    fn set_members(&mut self, members: &[PeerKey]) {
        self.inner.set_members(members);
    }
}
