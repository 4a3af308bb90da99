//! The newest states of rows, in memory, until they are written into the table `rows`.
//!
//! Rows follow from the log, which is durable first; so these may wait, and be written many at a time in the order of
//! their keys. Invariant: what is here replaces what the table has.
//!
//! When they take too much memory, a *sweep* goes through them in the order of their keys and writes a part with each batch,
//! as many as are too many, and begins again at the end. So there are always nearly as many as there may be, of which those
//! are written that have waited longest and share pages with most others; and a batch rewrites a part of the table's pages, not
//! all of them at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use engine::name::RowKey;
use engine::row::RowState;
use engine::store::RowRange;

/// Memory for the entry of a row itself, roughly, in bytes.
const ROW_BYTES: usize = 96;

/// A row, by the number of its table and its key.
pub(crate) type Place = (u32, RowKey);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// By number of the table.
    tables: BTreeMap<u32, BTreeMap<RowKey, RowState>>,
    /// Memory that they take, roughly.
    bytes: usize,
}

impl Pending {
    /// Memory that they take, roughly, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is a row of a table.
    pub(crate) fn has(&self, table: u32) -> bool {
        self.tables.get(&table).is_some_and(|rows| !rows.is_empty())
    }

    pub(crate) fn get(&self, table: u32, row: &RowKey) -> Option<&RowState> {
        self.tables.get(&table)?.get(row)
    }

    /// Takes a row out.
    pub(crate) fn take(&mut self, table: u32, row: &RowKey) -> Option<RowState> {
        let state = self.tables.get_mut(&table)?.remove(row)?;
        self.bytes -= weight(row, &state);
        Some(state)
    }

    pub(crate) fn insert(&mut self, table: u32, row: RowKey, state: RowState) {
        self.bytes += weight(&row, &state);
        match self.tables.entry(table).or_default().entry(row) {
            Entry::Occupied(mut entry) => {
                let old = std::mem::replace(entry.get_mut(), state);
                self.bytes -= weight(entry.key(), &old);
            }
            Entry::Vacant(entry) => {
                entry.insert(state);
            }
        }
    }

    /// The first rows of a table in a range, which must not be one that ends before it begins.
    pub(crate) fn range(&self, table: u32, range: RowRange<'_>, limit: usize) -> Vec<(RowKey, RowState)> {
        let Some(rows) = self.tables.get(&table) else { return Vec::new() };
        rows.range::<str, _>(range).take(limit).map(|(key, state)| (key.clone(), state.clone())).collect()
    }

    /// The rows from a place on, or all, ascending by table and key, each with the memory that it takes.
    pub(crate) fn from(
        &self,
        from: Option<&Place>,
    ) -> impl Iterator<Item = (u32, &RowKey, &RowState, usize)> {
        let first = from.map_or(0, |(table, _)| *table);
        self.tables.range(first..).flat_map(move |(table, rows)| {
            let rows = rows.range((start_in(*table, from), Bound::Unbounded));
            rows.map(|(key, state)| (*table, key, state, weight(key, state)))
        })
    }

    /// Lets go of the rows from a place on, or from the first, up to another, or the last.
    pub(crate) fn forget(&mut self, from: Option<&Place>, to: Option<&Place>) {
        for (table, rows) in &mut self.tables {
            let end = match to {
                Some((last, _)) if last < table => break,
                Some((last, key)) if last == table => Bound::Excluded(key.clone()),
                _ => Bound::Unbounded,
            };
            if from.is_some_and(|(first, _)| table < first) {
                continue;
            }
            for (row, state) in rows.extract_if((start_in(*table, from), end), |_, _| true) {
                self.bytes -= weight(&row, &state);
            }
        }
    }
}

/// Where the rows of a table begin that come at a place or after it.
fn start_in(table: u32, from: Option<&Place>) -> Bound<RowKey> {
    match from {
        Some((first, key)) if *first == table => Bound::Included(key.clone()),
        _ => Bound::Unbounded,
    }
}

/// Memory that a row takes, roughly.
fn weight(row: &RowKey, state: &RowState) -> usize {
    ROW_BYTES + row.as_str().len() + state.bytes()
}

#[cfg(test)]
mod tests {
    use engine::numbering::Numbering;
    use engine::row::RowBuilder;
    use engine::testing::Author;
    use proptest::prelude::*;

    use super::*;

    fn place(n: u8) -> Place {
        (u32::from(n / 8), RowKey::new(&format!("row {}", n % 8)).expect("a key"))
    }

    proptest! {
        #[test]
        fn what_is_let_go_of_is_what_lies_between_and_the_rest_weighs_what_it_did(
            rows in proptest::collection::btree_set(0u8..32, 0..20),
            from in proptest::option::of(0u8..32),
            to in proptest::option::of(0u8..32),
        ) {
            let stamp = engine::commit::Stamp {
                hlc: engine::hlc::Hlc(1),
                dot: engine::identity::Dot { replica: Author::new(0).replica, seq: 1 },
            };
            let state = RowBuilder::new(Some(stamp), None, &Numbering::default(), 0).finish().expect("a row");
            let mut pending = Pending::default();
            let mut kept = Pending::default();
            for n in &rows {
                let (table, row) = place(*n);
                pending.insert(table, row.clone(), state.clone());
                if from.is_some_and(|from| *n < from) || to.is_some_and(|to| *n >= to) {
                    kept.insert(table, row, state.clone());
                }
            }
            let (from, to) = (from.map(place), to.map(place));
            let expected = rows.iter().map(|n| place(*n)).filter(|one| from.as_ref().is_none_or(|from| one >= from));
            let found = pending.from(from.as_ref()).map(|(table, row, _, _)| (table, row.clone()));
            prop_assert!(found.eq(expected));
            pending.forget(from.as_ref(), to.as_ref());
            let all = |pending: &Pending| -> Vec<Place> {
                pending.from(None).map(|(table, row, _, _)| (table, row.clone())).collect()
            };
            prop_assert_eq!((all(&pending), pending.bytes()), (all(&kept), kept.bytes()));
        }
    }
}
