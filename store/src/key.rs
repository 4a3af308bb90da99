//! The key of an encrypted database, and the head of its file: which key it takes, and what its owner keeps with it.
//!
//! Invariants: keys are wiped from memory when dropped and never reach `Debug`; each file has a key of its own, derived
//! from the data key and the file's random id, so that no page of one file passes for one of another.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;
use zeroize::Zeroizing;

use crate::error::OpenError;

/// What an encrypted file begins with.
const MAGIC: &[u8; 16] = b"ahenk vault 1\n\0\0";
/// Bytes of the head. Written once, before the file is in its place, and never again.
pub(crate) const HEAD_BYTES: usize = 4096;
const ID_AT: usize = 16;
const CHECK_AT: usize = 32;
const NOTE_LEN_AT: usize = 48;
const NOTE_AT: usize = 52;
/// Longest note in a head, in bytes.
pub const NOTE_BYTES_MAX: usize = HEAD_BYTES - NOTE_AT;

/// The secret of an encrypted database: 32 random bytes, from which all its keys are derived.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// From random bytes.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> DataKey {
        DataKey(bytes)
    }

    /// The bytes, to be wrapped.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key for another purpose, which tells nothing of this one.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(purpose, &self.0[..]))
    }

    /// The key of the file with this id.
    fn of_file(&self, id: &[u8; 16]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*blake3::keyed_hash(&self.derive("ahenk vault 1 file"), id).as_bytes())
    }

    /// By which a file tells the right key from a wrong one.
    fn check(&self, id: &[u8; 16]) -> [u8; 16] {
        let hash = blake3::keyed_hash(&self.derive("ahenk vault 1 check"), id);
        let mut check = [0; 16];
        check.copy_from_slice(&hash.as_bytes()[..16]);
        check
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// What is wrong with a head.
#[derive(Debug)]
pub(crate) enum HeadError {
    Plain,
    WrongKey,
    Io(io::Error),
}

/// Writes the head of a new file, and gives the file's key.
pub(crate) fn write_head(
    backend: &dyn StorageBackend,
    key: &DataKey,
    note: &[u8],
) -> io::Result<Zeroizing<[u8; 32]>> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the note is too long"));
    }
    let id: [u8; 16] = random()?;
    let mut head = vec![0; HEAD_BYTES];
    head[..ID_AT].copy_from_slice(MAGIC);
    head[ID_AT..CHECK_AT].copy_from_slice(&id);
    head[CHECK_AT..NOTE_LEN_AT].copy_from_slice(&key.check(&id));
    head[NOTE_LEN_AT..NOTE_AT].copy_from_slice(&(note.len() as u32).to_be_bytes());
    head[NOTE_AT..NOTE_AT + note.len()].copy_from_slice(note);
    backend.set_len(HEAD_BYTES as u64)?;
    backend.write(0, &head)?;
    Ok(key.of_file(&id))
}

/// Whether a file begins as encrypted ones do.
pub(crate) fn is_encrypted(backend: &dyn StorageBackend) -> io::Result<bool> {
    let mut magic = [0; MAGIC.len()];
    if backend.len()? < magic.len() as u64 {
        return Ok(false);
    }
    backend.read(0, &mut magic)?;
    Ok(magic == *MAGIC)
}

/// The key of a file that was written with `key`.
pub(crate) fn read_head(
    backend: &dyn StorageBackend,
    key: &DataKey,
) -> Result<Zeroizing<[u8; 32]>, HeadError> {
    if !is_encrypted(backend).map_err(HeadError::Io)? {
        return Err(HeadError::Plain);
    }
    let mut head = [0; NOTE_LEN_AT];
    backend.read(0, &mut head).map_err(HeadError::Io)?;
    let mut id = [0; 16];
    id.copy_from_slice(&head[ID_AT..CHECK_AT]);
    // The check is of a secret that whoever can time this does not try to guess: the file itself is at hand.
    if head[CHECK_AT..] != key.check(&id) { Err(HeadError::WrongKey) } else { Ok(key.of_file(&id)) }
}

/// What the head of an encrypted file holds besides, in clear and unverified: the wrapped key, in a backup. `None` if the
/// file is not encrypted.
pub fn head_note(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let io = |error| OpenError::io(path, error);
    let backend = FileBackend::new(File::open(path).map_err(io)?);
    let backend = backend.map_err(|error| OpenError::database(path, error))?;
    if !is_encrypted(&backend).map_err(io)? {
        return Ok(None);
    }
    let mut head = vec![0; HEAD_BYTES];
    backend.read(0, &mut head).map_err(io)?;
    let mut len = [0; 4];
    len.copy_from_slice(&head[NOTE_LEN_AT..NOTE_AT]);
    let len = u32::from_be_bytes(len) as usize;
    let note = head.get(NOTE_AT..NOTE_AT.saturating_add(len));
    note.map(|note| Some(note.to_vec()))
        .ok_or_else(|| OpenError::Damaged { path: path.to_owned(), reason: "its head makes no sense".into() })
}

/// Whether this is the key that an encrypted file was written with.
pub fn opens(path: &Path, key: &DataKey) -> Result<bool, OpenError> {
    let io = |error| OpenError::io(path, error);
    let backend = FileBackend::new(File::open(path).map_err(io)?);
    let backend = backend.map_err(|error| OpenError::database(path, error))?;
    match read_head(&backend, key) {
        Ok(_) => Ok(true),
        Err(HeadError::WrongKey) => Ok(false),
        Err(error) => Err(OpenError::head(path, error)),
    }
}

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    use rand::TryRng as _;
    let mut bytes = [0; N];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
