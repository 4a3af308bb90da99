//! Where the transport's owner and the network meet: all peers' [`Slot`]s behind one lock, and the
//! wake-ups between the two sides. The data path does not pass through the swarm's task: carriers
//! read and write here, so a slow owner slows down its peers and nothing else.
//!
//! Invariants: the lock is held for short, synchronous steps only; every queue is bounded; peers
//! are served in turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use engine::identity::PeerKey;
use engine::transport::{Path, TransportEvent, TrySendError};
use tokio::sync::Notify;

use crate::slot::{Admission, AttachError, CarrierId, Newcomer, Next, SessionView, Slot, SlotEvent};

/// Hints that may wait in each direction; when there are more, the oldest are dropped.
const BROADCASTS_MAX: usize = 256;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Hub {
    local: PeerKey,
    state: Mutex<State>,
    /// Wakes the swarm's task: members changed, hints to publish, the owner has gone.
    pub(crate) for_swarm: Notify,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeSet<PeerKey>,
    members_changed: bool,
    slots: BTreeMap<PeerKey, Entry>,
    /// Peers with something to deliver, each at most once.
    ready: VecDeque<PeerKey>,
    heard: VecDeque<(PeerKey, Vec<u8>)>,
    heard_last: bool,
    to_publish: VecDeque<Vec<u8>>,
    owner: Option<Waker>,
    owner_gone: bool,
    ended: bool,
    carriers: CarrierId,
}

#[derive(Debug)]
struct Entry {
    slot: Slot,
    /// Wakes the peer's carriers: frames to send, room to read, an end.
    wake: Arc<Notify>,
}

impl State {
    fn entry(&mut self, peer: PeerKey) -> &mut Entry {
        self.slots
            .entry(peer)
            .or_insert_with(|| Entry { slot: Slot::new(rand::random()), wake: Arc::new(Notify::new()) })
    }

    /// After anything that may have given the owner something to hear.
    fn announce(&mut self, peer: PeerKey) {
        let Some(entry) = self.slots.get_mut(&peer) else { return };
        if entry.slot.has_news() && !entry.slot.queued {
            entry.slot.queued = true;
            self.ready.push_back(peer);
        }
        if entry.slot.has_news()
            && let Some(owner) = self.owner.take()
        {
            owner.wake();
        }
        entry.wake.notify_waiters();
        if entry.slot.idle() && !entry.slot.queued {
            self.slots.remove(&peer);
        }
    }

    fn next_of(&mut self, peer: PeerKey) -> Option<TransportEvent> {
        let slot = &mut self.slots.get_mut(&peer)?.slot;
        if let Some(event) = slot.next_event() {
            return Some(match event {
                SlotEvent::Up(_, path) => TransportEvent::PeerUp { peer, path },
                SlotEvent::Path(path) => TransportEvent::PathChanged { peer, path },
                SlotEvent::Frame(bytes) => TransportEvent::Frame { peer, bytes },
                SlotEvent::Down(reason) => TransportEvent::PeerDown { peer, reason },
            });
        }
        if slot.take_writable() {
            return Some(TransportEvent::Writable { peer });
        }
        slot.take_round_trip().map(|micros| TransportEvent::RoundTrip { peer, micros })
    }
}

impl Hub {
    pub(crate) fn new(local: PeerKey, members: BTreeSet<PeerKey>) -> Arc<Hub> {
        let state = State { members, members_changed: true, ..State::default() };
        Arc::new(Hub { local, state: Mutex::new(state), for_swarm: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and if it did, the state is still bounded.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn local(&self) -> PeerKey {
        self.local
    }

    fn leads(&self, peer: &PeerKey) -> bool {
        self.local < *peer
    }

    // ----- the owner's side

    pub(crate) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        let mut state = self.lock();
        if !state.heard_last
            && let Some((from, bytes)) = state.heard.pop_front()
        {
            state.heard_last = true;
            return Poll::Ready(Some(TransportEvent::Broadcast { from, bytes }));
        }
        state.heard_last = false;
        while let Some(peer) = state.ready.pop_front() {
            if let Some(entry) = state.slots.get_mut(&peer) {
                entry.slot.queued = false;
            }
            let event = state.next_of(peer);
            state.announce(peer);
            if event.is_some() {
                return Poll::Ready(event);
            }
        }
        if let Some((from, bytes)) = state.heard.pop_front() {
            return Poll::Ready(Some(TransportEvent::Broadcast { from, bytes }));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.owner = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn try_send(&self, peer: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        let mut state = self.lock();
        let Some(entry) = state.slots.get_mut(&peer) else { return Err(TrySendError::Gone(frame)) };
        entry.slot.try_send(frame).map_err(|(full, frame)| {
            if full { TrySendError::Full(frame) } else { TrySendError::Gone(frame) }
        })?;
        entry.wake.notify_waiters();
        Ok(())
    }

    pub(crate) fn disconnect(&self, peer: PeerKey, reason: &str) {
        let mut state = self.lock();
        if let Some(entry) = state.slots.get_mut(&peer) {
            entry.slot.disconnect(reason);
            entry.wake.notify_waiters();
        }
    }

    pub(crate) fn publish(&self, frame: Vec<u8>) {
        let mut state = self.lock();
        if state.to_publish.len() >= BROADCASTS_MAX {
            state.to_publish.pop_front();
        }
        state.to_publish.push_back(frame);
        self.for_swarm.notify_one();
    }

    pub(crate) fn set_members(&self, members: BTreeSet<PeerKey>) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.members, members);
        state.members_changed = true;
        let State { members, slots, .. } = &mut *state;
        for (peer, entry) in slots {
            if before.contains(peer) && !members.contains(peer) {
                entry.slot.expel("no longer a device of this account");
            }
            entry.wake.notify_waiters();
        }
        self.for_swarm.notify_one();
    }

    /// The owner is gone: all sessions end when what is queued has been sent.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.owner_gone = true;
        for entry in state.slots.values_mut() {
            entry.slot.expel("the transport was closed");
            entry.wake.notify_waiters();
        }
        self.for_swarm.notify_one();
    }

    // ----- the swarm's side

    pub(crate) fn owner_gone(&self) -> bool {
        self.lock().owner_gone
    }

    pub(crate) fn is_member(&self, peer: &PeerKey) -> bool {
        self.lock().members.contains(peer)
    }

    /// The members, if they changed since this was last asked.
    pub(crate) fn take_members_changed(&self) -> Option<BTreeSet<PeerKey>> {
        let mut state = self.lock();
        std::mem::take(&mut state.members_changed).then(|| state.members.clone())
    }

    pub(crate) fn members(&self) -> BTreeSet<PeerKey> {
        self.lock().members.clone()
    }

    pub(crate) fn take_to_publish(&self) -> Option<Vec<u8>> {
        self.lock().to_publish.pop_front()
    }

    /// A member's hint arrived.
    pub(crate) fn heard(&self, from: PeerKey, bytes: Vec<u8>) {
        let mut state = self.lock();
        if state.heard.len() >= BROADCASTS_MAX {
            state.heard.pop_front();
        }
        state.heard.push_back((from, bytes));
        if let Some(owner) = state.owner.take() {
            owner.wake();
        }
    }

    pub(crate) fn round_trip(&self, peer: PeerKey, micros: u64) {
        let mut state = self.lock();
        if let Some(entry) = state.slots.get_mut(&peer) {
            entry.slot.round_trip(micros);
            state.announce(peer);
        }
    }

    pub(crate) fn session(&self, peer: &PeerKey) -> Option<SessionView> {
        self.lock().slots.get(peer)?.slot.view()
    }

    /// Ends a session that may not go on.
    pub(crate) fn expel(&self, peer: &PeerKey, reason: &str) {
        let mut state = self.lock();
        if let Some(entry) = state.slots.get_mut(peer) {
            entry.slot.expel(reason);
            entry.wake.notify_waiters();
        }
    }

    /// The swarm has ended: the owner hears of the end of every session, and then of the end.
    pub(crate) fn shut(&self) {
        let mut state = self.lock();
        state.ended = true;
        let peers: Vec<PeerKey> = state.slots.keys().copied().collect();
        for peer in peers {
            state.entry(peer).slot.shut("the transport was closed");
            state.announce(peer);
        }
        if let Some(owner) = state.owner.take() {
            owner.wake();
        }
    }

    // ----- the carriers' side

    /// Begins the greeting of a new carrier.
    pub(crate) fn greet(self: &Arc<Self>, peer: PeerKey) -> Greeting {
        let mut state = self.lock();
        let entry = state.entry(peer);
        entry.slot.greetings += 1;
        let nonce = entry.slot.nonce;
        drop(state);
        Greeting { hub: Arc::clone(self), peer, nonce }
    }
}

/// A carrier that does not yet belong to a session.
#[derive(Debug)]
pub(crate) struct Greeting {
    hub: Arc<Hub>,
    peer: PeerKey,
    nonce: u64,
}

impl Greeting {
    /// What we call our present life.
    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Makes the carrier part of the session with the peer that calls its life `remote_nonce`.
    pub(crate) fn attach(
        self,
        remote_nonce: u64,
        path: Path,
        dialed_by_us: bool,
        now: Instant,
    ) -> Result<Lease, AttachError> {
        let leads = self.hub.leads(&self.peer);
        let mut state = self.hub.lock();
        if state.owner_gone {
            return Err(AttachError::Closing);
        }
        state.carriers += 1;
        let id = state.carriers;
        let entry = state.entry(self.peer);
        let dialed_by_smaller = dialed_by_us == leads;
        let newcomer = Newcomer { path, dialed_by_smaller, our_nonce: self.nonce, remote_nonce, now };
        entry.slot.attach(id, newcomer, leads)?;
        let wake = Arc::clone(&entry.wake);
        state.announce(self.peer);
        drop(state);
        Ok(Lease { hub: Arc::clone(&self.hub), peer: self.peer, id, wake })
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let slot = &mut state.entry(self.peer).slot;
        slot.greetings = slot.greetings.saturating_sub(1);
        state.announce(self.peer);
    }
}

/// A carrier's part in a session. Dropping it takes the carrier out.
#[derive(Debug)]
pub(crate) struct Lease {
    hub: Arc<Hub>,
    peer: PeerKey,
    id: CarrierId,
    wake: Arc<Notify>,
}

/// Why a frame may not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The carrier is out of the session.
    #[error("the session has ended")]
    Gone,
    /// Not a member, and too much to say.
    #[error("a frame longer than a device may send before it is admitted")]
    TooLong,
}

impl Lease {
    fn with<T>(&self, step: impl FnOnce(&mut Slot, bool) -> T) -> T {
        let mut state = self.hub.lock();
        let member = state.members.contains(&self.peer);
        let result = step(&mut state.entry(self.peer).slot, member);
        state.announce(self.peer);
        result
    }

    /// Repeats a step whenever something changed, until it has a result.
    async fn until<T>(&self, mut step: impl FnMut(&mut Slot, bool) -> Option<T>) -> T {
        loop {
            let changed = self.wake.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                // Not `with`: a look that changes nothing must not wake the others.
                let mut state = self.hub.lock();
                let member = state.members.contains(&self.peer);
                if let Some(result) = step(&mut state.entry(self.peer).slot, member) {
                    return result;
                }
            }
            changed.await;
        }
    }

    /// Waits until a frame of this length may be read.
    pub(crate) async fn room(&self, len: usize) -> Result<Room<'_>, Refused> {
        self.until(|slot, member| match slot.admit(self.id, len, member) {
            Admission::Granted => Some(Ok(Room { lease: self, len })),
            Admission::Wait => None,
            Admission::Gone => Some(Err(Refused::Gone)),
            Admission::TooLong => Some(Err(Refused::TooLong)),
        })
        .await
    }

    /// The next thing to send if there is one now.
    pub(crate) fn poll_next(&self) -> Next {
        self.with(|slot, _| slot.next_outbound(self.id))
    }

    /// Waits until [`Lease::poll_next`] may have something.
    pub(crate) async fn next(&self) -> Next {
        let next = self
            .until(|slot, _| match slot.next_outbound(self.id) {
                Next::Wait => None,
                next => Some(next),
            })
            .await;
        self.with(|_, _| ());
        next
    }

    /// Resolves when this carrier is to end.
    pub(crate) async fn stopping(&self) {
        self.until(|slot, _| slot.stopping(self.id).then_some(())).await;
    }

    pub(crate) fn remote_finished(&self) {
        let leads = self.hub.leads(&self.peer);
        self.with(|slot, _| slot.remote_finished(self.id, leads));
    }

    pub(crate) fn retire(&self) {
        let leads = self.hub.leads(&self.peer);
        self.with(|slot, _| slot.retire(self.id, leads));
    }

    /// Takes the carrier out of the session, with the reason to be told if it was the last.
    pub(crate) fn detach(&self, reason: &str) {
        let leads = self.hub.leads(&self.peer);
        self.with(|slot, _| slot.detach(self.id, reason, leads, rand::random()));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.detach("the connection ended");
    }
}

/// Room for one frame. Dropping it without a frame gives the room back.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    lease: &'a Lease,
    len: usize,
}

impl Room<'_> {
    /// Hands the frame over to the owner.
    pub(crate) fn fill(self, frame: Vec<u8>) {
        debug_assert_eq!(frame.len(), self.len);
        let lease = self.lease;
        std::mem::forget(self);
        lease.with(|slot, _| slot.deliver(lease.id, frame));
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.lease.with(|slot, _| slot.release(self.len));
    }
}
