//! The guard against copies and rewinds. A database that is a copy, or an earlier state of itself, must
//! not go on writing under the same replica, or a sequence number would be used twice.
//!
//! A nonce lies both in the database and in a small file beside it, and is renewed at each open: first
//! the guard names both the old and the new nonce, then the database takes the new one, then the guard
//! drops the old one. A crash between any two steps leaves a pair that still fits; a copy made before
//! this open fits none. The guard also keeps the time of birth of the database file, where the file
//! system knows it, so that copying the pair does not go unnoticed either; and after a clean end the seal of the file
//! (`sealing`), by which the next opening knows that it need not check every page.
//!
//! Invariant: when in doubt the life is a new one. A needless new life costs one more replica; a false
//! old one could lose writes.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use engine::identity::hex;
use redb::{Database, ReadableDatabase};

use crate::error::{OpenError, redb};
use crate::files::{guard_path, replace};
use crate::schema::{self, META, META_NONCE, META_STATE};
use crate::sealing::{changed_ns, seal_of};

const TITLE: &str = "ahenk guard 1";
/// How long to wait, if need be, until a later change of the database would bear another time than its last one.
const CLOCK_TICK: Duration = Duration::from_millis(12);
/// After what time to look again.
const CLOCK_STEP: Duration = Duration::from_millis(1);
/// Longest guard file that is read, in bytes.
const GUARD_BYTES_MAX: u64 = 1024;

pub(crate) type Nonce = [u8; 16];

struct Guard {
    birth: String,
    nonces: Vec<String>,
    seal: Option<String>,
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
        let mut guard = Guard { birth, nonces: Vec::new(), seal: None };
        for line in lines {
            match (line.strip_prefix("nonce "), line.strip_prefix("seal ")) {
                (Some(nonce), _) => guard.nonces.push(nonce.to_owned()),
                (_, Some(seal)) if guard.seal.is_none() => guard.seal = Some(seal.to_owned()),
                _ => return None,
            }
        }
        Some(guard)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = format!("{TITLE}\nbirth {}\n", self.birth);
        for nonce in &self.nonces {
            text.push_str(&format!("nonce {nonce}\n"));
        }
        if let Some(seal) = &self.seal {
            text.push_str(&format!("seal {seal}\n"));
        }
        replace(path, text.as_bytes())
    }
}

/// When the file came to be, in nanoseconds since the Unix epoch; `unknown` where that is not kept.
fn birth(metadata: &Metadata) -> String {
    let created = metadata.created().ok();
    let since = created.and_then(|created| created.duration_since(UNIX_EPOCH).ok());
    since.map_or_else(|| "unknown".to_owned(), |since| since.as_nanos().to_string())
}

/// Writes the seal of a file that is closed in good order, unless the guard is that of another file.
pub(crate) fn seal(path: &Path, file: &File) -> io::Result<()> {
    let guard_path = guard_path(path);
    let Some(mut guard) = Guard::read(&guard_path)? else { return Ok(()) };
    let metadata = file.metadata()?;
    if guard.birth != birth(&metadata) {
        return Ok(());
    }
    guard.seal = Some(seal_of(&metadata)?);
    let late = || Ok::<_, io::Error>(changed_ns(&fs::metadata(&guard_path)?)? > changed_ns(&metadata)?);
    guard.write(&guard_path)?;
    let began = Instant::now();
    while !late()? && began.elapsed() < CLOCK_TICK {
        std::thread::sleep(CLOCK_STEP);
        guard.write(&guard_path)?;
    }
    Ok(())
}

/// Whether the file is as a clean end has left it, so that only its nonce remains to be looked at. A change at the very
/// time of the seal would not show: a guard that is no younger than its seal does not count.
pub(crate) fn sealed(path: &Path, file: &File) -> io::Result<bool> {
    let guard_path = guard_path(path);
    let Some(guard) = Guard::read(&guard_path)? else { return Ok(false) };
    let metadata = file.metadata()?;
    Ok(guard.seal == Some(seal_of(&metadata)?)
        && guard.birth == birth(&metadata)
        && changed_ns(&fs::metadata(&guard_path)?)? > changed_ns(&metadata)?)
}

/// Whether the nonce of an open database is one of its guard's.
pub(crate) fn fits(db: &Database, path: &Path) -> Result<bool, OpenError> {
    let stored = stored_nonce(db).map_err(|error| OpenError::store(path, error))?;
    let guard = Guard::read(&guard_path(path)).map_err(|error| OpenError::io(path, error))?;
    Ok(stored.is_some_and(|stored| guard.is_some_and(|guard| guard.nonces.contains(&stored))))
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
    let birth = birth(&fs::metadata(path).map_err(io)?);
    let same = match (&stored, &guard) {
        (Some(stored), Some(guard)) => guard.nonces.contains(stored) && guard.birth == birth,
        _ => false,
    };
    let mut guard = Guard { birth, nonces: vec![fresh], seal: None };
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
