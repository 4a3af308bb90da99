//! What the benchmarks measure on: histories of several devices, and the engine driven without a network.
//!
//! Invariant: the same arguments give the same history, so figures of two runs compare.

pub mod disk;
pub mod e2e;
pub mod measure;
#[cfg(feature = "peers")]
pub mod peers;
pub mod plot;
pub mod receiver;
pub mod timed;
pub mod workload;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engine::Engine;
use engine::commit::{Commit, Deps, Op, OpKind, Stamp};
use engine::config::Config;
use engine::hlc::Hlc;
use engine::identity::Sig;
use engine::io::{Change, Input, Output, WriteRequest};
use engine::name::{FieldName, RowKey, TableName};
use engine::numbering::Numbering;
use engine::prng::Prng;
use engine::row::RowState;
use engine::store::{Batch, MemStore, Store};
use engine::testing::{Author, EPOCH_MS, Mesh, op, test_identity};
use engine::time::{Instant, Now, WallMs};
use engine::value::Value;
use store::RedbStore;

/// Rows that a history touches.
pub const ROWS: u64 = 2_000;

/// Commits of one operation each, in the order in which they were written; the devices take turns.
pub fn history(devices: u8, operations: u64) -> Vec<(Commit, Sig)> {
    let mut authors: Vec<Author> = (0..devices).map(Author::new).collect();
    let mut prng = Prng::new([devices; 32]);
    (0..operations)
        .map(|n| {
            let author = &mut authors[(n % u64::from(devices)) as usize];
            author.commit(Hlc::new(EPOCH_MS + n, 0), Deps::new(), vec![operation(n, &mut prng)])
        })
        .collect()
}

fn operation(n: u64, prng: &mut Prng) -> Op {
    let kind = match prng.below(20) {
        0 => OpKind::Delete,
        1..=9 => OpKind::Update,
        _ => OpKind::Put,
    };
    let fields = if kind == OpKind::Delete {
        BTreeMap::new()
    } else {
        BTreeMap::from([
            ("title".to_owned(), Value::Text(format!("Task number {n}"))),
            ("done".to_owned(), Value::Bool(n.is_multiple_of(3))),
        ])
    };
    op("tasks", &format!("task-{:05}", prng.below(ROWS)), kind, fields)
}

/// The same elements in another order.
pub fn shuffled<T: Clone>(of: &[T]) -> Vec<T> {
    let (mut prng, mut items) = (Prng::new([9; 32]), of.to_vec());
    for at in (1..items.len()).rev() {
        items.swap(at, prng.below(at as u64 + 1) as usize);
    }
    items
}

/// The writes of a history, as merge sees them.
pub fn writes(history: &[(Commit, Sig)]) -> Vec<(Stamp, &Op)> {
    history.iter().flat_map(|(commit, _)| commit.ops.iter().map(|op| (commit.stamp(), op))).collect()
}

/// Merges writes to one table into rows by the engine's rules; returns the rows.
pub fn merge(writes: &[(Stamp, &Op)]) -> HashMap<RowKey, RowState> {
    let (mut rows, mut lost) = (HashMap::<RowKey, RowState>::new(), Vec::new());
    let (mut numbering, mut author) = (Numbering::default(), None);
    for (stamp, op) in writes {
        // An engine notices a new author by its head.
        if author.replace(stamp.dot.replica) != Some(stamp.dot.replica) {
            numbering.add(&stamp.dot.replica);
        }
        let row = match rows.get_mut(&op.row) {
            Some(row) => row,
            None => rows.entry(op.row.clone()).or_default(),
        };
        row.renumber(&numbering);
        row.apply(*stamp, op, &mut lost);
        lost.clear();
    }
    rows
}

/// Local transactions, in groups that become durable together.
pub fn groups(transactions: u64, group: usize) -> Vec<Vec<WriteRequest>> {
    let mut prng = Prng::new([3; 32]);
    let request = |id| {
        let op = operation(id, &mut prng);
        let kind = if op.kind == OpKind::Update { OpKind::Put } else { op.kind };
        let changes =
            vec![Change { table: op.table, row: op.row, kind, fields: op.fields.into_iter().collect() }];
        WriteRequest { id, changes, ..WriteRequest::default() }
    };
    let requests: Vec<WriteRequest> = (0..transactions).map(request).collect();
    requests.chunks(group).map(<[_]>::to_vec).collect()
}

/// Batches as an engine gives them, of local transactions that become durable in groups.
pub fn batches(transactions: u64, group: usize) -> Vec<Batch> {
    let (identity, store) = (test_identity(0), MemStore::new());
    let now = |n: u64| Now { mono: Instant(n * 1000), wall: WallMs(EPOCH_MS + n) };
    let recovered = engine::store::StoreRead::recover(&store).expect("memory");
    let engine = Engine::new(Config::default(), identity, [1; 32], recovered, now(0), &store);
    let mut engine = engine.expect("an engine");
    let mut all = drain(&mut engine, &store);
    for (n, group) in groups(transactions, group).into_iter().enumerate() {
        engine.handle(now(n as u64 + 1), Input::Write(group), &store).expect("memory");
        all.extend(drain(&mut engine, &store));
    }
    all
}

fn drain(engine: &mut Engine, store: &MemStore) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(output) = engine.poll_output() {
        if let Output::Commit(batch) = output {
            store.apply(&batch).expect("memory takes it");
            batches.push(*batch);
        }
    }
    batches
}

/// Applies batches durably to a new database file in a folder.
pub fn apply_durably(folder: &Path, batches: &[Batch]) -> RedbStore {
    let store = RedbStore::create(&folder.join("bench.redb"), test_identity(0).account(), [7; 16]);
    let store = store.expect("a new database");
    batches.iter().for_each(|batch| store.apply(batch).expect("it is applied"));
    store
}

/// Two devices, not connected, of which one has written so many operations.
pub fn unsynced(operations: u64) -> Mesh {
    let mut mesh = Mesh::new(2, 1, Config::default());
    let field = FieldName::new("title").expect("a name");
    for n in 0..operations {
        let change = Change {
            table: TableName::new("tasks").expect("a name"),
            row: RowKey::new(&format!("task-{:05}", n % ROWS)).expect("a key"),
            kind: OpKind::Put,
            fields: BTreeMap::from([(field.clone(), Value::Text(format!("Task number {n}")))]),
        };
        mesh.write(0, vec![change]);
    }
    mesh
}

/// Connects the two and runs until they know the same.
pub fn sync(mesh: &mut Mesh) {
    mesh.connect(0, 1);
    assert!(mesh.run_until_equal(600_000), "they converge");
}
