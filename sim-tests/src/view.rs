//! What the oracles of harness P see of a store, and how it may be spoilt to show that they look.

use engine::identity::Dot;
use engine::name::{RowKey, TableName};
use engine::row::RowState;
use engine::store::{Conflict, Quarantined, Recovered, RowRange, StoreError, StoreRead, StoredCommit};

/// Something that a store is made to get wrong, to show that the oracles notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The device shows its rows as if they had never been written.
    LosesRows {
        /// The device.
        node: usize,
    },
    /// The device brings deleted rows back.
    ForgetsDeletes {
        /// The device.
        node: usize,
    },
    /// The device's log lacks its newest commit.
    ForgetsCommit {
        /// The device.
        node: usize,
    },
    /// The device applies commits in another order than it says.
    SwapsCommits {
        /// The device.
        node: usize,
    },
    /// The device loses one row of two that were written together.
    TearsPairs {
        /// The device.
        node: usize,
    },
}

impl Sabotage {
    pub(crate) fn node(self) -> usize {
        match self {
            Sabotage::LosesRows { node }
            | Sabotage::ForgetsDeletes { node }
            | Sabotage::ForgetsCommit { node }
            | Sabotage::SwapsCommits { node }
            | Sabotage::TearsPairs { node } => node,
        }
    }
}

/// A store as the oracles see it.
pub(crate) struct View<'a> {
    pub(crate) store: &'a dyn StoreRead,
    pub(crate) sabotage: Option<Sabotage>,
}

impl View<'_> {
    fn spoil(&self, row: &RowKey, state: RowState) -> Option<RowState> {
        match self.sabotage {
            Some(Sabotage::LosesRows { .. }) => None,
            Some(Sabotage::TearsPairs { .. }) if row.as_str() == crate::PAIR[1] => None,
            Some(Sabotage::ForgetsDeletes { .. }) if state.del().is_some() => {
                RowState::from_parts(state.del().max(state.ins()), None, state.cells().clone())
            }
            _ => Some(state),
        }
    }
}

impl StoreRead for View<'_> {
    fn recover(&self) -> Result<Recovered, StoreError> {
        self.store.recover()
    }

    fn row(&self, table: &TableName, row: &RowKey) -> Result<Option<RowState>, StoreError> {
        Ok(self.store.row(table, row)?.and_then(|state| self.spoil(row, state)))
    }

    fn scan(
        &self,
        table: &TableName,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<(RowKey, RowState)>, StoreError> {
        let rows = self.store.scan(table, range, limit)?.into_iter();
        Ok(rows.filter_map(|(row, state)| self.spoil(&row, state).map(|state| (row, state))).collect())
    }

    fn tables(&self) -> Result<Vec<TableName>, StoreError> {
        self.store.tables()
    }

    fn commits(
        &self,
        replica: &engine::identity::ReplicaId,
        from_seq: u64,
        commits_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredCommit>, StoreError> {
        self.store.commits(replica, from_seq, commits_max, bytes_max)
    }

    fn applied(&self, from_position: u64, limit: usize) -> Result<Vec<StoredCommit>, StoreError> {
        let mut found = self.store.applied(from_position, limit)?;
        match self.sabotage {
            Some(Sabotage::ForgetsCommit { .. }) if found.last().is_some_and(|last| last.position > 1) => {
                found.pop();
            }
            Some(Sabotage::SwapsCommits { .. }) => {
                let turned = found.iter().rev().map(|stored| stored.commit.clone()).collect::<Vec<_>>();
                found.iter_mut().zip(turned).for_each(|(stored, commit)| stored.commit = commit);
            }
            _ => {}
        }
        Ok(found)
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
