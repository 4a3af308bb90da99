//! One peer as the transport's owner sees it: its lives (from `PeerUp` to `PeerDown`), what waits to
//! be delivered, what waits to be sent, and which of its carriers is in use. A *carrier* is one sync
//! stream on one connection.
//!
//! Invariants: events come out as the transport contract has them; inbound and outbound bytes are
//! bounded; memory does not grow with the number of lives that come and go while nobody looks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use engine::config::{CONTROL_BYTES_MAX, FRAME_BYTES_MAX};
use engine::transport::Path;

/// Bytes received from one peer that may wait for the owner, in bytes. Two of the longest frames.
pub(crate) const INBOUND_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// Bytes that may wait to be sent to one peer, in bytes.
pub(crate) const OUTBOUND_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// What keeping a frame costs besides its bytes, so that empty frames are bounded too, in bytes.
const FRAME_OVERHEAD_BYTES: usize = 64;

/// Names a carrier within one hub.
pub(crate) type CarrierId = u64;

/// How good a carrier is. Compared field by field, so the kind of path decides first; of equal
/// paths the one dialed by the smaller key wins, so that two devices which dial each other agree;
/// then the newer one, because the older may be dead without anybody having noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    kind: engine::transport::PathKind,
    dialed_by_smaller: bool,
    id: CarrierId,
}

#[derive(Debug)]
struct Carrier {
    path: Path,
    rank: Rank,
    /// We send nothing more on it.
    retiring: bool,
    /// The peer sends nothing more on it.
    remote_done: bool,
}

impl Carrier {
    fn usable(&self) -> bool {
        !self.retiring && !self.remote_done
    }
}

/// What waits for the owner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SlotEvent {
    Up(u64, Path),
    Path(Path),
    Frame(Vec<u8>),
    Down(String),
}

#[derive(Debug)]
struct Live {
    /// Never used twice in a slot.
    life: u64,
    /// The nonce that the peer stated for its own life.
    remote_nonce: u64,
    since: Instant,
    carriers: BTreeMap<CarrierId, Carrier>,
    active: CarrierId,
    outbound: VecDeque<Vec<u8>>,
    outbound_bytes: usize,
    /// A frame was given back: say when there is room.
    starved: bool,
    writable: bool,
    rtt_micros: Option<u64>,
    /// A frame was taken from it while it was not a member.
    introduced: bool,
    /// To be ended, with this reason, when what is queued has been sent.
    closing: Option<String>,
}

/// A carrier that has been greeted.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) path: Path,
    pub(crate) dialed_by_smaller: bool,
    /// What each side called its life in the greeting.
    pub(crate) our_nonce: u64,
    pub(crate) remote_nonce: u64,
    pub(crate) now: Instant,
}

/// Why a carrier could not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttachError {
    /// The session for which it was greeted ended meanwhile.
    #[error("the session ended during the greeting")]
    Stale,
    /// The session is being closed.
    #[error("the session is being closed")]
    Closing,
}

/// Whether a frame may be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Granted,
    Wait,
    /// The carrier is no longer part of the session.
    Gone,
    /// More than a peer that is not a member may send.
    TooLong,
}

/// What a carrier is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Frame(Vec<u8>),
    Wait,
    /// Nothing more will come.
    Finish,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Names our next or present life to the peer.
    pub(crate) nonce: u64,
    /// Carriers that are being greeted.
    pub(crate) greetings: usize,
    /// In the hub's list of slots with something to deliver.
    pub(crate) queued: bool,
    live: Option<Live>,
    events: VecDeque<SlotEvent>,
    /// Bytes of the frames in `events`, and of those being read.
    inbound_bytes: usize,
    /// The life whose `PeerUp` the owner has had.
    delivered: Option<u64>,
    lives: u64,
}

/// What is known of a session, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionView {
    pub(crate) path: Path,
    pub(crate) since: Instant,
}

pub(crate) fn cost(len: usize) -> usize {
    len + FRAME_OVERHEAD_BYTES
}

impl Slot {
    pub(crate) fn new(nonce: u64) -> Slot {
        Slot {
            nonce,
            greetings: 0,
            queued: false,
            live: None,
            events: VecDeque::new(),
            inbound_bytes: 0,
            delivered: None,
            lives: 0,
        }
    }

    /// True if forgetting this slot loses nothing.
    pub(crate) fn idle(&self) -> bool {
        self.live.is_none()
            && self.events.is_empty()
            && self.inbound_bytes == 0
            && self.greetings == 0
            && self.delivered.is_none()
    }

    pub(crate) fn view(&self) -> Option<SessionView> {
        let live = self.live.as_ref()?;
        let path = live.carriers.get(&live.active)?.path.clone();
        Some(SessionView { path, since: live.since })
    }

    /// True if the owner has something to hear.
    pub(crate) fn has_news(&self) -> bool {
        !self.events.is_empty()
            || self.owned_life().is_some_and(|live| live.writable || live.rtt_micros.is_some())
    }

    /// The life that is both real and known to the owner.
    fn owned_life(&self) -> Option<&Live> {
        self.live.as_ref().filter(|live| self.delivered == Some(live.life))
    }

    fn owned_life_mut(&mut self) -> Option<&mut Live> {
        self.live.as_mut().filter(|live| self.delivered == Some(live.life))
    }

    // ----- the owner's side

    pub(crate) fn next_event(&mut self) -> Option<SlotEvent> {
        let event = self.events.pop_front()?;
        match &event {
            SlotEvent::Up(life, _) => self.delivered = Some(*life),
            SlotEvent::Down(_) => self.delivered = None,
            SlotEvent::Frame(bytes) => self.inbound_bytes -= cost(bytes.len()),
            SlotEvent::Path(_) => {}
        }
        Some(event)
    }

    /// True once after room came back for a frame that had been given back.
    pub(crate) fn take_writable(&mut self) -> bool {
        self.owned_life_mut().is_some_and(|live| std::mem::take(&mut live.writable))
    }

    pub(crate) fn take_round_trip(&mut self) -> Option<u64> {
        self.owned_life_mut()?.rtt_micros.take()
    }

    /// Queues a frame; gives it back with `true` if the queue is full, with `false` if there is no session.
    pub(crate) fn try_send(&mut self, frame: Vec<u8>) -> Result<(), (bool, Vec<u8>)> {
        let Some(live) = self.owned_life_mut().filter(|live| live.closing.is_none()) else {
            return Err((false, frame));
        };
        let cost = cost(frame.len());
        if !live.outbound.is_empty() && live.outbound_bytes + cost > OUTBOUND_BYTES_MAX {
            live.starved = true;
            return Err((true, frame));
        }
        live.outbound_bytes += cost;
        live.outbound.push_back(frame);
        Ok(())
    }

    /// Ends the session that the owner knows.
    pub(crate) fn disconnect(&mut self, reason: &str) {
        if let Some(live) = self.owned_life_mut() {
            live.closing.get_or_insert_with(|| reason.to_owned());
        }
    }

    /// Ends the session, whether the owner has heard of it or not.
    pub(crate) fn expel(&mut self, reason: &str) {
        if let Some(live) = &mut self.live {
            live.closing.get_or_insert_with(|| reason.to_owned());
        }
    }

    // ----- the network's side

    /// A greeted carrier joins the present life, or begins one.
    pub(crate) fn attach(
        &mut self,
        id: CarrierId,
        newcomer: Newcomer,
        leader: bool,
    ) -> Result<(), AttachError> {
        let Newcomer { path, dialed_by_smaller, our_nonce, remote_nonce, now } = newcomer;
        if self.nonce != our_nonce {
            return Err(AttachError::Stale);
        }
        if self.live.as_ref().is_some_and(|live| live.remote_nonce != remote_nonce) {
            // The peer has lost the session and begun another: it expects to be greeted anew, so
            // our side must begin anew too.
            self.end_life("the peer started anew");
        }
        let rank = Rank { kind: path.kind, dialed_by_smaller, id };
        let carrier = Carrier { path, rank, retiring: false, remote_done: false };
        if let Some(live) = &mut self.live {
            if live.closing.is_some() {
                return Err(AttachError::Closing);
            }
            live.carriers.insert(id, carrier);
            self.settle(leader);
        } else {
            self.begin_life(id, carrier, remote_nonce, now);
        }
        Ok(())
    }

    fn begin_life(&mut self, id: CarrierId, carrier: Carrier, remote_nonce: u64, now: Instant) {
        // A whole life that the owner never heard of is forgotten, so that lives cannot pile up.
        if let Some(at) = self.events.iter().position(|event| matches!(event, SlotEvent::Up(..))) {
            for event in self.events.drain(at..) {
                if let SlotEvent::Frame(bytes) = event {
                    self.inbound_bytes -= cost(bytes.len());
                }
            }
        }
        self.lives += 1;
        self.events.push_back(SlotEvent::Up(self.lives, carrier.path.clone()));
        self.live = Some(Live {
            life: self.lives,
            remote_nonce,
            since: now,
            carriers: BTreeMap::from([(id, carrier)]),
            active: id,
            outbound: VecDeque::new(),
            outbound_bytes: 0,
            starved: false,
            writable: false,
            rtt_micros: None,
            introduced: false,
            closing: None,
        });
    }

    fn end_life(&mut self, reason: &str) {
        if let Some(live) = self.live.take() {
            let reason = live.closing.unwrap_or_else(|| reason.to_owned());
            self.events.push_back(SlotEvent::Down(reason));
        }
    }

    /// Chooses the best carrier. The leader, which is the device with the smaller key, retires the others; so
    /// exactly one side decides which connection goes.
    fn settle(&mut self, leader: bool) {
        let Some(live) = &mut self.live else { return };
        let best = live.carriers.iter().filter(|(_, c)| c.usable()).max_by_key(|(_, c)| c.rank);
        let Some((&best, carrier)) = best else { return };
        if best != live.active {
            live.active = best;
            let path = carrier.path.clone();
            if let Some(SlotEvent::Path(last)) = self.events.back_mut() {
                *last = path;
            } else {
                self.events.push_back(SlotEvent::Path(path));
            }
        }
        if leader {
            for (&id, carrier) in &mut live.carriers {
                carrier.retiring |= id != best;
            }
        }
    }

    /// A carrier has ended. `fresh_nonce` names our next life if this was the last one.
    pub(crate) fn detach(&mut self, id: CarrierId, reason: &str, leader: bool, fresh_nonce: u64) {
        let Some(live) = &mut self.live else { return };
        if live.carriers.remove(&id).is_none() {
            return;
        }
        if live.carriers.is_empty() {
            self.end_life(reason);
            self.nonce = fresh_nonce;
        } else {
            self.settle(leader);
        }
    }

    /// The transport has ended.
    pub(crate) fn shut(&mut self, reason: &str) {
        self.end_life(reason);
    }

    /// The peer sends nothing more on this carrier.
    pub(crate) fn remote_finished(&mut self, id: CarrierId, leader: bool) {
        if let Some(carrier) = self.live.as_mut().and_then(|live| live.carriers.get_mut(&id)) {
            carrier.remote_done = true;
            self.settle(leader);
        }
    }

    /// We can send nothing more on this carrier.
    pub(crate) fn retire(&mut self, id: CarrierId, leader: bool) {
        if let Some(carrier) = self.live.as_mut().and_then(|live| live.carriers.get_mut(&id)) {
            carrier.retiring = true;
            self.settle(leader);
        }
    }

    /// True if the carrier is to end, now or when the peer has ended it too.
    pub(crate) fn stopping(&self, id: CarrierId) -> bool {
        let Some(live) = &self.live else { return true };
        live.closing.is_some() || live.carriers.get(&id).is_none_or(|carrier| !carrier.usable())
    }

    /// Asks for room for a frame. When granted, the room must be given back by
    /// [`Slot::deliver`] or [`Slot::release`].
    pub(crate) fn admit(&mut self, id: CarrierId, len: usize, member: bool) -> Admission {
        let Some(live) = self.live.as_mut().filter(|live| live.carriers.contains_key(&id)) else {
            return Admission::Gone;
        };
        // A session that is being closed is read to its end, and what is read is dropped: the peer
        // must not be kept from finishing.
        if !member && live.closing.is_none() {
            if len > CONTROL_BYTES_MAX {
                return Admission::TooLong;
            }
            if live.introduced {
                return Admission::Wait;
            }
        }
        let cost = cost(len);
        if self.inbound_bytes > 0 && self.inbound_bytes + cost > INBOUND_BYTES_MAX {
            return Admission::Wait;
        }
        live.introduced = true;
        self.inbound_bytes += cost;
        Admission::Granted
    }

    /// Gives back room for a frame that did not come.
    pub(crate) fn release(&mut self, len: usize) {
        self.inbound_bytes = self.inbound_bytes.saturating_sub(cost(len));
    }

    /// Hands over a frame for which room was granted.
    pub(crate) fn deliver(&mut self, id: CarrierId, frame: Vec<u8>) {
        let live = self.live.as_ref().filter(|live| live.closing.is_none());
        if live.is_some_and(|live| live.carriers.contains_key(&id)) {
            self.events.push_back(SlotEvent::Frame(frame));
        } else {
            self.release(frame.len());
        }
    }

    /// What the carrier is to send next.
    pub(crate) fn next_outbound(&mut self, id: CarrierId) -> Next {
        let greetings = self.greetings;
        let Some(live) = &mut self.live else { return Next::Finish };
        let Some(carrier) = live.carriers.get(&id) else { return Next::Finish };
        if carrier.retiring {
            return Next::Finish;
        }
        if carrier.remote_done {
            // The peer gave this carrier up. If that is because the session moves to a carrier that
            // has not finished its greeting here, the session lives on: the other side's clock bounds the wait.
            let moving = greetings > 0 && !live.carriers.values().any(Carrier::usable);
            return if moving { Next::Wait } else { Next::Finish };
        }
        if id == live.active
            && let Some(frame) = live.outbound.pop_front()
        {
            live.outbound_bytes -= cost(frame.len());
            if live.starved && live.outbound_bytes <= OUTBOUND_BYTES_MAX / 2 {
                live.starved = false;
                live.writable = true;
            }
            return Next::Frame(frame);
        }
        if live.closing.is_some() && live.outbound.is_empty() { Next::Finish } else { Next::Wait }
    }

    pub(crate) fn round_trip(&mut self, micros: u64) {
        if let Some(live) = &mut self.live {
            live.rtt_micros = Some(micros);
        }
    }
}
