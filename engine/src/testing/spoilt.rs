//! [`Spoilt`]: a store before another one, which hands everything on but what its [`Spoil`] changes. For tests that need a
//! store to fail, to be full, or to show something else than it holds.

use std::ops::Deref;

use crate::identity::{Dot, ReplicaId};
use crate::name::{RowKey, TableName};
use crate::row::RowState;
use crate::store::{
    Batch, Conflict, Quarantined, Recovered, RowRange, Store, StoreError, StoreRead, StoredCommit,
};
use crate::wire::packed::PackedLog;

/// What is done to a store. Nothing, where a method is not given.
pub trait Spoil {
    /// A row as it is shown.
    fn row(&self, row: &RowKey, state: RowState) -> Option<RowState> {
        let _ = row;
        Some(state)
    }

    /// Changes a part of the log before it is shown.
    fn applied(&self, found: &mut Vec<StoredCommit>) {
        let _ = found;
    }

    /// Whether there is room for more rows in a store; the rest of it is asked next.
    fn room(&self, store: &dyn StoreRead) -> Result<(), StoreError> {
        let _ = store;
        Ok(())
    }

    /// Whether a store takes a batch; the rest of it is asked next.
    fn apply(&self, store: &dyn StoreRead, batch: &Batch) -> Result<(), StoreError> {
        let _ = (store, batch);
        Ok(())
    }

    /// A batch was taken; nobody knows yet.
    fn took(&self, batch: &Batch) {
        let _ = batch;
    }

    /// Whether it opens again.
    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// See the module's documentation. `S` points to the store behind.
#[derive(Debug, Clone, Default)]
pub struct Spoilt<S, P> {
    /// The store behind.
    pub store: S,
    /// What is done to it.
    pub spoil: P,
}

impl<S: Deref<Target: StoreRead>, P: Spoil> StoreRead for Spoilt<S, P> {
    fn recover(&self) -> Result<Recovered, StoreError> {
        self.store.recover()
    }

    fn row(&self, table: &TableName, row: &RowKey) -> Result<Option<RowState>, StoreError> {
        Ok(self.store.row(table, row)?.and_then(|state| self.spoil.row(row, state)))
    }

    fn scan(
        &self,
        table: &TableName,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<(RowKey, RowState)>, StoreError> {
        let rows = self.store.scan(table, range, limit)?.into_iter();
        Ok(rows
            .filter_map(|(row, state)| {
                let state = self.spoil.row(&row, state)?;
                Some((row, state))
            })
            .collect())
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
        let mut found = self.store.applied(from_position, limit)?;
        self.spoil.applied(&mut found);
        Ok(found)
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

impl<S, P> Store for Spoilt<S, P>
where
    S: Deref<Target: Store + Sized> + Send + Sync + 'static,
    P: Spoil + Send + Sync + 'static,
{
    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.spoil.apply(&*self.store, batch)?;
        self.store.apply(batch)?;
        self.spoil.took(batch);
        Ok(())
    }

    fn room(&self) -> Result<(), StoreError> {
        self.spoil.room(&*self.store)?;
        self.store.room()
    }

    fn reopen(&self) -> Result<(), StoreError> {
        self.spoil.reopen()?;
        self.store.reopen()
    }

    fn set_local(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        self.store.set_local(key, value)
    }
}
