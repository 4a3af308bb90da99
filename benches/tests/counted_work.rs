//! Work that can be counted, of a fixed workload: allocations, bytes, writes and syncs of the disk, frames. It is the same
//! on every machine, so a change that makes it grow fails here. The limits stand a little above what it is.

use std::alloc::System;
use std::collections::BTreeMap;

use benches::disk::{CountingDisk, Done};
use benches::groups;
use benches::receiver::Receiver;
use benches::workload::{Choice, Workload};
use engine::commit::Stamp;
use engine::config::Config;
use engine::hlc::Hlc;
use engine::identity::AccountId;
use engine::io::Input;
use engine::name::RowKey;
use engine::row::RowState;
use engine::store::{MemStore, Store, StoreRead};
use engine::testing::{Mesh, test_root};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use store::RedbStore;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const OPERATIONS: u64 = 10_000;
/// Allocations for an operation that arrives in a frame and is applied to a store in memory.
const ALLOCATIONS_MEMORY_MAX: f64 = 10.5;
/// The same for redb.
const ALLOCATIONS_REDB_MAX: f64 = 7.7;
/// Bytes of frames for an operation.
const WIRE_BYTES_MAX: f64 = 18.5;
/// Bytes both ways for a commit that was lost, beyond the commit and its signature.
const LOST_COMMIT_BYTES_MAX: u64 = 124;
/// Memory that the pieces of rows take for an operation, in bytes.
const ROWS_BYTES_MAX: f64 = 30.0;
/// Writes of the disk for a batch of 1,000 operations.
const DISK_WRITES_MAX: u64 = 18;
/// Bytes written to the disk for an operation.
const DISK_BYTES_MAX: f64 = 67.0;
/// Syncs of the disk for ten batches.
const DISK_SYNCS_MAX: u64 = 14;

/// Local transactions that become durable together, and for each of them: writes of the disk, bytes in them, allocations.
const LOCAL_MAX: [(usize, [f64; 3]); 2] = [(1, [10.2, 37_700.0, 275.0]), (64, [0.15, 560.0, 21.0])];

/// Allocations are counted for the whole process, so what is counted runs alone.
#[test]
fn the_work_of_a_fixed_workload_does_not_grow() {
    let workload = Workload::new(8, OPERATIONS, Choice::Uniform);
    let frames = workload.frames(1_000);
    losing_and_repeated_writes_cost_no_memory(&workload);
    rows_in_memory(&workload);
    bytes_on_the_wire(&frames);
    allocations("memory", &frames, MemStore::new(), ALLOCATIONS_MEMORY_MAX);
    let redb = RedbStore::in_memory(AccountId(test_root().public())).expect("a database");
    allocations("redb", &frames, redb, ALLOCATIONS_REDB_MAX);
    disk(&frames);
    local_writes();
    frames_of_a_session();
}

fn each(count: u64) -> f64 {
    count as f64 / OPERATIONS as f64
}

fn losing_and_repeated_writes_cost_no_memory(workload: &Workload) {
    let writes = workload.writes();
    let mut rows = BTreeMap::<&RowKey, RowState>::new();
    for (stamp, op) in &writes {
        rows.entry(&op.row).or_default().apply(*stamp, op, &mut ());
    }
    // As in an engine, whose store has the rows, too.
    let held = rows.clone();
    let region = Region::new(ALLOCATOR);
    for (stamp, op) in &writes {
        let earlier = Stamp { hlc: Hlc(1), ..*stamp };
        let row = rows.get_mut(&op.row).expect("a row");
        row.apply(*stamp, op, &mut ());
        // Fields that are not there yet would be added, and a row without a delete keeps an old one.
        if op.fields.keys().all(|field| row.cells().find(field.as_str()).is_some()) && !op.fields.is_empty() {
            row.apply(earlier, op, &mut ());
        }
    }
    assert_eq!(region.change().allocations, 0);
    assert!(held == rows);
}

fn rows_in_memory(workload: &Workload) {
    let rows = benches::merge(&workload.writes());
    let bytes = each(rows.values().map(RowState::bytes).sum::<usize>() as u64);
    assert!(bytes < ROWS_BYTES_MAX, "{bytes} B an operation");
}

fn bytes_on_the_wire(frames: &[Vec<u8>]) {
    let bytes = each(frames.iter().map(Vec::len).sum::<usize>() as u64);
    assert!(bytes < WIRE_BYTES_MAX, "{bytes} B an operation");
}

fn allocations(what: &str, frames: &[Vec<u8>], store: impl Store, max: f64) {
    let mut receiver = Receiver::new(store);
    let region = Region::new(ALLOCATOR);
    frames.iter().for_each(|frame| receiver.frame(frame));
    let count = each(region.change().allocations as u64);
    assert_eq!(receiver.applied(), OPERATIONS + 1);
    assert!(count < max, "{what}: {count} allocations an operation");
}

fn disk(frames: &[Vec<u8>]) {
    let (disk, counts) = CountingDisk::new();
    let account = AccountId(test_root().public());
    let mut receiver = Receiver::new(RedbStore::with_backend(disk, account).expect("a database"));
    let before = counts.done();
    frames.iter().for_each(|frame| receiver.frame(frame));
    let Done { writes, bytes, syncs } = counts.done().since(before);
    // One for each batch, and those with which the file grows.
    assert!(syncs <= DISK_SYNCS_MAX, "{syncs} syncs");
    assert!(writes < DISK_WRITES_MAX * frames.len() as u64, "{writes} writes");
    assert!(each(bytes) < DISK_BYTES_MAX, "{} B written an operation", each(bytes));
}

/// Local transactions, alone and in groups: a group takes as many writes as a transaction that is alone, and a page or two for
/// what is in it.
fn local_writes() {
    for (together, [writes_max, bytes_max, allocations_max]) in LOCAL_MAX {
        let (disk, counts) = CountingDisk::new();
        let account = AccountId(test_root().public());
        let mut receiver = Receiver::new(RedbStore::with_backend(disk, account).expect("a database"));
        let inputs: Vec<Input> = groups(1_024, together).into_iter().map(Input::Write).collect();
        let (before, region) = (counts.done(), Region::new(ALLOCATOR));
        inputs.into_iter().for_each(|input| receiver.input(input));
        let (done, allocations) = (counts.done().since(before), region.change().allocations);
        let each = [done.writes, done.bytes, allocations as u64].map(|count| count as f64 / 1_024.0);
        for (what, (each, max)) in ["writes", "bytes", "allocations"].iter().zip(each.iter().zip([
            writes_max,
            bytes_max,
            allocations_max,
        ])) {
            assert!(*each <= max, "{together} together: {each} {what} a transaction");
        }
    }
}

fn sent(mesh: &Mesh) -> [u64; 2] {
    [0, 1].map(|node| mesh.engine(node).stats().total.frames_sent)
}

fn bytes_sent(mesh: &Mesh) -> u64 {
    [0, 1].map(|node| mesh.engine(node).stats().total.bytes_sent).iter().sum()
}

fn change(n: u64) -> Vec<engine::io::Change> {
    let workload = Workload::new(1, n + 1, Choice::Uniform);
    let op = &workload.commits().last().expect("a commit").ops[0];
    vec![engine::io::Change {
        table: op.table.clone(),
        row: op.row.clone(),
        kind: engine::commit::OpKind::Put,
        fields: op.fields.clone().into_iter().collect(),
    }]
}

/// Between devices that are connected, a commit takes two frames: itself, and that it has arrived. A question whether
/// anything is new takes two as well. A hundred commits that were lost on the way take four: the question, all of them, that
/// this is all, and that they have arrived.
fn frames_of_a_session() {
    let mut mesh = Mesh::new(2, 1, Config::default());
    mesh.connect(0, 1);
    assert!(mesh.run_until_equal(60_000));
    mesh.run_ms(1_000);
    let count = |mesh: &mut Mesh, act: &dyn Fn(&mut Mesh)| {
        let before = sent(mesh);
        act(mesh);
        assert!(mesh.run_until_equal(60_000));
        mesh.run_ms(500);
        let after = sent(mesh);
        [after[0] - before[0], after[1] - before[1]]
    };
    let write = |mesh: &mut Mesh| {
        mesh.write(0, change(0));
    };
    assert_eq!(count(&mut mesh, &write), [1, 1]);
    let ask = |mesh: &mut Mesh| mesh.input(1, Input::SyncNow);
    assert_eq!(count(&mut mesh, &ask), [1, 1]);
    mesh.cut(0, 1);
    (0..100).for_each(|n| {
        mesh.write(0, change(n));
    });
    mesh.run_ms(100);
    let mend = |mesh: &mut Mesh| {
        mesh.connect(0, 1);
        ask(mesh);
    };
    assert_eq!(count(&mut mesh, &mend), [2, 2]);

    let (replica, bytes) = (mesh.engine(0).replica(), bytes_sent(&mesh));
    let seq = mesh.engine(0).knowledge().prefix_len(&replica) + 1;
    mesh.cut(0, 1);
    mesh.write(0, change(0));
    mesh.run_ms(100);
    let pushed = bytes_sent(&mesh) - bytes;
    assert_eq!(count(&mut mesh, &mend), [2, 2]);
    let own = mesh.store(0).commits(&replica, seq, 1, usize::MAX).expect("memory");
    let payload = own[0].commit.encode().len() as u64 + 64;
    let beyond = bytes_sent(&mesh) - bytes - pushed - payload;
    assert!(beyond < LOST_COMMIT_BYTES_MAX, "{beyond} B beyond a lost commit");
}
