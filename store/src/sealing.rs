//! A redb backend over a file that writes down how it left the file, so that the next opening need not read all of it.
//!
//! A *seal* is the file's length and the time of its last change, written into the guard after a clean end and under
//! the file's lock. Invariant: a seal that fits says that redb ended in good order and that nobody wrote to the file
//! since. It does not say that the medium kept every byte: [`crate::RedbStore::check`] does.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use redb::StorageBackend;

use crate::guard;
use crate::locks::{forward_bytes, forward_locks};
use crate::medium::Medium;

/// Where redb's header keeps its flags, behind the magic number (`docs/design.md` of redb).
pub(crate) const FLAGS_OFFSET: u64 = 9;
/// Of these, the one that stands while the file is open for writing.
pub(crate) const RECOVERY_REQUIRED: u8 = 2;

/// See the module's documentation. Everything but closing is up to the backend, which is over the file.
#[derive(Debug)]
pub(crate) struct Sealing {
    backend: Medium,
    file: File,
    path: PathBuf,
}

impl Sealing {
    pub(crate) fn new(backend: Medium, file: File, path: &Path) -> Sealing {
        Sealing { backend, file, path: path.to_owned() }
    }

    fn seal(&self) -> io::Result<()> {
        if ended_well(&self.backend)? { guard::seal(&self.path, &self.file) } else { Ok(()) }
    }
}

/// Whether redb wrote into the file that it was closed in good order.
pub(crate) fn ended_well(backend: &dyn StorageBackend) -> io::Result<bool> {
    let mut flags = [0];
    backend.read(FLAGS_OFFSET, &mut flags)?;
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
    forward_bytes!(backend);

    fn close(&self) -> io::Result<()> {
        // Without a seal the next opening checks everything: slower, and no worse.
        let _ = self.seal();
        self.backend.close()
    }

    forward_locks!(backend);
}
