//! A disk in memory that counts what is written to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

/// What was done to a disk since it was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Writes.
    pub writes: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Syncs.
    pub syncs: u64,
}

impl Done {
    /// What was done after an earlier moment.
    #[must_use]
    pub fn since(self, before: Done) -> Done {
        let Done { writes, bytes, syncs } = before;
        Done { writes: self.writes - writes, bytes: self.bytes - bytes, syncs: self.syncs - syncs }
    }
}

/// See the module's documentation. Clones are the same disk's counters.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    writes: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    syncs: Arc<AtomicU64>,
}

impl Counts {
    /// What was done until now.
    pub fn done(&self) -> Done {
        let [writes, bytes, syncs] =
            [&self.writes, &self.bytes, &self.syncs].map(|count| count.load(Ordering::Relaxed));
        Done { writes, bytes, syncs }
    }
}

/// The disk.
#[derive(Debug)]
pub struct CountingDisk {
    disk: InMemoryBackend,
    counts: Counts,
}

impl CountingDisk {
    /// A new one, and its counters.
    pub fn new() -> (CountingDisk, Counts) {
        let counts = Counts::default();
        (CountingDisk { disk: InMemoryBackend::new(), counts: counts.clone() }, counts)
    }
}

impl StorageBackend for CountingDisk {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.disk.write(offset, data)
    }
}
