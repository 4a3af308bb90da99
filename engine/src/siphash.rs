//! SipHash-1-3 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), over a whole piece
//! of bytes at once. Digests of rows are made of it, twice for each write: half the work of a hasher that takes pieces.

const ROUNDS: usize = 1;
const LAST_ROUNDS: usize = 3;

struct State([u64; 4]);

impl State {
    fn rounds(&mut self, count: usize) {
        let [mut a, mut b, mut c, mut d] = self.0;
        for _ in 0..count {
            a = a.wrapping_add(b);
            c = c.wrapping_add(d);
            b = b.rotate_left(13) ^ a;
            d = d.rotate_left(16) ^ c;
            a = a.rotate_left(32);
            c = c.wrapping_add(b);
            a = a.wrapping_add(d);
            b = b.rotate_left(17) ^ c;
            d = d.rotate_left(21) ^ a;
            c = c.rotate_left(32);
        }
        self.0 = [a, b, c, d];
    }

    fn word(&mut self, word: u64) {
        self.0[3] ^= word;
        self.rounds(ROUNDS);
        self.0[0] ^= word;
    }

    /// Half of the output.
    fn half(&mut self, at: usize, mark: u64) -> u64 {
        self.0[at] ^= mark;
        self.rounds(LAST_ROUNDS);
        self.0.iter().fold(0, |sum, word| sum ^ word)
    }
}

/// The hash, whose first byte is the least significant one.
pub(crate) fn hash(key: &[u8; 16], bytes: &[u8]) -> u128 {
    let key = u128::from_le_bytes(*key);
    let (k0, k1) = (key as u64, (key >> 64) as u64);
    let mut state = State([
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]);
    let (words, rest) = bytes.as_chunks();
    for word in words {
        state.word(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    state.word(u64::from_le_bytes(last));
    let (low, high) = (state.half(2, 0xee), state.half(1, 0xdd));
    u128::from(low) | u128::from(high) << 64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use siphasher::sip128::SipHasher13;

    use super::*;

    proptest! {
        #[test]
        fn the_hash_is_that_of_another_implementation(key: [u8; 16], bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let theirs = SipHasher13::new_with_key(&key).hash(&bytes).as_bytes();
            prop_assert_eq!(hash(&key, &bytes).to_le_bytes(), theirs);
        }
    }
}
