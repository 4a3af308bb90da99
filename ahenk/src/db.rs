//! The handle that an application uses: reads straight from the store, writes through the node.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use engine::commit::OpKind;
use engine::identity::{AccountId, DeviceCert, DeviceId, Dot, Identity, SecretKey};
use engine::io::{
    AdminError, Change as Step, Event, Order, PeerPage, Traffic, WriteError, WriteRequest, Written,
};
use engine::knowledge::Knowledge;
use engine::name::{FieldName, NameError, RowKey, TableName};
use engine::row::RowState;
use engine::store::{Conflict, Quarantined, Store, StoreError, StoredCommit};
use engine::value::Value;
use tokio::sync::{RwLock, broadcast, mpsc, oneshot, watch};

use crate::node::{Command, NodeStatus};
use crate::transaction::{Transaction, TransactionError};
use crate::watch::{Cursor, Watch};

/// Rows that one scan reads from the store at a time.
const SCAN_PAGE: usize = 256;
/// Times a transaction is tried again when what it read changed under it.
const RETRIES_MAX: usize = 16;

/// Fields to write: names and values. Build it `from` an array of pairs, or with [`Fields::set`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields(pub BTreeMap<String, Value>);

impl Fields {
    /// No fields.
    pub fn new() -> Fields {
        Fields::default()
    }

    /// Adds a field.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Fields {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn checked(self) -> Result<BTreeMap<FieldName, Value>, NameError> {
        self.0.into_iter().map(|(name, value)| Ok((FieldName::new(&name)?, value))).collect()
    }
}

impl<V: Into<Value>, const N: usize> From<[(&str, V); N]> for Fields {
    fn from(pairs: [(&str, V); N]) -> Fields {
        Fields(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
    }
}

impl FromIterator<(String, Value)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Fields {
        Fields(pairs.into_iter().collect())
    }
}

/// A row as an application sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// Its fields.
    pub fields: BTreeMap<FieldName, Value>,
}

impl Row {
    /// The value of a field.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)
    }

    pub(crate) fn of(state: &RowState) -> Option<Row> {
        state.fields().map(|fields| Row { fields })
    }
}

/// Which rows of a table to read. Combines a prefix or bounds with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    from: Bound<String>,
    to: Bound<String>,
    prefix: Option<String>,
    limit: usize,
}

impl Default for Scan {
    fn default() -> Self {
        Scan { from: Bound::Unbounded, to: Bound::Unbounded, prefix: None, limit: usize::MAX }
    }
}

impl Scan {
    /// All rows.
    pub fn all() -> Scan {
        Scan::default()
    }

    /// Rows whose key starts so.
    pub fn prefix(prefix: &str) -> Scan {
        Scan { from: Bound::Included(prefix.to_owned()), prefix: Some(prefix.to_owned()), ..Scan::default() }
    }

    /// Rows from `from` on, before `to`.
    pub fn range(from: &str, to: &str) -> Scan {
        Scan { from: Bound::Included(from.to_owned()), to: Bound::Excluded(to.to_owned()), ..Scan::default() }
    }

    /// Rows after a key: the next page.
    #[must_use]
    pub fn after(mut self, key: &str) -> Scan {
        let later = match &self.from {
            Bound::Included(from) | Bound::Excluded(from) => from.as_str() <= key,
            Bound::Unbounded => true,
        };
        if later {
            self.from = Bound::Excluded(key.to_owned());
        }
        self
    }

    /// At most so many rows.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Scan {
        self.limit = rows;
        self
    }
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A table, row or field cannot be called so.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a write failed. Nothing of it was applied, here or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteFailed {
    /// A table, row or field cannot be called so.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The transaction is not possible as it is.
    #[error(transparent)]
    Refused(WriteError),
    /// The store failed. (If it failed at the very end of making the write durable, the write may turn out
    /// to be there: read before trying again.)
    #[error(transparent)]
    Storage(StoreError),
    /// The database is closed.
    #[error("the database is closed")]
    Closed,
}

/// Why an administrator's order was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderFailed {
    /// It is not possible as it is.
    #[error(transparent)]
    Refused(AdminError),
    /// The store failed.
    #[error(transparent)]
    Storage(StoreError),
    /// The database is closed.
    #[error("the database is closed")]
    Closed,
}

/// Why a retracted commit was not restored. It stays in the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It is not in the quarantine.
    #[error("the commit {0} is not in the quarantine")]
    NotThere(Dot),
    /// It has no operations: there is nothing to write.
    #[error("the commit {0} writes nothing: drop it instead")]
    Empty(Dot),
    /// The quarantine could not be read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// It could not be written anew.
    #[error(transparent)]
    Write(#[from] WriteFailed),
}

/// Why a wait for sync ended without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// No device was reachable in the time given.
    #[error("no other device could be reached")]
    NoPeer,
    /// Devices are connected, but not in sync yet.
    #[error("{connected} device(s) connected, but not in sync in the time given")]
    Timeout {
        /// How many are connected.
        connected: usize,
    },
    /// The database is closed.
    #[error("the database is closed")]
    Closed,
}

/// The database was closed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the database is closed already")]
pub struct CloseError;

/// What a completed sync amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncReport {
    /// Devices that know what this one knows.
    pub peers: usize,
    /// Counters since the node started.
    pub total: Traffic,
}

/// A handle to an open database. Cheap to clone; all clones mean the same database. When the last one is dropped the
/// node stops by itself.
#[derive(Debug)]
pub struct Db<S> {
    commands: mpsc::Sender<Command>,
    store: Arc<S>,
    positions: watch::Receiver<u64>,
    events: broadcast::Sender<Event>,
    grants: watch::Receiver<Option<SecretKey>>,
    account: AccountId,
    device: DeviceId,
    /// Shared by transactions at first; held alone by one that must not be overtaken again.
    turn: Arc<RwLock<()>>,
}

impl<S> Clone for Db<S> {
    fn clone(&self) -> Self {
        Db {
            commands: self.commands.clone(),
            store: Arc::clone(&self.store),
            positions: self.positions.clone(),
            events: self.events.clone(),
            grants: self.grants.clone(),
            account: self.account,
            device: self.device,
            turn: Arc::clone(&self.turn),
        }
    }
}

impl<S: Store> Db<S> {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        store: Arc<S>,
        positions: watch::Receiver<u64>,
        events: broadcast::Sender<Event>,
        grants: watch::Receiver<Option<SecretKey>>,
        identity: &Identity,
    ) -> Db<S> {
        let (account, device, turn) = (identity.account(), identity.device(), Arc::default());
        Db { commands, store, positions, events, grants, account, device, turn }
    }

    /// The account.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The store itself, for reads that this handle has no method for.
    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// Creates a row if it is not there, and writes fields; other fields stay.
    pub async fn put(&self, table: &str, row: &str, fields: Fields) -> Result<Written, WriteFailed> {
        self.write_one(table, row, OpKind::Put, fields).await
    }

    /// Writes fields of a row that is there. Unlike `put`, it never brings a row back that another device deletes.
    pub async fn update(&self, table: &str, row: &str, fields: Fields) -> Result<Written, WriteFailed> {
        self.write_one(table, row, OpKind::Update, fields).await
    }

    /// Writes a row so that it has these fields and no others.
    pub async fn replace(&self, table: &str, row: &str, fields: Fields) -> Result<Written, WriteFailed> {
        self.write_one(table, row, OpKind::Replace, fields).await
    }

    /// Deletes a row. Deleting one that is not there is allowed, and is remembered all the same.
    pub async fn delete(&self, table: &str, row: &str) -> Result<Written, WriteFailed> {
        self.write_one(table, row, OpKind::Delete, Fields::new()).await
    }

    async fn write_one(
        &self,
        table: &str,
        row: &str,
        kind: OpKind,
        fields: Fields,
    ) -> Result<Written, WriteFailed> {
        let step =
            Step { table: TableName::new(table)?, row: RowKey::new(row)?, kind, fields: fields.checked()? };
        self.write(WriteRequest { id: 0, changes: vec![step], ..WriteRequest::default() }).await
    }

    /// Hands a prepared transaction to the node, and waits until it is durable.
    pub async fn write(&self, request: WriteRequest) -> Result<Written, WriteFailed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Write { request, reply }).await.map_err(|_| WriteFailed::Closed)?;
        answer.await.map_err(|_| WriteFailed::Closed)?
    }

    /// Runs a transaction: all it writes becomes durable together, and is applied together on every device.
    ///
    /// The closure may read; if a row that it read changes before the transaction commits, it is run again, so it
    /// should have no other effects. Scans are not guarded against rows that appear meanwhile. Returns what the
    /// closure returned. A closure that writes nothing is fine.
    pub async fn transaction<R, F>(&self, mut body: F) -> Result<R, TransactionError>
    where
        F: FnMut(&mut Transaction<'_, S>) -> Result<R, TransactionError>,
    {
        {
            let _shared = self.turn.read().await;
            if let Some(result) = self.attempt(&mut body).await? {
                return Ok(result);
            }
        }
        // Overtaken once: from now on no other transaction of this process runs beside it.
        let _alone = self.turn.write().await;
        for _ in 1..RETRIES_MAX {
            if let Some(result) = self.attempt(&mut body).await? {
                return Ok(result);
            }
        }
        Err(TransactionError::Contention)
    }

    /// Runs a transaction once; `None` if what it read changed meanwhile.
    async fn attempt<R, F>(&self, body: &mut F) -> Result<Option<R>, TransactionError>
    where
        F: FnMut(&mut Transaction<'_, S>) -> Result<R, TransactionError>,
    {
        let mut transaction = Transaction::new(&*self.store);
        let result = body(&mut transaction)?;
        let Some(request) = transaction.into_request() else { return Ok(Some(result)) };
        match self.write(request).await {
            Ok(_) => Ok(Some(result)),
            Err(WriteFailed::Refused(WriteError::Conflict { .. })) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A row, if it is there.
    pub fn get(&self, table: &str, row: &str) -> Result<Option<Row>, ReadError> {
        let state = self.store.row(&TableName::new(table)?, &RowKey::new(row)?)?;
        Ok(state.as_ref().and_then(Row::of))
    }

    /// Rows of a table, ascending by key.
    pub fn scan(&self, table: &str, scan: &Scan) -> Result<Vec<(RowKey, Row)>, ReadError> {
        scan_rows(&*self.store, table, scan, |state| Row::of(&state))
    }

    /// The tables that have at least one row.
    pub fn tables(&self) -> Result<Vec<TableName>, ReadError> {
        let mut tables = self.store.tables()?;
        let mut failure = None;
        tables.retain(|table| match self.scan(table.as_str(), &Scan::all().limit(1)) {
            Ok(rows) => !rows.is_empty(),
            Err(error) => {
                failure = Some(error);
                false
            }
        });
        failure.map_or(Ok(tables), Err)
    }

    /// Changes from a point on, each once and in the order in which this device applied them. `Cursor::default()`
    /// is the beginning; [`Db::cursor`] is now.
    pub fn watch(&self, from: Cursor) -> Watch<S> {
        Watch::new(Arc::clone(&self.store), self.positions.clone(), from)
    }

    /// The present end of the stream of changes.
    pub fn cursor(&self) -> Cursor {
        Cursor::after(*self.positions.borrow())
    }

    /// Up to `limit` commits from a position (from 1) on, in the order in which this device applied them.
    pub fn log(&self, from_position: u64, limit: usize) -> Result<Vec<StoredCommit>, ReadError> {
        Ok(self.store.applied(from_position, limit)?)
    }

    /// Up to `limit` values that lost a true conflict, from an id on.
    pub fn conflicts(&self, from_id: u64, limit: usize) -> Result<Vec<Conflict>, ReadError> {
        Ok(self.store.conflicts(from_id, limit)?)
    }

    /// What happens from now on. A listener that falls far behind misses some and is told so.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// How the node stands; `None` if the database is closed.
    pub async fn status(&self) -> Option<NodeStatus> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Status(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Asks a connected device for the digests of its rows behind a place; `None` if it is not connected, or does not
    /// answer in the time given.
    pub(crate) async fn audit(
        &self,
        device: DeviceId,
        after: Option<(TableName, RowKey)>,
        detail: bool,
        within: Duration,
    ) -> Option<PeerPage> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Audit { device, after, detail, reply }).await.ok()?;
        tokio::time::timeout(within, answer).await.ok()?.ok()?
    }

    /// What each connected device is known to have applied durably, as far as it has said; `None` if the database is
    /// closed.
    pub async fn peer_knowledge(&self) -> Option<Vec<(DeviceId, Knowledge)>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::PeerKnowledge(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Compares with all connected devices now, and waits until all of them know what this one knows.
    pub async fn sync(&self, within: Duration) -> Result<SyncReport, SyncError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Sync { deadline: within, reply };
        self.commands.send(command).await.map_err(|_| SyncError::Closed)?;
        answer.await.map_err(|_| SyncError::Closed)?
    }

    /// Adds certificates learnt by pairing. Those that are not valid in this account are ignored.
    pub async fn add_members(&self, certs: Vec<DeviceCert>) {
        // A closed database learns nothing more.
        let _ = self.commands.send(Command::Members(certs)).await;
    }

    /// Declares that a device is one of the account's no longer. What this device has applied of its commits counts; the
    /// rest does not, here and, as soon as they hear of it, on all other devices.
    pub async fn revoke(&self, device: DeviceId, reason: &str) -> Result<Dot, OrderFailed> {
        self.administer(Order::Revoke { device, reason: reason.to_owned() }).await
    }

    /// Certifies a device anew: under another name, or as an administrator, which is given the root key when it connects.
    pub async fn certify(
        &self,
        device: DeviceId,
        name: Option<String>,
        admin: Option<bool>,
    ) -> Result<Dot, OrderFailed> {
        self.administer(Order::Certify { device, name, admin }).await
    }

    async fn administer(&self, order: Order) -> Result<Dot, OrderFailed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Administer { order, reply }).await.map_err(|_| OrderFailed::Closed)?;
        answer.await.map_err(|_| OrderFailed::Closed)?
    }

    /// The account's root key, once another administrator has given it to this device in this run: keep it, and give it to
    /// the identity ([`Identity::with_root`]) at the next start.
    pub fn granted(&self) -> watch::Receiver<Option<SecretKey>> {
        self.grants.clone()
    }

    /// Up to `limit` retracted commits after a dot (from the first, without one), ascending by dot. Different commits of
    /// one dot, branches of a fork, come together, even beyond the limit.
    pub fn quarantine(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Quarantined>, ReadError> {
        Ok(self.store.quarantine(after, limit)?)
    }

    /// Writes a retracted commit anew, as a transaction of this device and of now, and takes it out of the quarantine.
    /// An update of a row that is not there creates it. Of several of one dot it takes the first.
    pub async fn restore(&self, dot: Dot) -> Result<Written, RestoreError> {
        let found = self.store.quarantine(None, usize::MAX)?;
        let found = found.into_iter().find(|one| one.stored.dot() == dot);
        let Some(commit) = found.map(|one| one.stored.commit) else {
            return Err(RestoreError::NotThere(dot));
        };
        if commit.ops.is_empty() {
            return Err(RestoreError::Empty(dot));
        }
        let mut changes = Vec::with_capacity(commit.ops.len());
        for op in commit.ops {
            let there = self.store.row(&op.table, &op.row)?.is_some_and(|state| state.visible());
            let kind = if op.kind == OpKind::Update && !there { OpKind::Put } else { op.kind };
            let fields = op.fields.into_iter().collect();
            changes.push(Step { table: op.table, row: op.row, kind, fields });
        }
        let request = WriteRequest { changes, release: vec![dot], ..WriteRequest::default() };
        Ok(self.write(request).await?)
    }

    /// Drops retracted commits for ever, of several of one dot the first. Those that are not in the quarantine are not
    /// missed.
    pub async fn drop_quarantined(&self, dots: Vec<Dot>) -> Result<(), WriteFailed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Release { dots, reply }).await.map_err(|_| WriteFailed::Closed)?;
        answer.await.map_err(|_| WriteFailed::Closed)?
    }

    /// Says goodbye to all devices and stops the node. What was answered before is durable.
    pub async fn close(&self) -> Result<(), CloseError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Close(reply)).await.map_err(|_| CloseError)?;
        answer.await.map_err(|_| CloseError)
    }
}

/// Pages through a table and keeps what `pick` makes of the rows.
pub(crate) fn scan_rows<S: Store, R>(
    store: &S,
    table: &str,
    scan: &Scan,
    pick: impl Fn(RowState) -> Option<R>,
) -> Result<Vec<(RowKey, R)>, ReadError> {
    let table = TableName::new(table)?;
    let (mut from, mut found) = (scan.from.clone(), Vec::new());
    loop {
        let range = (from.as_ref().map(String::as_str), scan.to.as_ref().map(String::as_str));
        let page = store.scan(&table, range, SCAN_PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        from = Bound::Excluded(last.to_string());
        for (key, state) in page {
            let beyond =
                scan.prefix.as_ref().is_some_and(|prefix| !key.as_str().starts_with(prefix.as_str()));
            if beyond || found.len() >= scan.limit {
                return Ok(found);
            }
            found.extend(pick(state).map(|row| (key, row)));
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.fields).finish()
    }
}
