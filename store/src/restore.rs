//! Putting a backup in the place of a database.
//!
//! Invariants: the backup is copied, checked in full, and only then put in its place in one step, so that a crash
//! leaves either the old database or the new one; a database that was there before is kept under another name; what
//! was restored is a new life, whatever kind of copy it came from, because its guard is gone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use engine::identity::AccountId;
use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::error::OpenError;
use crate::files::{free_name, guard_path, sync_directory, temporary};
use crate::key::DataKey;
use crate::medium::Medium;
use crate::open::check;
use crate::redb_store::RedbStore;

/// Bytes that are copied at a time, in whole pages.
const COPY_BYTES: usize = 1024 * 1024;

/// A backup, and the key that it was encrypted with.
#[derive(Debug)]
pub struct Backup<'a> {
    /// The file.
    pub path: &'a Path,
    /// Its key; `None` if it is not encrypted.
    pub key: Option<&'a DataKey>,
}

impl RedbStore {
    /// Makes a copy of `backup` the database at `path`, of this account, encrypted with `key` if there is one. What was
    /// there before is kept beside it, under the name that is returned; it is refused with [`OpenError::Exists`] unless
    /// `replace`. Nobody may have `path` open. The backup is not changed.
    pub fn restore(
        backup: &Backup<'_>,
        path: &Path,
        account: AccountId,
        key: Option<&DataKey>,
        replace: bool,
    ) -> Result<Option<PathBuf>, OpenError> {
        let io = |error| OpenError::io(path, error);
        let there = path.try_exists().map_err(io)?;
        if there && !replace {
            return Err(OpenError::Exists(path.to_owned()));
        }
        let source = File::open(backup.path).map_err(|error| OpenError::io(backup.path, error))?;
        let (copy, file) = temporary(path).map_err(io)?;
        let placed = transcribe(backup, source, (path, file), key)
            // The copy carries a name that means nothing to anybody: errors are about the backup.
            .and_then(|()| check(&copy, &account, key).map_err(|error| error.about(backup.path)))
            .and_then(|()| put(&copy, path, there).map_err(io));
        if placed.is_err() {
            // It is ours, and not in its place; failing to remove it leaves a stray file.
            let _ = fs::remove_file(&copy);
        }
        placed
    }
}

/// Copies a file to an empty one, from one key to another. What does not authenticate is copied as zeros, which the check
/// of the copy finds if it matters.
fn transcribe(
    backup: &Backup<'_>,
    source: File,
    (path, file): (&Path, File),
    key: Option<&DataKey>,
) -> Result<(), OpenError> {
    let io = |error| OpenError::io(path, error);
    let of_backup = |error| OpenError::io(backup.path, error);
    let source = FileBackend::new(source).map_err(|error| OpenError::database(backup.path, error))?;
    let source = Medium::to_copy(source, backup.key, backup.path)?;
    let handle = file.try_clone().map_err(io)?;
    let file = FileBackend::new(file).map_err(|error| OpenError::database(path, error))?;
    let target = Medium::create(file, key, &[]).map_err(io)?;
    let len = source.len().map_err(of_backup)?;
    target.set_len(len).map_err(of_backup)?;
    let (mut at, mut bytes) = (0, vec![0; COPY_BYTES]);
    while at < len {
        let part = &mut bytes[..usize::try_from(len - at).map_or(COPY_BYTES, |left| left.min(COPY_BYTES))];
        source.read(at, part).map_err(of_backup)?;
        target.write(at, part).map_err(io)?;
        at += part.len() as u64;
    }
    target.sync_data().map_err(io)?;
    handle.sync_all().map_err(io)
}

fn put(copy: &Path, path: &Path, there: bool) -> io::Result<Option<PathBuf>> {
    let kept =
        if there { Some(free_name(path, "replaced", |name| fs::hard_link(path, name))?) } else { None };
    // First of all: a guard that happens to fit must not make the copy pass for the life that it was copied from.
    match fs::remove_file(guard_path(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sync_directory(path)?;
    fs::rename(copy, path)?;
    sync_directory(path)?;
    Ok(kept)
}
