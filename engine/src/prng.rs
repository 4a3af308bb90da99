//! The engine's own small random number generator, so that a recorded seed gives the same run for ever.
//!
//! Source: Blackman and Vigna, xoshiro256** 1.0 (2018). Not for secrets.

/// xoshiro256**.
#[derive(Debug, Clone)]
pub struct Prng([u64; 4]);

impl Prng {
    /// Starts from 32 bytes; all of them matter.
    pub fn new(seed: [u8; 32]) -> Prng {
        // Hashed, so that poor seeds (all zeros included) give good states.
        let hash = blake3::hash(&seed);
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            let mut array = [0; 8];
            array.copy_from_slice(bytes);
            *word = u64::from_le_bytes(array);
        }
        Prng(state)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.0;
        let result = s1.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= t;
        *s3 = s3.rotate_left(45);
        result
    }

    /// A number below `bound`; 0 if `bound` is 0. The bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True with probability `parts_per_million / 1_000_000`.
    pub fn chance_ppm(&mut self, parts_per_million: u64) -> bool {
        self.below(1_000_000) < parts_per_million
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut prng = Prng::new([7; 32]);
        let first: Vec<u64> = (0..3).map(|_| prng.next_u64()).collect();
        assert_eq!(first, RECORDED);
    }

    const RECORDED: [u64; 3] =
        [11_022_600_336_505_626_838, 6_834_692_458_418_755_378, 7_942_721_788_935_850_666];

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut prng = Prng::new([0; 32]);
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[prng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 700), "{seen:?}");
        assert_eq!(prng.below(0), 0);
    }
}
