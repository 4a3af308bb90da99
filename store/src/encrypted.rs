//! A redb backend that encrypts what it passes on, page by page (`docs/format.md`, "Encrypted files").
//!
//! redb survives torn writes because it writes pages copy-on-write, each under a checksum in its parent, and overwrites
//! only its header. Both are kept: a page and its tag lie together and are written together, so that a torn page is one
//! that does not authenticate; the header has two places, of which the one that was synced last is left alone.
//!
//! One thing is different: redb's checksum of a node covers what the node uses of its pages. A torn page behind that is
//! none of its business, but one that does not authenticate here. So pages that did not authenticate while redb looked for
//! a state that is whole, and found one, read as zeros until they are written again, at the latest before the file is
//! marked as closed in good order.
//!
//! Invariants: nothing is written under a nonce that was used before; what does not authenticate is an error, and while
//! redb looks for what an unclean end has left, a page of zeros, which no checksum fits; between two syncs only one of
//! the header's two places is written.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use redb::StorageBackend;

use crate::key::{DataKey, HEAD_BYTES, HeadError, random, read_head, write_head};
use crate::locks::forward_locks;
use crate::sealing::{FLAGS_OFFSET, RECOVERY_REQUIRED};

/// What is encrypted as one: a page of redb's.
const PAGE_BYTES: usize = 4096;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// A page in the file: nonce, ciphertext, tag.
const RECORD_BYTES: usize = NONCE_BYTES + PAGE_BYTES + TAG_BYTES;
const GENERATION_BYTES: usize = 8;
/// The header in the file: nonce; ciphertext of generation and page; tag.
const HEADER_RECORD_BYTES: usize = RECORD_BYTES + GENERATION_BYTES;
/// Where the two places of the header are. No sector, and no page of a system's cache, belongs to both.
const HEADER_AT: [u64; 2] = [HEAD_BYTES as u64, 3 * HEAD_BYTES as u64];
/// Where the page after the header is.
const PAGES_AT: u64 = 5 * HEAD_BYTES as u64;

/// redb's first page, which holds its header.
#[derive(Debug)]
struct Header {
    page: Vec<u8>,
    generation: u64,
    /// The place that the next write goes to.
    target: usize,
    /// Whether the other place is surely on the medium.
    settled: bool,
    /// Whether it was written since the last sync.
    written: bool,
}

/// See the module's documentation.
pub(crate) struct Encrypted<B> {
    inner: B,
    cipher: XChaCha20Poly1305,
    /// Random for each opening: the first part of all its nonces.
    prefix: [u8; 16],
    count: AtomicU64,
    /// Read when it is first asked for, because then redb has locked the file.
    header: Mutex<Option<Header>>,
    lenient: Arc<AtomicBool>,
    /// Pages that did not authenticate while that was allowed.
    torn: Mutex<BTreeSet<u64>>,
}

impl<B> std::fmt::Debug for Encrypted<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encrypted(..)")
    }
}

/// Whether pages that do not authenticate read as zeros. They may until redb has opened the database, if it was not
/// closed in good order: redb then looks for the newest state that is whole, and must be able to pass over torn pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lenience(Arc<AtomicBool>);

impl Lenience {
    /// From now on they are an error.
    pub(crate) fn end(&self) {
        self.0.store(false, Ordering::Release);
    }
}

fn not_authentic(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} was changed or damaged: it does not authenticate"),
    )
}

impl<B: StorageBackend> Encrypted<B> {
    /// Over a new, empty file. `note` is kept in its head in clear.
    pub(crate) fn create(inner: B, key: &DataKey, note: &[u8]) -> io::Result<Encrypted<B>> {
        let key = write_head(&inner, key, note)?;
        Encrypted::with(inner, &key)
    }

    pub(crate) fn open(inner: B, key: &DataKey) -> Result<Encrypted<B>, HeadError> {
        let key = read_head(&inner, key)?;
        Encrypted::with(inner, &key).map_err(HeadError::Io)
    }

    fn with(inner: B, key: &[u8; 32]) -> io::Result<Encrypted<B>> {
        Ok(Encrypted {
            inner,
            cipher: XChaCha20Poly1305::new(key.into()),
            prefix: random()?,
            count: AtomicU64::new(0),
            header: Mutex::new(None),
            lenient: Arc::default(),
            torn: Mutex::default(),
        })
    }

    pub(crate) fn lenience(&self) -> Lenience {
        Lenience(Arc::clone(&self.lenient))
    }

    /// For whoever only copies, and has what was copied checked.
    pub(crate) fn be_lenient(&self) {
        self.lenient.store(true, Ordering::Release);
    }

    fn torn(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.torn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self) -> MutexGuard<'_, Option<Header>> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encrypts into `record`: the plaintext lies where the ciphertext will.
    fn seal(&self, record: &mut [u8], place: &[u8]) -> io::Result<()> {
        let (nonce, rest) = record.split_at_mut(NONCE_BYTES);
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        nonce[..16].copy_from_slice(&self.prefix);
        nonce[16..].copy_from_slice(&count.to_be_bytes());
        let (text, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        let sealed = self.cipher.encrypt_in_place_detached((&*nonce).into(), place, text);
        tag.copy_from_slice(&sealed.map_err(|error| io::Error::other(error.to_string()))?);
        Ok(())
    }

    /// Decrypts a record in place, and gives the plaintext; `None` if it does not authenticate.
    fn unseal<'r>(&self, record: &'r mut [u8], place: &[u8]) -> Option<&'r [u8]> {
        let (nonce, rest) = record.split_at_mut(NONCE_BYTES);
        let (text, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        let opened = self.cipher.decrypt_in_place_detached((&*nonce).into(), place, text, (&*tag).into());
        opened.ok().map(|()| &*text)
    }

    /// The header as the file has it: the newer of its two places.
    fn load_header(&self) -> io::Result<Header> {
        let mut found: Option<Header> = None;
        let mut blank = true;
        for (target, at) in HEADER_AT.into_iter().enumerate() {
            let mut record = vec![0; HEADER_RECORD_BYTES];
            self.inner.read(at, &mut record)?;
            blank &= record.iter().all(|byte| *byte == 0);
            let Some(text) = self.unseal(&mut record, &header_place(target)) else { continue };
            let (generation, page) = text.split_at(GENERATION_BYTES);
            let mut bytes = [0; GENERATION_BYTES];
            bytes.copy_from_slice(generation);
            let generation = u64::from_be_bytes(bytes);
            if found.as_ref().is_none_or(|found| found.generation < generation) {
                let (page, target) = (page.to_vec(), 1 - target);
                found = Some(Header { page, generation, target, settled: false, written: false });
            }
        }
        let new =
            || Header { page: vec![0; PAGE_BYTES], generation: 0, target: 0, settled: true, written: false };
        match found {
            Some(found) => Ok(found),
            None if blank => Ok(new()),
            None => Err(not_authentic("the header")),
        }
    }

    /// Looks at the header, or changes it.
    fn with_header<R>(&self, act: impl FnOnce(&mut Header) -> io::Result<R>) -> io::Result<R> {
        let mut header = self.header();
        if header.is_none() {
            let loaded = self.load_header()?;
            if loaded.page[FLAGS_OFFSET as usize] & RECOVERY_REQUIRED != 0 {
                self.be_lenient();
            }
            *header = Some(loaded);
        }
        header.as_mut().map_or_else(|| Err(not_authentic("the header")), act)
    }

    /// Writes the header where it may be torn. The other place, which is read then, has what was synced last.
    fn write_header(&self, within: usize, data: &[u8]) -> io::Result<()> {
        let flags = (FLAGS_OFFSET as usize).checked_sub(within).and_then(|at| data.get(at));
        if flags.is_some_and(|flags| flags & RECOVERY_REQUIRED == 0) {
            self.mend()?;
        }
        self.with_header(|header| {
            if !header.settled {
                // What the last process wrote may be in the system's cache only.
                self.inner.sync_data()?;
                header.settled = true;
            }
            header.generation += 1;
            header.page[within..within + data.len()].copy_from_slice(data);
            let mut record = vec![0; HEADER_RECORD_BYTES];
            let text = &mut record[NONCE_BYTES..];
            text[..GENERATION_BYTES].copy_from_slice(&header.generation.to_be_bytes());
            text[GENERATION_BYTES..GENERATION_BYTES + PAGE_BYTES].copy_from_slice(&header.page);
            self.seal(&mut record, &header_place(header.target))?;
            header.written = true;
            self.inner.write(HEADER_AT[header.target], &record)
        })
    }

    /// Reads whole pages after the header into `out`.
    fn read_pages(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        let mut records = vec![0; out.len() / PAGE_BYTES * RECORD_BYTES];
        self.inner.read(record_at(first), &mut records)?;
        let pages = out.chunks_exact_mut(PAGE_BYTES).zip(records.chunks_exact_mut(RECORD_BYTES));
        for (page, (out, record)) in (first..).zip(pages) {
            match self.unseal(record, &page.to_be_bytes()) {
                Some(text) => out.copy_from_slice(text),
                None if self.lenient.load(Ordering::Acquire) => {
                    self.torn().insert(page);
                    out.fill(0);
                }
                None if self.torn().contains(&page) => out.fill(0),
                None => return Err(not_authentic(&format!("page {page}"))),
            }
        }
        Ok(())
    }

    fn write_pages(&self, first: u64, data: &[u8]) -> io::Result<()> {
        let mut records = vec![0; data.len() / PAGE_BYTES * RECORD_BYTES];
        let pages = data.chunks_exact(PAGE_BYTES).zip(records.chunks_exact_mut(RECORD_BYTES));
        for (page, (data, record)) in (first..).zip(pages) {
            record[NONCE_BYTES..NONCE_BYTES + PAGE_BYTES].copy_from_slice(data);
            self.seal(record, &page.to_be_bytes())?;
        }
        self.inner.write(record_at(first), &records)?;
        let mut torn = self.torn();
        let count = (data.len() / PAGE_BYTES) as u64;
        torn.retain(|page| !(first..first + count).contains(page));
        Ok(())
    }

    /// Writes the pages that are torn still, so that all of the file authenticates.
    fn mend(&self) -> io::Result<()> {
        let torn: Vec<u64> = self.torn().iter().copied().collect();
        if torn.is_empty() {
            return Ok(());
        }
        torn.iter().try_for_each(|page| self.write_pages(*page, &[0; PAGE_BYTES]))?;
        self.inner.sync_data()
    }
}

/// What a place of the header is called to the cipher. Longer than the name of any page.
fn header_place(target: usize) -> [u8; 9] {
    let mut place = [0; 9];
    place[8] = target as u8;
    place
}

/// Where a page after the header is in the file.
fn record_at(page: u64) -> u64 {
    PAGES_AT.saturating_add((page - 1).saturating_mul(RECORD_BYTES as u64))
}

/// How many of `len` bytes from `offset` on are handled as one: the rest of a page, or whole pages; the header alone.
fn piece(offset: u64, len: usize) -> (u64, usize, usize) {
    let (page, within) = (offset / PAGE_BYTES as u64, (offset % PAGE_BYTES as u64) as usize);
    let whole = len - len % PAGE_BYTES;
    let take = if page == 0 || within > 0 || whole == 0 { len.min(PAGE_BYTES - within) } else { whole };
    (page, within, take)
}

impl<B: StorageBackend> StorageBackend for Encrypted<B> {
    fn len(&self) -> io::Result<u64> {
        let found = self.inner.len()?;
        if found == HEAD_BYTES as u64 {
            return Ok(0);
        }
        match found.checked_sub(PAGES_AT) {
            Some(pages) if pages.is_multiple_of(RECORD_BYTES as u64) => {
                Ok((pages / RECORD_BYTES as u64 + 1) * PAGE_BYTES as u64)
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "its length is none that it can have")),
        }
    }

    fn read(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let (page, within, take) = piece(offset, out.len());
            let (part, rest) = out.split_at_mut(take);
            if page == 0 {
                self.with_header(|header| {
                    part.copy_from_slice(&header.page[within..within + take]);
                    Ok(())
                })?;
            } else if take.is_multiple_of(PAGE_BYTES) {
                self.read_pages(page, part)?;
            } else {
                let mut whole = vec![0; PAGE_BYTES];
                self.read_pages(page, &mut whole)?;
                part.copy_from_slice(&whole[within..within + take]);
            }
            (offset, out) = (offset + take as u64, rest);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !len.is_multiple_of(PAGE_BYTES as u64) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its length is not in whole pages"));
        }
        let pages = len / PAGE_BYTES as u64;
        let _ = self.torn().split_off(&pages);
        self.inner.set_len(if pages == 0 { HEAD_BYTES as u64 } else { record_at(pages) })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut header = self.header();
        self.inner.sync_data()?;
        if let Some(header) = header.as_mut()
            && std::mem::take(&mut header.written)
        {
            header.target = 1 - header.target;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let (page, within, take) = piece(offset, data.len());
            let (part, rest) = data.split_at(take);
            if page == 0 {
                self.write_header(within, part)?;
            } else if take.is_multiple_of(PAGE_BYTES) {
                self.write_pages(page, part)?;
            } else {
                let mut whole = vec![0; PAGE_BYTES];
                self.read_pages(page, &mut whole)?;
                whole[within..within + take].copy_from_slice(part);
                self.write_pages(page, &whole)?;
            }
            (offset, data) = (offset + take as u64, rest);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    forward_locks!(inner);
}
