//! How fast bytes may go by: a token bucket, as virtual scheduling (the generic cell rate algorithm, ITU-T I.371) does it.
//! Its depth is one frame: a frame passes whole when those before it have been paid for, and then the next one waits.
//!
//! Invariant: over any span of time no more passes than the rate allows for it, and one frame.

use engine::time::Instant;

/// See the module's documentation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    bytes_per_s_max: Option<u64>,
    /// When all that has passed is paid for.
    paid_at: Instant,
}

impl Pace {
    /// So many bytes a second, at least one; `None` for no limit.
    pub(crate) fn new(bytes_per_s_max: Option<u64>) -> Pace {
        Pace { bytes_per_s_max: bytes_per_s_max.map(|rate| rate.max(1)), paid_at: Instant::default() }
    }

    /// Whether there is a limit.
    pub(crate) fn limited(&self) -> bool {
        self.bytes_per_s_max.is_some()
    }

    /// Whether a frame may pass now.
    pub(crate) fn ready(&self, now: Instant) -> bool {
        self.paid_at <= now
    }

    /// From when on a frame may pass.
    pub(crate) fn ready_at(&self) -> Instant {
        self.paid_at
    }

    /// So many bytes have passed.
    pub(crate) fn spend(&mut self, bytes: usize, now: Instant) {
        let Some(rate) = self.bytes_per_s_max else { return };
        let micros = (bytes as u64).saturating_mul(1_000_000).div_ceil(rate);
        self.paid_at = self.paid_at.max(now) + micros;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_any_span_no_more_passes_than_the_rate_and_one_frame() {
        let mut pace = Pace::new(Some(1000));
        let sizes = [700, 1, 30, 999, 250, 1, 1, 400];
        let (mut now, mut passed) = (Instant(5), Vec::new());
        for round in 0..200 {
            now = now.max(pace.ready_at());
            assert!(pace.ready(now));
            let bytes = sizes[round % sizes.len()];
            pace.spend(bytes, now);
            passed.push((now, bytes as u64));
            // A pause now and then saves nothing up.
            now = now + if round % 50 == 49 { 10_000_000 } else { 0 };
        }
        for (at, (from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for (until, bytes) in &passed[at..] {
                sum += bytes;
                assert!(sum <= (*until - *from) * 1000 / 1_000_000 + 999 + 1, "{sum} bytes from {from:?} on");
            }
        }
    }

    #[test]
    fn without_a_limit_everything_passes_at_once() {
        let mut pace = Pace::new(None);
        pace.spend(usize::MAX, Instant(3));
        assert!(pace.ready(Instant(0)) && !pace.limited());
    }
}
