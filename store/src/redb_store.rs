//! [`RedbStore`]: the engine's store traits over one redb database.
//!
//! Architecture invariants: a batch is one write transaction, durable when `apply` returns; each read is
//! one snapshot; log and rows are written in key order.

use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use engine::identity::{AccountId, Dot, ReplicaId};
use engine::name::{RowKey, TableName};
use engine::row::RowState;
use engine::store::{
    Batch, Conflict, Quarantined, Recovered, RowRange, Store, StoreError, StoreRead, StoredCommit,
};
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use crate::error::redb;
use crate::names::{self, Names, replica_number, table_number};
use crate::record::{self, LogRecord};
use crate::schema::{
    self, CONFLICTS, Definition, HEADS, LOCAL, LOG, MEMBERS, META, META_STATE, POSITIONS, QUARANTINE,
    REPLICAS, ROWS, TABLES,
};

pub(crate) type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// A durable store in one file. Shared by reference: reads run beside each other and beside the one
/// writer, each on its own snapshot.
///
/// After a failed write the store refuses further writes until [`Store::reopen`].
#[derive(Debug)]
pub struct RedbStore {
    /// Empty only if reopening failed.
    db: RwLock<Option<Arc<Database>>>,
    /// Where to reopen it.
    path: Option<PathBuf>,
    account: AccountId,
    names: RwLock<Arc<Names>>,
}

/// One consistent state of the database.
struct Snapshot {
    txn: ReadTransaction,
    names: Arc<Names>,
}

impl Snapshot {
    fn table(&self, definition: Definition) -> Result<Table, StoreError> {
        self.txn.open_table(definition).map_err(redb)
    }
}

impl RedbStore {
    /// Takes over a database whose header has been checked.
    pub(crate) fn attach(
        db: Database,
        path: Option<PathBuf>,
        account: AccountId,
    ) -> Result<RedbStore, StoreError> {
        let names = RwLock::new(Arc::new(load_names(&db)?));
        Ok(RedbStore { db: RwLock::new(Some(Arc::new(db))), path, account, names })
    }

    pub(crate) fn db(&self) -> Result<Arc<Database>, StoreError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner).clone();
        db.ok_or_else(|| StoreError::Io("the database could not be reopened after a failed write".into()))
    }

    /// The account whose data this is.
    pub fn account(&self) -> AccountId {
        self.account
    }

    fn names(&self) -> Arc<Names> {
        // Nothing that can panic runs under this lock.
        self.names.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, names: Arc<Names>) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        // In this order the names cover the snapshot.
        let txn = self.db()?.begin_read().map_err(redb)?;
        Ok(Snapshot { txn, names: self.names() })
    }

    fn stored(&self, log: &Table, names: &Names, key: &[u8]) -> Result<StoredCommit, StoreError> {
        let (replica, seq) = record::split_dot_key(key)?;
        let replica = names.replica(replica).map_err(crate::error::damaged("a commit's key"))?;
        let entry = log.get(key).map_err(redb)?;
        let entry = entry.ok_or_else(|| StoreError::Corrupt("a position has no commit".into()))?;
        LogRecord::read(entry.value())?.decode(&self.account, Dot { replica, seq })
    }
}

fn load_names(db: &Database) -> Result<Names, StoreError> {
    let txn = db.begin_read().map_err(redb)?;
    names::load(&txn.open_table(REPLICAS).map_err(redb)?, &txn.open_table(TABLES).map_err(redb)?)
}

fn last_position(positions: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<u64, StoreError> {
    positions.last().map_err(redb)?.map_or(Ok(0), |(key, _)| record::u64_key(key.value()))
}

impl StoreRead for RedbStore {
    fn recover(&self) -> Result<Recovered, StoreError> {
        let snapshot = self.snapshot()?;
        let state = schema::state(&snapshot.table(META)?)?;
        let mut recovered = Recovered {
            replica: state.replica,
            clock: state.clock,
            digest: state.digest,
            conflict_next: state.conflict_next,
            position: last_position(&snapshot.table(POSITIONS)?)?,
            ..Recovered::default()
        };
        for entry in snapshot.table(HEADS)?.iter().map_err(redb)? {
            let (key, value) = entry.map_err(redb)?;
            let replica = snapshot.names.replica(record::u32_key(key.value())?);
            let replica = replica.map_err(crate::error::damaged("a head"))?;
            recovered.heads.insert(replica, record::read_head(value.value(), &snapshot.names)?);
        }
        for entry in snapshot.table(MEMBERS)?.iter().map_err(redb)? {
            let cert = record::read_member(entry.map_err(redb)?.1.value(), &self.account)?;
            recovered.members.insert(cert.device(), cert);
        }
        Ok(recovered)
    }

    fn row(&self, table: &TableName, row: &RowKey) -> Result<Option<RowState>, StoreError> {
        let snapshot = self.snapshot()?;
        let Some(number) = snapshot.names.tables.number(table) else { return Ok(None) };
        let entry =
            snapshot.table(ROWS)?.get(record::row_key(number, row.as_str()).as_slice()).map_err(redb)?;
        entry.map(|entry| record::read_row(entry.value(), &snapshot.names)).transpose()
    }

    fn scan(
        &self,
        table: &TableName,
        (from, to): RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<(RowKey, RowState)>, StoreError> {
        let snapshot = self.snapshot()?;
        let Some(number) = snapshot.names.tables.number(table) else { return Ok(Vec::new()) };
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
        if is_empty(&from, &to) {
            return Ok(Vec::new());
        }
        let range = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let mut found = Vec::new();
        for entry in snapshot.table(ROWS)?.range::<&[u8]>(range).map_err(redb)?.take(limit) {
            let (key, value) = entry.map_err(redb)?;
            found.push((
                record::split_row_key(key.value())?,
                record::read_row(value.value(), &snapshot.names)?,
            ));
        }
        Ok(found)
    }

    fn tables(&self) -> Result<Vec<TableName>, StoreError> {
        // The names in memory may be ahead of what is committed.
        let txn = self.db()?.begin_read().map_err(redb)?;
        let tables = names::load_tables(&txn.open_table(TABLES).map_err(redb)?)?;
        let rows = txn.open_table(ROWS).map_err(redb)?;
        let mut found = Vec::new();
        // A table keeps its number when a retraction has taken its last row.
        for (table, number) in tables.sorted() {
            let (from, to) = (record::row_key(number, ""), record::row_key(number + 1, ""));
            if rows.range(from.as_slice()..to.as_slice()).map_err(redb)?.next().is_some() {
                found.push(table.clone());
            }
        }
        Ok(found)
    }

    fn commits(
        &self,
        replica: &ReplicaId,
        from_seq: u64,
        commits_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredCommit>, StoreError> {
        let snapshot = self.snapshot()?;
        let Some(number) = snapshot.names.replicas.number(replica) else { return Ok(Vec::new()) };
        let (from, to) = (record::dot_key(number, from_seq), record::dot_key(number, u64::MAX));
        let mut bytes = 0;
        let mut found = Vec::new();
        let log = snapshot.table(LOG)?;
        for entry in log.range(from.as_slice()..=to.as_slice()).map_err(redb)?.take(commits_max) {
            let (key, value) = entry.map_err(redb)?;
            let (_, seq) = record::split_dot_key(key.value())?;
            let record = LogRecord::read(value.value())?;
            bytes += record.commit.len();
            found.push(record.decode(&self.account, Dot { replica: *replica, seq })?);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(found)
    }

    fn applied(&self, from_position: u64, limit: usize) -> Result<Vec<StoredCommit>, StoreError> {
        let snapshot = self.snapshot()?;
        let (log, positions) = (snapshot.table(LOG)?, snapshot.table(POSITIONS)?);
        let from = from_position.to_be_bytes();
        let mut found = Vec::new();
        for entry in positions.range(from.as_slice()..).map_err(redb)?.take(limit) {
            let (key, dot) = entry.map_err(redb)?;
            let stored = self.stored(&log, &snapshot.names, dot.value())?;
            if stored.position != record::u64_key(key.value())? {
                return Err(StoreError::Corrupt("a commit has another position".into()));
            }
            found.push(stored);
        }
        Ok(found)
    }

    fn conflicts(&self, from_id: u64, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        let snapshot = self.snapshot()?;
        let from = from_id.to_be_bytes();
        let mut found = Vec::new();
        for entry in snapshot.table(CONFLICTS)?.range(from.as_slice()..).map_err(redb)?.take(limit) {
            let (key, value) = entry.map_err(redb)?;
            found.push(record::read_conflict(record::u64_key(key.value())?, value.value(), &snapshot.names)?);
        }
        Ok(found)
    }

    fn quarantine(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        let table = match self.snapshot()?.txn.open_table(QUARANTINE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(redb(error)),
        };
        let after = after.map(record::quarantine_key);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        for entry in table.range::<&[u8]>((from, Bound::Unbounded)).map_err(redb)?.take(limit) {
            let (key, value) = entry.map_err(redb)?;
            found.push(record::read_quarantined(key.value(), value.value(), &self.account)?);
        }
        Ok(found)
    }

    fn local(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.snapshot()?.table(LOCAL)?.get(key.as_bytes()).map_err(redb)?;
        Ok(value.map(|value| value.value().to_vec()))
    }
}

fn is_empty(from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}

impl Store for RedbStore {
    /// Closes the file and opens it again, in the same life: what is durable in it is what this process wrote last.
    /// Fails, to be tried again, while reads that began before are still running.
    fn reopen(&self) -> Result<(), StoreError> {
        let Some(path) = &self.path else {
            return Err(StoreError::Io("a database that is not in a file cannot be reopened".into()));
        };
        let mut slot = self.db.write().unwrap_or_else(PoisonError::into_inner);
        *slot = None;
        let db = crate::open::builder().open(path).map_err(redb)?;
        self.publish(Arc::new(load_names(&db)?));
        *slot = Some(Arc::new(db));
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let txn = self.db()?.begin_write().map_err(redb)?;
        // Only a writer changes the names, and there is one at a time.
        let before = self.names();
        let mut names = before.clone();
        write_log(&txn, batch, &mut names)?;
        write_retractions(&txn, batch, &names)?;
        write_rows(&txn, batch, &mut names)?;
        write_knowledge(&txn, batch, &mut names)?;
        write_conflicts(&txn, batch, &mut names)?;
        write_state(&txn, batch)?;
        names::save(&txn, &before, &names)?;
        self.publish(names);
        txn.commit().map_err(|error| {
            self.publish(before);
            redb(error)
        })
    }

    fn set_local(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let txn = self.db()?.begin_write().map_err(redb)?;
        {
            let mut local = txn.open_table(LOCAL).map_err(redb)?;
            match value {
                Some(value) => local.insert(key.as_bytes(), value).map_err(redb)?,
                None => local.remove(key.as_bytes()).map_err(redb)?,
            };
        }
        txn.commit().map_err(redb)
    }
}

fn write_log(txn: &WriteTransaction, batch: &Batch, names: &mut Arc<Names>) -> Result<(), StoreError> {
    let mut positions = txn.open_table(POSITIONS).map_err(redb)?;
    if last_position(&positions)?.checked_add(1) != Some(batch.position) {
        return Err(StoreError::Corrupt("a batch does not continue the log".into()));
    }
    let mut records = Vec::with_capacity(batch.commits.len());
    for (position, (commit, sig)) in (batch.position..).zip(&batch.commits) {
        let key = record::dot_key(replica_number(names, &commit.dot.replica), commit.dot.seq);
        positions.insert(position.to_be_bytes().as_slice(), key.as_slice()).map_err(redb)?;
        records.push((key, record::log_record(position, commit, sig.as_ref())));
    }
    records.sort_unstable_by_key(|(key, _)| *key);
    let mut log = txn.open_table(LOG).map_err(redb)?;
    for (key, record) in records {
        if log.insert(key.as_slice(), record.as_slice()).map_err(redb)?.is_some() {
            return Err(StoreError::Corrupt("a batch repeats a commit of the log".into()));
        }
    }
    Ok(())
}

/// Signatures, retractions and releases. Rare.
fn write_retractions(txn: &WriteTransaction, batch: &Batch, names: &Names) -> Result<(), StoreError> {
    if batch.signatures.is_empty() && batch.retractions.is_empty() && batch.released.is_empty() {
        return Ok(());
    }
    let mut log = txn.open_table(LOG).map_err(redb)?;
    let mut positions = txn.open_table(POSITIONS).map_err(redb)?;
    let mut quarantine = txn.open_table(QUARANTINE).map_err(redb)?;
    for (dot, sig) in &batch.signatures {
        let key = names.replicas.number(&dot.replica).map(|number| record::dot_key(number, dot.seq));
        let entry = key.map(|key| log.get(key.as_slice()).map_err(redb)).transpose()?.flatten();
        let Some(entry) = entry.map(|entry| entry.value().to_vec()) else {
            return Err(StoreError::Corrupt("a batch signs a commit that is not in the log".into()));
        };
        let signed = LogRecord::read(&entry)?.signed(sig);
        log.insert(key.unwrap_or_default().as_slice(), signed.as_slice()).map_err(redb)?;
    }
    for retraction in &batch.retractions {
        let Some(number) = names.replicas.number(&retraction.replica) else { continue };
        let (from, to) = (record::dot_key(number, retraction.from_seq), record::dot_key(number, u64::MAX));
        for entry in log.extract_from_if(from.as_slice()..=to.as_slice(), |_, _| true).map_err(redb)? {
            let (key, value) = entry.map_err(redb)?;
            let (_, seq) = record::split_dot_key(key.value())?;
            positions.remove(LogRecord::read(value.value())?.position().as_slice()).map_err(redb)?;
            let key = record::quarantine_key(&Dot { replica: retraction.replica, seq });
            let record = record::quarantine_record(&retraction.because, value.value());
            quarantine.insert(key.as_slice(), record.as_slice()).map_err(redb)?;
        }
    }
    for dot in &batch.released {
        quarantine.remove(record::quarantine_key(dot).as_slice()).map_err(redb)?;
    }
    Ok(())
}

fn write_rows(txn: &WriteTransaction, batch: &Batch, names: &mut Arc<Names>) -> Result<(), StoreError> {
    let mut rows = txn.open_table(ROWS).map_err(redb)?;
    for ((table, row), state) in &batch.rows {
        let key = record::row_key(table_number(names, table), row.as_str());
        if *state == RowState::default() {
            rows.remove(key.as_slice()).map_err(redb)?;
        } else {
            rows.insert(key.as_slice(), record::row_record(state, names).as_slice()).map_err(redb)?;
        }
    }
    Ok(())
}

fn write_knowledge(txn: &WriteTransaction, batch: &Batch, names: &mut Arc<Names>) -> Result<(), StoreError> {
    let mut heads = txn.open_table(HEADS).map_err(redb)?;
    for (replica, head) in &batch.heads {
        let key = replica_number(names, replica).to_be_bytes();
        if head.seq == 0 {
            heads.remove(key.as_slice()).map_err(redb)?;
        } else {
            heads.insert(key.as_slice(), record::head_record(head, names).as_slice()).map_err(redb)?;
        }
    }
    let mut members = txn.open_table(MEMBERS).map_err(redb)?;
    for cert in &batch.members {
        let key = cert.device();
        members.insert(key.0.as_bytes().as_slice(), record::member_record(cert).as_slice()).map_err(redb)?;
    }
    Ok(())
}

fn write_conflicts(txn: &WriteTransaction, batch: &Batch, names: &mut Arc<Names>) -> Result<(), StoreError> {
    let mut conflicts = txn.open_table(CONFLICTS).map_err(redb)?;
    for conflict in &batch.conflicts {
        let record = record::conflict_record(conflict, names);
        conflicts.insert(conflict.id.to_be_bytes().as_slice(), record.as_slice()).map_err(redb)?;
    }
    let from = batch.conflicts_from.to_be_bytes();
    conflicts.retain_in::<&[u8], _>(..from.as_slice(), |_, _| false).map_err(redb)?;
    for id in &batch.conflicts_void {
        conflicts.remove(id.to_be_bytes().as_slice()).map_err(redb)?;
    }
    Ok(())
}

fn write_state(txn: &WriteTransaction, batch: &Batch) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META).map_err(redb)?;
    let mut state = schema::state(&meta)?;
    state.replica = batch.replica.or(state.replica);
    state.clock = batch.clock;
    state.digest = batch.digest;
    state.conflict_next = batch.conflicts.last().map_or(state.conflict_next, |last| last.id + 1);
    meta.insert(META_STATE, state.encode().as_slice()).map_err(redb)?;
    Ok(())
}
