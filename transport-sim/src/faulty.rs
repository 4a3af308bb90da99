//! [`FaultyLink`]: a decorator over any transport that loses, doubles, damages, delays and slows what is sent.
//!
//! Invariant: the fate of a frame is a hash of (seed, sender, receiver, its number on that way), so nothing that
//! happens elsewhere changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use engine::identity::PeerKey;
use engine::prng::Prng;
use engine::transport::{Transport, TransportEvent, TrySendError};
use tokio::time::{Instant, Sleep, sleep_until};

/// Frames that may be under way at one time; more are lost, as in a router's full queue.
const UNDER_WAY_MAX: usize = 1024;

/// What a link does to frames. All zeros (the default) for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkOptions {
    /// Frames that vanish, in parts per million.
    pub loss_ppm: u64,
    /// Frames that arrive twice, in parts per million.
    pub double_ppm: u64,
    /// Frames with a flipped bit, in parts per million.
    pub damage_ppm: u64,
    /// Extra delay of every frame, in microseconds, on this way only.
    pub delay_micros: u64,
    /// Largest further delay, in microseconds; frames overtake each other.
    pub jitter_micros: u64,
    /// Bytes that pass in a second; 0 for any number.
    pub bytes_per_second: u64,
}

/// What happened to frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounts {
    /// Frames given to the link.
    pub sent: u64,
    /// Frames that vanished.
    pub lost: u64,
    /// Frames sent twice.
    pub doubled: u64,
    /// Frames with a flipped bit.
    pub damaged: u64,
    /// Frames that were held back for a while.
    pub delayed: u64,
    /// Frames lost because too many were under way.
    pub overflowed: u64,
}

/// The settings of a device's links, and what came of them. Clones share them, so they can be changed from outside.
#[derive(Debug, Clone, Default)]
pub struct LinkSettings(Arc<Mutex<(LinkOptions, LinkCounts)>>);

impl LinkSettings {
    fn lock(&self) -> MutexGuard<'_, (LinkOptions, LinkCounts)> {
        // Plain numbers: no half-made change can be seen.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Treats frames so from now on.
    pub fn set(&self, options: LinkOptions) {
        self.lock().0 = options;
    }

    /// How frames are treated.
    pub fn options(&self) -> LinkOptions {
        self.lock().0
    }

    /// What has happened so far.
    pub fn counts(&self) -> LinkCounts {
        self.lock().1
    }

    fn count(&self, change: impl FnOnce(&mut LinkCounts)) {
        change(&mut self.lock().1);
    }
}

/// A transport whose frames meet a fate.
#[derive(Debug)]
pub struct FaultyLink<T> {
    inner: T,
    own: PeerKey,
    seed: u64,
    settings: LinkSettings,
    up: BTreeSet<PeerKey>,
    numbers: BTreeMap<PeerKey, u64>,
    under_way: BTreeMap<(Instant, u64), (PeerKey, Vec<u8>)>,
    next: u64,
    /// When the last byte of what was sent before has passed.
    busy_until: BTreeMap<PeerKey, Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<T: Transport> FaultyLink<T> {
    /// Decorates a device's transport.
    pub fn new(inner: T, own: PeerKey, seed: u64, settings: LinkSettings) -> FaultyLink<T> {
        FaultyLink {
            inner,
            own,
            seed,
            settings,
            up: BTreeSet::new(),
            numbers: BTreeMap::new(),
            under_way: BTreeMap::new(),
            next: 0,
            busy_until: BTreeMap::new(),
            alarm: None,
        }
    }

    fn fate(&mut self, peer: PeerKey) -> Prng {
        let number = self.numbers.entry(peer).or_default();
        *number += 1;
        let mut seed = [0; 32];
        for (at, byte) in seed.iter_mut().enumerate() {
            *byte = self.own.0[at].rotate_left(3) ^ peer.0[at];
        }
        let words = self.seed.to_be_bytes().into_iter().chain(number.to_be_bytes());
        seed.iter_mut().zip(words).for_each(|(byte, word)| *byte ^= word);
        Prng::new(seed)
    }

    /// When a frame arrives at the inner transport.
    fn arrival(&mut self, peer: PeerKey, bytes: usize, options: &LinkOptions, fate: &mut Prng) -> Instant {
        let mut start = Instant::now();
        if let Some(micros) = (bytes as u64 * 1_000_000).checked_div(options.bytes_per_second) {
            let busy = self.busy_until.entry(peer).or_insert(start);
            *busy = (*busy).max(start) + Duration::from_micros(micros);
            start = *busy;
        }
        start + Duration::from_micros(options.delay_micros + fate.below(options.jitter_micros + 1))
    }

    /// Hands over what has arrived; a full queue loses it.
    fn release(&mut self, until: Instant) {
        while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= until) {
            let (peer, frame) = entry.remove();
            if let Err(TrySendError::Full(_)) = self.inner.try_send(peer, frame) {
                self.settings.count(|counts| counts.overflowed += 1);
            }
        }
    }

    fn forget(&mut self, peer: PeerKey) {
        self.up.remove(&peer);
        self.busy_until.remove(&peer);
        self.under_way.retain(|_, (to, _)| *to != peer);
    }
}

impl<T: Transport> Transport for FaultyLink<T> {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        self.release(Instant::now());
        while let Some((at, _)) = self.under_way.first_key_value().map(|(key, _)| *key) {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if alarm.deadline() != at {
                alarm.as_mut().reset(at);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                break;
            }
            self.release(at);
        }
        let event = self.inner.poll_event(cx);
        match &event {
            Poll::Ready(Some(TransportEvent::PeerUp { peer, .. })) => {
                self.up.insert(*peer);
            }
            Poll::Ready(Some(TransportEvent::PeerDown { peer, .. })) => self.forget(*peer),
            _ => {}
        }
        event
    }

    fn try_send(&mut self, peer: PeerKey, mut frame: Vec<u8>) -> Result<(), TrySendError> {
        if !self.up.contains(&peer) {
            return Err(TrySendError::Gone(frame));
        }
        let options = self.settings.options();
        if options == LinkOptions::default() {
            return self.inner.try_send(peer, frame);
        }
        let mut fate = self.fate(peer);
        self.settings.count(|counts| counts.sent += 1);
        if fate.chance_ppm(options.loss_ppm) {
            self.settings.count(|counts| counts.lost += 1);
            return Ok(());
        }
        let doubled = fate.chance_ppm(options.double_ppm);
        if fate.chance_ppm(options.damage_ppm) && !frame.is_empty() {
            let bit = fate.below(frame.len() as u64 * 8);
            frame[(bit / 8) as usize] ^= 1 << (bit % 8);
            self.settings.count(|counts| counts.damaged += 1);
        }
        self.settings.count(|counts| counts.doubled += u64::from(doubled));
        let copies = if doubled { vec![frame.clone(), frame] } else { vec![frame] };
        for copy in copies {
            if self.under_way.len() >= UNDER_WAY_MAX {
                self.settings.count(|counts| counts.overflowed += 1);
                continue;
            }
            let at = self.arrival(peer, copy.len(), &options, &mut fate);
            self.next += 1;
            self.settings.count(|counts| counts.delayed += u64::from(at > Instant::now()));
            self.under_way.insert((at, self.next), (peer, copy));
        }
        self.release(Instant::now());
        Ok(())
    }

    fn broadcast(&mut self, frame: Vec<u8>) {
        self.inner.broadcast(frame);
    }

    fn disconnect(&mut self, peer: PeerKey, reason: &str) {
        let pending: Vec<_> = self.under_way.extract_if(.., |_, (to, _)| *to == peer).collect();
        for (_, (peer, frame)) in pending {
            // The contract: what is queued goes first; what finds no room is lost.
            let _ = self.inner.try_send(peer, frame);
        }
        self.inner.disconnect(peer, reason);
    }

    fn set_members(&mut self, members: &[PeerKey]) {
        self.inner.set_members(members);
    }
}
