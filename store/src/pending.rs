//! The newest states of rows, in memory, until they are written into the table `rows`.
//!
//! Rows follow from the log, which is durable first; so these may wait, and be written many at a time in the order of
//! their keys. Invariant: what is here replaces what the table has.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use engine::name::RowKey;
use engine::row::RowState;
use engine::store::RowRange;

/// Memory for the entry of a row itself, roughly, in bytes.
const ROW_BYTES: usize = 200;

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

    /// All rows, ascending by table and key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &RowKey, &RowState)> {
        self.tables.iter().flat_map(|(table, rows)| rows.iter().map(|(key, state)| (*table, key, state)))
    }
}

/// Memory that a row takes, roughly.
fn weight(row: &RowKey, state: &RowState) -> usize {
    ROW_BYTES + row.as_str().len() + state.cells().bytes()
}
