//! Creating, opening and refusing files.

mod common;

use std::fs;
use std::path::Path;

use common::{account, batch, batches_held, create, history_to, nonce, open};
use engine::identity::AccountId;
use engine::store::{Store, StoreRead};
use redb::{Database, TableDefinition};
use store::{FORMAT, OpenError, RedbStore, guard_path, move_aside};

const META: TableDefinition<&[u8], &[u8]> = TableDefinition::new("meta");

fn fill(store: &RedbStore, batches: u64) {
    let mut history = history_to(0);
    for n in 0..batches {
        assert_eq!(store.apply(&batch(&mut history, n)), Ok(()));
    }
}

/// Changes an entry of `meta` behind the store's back.
fn edit_meta(path: &Path, key: &str, value: &[u8]) {
    let db = Database::open(path).expect("a redb file");
    let txn = db.begin_write().expect("a transaction");
    txn.open_table(META).expect("meta").insert(key.as_bytes(), value).expect("an entry");
    txn.commit().expect("a commit");
}

fn refused(path: &Path) -> OpenError {
    let before = fs::read(path).expect("the file");
    let error = open(path).expect_err("it must not open");
    assert!(fs::read(path).expect("the file") == before, "a refused file was changed");
    error
}

#[test]
fn what_was_applied_is_there_after_reopening() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = create(&path);
    fill(&store, 30);
    assert_eq!(store.set_local("key", Some(b"value")), Ok(()));
    let before = store.recover().expect("recovered");
    for _ in 0..3 {
        let store = open(&path);
        assert!(matches!(store, Err(OpenError::Locked(_))), "open already, and yet: {store:?}");
    }
    drop(store);
    for _ in 0..3 {
        let store = open(&path).expect("it opens");
        assert_eq!(store.recover(), Ok(before.clone()));
        assert_eq!(store.local("key"), Ok(Some(b"value".to_vec())));
        assert_eq!(batches_held(&store), 30);
        assert_eq!(store.account(), account());
    }
}

#[test]
fn nothing_is_created_over_a_file_or_opened_where_there_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    assert!(matches!(open(&path), Err(OpenError::NotFound(_))));
    let missing = folder.path().join("no/such/folder/db");
    assert!(matches!(RedbStore::create(&missing, account(), nonce()), Err(OpenError::NotFound(_))));
    fs::write(&path, "mine").expect("a file");
    assert!(matches!(RedbStore::create(&path, account(), nonce()), Err(OpenError::Exists(_))));
    let either = RedbStore::open_or_create(&path, account(), nonce());
    assert!(matches!(either, Err(OpenError::Damaged { .. })));
    assert_eq!(fs::read(&path).expect("the file"), b"mine");
    // No temporary file is left by any of it.
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
}

#[test]
fn open_or_create_does_either() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = RedbStore::open_or_create(&path, account(), nonce()).expect("created");
    fill(&store, 3);
    drop(store);
    let store = RedbStore::open_or_create(&path, account(), nonce()).expect("opened");
    assert_eq!(batches_held(&store), 3);
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["db", "db.guard"]);
}

#[test]
fn what_a_crash_while_creating_leaves_is_not_in_the_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let stray = folder.path().join("db.new-0");
    fs::write(&stray, "half a database").expect("a file");
    fs::write(folder.path().join("db.guard.new"), "half a guard, longer than a whole one".repeat(9))
        .expect("a file");
    assert!(matches!(open(&path), Err(OpenError::NotFound(_))));
    let store = create(&path);
    fill(&store, 2);
    store.backup(&folder.path().join("db.new-1")).expect("a backup");
    drop(store);
    assert_eq!(batches_held(&open(&path).expect("it opens")), 2);
    assert_eq!(fs::read(&stray).expect("the file"), b"half a database");
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_a_new_database() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    drop(create(&path));
    for path in [&path, &guard_path(&path)] {
        assert_eq!(fs::metadata(path).expect("metadata").permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn files_that_are_no_database_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let noise: Vec<u8> = (0..100_000u64).map(|n| common::mix(n) as u8).collect();
    for content in
        [&b""[..], b"x", b"some text that someone wrote\n", &noise, &[0; 8192], b"redb\x1a\x0a\xa9\x0d\x0a"]
    {
        fs::write(&path, content).expect("a file");
        assert!(matches!(refused(&path), OpenError::Damaged { .. }));
    }
    // A valid redb file of someone else.
    fs::remove_file(&path).expect("removed");
    drop(Database::create(&path).expect("a redb file"));
    assert!(matches!(refused(&path), OpenError::Damaged { .. }));
    assert!(matches!(open(folder.path()), Err(OpenError::Damaged { .. })), "a folder");
}

#[test]
fn a_newer_format_and_a_foreign_account_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    drop(create(&path));
    let stranger = AccountId([7; 32]);
    let error = RedbStore::open(&path, stranger, nonce()).expect_err("foreign");
    assert!(
        matches!(error, OpenError::ForeignAccount { found, wanted, .. } if found == account() && wanted == stranger)
    );
    edit_meta(&path, "format", &(FORMAT + 1).to_be_bytes());
    let error = refused(&path);
    assert!(
        matches!(error, OpenError::NewerFormat { found, supported: FORMAT, .. } if found == FORMAT + 1),
        "{error}"
    );
    assert!(error.to_string().contains("use a newer version"), "{error}");
    edit_meta(&path, "format", &0u32.to_be_bytes());
    assert!(matches!(refused(&path), OpenError::Damaged { .. }));
    for old in [1u32, 2] {
        edit_meta(&path, "format", &old.to_be_bytes());
        let error = refused(&path);
        assert!(error.to_string().contains("no released version"), "{error}");
    }
    edit_meta(&path, "format", b"one");
    assert!(matches!(refused(&path), OpenError::Damaged { .. }));
    edit_meta(&path, "format", &FORMAT.to_be_bytes());
    assert!(open(&path).is_ok());
}

#[test]
fn a_truncated_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = create(&path);
    fill(&store, 20);
    drop(store);
    let whole = fs::read(&path).expect("the file");
    for part in 0..24 {
        fs::write(&path, &whole[..whole.len() * part / 24]).expect("a shorter file");
        assert!(matches!(refused(&path), OpenError::Damaged { .. }));
    }
    // What is moved aside is kept, and a new database takes its place.
    let first = move_aside(&path).expect("moved");
    drop(create(&path));
    fs::write(&path, "broken again").expect("a file");
    let second = move_aside(&path).expect("moved");
    assert_ne!(first, second);
    assert_eq!(fs::read(&first).expect("the first").len(), whole.len() * 23 / 24);
    assert_eq!(fs::read(&second).expect("the second"), b"broken again");
    assert!(RedbStore::open_or_create(&path, account(), nonce()).is_ok());
    assert!(move_aside(&folder.path().join("nosuch")).is_err());
}
