//! What can go wrong, in words for people, and how redb's errors map to it.

use std::io;
use std::path::PathBuf;

use engine::codec::DecodeError;
use engine::identity::AccountId;
use engine::store::StoreError;
use redb::{DatabaseError, StorageError};

use crate::key::HeadError;

/// Why a database could not be opened or created. Nothing was changed on disk, except where a variant
/// says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no file.
    #[error("there is no database at {}", .0.display())]
    NotFound(PathBuf),
    /// A database was to be created where there is a file already.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// Another process, or another handle in this one, has it open.
    #[error("the database {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// A newer version of this software wrote it.
    #[error("the database {} has format {found}; this version knows formats up to {supported}: use a newer version", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// It is no database of this software, or one that is damaged.
    #[error("the file {} is damaged or not an Ahenk database: {reason}", path.display())]
    Damaged {
        /// The file. It was not changed; [`crate::move_aside`] makes room for a new one.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// It is encrypted, and no key was given.
    #[error("the database {} is encrypted, and its key is not at hand", .0.display())]
    Encrypted(PathBuf),
    /// It is not encrypted, though a key was given: it may have been put there by somebody else.
    #[error("the database {} is not encrypted, as it should be", .0.display())]
    NotEncrypted(PathBuf),
    /// It is encrypted with another key.
    #[error("the database {} is encrypted with another key", .0.display())]
    WrongKey(PathBuf),
    /// It holds the data of another account.
    #[error("the database {} belongs to account {found}, not to {wanted}", path.display())]
    ForeignAccount {
        /// The file.
        path: PathBuf,
        /// Its account.
        found: AccountId,
        /// The account it was opened for.
        wanted: AccountId,
    },
    /// The guard nonce is the one used last time: the caller's randomness is broken.
    #[error("the nonce for the guard of {} is not fresh", .0.display())]
    NonceReused(PathBuf),
    /// The medium has no room for opening it, which needs a few kilobytes.
    #[error("the disk is full: {} cannot be opened", .0.display())]
    Full(PathBuf),
    /// The medium failed, or access is denied.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Why a backup could not be made. The database itself is never affected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The target exists.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// The target could not be written.
    #[error("cannot write the backup {}: {source}", path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// The cause.
        source: StoreError,
    },
    /// The database could not be read.
    #[error("cannot read the database for the backup: {0}")]
    Source(StoreError),
}

impl OpenError {
    /// The same about another file.
    pub(crate) fn about(self, path: &std::path::Path) -> OpenError {
        let path = path.to_owned();
        match self {
            OpenError::NotFound(_) => OpenError::NotFound(path),
            OpenError::Exists(_) => OpenError::Exists(path),
            OpenError::Locked(_) => OpenError::Locked(path),
            OpenError::NewerFormat { found, supported, .. } => {
                OpenError::NewerFormat { path, found, supported }
            }
            OpenError::Damaged { reason, .. } => OpenError::Damaged { path, reason },
            OpenError::ForeignAccount { found, wanted, .. } => {
                OpenError::ForeignAccount { path, found, wanted }
            }
            OpenError::NonceReused(_) => OpenError::NonceReused(path),
            OpenError::Encrypted(_) => OpenError::Encrypted(path),
            OpenError::NotEncrypted(_) => OpenError::NotEncrypted(path),
            OpenError::WrongKey(_) => OpenError::WrongKey(path),
            OpenError::Full(_) => OpenError::Full(path),
            OpenError::Io { source, .. } => OpenError::Io { path, source },
        }
    }

    pub(crate) fn head(path: &std::path::Path, error: HeadError) -> OpenError {
        match error {
            HeadError::Plain => OpenError::NotEncrypted(path.to_owned()),
            HeadError::WrongKey => OpenError::WrongKey(path.to_owned()),
            HeadError::Io(error) => OpenError::io(path, error),
        }
    }

    pub(crate) fn io(path: &std::path::Path, source: io::Error) -> OpenError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => OpenError::NotFound(path),
            kind if is_full(kind) => OpenError::Full(path),
            io::ErrorKind::InvalidData => OpenError::Damaged { path, reason: source.to_string() },
            io::ErrorKind::UnexpectedEof => OpenError::Damaged { path, reason: "it ends too early".into() },
            _ => OpenError::Io { path, source },
        }
    }

    pub(crate) fn store(path: &std::path::Path, error: StoreError) -> OpenError {
        let path = path.to_owned();
        match error {
            StoreError::Full => OpenError::Full(path),
            StoreError::Corrupt(reason) => OpenError::Damaged { path, reason },
            StoreError::Io(text) => OpenError::Io { path, source: io::Error::other(text) },
            other => OpenError::Io { path, source: io::Error::other(other) },
        }
    }

    pub(crate) fn database(path: &std::path::Path, error: DatabaseError) -> OpenError {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                OpenError::Locked(path.to_owned())
            }
            DatabaseError::Storage(StorageError::Io(source)) => OpenError::io(path, source),
            DatabaseError::Storage(error) => OpenError::store(path, storage(error)),
            other => OpenError::Damaged { path: path.to_owned(), reason: other.to_string() },
        }
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

pub(crate) fn io_error(error: &io::Error) -> StoreError {
    match error.kind() {
        kind if is_full(kind) => StoreError::Full,
        // Of an encrypted file: what does not authenticate.
        io::ErrorKind::InvalidData => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Io(error.to_string()),
    }
}

pub(crate) fn storage(error: StorageError) -> StoreError {
    storage_any(error.into())
}

/// Maps any error of redb.
pub(crate) fn storage_any(error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) => io_error(&error),
        redb::Error::PreviousIo => {
            StoreError::Io("an earlier write failed; the database must be reopened".into())
        }
        redb::Error::Corrupted(reason) => StoreError::Corrupt(reason),
        error @ (redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_)) => StoreError::Corrupt(error.to_string()),
        other => StoreError::Io(other.to_string()),
    }
}

/// For `map_err` on whatever redb call.
pub(crate) fn redb<E: Into<redb::Error>>(error: E) -> StoreError {
    storage_any(error.into())
}

/// For `map_err` on reading a record.
pub(crate) fn damaged(what: &'static str) -> impl Fn(DecodeError) -> StoreError {
    move |error| StoreError::Corrupt(format!("{what}: {error}"))
}

/// Why a database that was open could not be opened again.
pub(crate) fn reopening(error: OpenError) -> StoreError {
    match error {
        OpenError::Full(_) => StoreError::Full,
        OpenError::Damaged { reason, .. } => StoreError::Corrupt(reason),
        OpenError::Io { source, .. } => io_error(&source),
        other => StoreError::Io(other.to_string()),
    }
}
