//! What the tests of the store share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::commit::{Op, OpKind};
use engine::identity::AccountId;
use engine::store::contract::{History, state_follows_from_log};
use engine::store::{Batch, StoreRead};
use engine::testing::{op, test_root};
use engine::value::Value;
use store::{DataKey, OpenError, RedbStore, StoreOptions};

pub fn account() -> AccountId {
    AccountId(test_root().public())
}

/// A nonce that no other call in this process gives.
pub fn nonce() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes()
}

pub fn create(path: &Path) -> RedbStore {
    RedbStore::create(path, account(), nonce()).expect("a new database")
}

pub fn open(path: &Path) -> Result<RedbStore, OpenError> {
    RedbStore::open(path, account(), nonce())
}

/// SplitMix64 (Steele, Lea, Flood 2014): a good hash of a counter, the same for ever.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub fn put(table: &str, row: &str, value: Value) -> Op {
    op(table, row, OpKind::Put, [("f".to_owned(), value)].into())
}

/// The n-th batch of the one history that these tests write: one to four commits of three replicas, to
/// few rows, a few deletes, now and then something large.
pub fn batch(history: &mut History, n: u64) -> Batch {
    let commits = (0..1 + mix(n) % 4).map(|k| {
        let random = mix(n * 31 + k);
        let row = format!("row-{}", random % 17);
        let size = if random.is_multiple_of(11) { 20_000 } else { random % 100 };
        let ops = match random % 7 {
            0 => vec![op("t", &row, OpKind::Delete, [].into())],
            1 => vec![],
            _ => vec![
                put("t", &row, Value::Bytes(vec![n as u8; size as usize])),
                put("u", "last", (n as i64).into()),
            ],
        };
        (1 + (random >> 32) as u8 % 3, ops)
    });
    let commits = commits.collect();
    let mut batch = history.batch(commits, |k| k % 2 == 0);
    batch.replica = Some(history.authors.values().next().expect("an author").replica);
    batch
}

/// Checks that a store holds a prefix of that history that ends with a batch, and returns how many batches.
pub fn batches_held(store: &impl StoreRead) -> u64 {
    state_follows_from_log(store);
    let recovered = store.recover().expect("recovered");
    let log = store.applied(1, usize::MAX).expect("the log");
    let mut history = History::default();
    let mut held = 0;
    while history.position < recovered.position {
        let batch = batch(&mut history, held);
        assert!(history.position <= recovered.position, "half a batch is there");
        let from = batch.position as usize - 1;
        let found = log[from..history.position as usize].iter().map(|stored| (&stored.commit, &stored.sig));
        assert!(found.eq(batch.commits.iter().map(|(commit, sig)| (commit, sig))));
        held += 1;
    }
    assert_eq!(recovered.digest, history.digest);
    held
}

/// The history up to and without the n-th batch.
pub fn history_to(n: u64) -> History {
    let mut history = History::default();
    (0..n).for_each(|n| drop(batch(&mut history, n)));
    history
}

/// The n-th key for encrypted databases.
pub fn data_key(n: u8) -> DataKey {
    DataKey::new([n; 32].into())
}

/// Options with a key.
pub fn with_key(key: &DataKey) -> StoreOptions {
    StoreOptions { key: Some(key.clone()), ..StoreOptions::default() }
}
