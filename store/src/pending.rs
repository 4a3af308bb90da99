//! The newest states of rows, in memory, until they are written into the table `rows`.
//!
//! Rows follow from the log, which is durable first; so these may wait, and be written many at a time in the order of
//! their keys. Invariant: what is here replaces what the table has.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::name::RowKey;
use engine::row::RowState;
use engine::store::RowRange;
use engine::value::Value;

/// Memory for the entry of a row itself, roughly, in bytes.
const ROW_BYTES: usize = 160;
/// Memory for the entry of a field itself, roughly, in bytes.
const FIELD_BYTES: usize = 160;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// By number of the table.
    tables: BTreeMap<u32, BTreeMap<RowKey, Row>>,
    /// Memory that they take, roughly.
    bytes: usize,
}

#[derive(Debug)]
struct Row {
    state: Arc<RowState>,
    /// Memory that it takes, roughly, in bytes: counted once, as that looks at every field.
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

    pub(crate) fn get(&self, table: u32, row: &RowKey) -> Option<&Arc<RowState>> {
        self.tables.get(&table)?.get(row).map(|row| &row.state)
    }

    /// Takes a row out.
    pub(crate) fn take(&mut self, table: u32, row: &RowKey) -> Option<Arc<RowState>> {
        let row = self.tables.get_mut(&table)?.remove(row)?;
        self.bytes -= row.bytes;
        Some(row.state)
    }

    pub(crate) fn insert(&mut self, table: u32, row: RowKey, state: Arc<RowState>) {
        let bytes = weight(&row, &state);
        self.bytes += bytes;
        if let Some(old) = self.tables.entry(table).or_default().insert(row, Row { state, bytes }) {
            self.bytes -= old.bytes;
        }
    }

    /// The first rows of a table in a range, which must not be one that ends before it begins.
    pub(crate) fn range(
        &self,
        table: u32,
        range: RowRange<'_>,
        limit: usize,
    ) -> Vec<(RowKey, Arc<RowState>)> {
        let Some(rows) = self.tables.get(&table) else { return Vec::new() };
        rows.range::<str, _>(range).take(limit).map(|(key, row)| (key.clone(), row.state.clone())).collect()
    }

    /// All rows, ascending by table and key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &RowKey, &RowState)> {
        self.tables.iter().flat_map(|(table, rows)| rows.iter().map(|(key, row)| (*table, key, &*row.state)))
    }
}

/// Memory that a row takes, roughly.
fn weight(row: &RowKey, state: &RowState) -> usize {
    let fields =
        state.cells().iter().map(|(name, cell)| FIELD_BYTES + name.as_str().len() + value_bytes(&cell.value));
    ROW_BYTES + row.as_str().len() + fields.sum::<usize>()
}

fn value_bytes(value: &Value) -> usize {
    let inner = match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.iter().map(value_bytes).sum(),
        Value::Map(entries) => entries.iter().map(|(key, value)| 32 + key.len() + value_bytes(value)).sum(),
    };
    size_of::<Value>() + inner
}
