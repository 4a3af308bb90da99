//! A hash of all that happens in a run, to tell whether two runs are the same. Every frame goes through it, so it is fast;
//! it withstands nobody who would look for two runs of one hash. The step is that of FxHash.

use std::hash::Hasher;

const FACTOR: u64 = 0x517c_c1b7_2722_0a95;

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Trace(u64);

impl Trace {
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for Trace {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, value: u8) {
        self.word(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }

    /// Mixed once more, so that all bits depend on the last word.
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(FACTOR);
        mixed ^ mixed >> 29
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u64 {
        let mut trace = Trace::default();
        parts.iter().for_each(|part| trace.write(part));
        trace.finish()
    }

    #[test]
    fn every_bit_and_every_boundary_counts() {
        let bytes: Vec<u8> = (0..43).collect();
        let whole = of(&[&bytes]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(of(&[&flipped]), whole, "bit {bit}");
        }
        for at in 0..bytes.len() {
            assert_ne!(of(&[&bytes[..at]]), whole);
            assert_ne!(of(&[&bytes[..at], &bytes[at..]]), whole);
        }
    }
}
