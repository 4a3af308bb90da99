//! The log on disk: commits in chunks, by position, and an index of them by name.
//!
//! A chunk holds commits that were applied one after the other, in their canonical form. The index has an entry for each
//! *stretch*: commits of one replica in one chunk whose sequence numbers follow each other.
//! Invariants: chunks do not overlap, nor do stretches; each commit is in one chunk and in one stretch.

use std::sync::Arc;

use engine::codec::{DecodeError, Reader, Writer};
use engine::commit::Commit;
use engine::config::COMMIT_BYTES_MAX;
use engine::identity::{AccountId, ReplicaId, Sig};
use engine::store::{StoreError, StoredCommit};
use redb::{ReadableTable, WriteTransaction};

use crate::error::{damaged, redb};
use crate::names::{Names, replica_number};
use crate::record::{dot_key, get_replica, split_dot_key, u64_key};
use crate::schema::{INDEX, LOG};

/// A chunk is closed when it has so many bytes. Just below a power of two, because that is how redb gives room.
const CHUNK_BYTES: usize = 63 * 1024;

/// Anything that can be read as the table `log` or `index`.
pub(crate) trait Readable: ReadableTable<&'static [u8], &'static [u8]> {}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> Readable for T {}

/// A table that is being written.
type Table<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

/// A commit in a chunk, not decoded yet.
pub(crate) struct Entry<'a> {
    pub(crate) position: u64,
    pub(crate) sig: Option<Sig>,
    pub(crate) commit: &'a [u8],
}

impl Entry<'_> {
    fn dot(&self) -> Result<(ReplicaId, u64), DecodeError> {
        let mut reader = Reader::new(self.commit);
        Ok((get_replica(&mut reader)?, reader.varint()?))
    }

    fn decode(&self, account: &AccountId) -> Result<StoredCommit, StoreError> {
        let commit = Commit::decode(self.commit, account).map_err(damaged("a commit"))?;
        Ok(StoredCommit { position: self.position, commit, sig: self.sig })
    }
}

/// The entries of a chunk, in the order of their positions.
struct Chunk<'a> {
    reader: Reader<'a>,
    next: u64,
}

impl<'a> Chunk<'a> {
    fn new(first: u64, bytes: &'a [u8]) -> Chunk<'a> {
        Chunk { reader: Reader::new(bytes), next: first }
    }

    fn read(&mut self) -> Result<Entry<'a>, DecodeError> {
        let position = self.next.checked_add(self.reader.varint()?).ok_or(DecodeError::BadInteger)?;
        let sig = match self.reader.u8()? {
            0 => None,
            1 => Some(Sig(self.reader.array()?)),
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        let commit = self.reader.bytes(COMMIT_BYTES_MAX, "a commit")?;
        self.next = position.checked_add(1).ok_or(DecodeError::BadInteger)?;
        Ok(Entry { position, sig, commit })
    }
}

impl<'a> Iterator for Chunk<'a> {
    type Item = Result<Entry<'a>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.reader.remaining() > 0).then(|| self.read().map_err(damaged("a chunk of the log")))
    }
}

fn put_entry(writer: &mut Writer, gap: u64, sig: Option<&Sig>, commit: &[u8]) {
    writer.varint(gap);
    writer.u8(u8::from(sig.is_some()));
    if let Some(sig) = sig {
        writer.raw(&sig.0);
    }
    writer.bytes(commit);
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

/// Appends commits, the first of which takes a position. Refuses a commit that the log has. Returns the bytes written.
pub(crate) fn append(
    txn: &WriteTransaction,
    position: u64,
    commits: &[(Commit, Option<Sig>)],
    names: &mut Arc<Names>,
) -> Result<u64, StoreError> {
    if commits.is_empty() {
        return Ok(0);
    }
    let mut log = txn.open_table(LOG).map_err(redb)?;
    let mut index = txn.open_table(INDEX).map_err(redb)?;
    let (mut chunk, mut first, mut written) = (Writer::new(), position, 0);
    let (mut stretches, mut encoded) = (Vec::<Stretch>::new(), Writer::new());
    for (position, (commit, sig)) in (position..).zip(commits) {
        encoded.clear();
        commit.encode_to(&mut encoded);
        if !chunk.is_empty() && chunk.len() + encoded.len() > CHUNK_BYTES {
            let bytes = std::mem::take(&mut chunk).into_bytes();
            log.insert(first.to_be_bytes().as_slice(), bytes.as_slice()).map_err(redb)?;
            written += bytes.len() as u64;
            add_stretches(&mut index, &mut stretches)?;
            first = position;
        }
        put_entry(&mut chunk, 0, sig.as_ref(), encoded.as_bytes());
        let (replica, seq) = (replica_number(names, &commit.dot.replica), commit.dot.seq);
        match stretches.iter_mut().rfind(|stretch| stretch.replica == replica) {
            Some(stretch) if stretch.end() == seq => stretch.count += 1,
            _ => stretches.push(Stretch { replica, first: seq, count: 1, chunk: first }),
        }
    }
    let bytes = chunk.into_bytes();
    log.insert(first.to_be_bytes().as_slice(), bytes.as_slice()).map_err(redb)?;
    add_stretches(&mut index, &mut stretches)?;
    Ok(written + bytes.len() as u64)
}

fn add_stretches(index: &mut Table<'_>, stretches: &mut Vec<Stretch>) -> Result<(), StoreError> {
    for stretch in stretches.drain(..) {
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
    chunk: u64,
    mut fate: impl FnMut(ReplicaId, u64, &Entry<'_>) -> Result<Fate, StoreError>,
) -> Result<(), StoreError> {
    let key = chunk.to_be_bytes();
    let bytes = log.remove(key.as_slice()).map_err(redb)?.map(|value| value.value().to_vec());
    let bytes = bytes.ok_or_else(|| StoreError::Corrupt("a chunk of the log is missing".into()))?;
    let (mut written, mut next) = (Writer::new(), chunk);
    for entry in Chunk::new(chunk, &bytes) {
        let entry = entry?;
        let (replica, seq) = entry.dot().map_err(damaged("a commit"))?;
        let sig = match fate(replica, seq, &entry)? {
            Fate::Goes => continue,
            Fate::Signed(sig) => Some(sig),
            Fate::Stays => entry.sig,
        };
        put_entry(&mut written, entry.position - next, sig.as_ref(), entry.commit);
        next = entry.position + 1;
    }
    if !written.is_empty() {
        log.insert(key.as_slice(), written.into_bytes().as_slice()).map_err(redb)?;
    }
    Ok(())
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
    log: &impl Readable,
    index: &impl Readable,
    account: &AccountId,
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
        let from = from_seq.max(stretch.first);
        if from >= stretch.end() {
            continue;
        }
        let chunk = log.get(stretch.chunk.to_be_bytes().as_slice()).map_err(redb)?;
        let chunk = chunk.ok_or_else(|| StoreError::Corrupt("a chunk of the log is missing".into()))?;
        let mut next = from;
        for entry in Chunk::new(stretch.chunk, chunk.value()) {
            if found.len() == limits.commits_max || (bytes >= limits.bytes_max && !found.is_empty()) {
                return Ok(found);
            }
            if next == stretch.end() {
                break;
            }
            let entry = entry?;
            if entry.dot().map_err(damaged("a commit"))? == (*replica, next) {
                bytes += entry.commit.len();
                found.push(entry.decode(account)?);
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
    log: &impl Readable,
    account: &AccountId,
    from_position: u64,
    limit: usize,
) -> Result<Vec<StoredCommit>, StoreError> {
    let mut found = Vec::new();
    for_each_from(log, from_position, |entry| {
        if found.len() == limit {
            return Ok(false);
        }
        found.push(entry.decode(account)?);
        Ok(true)
    })?;
    Ok(found)
}

/// Calls `with` for the commits from a position on and their positions, in order.
pub(crate) fn replay(
    log: &impl Readable,
    account: &AccountId,
    from_position: u64,
    mut with: impl FnMut(&Commit) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for_each_from(log, from_position, |entry| {
        bytes += entry.commit.len() as u64;
        with(&entry.decode(account)?.commit)?;
        Ok(true)
    })?;
    Ok(bytes)
}

fn for_each_from(
    log: &impl Readable,
    from_position: u64,
    mut with: impl FnMut(&Entry<'_>) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let key = from_position.to_be_bytes();
    let before = log.range::<&[u8]>(..=key.as_slice()).map_err(redb)?.next_back();
    let first = match before {
        Some(entry) => u64_key(entry.map_err(redb)?.0.value())?,
        None => from_position,
    };
    for entry in log.range::<&[u8]>(first.to_be_bytes().as_slice()..).map_err(redb)? {
        let (key, chunk) = entry.map_err(redb)?;
        for entry in Chunk::new(u64_key(key.value())?, chunk.value()) {
            let entry = entry?;
            if entry.position >= from_position && !with(&entry)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
