//! The guard against copies and rewinds. A database that is a copy, or an earlier state of itself, must
//! not go on writing under the same replica, or a sequence number would be used twice.
//!
//! A nonce lies both in the database and in a small file beside it, and is renewed at each open: first
//! the guard names both the old and the new nonce, then the database takes the new one, then the guard
//! drops the old one. A crash between any two steps leaves a pair that still fits; a copy made before
//! this open fits none. The guard also keeps the time of birth of the database file, where the file
//! system knows it, so that copying the pair does not go unnoticed either.
//!
//! Invariant: when in doubt the life is a new one. A needless new life costs one more replica; a false
//! old one could lose writes.

use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use engine::identity::hex;
use redb::{Database, ReadableDatabase};

use crate::error::{OpenError, redb};
use crate::files::{guard_path, replace};
use crate::schema::{self, META, META_NONCE, META_STATE};

const TITLE: &str = "ahenk guard 1";
/// Longest guard file that is read, in bytes.
const GUARD_BYTES_MAX: u64 = 1024;

pub(crate) type Nonce = [u8; 16];

struct Guard {
    birth: String,
    nonces: Vec<String>,
}

impl Guard {
    /// `None` if there is none that makes sense.
    fn read(path: &Path) -> io::Result<Option<Guard>> {
        let text = match fs::metadata(path) {
            Ok(metadata) if metadata.len() > GUARD_BYTES_MAX => return Ok(None),
            Ok(_) => fs::read(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(String::from_utf8(text).ok().and_then(|text| Guard::parse(&text)))
    }

    fn parse(text: &str) -> Option<Guard> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != TITLE {
            return None;
        }
        let birth = lines.next()?.strip_prefix("birth ")?.to_owned();
        let nonces =
            lines.map(|line| line.strip_prefix("nonce ").map(str::to_owned)).collect::<Option<_>>()?;
        Some(Guard { birth, nonces })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = format!("{TITLE}\nbirth {}\n", self.birth);
        for nonce in &self.nonces {
            text.push_str(&format!("nonce {nonce}\n"));
        }
        replace(path, text.as_bytes())
    }
}

/// When the file came to be, in nanoseconds since the Unix epoch; `unknown` where that is not kept.
fn birth(path: &Path) -> io::Result<String> {
    let created = fs::metadata(path)?.created().ok();
    let since = created.and_then(|created| created.duration_since(UNIX_EPOCH).ok());
    Ok(since.map_or_else(|| "unknown".to_owned(), |since| since.as_nanos().to_string()))
}

/// Renews the nonce of an open database, and has it forget its replica unless this is surely the same
/// life as before. The caller holds the database's lock.
pub(crate) fn renew(db: &Database, path: &Path, nonce: &Nonce) -> Result<(), OpenError> {
    let io = |source| OpenError::io(path, source);
    let stored = stored_nonce(db).map_err(|error| OpenError::store(path, error))?;
    let fresh = hex(nonce);
    if stored.as_ref() == Some(&fresh) {
        return Err(OpenError::NonceReused(path.to_owned()));
    }
    let guard_path = guard_path(path);
    let guard = Guard::read(&guard_path).map_err(io)?;
    let birth = birth(path).map_err(io)?;
    let same = match (&stored, &guard) {
        (Some(stored), Some(guard)) => guard.nonces.contains(stored) && guard.birth == birth,
        _ => false,
    };
    let mut guard = Guard { birth, nonces: vec![fresh] };
    if let (true, Some(stored)) = (same, stored) {
        guard.nonces.push(stored);
        guard.write(&guard_path).map_err(io)?;
    }
    store_nonce(db, nonce, same).map_err(|error| OpenError::store(path, error))?;
    guard.nonces.truncate(1);
    guard.write(&guard_path).map_err(io)
}

fn stored_nonce(db: &Database) -> Result<Option<String>, engine::store::StoreError> {
    let meta = db.begin_read().map_err(redb)?.open_table(META).map_err(redb)?;
    Ok(meta.get(META_NONCE).map_err(redb)?.map(|nonce| hex(nonce.value())))
}

fn store_nonce(db: &Database, nonce: &Nonce, same: bool) -> Result<(), engine::store::StoreError> {
    let txn = db.begin_write().map_err(redb)?;
    {
        let mut meta = txn.open_table(META).map_err(redb)?;
        meta.insert(META_NONCE, nonce.as_slice()).map_err(redb)?;
        if !same {
            let state = schema::State { replica: None, ..schema::state(&meta)? };
            meta.insert(META_STATE, state.encode().as_slice()).map_err(redb)?;
        }
    }
    txn.commit().map_err(redb)
}
