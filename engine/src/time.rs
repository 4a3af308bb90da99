//! Time as an argument. The engine reads no clock: whoever drives it says what time it is.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A point on the driver's monotonic clock, in microseconds from an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// This point plus some milliseconds.
    pub fn plus_ms(self, ms: u64) -> Instant {
        Instant(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Milliseconds from an earlier point to this one; 0 if it is not earlier.
    pub fn ms_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

impl Sub for Instant {
    type Output = u64;
    /// Microseconds between, never below 0.
    fn sub(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Instant {
    type Output = Instant;
    /// Adds microseconds.
    fn add(self, micros: u64) -> Instant {
        Instant(self.0.saturating_add(micros))
    }
}

/// A reading of the wall clock: milliseconds since the Unix epoch. May jump either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct WallMs(pub u64);

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// The monotonic clock: for deadlines.
    pub mono: Instant,
    /// The wall clock: for stamps and people.
    pub wall: WallMs,
}

/// Where a driver reads the time. Implementations: the operating system's clocks, and the
/// simulator's skewed ones.
pub trait Clock: Send + Sync {
    /// Reads both clocks. `mono` never goes back within one process.
    fn now(&self) -> Now;
}
