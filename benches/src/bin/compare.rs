//! One small table of ratios, all measured in this run: what merging costs beside a bare map, what an operation takes
//! on the wire, and what committing in groups saves.

#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::{apply_durably, batches, history, merge, shuffled, writes};
use engine::commit::{Commit, Op, Stamp};
use engine::name::{FieldName, RowKey, TableName};
use engine::value::Value;
use engine::wire::message::{Ops, Run, pack_ops};

const OPERATIONS: u64 = 10_000;
const TRANSACTIONS: u64 = 512;
const ROUNDS: usize = 9;

type Key = (TableName, RowKey, FieldName);

/// Last write wins on single fields, without deletes, creates or a record of what lost.
fn bare_ordered(writes: &[(Stamp, Op)]) -> BTreeMap<Key, (Stamp, Value)> {
    let mut fields = BTreeMap::new();
    for (stamp, op) in writes {
        for (field, value) in &op.fields {
            let entry = fields.entry((op.table.clone(), op.row.clone(), field.clone()));
            let cell = entry.or_insert_with(|| (*stamp, value.clone()));
            if cell.0 < *stamp {
                *cell = (*stamp, value.clone());
            }
        }
    }
    fields
}

fn bare_hashed(writes: &[(Stamp, Op)]) -> HashMap<Key, (Stamp, Value)> {
    let mut fields = HashMap::new();
    for (stamp, op) in writes {
        for (field, value) in &op.fields {
            let entry = fields.entry((op.table.clone(), op.row.clone(), field.clone()));
            let cell = entry.or_insert_with(|| (*stamp, value.clone()));
            if cell.0 < *stamp {
                *cell = (*stamp, value.clone());
            }
        }
    }
    fields
}

/// The median of a few rounds.
fn time<R>(mut work: impl FnMut() -> R) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

fn durable(group: usize) -> Duration {
    let batches = batches(TRANSACTIONS, group);
    time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        apply_durably(folder.path(), &batches);
        folder
    })
}

fn main() {
    let writes = shuffled(&writes(&history(8, OPERATIONS)));
    let ours = time(|| merge(&writes));
    let (ordered, hashed) = (time(|| bare_ordered(&writes)), time(|| bare_hashed(&writes)));
    let micros = |time: Duration, per: u64| time.as_secs_f64() * 1e6 / per as f64;
    println!("{:<58} {:>10}  ratio", "", "us each");
    let row = |name: &str, value: f64, base: f64| println!("{name:<58} {value:>10.2}  {:.2}", value / base);
    let base = micros(ours, OPERATIONS);
    row("merge an operation, 8 devices, shuffled", base, base);
    row("the same into a bare BTreeMap of fields", micros(ordered, OPERATIONS), base);
    row("the same into a bare HashMap of fields", micros(hashed, OPERATIONS), base);
    let (single, grouped) = (micros(durable(1), TRANSACTIONS), micros(durable(64), TRANSACTIONS));
    row("a durable transaction, committed alone", single, single);
    row("a durable transaction, 64 committed together", grouped, single);

    let signed = history(1, 1_000);
    let sig = signed[signed.len() - 1].1;
    let commits: Vec<Commit> = signed.into_iter().map(|(commit, _)| commit).collect();
    let count = commits.len() as f64;
    let canonical: usize = commits.iter().map(|commit| commit.encode().len() + 64).sum();
    let ops = Ops { want: 1, offset: 0, done: true, runs: vec![Run { commits, sig }] };
    let frame = pack_ops(1, &ops).expect("it fits a frame");
    println!("\n{:<58} {:>10}  ratio", "", "B each");
    row(
        "an operation on the wire, in a run of 1000, deflated",
        frame.len() as f64 / count,
        frame.len() as f64 / count,
    );
    row(
        "the same, each commit by itself with its signature",
        canonical as f64 / count,
        frame.len() as f64 / count,
    );
}
