//! What the engine needs from a store, and what it gives to one. The traits stand beside
//! their in-memory twin ([`MemStore`]), and one contract suite (`contract`, feature `testing`) runs over every implementation.
//!
//! Architecture invariants: the log is the truth, rows are derived from it; log, rows, knowledge,
//! membership and ledger change together in one [`Batch`], durable as a whole or not at all.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::commit::{Commit, CommitHash, Deps, Stamp};
use crate::hlc::Hlc;
use crate::identity::{DeviceCert, DeviceId, Dot, ReplicaId, Sig};
use crate::knowledge::Knowledge;
use crate::name::{FieldName, RowKey, TableName};
use crate::numbering::Numbering;
use crate::row::RowState;
use crate::value::Value;
use crate::wire::packed::{PackedColumns, PackedLog};

#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod mem;

pub use mem::MemStore;

/// Why a store could not do what it was asked to. After a failed [`Store::apply`] the engine must be
/// dropped and made anew from what the store recovers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The medium has no room. Nothing was changed.
    #[error("the disk is full")]
    Full,
    /// The database takes as much space as its limit allows. Nothing was changed.
    #[error("the database takes as much space as its limit allows, {bytes_max} bytes")]
    Limit {
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// The medium failed.
    #[error("storage failed: {0}")]
    Io(String),
    /// What is stored makes no sense.
    #[error("the database is damaged: {0}")]
    Corrupt(String),
}

/// A commit as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCommit {
    /// How-manieth commit this store applied, from 1. Local to this store.
    pub position: u64,
    /// The commit.
    pub commit: Commit,
    /// The author's signature, where one is held: always for own commits, else at the end of each received run.
    pub sig: Option<Sig>,
}

/// The newest commit that is applied of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Its sequence number.
    pub seq: u64,
    /// Its hash.
    pub hash: CommitHash,
    /// All that its author had seen up to it: the union of the deps of its commits.
    pub seen: Deps,
}

/// A value that lost a true conflict: the winner's author had not seen it. Kept so that no loss is silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Ascends with each conflict in this store. Local to this store.
    pub id: u64,
    /// The table.
    pub table: TableName,
    /// The row.
    pub row: RowKey,
    /// The field.
    pub field: FieldName,
    /// The value that lost.
    pub value: Value,
    /// Its write.
    pub loser: Stamp,
    /// The write that won.
    pub winner: Stamp,
    /// When this device noticed, in milliseconds since the Unix epoch.
    pub noticed_ms: u64,
}

/// Commits that no longer count: all of a replica from a sequence number on. The store moves them to its quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retraction {
    /// The replica.
    pub replica: ReplicaId,
    /// The first that no longer counts.
    pub from_seq: u64,
    /// The commit whose statement says so.
    pub because: Dot,
}

/// A commit that was applied and then retracted. Kept whole so that nothing is lost silently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The commit as the log held it, its former position included.
    pub stored: StoredCommit,
    /// The commit whose statement retracted it.
    pub because: Dot,
}

/// Everything an engine must know to go on after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The replica that this store last wrote as; `None` in a new store, or if the file may be a copy or
    /// an old state, in which case the engine takes a new incarnation.
    pub replica: Option<ReplicaId>,
    /// The newest applied commit of each replica.
    pub heads: BTreeMap<ReplicaId, Head>,
    /// The last stamp given or taken in.
    pub clock: Hlc,
    /// Certificates of the account's devices.
    pub members: BTreeMap<DeviceId, DeviceCert>,
    /// Commits applied.
    pub position: u64,
    /// State digest: the sum of the digests of all rows, modulo 2^128.
    pub digest: u128,
    /// The id of the next conflict.
    pub conflict_next: u64,
}

impl Recovered {
    /// The knowledge that the heads amount to.
    pub fn knowledge(&self) -> Knowledge {
        let mut knowledge = Knowledge::default();
        for (replica, head) in &self.heads {
            knowledge.insert(*replica, 1, head.seq);
        }
        knowledge
    }
}

/// A change of state that must become durable as a whole before anything that follows from it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The position of the first of `commits`.
    pub position: u64,
    /// Commits newly applied, in the order of application, each with the signature that is held for it.
    pub commits: Vec<(Commit, Option<Sig>)>,
    /// The columns of just these commits, if they came as such: a store may keep them as they are.
    pub columns: Option<PackedColumns>,
    /// What replicas are called in `rows`, and best in all rows that are read later.
    pub numbering: Numbering,
    /// The rows that changed, in their new state, by table, ascending by key. One in the default state is removed: nothing
    /// that stands has written to it.
    pub rows: BTreeMap<TableName, Vec<(RowKey, RowState)>>,
    /// The new heads of the replicas concerned. One with sequence number 0 is removed.
    pub heads: BTreeMap<ReplicaId, Head>,
    /// The replica to write as from now on.
    pub replica: Option<ReplicaId>,
    /// The last stamp given or taken in.
    pub clock: Hlc,
    /// Devices newly known.
    pub members: Vec<DeviceCert>,
    /// The new state digest.
    pub digest: u128,
    /// Conflicts newly found.
    pub conflicts: Vec<Conflict>,
    /// Conflicts with an id below this are to be forgotten.
    pub conflicts_from: u64,
    /// Further conflicts to be forgotten, by id.
    pub conflicts_void: Vec<u64>,
    /// Commits of the log, none of this batch, to be moved to the quarantine. Their positions stay empty.
    pub retractions: Vec<Retraction>,
    /// Signatures to be kept with commits that the log holds.
    pub signatures: Vec<(Dot, Sig)>,
    /// Commits to be dropped from the quarantine, of several of one dot the first. What is not in it is not missed.
    pub released: Vec<Dot>,
}

/// Row keys from and to.
pub type RowRange<'a> = (Bound<&'a str>, Bound<&'a str>);

/// Reads of a store. Each call sees one consistent state; what was applied before the call is in it.
pub trait StoreRead {
    /// What an engine needs to go on.
    fn recover(&self) -> Result<Recovered, StoreError>;

    /// The state of a row, deleted ones included.
    fn row(&self, table: &TableName, row: &RowKey) -> Result<Option<RowState>, StoreError>;

    /// Up to `limit` rows of a table in the range, ascending by key, deleted ones included.
    fn scan(
        &self,
        table: &TableName,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<(RowKey, RowState)>, StoreError>;

    /// The tables that have rows, deleted ones included, ascending.
    fn tables(&self) -> Result<Vec<TableName>, StoreError>;

    /// Commits of a replica from a sequence number on, ascending: at most `commits_max`, and no more after
    /// the first that makes their encodings reach `bytes_max` together.
    fn commits(
        &self,
        replica: &ReplicaId,
        from_seq: u64,
        commits_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredCommit>, StoreError>;

    /// Up to `limit` commits from a position on, in the order in which this store applied them. Positions of
    /// retracted commits are skipped.
    fn applied(&self, from_position: u64, limit: usize) -> Result<Vec<StoredCommit>, StoreError>;

    /// The commits among which the one with this position lies, if the store has them by columns, and each run of them ends in
    /// a signature. A store for which that is no gain has none.
    fn packed(&self, position: u64) -> Result<Option<PackedLog>, StoreError> {
        let _ = position;
        Ok(None)
    }

    /// Up to `limit` conflicts from an id on, ascending.
    fn conflicts(&self, from_id: u64, limit: usize) -> Result<Vec<Conflict>, StoreError>;

    /// Up to `limit` retracted commits after a dot (from the first, without one), ascending by dot. Different commits of
    /// one dot, branches of a fork, come together, in the order in which they were retracted, even beyond the limit.
    fn quarantine(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Quarantined>, StoreError>;

    /// A value that the application of this store keeps for itself, on this device only.
    fn local(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
}

/// A store: shared between the driver, which writes, and any number of readers.
pub trait Store: StoreRead + Send + Sync + 'static {
    /// Applies a batch, durably and as a whole. After an error nothing of it has been applied, or (if the
    /// error came from the very end of making it durable) all of it: reopen and recover to learn which.
    /// A batch that does not continue the log, repeats a commit of it, or signs one that is not in it, is refused.
    fn apply(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Whether there is room for more rows; an error that says why not. Asked before a local write, so that one that
    /// cannot be kept is refused before anything comes of it.
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Makes a store that failed usable again, from what is durable. Reads may fail meanwhile. Not needed (and not
    /// harmful) where a failure leaves nothing behind.
    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Keeps a value on this device only; `None` removes it. Keys have at most 256 bytes.
    fn set_local(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError>;
}

impl Batch {
    /// The rows that changed, each behind the name of its table.
    pub fn rows(&self) -> impl Iterator<Item = (&TableName, &RowKey, &RowState)> {
        self.rows.iter().flat_map(|(table, rows)| rows.iter().map(move |(row, state)| (table, row, state)))
    }
}

impl StoredCommit {
    /// Its name.
    pub fn dot(&self) -> Dot {
        self.commit.dot
    }
}
