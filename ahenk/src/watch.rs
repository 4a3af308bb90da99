//! The stream of changes: each applied operation once, in the order in which this device applied it, from any point on.
//!
//! When a revocation retracts commits, the rows that they wrote come once more, as they are then.
//!
//! Nothing is queued for a watcher: it reads the log at its own pace, so a slow one costs nothing and misses nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use engine::commit::{Op, OpKind, Stamp};
use engine::identity::Dot;
use engine::name::{FieldName, RowKey, TableName};
use engine::store::{Store, StoreError};
use engine::value::Value;
use tokio::sync::watch;

use crate::db::Row;

/// Commits read from the log at a time.
const PAGE: usize = 64;

/// A point in the stream of changes of one database file: everything up to it has been seen. Its text form
/// (`position.operation`) can be kept and parsed again. It means nothing on another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor {
    /// Commits seen completely.
    position: u64,
    /// Operations seen of the commit after those.
    operations: u64,
}

impl Cursor {
    pub(crate) fn after(position: u64) -> Cursor {
        Cursor { position, operations: 0 }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.position, self.operations)
    }
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor looks like 12.0")]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let (position, operations) = text.split_once('.').ok_or(CursorError)?;
        let number = |digits: &str| digits.parse().map_err(|_| CursorError);
        Ok(Cursor { position: number(position)?, operations: number(operations)? })
    }
}

/// One operation that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The point just after this change: watch from here to go on.
    pub cursor: Cursor,
    /// Who wrote it, and when.
    pub stamp: Stamp,
    /// The table.
    pub table: TableName,
    /// The row.
    pub row: RowKey,
    /// What was done.
    pub kind: OpKind,
    /// The fields written. Another write may have come later in the order of writes: see `now`.
    pub fields: BTreeMap<FieldName, Value>,
    /// The row as it is at the time of reading; `None` if it is not there.
    pub now: Option<Row>,
}

/// Why a watch cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cursor lies beyond the end: it is of another database.
    #[error("the cursor {0} is beyond the end of this database's changes")]
    Beyond(Cursor),
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch<S> {
    store: Arc<S>,
    positions: watch::Receiver<u64>,
    cursor: Cursor,
    ready: VecDeque<Change>,
}

impl<S: Store> Watch<S> {
    pub(crate) fn new(store: Arc<S>, positions: watch::Receiver<u64>, cursor: Cursor) -> Self {
        Watch { store, positions, cursor, ready: VecDeque::new() }
    }

    /// The point up to which changes were returned.
    pub fn cursor(&self) -> Cursor {
        self.ready.front().map_or(self.cursor, |_| self.cursor)
    }

    /// The next change; waits for one. `None` when the database has closed and all changes were returned.
    /// Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Change>, WatchError> {
        loop {
            if let Some(change) = self.try_next()? {
                return Ok(Some(change));
            }
            if self.positions.changed().await.is_err() {
                return self.try_next();
            }
        }
    }

    /// The next change, if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Change>, WatchError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                self.cursor = change.cursor;
                return Ok(Some(change));
            }
            let end = *self.positions.borrow_and_update();
            // A page may hold commits that are durable and whose news is still on its way here.
            if self.cursor.position > end && self.store.applied(self.cursor.position, 1)?.is_empty() {
                return Err(WatchError::Beyond(self.cursor));
            }
            if self.cursor.position >= end || !self.read_page()? {
                return Ok(None);
            }
        }
    }

    /// Reads on; false if the log has no more.
    fn read_page(&mut self) -> Result<bool, WatchError> {
        let page = self.store.applied(self.cursor.position + 1, PAGE)?;
        let Some(last) = page.last().map(|stored| stored.position) else { return Ok(false) };
        let mut seen = self.cursor.operations;
        for stored in page {
            if stored.position != self.cursor.position + 1 {
                // The commit that was half seen is retracted: none of the next has been.
                seen = 0;
            }
            let stamp = stored.commit.stamp();
            let ops = match stored.commit.statement {
                Some(_) => self.derived_anew(&stored.commit.dot)?,
                None => stored.commit.ops,
            };
            let count = ops.len() as u64;
            for (index, op) in ops.into_iter().enumerate().skip(seen as usize) {
                let index = index as u64 + 1;
                let cursor = if index == count {
                    Cursor::after(stored.position)
                } else {
                    Cursor { position: stored.position - 1, operations: index }
                };
                let now = self.store.row(&op.table, &op.row)?.as_ref().and_then(Row::of);
                let fields = op.fields.into_iter().collect();
                let (table, row, kind) = (op.table, op.row, op.kind);
                self.ready.push_back(Change { cursor, stamp, table, row, kind, fields, now });
            }
            seen = 0;
        }
        if self.ready.is_empty() {
            // Commits without operations: pass over them.
            self.cursor = Cursor::after(last);
        }
        Ok(true)
    }

    /// What a statement changed: the rows that commits wrote which it retracted, as they are now. Rows of commits that
    /// have left the quarantine since are not known any more.
    fn derived_anew(&self, because: &Dot) -> Result<Vec<Op>, WatchError> {
        let (mut rows, mut after) = (BTreeSet::new(), None);
        loop {
            let page = self.store.quarantine(after.as_ref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.stored.dot());
            let gone = page.into_iter().filter(|one| one.because == *because);
            rows.extend(gone.flat_map(|one| one.stored.commit.ops).map(|op| (op.table, op.row)));
        }
        let op = |(table, row): (TableName, RowKey)| {
            let fields = self.store.row(&table, &row)?.and_then(|state| state.fields());
            let kind = if fields.is_some() { OpKind::Replace } else { OpKind::Delete };
            Ok(Op { table, row, kind, fields: fields.unwrap_or_default().into() })
        };
        rows.into_iter().map(op).collect()
    }
}
