//! Power cuts and full disks, at every write: what was acknowledged is there, nothing is there by half. All of it on a
//! plain and on an encrypted database.

mod common;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use common::{account, batch, batches_held, data_key, history_to, mix};
use engine::identity::Dot;
use engine::store::contract::state_follows_from_log;
use engine::store::{Store, StoreError, StoreRead};
use redb::StorageBackend;
use store::{DataKey, OpenError, RedbStore, StoreOptions};

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

/// Rows wait until they take so much memory, which a few do.
const SWEPT_BYTES: usize = 1_200;
/// Memory in which there is room for all rows of the history, and bytes of the log from half of which on a sweep goes
/// through them, an eighth of that memory at a time.
const KEPT_BYTES: usize = 12_000;
const KEPT_TAIL_BYTES: u64 = 42_000;

/// The key, on an encrypted database.
type Key = Option<DataKey>;

/// Makes tests of functions that take the key.
macro_rules! plain_and_encrypted {
    ($($name:ident),+ $(,)?) => {
        mod plain {
            $(#[test] fn $name() { super::$name(&None); })+
        }

        mod encrypted {
            $(#[test] fn $name() { super::$name(&Some(super::data_key(1))); })+
        }
    };
}

plain_and_encrypted!(
    a_power_cut_at_any_write_leaves_what_was_acknowledged,
    a_power_cut_while_recovering_from_a_power_cut_loses_nothing,
    a_power_cut_at_any_write_while_rows_are_swept_leaves_what_was_acknowledged,
    a_power_cut_at_any_write_of_a_retraction_leaves_it_done_or_not_begun,
    a_full_disk_is_said_so_and_loses_nothing,
    after_a_failed_write_the_store_refuses_more_until_reopened,
    a_power_cut_while_the_database_is_closed_loses_nothing,
);

fn opened(disk: Disk, key: &Key) -> Result<RedbStore, OpenError> {
    RedbStore::with_backend_within(
        disk,
        account(),
        StoreOptions { key: key.clone(), ..StoreOptions::default() },
    )
}

/// A store that writes a checkpoint now and then.
fn store_on(disk: &Disk, key: &Key) -> Result<RedbStore, OpenError> {
    Ok(opened(disk.clone(), key)?.with_checkpoint_at(usize::MAX, TAIL_BYTES))
}

/// The content of a disk with the first batches on it, closed.
fn filled(batches: u64, key: &Key) -> Vec<u8> {
    let disk = Disk::new(Vec::new(), Fault::None);
    let store = store_on(&disk, key).expect("a database");
    let mut history = history_to(0);
    (0..batches).for_each(|n| assert_eq!(store.apply(&batch(&mut history, n)), Ok(())));
    drop(store);
    let medium = disk.medium();
    assert!(medium.changes.is_empty(), "closing syncs");
    medium.synced.clone()
}

/// Applies batches from the n-th on until the disk fails; gives how many the store then has acknowledged.
fn write_until_failure(disk: &Disk, key: &Key, from: u64, to: u64) -> u64 {
    let Ok(store) = store_on(disk, key) else { return from };
    let mut history = history_to(from);
    (from..to).find(|n| store.apply(&batch(&mut history, *n)).is_err()).unwrap_or(to)
}

fn a_power_cut_at_any_write_leaves_what_was_acknowledged(key: &Key) {
    let start = filled(5, key);
    let (mut cuts, mut kept_unacknowledged) = (0, 0);
    for at in 1.. {
        let disk = Disk::new(start.clone(), Fault::Cut(at));
        let acknowledged = write_until_failure(&disk, key, 5, 9);
        if disk.medium().operations < at {
            break;
        }
        for seed in 0..4 {
            let left = disk.after_power_cut(at * 4 + seed);
            let store = opened(Disk::new(left, Fault::None), key);
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

/// Rows are written in parts, so that some are newer in their table than the checkpoint: what follows it is applied to them
/// once more.
fn a_power_cut_at_any_write_while_rows_are_swept_leaves_what_was_acknowledged(key: &Key) {
    // Rows are let go of, and rows stay, and are written to again after they were saved.
    for (rows_bytes, tail_bytes) in [(SWEPT_BYTES, u64::MAX), (KEPT_BYTES, KEPT_TAIL_BYTES)] {
        cut_while_sweeping(key, rows_bytes, tail_bytes);
    }
}

fn cut_while_sweeping(key: &Key, rows_bytes: usize, tail_bytes: u64) {
    let start = filled(3, key);
    let write = |disk: &Disk| {
        let Ok(store) = opened(disk.clone(), key) else { return (3, Vec::new()) };
        let (store, mut history) = (store.with_checkpoint_at(rows_bytes, tail_bytes), history_to(3));
        let mut unsaved = vec![store.unsaved_bytes().expect("open")];
        let failed = (3..12).find(|n| {
            let failed = store.apply(&batch(&mut history, *n)).is_err();
            unsaved.push(store.unsaved_bytes().unwrap_or(0));
            failed
        });
        (failed.unwrap_or(12), unsaved)
    };
    let (batches, unsaved) = write(&Disk::new(start.clone(), Fault::None));
    assert_eq!(batches, 12);
    // Sweeps that went on, and sweeps that came to their end.
    assert!(unsaved.windows(2).any(|pair| pair[0] < pair[1]), "{unsaved:?}");
    assert!(unsaved.windows(2).any(|pair| pair[0] > pair[1] && pair[1] > 0), "{unsaved:?}");
    for at in 1.. {
        let disk = Disk::new(start.clone(), Fault::Cut(at));
        let (acknowledged, _) = write(&disk);
        if disk.medium().operations < at {
            break;
        }
        let left = Disk::new(disk.after_power_cut(mix(at)), Fault::None);
        let held = batches_held(&opened(left, key).expect("it opens after a power cut"));
        assert!((acknowledged..=acknowledged + 1).contains(&held), "cut {at}: {acknowledged}, {held}");
    }
}

fn a_power_cut_while_recovering_from_a_power_cut_loses_nothing(key: &Key) {
    let start = filled(5, key);
    for first in [12, 17, 21, 26] {
        let disk = Disk::new(start.clone(), Fault::Cut(first));
        let acknowledged = write_until_failure(&disk, key, 5, 9);
        let left = disk.after_power_cut(first);
        for at in 1.. {
            let disk = Disk::new(left.clone(), Fault::Cut(at));
            drop(opened(disk.clone(), key));
            if disk.medium().operations < at {
                break;
            }
            let again = Disk::new(disk.after_power_cut(mix(at)), Fault::None);
            let held = batches_held(&opened(again, key).expect("it opens"));
            assert!((acknowledged..=acknowledged + 1).contains(&held));
        }
    }
}

/// What a retraction changes: the digest, and what lies in the quarantine.
fn held(store: &RedbStore) -> (u128, Vec<Dot>) {
    state_follows_from_log(store);
    let quarantine = store.quarantine(None, usize::MAX).expect("the quarantine");
    (store.recover().expect("recovered").digest, quarantine.iter().map(|one| one.stored.dot()).collect())
}

/// Commits of a device are rolled back into the quarantine, and one of them is then dropped from there: each wholly or not.
fn a_power_cut_at_any_write_of_a_retraction_leaves_it_done_or_not_begun(key: &Key) {
    let start = filled(6, key);
    let steps = || {
        let mut history = history_to(6);
        let (by, whom) =
            (*history.authors.keys().next().expect("one"), *history.authors.keys().last().expect("two"));
        assert_ne!(by, whom);
        let retraction = history.retract(by, whom, 1);
        let mut release = history.batch(vec![], |_| true);
        release.released = vec![Dot { replica: retraction.retractions[0].replica, seq: 1 }];
        [retraction, release]
    };
    // What there is after none, one and both of them.
    let whole = store_on(&Disk::new(start.clone(), Fault::None), key).expect("a database");
    let mut states = vec![held(&whole)];
    for step in &steps() {
        assert_eq!(whole.apply(step), Ok(()));
        states.push(held(&whole));
    }
    assert!(states[0].1.is_empty() && states[1].1.len() > states[2].1.len() && !states[2].1.is_empty());
    let (mut cuts, mut unacknowledged) = (0, 0);
    for at in 1.. {
        let disk = Disk::new(start.clone(), Fault::Cut(at));
        let acknowledged = match store_on(&disk, key) {
            Ok(store) => steps().iter().take_while(|step| store.apply(step).is_ok()).count(),
            Err(_) => 0,
        };
        if disk.medium().operations < at {
            break;
        }
        for seed in 0..4 {
            let left = Disk::new(disk.after_power_cut(at * 4 + seed), Fault::None);
            let found = held(&opened(left, key).expect("it opens after a power cut"));
            let found = states.iter().position(|state| *state == found).expect("one of the three states");
            assert!(
                (acknowledged..=acknowledged + 1).contains(&found),
                "{acknowledged} acknowledged, {found} there"
            );
            unacknowledged += found - acknowledged;
        }
        cuts += 1;
    }
    assert!(
        cuts > 20 && unacknowledged > 0,
        "only {cuts} cuts, {unacknowledged} between writing and acknowledging"
    );
}

fn a_full_disk_is_said_so_and_loses_nothing(key: &Key) {
    let start = filled(5, key);
    let mut said = 0;
    for at in 1.. {
        let disk = Disk::new(start.clone(), Fault::Full(at));
        let mut acknowledged = 5;
        if let Ok(store) = store_on(&disk, key) {
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
        let store = opened(Disk::new(cached, Fault::None), key).expect("it opens");
        let held = batches_held(&store);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&held),
            "{acknowledged} acknowledged, {held} there"
        );
        assert_eq!(store.apply(&batch(&mut history_to(held), held)), Ok(()));
        assert_eq!(batches_held(&store), held + 1);
        // And the same with a power cut before there is room.
        let left = Disk::new(disk.after_power_cut(at), Fault::None);
        let held = batches_held(&opened(left, key).expect("it opens"));
        assert!((acknowledged..=acknowledged + 1).contains(&held));
    }
    assert!(said > 20, "only {said}");
}

fn after_a_failed_write_the_store_refuses_more_until_reopened(key: &Key) {
    let disk = Disk::new(filled(5, key), Fault::None);
    let store = opened(disk.clone(), key).expect("a database");
    let next = disk.medium().operations + 1;
    disk.medium().fault = Fault::Full(next);
    assert_eq!(store.apply(&batch(&mut history_to(5), 5)), Err(StoreError::Full));
    disk.medium().fault = Fault::None;
    let refusal = store.apply(&batch(&mut history_to(5), 5)).expect_err("refused");
    assert!(matches!(&refusal, StoreError::Io(text) if text.contains("reopened")), "{refusal}");
    drop(store);
    let store = opened(disk, key).expect("it opens");
    let held = batches_held(&store);
    assert_eq!(store.apply(&batch(&mut history_to(held), held)), Ok(()));
    assert!(store.recover().is_ok());
}

/// The checkpoint that closing writes, cut at every write: nothing depends on it.
fn a_power_cut_while_the_database_is_closed_loses_nothing(key: &Key) {
    let start = Disk::new(Vec::new(), Fault::None);
    let store = opened(start.clone(), key).expect("a database");
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
        let store = opened(disk.clone(), key).expect("it opens");
        let before = disk.medium().operations;
        disk.medium().fault = Fault::Cut(before + at);
        drop(store);
        if disk.medium().operations < before + at {
            break;
        }
        let left = Disk::new(disk.after_power_cut(at), Fault::None);
        assert_eq!(batches_held(&opened(left, key).expect("it opens")), batches);
        cuts += 1;
    }
    assert!(cuts > 5, "only {cuts} cuts");
}
