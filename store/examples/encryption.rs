//! What encryption costs: the same work on a plain and on an encrypted database, in processor time and in bytes.
//!
//! ```sh
//! cargo run --release -p store --example encryption
//! ```
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::commit::OpKind;
use engine::identity::AccountId;
use engine::name::{RowKey, TableName};
use engine::store::contract::History;
use engine::store::{Batch, Store, StoreRead};
use engine::testing::{op, test_root};
use engine::value::Value;
use rustix::time::{ClockId, clock_gettime};
use store::{DataKey, RedbStore, StoreOptions, guard_path};

const BATCHES: u64 = 400;
const COMMITS: u64 = 100;
const ROWS: u64 = 8_000;
const READS: u64 = 20_000;
const ROUNDS: u8 = 5;

/// Processor time and time by the clock.
type Spent = (Duration, Duration);

fn processor() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn timed<R>(least: &mut Spent, work: impl FnOnce() -> R) -> R {
    let (cpu, wall) = (processor(), Instant::now());
    let result = work();
    let (cpu, wall) = (processor() - cpu, wall.elapsed());
    *least = (least.0.min(cpu), least.1.min(wall));
    result
}

/// Commits of one write each, to rows that are written about five times.
fn batches() -> Vec<Batch> {
    let mut history = History::default();
    let commit = |n: u64| {
        let text = Value::Text(format!("The text of write number {n}, of usual length"));
        let row = format!("row-{:05}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % ROWS);
        (
            1 + (n % 4) as u8,
            vec![op("things", &row, OpKind::Put, BTreeMap::from([("text".to_owned(), text)]))],
        )
    };
    let commits = |batch: u64| (batch * COMMITS..(batch + 1) * COMMITS).map(commit).collect();
    (0..BATCHES).map(|batch| history.batch(commits(batch), |n| n as u64 == COMMITS - 1)).collect()
}

const NEVER: Spent = (Duration::MAX, Duration::MAX);

struct Figures {
    apply: Spent,
    open: Spent,
    check: Spent,
    read: Spent,
    scan: Spent,
    bytes: u64,
}

fn measure(batches: &[Batch], key: Option<&DataKey>, folder: &Path) -> Figures {
    let account = AccountId(test_root().public());
    let mut found = Figures { apply: NEVER, open: NEVER, check: NEVER, read: NEVER, scan: NEVER, bytes: 0 };
    for round in 0..ROUNDS {
        let path = folder.join(format!("{round}-{}", key.is_some()));
        let mut options = StoreOptions { key: key.cloned(), ..StoreOptions::default() };
        let store = RedbStore::create_within(&path, account, [2 * round + 1; 16], options.clone());
        let store = store.expect("a new database");
        timed(&mut found.apply, || {
            batches.iter().for_each(|batch| store.apply(batch).expect("applied"));
            drop(store);
        });
        found.bytes = fs::metadata(&path).expect("the file").len();
        timed(&mut found.check, || RedbStore::check(&path, account, key).expect("whole"));
        // Small, so that reads go to the file.
        options.limits.cache_bytes_max = 1024 * 1024;
        let open = || RedbStore::open_within(&path, account, [2 * round + 2; 16], options).expect("it opens");
        let store = timed(&mut found.open, open);
        let table = TableName::new("things").expect("a name");
        timed(&mut found.read, || {
            for n in 0..READS {
                let key =
                    RowKey::new(&format!("row-{:05}", n.wrapping_mul(0x9e37_79b9) % ROWS)).expect("a key");
                store.row(&table, &key).expect("a read");
            }
        });
        let all = (Bound::Unbounded, Bound::Unbounded);
        timed(&mut found.scan, || store.scan(&table, all, usize::MAX).expect("a scan").len());
        drop(store);
        fs::remove_file(guard_path(&path)).and_then(|()| fs::remove_file(&path)).expect("removed");
    }
    found
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let batches = batches();
    let plain = measure(&batches, None, folder.path());
    let encrypted = measure(&batches, Some(&DataKey::new([7; 32].into())), folder.path());
    println!("{BATCHES} batches of {COMMITS} commits; the least of {ROUNDS} rounds\n");
    println!("{:<34} {:>12} {:>12} {:>7}   {:>7}", "processor time", "plain", "encrypted", "ratio", "clock");
    let row = |what: &str, n: u64, of: fn(&Figures) -> Spent| {
        let each = |spent: Spent| spent.0.as_secs_f64() * 1e6 / n as f64;
        let (plain, encrypted) = (of(&plain), of(&encrypted));
        let clock = encrypted.1.as_secs_f64() / plain.1.as_secs_f64();
        let (plain, encrypted) = (each(plain), each(encrypted));
        println!(
            "{what:<34} {plain:>9.2} us {encrypted:>9.2} us {:>6.2}x   {clock:>6.2}x",
            encrypted / plain
        );
    };
    row("apply and close, a commit", BATCHES * COMMITS, |found| found.apply);
    row("open after a clean end", 1, |found| found.open);
    row("check of every page, whole file", 1, |found| found.check);
    row("read of a row, cache of 1 MiB", READS, |found| found.read);
    row("scan, a row", ROWS, |found| found.scan);
    let ratio = encrypted.bytes as f64 / plain.bytes as f64;
    println!("{:<34} {:>10} B {:>10} B {ratio:>6.3}x", "file", plain.bytes, encrypted.bytes);
}
