//! What is counted rather than timed, and so comes out the same on every machine: allocations for an operation, and the
//! bytes that are held for it afterwards.
//!
//! `cargo run --release -p benches --bin counted [--million]`. Beside `compare`, because an allocator that counts would slow
//! down what is timed there. `tests/counted_work.rs` limits some of this on a smaller workload.

#![allow(clippy::print_stdout, reason = "this is a table for people")]

use std::alloc::System;
use std::collections::HashMap;

use benches::measure::{Goal, Table};
use benches::receiver::Receiver;
use benches::workload::{Choice, Workload};
use engine::codec::{Reader, Writer};
use engine::commit::{Op, Stamp};
use engine::identity::AccountId;
use engine::name::{FieldName, RowKey};
use engine::row::RowState;
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

fn show(table: &mut Table, what: &str, stats: &Stats, operations: u64) {
    // What grows or shrinks in place is in these already.
    let held = stats.bytes_allocated as f64 - stats.bytes_deallocated as f64;
    table.row(what, stats.allocations as f64 / operations as f64, "alloc/op", Goal::None);
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

fn merge(writes: &[(Stamp, &Op)]) -> HashMap<RowKey, RowState> {
    let mut rows = HashMap::<RowKey, RowState>::new();
    for (stamp, op) in writes {
        rows.entry(op.row.clone()).or_default().apply(*stamp, op, &mut ());
    }
    rows
}

fn receive<S: Store>(table: &mut Table, what: &str, frames: &[Vec<u8>], operations: u64, store: S) {
    let mut receiver = Receiver::new(store);
    let ((), stats) = count(|| frames.iter().for_each(|frame| receiver.frame(frame)));
    assert_eq!(receiver.applied(), operations + 1);
    show(table, what, &stats, operations);
}

fn main() {
    let account = AccountId(test_root().public());
    let mut table = Table::default();
    let million = std::env::args().any(|argument| argument == "--million");
    let operations = if million { 1_000_000 } else { 100_000 };
    table.section(&format!("counted: {operations} operations of 8 devices, a row for ten"));
    let workload = Workload::new(8, operations, Choice::Uniform);
    let writes = workload.writes();
    show(&mut table, "merge into rows", &count(|| merge(&writes)).1, operations);
    show(&mut table, "a bare hash map of fields", &count(|| bare_map(&writes)).1, operations);

    let frames = workload.frames(1_000);
    let batches: Vec<_> = workload.batches(1_000).collect();
    let encode = |runs| {
        let mut writer = Writer::new();
        encode_runs(runs, &mut writer);
        writer.into_bytes()
    };
    let (encoded, stats) = count(|| batches.iter().map(|runs| encode(runs)).collect::<Vec<_>>());
    show(&mut table, "encode by columns", &stats, operations);
    let decode = |bytes: &Vec<u8>| decode_runs(&mut Reader::new(bytes), &account).expect("it decodes");
    let stats = count(|| encoded.iter().map(decode).collect::<Vec<_>>()).1;
    show(&mut table, "decode and hash", &stats, operations);
    receive(&mut table, "frames of 1000 into a store in memory", &frames, operations, MemStore::new());
    let folder = tempfile::tempdir().expect("a folder");
    let redb = RedbStore::create(&folder.path().join("ahenk.redb"), account, [7; 16]).expect("a database");
    receive(&mut table, "frames of 1000 into redb", &frames, operations, redb);
}
