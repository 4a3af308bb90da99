//! Backups: consistent while the database is written, whole or not there, and a new life when opened.

mod common;

use std::fs;

use common::{batch, batches_held, create, history_to, open};
use engine::store::{Store, StoreRead};
use store::BackupError;

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
