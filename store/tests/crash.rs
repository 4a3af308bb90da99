//! Power cuts and full disks, at every write: what was acknowledged is there, nothing is there by half.

mod common;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use common::{account, batch, batches_held, history_to, mix};
use engine::store::{Store, StoreError, StoreRead};
use redb::StorageBackend;
use store::{OpenError, RedbStore};

const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// At the n-th write, resize or sync from now the power goes.
    Cut(u64),
    /// From the n-th write or resize on there is no room.
    Full(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
}

#[derive(Debug, Clone)]
struct Medium {
    /// What survives a power cut for certain.
    synced: Vec<u8>,
    /// What the running system sees.
    cached: Vec<u8>,
    /// What lies between the two.
    changes: Vec<Change>,
    fault: Fault,
    operations: u64,
}

/// A disk in memory that fails on command. Clones share the medium.
#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<Medium>>);

fn write_at(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(data);
}

impl Disk {
    fn new(content: Vec<u8>, fault: Fault) -> Disk {
        let (synced, changes) = (content.clone(), Vec::new());
        Disk(Arc::new(Mutex::new(Medium { synced, cached: content, changes, fault, operations: 0 })))
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.0.lock().expect("the medium")
    }

    /// What a power cut leaves: each write since the last sync is there, or is not, or is there in some of
    /// its sectors only. Of four writes, `seed % 4` are not whole.
    fn after_power_cut(&self, seed: u64) -> Vec<u8> {
        let medium = self.medium();
        let mut left = medium.synced.clone();
        for (n, change) in medium.changes.iter().enumerate() {
            let fate = mix(seed ^ mix(n as u64));
            let whole = fate % 4 >= seed % 4;
            match change {
                Change::Resize(len) if whole => left.resize(*len as usize, 0),
                Change::Write(offset, data) if whole => write_at(&mut left, *offset, data),
                Change::Write(offset, data) if fate % 8 < 4 => {
                    for (k, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if mix(fate ^ k as u64).is_multiple_of(2) {
                            write_at(&mut left, offset + (k * SECTOR_BYTES) as u64, sector);
                        }
                    }
                }
                Change::Resize(_) | Change::Write(..) => {}
            }
        }
        left
    }
}

impl Medium {
    /// Counts an operation, and fails it if its time has come.
    fn operation(&mut self, takes_room: bool) -> io::Result<()> {
        self.operations += 1;
        match self.fault {
            Fault::Cut(at) if self.operations >= at => Err(io::Error::other("the power is gone")),
            Fault::Full(at) if takes_room && self.operations >= at => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.medium().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let medium = self.medium();
        let found = medium.cached.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut medium = self.medium();
        medium.operation(true)?;
        medium.cached.resize(len as usize, 0);
        medium.changes.push(Change::Resize(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut medium = self.medium();
        medium.operation(false)?;
        medium.synced = medium.cached.clone();
        medium.changes.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut medium = self.medium();
        let outcome = medium.operation(true);
        if outcome.is_ok() || matches!(medium.fault, Fault::Cut(at) if medium.operations == at) {
            // The write that the cut hits may reach the medium in part.
            medium.changes.push(Change::Write(offset, data.to_owned()));
        }
        outcome?;
        write_at(&mut medium.cached, offset, data);
        Ok(())
    }
}

/// Rows wait for the log to have so many bytes more: of three batches here, about one writes a checkpoint.
const TAIL_BYTES: u64 = 1_500;

/// A store that writes a checkpoint now and then.
fn store_on(disk: &Disk) -> Result<RedbStore, OpenError> {
    let store = RedbStore::with_backend(disk.clone(), account())?;
    Ok(store.with_checkpoint_at(usize::MAX, TAIL_BYTES))
}

/// The content of a disk with the first batches on it, closed.
fn filled(batches: u64) -> Vec<u8> {
    let disk = Disk::new(Vec::new(), Fault::None);
    let store = store_on(&disk).expect("a database");
    let mut history = history_to(0);
    (0..batches).for_each(|n| assert_eq!(store.apply(&batch(&mut history, n)), Ok(())));
    drop(store);
    let medium = disk.medium();
    assert!(medium.changes.is_empty(), "closing syncs");
    medium.synced.clone()
}

/// Applies batches from the n-th on until the disk fails; gives how many the store then has acknowledged.
fn write_until_failure(disk: &Disk, from: u64, to: u64) -> u64 {
    let Ok(store) = store_on(disk) else { return from };
    let mut history = history_to(from);
    (from..to).find(|n| store.apply(&batch(&mut history, *n)).is_err()).unwrap_or(to)
}

#[test]
fn a_power_cut_at_any_write_leaves_what_was_acknowledged() {
    let start = filled(5);
    let (mut cuts, mut kept_unacknowledged) = (0, 0);
    for at in 1.. {
        let disk = Disk::new(start.clone(), Fault::Cut(at));
        let acknowledged = write_until_failure(&disk, 5, 9);
        if disk.medium().operations < at {
            break;
        }
        for seed in 0..4 {
            let left = disk.after_power_cut(at * 4 + seed);
            let store = RedbStore::with_backend(Disk::new(left, Fault::None), account());
            let store = store.expect("it opens after a power cut");
            assert!(store.unsaved_bytes().expect("open") < 10 * TAIL_BYTES, "no checkpoint has been written");
            let held = batches_held(&store);
            assert!(held >= acknowledged, "cut {at}: {acknowledged} acknowledged, {held} there");
            assert!(held <= acknowledged + 1);
            kept_unacknowledged += held - acknowledged;
        }
        cuts += 1;
    }
    assert!(cuts > 40, "only {cuts} cuts");
    assert!(kept_unacknowledged > 0, "no cut came between writing and acknowledging");
}

#[test]
fn a_power_cut_while_recovering_from_a_power_cut_loses_nothing() {
    let start = filled(5);
    for first in [12, 17, 21, 26] {
        let disk = Disk::new(start.clone(), Fault::Cut(first));
        let acknowledged = write_until_failure(&disk, 5, 9);
        let left = disk.after_power_cut(first);
        for at in 1.. {
            let disk = Disk::new(left.clone(), Fault::Cut(at));
            drop(RedbStore::with_backend(disk.clone(), account()));
            if disk.medium().operations < at {
                break;
            }
            let again = Disk::new(disk.after_power_cut(mix(at)), Fault::None);
            let held = batches_held(&RedbStore::with_backend(again, account()).expect("it opens"));
            assert!((acknowledged..=acknowledged + 1).contains(&held));
        }
    }
}

#[test]
fn a_full_disk_is_said_so_and_loses_nothing() {
    let start = filled(5);
    let mut said = 0;
    for at in 1.. {
        let disk = Disk::new(start.clone(), Fault::Full(at));
        let mut acknowledged = 5;
        if let Ok(store) = store_on(&disk) {
            let mut history = history_to(5);
            let failed = (5..9).find_map(|n| {
                let outcome = store.apply(&batch(&mut history, n));
                acknowledged += u64::from(outcome.is_ok());
                outcome.err()
            });
            if let Some(error) = failed {
                assert_eq!(error, StoreError::Full);
                said += 1;
            }
        }
        if disk.medium().operations < at {
            break;
        }
        // Room again, and the database opened anew, in a system that did not go down.
        let cached = disk.medium().cached.clone();
        let store = RedbStore::with_backend(Disk::new(cached, Fault::None), account()).expect("it opens");
        let held = batches_held(&store);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&held),
            "{acknowledged} acknowledged, {held} there"
        );
        assert_eq!(store.apply(&batch(&mut history_to(held), held)), Ok(()));
        assert_eq!(batches_held(&store), held + 1);
        // And the same with a power cut before there is room.
        let left = Disk::new(disk.after_power_cut(at), Fault::None);
        let held = batches_held(&RedbStore::with_backend(left, account()).expect("it opens"));
        assert!((acknowledged..=acknowledged + 1).contains(&held));
    }
    assert!(said > 20, "only {said}");
}

#[test]
fn after_a_failed_write_the_store_refuses_more_until_reopened() {
    let disk = Disk::new(filled(5), Fault::None);
    let store = RedbStore::with_backend(disk.clone(), account()).expect("a database");
    let next = disk.medium().operations + 1;
    disk.medium().fault = Fault::Full(next);
    assert_eq!(store.apply(&batch(&mut history_to(5), 5)), Err(StoreError::Full));
    disk.medium().fault = Fault::None;
    let refusal = store.apply(&batch(&mut history_to(5), 5)).expect_err("refused");
    assert!(matches!(&refusal, StoreError::Io(text) if text.contains("reopened")), "{refusal}");
    drop(store);
    let store = RedbStore::with_backend(disk, account()).expect("it opens");
    let held = batches_held(&store);
    assert_eq!(store.apply(&batch(&mut history_to(held), held)), Ok(()));
    assert!(store.recover().is_ok());
}

/// The checkpoint that closing writes, cut at every write: nothing depends on it.
#[test]
fn a_power_cut_while_the_database_is_closed_loses_nothing() {
    let start = Disk::new(Vec::new(), Fault::None);
    let store = RedbStore::with_backend(start.clone(), account()).expect("a database");
    let (mut history, mut batches) = (history_to(0), 0);
    while store.unsaved_bytes().expect("open") < 1024 * 1024 + 1 {
        assert_eq!(store.apply(&batch(&mut history, batches)), Ok(()));
        batches += 1;
    }
    let running = start.medium().cached.clone();
    drop(store);
    let mut cuts = 0;
    for at in 1.. {
        let disk = Disk::new(running.clone(), Fault::None);
        let store = RedbStore::with_backend(disk.clone(), account()).expect("it opens");
        let before = disk.medium().operations;
        disk.medium().fault = Fault::Cut(before + at);
        drop(store);
        if disk.medium().operations < before + at {
            break;
        }
        let left = Disk::new(disk.after_power_cut(at), Fault::None);
        assert_eq!(batches_held(&RedbStore::with_backend(left, account()).expect("it opens")), batches);
        cuts += 1;
    }
    assert!(cuts > 5, "only {cuts} cuts");
}
