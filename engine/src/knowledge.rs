//! Knowledge: which commits a device has, as a version vector with exceptions.
//!
//! Source: Parker et al., "Detection of Mutual Inconsistency in Distributed Systems" (1983) for version
//! vectors; Malkhi and Terry, "Concise Version Vectors in WinFS" (2005) for exceptions.
//! Invariant of [`RangeSet`]: ranges are not empty, ascend, and neither overlap nor touch.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::config::{RANGES_MAX, REPLICAS_MAX};
use crate::identity::{Dot, ReplicaId};

/// A set of sequence numbers of one replica, as inclusive ranges.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>")]
pub struct RangeSet(Vec<(u64, u64)>);

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

impl Serialize for RangeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl TryFrom<Vec<(u64, u64)>> for RangeSet {
    type Error = &'static str;

    fn try_from(ranges: Vec<(u64, u64)>) -> Result<RangeSet, &'static str> {
        let apart = ranges.windows(2).all(|pair| pair[0].1.checked_add(1).is_some_and(|end| end < pair[1].0));
        let whole =
            ranges.iter().all(|(first, last)| *first >= 1 && first <= last && *last <= i64::MAX as u64);
        if ranges.len() > RANGES_MAX || !apart || !whole {
            return Err("the ranges are not ascending and apart");
        }
        Ok(RangeSet(ranges))
    }
}

impl RangeSet {
    /// `1..=last`; empty for 0.
    pub fn prefix(last: u64) -> RangeSet {
        RangeSet::of(1, last)
    }

    /// `first..=last`; empty if `last < first`.
    pub fn of(first: u64, last: u64) -> RangeSet {
        RangeSet(if first <= last { vec![(first, last)] } else { Vec::new() })
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// How many numbers are in it.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The smallest number.
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|range| range.0)
    }

    /// The largest number.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|range| range.1)
    }

    /// Whether a number is in it.
    pub fn contains(&self, seq: u64) -> bool {
        let next = self.0.partition_point(|range| range.0 <= seq);
        next > 0 && self.0[next - 1].1 >= seq
    }

    /// The length of the gapless prefix from 1.
    pub fn prefix_len(&self) -> u64 {
        self.0.first().filter(|range| range.0 == 1).map_or(0, |range| range.1)
    }

    /// Adds `first..=last`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        // Nearly always it is the next number.
        if let Some(newest) = self.0.last_mut().filter(|newest| newest.0 <= first) {
            if first <= newest.1.saturating_add(1) {
                newest.1 = newest.1.max(last);
            } else {
                self.0.push((first, last));
            }
            return;
        }
        let from = self.0.partition_point(|range| range.1.saturating_add(1) < first);
        let to = self.0.partition_point(|range| range.0 <= last.saturating_add(1));
        let merged = self.0[from..to]
            .iter()
            .fold((first, last), |whole, range| (whole.0.min(range.0), whole.1.max(range.1)));
        self.0.splice(from..to, [merged]);
    }

    /// Whether all that is in `other` is in `self`, seen at a glance: `false` may be wrong.
    fn plainly_covers(&self, other: &RangeSet) -> bool {
        match (self.0.as_slice(), other.first(), other.last()) {
            ([only], Some(first), Some(last)) => only.0 <= first && last <= only.1,
            _ => self.0 == other.0,
        }
    }

    /// Takes away all that is in `other`.
    pub fn subtract(&mut self, other: &RangeSet) {
        for (first, last) in &other.0 {
            self.remove(*first, *last);
        }
    }

    /// Takes away `first..=last`.
    pub fn remove(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let from = self.0.partition_point(|range| range.1 < first);
        let to = self.0.partition_point(|range| range.0 <= last);
        if from >= to {
            return;
        }
        let (left, right) = (self.0[from].0, self.0[to - 1].1);
        let mut kept = Vec::with_capacity(2);
        if left < first {
            kept.push((left, first - 1));
        }
        if right > last {
            kept.push((last + 1, right));
        }
        self.0.splice(from..to, kept);
    }

    /// Adds all that is in `other`.
    pub fn union(&mut self, other: &RangeSet) {
        for (first, last) in &other.0 {
            self.insert(*first, *last);
        }
    }
}

/// For each replica, which of its commits are meant. As a statement of a device: which it has applied durably.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "Vec<(ReplicaId, RangeSet)>")]
pub struct Knowledge(BTreeMap<ReplicaId, RangeSet>);

impl fmt::Debug for Knowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl Serialize for Knowledge {
    /// As a list of pairs.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl TryFrom<Vec<(ReplicaId, RangeSet)>> for Knowledge {
    type Error = &'static str;

    fn try_from(entries: Vec<(ReplicaId, RangeSet)>) -> Result<Knowledge, &'static str> {
        let ascending = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if entries.len() > REPLICAS_MAX || !ascending || entries.iter().any(|(_, set)| set.is_empty()) {
            return Err("the replicas are not ascending, or one has no ranges");
        }
        Ok(Knowledge(entries.into_iter().collect()))
    }
}

impl Knowledge {
    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each replica and what is known of it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&ReplicaId, &RangeSet)> {
        self.0.iter()
    }

    /// How many replicas occur.
    pub fn replicas(&self) -> usize {
        self.0.len()
    }

    /// What is known of a replica.
    pub fn get(&self, replica: &ReplicaId) -> Option<&RangeSet> {
        self.0.get(replica)
    }

    /// The gapless prefix known of a replica.
    pub fn prefix_len(&self, replica: &ReplicaId) -> u64 {
        self.0.get(replica).map_or(0, RangeSet::prefix_len)
    }

    /// Whether a commit is known.
    pub fn contains(&self, dot: &Dot) -> bool {
        self.0.get(&dot.replica).is_some_and(|set| set.contains(dot.seq))
    }

    /// Adds `first..=last` of a replica.
    pub fn insert(&mut self, replica: ReplicaId, first: u64, last: u64) {
        if first <= last {
            self.0.entry(replica).or_default().insert(first, last);
        }
    }

    /// Takes away `first..=last` of a replica.
    pub fn remove(&mut self, replica: &ReplicaId, first: u64, last: u64) {
        if let Some(set) = self.0.get_mut(replica) {
            set.remove(first, last);
            if set.is_empty() {
                self.0.remove(replica);
            }
        }
    }

    /// Adds all that `other` knows.
    pub fn union(&mut self, other: &Knowledge) {
        for (replica, set) in &other.0 {
            self.0.entry(*replica).or_default().union(set);
        }
    }

    /// What is in `self` and not in `other`.
    pub fn minus(&self, other: &Knowledge) -> Knowledge {
        let mut result = BTreeMap::new();
        for (replica, set) in &self.0 {
            let theirs = other.0.get(replica);
            if theirs.is_some_and(|theirs| theirs.plainly_covers(set)) {
                continue;
            }
            let mut rest = set.clone();
            if let Some(theirs) = theirs {
                rest.subtract(theirs);
            }
            if !rest.is_empty() {
                result.insert(*replica, rest);
            }
        }
        Knowledge(result)
    }

    /// Keeps only the replicas for which `keep` says so.
    pub(crate) fn retain(&mut self, keep: impl Fn(&ReplicaId) -> bool) {
        self.0.retain(|replica, _| keep(replica));
    }

    /// Takes away all beyond the end that `end` gives for a replica, if it gives one.
    pub(crate) fn cut(&mut self, end: impl Fn(&ReplicaId) -> Option<u64>) {
        self.0.retain(|replica, set| {
            if let Some(end) = end(replica) {
                set.remove(end.saturating_add(1), u64::MAX);
            }
            !set.is_empty()
        });
    }

    /// How many commits are in it; `u64::MAX` if there are more, as a peer may claim.
    pub fn commits(&self) -> u64 {
        self.0.values().map(RangeSet::len).fold(0, u64::saturating_add)
    }

    /// Keeps the entries small enough to be stated in one control frame: the first `max` ranges over all.
    pub fn truncate(&mut self, max: usize) {
        let mut left = max;
        self.0.retain(|_, set| {
            set.0.truncate(left.min(RANGES_MAX));
            left -= set.0.len();
            !set.is_empty()
        });
    }

    /// 16 bytes that are equal iff the knowledge is (but for a collision of BLAKE3).
    pub fn digest(&self) -> [u8; 16] {
        // Gathered first: the hasher takes its time for each piece.
        let mut bytes = Vec::with_capacity(17 + 48 * self.0.len());
        bytes.extend_from_slice(b"ahenk knowledge 1");
        for (replica, set) in &self.0 {
            bytes.extend_from_slice(replica.device.0.as_bytes());
            bytes.extend_from_slice(&replica.incarnation.to_be_bytes());
            bytes.extend_from_slice(&(set.0.len() as u64).to_be_bytes());
            for (first, last) in &set.0 {
                bytes.extend_from_slice(&first.to_be_bytes());
                bytes.extend_from_slice(&last.to_be_bytes());
            }
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn members(set: &RangeSet) -> BTreeSet<u64> {
        set.ranges().iter().flat_map(|(first, last)| *first..=*last).collect()
    }

    proptest! {
        #[test]
        fn a_range_set_is_the_set_of_its_numbers(
            steps in proptest::collection::vec((any::<bool>(), 1u64..60, 0u64..12), 0..40),
        ) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (add, first, len) in steps {
                let last = first + len;
                if add {
                    set.insert(first, last);
                    model.extend(first..=last);
                } else {
                    set.remove(first, last);
                    model.retain(|seq| !(first..=last).contains(seq));
                }
                prop_assert_eq!(&members(&set), &model);
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert!((0..80).all(|seq| set.contains(seq) == model.contains(&seq)));
                let prefix = (1..).take_while(|seq| model.contains(seq)).count() as u64;
                prop_assert_eq!(set.prefix_len(), prefix);
                // The normal form survives the check that what comes from outside must pass.
                prop_assert_eq!(RangeSet::try_from(set.0.clone()), Ok(set.clone()));
            }
        }
    }

    #[test]
    fn ranges_that_touch_or_overlap_or_descend_are_refused() {
        for bad in
            [vec![(1, 2), (3, 4)], vec![(1, 5), (4, 9)], vec![(5, 6), (1, 2)], vec![(0, 1)], vec![(3, 2)]]
        {
            assert!(RangeSet::try_from(bad).is_err());
        }
    }
}
