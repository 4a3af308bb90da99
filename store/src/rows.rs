//! The newest states of rows, in memory: those that wait to be written into the table `rows`, and, as far as there is room,
//! those that were written and are *saved*, so that who writes to them again need not read them from there.
//!
//! Rows follow from the log, which is durable first; so they may wait, and be written many at a time in the order of
//! their keys. Invariants: what is here replaces what the table has; what is saved is the same there.
//!
//! A *sweep* goes through them in the order of their keys and saves a part with each batch. It begins when the log has grown, so that
//! not too much of it would have to be replayed, and ends with the last row; then the table has what the log amounted to when it
//! began. When rows take too much memory, a sweep lets go of those that it passes: so there are always nearly as many as
//! there may be. A batch rewrites a part of the table's pages, not all of them at once, and rows that are written again and
//! again are saved once in a sweep.

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, RangeBounds};

use engine::name::RowKey;
use engine::planted::{self, Bug};
use engine::row::RowState;
use engine::store::RowRange;

/// Memory for the entry of a row itself, roughly, in bytes.
const ROW_BYTES: usize = 160;

/// A row, by the number of its table and its key.
pub(crate) type Place = (u32, RowKey);

/// A row at hand.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) state: RowState,
    /// Whether the table has it in this state.
    pub(crate) saved: bool,
}

/// The rows of one table. In a hash table, because with many of them each step of a search in a tree waits for memory, and most
/// that are written to are there already.
#[derive(Debug, Default)]
struct Table {
    rows: HashMap<RowKey, Row>,
    /// The keys in their order. Nothing is ever done in that of the hash table.
    order: BTreeSet<RowKey>,
}

impl Table {
    fn range<T: ?Sized + Ord>(&self, range: impl RangeBounds<T>) -> impl Iterator<Item = (&RowKey, &Row)>
    where
        RowKey: Borrow<T>,
    {
        self.order.range(range).filter_map(|key| Some((key, self.rows.get::<RowKey>(key)?)))
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// By number of the table.
    tables: BTreeMap<u32, Table>,
    /// Memory that they take, roughly.
    bytes: usize,
    /// Memory that those take of them that are not saved.
    unsaved_bytes: usize,
}

impl Rows {
    /// Memory that they take, roughly, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory that those take of them that the table does not have yet, roughly, in bytes.
    pub(crate) fn unsaved_bytes(&self) -> usize {
        self.unsaved_bytes
    }

    /// Whether there is a row of a table.
    pub(crate) fn has(&self, table: u32) -> bool {
        self.tables.get(&table).is_some_and(|table| !table.rows.is_empty())
    }

    pub(crate) fn get(&self, table: u32, row: &RowKey) -> Option<&RowState> {
        self.tables.get(&table)?.rows.get(row).map(|row| &row.state)
    }

    /// Takes a row out.
    pub(crate) fn take(&mut self, table: u32, row: &RowKey) -> Option<RowState> {
        let table = self.tables.get_mut(&table)?;
        let taken = table.rows.remove(row)?;
        table.order.remove(row);
        self.without(row, &taken);
        Some(taken.state)
    }

    /// Puts a row in a state that the table does not have.
    pub(crate) fn insert(&mut self, table: u32, key: RowKey, state: RowState) {
        let bytes = weight(&key, &state);
        self.bytes += bytes;
        self.unsaved_bytes += bytes;
        let mut row = Row { state, saved: false };
        let Table { rows, order } = self.tables.entry(table).or_default();
        match rows.entry(key) {
            Entry::Occupied(mut entry) => {
                row.saved = entry.get().saved && planted::is(Bug::SavedStays);
                let old = std::mem::replace(entry.get_mut(), row);
                let bytes = weight(entry.key(), &old.state);
                self.bytes -= bytes;
                self.unsaved_bytes -= if old.saved { 0 } else { bytes };
            }
            Entry::Vacant(entry) => {
                order.insert(entry.key().clone());
                entry.insert(row);
            }
        }
    }

    fn without(&mut self, key: &RowKey, row: &Row) {
        let bytes = weight(key, &row.state);
        self.bytes -= bytes;
        self.unsaved_bytes -= if row.saved { 0 } else { bytes };
    }

    /// The first rows of a table in a range, which must not be one that ends before it begins.
    pub(crate) fn range(&self, table: u32, range: RowRange<'_>, limit: usize) -> Vec<(RowKey, RowState)> {
        let Some(table) = self.tables.get(&table) else { return Vec::new() };
        table.range::<str>(range).take(limit).map(|(key, row)| (key.clone(), row.state.clone())).collect()
    }

    /// The rows from a place on, or all, ascending by table and key, each with the memory that it takes.
    pub(crate) fn from(&self, from: Option<&Place>) -> impl Iterator<Item = (u32, &RowKey, &Row, usize)> {
        let first = from.map_or(0, |(table, _)| *table);
        self.tables.range(first..).flat_map(move |(number, table)| {
            let rows = table.range::<RowKey>((start_in(*number, from), Bound::Unbounded));
            rows.map(|(key, row)| (*number, key, row, weight(key, &row.state)))
        })
    }

    /// Notes that the rows from a place on, or from the first, up to another, or the last, are saved.
    pub(crate) fn save(&mut self, from: Option<&Place>, to: Option<&Place>) {
        for (number, Table { rows, order }) in &mut self.tables {
            let Some(range) = range_in(*number, from, to) else { continue };
            for key in order.range(range) {
                let Some(row) = rows.get_mut(key).filter(|row| !row.saved) else { continue };
                row.saved = true;
                self.unsaved_bytes -= weight(key, &row.state);
            }
        }
    }

    /// Lets go of the rows from a place on, or from the first, up to another, or the last.
    pub(crate) fn forget(&mut self, from: Option<&Place>, to: Option<&Place>) {
        self.save(from, to);
        for (number, Table { rows, order }) in &mut self.tables {
            let Some(range) = range_in(*number, from, to) else { continue };
            for key in order.extract_if(range, |_| true) {
                let Some(row) = rows.remove(&key) else { continue };
                self.bytes -= weight(&key, &row.state);
            }
        }
    }
}

/// Which keys of a table lie from a place on and before another. `None` if the table does not.
fn range_in(table: u32, from: Option<&Place>, to: Option<&Place>) -> Option<(Bound<RowKey>, Bound<RowKey>)> {
    let end = match to {
        Some((last, _)) if *last < table => return None,
        Some((last, key)) if *last == table => Bound::Excluded(key.clone()),
        _ => Bound::Unbounded,
    };
    let begins = from.is_none_or(|(first, _)| table >= *first);
    begins.then(|| (start_in(table, from), end))
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
        fn what_is_saved_or_let_go_of_is_what_lies_between_and_the_rest_weighs_what_it_did(
            rows in proptest::collection::btree_set(0u8..32, 0..20),
            from in proptest::option::of(0u8..32),
            to in proptest::option::of(0u8..32),
        ) {
            let (from, to) = if to.is_some() && from > to { (to, from) } else { (from, to) };
            let stamp = engine::commit::Stamp {
                hlc: engine::hlc::Hlc(1),
                dot: engine::identity::Dot { replica: Author::new(0).replica, seq: 1 },
            };
            let state = RowBuilder::new(Some(stamp), None, &Numbering::default(), 0).finish().expect("a row");
            let (mut at_hand, mut kept, mut saved) = (Rows::default(), Rows::default(), Rows::default());
            for n in &rows {
                let (table, row) = place(*n);
                at_hand.insert(table, row.clone(), state.clone());
                saved.insert(table, row.clone(), state.clone());
                if from.is_some_and(|from| *n < from) || to.is_some_and(|to| *n >= to) {
                    kept.insert(table, row, state.clone());
                }
            }
            let (from, to) = (from.map(place), to.map(place));
            let expected = rows.iter().map(|n| place(*n)).filter(|one| from.as_ref().is_none_or(|from| one >= from));
            let found = at_hand.from(from.as_ref()).map(|(table, row, _, _)| (table, row.clone()));
            prop_assert!(found.eq(expected));
            let all = |rows: &Rows| -> Vec<Place> {
                rows.from(None).map(|(table, row, _, _)| (table, row.clone())).collect()
            };
            saved.save(from.as_ref(), to.as_ref());
            prop_assert_eq!((all(&saved), saved.bytes()), (all(&at_hand), at_hand.bytes()));
            let unsaved = saved.from(None).filter(|(_, _, row, _)| !row.saved);
            prop_assert!(unsaved.map(|(table, row, _, _)| (table, row.clone())).eq(all(&kept)));
            prop_assert_eq!((saved.unsaved_bytes(), kept.unsaved_bytes()), (kept.bytes(), kept.bytes()));
            at_hand.forget(from.as_ref(), to.as_ref());
            prop_assert_eq!((all(&at_hand), at_hand.bytes()), (all(&kept), kept.bytes()));
            prop_assert_eq!(at_hand.unsaved_bytes(), kept.bytes());
            // What is written to again is no longer saved, and what is taken out weighs nothing.
            for n in rows {
                let (table, row) = place(n);
                saved.insert(table, row, state.clone());
            }
            prop_assert_eq!(saved.unsaved_bytes(), saved.bytes());
            for (table, row) in all(&saved) {
                prop_assert!(saved.take(table, &row).is_some());
            }
            prop_assert_eq!((saved.bytes(), saved.unsaved_bytes()), (0, 0));
        }
    }
}
