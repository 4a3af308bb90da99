//! What a database may take of the disk, and that a limit loses nothing.

mod common;

use common::{account, batch, batches_held, create, history_to, nonce, open};
use engine::store::{Store, StoreError, StoreRead};
use store::{RedbStore, StoreLimits};

#[test]
fn from_the_limit_on_no_rows_are_taken_and_with_a_higher_one_it_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    drop(create(&path));
    let disk_bytes_max = Some(4 * 1024 * 1024);
    let limits = StoreLimits { disk_bytes_max, ..StoreLimits::default() };
    let store = RedbStore::open_within(&path, account(), nonce(), limits).expect("it opens");
    let mut history = history_to(0);
    let mut held = 0;
    let refused = loop {
        let next = batch(&mut history, held);
        if !next.rows.is_empty() && store.room().is_err() {
            break store.apply(&next);
        }
        assert_eq!(store.apply(&next), Ok(()));
        held += 1;
        assert!(held < 5_000, "the limit has no effect");
    };
    assert_eq!(refused, Err(StoreError::Limit { bytes_max: 4 * 1024 * 1024 }));
    assert!(store.disk_bytes().expect("known") >= 4 * 1024 * 1024);
    assert_eq!(store.reopen(), Ok(()), "as the driver does after a failure");
    let heard = engine::store::Batch {
        position: store.recover().expect("recovered").position + 1,
        digest: store.recover().expect("recovered").digest,
        ..engine::store::Batch::default()
    };
    assert_eq!(store.apply(&heard), Ok(()), "what holds no rows is taken all the same");
    drop(store);
    let store = open(&path).expect("it opens without a limit");
    assert_eq!(batches_held(&store), held);
    let mut history = history_to(held);
    assert_eq!(store.apply(&batch(&mut history, held)), Ok(()));
    assert_eq!(batches_held(&store), held + 1);
}

#[test]
fn within_little_memory_the_same_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    drop(create(&path));
    let limits = StoreLimits { cache_bytes_max: 64 * 1024, rows_bytes_max: 20_000, disk_bytes_max: None };
    let store = RedbStore::open_within(&path, account(), nonce(), limits).expect("it opens");
    let mut history = history_to(0);
    for n in 0..100 {
        assert_eq!(store.apply(&batch(&mut history, n)), Ok(()));
        // A batch of this history has at most 80,000 bytes, and the one that crosses the limit is written away.
        assert!(store.unsaved_bytes().expect("known") < 200_000, "rows wait in memory beyond the limit");
    }
    assert_eq!(batches_held(&store), 100);
}
