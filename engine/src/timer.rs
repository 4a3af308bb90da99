//! The table of deadlines. Each has a reason, so that a wake-up can be explained.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::PeerKey;
use crate::time::Instant;

/// Why the engine wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// When a peer that connected has not said a valid `Hello` in time.
    Handshake(PeerKey),
    /// When to say `Hello` or `Have` again, because the first may have been lost.
    Retry(PeerKey),
    /// When an answer to a `Want` has made no progress, and it is asked for again.
    Want(PeerKey),
    /// When nothing was heard from a peer for a while, and it is pinged.
    Ping(PeerKey),
    /// When nothing was heard from a peer for so long that it counts as lost.
    Silence(PeerKey),
    /// When to apply a statement that must be alone in its batch, or what waited for one.
    Fence,
    /// When to go on with work that was cut up to keep each step short.
    Pump,
}

/// Deadlines by reason; setting one replaces the earlier. Invariant: both maps hold the same.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_reason: BTreeMap<Timer, Instant>,
    by_time: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(before) = self.by_reason.insert(timer, at) {
            self.by_time.remove(&(before, timer));
        }
        self.by_time.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.by_reason.remove(&timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    pub(crate) fn clear_peer(&mut self, peer: PeerKey) {
        for timer in [
            Timer::Handshake(peer),
            Timer::Retry(peer),
            Timer::Want(peer),
            Timer::Ping(peer),
            Timer::Silence(peer),
        ] {
            self.clear(timer);
        }
    }

    pub(crate) fn get(&self, timer: Timer) -> Option<Instant> {
        self.by_reason.get(&timer).copied()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<(Instant, Timer)> {
        self.by_time.first().copied()
    }

    /// Takes out one deadline that has passed.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (_, timer) = self.next().filter(|(at, _)| *at <= now)?;
        self.clear(timer);
        Some(timer)
    }
}
