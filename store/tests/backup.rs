//! Backups: consistent while the database is written, whole or not there, and a new life when opened.

mod common;

use std::fs;

use common::{account, batch, batches_held, create, history_to, open};
use engine::store::{Store, StoreRead};
use store::{Backup, BackupError, OpenError, RedbStore, guard_path};

fn plain(path: &std::path::Path) -> Backup<'_> {
    Backup { path, key: None }
}

#[test]
fn a_backup_beside_writes_holds_one_state_of_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = create(&folder.path().join("db"));
    let mut history = history_to(0);
    assert_eq!(store.apply(&batch(&mut history, 0)), Ok(()));
    assert_eq!(store.set_local("key", Some(b"value")), Ok(()));
    let targets: Vec<_> = (0..4).map(|n| folder.path().join(format!("backup-{n}"))).collect();
    std::thread::scope(|scope| {
        let backups =
            scope.spawn(|| targets.iter().for_each(|target| store.backup(target).expect("a backup")));
        for n in 1.. {
            assert_eq!(store.apply(&batch(&mut history, n)), Ok(()));
            if backups.is_finished() {
                break;
            }
        }
        backups.join().expect("backups");
    });
    let mut held = 1;
    for target in &targets {
        let backup = open(target).expect("the backup opens");
        let holds = batches_held(&backup);
        assert!(holds >= held, "a later backup holds less");
        held = holds;
        assert_eq!(backup.recover().expect("recovered").replica, None);
        assert_eq!(backup.local("key"), Ok(Some(b"value".to_vec())));
        // It can be written like any other.
        assert_eq!(backup.apply(&batch(&mut history_to(holds), holds)), Ok(()));
    }
    assert!(store.recover().expect("recovered").replica.is_some());
}

#[test]
fn a_backup_overwrites_nothing_and_leaves_nothing_half_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = create(&folder.path().join("db"));
    let target = folder.path().join("target");
    fs::write(&target, "mine").expect("a file");
    assert!(matches!(store.backup(&target), Err(BackupError::Exists(_))));
    assert_eq!(fs::read(&target).expect("the file"), b"mine");
    let nowhere = folder.path().join("no/such/folder");
    assert!(matches!(store.backup(&nowhere), Err(BackupError::Target { .. })));
    assert!(matches!(store.backup(&folder.path().join("db")), Err(BackupError::Exists(_))));
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 3);
}

#[test]
fn a_restored_backup_is_a_new_life_and_what_it_replaced_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, backup) = (folder.path().join("db"), folder.path().join("backup"));
    let store = create(&path);
    let mut history = history_to(0);
    assert_eq!(store.apply(&batch(&mut history, 0)), Ok(()));
    store.backup(&backup).expect("a backup");
    assert_eq!(store.apply(&batch(&mut history, 1)), Ok(()));
    drop(store);
    let restore = |replace| RedbStore::restore(&plain(&backup), &path, account(), None, replace);
    assert!(matches!(restore(false), Err(OpenError::Exists(_))));
    assert_eq!(batches_held(&open(&path).expect("as it was")), 2);
    let kept = restore(true).expect("restored").expect("something was there");
    let restored = open(&path).expect("opens");
    assert_eq!((batches_held(&restored), restored.recover().expect("recovered").replica), (1, None));
    assert_eq!(batches_held(&open(&kept).expect("the old one opens")), 2);
    assert_eq!(batches_held(&open(&backup).expect("the backup is as it was")), 1);
}

#[test]
fn a_plain_copy_of_the_file_and_its_guard_restores_as_a_new_life_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, copy) = (folder.path().join("db"), folder.path().join("copy"));
    let store = create(&path);
    assert_eq!(store.apply(&batch(&mut history_to(0), 0)), Ok(()));
    assert!(store.recover().expect("recovered").replica.is_some());
    drop(store);
    fs::copy(&path, &copy).expect("copied");
    fs::remove_file(&path).expect("lost");
    assert!(guard_path(&path).exists(), "the guard fits the copy");
    assert_eq!(RedbStore::restore(&plain(&copy), &path, account(), None, false).expect("restored"), None);
    assert_eq!(open(&path).expect("opens").recover().expect("recovered").replica, None);
}

#[test]
fn what_is_no_backup_of_this_account_is_not_put_in_the_place_of_the_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, other, junk) =
        (folder.path().join("db"), folder.path().join("other"), folder.path().join("junk"));
    drop(create(&path));
    let before = fs::read(&path).expect("the file");
    let foreign = engine::identity::AccountId([7; 32]);
    drop(RedbStore::create(&other, foreign, common::nonce()).expect("another account's"));
    fs::write(&junk, "no database").expect("a file");
    let restore = |from: &std::path::Path| RedbStore::restore(&plain(from), &path, account(), None, true);
    assert!(matches!(restore(&other), Err(OpenError::ForeignAccount { path, .. }) if path == other));
    assert!(matches!(restore(&junk), Err(OpenError::Damaged { path, .. }) if path == junk));
    assert!(matches!(restore(&folder.path().join("no")), Err(OpenError::NotFound(_))));
    assert_eq!(fs::read(&path).expect("the file"), before);
    assert!(guard_path(&path).exists());
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 5, "db, other, their guards, junk");
}
