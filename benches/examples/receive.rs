//! Receives one history again and again, for a profiler: nothing else is in the profile.
//!
//! `cargo build --release -p benches --example receive`, then for instance
//! `perf record -g target/release/examples/receive memory 100000 1000 10` (store, operations, operations a frame, rounds).

#![allow(clippy::print_stdout, reason = "this is a program for people")]

use benches::measure::once;
use benches::receiver::Receiver;
use benches::workload::{Choice, Workload};
use engine::identity::AccountId;
use engine::store::MemStore;
use engine::testing::test_root;
use store::RedbStore;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| {
        arguments.get(at).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let durable = arguments.first().is_some_and(|kind| kind == "redb");
    let (operations, batch, rounds) = (number(1, 100_000), number(2, 1_000), number(3, 5));
    let frames = Workload::new(8, operations, Choice::Uniform).frames(batch as usize);
    for _ in 0..rounds {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ahenk.redb");
        let ((), spent) = once(|| {
            if durable {
                let account = AccountId(test_root().public());
                let mut receiver =
                    Receiver::new(RedbStore::create(&path, account, [7; 16]).expect("a new database"));
                frames.iter().for_each(|frame| receiver.frame(frame));
            } else {
                let mut receiver = Receiver::new(MemStore::new());
                frames.iter().for_each(|frame| receiver.frame(frame));
            }
        });
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        let each = spent.per(operations);
        println!(
            "{:.0} ns of the processor, {:.0} ns by the clock, {} B on disk",
            each.cpu_ns,
            each.wall_ns,
            bytes / operations
        );
    }
}
