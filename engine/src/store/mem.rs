//! The store in memory: for tests, simulations and applications that need no durability. Correct by
//! being simple; the reference for the contract suite.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::{Batch, Conflict, Quarantined, Recovered, RowRange, Store, StoreError, StoreRead, StoredCommit};
use crate::commit::Commit;
use crate::identity::{Dot, ReplicaId, Sig};
use crate::name::{RowKey, TableName};
use crate::row::RowState;
use crate::wire::packed::PackedLog;

#[derive(Debug, Clone, Default)]
struct Inner {
    recovered: Recovered,
    rows: BTreeMap<TableName, BTreeMap<RowKey, RowState>>,
    /// By position.
    log: BTreeMap<u64, StoredCommit>,
    /// Positions.
    by_replica: BTreeMap<(ReplicaId, u64), u64>,
    /// By name; where branches of a fork have one, the later ones by their position as well.
    quarantine: BTreeMap<(Dot, u64), Quarantined>,
    conflicts: BTreeMap<u64, Conflict>,
    local: BTreeMap<String, Vec<u8>>,
}

/// A [`Store`] that lives in memory.
#[derive(Debug, Default)]
pub struct MemStore {
    inner: RwLock<Inner>,
    /// So many commits are shown packed together; none, if it is 0.
    packs: u64,
}

impl Clone for MemStore {
    /// A copy that shares nothing with the original, as a backup would be.
    fn clone(&self) -> MemStore {
        MemStore { inner: RwLock::new(self.read().clone()), packs: self.packs }
    }
}

impl MemStore {
    /// An empty store.
    pub fn new() -> MemStore {
        MemStore::default()
    }

    /// Forgets which replica it was written as, as a store does that may be a copy or a backup.
    #[must_use]
    pub fn without_replica(self) -> MemStore {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).recovered.replica = None;
        self
    }

    /// The same as if it had so many commits by columns together, as stores in files have thousands: for tests of what becomes
    /// of these ([`StoreRead::packed`]). Here it is no gain.
    #[must_use]
    pub fn packing(self, commits: u64) -> MemStore {
        MemStore { packs: commits, ..self }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // A writer that panicked has changed nothing: `apply` builds all it can fail on before it writes.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The newest position. Retractions leave it: each comes with a commit that causes it.
    fn position(&self) -> u64 {
        self.log.keys().next_back().copied().unwrap_or(0)
    }

    fn check(&self, batch: &Batch) -> Result<(), StoreError> {
        if batch.position != self.position() + 1 {
            return Err(StoreError::Corrupt("a batch does not continue the log".into()));
        }
        let mut dots = BTreeSet::new();
        for dot in batch.commits.iter().map(|(commit, _)| commit.dot) {
            if self.by_replica.contains_key(&(dot.replica, dot.seq)) || !dots.insert(dot) {
                return Err(StoreError::Corrupt("a batch repeats a commit of the log".into()));
            }
        }
        if batch.signatures.iter().any(|(dot, _)| !self.by_replica.contains_key(&(dot.replica, dot.seq))) {
            return Err(StoreError::Corrupt("a batch signs a commit that is not in the log".into()));
        }
        Ok(())
    }

    fn retract(&mut self, batch: &Batch) {
        for (dot, sig) in &batch.signatures {
            let position = self.by_replica.get(&(dot.replica, dot.seq));
            if let Some(stored) = position.and_then(|position| self.log.get_mut(position)) {
                stored.sig = Some(*sig);
            }
        }
        for retraction in &batch.retractions {
            let from = (retraction.replica, retraction.from_seq);
            let range = self.by_replica.range(from..=(retraction.replica, u64::MAX));
            let gone: Vec<_> = range.map(|(dot, position)| (*dot, *position)).collect();
            for (dot, position) in gone {
                self.by_replica.remove(&dot);
                if let Some(stored) = self.log.remove(&position) {
                    let quarantined = Quarantined { stored, because: retraction.because };
                    let first = (quarantined.stored.commit.dot, 0);
                    let key = if self.quarantine.contains_key(&first) { (first.0, position) } else { first };
                    self.quarantine.insert(key, quarantined);
                }
            }
        }
        for dot in &batch.released {
            let found = self.quarantine.range((*dot, 0)..=(*dot, u64::MAX)).next().map(|(key, _)| *key);
            found.map(|key| self.quarantine.remove(&key));
        }
    }
}

impl StoreRead for MemStore {
    fn recover(&self) -> Result<Recovered, StoreError> {
        let inner = self.read();
        let mut recovered = inner.recovered.clone();
        recovered.position = inner.position();
        recovered.conflict_next = recovered.conflict_next.max(1);
        Ok(recovered)
    }

    fn row(&self, table: &TableName, row: &RowKey) -> Result<Option<RowState>, StoreError> {
        Ok(self.read().rows.get(table).and_then(|rows| rows.get(row)).cloned())
    }

    fn scan(
        &self,
        table: &TableName,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<(RowKey, RowState)>, StoreError> {
        if range_is_empty(range) {
            return Ok(Vec::new());
        }
        let inner = self.read();
        let Some(rows) = inner.rows.get(table) else { return Ok(Vec::new()) };
        Ok(rows.range::<str, _>(range).take(limit).map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    fn tables(&self) -> Result<Vec<TableName>, StoreError> {
        Ok(self.read().rows.keys().cloned().collect())
    }

    fn commits(
        &self,
        replica: &ReplicaId,
        from_seq: u64,
        commits_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredCommit>, StoreError> {
        let inner = self.read();
        let mut bytes = 0;
        let mut found = Vec::new();
        for (_, position) in
            inner.by_replica.range((*replica, from_seq)..=(*replica, u64::MAX)).take(commits_max)
        {
            let Some(stored) = inner.log.get(position).cloned() else { break };
            bytes += stored.commit.encoded_len();
            found.push(stored);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(found)
    }

    fn applied(&self, from_position: u64, limit: usize) -> Result<Vec<StoredCommit>, StoreError> {
        Ok(self.read().log.range(from_position..).take(limit).map(|(_, stored)| stored.clone()).collect())
    }

    fn packed(&self, position: u64) -> Result<Option<PackedLog>, StoreError> {
        let Some(before) = position.saturating_sub(1).checked_rem(self.packs) else { return Ok(None) };
        let first = position - before;
        let inner = self.read();
        let mut commits: Vec<(&Commit, Option<Sig>)> = Vec::new();
        for (at, (found, stored)) in (first..).zip(inner.log.range(first..first.saturating_add(self.packs))) {
            if at != *found {
                break;
            }
            commits.push((&stored.commit, stored.sig));
        }
        Ok(PackedLog::of(first, &commits).filter(|packed| packed.end > position))
    }

    fn conflicts(&self, from_id: u64, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        Ok(self.read().conflicts.range(from_id..).take(limit).map(|(_, conflict)| conflict.clone()).collect())
    }

    fn quarantine(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        let from = after.map_or(Bound::Unbounded, |dot| Bound::Excluded((*dot, u64::MAX)));
        let mut found: Vec<Quarantined> = Vec::new();
        for (key, one) in self.read().quarantine.range((from, Bound::Unbounded)) {
            if found.len() >= limit && found.last().is_none_or(|last| last.stored.dot() != key.0) {
                break;
            }
            found.push(one.clone());
        }
        Ok(found)
    }

    fn local(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().local.get(key).cloned())
    }
}

/// True for ranges that `BTreeMap::range` would panic on.
fn range_is_empty((from, to): RowRange<'_>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}

impl Store for MemStore {
    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        inner.check(batch)?;
        for (position, (commit, sig)) in (batch.position..).zip(&batch.commits) {
            inner.by_replica.insert((commit.dot.replica, commit.dot.seq), position);
            inner.log.insert(position, StoredCommit { position, commit: commit.clone(), sig: *sig });
        }
        inner.retract(batch);
        for (table, changed) in &batch.rows {
            let rows = inner.rows.entry(table.clone()).or_default();
            for (row, state) in changed {
                if state.is_untouched() {
                    rows.remove(row);
                } else {
                    rows.insert(row.clone(), state.clone());
                }
            }
            if rows.is_empty() {
                inner.rows.remove(table);
            }
        }
        let recovered = &mut inner.recovered;
        recovered.heads.extend(batch.heads.iter().map(|(replica, head)| (*replica, head.clone())));
        recovered.heads.retain(|_, head| head.seq > 0);
        recovered.replica = batch.replica.or(recovered.replica);
        recovered.clock = batch.clock;
        recovered.digest = batch.digest;
        recovered.members.extend(batch.members.iter().map(|cert| (cert.device(), cert.clone())));
        for conflict in &batch.conflicts {
            recovered.conflict_next = conflict.id + 1;
            inner.conflicts.insert(conflict.id, conflict.clone());
        }
        let old = |conflicts: &BTreeMap<u64, Conflict>| {
            conflicts.first_key_value().is_some_and(|(id, _)| *id < batch.conflicts_from)
        };
        while old(&inner.conflicts) {
            inner.conflicts.pop_first();
        }
        batch.conflicts_void.iter().for_each(|id| drop(inner.conflicts.remove(id)));
        Ok(())
    }

    fn set_local(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => inner.local.insert(key.to_owned(), value.to_owned()),
            None => inner.local.remove(key),
        };
        Ok(())
    }
}
