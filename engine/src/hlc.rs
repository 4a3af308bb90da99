//! Hybrid logical clock: stamps that order writes to the same field, and nothing else.
//!
//! Source: Kulkarni, Demirbas et al., "Logical Physical Clocks" (2014), packed into one integer whose
//! counter carries into the milliseconds, so that it neither wraps nor fails.
//! Invariants: [`LocalClock::tick`] ascends strictly, unless the clock leads the wall by more than the drift bound,
//! which happens only when the wall clock was put back; no remote stamp moves the clock further than the bound ahead of the wall.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{STAMP_HEADROOM_MS, STAMP_MS_MAX};
use crate::marks::mark;
use crate::planted::{self, Bug};
use crate::time::WallMs;

/// A stamp: 48 bits of Unix milliseconds, 16 bits of counter, compared as one integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Packs milliseconds since the Unix epoch (the lower 48 bits are kept) and a counter.
    pub fn new(ms: u64, counter: u16) -> Hlc {
        Hlc(ms << 16 | u64::from(counter))
    }

    /// Milliseconds since the Unix epoch.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The counter.
    pub fn counter(self) -> u16 {
        self.0 as u16
    }

    /// The next larger stamp.
    pub fn successor(self) -> Hlc {
        if planted::is(Bug::CounterWraps) {
            return Hlc::new(self.ms(), self.counter().wrapping_add(1));
        }
        Hlc(self.0.saturating_add(1))
    }

    /// True if every device accepts a write with this stamp: not 0, and no later than the year 4199.
    pub fn acceptable(self) -> bool {
        self.0 != 0 && self.ms() <= STAMP_MS_MAX
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.counter())
    }
}

/// The clock of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalClock {
    last: Hlc,
    drift_ms_max: u64,
}

impl LocalClock {
    /// A clock that goes on from the last stamp it gave or took in.
    pub fn new(last: Hlc, drift_ms_max: u64) -> LocalClock {
        LocalClock { last, drift_ms_max }
    }

    /// The last stamp given or taken in; to be kept durably with each commit.
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// The next stamp for a local commit: `max(wall, last + 1)`, raised above `floor`, the largest stamp
    /// among what the commit touches. The clock itself is not raised by `floor`: a field that was stamped
    /// far ahead stays writable without dragging the clock along.
    ///
    /// `None` if the result would exceed what devices accept, which needs a field stamped within a day
    /// of the year 4199.
    pub fn tick(&mut self, wall: WallMs, floor: Option<Hlc>) -> Option<Hlc> {
        let wall_ms = wall.0.clamp(1, STAMP_MS_MAX - STAMP_HEADROOM_MS);
        if self.last.ms() > wall_ms.saturating_add(self.drift_ms_max) {
            // Our own clock ran far ahead and was put right: follow it.
            mark!(ClockDroppedBack);
            self.last = Hlc::default();
        }
        mark!(CounterCarried if self.last.counter() == u16::MAX);
        self.last = Hlc::new(wall_ms, 0).max(self.last.successor());
        mark!(FloorRaised if floor.is_some_and(|floor| floor >= self.last));
        let stamp = floor.map_or(self.last, |floor| self.last.max(floor.successor()));
        stamp.acceptable().then_some(stamp)
    }

    /// Takes in the stamp of an authorised and applied remote commit, unless it leads the wall clock by
    /// more than the drift bound.
    pub fn observe(&mut self, wall: WallMs, remote: Hlc) {
        let near = remote.ms() <= wall.0.saturating_add(self.drift_ms_max) || planted::is(Bug::ClockFoldsAny);
        mark!(FarStampIgnored if !near);
        mark!(ClockFollows if near && remote > self.last);
        if near && remote.acceptable() {
            self.last = self.last.max(remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_keeps_the_order(a in 0u64..1 << 48, b in 0u64..1 << 48, c: u16, d: u16) {
            prop_assert_eq!(Hlc::new(a, c).cmp(&Hlc::new(b, d)), (a, c).cmp(&(b, d)));
            prop_assert_eq!((Hlc::new(a, c).ms(), Hlc::new(a, c).counter()), (a, c));
        }

        #[test]
        fn ticks_ascend_unless_the_clock_leads_the_wall_by_more_than_the_bound(
            steps in proptest::collection::vec((-30_000i64..30_000, any::<Option<u32>>()), 1..200),
        ) {
            let mut clock = LocalClock::new(Hlc::default(), 60_000);
            let (base, mut previous) = (1_700_000_000_000u64, Hlc::default());
            for (offset, remote_ahead) in steps {
                let wall = WallMs(base.saturating_add_signed(offset));
                if let Some(ahead) = remote_ahead {
                    clock.observe(wall, Hlc::new(wall.0 + u64::from(ahead), 7));
                    prop_assert!(clock.last().ms() <= base + 30_000 + 60_000);
                }
                let leads = clock.last().ms() > wall.0 + 60_000;
                let stamp = clock.tick(wall, None).unwrap();
                prop_assert!(stamp > previous || leads);
                previous = stamp;
            }
        }

        #[test]
        fn a_tick_exceeds_what_it_overwrites_without_dragging_the_clock(wall in 1u64..1 << 45, floor in 0u64..1 << 61) {
            let mut clock = LocalClock::new(Hlc::default(), 60_000);
            let stamp = clock.tick(WallMs(wall), Some(Hlc(floor))).unwrap();
            prop_assert!(stamp > Hlc(floor));
            prop_assert_eq!(clock.last(), Hlc::new(wall, 0));
        }
    }

    #[test]
    fn the_counter_carries_into_the_milliseconds() {
        assert_eq!(Hlc::new(5, u16::MAX).successor(), Hlc::new(6, 0));
        let mut clock = LocalClock::new(Hlc::new(9, u16::MAX), 60_000);
        assert_eq!(clock.tick(WallMs(3), None), Some(Hlc::new(10, 0)));
    }

    #[test]
    fn a_clock_that_was_far_ahead_and_put_right_drops_back() {
        let mut clock = LocalClock::new(Hlc::default(), 60_000);
        assert_eq!(clock.tick(WallMs(10_000_000), None), Some(Hlc::new(10_000_000, 0)));
        assert_eq!(clock.tick(WallMs(10_000), None), Some(Hlc::new(10_000, 0)));
    }

    #[test]
    fn a_stamp_seventy_years_ahead_moves_no_clock() {
        let mut clock = LocalClock::new(Hlc::new(1_000, 0), 60_000);
        clock.observe(WallMs(1_000), Hlc::new(1_000 + 70 * 365 * 86_400_000, 0));
        assert_eq!(clock.last(), Hlc::new(1_000, 0));
    }

    #[test]
    fn a_wall_clock_beyond_the_ceiling_still_leaves_successors() {
        let mut clock = LocalClock::new(Hlc::default(), 60_000);
        let stamp = clock.tick(WallMs(u64::MAX), None).unwrap();
        assert!(stamp.acceptable() && clock.tick(WallMs(u64::MAX), Some(stamp)).is_some());
        assert_eq!(clock.tick(WallMs(u64::MAX), Some(Hlc::new(STAMP_MS_MAX, u16::MAX))), None);
    }
}
