//! Numbers of one byte for replicas, for rows in memory: a stamp names its replica, whose name takes 24 bytes, and most stores
//! know a handful of replicas.
//!
//! Invariant: numbers ascend from 0 in the order in which replicas were added, and stay. There are at most
//! [`NUMBERED_MAX`]; further replicas have none, and are written out where they stand. So whoever makes up replicas makes
//! rows longer, as they would be without numbers, and no list without end.

use std::sync::Arc;

use crate::identity::ReplicaId;

/// How many replicas have numbers at most. One byte is left for saying that there is none.
pub const NUMBERED_MAX: usize = u8::MAX as usize;

/// Replicas by number. Copies share one list until one of them gets another replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbering(Option<Arc<Lists>>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Lists {
    by_number: Vec<ReplicaId>,
    /// Ascending: what tells replicas apart soonest, the random number of each, then their numbers.
    by_incarnation: Vec<(u64, u8)>,
}

impl Numbering {
    /// Gives a replica the next number, unless it has one or there is none left.
    pub fn add(&mut self, replica: &ReplicaId) {
        let next = u8::try_from(self.len()).ok().filter(|next| usize::from(*next) < NUMBERED_MAX);
        let Some(next) = next.filter(|_| self.number(replica).is_none()) else { return };
        let lists = Arc::make_mut(self.0.get_or_insert_default());
        lists.by_number.push(*replica);
        let place = lists.by_incarnation.partition_point(|(other, _)| *other <= replica.incarnation);
        lists.by_incarnation.insert(place, (replica.incarnation, next));
    }

    /// How many replicas have numbers.
    pub fn len(&self) -> usize {
        self.by_number().len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn by_number(&self) -> &[ReplicaId] {
        self.0.as_ref().map_or(&[], |lists| &lists.by_number)
    }

    pub(crate) fn number(&self, replica: &ReplicaId) -> Option<u8> {
        let lists = self.0.as_ref()?;
        let from = lists.by_incarnation.partition_point(|(other, _)| *other < replica.incarnation);
        let alike = lists.by_incarnation.get(from..)?.iter();
        let mut numbers =
            alike.take_while(|(other, _)| *other == replica.incarnation).map(|(_, number)| *number);
        numbers.find(|number| self.replica(*number) == Some(replica))
    }

    pub(crate) fn replica(&self, number: u8) -> Option<&ReplicaId> {
        self.by_number().get(usize::from(number))
    }

    /// Whether this is a copy of the other, and neither has changed since.
    pub fn same(&self, other: &Numbering) -> bool {
        match (&self.0, &other.0) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }

    /// Whether all numbers of the other, which has some, mean the same here.
    pub(crate) fn extends(&self, other: &Numbering) -> bool {
        !other.is_empty() && self.by_number().starts_with(other.by_number())
    }
}

impl<'a> FromIterator<&'a ReplicaId> for Numbering {
    fn from_iter<I: IntoIterator<Item = &'a ReplicaId>>(replicas: I) -> Numbering {
        let mut numbering = Numbering::default();
        replicas.into_iter().for_each(|replica| numbering.add(replica));
        numbering
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::DeviceId;

    fn replica(n: u64) -> ReplicaId {
        // Some have an incarnation in common.
        let device = DeviceId(uuid::Uuid::from_bytes([(n % 3) as u8; 16]));
        ReplicaId { device, incarnation: (n / 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    #[test]
    fn numbers_stay_and_end_where_a_byte_does() {
        let all: Vec<_> = (0..400).map(replica).collect();
        let mut numbering = Numbering::default();
        let mut earlier = vec![numbering.clone()];
        for replica in &all {
            numbering.add(replica);
            numbering.add(replica);
            earlier.push(numbering.clone());
        }
        assert_eq!(numbering.len(), NUMBERED_MAX);
        for (n, replica) in all.iter().enumerate() {
            let number = (n < NUMBERED_MAX).then_some(n as u8);
            assert_eq!(numbering.number(replica), number);
            assert_eq!(number.and_then(|number| numbering.replica(number)), number.map(|_| replica));
        }
        assert_eq!(numbering.replica(u8::MAX), None);
        assert!(earlier[1..].iter().all(|earlier| numbering.extends(earlier)));
        assert!(!earlier[1].extends(&numbering) && !numbering.extends(&Numbering::default()));
        assert!(!all[1..].iter().collect::<Numbering>().extends(&earlier[1]));
    }
}
