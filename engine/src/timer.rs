//! The table of deadlines. Each has a reason, so that a wake-up can be explained.

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

/// Deadlines by reason; setting one replaces the earlier. A few for each peer, of which some are put off with each frame
/// that comes: so they lie in one list, and only when the earliest is put off the others are looked at.
/// Invariants: the list ascends by reason; `next` is the earliest of it, of equal ones the first.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    list: Vec<(Timer, Instant)>,
    next: Option<(Instant, Timer)>,
}

impl Timers {
    fn place(&self, timer: Timer) -> Result<usize, usize> {
        self.list.binary_search_by(|(other, _)| other.cmp(&timer))
    }

    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        match self.place(timer) {
            Ok(place) => self.list[place].1 = at,
            Err(place) => self.list.insert(place, (timer, at)),
        }
        match self.next {
            Some((_, next)) if next == timer => self.find_next(),
            Some(next) if next < (at, timer) => {}
            _ => self.next = Some((at, timer)),
        }
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        if let Ok(place) = self.place(timer) {
            self.list.remove(place);
            if self.next.is_some_and(|(_, next)| next == timer) {
                self.find_next();
            }
        }
    }

    fn find_next(&mut self) {
        self.next = self.list.iter().map(|(timer, at)| (*at, *timer)).min();
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
        self.place(timer).ok().map(|place| self.list[place].1)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<(Instant, Timer)> {
        self.next
    }

    /// Takes out one deadline that has passed.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (_, timer) = self.next().filter(|(at, _)| *at <= now)?;
        self.clear(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_next_deadline_is_the_earliest_of_those_that_were_set_last(
            steps in proptest::collection::vec((0u8..4, 0u8..3, 0u64..6), 0..40),
        ) {
            let (mut timers, mut model) = (Timers::default(), BTreeMap::<Timer, Instant>::new());
            for (kind, peer, at) in steps {
                let key = PeerKey([peer; 32]);
                let timer = [Timer::Ping(key), Timer::Silence(key), Timer::Pump][usize::from(kind % 3)];
                match (kind, at) {
                    (3, 0) => {
                        timers.clear_peer(key);
                        model.retain(|timer, _| !matches!(timer, Timer::Ping(of) | Timer::Silence(of) if *of == key));
                    }
                    (3, _) => {
                        let first = model.iter().map(|(timer, at)| (*at, *timer)).min();
                        let due = first.filter(|(due, _)| due.0 <= at).map(|(_, timer)| timer);
                        due.map(|timer| model.remove(&timer));
                        prop_assert_eq!(timers.pop_due(Instant(at)), due);
                    }
                    (_, 0) => {
                        timers.clear(timer);
                        model.remove(&timer);
                    }
                    _ => {
                        timers.set(timer, Instant(at));
                        model.insert(timer, Instant(at));
                    }
                }
                prop_assert_eq!(timers.get(timer), model.get(&timer).copied());
                prop_assert_eq!(timers.next(), model.iter().map(|(timer, at)| (*at, *timer)).min());
            }
        }
    }
}
