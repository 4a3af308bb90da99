//! `RedbStore` keeps the contract of the store traits, in memory and in a file.

use engine::identity::AccountId;
use engine::store::{Store, StoreRead, contract};
use engine::testing::test_root;
use store::RedbStore;

fn account() -> AccountId {
    AccountId(test_root().public())
}

#[test]
fn a_database_in_memory_keeps_the_contract() {
    contract::run(48, || RedbStore::in_memory(account()).expect("a database"));
}

/// Checkpoints at every batch, after every few, in sweeps that let go of rows and in sweeps that keep them, and never.
#[test]
fn a_database_keeps_the_contract_wherever_checkpoints_fall() {
    for (rows_bytes, tail_bytes) in
        [(0, 0), (2_000, u64::MAX), (usize::MAX, 1_000), (20_000, 10_000), (usize::MAX, u64::MAX)]
    {
        contract::run(16, || {
            let store = RedbStore::in_memory(account()).expect("a database");
            store.with_checkpoint_at(rows_bytes, tail_bytes)
        });
    }
}

#[test]
fn a_database_in_a_file_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = std::cell::Cell::new(0u8);
    contract::run(4, || {
        count.set(count.get() + 1);
        let path = folder.path().join(format!("{}.redb", count.get()));
        RedbStore::create(&path, account(), [count.get(); 16]).expect("a database")
    });
}

#[test]
fn it_can_be_shared_between_threads() {
    fn shared<T: Store + StoreRead>() {}
    shared::<RedbStore>();
}
