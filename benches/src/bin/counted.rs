//! What is counted rather than timed, and so comes out the same on every machine: allocations for an operation, and the
//! bytes that are held for it afterwards.
//!
//! `cargo run --release -p benches --bin counted [--million]`. Beside `compare`, because an allocator that counts would slow
//! down what is timed there. `tests/counted_work.rs` limits some of this on a smaller workload.

#![allow(clippy::print_stdout, reason = "this is a table for people")]

use std::alloc::System;
use std::collections::HashMap;

use benches::disk::{CountingDisk, Done};
use benches::measure::{Goal, Table};
use benches::receiver::Receiver;
use benches::workload::{Choice, Workload};
use benches::{groups, merge};
use engine::codec::{Reader, Writer};
use engine::commit::{Op, Stamp};
use engine::identity::AccountId;
use engine::io::Input;
use engine::name::{FieldName, RowKey};
use engine::store::{MemStore, Store};
use engine::testing::test_root;
use engine::value::Value;
use engine::wire::columns::{decode_runs, encode_runs};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use store::RedbStore;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Does some work, and keeps what it made until it is counted.
fn count<R>(work: impl FnOnce() -> R) -> (R, Stats) {
    let region = Region::new(ALLOCATOR);
    let made = work();
    let stats = region.change();
    (made, stats)
}

fn allocations(table: &mut Table, what: &str, stats: &Stats, operations: u64) {
    table.row(what, stats.allocations as f64 / operations as f64, "alloc/op", Goal::None);
}

fn show(table: &mut Table, what: &str, stats: &Stats, operations: u64) {
    // What grows or shrinks in place is in these already.
    let held = stats.bytes_allocated as f64 - stats.bytes_deallocated as f64;
    allocations(table, what, stats, operations);
    table.row("  held afterwards", held / operations as f64, "B/op", Goal::None);
}

/// What a bare map holds: the newest value of each field and its stamp.
fn bare_map(writes: &[(Stamp, &Op)]) -> HashMap<(RowKey, FieldName), (Stamp, Value)> {
    let mut cells = HashMap::<(RowKey, FieldName), (Stamp, Value)>::new();
    for (stamp, op) in writes {
        for (field, value) in op.fields.iter() {
            let cell =
                cells.entry((op.row.clone(), field.clone())).or_insert_with(|| (*stamp, value.clone()));
            if cell.0 < *stamp {
                *cell = (*stamp, value.clone());
            }
        }
    }
    cells
}

fn receive<S: Store>(table: &mut Table, what: &str, frames: &[Vec<u8>], operations: u64, store: S) {
    let mut receiver = Receiver::new(store);
    let ((), stats) = count(|| frames.iter().for_each(|frame| receiver.frame(frame)));
    assert_eq!(receiver.applied(), operations + 1);
    show(table, what, &stats, operations);
}

/// Local transactions.
const TRANSACTIONS: u64 = 1_024;

/// Local transactions from the engine to a database in memory, with a peer to whom they are pushed.
fn write(table: &mut Table, account: AccountId, group: usize) {
    let (disk, counts) = CountingDisk::new();
    let mut receiver = Receiver::new(RedbStore::with_backend(disk, account).expect("a database"));
    let inputs: Vec<Input> = groups(TRANSACTIONS, group).into_iter().map(Input::Write).collect();
    let before = counts.done();
    let ((), stats) = count(|| inputs.into_iter().for_each(|input| receiver.input(input)));
    assert_eq!(receiver.applied(), TRANSACTIONS + 1);
    allocations(table, &format!("a local transaction, {group} together"), &stats, TRANSACTIONS);
    written(table, counts.done().since(before));
}

fn written(table: &mut Table, done: Done) {
    let each = |count: u64| count as f64 / TRANSACTIONS as f64;
    table.row("  writes of the disk", each(done.writes), "", Goal::None);
    table.row("  bytes in them", each(done.bytes), "B", Goal::None);
    table.row("  syncs", each(done.syncs), "", Goal::None);
}

/// The same number of transactions of one small record, on redb alone.
fn bare_redb(table: &mut Table) {
    const LOG: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("log");
    let (disk, counts) = CountingDisk::new();
    let db = redb::Builder::new().create_with_backend(disk).expect("a database");
    let commit = |n| {
        let txn = db.begin_write().expect("a transaction");
        txn.open_table(LOG).expect("a table").insert(n, [7; 150].as_slice()).expect("a write");
        txn.commit().expect("a commit");
    };
    commit(0);
    let before = counts.done();
    let ((), stats) = count(|| (1..=TRANSACTIONS).for_each(commit));
    allocations(table, "redb alone, a small record", &stats, TRANSACTIONS);
    written(table, counts.done().since(before));
}

/// What merging writes and holding the rows takes, beside a bare map.
fn merged(table: &mut Table, devices: u8, operations: u64) {
    for choice in [Choice::Uniform, Choice::Zipf] {
        let workload = Workload::new(devices, operations, choice);
        let writes = workload.writes();
        let name = format!("{operations} operations, {devices} devices, {choice:?}");
        show(table, &format!("{name}: merge into rows"), &count(|| merge(&writes)).1, operations);
        show(table, &format!("{name}: a bare map of fields"), &count(|| bare_map(&writes)).1, operations);
    }
}

/// What it takes from operations to bytes and back, and from frames into a store.
fn moved(table: &mut Table, account: AccountId, operations: u64) {
    let workload = Workload::new(8, operations, Choice::Uniform);
    let frames = workload.frames(1_000);
    let batches: Vec<_> = workload.batches(1_000).collect();
    let encode = |runs| {
        let mut writer = Writer::new();
        encode_runs(runs, &mut writer);
        writer.into_bytes()
    };
    let (encoded, stats) = count(|| batches.iter().map(|runs| encode(runs)).collect::<Vec<_>>());
    show(table, "encode by columns", &stats, operations);
    let decode = |bytes: &Vec<u8>| decode_runs(&mut Reader::new(bytes), &account).expect("it decodes");
    let stats = count(|| encoded.iter().map(decode).collect::<Vec<_>>()).1;
    show(table, "decode and hash", &stats, operations);
    receive(table, "frames of 1000 into a store in memory", &frames, operations, MemStore::new());
    let folder = tempfile::tempdir().expect("a folder");
    let redb = RedbStore::create(&folder.path().join("ahenk.redb"), account, [7; 16]).expect("a database");
    receive(table, "frames of 1000 into redb", &frames, operations, redb);
}

fn main() {
    let account = AccountId(test_root().public());
    let mut table = Table::default();
    let million = std::env::args().any(|argument| argument == "--million");
    let operations = if million { 1_000_000 } else { 100_000 };
    let table = &mut table;
    table.section("counted: a row for ten operations");
    for (devices, operations) in [(8, 10_000), (2, operations), (8, operations)] {
        merged(table, devices, operations);
    }
    moved(table, account, operations);
    [1, 8, 64].into_iter().for_each(|group| write(table, account, group));
    bare_redb(table);
}
