//! A disk that outlives the machine it is in. Writes reach the medium when they are synced; a power cut loses, keeps or
//! tears those that were not, as a hash of (seed, cut, write) says. A full disk refuses writes to blocks that hold nothing
//! yet, as file systems do with sparse files.
//!
//! Invariants: what was synced stays; after a cut nothing is written until power is back; a handle of an earlier life
//! of the machine writes nothing.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::prng::Prng;
use store::StorageBackend;

/// What a torn write keeps is a multiple of this, in bytes.
const SECTOR_BYTES: usize = 512;
/// A file takes space in units of this, in bytes.
const BLOCK_BYTES: usize = 4096;

/// What happened to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskCounts {
    /// Writes that were taken.
    pub writes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Of which at a write that was named, hence in the middle of a commit or of opening.
    pub cuts_at_write: u64,
    /// Writes that a cut lost.
    pub dropped: u64,
    /// Writes of which a cut left a part.
    pub torn: u64,
    /// Writes that were made to fail.
    pub failed: u64,
    /// Writes of `failed` that found no space.
    pub no_space: u64,
    /// Changes by somebody who had let go of the disk, and syncs: there must be none.
    pub late: u64,
}

/// What is on a disk at one moment, as a copy of its content.
#[derive(Debug, Clone)]
pub struct DiskImage {
    durable: Vec<u8>,
    blocks: BTreeSet<usize>,
}

#[derive(Debug)]
enum Pending {
    Write(usize, Vec<u8>),
    Len(usize),
}

#[derive(Debug, Default)]
struct Medium {
    durable: Vec<u8>,
    /// What the machine sees: all that was written.
    view: Vec<u8>,
    pending: Vec<Pending>,
    life: u64,
    /// Lives that ended in good order.
    let_go: BTreeSet<u64>,
    cut: bool,
    cut_after: Option<u64>,
    fail_writes: u32,
    /// Blocks that hold something.
    blocks: BTreeSet<usize>,
    full: bool,
    /// The content came from elsewhere, and nobody has gone on from it under a name of its own yet.
    copied: bool,
    lies: bool,
    seed: u64,
    counts: DiskCounts,
}

/// A disk. Clones mean the same one.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<Medium>>);

/// The disk as one life of a machine uses it.
#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    life: u64,
}

impl Medium {
    fn apply(bytes: &mut Vec<u8>, pending: &Pending) {
        match pending {
            Pending::Len(len) => bytes.resize(*len, 0),
            Pending::Write(at, data) => {
                if bytes.len() < at + data.len() {
                    bytes.resize(at + data.len(), 0);
                }
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }

    fn settle(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            Medium::apply(&mut self.durable, &pending);
        }
    }

    /// Whether there is space for these bytes; takes it.
    fn allocate(&mut self, at: usize, end: usize) -> bool {
        let blocks = at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        if self.full && blocks.clone().any(|block| !self.blocks.contains(&block)) {
            return false;
        }
        self.blocks.extend(blocks);
        true
    }

    fn lose_power(&mut self) {
        if !self.cut {
            self.cut = true;
            self.cut_after = None;
            self.counts.cuts += 1;
        }
    }
}

impl SimDisk {
    /// An empty disk. The seed decides what a cut does to unsynced writes.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Medium { seed, ..Medium::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Medium> {
        // No code here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Storage for a machine that starts now. Power must be on.
    pub fn attach(&self) -> impl StorageBackend + use<> {
        Handle { disk: self.clone(), life: self.lock().life }
    }

    /// Cuts the power at this many more writes; 0 for now.
    pub fn cut_after(&self, writes: u64) {
        let mut medium = self.lock();
        if writes == 0 { medium.lose_power() } else { medium.cut_after = Some(writes) }
    }

    /// Takes back a cut or failures that have not happened yet.
    pub fn disarm(&self) {
        let mut medium = self.lock();
        medium.cut_after = None;
        medium.fail_writes = 0;
        medium.full = false;
    }

    /// Whether the power is cut.
    pub fn is_cut(&self) -> bool {
        self.lock().cut
    }

    /// Lets the next writes fail with an error.
    pub fn fail_writes(&self, times: u32) {
        self.lock().fail_writes = times;
    }

    /// From now on there is no space left, or there is again.
    pub fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// A copy of what is durable: what another machine would read off the medium now.
    pub fn image(&self) -> DiskImage {
        let medium = self.lock();
        DiskImage { durable: medium.durable.clone(), blocks: medium.blocks.clone() }
    }

    /// Puts a copy in place of the content. Power must be off. If that is `noticed`, [`SimDisk::is_copy`] says so until
    /// it is told otherwise.
    pub fn replace(&self, image: &DiskImage, noticed: bool) {
        let mut medium = self.lock();
        assert!(medium.cut, "nobody may be using the disk");
        medium.pending.clear();
        medium.durable.clone_from(&image.durable);
        medium.blocks.clone_from(&image.blocks);
        medium.copied = noticed;
    }

    /// Whether the content is a copy that nobody has gone on from yet: what the guard file beside a real database tells.
    pub fn is_copy(&self) -> bool {
        self.lock().copied
    }

    /// Whoever uses the copy has a name of its own, durably.
    pub fn is_own(&self) {
        self.lock().copied = false;
    }

    /// From now on the disk claims to have synced and has not: a fault that no database survives.
    pub fn lie(&self) {
        self.lock().lies = true;
    }

    /// Ends the life of whatever was attached, decides over its unsynced writes, and restores power.
    pub fn power_on(&self) {
        let mut guard = self.lock();
        let medium = &mut *guard;
        for (number, pending) in std::mem::take(&mut medium.pending).into_iter().enumerate() {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&medium.seed.to_be_bytes());
            seed[8..16].copy_from_slice(&medium.life.to_be_bytes());
            seed[16..24].copy_from_slice(&(number as u64).to_be_bytes());
            let mut fate = Prng::new(seed);
            let pending = match (pending, fate.below(3)) {
                (Pending::Write(..), 0) => {
                    medium.counts.dropped += 1;
                    continue;
                }
                (Pending::Write(at, mut data), 1) => {
                    let sectors = fate.below((data.len() / SECTOR_BYTES) as u64 + 1) as usize;
                    medium.counts.torn += u64::from(sectors * SECTOR_BYTES < data.len());
                    data.truncate(sectors * SECTOR_BYTES);
                    Pending::Write(at, data)
                }
                (whole, _) => whole,
            };
            Medium::apply(&mut medium.durable, &pending);
        }
        medium.view = medium.durable.clone();
        medium.life += 1;
        medium.cut = false;
        medium.cut_after = None;
    }

    /// Whoever was attached has stopped in good order: what it changes from now on is counted as late.
    pub fn let_go(&self) {
        let mut medium = self.lock();
        let life = medium.life;
        medium.let_go.insert(life);
    }

    /// What happened so far.
    pub fn counts(&self) -> DiskCounts {
        self.lock().counts
    }
}

fn no_power() -> io::Error {
    io::Error::other("the machine has no power")
}

fn beyond() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the disk")
}

impl Handle {
    fn medium(&self) -> io::Result<MutexGuard<'_, Medium>> {
        let medium = self.disk.lock();
        if medium.cut || medium.life != self.life { Err(no_power()) } else { Ok(medium) }
    }

    /// The same for a change, or what makes it durable.
    fn change(&self) -> io::Result<MutexGuard<'_, Medium>> {
        let mut medium = self.disk.lock();
        // Without power nothing runs: what a machine does while it is torn down is no deed of its software.
        if !medium.cut && medium.let_go.contains(&self.life) {
            medium.counts.late += 1;
        }
        drop(medium);
        self.medium()
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.medium()?.view.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let medium = self.medium()?;
        let at = usize::try_from(offset).map_err(|_| beyond())?;
        let source = at.checked_add(out.len()).and_then(|end| medium.view.get(at..end)).ok_or_else(beyond)?;
        out.copy_from_slice(source);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut medium = self.change()?;
        let len = usize::try_from(len).map_err(|_| beyond())?;
        medium.view.resize(len, 0);
        medium.blocks.split_off(&len.div_ceil(BLOCK_BYTES));
        medium.pending.push(Pending::Len(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut medium = self.change()?;
        medium.counts.syncs += 1;
        if !medium.lies {
            medium.settle();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut medium = self.change()?;
        if medium.fail_writes > 0 {
            medium.fail_writes -= 1;
            medium.counts.failed += 1;
            return Err(io::Error::other("the disk failed"));
        }
        let at = usize::try_from(offset).map_err(|_| beyond())?;
        let end = at.checked_add(data.len()).filter(|end| *end <= medium.view.len()).ok_or_else(beyond)?;
        if !medium.allocate(at, end) {
            medium.counts.failed += 1;
            medium.counts.no_space += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        medium.view[at..end].copy_from_slice(data);
        medium.pending.push(Pending::Write(at, data.to_vec()));
        medium.counts.writes += 1;
        if let Some(left) = &mut medium.cut_after {
            *left -= 1;
            if *left == 0 {
                medium.counts.cuts_at_write += 1;
                medium.lose_power();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(disk: &SimDisk) -> Vec<u8> {
        let handle = disk.attach();
        let mut bytes = vec![0; handle.len().unwrap() as usize];
        handle.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_synced_survives_a_cut_and_the_rest_is_kept_lost_or_torn() {
        let (mut lost, mut torn, mut kept) = (0, 0, 0);
        for seed in 0..60 {
            let disk = SimDisk::new(seed);
            let handle = disk.attach();
            handle.set_len(4096).unwrap();
            handle.write(0, &[1; 2048]).unwrap();
            handle.sync_data().unwrap();
            handle.write(2048, &[2; 2048]).unwrap();
            disk.cut_after(0);
            assert!(handle.write(0, &[9]).is_err() && handle.sync_data().is_err() && disk.is_cut());
            disk.power_on();
            assert!(handle.write(0, &[9]).is_err(), "a handle of an earlier life");
            let bytes = contents(&disk);
            assert_eq!(bytes[..2048], [1; 2048]);
            match bytes[2048..].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                2048 => kept += 1,
                part => {
                    assert_eq!(part % SECTOR_BYTES, 0);
                    torn += 1;
                }
            }
        }
        assert!(lost > 0 && torn > 0 && kept > 0, "{lost} {torn} {kept}");
    }

    #[test]
    fn power_is_cut_at_the_write_that_was_named() {
        let disk = SimDisk::new(1);
        let handle = disk.attach();
        handle.set_len(10).unwrap();
        disk.cut_after(2);
        assert!(handle.write(0, &[1]).is_ok() && !disk.is_cut());
        assert!(handle.write(1, &[1]).is_ok() && disk.is_cut());
        disk.power_on();
        disk.fail_writes(1);
        let handle = disk.attach();
        assert!(handle.write(0, &[3]).is_err() && handle.write(0, &[3]).is_ok());
        assert_eq!((disk.counts().cuts, disk.counts().failed), (1, 1));
    }

    #[test]
    fn a_full_disk_takes_what_replaces_something_and_refuses_the_rest() {
        let disk = SimDisk::new(1);
        let handle = disk.attach();
        handle.set_len(3 * BLOCK_BYTES as u64).unwrap();
        handle.write(10, &[1; 10]).unwrap();
        disk.fill(true);
        assert!(handle.write(100, &[2]).is_ok());
        let refused = handle.write(BLOCK_BYTES as u64 - 1, &[3; 2]).unwrap_err();
        assert_eq!((refused.kind(), disk.counts().no_space), (io::ErrorKind::StorageFull, 1));
        disk.fill(false);
        assert!(handle.write(BLOCK_BYTES as u64 - 1, &[3; 2]).is_ok());
    }

    #[test]
    fn a_copy_holds_what_was_durable_and_is_known_for_one() {
        let disk = SimDisk::new(1);
        let handle = disk.attach();
        handle.set_len(4).unwrap();
        handle.write(0, &[1; 4]).unwrap();
        handle.sync_data().unwrap();
        handle.write(0, &[2; 4]).unwrap();
        let image = disk.image();
        handle.sync_data().unwrap();
        assert!(!disk.is_copy());
        disk.cut_after(0);
        disk.replace(&image, true);
        disk.power_on();
        assert!(disk.is_copy() && contents(&disk) == [1; 4]);
        disk.is_own();
        assert!(!disk.is_copy());
        disk.cut_after(0);
        disk.replace(&image, false);
        assert!(!disk.is_copy(), "nobody noticed");
    }

    #[test]
    fn whoever_has_let_go_of_a_disk_is_seen_to_change_it_even_when_another_life_has_begun() {
        let disk = SimDisk::new(1);
        let first = disk.attach();
        first.set_len(10).unwrap();
        assert_eq!(disk.counts().late, 0);
        disk.let_go();
        assert!(first.write(0, &[1]).is_ok() && first.read(0, &mut [0]).is_ok());
        assert_eq!(disk.counts().late, 1);
        disk.power_on();
        assert!(first.sync_data().is_err() && disk.attach().write(0, &[2]).is_ok());
        assert_eq!(disk.counts().late, 2);
    }
}
