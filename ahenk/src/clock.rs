//! The operating system's clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use engine::time::{Clock, Now, WallMs};

/// Reads the operating system's monotonic and wall clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic part starts now.
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        // A wall clock before 1970 counts as 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mono = engine::time::Instant(self.start.elapsed().as_micros() as u64);
        Now { mono, wall: WallMs(wall) }
    }
}
