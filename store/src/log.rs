//! The log on disk: commits in chunks, by position, and an index of them by name.
//!
//! A chunk holds commits that were applied one after the other (`chunk` has its bytes), in parts that each fill a page. The
//! index has an entry for each *stretch*: commits of one replica in one chunk whose sequence numbers follow each other.
//! Small chunks, as single commits make them, are gathered into larger ones at a checkpoint.
//! Invariants: chunks do not overlap, nor do stretches; each commit is in one chunk and in one stretch.

use std::sync::Arc;

use engine::codec::{DecodeError, Reader, Writer};
use engine::commit::Commit;
use engine::identity::{AccountId, ReplicaId, Sig};
use engine::store::{Batch, StoreError, StoredCommit};
use engine::wire::packed::PackedLog;
use redb::{AccessGuard, ReadableTable, WriteTransaction};

use crate::chunk::{self, CHUNK_BYTES_MAX, Entry, Logged, Recent};
use crate::error::{damaged, redb};
use crate::names::{Names, replica_number};
use crate::record::{dot_key, split_dot_key};
use crate::schema::{INDEX, LOG};

/// Bytes of a part of a chunk: what a page of redb holds beside the key. Larger values take a power of two of pages.
const PART_BYTES: usize = 4_064;
/// A chunk of fewer bytes is worth gathering with those beside it.
const SMALL_BYTES: usize = PART_BYTES / 2;

/// Anything that can be read as the table `log` or `index`.
pub(crate) trait Readable: ReadableTable<&'static [u8], &'static [u8]> {}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> Readable for T {}

/// A table that is being written.
type Table<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

/// The key of a part of the chunk that begins with a position.
fn part_key(first: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&first.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

fn split_part_key(key: &[u8]) -> Result<(u64, u16), StoreError> {
    let mut reader = Reader::new(key);
    let mut split = || {
        let first = u64::from_be_bytes(reader.array()?);
        let part = u16::from_be_bytes(reader.array()?);
        reader.clone().finish()?;
        Ok((first, part))
    };
    split().map_err(damaged("a chunk's key"))
}

/// The first position of a chunk, and its bytes.
type Whole = (u64, Vec<u8>);

/// Puts the parts of chunks together.
struct Chunks<I> {
    parts: I,
    open: Option<Whole>,
}

type Part<'a> = Result<(AccessGuard<'a, &'static [u8]>, AccessGuard<'a, &'static [u8]>), redb::StorageError>;

impl<'a, I: Iterator<Item = Part<'a>>> Chunks<I> {
    fn new(parts: I) -> Chunks<I> {
        Chunks { parts, open: None }
    }

    fn advance(&mut self) -> Result<Option<Whole>, StoreError> {
        let mut count = 1;
        for part in self.parts.by_ref() {
            let (key, value) = part.map_err(redb)?;
            match (split_part_key(key.value())?, &mut self.open) {
                ((first, 0), open) => {
                    let next = (first, value.value().to_vec());
                    if let Some(whole) = open.replace(next) {
                        return Ok(Some(whole));
                    }
                }
                ((first, part), Some((open, bytes))) if first == *open && usize::from(part) == count => {
                    bytes.extend_from_slice(value.value());
                    count += 1;
                }
                _ => return Err(StoreError::Corrupt("a part of a chunk of the log is missing".into())),
            }
        }
        Ok(self.open.take())
    }
}

impl<'a, I: Iterator<Item = Part<'a>>> Iterator for Chunks<I> {
    type Item = Result<Whole, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// The log as a reader or the writer sees it.
pub(crate) struct Log<'a, T> {
    pub(crate) table: T,
    pub(crate) account: &'a AccountId,
    pub(crate) recent: &'a Recent,
}

impl<T: Readable> Log<'_, T> {
    fn decoded(&self, first: u64, bytes: &[u8]) -> Result<Arc<[Logged]>, StoreError> {
        if let Some(commits) = self.recent.get(first) {
            return Ok(commits);
        }
        let commits = decode(first, bytes, self.account)?.into();
        self.recent.keep(first, &commits);
        Ok(commits)
    }

    fn chunk(&self, first: u64) -> Result<Arc<[Logged]>, StoreError> {
        match self.recent.get(first) {
            Some(commits) => Ok(commits),
            None => self.decoded(first, &bytes_of(&self.table, first)?),
        }
    }

    /// Calls `with` for the commits from a position on, in order, until it says that it has enough.
    fn for_each_from(
        &self,
        from_position: u64,
        mut with: impl FnMut(&Logged) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let first = chunk_before(&self.table, from_position)?.unwrap_or(from_position);
        let parts = self.table.range::<&[u8]>(part_key(first, 0).as_slice()..).map_err(redb)?;
        for whole in Chunks::new(parts) {
            let (first, bytes) = whole?;
            for logged in self.decoded(first, &bytes)?.iter() {
                if logged.position >= from_position && !with(logged)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn decode(first: u64, bytes: &[u8], account: &AccountId) -> Result<Vec<Logged>, StoreError> {
    chunk::decode(first, bytes, account).map_err(damaged("a chunk of the log"))
}

/// The last chunk that begins at or before a position.
fn chunk_before(log: &impl Readable, position: u64) -> Result<Option<u64>, StoreError> {
    let to = part_key(position, u16::MAX);
    let before = log.range::<&[u8]>(..=to.as_slice()).map_err(redb)?.next_back();
    before.map(|entry| Ok(split_part_key(entry.map_err(redb)?.0.value())?.0)).transpose()
}

fn bytes_of(log: &impl Readable, first: u64) -> Result<Vec<u8>, StoreError> {
    let (from, to) = (part_key(first, 0), part_key(first, u16::MAX));
    let parts = log.range::<&[u8]>(from.as_slice()..=to.as_slice()).map_err(redb)?;
    let whole = Chunks::new(parts).next().transpose()?;
    whole.map(|(_, bytes)| bytes).ok_or_else(|| StoreError::Corrupt("a chunk of the log is missing".into()))
}

fn put_chunk(log: &mut Table<'_>, first: u64, entries: &[Entry<'_>]) -> Result<(), StoreError> {
    put_bytes(log, first, &chunk::encode(first, entries))
}

fn put_bytes(log: &mut Table<'_>, first: u64, bytes: &[u8]) -> Result<(), StoreError> {
    for (part, bytes) in (0..).zip(bytes.chunks(PART_BYTES)) {
        log.insert(part_key(first, part).as_slice(), bytes).map_err(redb)?;
    }
    Ok(())
}

fn remove_chunk(log: &mut Table<'_>, first: u64, bytes: &[u8]) -> Result<(), StoreError> {
    for (part, _) in (0..).zip(bytes.chunks(PART_BYTES)) {
        log.remove(part_key(first, part).as_slice()).map_err(redb)?;
    }
    Ok(())
}

/// An entry of the index: commits of one replica from a sequence number on, in one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    replica: u32,
    first: u64,
    count: u64,
    chunk: u64,
}

impl Stretch {
    fn read(key: &[u8], value: &[u8]) -> Result<Stretch, StoreError> {
        let (replica, first) = split_dot_key(key)?;
        let mut reader = Reader::new(value);
        let mut read = || {
            let chunk = u64::from_be_bytes(reader.array()?);
            let count = reader.varint()?;
            reader.clone().finish()?;
            let whole = count > 0 && first.checked_add(count).is_some();
            if whole { Ok((chunk, count)) } else { Err(DecodeError::Invalid("a stretch of commits")) }
        };
        let (chunk, count) = read().map_err(damaged("the index of the log"))?;
        Ok(Stretch { replica, first, count, chunk })
    }

    fn value(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.raw(&self.chunk.to_be_bytes());
        writer.varint(self.count);
        writer.into_bytes()
    }

    /// The sequence number after its last.
    fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// The last stretch of a replica that begins at or before a sequence number.
fn stretch_at(index: &impl Readable, replica: u32, seq: u64) -> Result<Option<Stretch>, StoreError> {
    let (from, to) = (dot_key(replica, 0), dot_key(replica, seq));
    let found = index.range(from.as_slice()..=to.as_slice()).map_err(redb)?.next_back();
    let Some(entry) = found else { return Ok(None) };
    let (key, value) = entry.map_err(redb)?;
    Stretch::read(key.value(), value.value()).map(Some)
}

/// The stretches of a chunk, in the order of their first commits.
fn stretches<'a>(
    chunk: u64,
    commits: impl Iterator<Item = &'a Commit>,
    names: &mut Arc<Names>,
) -> Vec<Stretch> {
    let mut stretches = Vec::<Stretch>::new();
    let mut last: Option<(ReplicaId, u32)> = None;
    for commit in commits {
        let (of, seq) = (commit.dot.replica, commit.dot.seq);
        let replica = match last {
            Some((last, number)) if last == of => number,
            _ => replica_number(names, &of),
        };
        last = Some((of, replica));
        match stretches.iter_mut().rfind(|stretch| stretch.replica == replica) {
            Some(stretch) if stretch.end() == seq => stretch.count += 1,
            _ => stretches.push(Stretch { replica, first: seq, count: 1, chunk }),
        }
    }
    stretches
}

/// Appends the commits of a batch. Refuses a commit that the log has. Returns the bytes that they have in their canonical
/// form. A chunk ends in a signature, if there is one since it began: so all its runs are whole, and may be sent as they are.
pub(crate) fn append(
    txn: &WriteTransaction,
    batch: &Batch,
    names: &mut Arc<Names>,
) -> Result<u64, StoreError> {
    if batch.commits.is_empty() {
        return Ok(0);
    }
    let mut log = txn.open_table(LOG).map_err(redb)?;
    let mut index = txn.open_table(INDEX).map_err(redb)?;
    let mut put = |entries: &[Entry<'_>], packed: Option<Vec<u8>>| {
        let Some(first) = entries.first().map(|entry| entry.position) else { return Ok(()) };
        let bytes = packed.unwrap_or_else(|| chunk::encode(first, entries));
        put_bytes(&mut log, first, &bytes)?;
        add_stretches(&mut index, stretches(first, entries.iter().map(|entry| entry.commit), names))
    };
    let entries = (batch.position..).zip(&batch.commits);
    let entries = entries.map(|(position, (commit, sig))| Entry { position, commit, sig: sig.as_ref() });
    let mut entries: Vec<Entry<'_>> = entries.collect();
    if let Some(columns) = &batch.columns
        && let Some(packed) = chunk::encode_packed(batch.position, &entries, columns)
    {
        put(&entries, Some(packed))?;
        return Ok(columns.bytes as u64);
    }
    let mut all = 0;
    while !entries.is_empty() {
        let (count, bytes) = chunk_len(&entries);
        put(&entries[..count], None)?;
        entries.drain(..count);
        all += bytes as u64;
    }
    Ok(all)
}

/// How many entries the next chunk is to have, and the bytes of their commits in canonical form.
fn chunk_len(entries: &[Entry<'_>]) -> (usize, usize) {
    let (mut signed, mut bytes) = ((0, 0), 0);
    for (at, entry) in entries.iter().enumerate() {
        let more = entry.commit.encoded_len();
        if bytes + more > CHUNK_BYTES_MAX && at > 0 {
            return if signed.0 > 0 { signed } else { (at, bytes) };
        }
        bytes += more;
        if entry.sig.is_some() {
            signed = (at + 1, bytes);
        }
    }
    (entries.len(), bytes)
}

fn add_stretches(index: &mut Table<'_>, stretches: Vec<Stretch>) -> Result<(), StoreError> {
    for stretch in stretches {
        // Stretches do not overlap, so only the last that begins before this one's end could.
        let before = stretch_at(index, stretch.replica, stretch.end() - 1)?;
        if before.is_some_and(|before| before.end() > stretch.first) {
            return Err(StoreError::Corrupt("a batch repeats a commit of the log".into()));
        }
        let key = dot_key(stretch.replica, stretch.first);
        index.insert(key.as_slice(), stretch.value().as_slice()).map_err(redb)?;
    }
    Ok(())
}

/// Gathers small chunks from a position on that lie beside each other. Says whether there were any.
pub(crate) fn gather(
    txn: &WriteTransaction,
    account: &AccountId,
    from_position: u64,
    names: &mut Arc<Names>,
) -> Result<bool, StoreError> {
    let mut log = txn.open_table(LOG).map_err(redb)?;
    let mut index = txn.open_table(INDEX).map_err(redb)?;
    let mut gathered = false;
    let mut put = |log: &mut Table<'_>, chunks: &mut Vec<(u64, Vec<Logged>)>| {
        if chunks.len() > 1 {
            join(log, &mut index, chunks, names)?;
            gathered = true;
        }
        chunks.clear();
        Ok::<_, StoreError>(())
    };
    let (mut beside, mut bytes) = (Vec::<(u64, Vec<Logged>)>::new(), 0);
    for small in small_chunks(&log, from_position)? {
        let Some(first) = small else {
            put(&mut log, &mut beside)?;
            bytes = 0;
            continue;
        };
        let commits = decode(first, &bytes_of(&log, first)?, account)?;
        let more = commits.iter().map(|commit| commit.bytes).sum::<usize>();
        if bytes + more > CHUNK_BYTES_MAX {
            put(&mut log, &mut beside)?;
            bytes = 0;
        }
        beside.push((first, commits));
        bytes += more;
    }
    put(&mut log, &mut beside)?;
    Ok(gathered)
}

/// The small chunks from a position on, in order; `None` where others lie between.
fn small_chunks(log: &impl Readable, from_position: u64) -> Result<Vec<Option<u64>>, StoreError> {
    let mut found: Vec<Option<u64>> = Vec::new();
    for entry in log.range::<&[u8]>(part_key(from_position, 0).as_slice()..).map_err(redb)? {
        let (key, value) = entry.map_err(redb)?;
        match split_part_key(key.value())? {
            (first, 0) if value.value().len() < SMALL_BYTES => found.push(Some(first)),
            _ if found.last().is_some_and(Option::is_some) => found.push(None),
            _ => {}
        }
    }
    Ok(found)
}

/// Makes one chunk of several that follow each other.
fn join(
    log: &mut Table<'_>,
    index: &mut Table<'_>,
    chunks: &[(u64, Vec<Logged>)],
    names: &mut Arc<Names>,
) -> Result<(), StoreError> {
    let Some((first, _)) = chunks.first() else { return Ok(()) };
    for (chunk, commits) in chunks {
        log.remove(part_key(*chunk, 0).as_slice()).map_err(redb)?;
        for stretch in stretches(*chunk, commits.iter().map(|logged| &logged.commit), names) {
            index.remove(dot_key(stretch.replica, stretch.first).as_slice()).map_err(redb)?;
        }
    }
    let commits = || chunks.iter().flat_map(|(_, commits)| commits);
    put_chunk(log, *first, &commits().map(Logged::entry).collect::<Vec<_>>())?;
    add_stretches(index, stretches(*first, commits().map(|logged| &logged.commit), names))
}

/// What becomes of a commit in a chunk that is rewritten.
pub(crate) enum Fate {
    Stays,
    /// Stays, with this signature.
    Signed(Sig),
    Goes,
}

/// The chunk that holds a commit.
pub(crate) fn chunk_of(index: &impl Readable, replica: u32, seq: u64) -> Result<Option<u64>, StoreError> {
    Ok(stretch_at(index, replica, seq)?.filter(|stretch| stretch.end() > seq).map(|stretch| stretch.chunk))
}

/// Removes the commits of a replica from a sequence number on from the index. Gives the chunks that hold them.
pub(crate) fn cut_stretches(
    index: &mut Table<'_>,
    replica: u32,
    from_seq: u64,
) -> Result<Vec<u64>, StoreError> {
    let start = stretch_at(index, replica, from_seq)?.map_or(from_seq, |stretch| stretch.first);
    let (from, to) = (dot_key(replica, start), dot_key(replica, u64::MAX));
    let mut cut = Vec::new();
    for entry in index.range(from.as_slice()..=to.as_slice()).map_err(redb)? {
        let (key, value) = entry.map_err(redb)?;
        cut.push(Stretch::read(key.value(), value.value())?);
    }
    cut.retain(|stretch| stretch.end() > from_seq);
    for stretch in &cut {
        let key = dot_key(replica, stretch.first);
        if stretch.first < from_seq {
            let shorter = Stretch { count: from_seq - stretch.first, ..*stretch };
            index.insert(key.as_slice(), shorter.value().as_slice()).map_err(redb)?;
        } else {
            index.remove(key.as_slice()).map_err(redb)?;
        }
    }
    let mut chunks: Vec<u64> = cut.iter().map(|stretch| stretch.chunk).collect();
    chunks.sort_unstable();
    chunks.dedup();
    Ok(chunks)
}

/// Rewrites a chunk, or removes it if nothing stays.
pub(crate) fn rewrite(
    log: &mut Table<'_>,
    account: &AccountId,
    chunk: u64,
    mut fate: impl FnMut(&Logged) -> Result<Fate, StoreError>,
) -> Result<(), StoreError> {
    let bytes = bytes_of(log, chunk)?;
    let mut stay = Vec::new();
    for mut logged in decode(chunk, &bytes, account)? {
        match fate(&logged)? {
            Fate::Goes => continue,
            Fate::Signed(sig) => logged.sig = Some(sig),
            Fate::Stays => {}
        }
        stay.push(logged);
    }
    remove_chunk(log, chunk, &bytes)?;
    if stay.is_empty() {
        return Ok(());
    }
    put_chunk(log, chunk, &stay.iter().map(Logged::entry).collect::<Vec<_>>())
}

/// What bounds a read of a replica's commits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most commits.
    pub(crate) commits_max: usize,
    /// No more after the first with which their encodings together have so many bytes.
    pub(crate) bytes_max: usize,
}

/// Commits of a replica from a sequence number on, ascending.
pub(crate) fn commits(
    log: &Log<'_, impl Readable>,
    index: &impl Readable,
    (replica, number): (&ReplicaId, u32),
    from_seq: u64,
    limits: Limits,
) -> Result<Vec<StoredCommit>, StoreError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    let start = stretch_at(index, number, from_seq)?.map_or(from_seq, |stretch| stretch.first);
    let (from, to) = (dot_key(number, start), dot_key(number, u64::MAX));
    for entry in index.range(from.as_slice()..=to.as_slice()).map_err(redb)? {
        let (key, value) = entry.map_err(redb)?;
        let stretch = Stretch::read(key.value(), value.value())?;
        let mut next = from_seq.max(stretch.first);
        if next >= stretch.end() {
            continue;
        }
        for logged in log.chunk(stretch.chunk)?.iter() {
            if found.len() == limits.commits_max || (bytes >= limits.bytes_max && !found.is_empty()) {
                return Ok(found);
            }
            if next == stretch.end() {
                break;
            }
            if logged.commit.dot.seq == next && logged.commit.dot.replica == *replica {
                bytes += logged.bytes;
                found.push(logged.stored());
                next += 1;
            }
        }
        if next < stretch.end() && found.len() < limits.commits_max {
            return Err(StoreError::Corrupt("a chunk of the log lacks a commit".into()));
        }
    }
    Ok(found)
}

/// Up to `limit` commits from a position on, in the order of application.
pub(crate) fn applied(
    log: &Log<'_, impl Readable>,
    from_position: u64,
    limit: usize,
) -> Result<Vec<StoredCommit>, StoreError> {
    let mut found = Vec::new();
    log.for_each_from(from_position, |logged| {
        if found.len() == limit {
            return Ok(false);
        }
        found.push(logged.stored());
        Ok(true)
    })?;
    Ok(found)
}

/// The chunk that a position is in, ready to be sent.
pub(crate) fn packed(log: &Log<'_, impl Readable>, position: u64) -> Result<Option<PackedLog>, StoreError> {
    let Some(first) = chunk_before(&log.table, position)? else { return Ok(None) };
    let packed = chunk::packed(first, &bytes_of(&log.table, first)?, log.account);
    Ok(packed.map_err(damaged("a chunk of the log"))?.filter(|packed| position < packed.end))
}

/// Calls `with` for the commits from a position on, in order. Returns the bytes that they have in their canonical form.
pub(crate) fn replay(
    log: &Log<'_, impl Readable>,
    from_position: u64,
    mut with: impl FnMut(&Commit) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let mut bytes = 0;
    log.for_each_from(from_position, |logged| {
        bytes += logged.bytes as u64;
        with(&logged.commit)?;
        Ok(true)
    })?;
    Ok(bytes)
}
