//! A redb backend over a file that writes down how it left the file, so that the next opening need not read all of it.
//!
//! A *seal* is the file's length and the time of its last change, written into the guard after a clean end and under
//! the file's lock. Invariant: a seal that fits says that redb ended in good order and that nobody wrote to the file
//! since. It does not say that the medium kept every byte: [`crate::RedbStore::check`] does.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use crate::guard;

/// Where redb's header keeps its flags, behind the magic number (`docs/design.md` of redb).
const FLAGS_OFFSET: u64 = 9;
/// Of these, the one that stands while the file is open for writing.
const RECOVERY_REQUIRED: u8 = 2;

/// See the module's documentation. Everything but closing is up to the file.
#[derive(Debug)]
pub(crate) struct Sealing {
    backend: FileBackend,
    file: File,
    path: PathBuf,
}

impl Sealing {
    /// Opens a file that exists, for reading and writing.
    pub(crate) fn open(path: &Path) -> Result<Sealing, DatabaseError> {
        let open = OpenOptions::new().read(true).write(true).open(path);
        let both = open.and_then(|file| Ok((file.try_clone()?, file)));
        let (file, same) = both.map_err(|error| DatabaseError::Storage(error.into()))?;
        Ok(Sealing { backend: FileBackend::new(same)?, file, path: path.to_owned() })
    }

    fn seal(&self) -> io::Result<()> {
        if ended_well(&self.file)? { guard::seal(&self.path, &self.file) } else { Ok(()) }
    }
}

/// Whether redb wrote into the file that it was closed in good order.
pub(crate) fn ended_well(file: &File) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let (mut file, mut flags) = (file, [0]);
    file.seek(SeekFrom::Start(FLAGS_OFFSET))?;
    file.read_exact(&mut flags)?;
    Ok(flags[0] & RECOVERY_REQUIRED == 0)
}

/// The seal of a file as it is. The time is that of the last change of the inode where there is one, because programs
/// can set back the other.
pub(crate) fn seal_of(metadata: &Metadata) -> io::Result<String> {
    Ok(format!("{} {}", metadata.len(), changed_ns(metadata)?))
}

/// When a file was last changed, in nanoseconds since the Unix epoch.
#[cfg(unix)]
pub(crate) fn changed_ns(metadata: &Metadata) -> io::Result<i128> {
    use std::os::unix::fs::MetadataExt;
    Ok(i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()))
}

/// When a file was last written to, in nanoseconds since the Unix epoch.
#[cfg(not(unix))]
pub(crate) fn changed_ns(metadata: &Metadata) -> io::Result<i128> {
    let since = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_nanos() as i128).map_err(io::Error::other)
}

impl StorageBackend for Sealing {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        // Without a seal the next opening checks everything: slower, and no worse.
        let _ = self.seal();
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
