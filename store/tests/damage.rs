//! Flipped bytes: found when the file is opened, or when the record is read; never a panic.

mod common;

use std::fs;
use std::path::Path;

use common::{batch, batches_held, create, history_to, mix, open};
use engine::name::{RowKey, TableName};
use engine::store::{Store, StoreError, StoreRead};
use redb::{Database, TableDefinition};
use store::{OpenError, guard_path};

const BATCHES: u64 = 6;

/// Opens copies of a file with one byte changed, and gives the batches found in those that open.
fn flip(whole: &[u8], path: &Path, flips: impl Iterator<Item = usize>) -> (usize, Vec<u64>) {
    let guard = fs::read(guard_path(path)).expect("the guard");
    let (mut refused, mut held) = (0, Vec::new());
    for at in flips {
        let mut damaged = whole.to_owned();
        damaged[at] ^= 1 << (at % 8);
        fs::write(path, &damaged).expect("a damaged file");
        fs::write(guard_path(path), &guard).expect("the guard");
        match open(path) {
            Ok(store) => held.push(batches_held(&store)),
            Err(OpenError::Damaged { .. }) => {
                assert!(fs::read(path).expect("the file") == damaged, "byte {at} was changed");
                refused += 1;
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    (refused, held)
}

/// Some bytes of redb's header, and a spread of the rest.
fn spread(len: usize) -> impl Iterator<Item = usize> {
    (0..320).step_by(3).chain((0..120).map(move |n| (mix(n) % len as u64) as usize))
}

#[test]
fn a_flipped_byte_in_a_closed_database_is_found_or_harmless() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = create(&path);
    let mut history = history_to(0);
    (0..BATCHES).for_each(|n| assert_eq!(store.apply(&batch(&mut history, n)), Ok(())));
    drop(store);
    let whole = fs::read(&path).expect("the file");
    let (refused, held) = flip(&whole, &path, spread(whole.len()));
    assert!(held.iter().all(|held| *held == BATCHES), "{held:?}");
    assert!(refused > 20, "only {refused} were found");
}

#[test]
fn a_flipped_byte_in_a_database_that_was_not_closed_costs_at_most_the_last_transaction() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = create(&path);
    let mut history = history_to(0);
    (0..BATCHES).for_each(|n| assert_eq!(store.apply(&batch(&mut history, n)), Ok(())));
    // As a killed process leaves it.
    let whole = fs::read(&path).expect("the file");
    drop(store);
    let (refused, held) = flip(&whole, &path, spread(whole.len()));
    assert!(held.iter().all(|held| (BATCHES - 1..=BATCHES).contains(held)), "{held:?}");
    assert!(refused > 10, "only {refused} were found");
}

/// Replaces every value of a table.
fn overwrite(path: &Path, table: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    use redb::ReadableTable;
    let definition = TableDefinition::<&[u8], &[u8]>::new(table);
    let db = Database::open(path).expect("a redb file");
    let txn = db.begin_write().expect("a transaction");
    {
        let mut table = txn.open_table(definition).expect("a table");
        let entries: Vec<_> = table
            .iter()
            .expect("entries")
            .map(|entry| {
                let (key, value) = entry.expect("an entry");
                (key.value().to_vec(), value.value().to_vec())
            })
            .collect();
        for (key, value) in entries {
            table.insert(key.as_slice(), change(value).as_slice()).expect("an entry");
        }
    }
    txn.commit().expect("a commit");
}

#[test]
fn records_that_make_no_sense_are_an_error_where_they_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    // Nothing is left to be replayed, which would read the log.
    let store = create(&path).with_checkpoint_at(0, 0);
    let mut history = history_to(0);
    (0..BATCHES).for_each(|n| assert_eq!(store.apply(&batch(&mut history, n)), Ok(())));
    let key = store.scan(
        &TableName::new("u").expect("a name"),
        (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
        1,
    );
    let key: RowKey = key.expect("a scan").remove(0).0;
    drop(store);
    let original = fs::read(&path).expect("the file");
    let cut = |mut value: Vec<u8>| {
        value.pop();
        value
    };
    let grow = |mut value: Vec<u8>| {
        value.push(0);
        value
    };
    let garbage = |value: Vec<u8>| vec![0xff; value.len()];
    let changes: [&dyn Fn(Vec<u8>) -> Vec<u8>; 3] = [&cut, &grow, &garbage];
    for change in changes {
        let damaged = |table: &str| {
            fs::write(&path, &original).expect("the file");
            overwrite(&path, table, change);
            open(&path)
        };
        for table in ["heads", "members"] {
            let store = damaged(table).expect("it opens");
            assert!(matches!(store.recover(), Err(StoreError::Corrupt(_))), "{table}");
        }
        let store = damaged("rows").expect("it opens");
        let table = TableName::new("u").expect("a name");
        assert!(matches!(store.row(&table, &key), Err(StoreError::Corrupt(_))));
        drop(store);
        let store = damaged("log").expect("it opens");
        assert!(matches!(store.applied(1, usize::MAX), Err(StoreError::Corrupt(_))));
        let found = |replica| store.commits(replica, 1, usize::MAX, usize::MAX);
        assert!(history.heads.keys().all(|replica| matches!(found(replica), Err(StoreError::Corrupt(_)))));
        drop(store);
        let store = damaged("index").expect("it opens");
        let replica = history.heads.keys().next().expect("a replica");
        assert!(matches!(store.commits(replica, 1, 9, 9), Err(StoreError::Corrupt(_))));
        drop(store);
        for table in ["replicas", "meta"] {
            assert!(
                matches!(damaged(table), Err(OpenError::Damaged { .. } | OpenError::NewerFormat { .. })),
                "{table}"
            );
        }
    }
}

#[test]
fn a_log_that_makes_no_sense_after_the_checkpoint_is_refused_when_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = create(&path);
    let mut history = history_to(0);
    (0..BATCHES).for_each(|n| assert_eq!(store.apply(&batch(&mut history, n)), Ok(())));
    drop(store);
    overwrite(&path, "log", |value| vec![0xff; value.len()]);
    assert!(matches!(open(&path), Err(OpenError::Damaged { .. })));
}
