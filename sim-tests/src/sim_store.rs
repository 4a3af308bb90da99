//! The real store on a simulated disk, which can be opened again in place after a failure, as one in a file can, and
//! which forgets its replica on a disk whose content is a copy, as the guard beside a file has it.

use std::sync::{Arc, PoisonError, RwLock};

use engine::identity::{AccountId, Dot, ReplicaId};
use engine::name::{RowKey, TableName};
use engine::row::RowState;
use engine::store::{
    Batch, Conflict, Quarantined, Recovered, RowRange, Store, StoreError, StoreRead, StoredCommit,
};
use engine::wire::packed::PackedLog;
use store::{OpenError, RedbStore};

use crate::disk::SimDisk;
use crate::recorder::Recording;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct SimStore {
    disk: SimDisk,
    account: AccountId,
    /// See [`crate::plan::Knobs::checkpoint_bytes`].
    checkpoint_bytes: u64,
    /// Empty only if opening again failed.
    store: RwLock<Option<Arc<RedbStore>>>,
    /// Whose it is, and where its batches are noted, if they are.
    recording: Option<(usize, Recording)>,
}

impl SimStore {
    pub(crate) fn open(
        disk: SimDisk,
        account: AccountId,
        checkpoint_bytes: u64,
    ) -> Result<SimStore, OpenError> {
        let store = database(&disk, account, checkpoint_bytes)?;
        let store = RwLock::new(Some(Arc::new(store)));
        Ok(SimStore { disk, account, checkpoint_bytes, store, recording: None })
    }

    /// Has a machine's batches noted.
    pub(crate) fn recorded(self, node: usize, recording: Option<Recording>) -> SimStore {
        SimStore { recording: recording.map(|recording| (node, recording)), ..self }
    }

    /// Closes the database now, whoever else still holds it.
    pub(crate) fn close(&self) {
        if let Ok(store) = self.get() {
            store.close();
        }
    }

    fn get(&self) -> Result<Arc<RedbStore>, StoreError> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner).clone();
        store.ok_or_else(|| StoreError::Io("the database is not open".into()))
    }
}

fn database(disk: &SimDisk, account: AccountId, checkpoint_bytes: u64) -> Result<RedbStore, OpenError> {
    let store = RedbStore::with_backend(disk.attach(), account)?;
    if checkpoint_bytes == 0 {
        return Ok(store);
    }
    let rows_bytes = usize::try_from(checkpoint_bytes).unwrap_or(usize::MAX);
    Ok(store.with_checkpoint_at(rows_bytes, checkpoint_bytes.saturating_mul(4)))
}

impl StoreRead for SimStore {
    fn recover(&self) -> Result<Recovered, StoreError> {
        let recovered = self.get()?.recover()?;
        Ok(Recovered { replica: recovered.replica.filter(|_| !self.disk.is_copy()), ..recovered })
    }

    fn row(&self, table: &TableName, row: &RowKey) -> Result<Option<RowState>, StoreError> {
        self.get()?.row(table, row)
    }

    fn scan(
        &self,
        table: &TableName,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<(RowKey, RowState)>, StoreError> {
        self.get()?.scan(table, range, limit)
    }

    fn tables(&self) -> Result<Vec<TableName>, StoreError> {
        self.get()?.tables()
    }

    fn commits(
        &self,
        replica: &ReplicaId,
        from_seq: u64,
        commits_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredCommit>, StoreError> {
        self.get()?.commits(replica, from_seq, commits_max, bytes_max)
    }

    fn applied(&self, from_position: u64, limit: usize) -> Result<Vec<StoredCommit>, StoreError> {
        self.get()?.applied(from_position, limit)
    }

    fn packed(&self, position: u64) -> Result<Option<PackedLog>, StoreError> {
        self.get()?.packed(position)
    }

    fn conflicts(&self, from_id: u64, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        self.get()?.conflicts(from_id, limit)
    }

    fn quarantine(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        self.get()?.quarantine(after, limit)
    }

    fn local(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.get()?.local(key)
    }
}

impl Store for SimStore {
    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let result = self.get()?.apply(batch);
        if let Some((node, recording)) = &self.recording {
            recording.applied(*node, batch, result.is_ok());
        }
        result?;
        if batch.replica.is_some() {
            self.disk.is_own();
        }
        Ok(())
    }

    fn set_local(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        self.get()?.set_local(key, value)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.store.write().unwrap_or_else(PoisonError::into_inner);
        // The old one must be gone before the new one reads.
        *slot = None;
        let store = database(&self.disk, self.account, self.checkpoint_bytes);
        *slot = Some(Arc::new(store.map_err(|error| StoreError::Io(error.to_string()))?));
        Ok(())
    }
}
