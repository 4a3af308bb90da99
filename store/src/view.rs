//! What readers see: one durable state of the file, and the rows at hand, which replace what its table of rows has.
//!
//! Invariant: a [`View`] and the rows beside it are of one batch; both are replaced under one lock.

use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use engine::identity::AccountId;
use engine::name::RowKey;
use engine::row::RowState;
use engine::store::{RowRange, StoreError};
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use crate::chunk::Recent;
use crate::error::redb;
use crate::log::{self, Log};
use crate::names::{self, Names};
use crate::record;
use crate::rows::{Place, Rows};
use crate::schema::{self, Definition, LOG, META, REPLICAS, ROWS, State, TABLES};

pub(crate) type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// One durable state of the file.
pub(crate) struct View {
    txn: ReadTransaction,
    rows: OnceLock<Table>,
    pub(crate) names: Arc<Names>,
    pub(crate) state: State,
    /// Chunks of its log. Another state has the same, unless one of the log's chunks was rewritten in between.
    pub(crate) recent: Arc<Recent>,
}

impl View {
    /// The newest durable state. `names`, `state` and `recent` are those of the batch that was just committed.
    pub(crate) fn new(
        db: &Database,
        names: Arc<Names>,
        state: State,
        recent: Arc<Recent>,
    ) -> Result<View, StoreError> {
        Ok(View { txn: db.begin_read().map_err(redb)?, rows: OnceLock::new(), names, state, recent })
    }

    /// Its log, of the account.
    pub(crate) fn log<'a>(&'a self, account: &'a AccountId) -> Result<Log<'a, Table>, StoreError> {
        Ok(Log { table: self.table(LOG)?, account, recent: &self.recent })
    }

    pub(crate) fn table(&self, definition: Definition) -> Result<Table, StoreError> {
        self.txn.open_table(definition).map_err(redb)
    }

    fn rows(&self) -> Result<&Table, StoreError> {
        if let Some(rows) = self.rows.get() {
            return Ok(rows);
        }
        let opened = self.table(ROWS)?;
        Ok(self.rows.get_or_init(|| opened))
    }

    /// Whether a table has a row in the table of rows.
    pub(crate) fn has_rows(&self, table: u32) -> Result<bool, StoreError> {
        let (from, to) = (record::row_key(table, ""), record::row_key(table + 1, ""));
        Ok(self.rows()?.range(from.as_slice()..to.as_slice()).map_err(redb)?.next().is_some())
    }

    /// A row as the table has it.
    pub(crate) fn stored_row(&self, table: u32, row: &RowKey) -> Result<Option<RowState>, StoreError> {
        let entry = self.rows()?.get(record::row_key(table, row.as_str()).as_slice()).map_err(redb)?;
        entry.map(|entry| record::read_row(entry.value(), &self.names)).transpose()
    }
}

/// What the store has open: the newest view, and rows at hand, all those among them that are not in the table yet.
pub(crate) struct Open {
    pub(crate) view: Arc<View>,
    pub(crate) rows: Rows,
    /// Bytes of the log after the checkpoint: what would have to be replayed.
    pub(crate) tail_bytes: u64,
    /// The sweep that is under way.
    pub(crate) sweep: Option<Sweep>,
    // Last, so that it is dropped last.
    pub(crate) db: Arc<Database>,
}

/// A sweep that has begun. At its end the table has what the log amounted to then.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// The first row that it has not come to.
    pub(crate) next: Place,
    /// The position that the log had when it began.
    pub(crate) position: u64,
    /// Bytes that the log has grown by since.
    pub(crate) bytes: u64,
}

/// A part of a sweep that was written.
#[derive(Debug)]
pub(crate) struct Swept {
    /// The first row that it did not come to; `None` if it came to the end.
    pub(crate) to: Option<Place>,
    /// The position that the log had when the sweep began.
    pub(crate) position: u64,
    /// Whether the rows that it came to are let go of.
    pub(crate) lets_go: bool,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("state", &self.view.state).finish_non_exhaustive()
    }
}

impl Open {
    /// Reads what is needed at hand, and replays the end of the log into rows at hand.
    pub(crate) fn load(db: Database, account: &AccountId) -> Result<Open, StoreError> {
        let txn = db.begin_read().map_err(redb)?;
        let table = |definition| txn.open_table(definition).map_err(redb);
        let names = Arc::new(names::load(&table(REPLICAS)?, &table(TABLES)?)?);
        let state = schema::state(&table(META)?)?;
        let view = View { txn, rows: OnceLock::new(), names, state, recent: Arc::default() };
        let (rows, tail_bytes) = replay(&view, account)?;
        Ok(Open { view: Arc::new(view), rows, tail_bytes, sweep: None, db: Arc::new(db) })
    }
}

impl Open {
    /// After a checkpoint: everything is in the table.
    pub(crate) fn forget_rows(&mut self) {
        self.rows = Rows::default();
        self.tail_bytes = 0;
        self.sweep = None;
    }

    /// After a batch by which the log has grown by so many bytes, and the part of a sweep that was written with it.
    pub(crate) fn grown(&mut self, bytes: u64, swept: Option<Swept>) {
        self.tail_bytes += bytes;
        let bytes = self.sweep.as_ref().map_or(bytes, |sweep| sweep.bytes + bytes);
        let Some(Swept { to, position, lets_go }) = swept else {
            self.sweep.iter_mut().for_each(|sweep| sweep.bytes = bytes);
            return;
        };
        let from = self.sweep.take().map(|sweep| sweep.next);
        if lets_go {
            self.rows.forget(from.as_ref(), to.as_ref());
        } else {
            self.rows.save(from.as_ref(), to.as_ref());
        }
        self.sweep = to.map(|next| Sweep { next, position, bytes });
        if self.sweep.is_none() {
            self.tail_bytes = bytes;
        }
    }
}

/// Applies the commits after the last checkpoint to the rows. Some rows may have what they wrote already, from a sweep that did not
/// reach its end; a write that is applied once more changes nothing.
fn replay(view: &View, account: &AccountId) -> Result<(Rows, u64), StoreError> {
    let mut rows = Rows::default();
    if view.state.checkpoint == view.state.position {
        return Ok((rows, 0));
    }
    let bytes = log::replay(&view.log(account)?, view.state.checkpoint + 1, |commit| {
        for op in &commit.ops {
            let number = view.names.tables.number(&op.table);
            let newer = number.and_then(|number| rows.take(number, &op.row));
            let mut row = match (newer, number) {
                (Some(row), _) => row,
                (None, Some(number)) => view.stored_row(number, &op.row)?.unwrap_or_default(),
                (None, None) => RowState::default(),
            };
            row.apply(commit.stamp(), op, &mut ());
            // A write that leaves nothing behind makes no row.
            if !row.is_untouched() {
                let number = number.ok_or_else(|| StoreError::Corrupt("a table has no number".into()))?;
                rows.insert(number, op.row.clone(), row);
            }
        }
        Ok(())
    })?;
    Ok((rows, bytes))
}

/// Up to `limit` rows of a table in a range, from the table of rows and from the newer ones.
pub(crate) fn scan(
    view: &View,
    number: u32,
    (from, to): RowRange<'_>,
    newer: Vec<(RowKey, RowState)>,
    limit: usize,
) -> Result<Vec<(RowKey, RowState)>, StoreError> {
    let key = |row: &str| record::row_key(number, row);
    let from = match from {
        Bound::Included(row) => Bound::Included(key(row)),
        Bound::Excluded(row) => Bound::Excluded(key(row)),
        Bound::Unbounded => Bound::Included(key("")),
    };
    let to = match to {
        Bound::Included(row) => Bound::Included(key(row)),
        Bound::Excluded(row) => Bound::Excluded(key(row)),
        Bound::Unbounded => Bound::Excluded(record::row_key(number + 1, "")),
    };
    let range = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
    let mut stored = view.rows()?.range::<&[u8]>(range).map_err(redb)?;
    let mut advance = || match stored.next() {
        Some(entry) => {
            let (key, value) = entry.map_err(redb)?;
            Ok(Some((record::split_row_key(key.value())?, value)))
        }
        None => Ok::<_, StoreError>(None),
    };
    let (mut next, mut newer) = (advance()?, newer.into_iter().peekable());
    let mut found = Vec::new();
    while found.len() < limit {
        let older = next.as_ref().map(|(row, _)| row);
        match (older, newer.peek().map(|(row, _)| row)) {
            (None, None) => break,
            (Some(older), new) if new.is_none_or(|new| older < new) => {
                if let Some((row, value)) = next {
                    found.push((row, record::read_row(value.value(), &view.names)?));
                }
                next = advance()?;
            }
            (older, new) => {
                let replaced = older == new;
                found.extend(newer.next());
                if replaced {
                    next = advance()?;
                }
            }
        }
    }
    Ok(found)
}

/// Whether a range ends before it begins.
pub(crate) fn is_empty((from, to): RowRange<'_>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}
