//! The guard: copies and rewinds are a new life, restarts are not.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{account, batch, batches_held, create, history_to, nonce, open};
use engine::identity::ReplicaId;
use engine::store::{Batch, Store, StoreRead};
use store::{OpenError, RedbStore, guard_path};

/// A database that has written two batches, and is closed.
fn written(folder: &Path) -> (PathBuf, ReplicaId) {
    let path = folder.join("db");
    let store = create(&path);
    let mut history = history_to(0);
    for n in 0..2 {
        assert_eq!(store.apply(&batch(&mut history, n)), Ok(()));
    }
    let replica = store.recover().expect("recovered").replica.expect("a replica");
    (path, replica)
}

fn replica(path: &Path) -> Option<ReplicaId> {
    let store = open(path).expect("it opens");
    assert_eq!(batches_held(&store), 2);
    store.recover().expect("recovered").replica
}

#[test]
fn a_restart_is_the_same_life() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, before) = written(folder.path());
    for _ in 0..3 {
        assert_eq!(replica(&path), Some(before));
    }
}

#[test]
fn a_copy_elsewhere_is_a_new_life_and_the_original_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, before) = written(folder.path());
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).expect("a copy");
    assert_eq!(replica(&copy), None);
    assert_eq!(replica(&path), Some(before));
    // It stays so until a replica is taken.
    assert_eq!(replica(&copy), None);
    let taken = ReplicaId { incarnation: before.incarnation + 1, ..before };
    let store = open(&copy).expect("it opens");
    let position = store.recover().expect("recovered").position + 1;
    let digest = store.recover().expect("recovered").digest;
    assert_eq!(store.apply(&Batch { position, digest, replica: Some(taken), ..Batch::default() }), Ok(()));
    drop(store);
    assert_eq!(replica(&copy), Some(taken));
}

#[test]
fn a_copy_together_with_its_guard_is_a_new_life_where_files_have_a_birth() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, _) = written(folder.path());
    if fs::metadata(&path).expect("metadata").created().is_err() {
        return;
    }
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).expect("a copy");
    fs::copy(guard_path(&path), guard_path(&copy)).expect("a copy");
    assert_eq!(replica(&copy), None);
}

#[test]
fn a_restored_older_state_is_a_new_life() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, _) = written(folder.path());
    let older = fs::read(&path).expect("the file");
    let store = open(&path).expect("it opens");
    assert_eq!(store.apply(&batch(&mut history_to(2), 2)), Ok(()));
    drop(store);
    // In place, so that the file keeps its birth.
    fs::write(&path, older).expect("restored");
    assert_eq!(replica(&path), None);
}

#[test]
fn a_state_from_before_a_crash_while_opening_is_the_same_life() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, before) = written(folder.path());
    let state =
        |path: &Path| (fs::read(path).expect("the file"), fs::read(guard_path(path)).expect("the guard"));
    let (old_db, old_guard) = state(&path);
    drop(open(&path).expect("it opens"));
    let (new_db, new_guard) = state(&path);
    let (old, new) =
        (String::from_utf8(old_guard).expect("text"), String::from_utf8(new_guard).expect("text"));
    // As between the first and the second step, and between the second and the third.
    let both = format!("{new}{}\n", old.lines().find(|line| line.starts_with("nonce ")).expect("a nonce"));
    for db in [&old_db, &new_db] {
        fs::write(&path, db).expect("the file");
        fs::write(guard_path(&path), &both).expect("the guard");
        assert_eq!(replica(&path), Some(before));
    }
    // After the third the old state is old.
    fs::write(&path, &old_db).expect("the file");
    fs::write(guard_path(&path), &new).expect("the guard");
    assert_eq!(replica(&path), None);
}

#[test]
fn a_guard_that_is_gone_or_makes_no_sense_is_a_new_life() {
    for content in
        ["", "x", "ahenk guard 1\n", "ahenk guard 2\nbirth unknown\nnonce 00\n", &"nonce\n".repeat(10_000)]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, _) = written(folder.path());
        fs::write(guard_path(&path), content).expect("a guard");
        assert_eq!(replica(&path), None);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (path, _) = written(folder.path());
    fs::remove_file(guard_path(&path)).expect("removed");
    assert_eq!(replica(&path), None);
}

#[test]
fn a_nonce_is_not_taken_twice_in_a_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let same = nonce();
    drop(RedbStore::create(&path, account(), same).expect("created"));
    assert!(matches!(RedbStore::open(&path, account(), same), Err(OpenError::NonceReused(_))));
    assert!(open(&path).is_ok());
}

/// Whether the guard says that the file was closed in good order.
fn is_sealed(path: &Path) -> bool {
    fs::read_to_string(guard_path(path)).expect("the guard").contains("\nseal ")
}

#[test]
fn a_database_is_sealed_while_it_is_closed_and_only_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, before) = written(folder.path());
    assert!(is_sealed(&path));
    let store = open(&path).expect("it opens");
    assert!(!is_sealed(&path));
    // As a killed process leaves it: the guard of that moment, over a file that lacks redb's own mark too.
    let killed = fs::read(&path).expect("the file");
    drop(store);
    assert!(is_sealed(&path));
    fs::write(&path, killed).expect("the file");
    assert_eq!(replica(&path), Some(before));
}

#[test]
fn a_sealed_database_opens_without_being_read_in_full_and_any_change_breaks_the_seal() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = create(&path).with_checkpoint_at(0, 0);
    let mut history = history_to(0);
    (0..40).for_each(|n| assert_eq!(store.apply(&batch(&mut history, n)), Ok(())));
    drop(store);
    let whole = fs::read(&path).expect("the file");
    let sealed = fs::read(guard_path(&path)).expect("the guard");
    // The value of an old commit, in a page that opening has no business with.
    let needle = [5; 60];
    let at = whole.windows(needle.len()).position(|window| window == needle).expect("a value");
    let mut damaged = whole;
    damaged[at] ^= 1;
    fs::write(&path, &damaged).expect("the file");
    assert!(matches!(RedbStore::check(&path, account(), None), Err(OpenError::Damaged { .. })));
    assert!(matches!(open(&path), Err(OpenError::Damaged { .. })), "its seal is broken");
    // Written down as if the medium had changed the byte: only a check finds that.
    let metadata = fs::metadata(&path).expect("metadata");
    let text = String::from_utf8(sealed).expect("text");
    let others = text.lines().filter(|line| !line.starts_with("seal "));
    let forged = format!("seal {} {}", metadata.len(), changed_ns(&metadata));
    let guard = others.chain([forged.as_str()]).collect::<Vec<_>>().join("\n") + "\n";
    fs::write(guard_path(&path), &guard).expect("the guard");
    while changed_ns(&fs::metadata(guard_path(&path)).expect("metadata")) <= changed_ns(&metadata) {
        fs::write(guard_path(&path), &guard).expect("the guard");
    }
    assert!(matches!(RedbStore::check(&path, account(), None), Err(OpenError::Damaged { .. })));
    assert!(open(&path).is_ok());
}

#[cfg(unix)]
fn changed_ns(metadata: &fs::Metadata) -> i128 {
    use std::os::unix::fs::MetadataExt;
    i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn changed_ns(metadata: &fs::Metadata) -> i128 {
    let modified = metadata.modified().expect("a time").duration_since(std::time::UNIX_EPOCH);
    modified.expect("after 1970").as_nanos() as i128
}
