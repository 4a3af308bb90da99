//! Interning: replicas and tables have small numbers on disk, dense from 0, given once and for ever.
//!
//! Invariant: the names in memory cover at least those of every snapshot that a reader can hold, because
//! a writer publishes them before it commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::codec::{DecodeError, Reader};
use engine::identity::ReplicaId;
use engine::name::TableName;
use engine::numbering::Numbering;
use engine::store::StoreError;
use redb::{ReadableTable, WriteTransaction};

use crate::error::{damaged, redb};
use crate::record;
use crate::schema::{Definition, REPLICAS, TABLES};

/// Values and their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Numbered<T> {
    values: Vec<T>,
    numbers: BTreeMap<T, u32>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Numbered<T> {
        Numbered { values: Vec::new(), numbers: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Numbered<T> {
    pub(crate) fn number(&self, value: &T) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    pub(crate) fn value(&self, number: u32) -> Option<&T> {
        self.values.get(usize::try_from(number).ok()?)
    }

    /// All values, ascending, with their numbers.
    pub(crate) fn sorted(&self) -> impl Iterator<Item = (&T, u32)> {
        self.numbers.iter().map(|(value, number)| (value, *number))
    }

    fn add(&mut self, value: T) -> u32 {
        // Each number costs a record on disk: 2^32 of them do not fit any.
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }
}

/// The names of one state of the database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) replicas: Numbered<ReplicaId>,
    pub(crate) tables: Numbered<TableName>,
    /// What replicas are called in rows in memory, by the engine if it has said so.
    pub(crate) numbering: Numbering,
}

impl Names {
    pub(crate) fn replica(&self, number: u32) -> Result<ReplicaId, DecodeError> {
        self.replicas.value(number).copied().ok_or(DecodeError::Invalid("a replica's number"))
    }

    pub(crate) fn get_replica(&self, reader: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
        let number = u32::try_from(reader.varint()?).map_err(|_| DecodeError::BadInteger)?;
        self.replica(number)
    }
}

/// The number of a replica; a new one is added.
pub(crate) fn replica_number(names: &mut Arc<Names>, replica: &ReplicaId) -> u32 {
    match names.replicas.number(replica) {
        Some(number) => number,
        None => Arc::make_mut(names).replicas.add(*replica),
    }
}

/// The number of a table; a new one is added.
pub(crate) fn table_number(names: &mut Arc<Names>, table: &TableName) -> u32 {
    match names.tables.number(table) {
        Some(number) => number,
        None => Arc::make_mut(names).tables.add(table.clone()),
    }
}

/// Reads all names of a snapshot.
pub(crate) fn load(
    replicas: &impl ReadableTable<&'static [u8], &'static [u8]>,
    tables: &impl ReadableTable<&'static [u8], &'static [u8]>,
) -> Result<Names, StoreError> {
    let replicas = load_numbered(replicas, |bytes| {
        let mut reader = Reader::new(bytes);
        let replica = record::get_replica(&mut reader).map_err(damaged("a replica"))?;
        reader.finish().map_err(damaged("a replica"))?;
        Ok(replica)
    })?;
    let numbering = replicas.values.iter().collect();
    Ok(Names { replicas, tables: load_tables(tables)?, numbering })
}

/// Reads the names of the tables of a snapshot.
pub(crate) fn load_tables(
    tables: &impl ReadableTable<&'static [u8], &'static [u8]>,
) -> Result<Numbered<TableName>, StoreError> {
    load_numbered(tables, |bytes| {
        let text = std::str::from_utf8(bytes).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        TableName::new(text).map_err(|error| StoreError::Corrupt(error.to_string()))
    })
}

fn load_numbered<T: Ord + Clone>(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    decode: impl Fn(&[u8]) -> Result<T, StoreError>,
) -> Result<Numbered<T>, StoreError> {
    let mut numbered = Numbered::default();
    for entry in table.iter().map_err(redb)? {
        let (key, value) = entry.map_err(redb)?;
        let value = decode(value.value())?;
        if numbered.number(&value).is_some() || key.value() != (numbered.values.len() as u32).to_be_bytes() {
            return Err(StoreError::Corrupt("interned names are not dense and distinct".into()));
        }
        numbered.add(value);
    }
    Ok(numbered)
}

/// Writes the names that `new` has and `old` has not.
pub(crate) fn save(txn: &WriteTransaction, old: &Names, new: &Names) -> Result<(), StoreError> {
    save_numbered(txn, REPLICAS, &old.replicas, &new.replicas, record::replica_bytes)?;
    save_numbered(txn, TABLES, &old.tables, &new.tables, |table| table.as_str().as_bytes().to_vec())
}

fn save_numbered<T: Ord + Clone>(
    txn: &WriteTransaction,
    definition: Definition,
    old: &Numbered<T>,
    new: &Numbered<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Result<(), StoreError> {
    let from = old.values.len();
    if from == new.values.len() {
        return Ok(());
    }
    let mut table = txn.open_table(definition).map_err(redb)?;
    for (number, value) in new.values.iter().enumerate().skip(from) {
        table.insert((number as u32).to_be_bytes().as_slice(), encode(value).as_slice()).map_err(redb)?;
    }
    Ok(())
}
