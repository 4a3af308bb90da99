//! Creating, opening and backing up.
//!
//! Invariants: a new file is built under a temporary name, synced, and only then placed under its own,
//! so a crash leaves either no database or a whole one; a file that does not pass every check is left
//! as it is.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use engine::identity::AccountId;
use engine::store::StoreError;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend};

use crate::error::{BackupError, OpenError, io_error, redb};
use crate::files::{place, temporary};
use crate::guard::{self, Nonce};
use crate::key::DataKey;
use crate::limits::{StoreLimits, StoreOptions};
use crate::medium::Medium;
use crate::overlay::Overlay;
use crate::redb_store::RedbStore;
use crate::schema::{self, ALL, FORMAT, META, META_NONCE, META_STATE};
use crate::sealing::{Sealing, ended_well};

/// Memory for pages while a file is being checked, in bytes.
const CHECK_CACHE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What errors call a database that is not in a file.
const NO_PATH: &str = "(not in a file)";

fn builder(limits: &StoreLimits) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(limits.cache_bytes_max);
    builder
}

impl RedbStore {
    /// Creates a database for an account and opens it. `nonce` must be freshly random at each call: it
    /// guards against copies of the file.
    pub fn create(path: &Path, account: AccountId, nonce: Nonce) -> Result<RedbStore, OpenError> {
        RedbStore::create_within(path, account, nonce, StoreOptions::default())
    }

    /// Like [`RedbStore::create`], encrypted if `options` have a key.
    pub fn create_within(
        path: &Path,
        account: AccountId,
        nonce: Nonce,
        options: impl Into<StoreOptions>,
    ) -> Result<RedbStore, OpenError> {
        let options = options.into();
        if path.try_exists().map_err(|error| OpenError::io(path, error))? {
            return Err(OpenError::Exists(path.to_owned()));
        }
        let io = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AlreadyExists => OpenError::Exists(path.to_owned()),
            _ => OpenError::io(path, source),
        };
        let (temporary, file) = temporary(path).map_err(io)?;
        let built = build(file, options.key.as_ref(), &[], |db| fill(db, &account));
        let built = built.map_err(|error| OpenError::store(path, error));
        let placed = built.and_then(|()| place(&temporary, path).map_err(io));
        if let Err(error) = placed {
            // It is ours, and not a database yet; failing to remove it leaves a stray file.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        RedbStore::open_within(path, account, nonce, options)
    }

    /// Opens a database. Unless it was closed in good order and nobody wrote to it since, the whole file is checked
    /// first as [`RedbStore::check`] does, which reads all of it.
    /// `nonce` as in [`RedbStore::create`]. If the file may be a copy or an old state, it opens with
    /// all its data, and `recover` gives no replica.
    pub fn open(path: &Path, account: AccountId, nonce: Nonce) -> Result<RedbStore, OpenError> {
        RedbStore::open_within(path, account, nonce, StoreLimits::default())
    }

    /// Like [`RedbStore::open`], within other limits than the default ones, or with a key.
    pub fn open_within(
        path: &Path,
        account: AccountId,
        nonce: Nonce,
        options: impl Into<StoreOptions>,
    ) -> Result<RedbStore, OpenError> {
        let options = options.into();
        let key = options.key.as_ref();
        if !found_sealed(path, &account, key)? {
            check(path, &account, key)?;
        }
        let db = reopen(path, &options)?;
        check_header(&db, path, &account)?;
        guard::renew(&db, path, &nonce)?;
        RedbStore::attach(db, Some(path.to_owned()), account, options)
            .map_err(|error| OpenError::store(path, error))
    }

    /// Checks that a database is whole and of this account, and changes nothing: the checksum of every page is verified,
    /// which reads the whole file. Nobody may have it open.
    /// `key` is that of an encrypted one.
    pub fn check(path: &Path, account: AccountId, key: Option<&DataKey>) -> Result<(), OpenError> {
        check(path, &account, key)
    }

    /// Opens a database, or creates it if there is no file.
    pub fn open_or_create(path: &Path, account: AccountId, nonce: Nonce) -> Result<RedbStore, OpenError> {
        match RedbStore::open(path, account, nonce) {
            Err(OpenError::NotFound(_)) => RedbStore::create(path, account, nonce),
            opened => opened,
        }
    }

    /// A database in memory, gone when dropped.
    pub fn in_memory(account: AccountId) -> Result<RedbStore, OpenError> {
        RedbStore::with_backend(InMemoryBackend::new(), account)
    }

    /// Opens a database on storage of the caller's own, checksums verified; empty storage is filled with a new one. There is
    /// no guard: the caller answers for copies and rewinds. An interruption of the first call on empty
    /// storage can leave it unopenable; files are created in a way that cannot.
    pub fn with_backend(backend: impl StorageBackend, account: AccountId) -> Result<RedbStore, OpenError> {
        RedbStore::with_backend_within(backend, account, StoreOptions::default())
    }

    /// Like [`RedbStore::with_backend`], within other limits than the default ones, or with a key.
    pub fn with_backend_within(
        backend: impl StorageBackend,
        account: AccountId,
        options: StoreOptions,
    ) -> Result<RedbStore, OpenError> {
        let path = Path::new(NO_PATH);
        let empty = backend.len().map_err(|error| OpenError::io(path, error))? == 0;
        let medium = Medium::new(backend, options.key.as_ref(), path)?;
        let lenience = medium.lenience();
        let db = builder(&options.limits)
            .set_check_integrity_on_open(!empty)
            .create_with_backend(medium)
            .map_err(|error| OpenError::database(path, error))?;
        lenience.end();
        if empty {
            fill(&db, &account).map_err(|error| OpenError::store(path, error))?;
        }
        check_header(&db, path, &account)?;
        RedbStore::attach(db, None, account, options).map_err(|error| OpenError::store(path, error))
    }

    /// Writes a copy of one consistent state to a new file, while reads and writes go on. Opened, the
    /// copy is a new life: all data, no replica. Never overwrites. That of an encrypted database is encrypted with the
    /// same key.
    pub fn backup(&self, target: &Path) -> Result<(), BackupError> {
        self.backup_with(target, &[])
    }

    /// Like [`RedbStore::backup`]; if it is encrypted, with `note` in its head in clear: at most
    /// [`crate::NOTE_BYTES_MAX`] bytes, given back by [`crate::head_note`].
    pub fn backup_with(&self, target: &Path, note: &[u8]) -> Result<(), BackupError> {
        let at_target = |source| BackupError::Target { path: target.to_owned(), source };
        let io = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => BackupError::Exists(target.to_owned()),
            _ => at_target(io_error(&error)),
        };
        if target.try_exists().map_err(io)? {
            return Err(BackupError::Exists(target.to_owned()));
        }
        let source = self.db().map_err(BackupError::Source)?.begin_read();
        let source = source.map_err(|error| BackupError::Source(redb(error)))?;
        let (temporary, file) = temporary(target).map_err(io)?;
        let built = build(file, self.key(), note, |db| copy(&source, db)).map_err(at_target);
        let placed = built.and_then(|()| place(&temporary, target).map_err(io));
        if placed.is_err() {
            // It is ours, and incomplete; failing to remove it leaves a stray file.
            let _ = fs::remove_file(&temporary);
        }
        placed
    }
}

/// Makes a database in an empty file, closed and synced on return.
fn build(
    file: File,
    key: Option<&DataKey>,
    note: &[u8],
    fill: impl FnOnce(&Database) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let handle = file.try_clone().map_err(|error| io_error(&error))?;
    let backend = FileBackend::new(file).map_err(redb)?;
    let medium = Medium::create(backend, key, note).map_err(|error| io_error(&error))?;
    let db = builder(&StoreLimits::default()).create_with_backend(medium).map_err(redb)?;
    fill(&db)?;
    db.close().map_err(redb)?;
    handle.sync_all().map_err(|error| io_error(&error))
}

fn fill(db: &Database, account: &AccountId) -> Result<(), StoreError> {
    let txn = db.begin_write().map_err(redb)?;
    schema::initialise(&txn, account)?;
    txn.commit().map_err(redb)
}

fn copy(source: &ReadTransaction, db: &Database) -> Result<(), StoreError> {
    let txn = db.begin_write().map_err(redb)?;
    for definition in ALL {
        let from = source.open_table(definition).map_err(redb)?;
        let mut to = txn.open_table(definition).map_err(redb)?;
        for entry in from.iter().map_err(redb)? {
            let (key, value) = entry.map_err(redb)?;
            to.insert(key.value(), value.value()).map_err(redb)?;
        }
    }
    {
        let mut meta = txn.open_table(META).map_err(redb)?;
        meta.remove(META_NONCE).map_err(redb)?;
        let state = schema::State { replica: None, ..schema::state(&meta)? };
        meta.insert(META_STATE, state.encode().as_slice()).map_err(redb)?;
    }
    txn.commit().map_err(redb)
}

/// Opens a database file, to be sealed when it is closed.
pub(crate) fn reopen(path: &Path, options: &StoreOptions) -> Result<Database, OpenError> {
    let io = |error| OpenError::io(path, error);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    let medium = Medium::of_file(file.try_clone().map_err(io)?, options.key.as_ref(), path)?;
    let lenience = medium.lenience();
    let db = builder(&options.limits).create_with_backend(Sealing::new(medium, file, path));
    lenience.end();
    db.map_err(|error| OpenError::database(path, error))
}

/// Opens the file through an [`Overlay`], with every checksum verified, so that whatever redb would
/// repair or write on the way stays in memory.
pub(crate) fn check(path: &Path, account: &AccountId, key: Option<&DataKey>) -> Result<(), OpenError> {
    let db = look(path, file(path)?, key, true)?;
    check_header(&db, path, account)
}

/// Whether the file is as a clean end has left it. Looked at like [`check`] does, but for the checksums.
fn found_sealed(path: &Path, account: &AccountId, key: Option<&DataKey>) -> Result<bool, OpenError> {
    let io = |error| OpenError::io(path, error);
    let file = file(path)?;
    // What it reads is not kept: nobody has locked the file yet.
    let medium = Medium::of_file(file.try_clone().map_err(io)?, key, path)?;
    if !ended_well(&medium).unwrap_or(false) || !guard::sealed(path, &file).map_err(io)? {
        return Ok(false);
    }
    drop(medium);
    let db = look(path, file, key, false)?;
    if !guard::fits(&db, path)? {
        return Ok(false);
    }
    check_header(&db, path, account).map(|()| true)
}

/// Opens what may be a database. Writable, because its lock asks for it.
fn file(path: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::io(path, error);
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(OpenError::Damaged { path: path.to_owned(), reason: "it is not a file".into() });
    }
    if metadata.len() == 0 {
        return Err(OpenError::Damaged { path: path.to_owned(), reason: "it is empty".into() });
    }
    OpenOptions::new().read(true).write(true).open(path).map_err(io)
}

fn look(path: &Path, file: File, key: Option<&DataKey>, in_full: bool) -> Result<Database, OpenError> {
    let medium = Medium::of_file(file, key, path)?;
    let lenience = medium.lenience();
    let overlay = Overlay::new(medium).map_err(|error| OpenError::io(path, error))?;
    let db = Builder::new()
        .set_cache_size(CHECK_CACHE_BYTES_MAX)
        .set_check_integrity_on_open(in_full)
        .create_with_backend(overlay)
        .map_err(|error| OpenError::database(path, error))?;
    lenience.end();
    Ok(db)
}

/// Checks the format, the account, and that all tables are there.
fn check_header(db: &Database, path: &Path, account: &AccountId) -> Result<(), OpenError> {
    let store = |error| OpenError::store(path, error);
    let txn = db.begin_read().map_err(|error| store(redb(error)))?;
    let meta = txn.open_table(META).map_err(|error| store(redb(error)))?;
    let header = schema::header(&meta).map_err(store)?;
    let path: PathBuf = path.to_owned();
    match header.format {
        0 => return Err(OpenError::Damaged { path, reason: "format 0 does not exist".into() }),
        old @ (1 | 2) => {
            let reason = format!("it has format {old}, which no released version wrote");
            return Err(OpenError::Damaged { path, reason });
        }
        FORMAT => {}
        found => return Err(OpenError::NewerFormat { path, found, supported: FORMAT }),
    }
    if header.account != *account {
        return Err(OpenError::ForeignAccount { path, found: header.account, wanted: *account });
    }
    for definition in ALL {
        txn.open_table(definition).map_err(|error| OpenError::store(&path, redb(error)))?;
    }
    Ok(())
}
