//! A store that notes when it applied what, and is otherwise the store that it wraps: so the time that a device takes comes
//! apart into what happens before the disk, at the disk and after it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use engine::identity::{Dot, ReplicaId};
use engine::name::{RowKey, TableName};
use engine::row::RowState;
use engine::store::{
    Batch, Conflict, Quarantined, Recovered, RowRange, Store, StoreError, StoreRead, StoredCommit,
};
use engine::wire::packed::PackedLog;

/// When a batch was applied.
#[derive(Debug, Clone, Copy)]
pub struct Applied {
    /// Before.
    pub begun: Instant,
    /// It is durable.
    pub durable: Instant,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Timed<S> {
    store: S,
    applied: Mutex<Vec<Applied>>,
}

impl<S> Timed<S> {
    /// Around a store.
    pub fn new(store: S) -> Timed<S> {
        Timed { store, applied: Mutex::default() }
    }

    /// What was applied since the last call.
    pub fn take(&self) -> Vec<Applied> {
        std::mem::take(&mut *self.applied.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Store> StoreRead for Timed<S> {
    fn recover(&self) -> Result<Recovered, StoreError> {
        self.store.recover()
    }

    fn row(&self, table: &TableName, row: &RowKey) -> Result<Option<RowState>, StoreError> {
        self.store.row(table, row)
    }

    fn scan(
        &self,
        table: &TableName,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<(RowKey, RowState)>, StoreError> {
        self.store.scan(table, range, limit)
    }

    fn tables(&self) -> Result<Vec<TableName>, StoreError> {
        self.store.tables()
    }

    fn commits(
        &self,
        replica: &ReplicaId,
        from_seq: u64,
        commits_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredCommit>, StoreError> {
        self.store.commits(replica, from_seq, commits_max, bytes_max)
    }

    fn applied(&self, from_position: u64, limit: usize) -> Result<Vec<StoredCommit>, StoreError> {
        self.store.applied(from_position, limit)
    }

    fn packed(&self, position: u64) -> Result<Option<PackedLog>, StoreError> {
        self.store.packed(position)
    }

    fn conflicts(&self, from_id: u64, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        self.store.conflicts(from_id, limit)
    }

    fn quarantine(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        self.store.quarantine(after, limit)
    }

    fn local(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.local(key)
    }
}

impl<S: Store> Store for Timed<S> {
    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.store.apply(batch)?;
        let applied = Applied { begun, durable: Instant::now() };
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).push(applied);
        Ok(())
    }

    fn room(&self) -> Result<(), StoreError> {
        self.store.room()
    }

    fn reopen(&self) -> Result<(), StoreError> {
        self.store.reopen()
    }

    fn set_local(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        self.store.set_local(key, value)
    }
}
