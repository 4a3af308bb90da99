//! Local transactions: reads that are guarded, and writes that are gathered.

use std::collections::BTreeMap;

use engine::commit::OpKind;
use engine::io::{Change as Step, WriteRequest};
use engine::name::{NameError, RowKey, TableName};
use engine::row::RowState;
use engine::store::{Store, StoreError};
use engine::value::Value;

use crate::db::{Fields, ReadError, Row, Scan, WriteFailed, scan_rows};

/// Why a transaction was not carried out. Nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// A read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteFailed),
    /// What the transaction read kept changing.
    #[error("other writes kept changing what the transaction had read")]
    Contention,
    /// The closure gave up, for a reason of its own.
    #[error("{0}")]
    Aborted(String),
}

impl From<NameError> for TransactionError {
    fn from(error: NameError) -> Self {
        TransactionError::Write(WriteFailed::Name(error))
    }
}

impl From<StoreError> for TransactionError {
    fn from(error: StoreError) -> Self {
        TransactionError::Read(ReadError::Store(error))
    }
}

/// A transaction in the making. Reads see its own writes.
#[derive(Debug)]
pub struct Transaction<'a, S> {
    store: &'a S,
    steps: Vec<Step>,
    /// What was read, as it was then.
    read: BTreeMap<(TableName, RowKey), Option<RowState>>,
}

impl<'a, S: Store> Transaction<'a, S> {
    pub(crate) fn new(store: &'a S) -> Self {
        Transaction { store, steps: Vec::new(), read: BTreeMap::new() }
    }

    /// Creates a row if it is not there, and writes fields; other fields stay.
    pub fn put(&mut self, table: &str, row: &str, fields: Fields) -> Result<(), TransactionError> {
        self.step(table, row, OpKind::Put, fields)
    }

    /// Writes fields of a row that is there; refused when the transaction commits if it is not.
    pub fn update(&mut self, table: &str, row: &str, fields: Fields) -> Result<(), TransactionError> {
        self.step(table, row, OpKind::Update, fields)
    }

    /// Writes a row so that it has these fields and no others.
    pub fn replace(&mut self, table: &str, row: &str, fields: Fields) -> Result<(), TransactionError> {
        self.step(table, row, OpKind::Replace, fields)
    }

    /// Deletes a row; says whether it was there.
    pub fn delete(&mut self, table: &str, row: &str) -> Result<bool, TransactionError> {
        let there = self.get(table, row)?.is_some();
        self.step(table, row, OpKind::Delete, Fields::new())?;
        Ok(there)
    }

    /// A row as this transaction sees it. The transaction commits only if the row has not changed by then.
    pub fn get(&mut self, table: &str, row: &str) -> Result<Option<Row>, TransactionError> {
        let key = (TableName::new(table)?, RowKey::new(row)?);
        if !self.read.contains_key(&key) {
            let state = self.store.row(&key.0, &key.1)?;
            self.read.insert(key.clone(), state);
        }
        let stored = self.read.get(&key).and_then(Option::as_ref).and_then(Row::of);
        let steps = self.steps.iter().filter(|step| (&step.table, &step.row) == (&key.0, &key.1));
        Ok(steps.fold(stored, after))
    }

    /// Rows of a table as they are stored, without this transaction's own writes. Each row found is guarded as by
    /// `get`; rows that appear in the range meanwhile are not noticed.
    pub fn scan(&mut self, table: &str, scan: &Scan) -> Result<Vec<(RowKey, Row)>, TransactionError> {
        let name = TableName::new(table)?;
        let states = scan_rows(self.store, table, scan, |state| state.visible().then_some(state))?;
        let mut rows = Vec::with_capacity(states.len());
        for (key, state) in states {
            rows.extend(Row::of(&state).map(|row| (key.clone(), row)));
            self.read.entry((name.clone(), key)).or_insert(Some(state));
        }
        Ok(rows)
    }

    fn step(&mut self, table: &str, row: &str, kind: OpKind, fields: Fields) -> Result<(), TransactionError> {
        let (table, row) = (TableName::new(table)?, RowKey::new(row)?);
        self.steps.push(Step { table, row, kind, fields: fields.checked()? });
        Ok(())
    }

    /// `None` if nothing is written.
    pub(crate) fn into_request(self) -> Option<WriteRequest> {
        let expect = self.read.into_iter().map(|((table, row), state)| {
            let digest = state.map(|state| state.digest(&table, &row));
            (table, row, digest)
        });
        (!self.steps.is_empty()).then(|| WriteRequest {
            changes: self.steps,
            expect: expect.collect(),
            ..WriteRequest::default()
        })
    }
}

/// What a step makes of a row.
fn after(row: Option<Row>, step: &Step) -> Option<Row> {
    let written = || step.fields.iter().map(|(name, value): (_, &Value)| (name.clone(), value.clone()));
    match step.kind {
        OpKind::Delete => None,
        OpKind::Replace => Some(Row { fields: written().collect() }),
        OpKind::Put => {
            let mut row = row.unwrap_or_default();
            row.fields.extend(written());
            Some(row)
        }
        OpKind::Update => row.map(|mut row| {
            row.fields.extend(written());
            row
        }),
    }
}
