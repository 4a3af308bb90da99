//! Files beside files: names, exclusive placement, durable directory entries.
//!
//! Invariant: nothing here replaces a file that exists, except [`replace`], which says so.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Most names that are tried for a new file beside a given one.
const NAMES_MAX: u32 = 10_000;

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    path.with_file_name(name)
}

/// Where the guard of a database lies.
pub fn guard_path(path: &Path) -> PathBuf {
    beside(path, ".guard")
}

/// Space that a file takes on the disk, in bytes: less than its length where parts were never written.
pub(crate) fn disk_bytes(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        /// The unit in which file systems count, whatever their own blocks are.
        const BLOCK_BYTES: u64 = 512;
        Ok(metadata.blocks().saturating_mul(BLOCK_BYTES))
    }
    #[cfg(not(unix))]
    Ok(metadata.len())
}

fn new_file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

/// Creates a temporary file beside `path`, readable by its owner only. A power cut may leave one behind.
pub(crate) fn temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    for n in 0..NAMES_MAX {
        let candidate = beside(path, &format!(".new-{n}"));
        match new_file_options().create_new(true).open(&candidate) {
            Ok(file) => return Ok((candidate, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many temporary files beside the database"))
}

/// Moves a file to a name that must be free, durably. Fails with `AlreadyExists` if it is not.
pub(crate) fn place(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // File systems without hard links. Between the look and the move another process could step
        // in; elsewhere it cannot.
        Err(_) if to.try_exists()? => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to)?,
    }
    sync_directory(to)
}

/// Writes a small file so that after a crash it has either its old or its new content.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".new");
    let mut file = new_file_options().create(true).truncate(true).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_directory(path)
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    // Only Unix lets a directory be opened for this; elsewhere renames are journalled.
    #[cfg(unix)]
    {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Makes room for a new database: moves a file that does not open to a free name beside it, which is
/// returned. Nothing is deleted.
pub fn move_aside(path: &Path) -> io::Result<PathBuf> {
    free_name(path, "damaged", |target| place(path, target))
}

/// Does something with the first name beside `path` that is free, and returns that name.
pub(crate) fn free_name(
    path: &Path,
    what: &str,
    mut take: impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    for n in 1..=NAMES_MAX {
        let target = beside(path, &format!(".{what}-{n}"));
        match take(&target) {
            Ok(()) => return Ok(target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("too many {what} files beside the database")))
}
