//! What happens on simulated machines, noted for a diagram: frames as their drivers hand them over and get them, batches
//! as their stores take them.
//!
//! Invariant: it looks and changes nothing; without a recording it only passes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use engine::identity::{AccountId, DeviceId, PeerKey};
use engine::store::Batch;
use engine::testing::{Happened, Moment, describe_batch, describe_frame};
use engine::transport::{Transport, TransportEvent, TrySendError};

#[derive(Debug, Default)]
struct Tape {
    moments: Vec<Moment>,
    frames: u64,
    /// Frames that have not arrived, by sender and receiver: their numbers and content.
    under_way: BTreeMap<(usize, usize), Vec<Numbered>>,
}

/// A frame's number and content.
type Numbered = (u64, Vec<u8>);

/// A recording. Clones mean the same one.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    account: AccountId,
    devices: BTreeMap<PeerKey, usize>,
    tape: Arc<Mutex<Tape>>,
}

impl Recording {
    /// Of an account's devices, each with its number. A copy goes by that of its original.
    pub(crate) fn of(account: AccountId, devices: BTreeMap<PeerKey, usize>) -> Recording {
        Recording { account, devices, tape: Arc::default() }
    }

    /// Notes what happens now.
    pub(crate) fn note(&self, what: Happened) {
        self.change(|tape| tape.push(what));
    }

    /// All that was noted, in order.
    pub(crate) fn take(&self) -> Vec<Moment> {
        self.change(|tape| std::mem::take(&mut tape.moments))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Tape) -> R) -> R {
        // Each change is a push or a removal: nothing half-made can be seen.
        change(&mut self.tape.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn number(&self, key: &PeerKey) -> Option<usize> {
        self.devices.get(key).copied()
    }

    fn sent(&self, from: usize, to: &PeerKey, bytes: &[u8]) {
        let Some(to) = self.number(to) else { return };
        let text = describe_frame(bytes, &self.account);
        self.change(|tape| {
            tape.frames += 1;
            let frame = tape.frames;
            tape.under_way.entry((from, to)).or_default().push((frame, bytes.to_vec()));
            tape.push(Happened::Sent { frame, from, to, text });
        });
    }

    /// A frame that was damaged or doubled on its way is not one that was sent, and not noted.
    fn arrived(&self, from: &PeerKey, to: usize, bytes: &[u8]) {
        let Some(from) = self.number(from) else { return };
        self.change(|tape| {
            let Some(under_way) = tape.under_way.get_mut(&(from, to)) else { return };
            let Some(at) = under_way.iter().position(|(_, sent)| sent == bytes) else { return };
            let (frame, _) = under_way.remove(at);
            tape.push(Happened::Arrived { frame });
        });
    }

    pub(crate) fn applied(&self, node: usize, batch: &Batch, taken: bool) {
        let letter = |device: &DeviceId| {
            let node = self.devices.iter().find(|(key, _)| key.device() == *device);
            node.map_or('?', |(_, node)| crate::letter(*node))
        };
        let commits = describe_batch(batch, letter);
        let text = if taken { commits } else { format!("not taken: {commits}") };
        self.note(Happened::Applied { node, text });
    }
}

impl Tape {
    fn push(&mut self, what: Happened) {
        let at_micros = turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_micros() as u64);
        // Machines run one after the other within a step: their times may lie a little in each other's past.
        let last = self.moments.last().map_or(0, |last| last.at_micros);
        self.moments.push(Moment { at_micros: at_micros.max(last), what });
    }
}

/// A transport whose frames are recorded, if anything is.
#[derive(Debug)]
pub(crate) struct Recorded<T> {
    pub(crate) inner: T,
    pub(crate) node: usize,
    pub(crate) recording: Option<Recording>,
}

impl<T: Transport> Transport for Recorded<T> {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        let event = self.inner.poll_event(cx);
        if let (Poll::Ready(Some(TransportEvent::Frame { peer, bytes })), Some(recording)) =
            (&event, &self.recording)
        {
            recording.arrived(peer, self.node, bytes);
        }
        event
    }

    fn try_send(&mut self, peer: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        let Some(recording) = &self.recording else { return self.inner.try_send(peer, frame) };
        let copy = frame.clone();
        let sent = self.inner.try_send(peer, frame);
        if sent.is_ok() {
            recording.sent(self.node, &peer, &copy);
        }
        sent
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
