//! What must be in a device's conflict ledger. A part of the definition that is easy to state without the engine: two
//! writes of different values to one field of a row that was never deleted, neither of whose authors had seen the other.
//! The later of the two to arrive decides, and the one that lost is listed.

use std::collections::{BTreeMap, BTreeSet};

use engine::commit::{Commit, OpKind};
use engine::identity::{Dot, ReplicaId};
use engine::name::FieldName;
use engine::store::StoreRead;

use crate::oracle::{Violation, violation};
use crate::reference::{Key, Place, Reference, place, place_of};

/// Row and field, the write that lost and the one that won.
type Entry = (Key, FieldName, Place, Place);

/// The entries that are due, and those that were found.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    due: Vec<Entry>,
    listed: BTreeSet<Entry>,
    next: u64,
}

impl Ledger {
    /// Takes in a commit that is not in the reference yet, and what its author had seen of other replicas.
    pub(crate) fn commit(&mut self, reference: &Reference, commit: &Commit, seen: &BTreeMap<ReplicaId, u64>) {
        let new = place(commit);
        let had_seen = |(_, device, incarnation, seq): Place| {
            let author = commit.dot.replica;
            let same = *author.device.0.as_bytes() == device && author.incarnation == incarnation;
            let known = seen.iter().find(|(replica, _)| {
                *replica.device.0.as_bytes() == device && replica.incarnation == incarnation
            });
            same || known.is_some_and(|(_, known)| *known >= seq)
        };
        for op in commit.ops.iter().filter(|op| matches!(op.kind, OpKind::Put | OpKind::Update)) {
            let key = (op.table.clone(), op.row.clone());
            if reference.deleted(&key) {
                continue;
            }
            for (field, value) in &op.fields {
                let Some((here, other)) = reference.field(&key, field) else { continue };
                if other != value && !had_seen(here) {
                    self.due.push((key.clone(), field.clone(), new.min(here), new.max(here)));
                }
            }
        }
    }

    /// A commit no longer counts, and nothing of it is in conflict with anything.
    pub(crate) fn retract(&mut self, commit: &Commit) {
        let gone = place(commit);
        self.due.retain(|(_, _, loser, winner)| *loser != gone && *winner != gone);
    }

    /// Checks that nothing is listed of which a side is among `gone`.
    pub(crate) fn check_void(
        &self,
        name: char,
        store: &dyn StoreRead,
        gone: &BTreeSet<Dot>,
    ) -> Result<(), Violation> {
        let found = store.conflicts(0, usize::MAX);
        let found = found.or_else(|error| violation("a store can be read", error.to_string()))?;
        match found.iter().find(|one| gone.contains(&one.loser.dot) || gone.contains(&one.winner.dot)) {
            None => Ok(()),
            Some(one) => {
                let sentence = format!("{name} lists {one:?}");
                violation("what is retracted is in no conflict", sentence)
            }
        }
    }

    /// Checks that what is due is listed.
    pub(crate) fn check(&mut self, name: char, store: &dyn StoreRead) -> Result<(), Violation> {
        if self.due.is_empty() {
            return Ok(());
        }
        let found = store.conflicts(self.next, usize::MAX);
        let found = found.or_else(|error| violation("a store can be read", error.to_string()))?;
        for conflict in found {
            self.next = conflict.id + 1;
            let key = (conflict.table, conflict.row);
            self.listed.insert((key, conflict.field, place_of(conflict.loser), place_of(conflict.winner)));
        }
        for entry in self.due.drain(..) {
            if !self.listed.contains(&entry) {
                let sentence = format!("{name} does not list {entry:?}");
                return violation("the loser of a conflict is in the ledger", sentence);
            }
        }
        Ok(())
    }
}
