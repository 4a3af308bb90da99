//! What redb is given to write to: a file, encrypted or not.
//!
//! Invariant: with a key nothing but a file encrypted with it is opened, and without one nothing that is encrypted.

use std::fs::File;
use std::io;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::encrypted::{Encrypted, Lenience};
use crate::error::OpenError;
use crate::key::{DataKey, is_encrypted};
use crate::locks::{forward_bytes, forward_locks};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Medium {
    backend: Box<dyn StorageBackend>,
    lenience: Lenience,
}

impl Medium {
    pub(crate) fn plain(backend: impl StorageBackend) -> Medium {
        Medium { backend: Box::new(backend), lenience: Lenience::default() }
    }

    fn encrypted(backend: Encrypted<impl StorageBackend>) -> Medium {
        let lenience = backend.lenience();
        Medium { backend: Box::new(backend), lenience }
    }

    /// On storage that holds a database, or is empty and shall hold one. Errors are about `path`.
    pub(crate) fn new(
        backend: impl StorageBackend,
        key: Option<&DataKey>,
        path: &Path,
    ) -> Result<Medium, OpenError> {
        let io = |error| OpenError::io(path, error);
        match key {
            Some(key) if backend.len().map_err(io)? == 0 => {
                Medium::create(backend, Some(key), &[]).map_err(io)
            }
            Some(key) => {
                let opened = Encrypted::open(backend, key).map_err(|error| OpenError::head(path, error))?;
                Ok(Medium::encrypted(opened))
            }
            None if is_encrypted(&backend).map_err(io)? => Err(OpenError::Encrypted(path.to_owned())),
            None => Ok(Medium::plain(backend)),
        }
    }

    /// On empty storage. `note` is kept in the head, if it is to be encrypted.
    pub(crate) fn create(
        backend: impl StorageBackend,
        key: Option<&DataKey>,
        note: &[u8],
    ) -> io::Result<Medium> {
        let Some(key) = key else { return Ok(Medium::plain(backend)) };
        Encrypted::create(backend, key, note).map(Medium::encrypted)
    }

    /// On a file that holds a database.
    pub(crate) fn of_file(file: File, key: Option<&DataKey>, path: &Path) -> Result<Medium, OpenError> {
        let file = FileBackend::new(file).map_err(|error| OpenError::database(path, error))?;
        Medium::new(file, key, path)
    }

    /// For whoever only copies: torn pages read as zeros.
    pub(crate) fn to_copy(
        backend: impl StorageBackend,
        key: Option<&DataKey>,
        path: &Path,
    ) -> Result<Medium, OpenError> {
        let Some(key) = key else { return Medium::new(backend, None, path) };
        let opened = Encrypted::open(backend, key).map_err(|error| OpenError::head(path, error))?;
        opened.be_lenient();
        Ok(Medium::encrypted(opened))
    }

    /// To be ended when redb has opened the database.
    pub(crate) fn lenience(&self) -> Lenience {
        self.lenience.clone()
    }
}

impl StorageBackend for Medium {
    forward_bytes!(backend);

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    forward_locks!(backend);
}
