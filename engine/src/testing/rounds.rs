//! Rounds, as a measure of time that does not depend on delays and timers: in a round each link that counts carries at
//! least one frame each way.

use std::collections::BTreeSet;

/// Counts rounds over some links.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rounds {
    /// Both ways of each link.
    ways: BTreeSet<(usize, usize)>,
    /// The ways that nothing has come by in this round.
    missing: BTreeSet<(usize, usize)>,
    complete: u64,
}

impl Rounds {
    pub(crate) fn over(links: &[(usize, usize)]) -> Rounds {
        let ways: BTreeSet<_> = links.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        Rounds { missing: ways.clone(), ways, complete: 0 }
    }

    pub(crate) fn arrived(&mut self, from: usize, to: usize) {
        if self.missing.remove(&(from, to)) && self.missing.is_empty() {
            self.complete += 1;
            self.missing.clone_from(&self.ways);
        }
    }

    pub(crate) fn complete(&self) -> u64 {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_complete_once_each_link_has_carried_a_frame_each_way() {
        let mut rounds = Rounds::over(&[(0, 1), (1, 2)]);
        for way in [(0, 1), (0, 1), (1, 2), (2, 1), (0, 2)] {
            rounds.arrived(way.0, way.1);
        }
        assert_eq!(rounds.complete(), 0);
        rounds.arrived(1, 0);
        assert_eq!(rounds.complete(), 1);
        rounds.arrived(1, 0);
        assert_eq!(rounds.complete(), 1);
    }
}
