//! Stores of rows: a bare hash map, SQLite, and redb by itself.

use std::collections::HashMap;
use std::path::Path;

use engine::commit::{Op, Stamp};
use engine::value::Value;
use redb::{Database, ReadableTable, TableDefinition};
use rusqlite::Connection;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// A write of one field, taken apart: the row's key, the field's number, the stamp, the value.
#[derive(Debug, Clone, Copy)]
struct Write<'a> {
    row: &'a [u8; 16],
    /// 255 for a delete, which writes a field of its own.
    field: u8,
    stamp: (u64, u64),
    value: &'a str,
}

fn take_apart<'a>(stamp: &Stamp, op: &'a Op) -> Write<'a> {
    let (field, value) = match op.fields.iter().next() {
        Some((name, Value::Text(text))) => (name.as_str().as_bytes()[6], text.as_str()),
        _ => (255, ""),
    };
    let row = op.row.as_str().as_bytes().try_into().expect("keys of 16 bytes");
    Write { row, field, stamp: (stamp.hlc.0, stamp.dot.replica.incarnation), value }
}

/// The limit in memory: the newest write of each field in a hash map. Returns how many fields there are.
pub fn bare_map(writes: &[(Stamp, &Op)]) -> usize {
    let mut fields = HashMap::<([u8; 16], u8), ((u64, u64), String)>::new();
    for (stamp, op) in writes {
        let write = take_apart(stamp, op);
        match fields.entry((*write.row, write.field)) {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                if entry.get().0 < write.stamp {
                    entry.insert((write.stamp, write.value.to_owned()));
                }
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert((write.stamp, write.value.to_owned()));
            }
        }
    }
    fields.len()
}

/// SQLite: one upsert for each write, WAL, one transaction a batch.
pub fn sqlite(folder: &Path, writes: &[(Stamp, &Op)], batch: usize, full: bool) {
    let mut db = sqlite_open(folder, full);
    for batch in writes.chunks(batch) {
        sqlite_batch(&mut db, batch);
    }
}

/// SQLite: each write a transaction of its own, with synchronous FULL.
pub fn sqlite_commits(db: &mut Connection, writes: &[(Stamp, &Op)]) {
    for write in writes.chunks(1) {
        sqlite_batch(db, write);
    }
}

/// SQLite: a new database; with `full`, each transaction of it is synced.
pub fn sqlite_open(folder: &Path, full: bool) -> Connection {
    let db = Connection::open(folder.join("sqlite")).expect("a database");
    let synchronous = if full { "FULL" } else { "NORMAL" };
    db.execute_batch(&format!(
        "pragma journal_mode = wal; pragma synchronous = {synchronous};
         create table fields (row blob, field int, hlc int, author int, value text, primary key (row, field))
         without rowid;"
    ))
    .expect("a table");
    db
}

fn sqlite_batch(db: &mut Connection, batch: &[(Stamp, &Op)]) {
    let txn = db.transaction().expect("a transaction");
    {
        let mut upsert = txn
            .prepare_cached(
                "insert into fields values (?1, ?2, ?3, ?4, ?5) on conflict do update
                 set hlc = excluded.hlc, author = excluded.author, value = excluded.value
                 where (excluded.hlc, excluded.author) > (hlc, author)",
            )
            .expect("a statement");
        for (stamp, op) in batch {
            let Write { row, field, stamp, value } = take_apart(stamp, op);
            upsert
                .execute((&row[..], i64::from(field), stamp.0 as i64, stamp.1 as i64, value))
                .expect("an upsert");
        }
    }
    txn.commit().expect("a commit");
}

/// redb: a new database.
pub fn redb_new(folder: &Path) -> Database {
    Database::create(folder.join("redb")).expect("a database")
}

/// redb: fields by key, compared and replaced one by one, one transaction a batch.
pub fn redb_rows(folder: &Path, writes: &[(Stamp, &Op)], batch: usize) {
    let db = redb_new(folder);
    for batch in writes.chunks(batch) {
        let txn = db.begin_write().expect("a transaction");
        {
            let mut rows = txn.open_table(ROWS).expect("a table");
            for (stamp, op) in batch {
                let write = take_apart(stamp, op);
                let key = [&write.row[..], &[write.field]].concat();
                let stamp = [write.stamp.0.to_be_bytes(), write.stamp.1.to_be_bytes()].concat();
                let older =
                    rows.get(key.as_slice()).expect("a read").is_none_or(|old| old.value()[..16] < stamp[..]);
                if older {
                    rows.insert(key.as_slice(), [&stamp, write.value.as_bytes()].concat().as_slice())
                        .expect("a write");
                }
            }
        }
        txn.commit().expect("a commit");
    }
}

/// redb: appending each frame as it is, one transaction each. The limit of a log.
pub fn redb_blobs(folder: &Path, frames: &[Vec<u8>]) {
    let db = redb_new(folder);
    for (n, frame) in (0..).zip(frames) {
        let txn = db.begin_write().expect("a transaction");
        txn.open_table(LOG).expect("a table").insert(n, frame.as_slice()).expect("a write");
        txn.commit().expect("a commit");
    }
}

/// redb: commits of one small record.
pub fn redb_commits(db: &Database, count: u64) {
    for n in 0..count {
        let txn = db.begin_write().expect("a transaction");
        txn.open_table(LOG).expect("a table").insert(n, [7; 150].as_slice()).expect("a write");
        txn.commit().expect("a commit");
    }
}
