//! Putting a backup in the place of a database.
//!
//! Invariants: the backup is copied, checked in full, and only then put in its place in one step, so that a crash
//! leaves either the old database or the new one; a database that was there before is kept under another name; what
//! was restored is a new life, whatever kind of copy it came from, because its guard is gone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use engine::identity::AccountId;

use crate::error::OpenError;
use crate::files::{free_name, guard_path, sync_directory, temporary};
use crate::open::check;
use crate::redb_store::RedbStore;

impl RedbStore {
    /// Makes a copy of `backup` the database at `path`, of this account. What was there before is kept beside it, under
    /// the name that is returned; it is refused with [`OpenError::Exists`] unless `replace`. Nobody may have `path`
    /// open. The backup is not changed.
    pub fn restore(
        backup: &Path,
        path: &Path,
        account: AccountId,
        replace: bool,
    ) -> Result<Option<PathBuf>, OpenError> {
        let io = |error| OpenError::io(path, error);
        let there = path.try_exists().map_err(io)?;
        if there && !replace {
            return Err(OpenError::Exists(path.to_owned()));
        }
        let mut source = File::open(backup).map_err(|error| OpenError::io(backup, error))?;
        let (copy, mut file) = temporary(path).map_err(io)?;
        let copied = io::copy(&mut source, &mut file).and_then(|_| file.sync_all()).map_err(io);
        drop(file);
        let placed = copied
            // The copy carries a name that means nothing to anybody: errors are about the backup.
            .and_then(|()| check(&copy, &account).map_err(|error| error.about(backup)))
            .and_then(|()| put(&copy, path, there).map_err(io));
        if placed.is_err() {
            // It is ours, and not in its place; failing to remove it leaves a stray file.
            let _ = fs::remove_file(&copy);
        }
        placed
    }
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
