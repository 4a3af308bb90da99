//! Applies local transactions to a database in memory, for a profiler: what a commit costs beside the disk.
//!
//! `cargo build --release -p benches --example commit`, then for instance
//! `valgrind --tool=callgrind target/release/examples/commit 1 4000` (transactions that become durable together, and all).

#![allow(clippy::print_stdout, reason = "this is a program for people")]

use benches::batches;
use engine::store::Store;
use engine::testing::test_identity;
use store::RedbStore;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| {
        arguments.get(at).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let (together, transactions) = (number(0, 1) as usize, number(1, 4_000));
    let batches = batches(transactions, together);
    let store = RedbStore::in_memory(test_identity(0).account()).expect("a database");
    // The processor's clock cannot be read under valgrind.
    let begun = std::time::Instant::now();
    batches.iter().for_each(|batch| store.apply(batch).expect("it is applied"));
    println!("{:.2} us a transaction", begun.elapsed().as_secs_f64() * 1e6 / transactions as f64);
}
