//! [`RedbStore`]: the engine's store traits over one redb database.
//!
//! A batch appends to the log; the rows it changes are kept in memory (`rows`) and written into the table of rows
//! many at a time: in a *sweep*, a part of them with each batch, or all at once, in a *checkpoint*. Both are part of some
//! batch's transaction.
//! Architecture invariants: a batch is one write transaction, durable when `apply` returns; each read is of one batch;
//! each row in the table has what the log amounts to up to the checkpoint or a later position.

use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use engine::identity::{AccountId, Dot, ReplicaId};
use engine::name::{RowKey, TableName};
use engine::planted::{self, Bug};
use engine::row::RowState;
use engine::store::{
    Batch, Conflict, Quarantined, Recovered, RowRange, Store, StoreError, StoreRead, StoredCommit,
};
use engine::wire::packed::PackedLog;
use redb::{Database, ReadableTable, WriteTransaction};

use crate::chunk::Recent;
use crate::error::{io_error, redb, reopening};
use crate::key::DataKey;
use crate::limits::StoreOptions;
use crate::log::{self, Limits};
use crate::names::{self, Names, replica_number, table_number};
use crate::quarantine;
use crate::record;
use crate::rows::Row;
use crate::schema::{CONFLICTS, HEADS, INDEX, LOCAL, MEMBERS, META, META_STATE, QUARANTINE, ROWS, State};
use crate::view::{self, Open, Swept, View};

/// Bytes of the log after the last checkpoint. A checkpoint keeps it below this, because it is replayed when the
/// database is opened after an unclean end. From three quarters of it on a sweep sees to that, a
/// part with each batch, and ends in time unless these are of the largest.
const TAIL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of the log after the last checkpoint that are not worth one when the database is closed.
const TAIL_BYTES_LEFT_MAX: u64 = 256 * 1024;
/// The part of the rows that may be at hand to which a part of a sweep comes.
const SWEPT_PART: usize = 8;

/// A durable store in one file. Shared by reference: reads run beside each other and beside the one
/// writer, each on its own snapshot.
///
/// After a failed write the store refuses further writes until [`Store::reopen`].
#[derive(Debug)]
pub struct RedbStore {
    /// Empty after [`RedbStore::close`], and if reopening failed.
    open: RwLock<Option<Open>>,
    /// Held by the one writer.
    writing: Mutex<()>,
    options: StoreOptions,
    /// Bytes of the log after the last checkpoint from which to write the next.
    tail_bytes_max: u64,
    /// Where to reopen it.
    path: Option<PathBuf>,
    account: AccountId,
}

fn closed() -> StoreError {
    StoreError::Io("the database is closed, or could not be reopened after a failed write".into())
}

impl RedbStore {
    /// Takes over a database whose header has been checked.
    pub(crate) fn attach(
        db: Database,
        path: Option<PathBuf>,
        account: AccountId,
        options: StoreOptions,
    ) -> Result<RedbStore, StoreError> {
        Ok(RedbStore {
            open: RwLock::new(Some(Open::load(db, &account)?)),
            writing: Mutex::new(()),
            options,
            tail_bytes_max: TAIL_BYTES_MAX,
            path,
            account,
        })
    }

    /// The same with other limits, for tests: rows take so much memory at most, and no more bytes of the log
    /// would have to be replayed.
    #[must_use]
    pub fn with_checkpoint_at(mut self, rows_bytes: usize, tail_bytes: u64) -> RedbStore {
        self.options.limits.rows_bytes_max = rows_bytes;
        self.tail_bytes_max = tail_bytes;
        self
    }

    /// Bytes of the log whose rows are not in their table yet.
    pub fn unsaved_bytes(&self) -> Result<u64, StoreError> {
        self.with(|open| open.tail_bytes)
    }

    /// Space on the disk that the database takes, in bytes: what the file has now, and the rows that it has yet to
    /// take up. 0 for one that is not in a file.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        let Some(path) = &self.path else { return Ok(0) };
        let file = crate::files::disk_bytes(path).map_err(|error| io_error(&error))?;
        Ok(file + self.with(|open| open.rows.unsaved_bytes())? as u64)
    }

    /// Closes the file now, whoever else still holds the store: reads and writes fail from here on. Dropping the last
    /// handle does the same, but nobody can tell when that is.
    pub fn close(&self) {
        if planted::is(Bug::ClosedStaysOpen) {
            return;
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the next node on it writes as a new replica: the database is new, or may be a copy or an older state.
    pub fn begins_anew(&self) -> Result<bool, StoreError> {
        Ok(self.view()?.state.replica.is_none())
    }

    /// The account whose data this is.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// The key of its file.
    pub(crate) fn key(&self) -> Option<&DataKey> {
        self.options.key.as_ref()
    }

    /// Looks at what is open. Nothing that takes long, or can panic, may run in here: writers wait.
    fn with<R>(&self, look: impl FnOnce(&Open) -> R) -> Result<R, StoreError> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(look).ok_or_else(closed)
    }

    pub(crate) fn db(&self) -> Result<Arc<Database>, StoreError> {
        self.with(|open| open.db.clone())
    }

    fn view(&self) -> Result<Arc<View>, StoreError> {
        self.with(|open| open.view.clone())
    }
}

impl Drop for RedbStore {
    /// Spares the next opening the replay, if it would take long. It is no loss if this fails.
    fn drop(&mut self) {
        if self.unsaved_bytes().is_ok_and(|bytes| bytes > TAIL_BYTES_LEFT_MAX) {
            let _ = self.checkpoint();
        }
    }
}

impl StoreRead for RedbStore {
    fn recover(&self) -> Result<Recovered, StoreError> {
        let view = self.view()?;
        let mut recovered = Recovered {
            replica: view.state.replica,
            clock: view.state.clock,
            digest: view.state.digest,
            conflict_next: view.state.conflict_next,
            position: view.state.position,
            ..Recovered::default()
        };
        for entry in view.table(HEADS)?.iter().map_err(redb)? {
            let (key, value) = entry.map_err(redb)?;
            let replica = view.names.replica(record::u32_key(key.value())?);
            let replica = replica.map_err(crate::error::damaged("a head"))?;
            recovered.heads.insert(replica, record::read_head(value.value(), &view.names)?);
        }
        for entry in view.table(MEMBERS)?.iter().map_err(redb)? {
            let cert = record::read_member(entry.map_err(redb)?.1.value(), &self.account)?;
            recovered.members.insert(cert.device(), cert);
        }
        Ok(recovered)
    }

    fn row(&self, table: &TableName, row: &RowKey) -> Result<Option<RowState>, StoreError> {
        let found = self.with(|open| {
            let number = open.view.names.tables.number(table)?;
            let newer = open.rows.get(number, row).cloned();
            Some(newer.ok_or_else(|| (number, open.view.clone())))
        })?;
        match found {
            None => Ok(None),
            Some(Ok(newer)) => Ok(Some(newer)),
            Some(Err((number, view))) => view.stored_row(number, row),
        }
    }

    fn scan(
        &self,
        table: &TableName,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<(RowKey, RowState)>, StoreError> {
        if view::is_empty(range) {
            return Ok(Vec::new());
        }
        let found = self.with(|open| {
            let number = open.view.names.tables.number(table)?;
            Some((number, open.rows.range(number, range, limit), open.view.clone()))
        })?;
        let Some((number, newer, view)) = found else { return Ok(Vec::new()) };
        view::scan(&view, number, range, newer, limit)
    }

    fn tables(&self) -> Result<Vec<TableName>, StoreError> {
        let numbered = self.with(|open| {
            let names = &open.view.names;
            let has = |(table, number): (&TableName, u32)| (table.clone(), number, open.rows.has(number));
            (names.tables.sorted().map(has).collect::<Vec<_>>(), open.view.clone())
        });
        let (numbered, view) = numbered?;
        let mut found = Vec::new();
        // A table keeps its number when a retraction has taken its last row.
        for (table, number, has_newer) in numbered {
            if has_newer || view.has_rows(number)? {
                found.push(table);
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
        let view = self.view()?;
        let Some(number) = view.names.replicas.number(replica) else { return Ok(Vec::new()) };
        let limits = Limits { commits_max, bytes_max };
        let (log, index) = (view.log(&self.account)?, view.table(INDEX)?);
        log::commits(&log, &index, (replica, number), from_seq, limits)
    }

    fn applied(&self, from_position: u64, limit: usize) -> Result<Vec<StoredCommit>, StoreError> {
        log::applied(&self.view()?.log(&self.account)?, from_position, limit)
    }

    fn packed(&self, position: u64) -> Result<Option<PackedLog>, StoreError> {
        log::packed(&self.view()?.log(&self.account)?, position)
    }

    fn conflicts(&self, from_id: u64, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        let view = self.view()?;
        let from = from_id.to_be_bytes();
        let mut found = Vec::new();
        for entry in view.table(CONFLICTS)?.range(from.as_slice()..).map_err(redb)?.take(limit) {
            let (key, value) = entry.map_err(redb)?;
            found.push(record::read_conflict(record::u64_key(key.value())?, value.value(), &view.names)?);
        }
        Ok(found)
    }

    fn quarantine(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        let view = self.view()?;
        let after = after.map(|dot| quarantine::another_key(dot, u64::MAX));
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found: Vec<Quarantined> = Vec::new();
        let table = view.table(QUARANTINE)?;
        for entry in table.range::<&[u8]>((from, Bound::Unbounded)).map_err(redb)? {
            let (key, value) = entry.map_err(redb)?;
            let another = |last: &Quarantined| key.value().starts_with(&quarantine::key(&last.stored.dot()));
            if found.len() >= limit && !found.last().is_some_and(another) {
                break;
            }
            found.push(quarantine::read(key.value(), value.value(), &self.account)?);
        }
        Ok(found)
    }

    fn local(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.view()?.table(LOCAL)?.get(key.as_bytes()).map_err(redb)?;
        Ok(value.map(|value| value.value().to_vec()))
    }
}

/// A write transaction, and what it changes of what is at hand.
struct Writing {
    txn: WriteTransaction,
    db: Arc<Database>,
    before: Arc<View>,
    names: Arc<Names>,
    state: State,
    /// Chunks of the log as it will be.
    recent: Arc<Recent>,
}

impl RedbStore {
    /// The caller holds `writing`.
    fn begin(&self) -> Result<Writing, StoreError> {
        let (db, before) = self.with(|open| (open.db.clone(), open.view.clone()))?;
        let txn = db.begin_write().map_err(redb)?;
        let (names, state, recent) = (before.names.clone(), before.state, before.recent.clone());
        Ok(Writing { txn, db, before, names, state, recent })
    }

    /// Makes it durable and shows it to readers, together with what becomes of the rows at hand.
    fn commit(&self, writing: Writing, rows: impl FnOnce(&mut Open)) -> Result<(), StoreError> {
        let Writing { txn, db, before, names, state, recent } = writing;
        names::save(&txn, &before.names, &names)?;
        let bytes = state.encode();
        txn.open_table(META).map_err(redb)?.insert(META_STATE, bytes.as_slice()).map_err(redb)?;
        txn.commit().map_err(redb)?;
        let view = Arc::new(View::new(&db, names, state, recent)?);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_mut().ok_or_else(closed)?;
        open.view = view;
        rows(open);
        Ok(())
    }

    /// Writes the rows that wait into their table.
    fn checkpoint(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writing = self.begin()?;
        self.write_checkpoint(&mut writing, &Batch::default())?;
        self.commit(writing, Open::forget_rows)
    }

    /// Writes the rows that wait, and then those of a batch that is being applied. Gathers what the log has grown by since
    /// the last checkpoint.
    fn write_checkpoint(&self, writing: &mut Writing, batch: &Batch) -> Result<(), StoreError> {
        let mut rows = writing.txn.open_table(ROWS).map_err(redb)?;
        let unsaved = |open: &Open| {
            let all = open.rows.from(None).filter(|(_, _, row, _)| !row.saved);
            let all = all.map(|(table, key, row, _)| (table, key, &row.state));
            write_rows(&mut rows, all, &mut writing.names)
        };
        self.with(unsaved)??;
        for (table, new) in &batch.rows {
            let table = table_number(&mut writing.names, table);
            write_rows(&mut rows, new.iter().map(|(row, state)| (table, row, state)), &mut writing.names)?;
        }
        drop(rows);
        let position = writing.state.position;
        self.checkpoint_at(writing, position)
    }

    /// Moves the checkpoint, and gathers what the log has grown by since the last one.
    fn checkpoint_at(&self, writing: &mut Writing, position: u64) -> Result<(), StoreError> {
        let from = writing.state.checkpoint + 1;
        if log::gather(&writing.txn, &self.account, from, &mut writing.names)? {
            writing.recent = Arc::default();
        }
        writing.state.checkpoint = position;
        Ok(())
    }

    /// Writes the part of the rows at hand that comes next, as far as the table does not have them: so many as take so much
    /// memory. At the end of all the checkpoint moves.
    fn write_swept(
        &self,
        writing: &mut Writing,
        bytes_min: usize,
        lets_go: bool,
    ) -> Result<Swept, StoreError> {
        let mut rows = writing.txn.open_table(ROWS).map_err(redb)?;
        let (names, before) = (&mut writing.names, writing.before.state.position);
        let part = self.with(|open| {
            let begun = open.sweep.as_ref();
            let position = begun.map_or(before, |sweep| sweep.position);
            let mut bytes = 0;
            for (table, key, Row { state, saved }, weight) in open.rows.from(begun.map(|sweep| &sweep.next)) {
                if bytes >= bytes_min {
                    return Ok(Swept { to: Some((table, key.clone())), position, lets_go });
                }
                if !saved && !planted::is(Bug::SweepUnwritten) {
                    write_rows(&mut rows, std::iter::once((table, key, state)), names)?;
                }
                bytes += weight;
            }
            Ok::<_, StoreError>(Swept { to: None, position, lets_go })
        })??;
        drop(rows);
        if part.to.is_none() {
            self.checkpoint_at(writing, part.position)?;
        }
        Ok(part)
    }

    /// Sweeps, if there is a reason to: rows take too much memory, the log has grown, or a sweep has begun.
    fn sweep(&self, writing: &mut Writing, bytes: u64) -> Result<Option<Swept>, StoreError> {
        let max = self.options.limits.rows_bytes_max;
        let due = |open: &Open| {
            let long = open.tail_bytes.saturating_add(bytes) >= self.tail_bytes_max / 4 * 3;
            (open.rows.bytes().checked_sub(max), long || open.sweep.is_some())
        };
        match self.with(due)? {
            (Some(beyond), _) => self.write_swept(writing, beyond + max / SWEPT_PART, true).map(Some),
            (None, true) => self.write_swept(writing, max / SWEPT_PART, false).map(Some),
            (None, false) => Ok(None),
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
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        *open = None;
        let db = crate::open::reopen(path, &self.options).map_err(reopening)?;
        *open = Some(Open::load(db, &self.account)?);
        Ok(())
    }

    fn room(&self) -> Result<(), StoreError> {
        match self.options.limits.disk_bytes_max {
            Some(bytes_max) if self.disk_bytes()? >= bytes_max => Err(StoreError::Limit { bytes_max }),
            _ => Ok(()),
        }
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        // What the account says of its devices is small, and is heard on a full device too if it comes by itself.
        if !batch.rows.is_empty() && batch.retractions.is_empty() {
            self.room()?;
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writing = self.begin()?;
        let Writing { txn, names, state, recent, .. } = &mut writing;
        if state.position.checked_add(1) != Some(batch.position) {
            return Err(StoreError::Corrupt("a batch does not continue the log".into()));
        }
        if !names.numbering.same(&batch.numbering) {
            Arc::make_mut(names).numbering = batch.numbering.clone();
        }
        let bytes = log::append(txn, batch, names)?;
        if quarantine::concerns(batch) {
            quarantine::write(txn, &self.account, batch, names)?;
            *recent = Arc::default();
        }
        write_knowledge(txn, batch, names)?;
        // Until the first conflict of all there is nothing to look for.
        if state.conflict_next > 1 || !batch.conflicts.is_empty() {
            write_conflicts(txn, batch, names)?;
        }
        state.position += batch.commits.len() as u64;
        state.replica = batch.replica.or(state.replica);
        state.clock = batch.clock;
        state.digest = batch.digest;
        state.conflict_next = batch.conflicts.last().map_or(state.conflict_next, |last| last.id + 1);
        let tail_bytes = self.with(|open| open.tail_bytes)?;
        let replayable = batch.retractions.is_empty()
            && (batch.rows.is_empty() || !batch.commits.is_empty())
            && batch.rows().all(|(_, _, row)| !row.is_untouched());
        if tail_bytes.saturating_add(bytes) >= self.tail_bytes_max || !replayable {
            self.write_checkpoint(&mut writing, batch)?;
            return self.commit(writing, Open::forget_rows);
        }
        let swept = self.sweep(&mut writing, bytes)?;
        let tables: Vec<u32> =
            batch.rows.keys().map(|table| table_number(&mut writing.names, table)).collect();
        self.commit(writing, |open| {
            open.grown(bytes, swept);
            for (table, rows) in tables.into_iter().zip(batch.rows.values()) {
                rows.iter().for_each(|(row, state)| open.rows.insert(table, row.clone(), state.clone()));
            }
        })
    }

    fn set_local(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let writing = self.begin()?;
        {
            let mut local = writing.txn.open_table(LOCAL).map_err(redb)?;
            match value {
                Some(value) => local.insert(key.as_bytes(), value).map_err(redb)?,
                None => local.remove(key.as_bytes()).map_err(redb)?,
            };
        }
        self.commit(writing, |_| {})
    }
}

fn write_rows<'a>(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    rows: impl Iterator<Item = (u32, &'a RowKey, &'a RowState)>,
    names: &mut Arc<Names>,
) -> Result<(), StoreError> {
    for (number, row, state) in rows {
        let key = record::row_key(number, row.as_str());
        if state.is_untouched() {
            table.remove(key.as_slice()).map_err(redb)?;
        } else {
            table.insert(key.as_slice(), record::row_record(state, names).as_slice()).map_err(redb)?;
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
    if batch.members.is_empty() {
        return Ok(());
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
    let first = conflicts.first().map_err(redb)?.map(|(key, _)| record::u64_key(key.value())).transpose()?;
    if first.is_some_and(|first| first < batch.conflicts_from) {
        conflicts.retain_in::<&[u8], _>(..from.as_slice(), |_, _| false).map_err(redb)?;
    }
    for id in &batch.conflicts_void {
        conflicts.remove(id.to_be_bytes().as_slice()).map_err(redb)?;
    }
    Ok(())
}
