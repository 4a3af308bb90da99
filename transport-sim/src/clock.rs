//! A machine's clocks: a true monotonic one, and a wall clock that is off, drifts and jumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use engine::time::{Clock, Instant, Now, WallMs};

/// How far a machine's wall clock is off. Clones share it, and it outlives the machine's software.
#[derive(Debug, Clone, Default)]
pub struct Skew {
    offset_ms: Arc<AtomicI64>,
}

impl Skew {
    /// Sets the offset, in milliseconds ahead of true time: a jump.
    pub fn jump(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}

/// The clocks of a machine, over tokio's (virtual) time.
#[derive(Debug, Clone)]
pub struct SkewedClock {
    start: tokio::time::Instant,
    start_ms: u64,
    drift_ppm: i64,
    skew: Skew,
}

impl SkewedClock {
    /// A clock that starts now, when true time is `start_ms` milliseconds since the Unix epoch. It gains `drift_ppm`
    /// microseconds in each second.
    pub fn new(start_ms: u64, drift_ppm: i64, skew: Skew) -> SkewedClock {
        SkewedClock { start: tokio::time::Instant::now(), start_ms, drift_ppm, skew }
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Now {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let gained_ms = i128::from(micros) * i128::from(self.drift_ppm) / 1_000_000_000;
        let skew_ms = i128::from(self.skew.offset_ms.load(Ordering::Relaxed)) + gained_ms;
        let wall_ms = i128::from(self.start_ms) + i128::from(micros / 1000) + skew_ms;
        let wall_ms = u64::try_from(wall_ms.max(0)).unwrap_or(u64::MAX);
        Now { mono: Instant(micros), wall: WallMs(wall_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_is_off_drifts_and_jumps_and_the_monotonic_one_does_not() {
        let skew = Skew::default();
        skew.jump(-500);
        let clock = SkewedClock::new(1_000_000, 1_000, skew.clone());
        tokio::time::advance(Duration::from_secs(10)).await;
        let now = clock.now();
        assert_eq!((now.mono, now.wall), (Instant(10_000_000), WallMs(1_000_000 + 10_000 + 10 - 500)));
        skew.jump(3_600_000);
        assert_eq!(clock.now().wall, WallMs(1_000_000 + 10_000 + 10 + 3_600_000));
        skew.jump(i64::MIN);
        assert_eq!((clock.now().mono, clock.now().wall), (Instant(10_000_000), WallMs(0)));
    }
}
