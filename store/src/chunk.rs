//! The bytes of a chunk of the log: commits that were applied one after the other, by rows or by columns.
//!
//! By rows is the canonical form of each; by columns (`engine::wire::columns`) takes a quarter of that, and is read as a
//! whole. Columns are deflated by themselves (`engine::wire::packed`): they come in frames like that, and go out in frames
//! like that, with another front. Invariants: what is read is what was written, hashes of commits before included; damage is
//! an error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use engine::codec::{DecodeError, Reader, Writer};
use engine::commit::Commit;
use engine::config::{COMMIT_BYTES_MAX, DEFLATE_BYTES_MIN, INFLATED_BYTES_MAX, RUN_COMMITS_MAX};
use engine::cost::{self, Budget};
use engine::identity::{AccountId, Dot, Sig};
use engine::store::StoredCommit;
use engine::wire::columns::{HashedCommit, decode_heads, decode_stretches, encode_heads, encode_stretches};
use engine::wire::deflate::{Deflated, deflate, deflate_front, inflate, inflate_front};
use engine::wire::packed::{PackedColumns, PackedLog, PackedRun, stretches};

const ROWS: u8 = 0;
const COLUMNS: u8 = 1;
const DEFLATED: u8 = 2;
/// So many commits are written by columns.
const COLUMNS_COMMITS_MIN: usize = 4;
/// Most entries of a list in a chunk. Memory is bounded by the chunk's own size, which the reader checks.
const ENTRIES_MAX: usize = 1 << 24;
/// A chunk is closed before its commits have more bytes in their canonical form: all of it is read for any of them.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 * 1024;
// A stretch has no more commits than may be in one: none has fewer than 64 bytes.
const _: () = assert!(CHUNK_BYTES_MAX / 64 <= RUN_COMMITS_MAX);
/// What the commits of a chunk by columns may cost in memory: of a byte in canonical form none costs more than 256 (a map of
/// one entry has four, and costs 816). A commit that is larger than a chunk may be is alone in it, by rows.
const COST_MAX: usize = 256 * CHUNK_BYTES_MAX;
/// Commits are kept at hand up to so many bytes of their canonical form. In memory they take about four times that.
const RECENT_BYTES_MAX: usize = 1024 * 1024;

/// A commit to be written into a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) position: u64,
    pub(crate) commit: &'a Commit,
    pub(crate) sig: Option<&'a Sig>,
}

/// A commit of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) position: u64,
    pub(crate) commit: Commit,
    pub(crate) sig: Option<Sig>,
    /// Length of its canonical form.
    pub(crate) bytes: usize,
}

impl Logged {
    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry { position: self.position, commit: &self.commit, sig: self.sig.as_ref() }
    }

    pub(crate) fn stored(&self) -> StoredCommit {
        StoredCommit { position: self.position, commit: self.commit.clone(), sig: self.sig }
    }
}

/// Writes the chunk that begins with a position. The entries ascend by position, none is before `first`, and those of a
/// replica that follow each other by number are chained.
pub(crate) fn encode(first: u64, entries: &[Entry<'_>]) -> Vec<u8> {
    let mut writer = Writer::new();
    if entries.len() < COLUMNS_COMMITS_MIN {
        rows(first, entries, &mut writer);
    } else {
        columns(first, entries, &mut writer);
    }
    writer.into_bytes()
}

/// Writes the chunk that begins with a position, of entries whose columns are there already. `None` if they are better
/// written anew: a chunk is read as a whole for any of its commits, and who made these may have wasted space.
pub(crate) fn encode_packed(first: u64, entries: &[Entry<'_>], columns: &PackedColumns) -> Option<Vec<u8>> {
    let worth = columns.deflated.bytes.len() <= columns.bytes && columns.bytes <= 2 * CHUNK_BYTES_MAX;
    if entries.len() < COLUMNS_COMMITS_MIN || !worth || columns.cost > COST_MAX {
        return None;
    }
    let (mut writer, mut front) = (Writer::new(), lists(first, entries));
    encode_heads(stretches(entries.iter().map(|entry| entry.commit)), &mut front);
    if front.len() + columns.deflated.length > INFLATED_BYTES_MAX {
        return None;
    }
    parted(front.as_bytes(), entries, columns, &mut writer);
    Some(writer.into_bytes())
}

fn rows(first: u64, entries: &[Entry<'_>], writer: &mut Writer) {
    let (mut next, mut canonical) = (first, Writer::new());
    writer.u8(ROWS);
    for entry in entries {
        writer.varint(entry.position - next);
        next = entry.position + 1;
        writer.u8(u8::from(entry.sig.is_some()));
        if let Some(sig) = entry.sig {
            writer.raw(&sig.0);
        }
        canonical.clear();
        entry.commit.encode_to(&mut canonical);
        writer.bytes(canonical.as_bytes());
    }
}

/// Which positions are left out, and the signatures.
fn lists(first: u64, entries: &[Entry<'_>]) -> Writer {
    let (mut gaps, mut sigs) = (Listed::default(), Listed::default());
    for (at, (next, entry)) in after(first, entries).zip(entries).enumerate() {
        if entry.position > next {
            gaps.add(at, |writer| writer.varint(entry.position - next));
        }
        if let Some(sig) = entry.sig {
            sigs.add(at, |writer| writer.raw(&sig.0));
        }
    }
    let mut lists = Writer::new();
    gaps.write(&mut lists);
    sigs.write(&mut lists);
    lists
}

fn columns(first: u64, entries: &[Entry<'_>], writer: &mut Writer) {
    let commits = || entries.iter().map(|entry| entry.commit);
    debug_assert!(
        commits().zip(commits().skip(1)).all(|(one, next)| chained(one, next)),
        "the log is chained"
    );
    let mut body = lists(first, entries);
    let places = encode_stretches(stretches(commits()), &mut body);
    if let Some((front, columns)) = places.columns.and_then(|at| body.as_bytes().split_at_checked(at)) {
        let cuts: Vec<usize> = places.cuts.iter().map(|cut| cut - front.len()).collect();
        if let Some(bytes) = (body.len() >= DEFLATE_BYTES_MIN).then(|| deflate(columns, &cuts)).flatten() {
            let columns = PackedColumns {
                deflated: Deflated { bytes, length: columns.len() },
                bytes: commits().map(Commit::encoded_len).sum(),
                cost: commits().map(|commit| cost::of_commit(commit, commit.encoded_len())).sum(),
            };
            return parted(front, entries, &columns, writer);
        }
    }
    writer.u8(COLUMNS);
    writer.raw(body.as_bytes());
}

fn parted(front: &[u8], entries: &[Entry<'_>], columns: &PackedColumns, writer: &mut Writer) {
    let deflated = deflate_front(front, columns.deflated.bytes.len());
    writer.u8(DEFLATED);
    writer.varint(front.len() as u64);
    writer.varint(columns.deflated.length as u64);
    writer.varint(deflated.len() as u64);
    writer.varint(columns.bytes as u64);
    writer.varint(columns.cost as u64);
    writer.varint(entries.iter().map(|entry| entry.commit.ops.len() as u64).sum());
    writer.raw(&deflated);
    writer.raw(&columns.deflated.bytes);
}

/// For each entry the position that it has if none is left out before it.
fn after(first: u64, entries: &[Entry<'_>]) -> impl Iterator<Item = u64> {
    std::iter::once(first).chain(entries.iter().map(|entry| entry.position + 1))
}

/// Whether a commit that is the next of the same replica is chained to the one before, as the engine sees to.
fn chained(before: &Commit, after: &Commit) -> bool {
    let next = Dot { seq: before.dot.seq + 1, ..before.dot } == after.dot;
    !next || before.hash() == after.prev
}

/// Something that some of the commits have: for each, how many there are between it and the one before that has it.
#[derive(Default)]
struct Listed {
    count: u64,
    next: usize,
    items: Writer,
}

impl Listed {
    fn add(&mut self, at: usize, item: impl FnOnce(&mut Writer)) {
        self.items.varint((at - self.next) as u64);
        item(&mut self.items);
        self.count += 1;
        self.next = at + 1;
    }

    fn write(self, writer: &mut Writer) {
        writer.varint(self.count);
        writer.raw(self.items.as_bytes());
    }
}

/// Reads what [`Listed`] wrote: items with the places of the commits that have them, ascending.
fn get_listed<T>(
    reader: &mut Reader<'_>,
    bytes_each_min: usize,
    item: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<VecDeque<(usize, T)>, DecodeError> {
    let count = reader.count(ENTRIES_MAX, bytes_each_min, "what commits of a chunk have")?;
    let (mut items, mut next) = (VecDeque::with_capacity(count), 0_usize);
    for _ in 0..count {
        let skipped = usize::try_from(reader.varint()?).ok();
        let at = skipped.and_then(|skipped| next.checked_add(skipped)).filter(|at| *at < ENTRIES_MAX);
        let at = at.ok_or(DecodeError::Invalid("a place in a chunk"))?;
        items.push_back((at, item(reader)?));
        next = at + 1;
    }
    Ok(items)
}

/// Takes the first item, if it is of this place.
fn take_at<T>(items: &mut VecDeque<(usize, T)>, at: usize) -> Option<T> {
    if items.front()?.0 == at { items.pop_front().map(|(_, item)| item) } else { None }
}

/// Reads the chunk that begins with a position.
pub(crate) fn decode(first: u64, bytes: &[u8], account: &AccountId) -> Result<Vec<Logged>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let logged = match reader.u8()? {
        ROWS => decode_rows(first, &mut reader, account)?,
        COLUMNS => decode_columns(first, &mut reader, account)?,
        DEFLATED => {
            let parts = Parts::read(&mut reader)?;
            let inflated = inflate(parts.stream, parts.front_length + parts.columns_length);
            let inflated = inflated.ok_or(DecodeError::Invalid("what is deflated"))?;
            let mut inflated = Reader::new(&inflated);
            let logged = decode_columns(first, &mut inflated, account)?;
            inflated.finish()?;
            logged
        }
        tag => return Err(DecodeError::UnknownTag(tag)),
    };
    reader.finish()?;
    Ok(logged)
}

/// What a chunk says of its columns, and the one stream that is its front and its columns.
struct Parts<'a> {
    front_length: usize,
    columns_length: usize,
    /// What the front was deflated to.
    front_bytes: usize,
    bytes: usize,
    cost: usize,
    ops: u64,
    stream: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Parts<'a>, DecodeError> {
        let mut size = |max: usize| {
            let size = usize::try_from(reader.varint()?).ok().filter(|size| *size <= max);
            size.ok_or(DecodeError::TooLarge("a chunk"))
        };
        let front_length = size(INFLATED_BYTES_MAX)?;
        let columns_length = size(INFLATED_BYTES_MAX - front_length)?;
        let (front_bytes, bytes, cost) =
            (size(INFLATED_BYTES_MAX)?, size(2 * CHUNK_BYTES_MAX)?, size(COST_MAX)?);
        let (ops, stream) = (reader.varint()?, reader.raw(reader.remaining())?);
        Ok(Parts { front_length, columns_length, front_bytes, bytes, cost, ops, stream })
    }
}

/// The chunk that begins with a position, ready to be sent: `None` if it is not by columns, holds statements, has had commits
/// taken out, or has a run that does not end in a signature.
pub(crate) fn packed(
    first: u64,
    bytes: &[u8],
    account: &AccountId,
) -> Result<Option<PackedLog>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != DEFLATED {
        return Ok(None);
    }
    let parts = Parts::read(&mut reader)?;
    let (front, columns) = parts.stream.split_at_checked(parts.front_bytes).ok_or(DecodeError::Truncated)?;
    let front = inflate_front(front, parts.front_length);
    let front = front.ok_or(DecodeError::Invalid("what is deflated"))?;
    let mut reader = Reader::new(&front);
    let gaps = get_listed(&mut reader, 2, |reader| reader.varint())?;
    let sigs = get_listed(&mut reader, 65, |reader| reader.array().map(Sig))?;
    let Some(heads) = decode_heads(reader.raw(reader.remaining())?, account)?.filter(|_| gaps.is_empty())
    else {
        return Ok(None);
    };
    let (mut runs, mut count, mut sigs) = (Vec::with_capacity(heads.len()), 0, sigs.into_iter().peekable());
    for head in heads {
        count += head.commits;
        // Of several in a run the last is what counts.
        while sigs.next_if(|(at, _)| at + 1 < count).is_some() {}
        let Some((_, sig)) = sigs.next_if(|(at, _)| at + 1 == count) else { return Ok(None) };
        runs.push(PackedRun {
            first: head.first,
            commits: head.commits as u64,
            head: head.bytes.to_vec(),
            sig,
        });
    }
    let end = first.checked_add(count as u64).ok_or(DecodeError::BadInteger)?;
    let deflated = Deflated { bytes: columns.to_vec(), length: parts.columns_length };
    let columns = PackedColumns { deflated, bytes: parts.bytes, cost: parts.cost };
    Ok(Some(PackedLog { first, end, ops: parts.ops, runs, columns }))
}

fn decode_rows(first: u64, reader: &mut Reader<'_>, account: &AccountId) -> Result<Vec<Logged>, DecodeError> {
    let (mut logged, mut next) = (Vec::new(), first);
    while reader.remaining() > 0 {
        let position = position(&mut next, reader.varint()?)?;
        let sig = match reader.u8()? {
            0 => None,
            1 => Some(Sig(reader.array()?)),
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        let bytes = reader.bytes(COMMIT_BYTES_MAX, "a commit")?;
        let commit = Commit::decode(bytes, account)?;
        logged.push(Logged { position, commit, sig, bytes: bytes.len() });
    }
    Ok(logged)
}

fn decode_columns(
    first: u64,
    reader: &mut Reader<'_>,
    account: &AccountId,
) -> Result<Vec<Logged>, DecodeError> {
    let mut gaps = get_listed(reader, 2, |reader| reader.varint())?;
    let mut sigs = get_listed(reader, 65, |reader| reader.array().map(Sig))?;
    let commits = decode_stretches(reader, account, &mut Budget::of(COST_MAX))?.into_iter().flatten();
    let (mut logged, mut next) = (Vec::new(), first);
    for (at, HashedCommit { commit, bytes, .. }) in commits.enumerate() {
        let position = position(&mut next, take_at(&mut gaps, at).unwrap_or(0))?;
        logged.push(Logged { position, commit, sig: take_at(&mut sigs, at), bytes });
    }
    if gaps.is_empty() && sigs.is_empty() { Ok(logged) } else { Err(DecodeError::Trailing) }
}

/// The position after so many that are left out, and then the next.
fn position(next: &mut u64, left_out: u64) -> Result<u64, DecodeError> {
    let position = next.checked_add(left_out).ok_or(DecodeError::BadInteger)?;
    *next = position.checked_add(1).ok_or(DecodeError::BadInteger)?;
    Ok(position)
}

/// Chunks that were read last: who reads a stretch is likely to go on with the next. Shared by all states of the log
/// that have the same chunks, or some of them.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<(u64, Arc<[Logged]>)>>);

impl Recent {
    pub(crate) fn get(&self, first: u64) -> Option<Arc<[Logged]>> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent.iter().position(|(other, _)| *other == first)?;
        let found = recent.remove(at)?;
        let commits = found.1.clone();
        recent.push_back(found);
        Some(commits)
    }

    /// Keeps a chunk, and lets go of others for it. Small ones are as fast read anew.
    pub(crate) fn keep(&self, first: u64, commits: &Arc<[Logged]>) {
        if commits.len() < COLUMNS_COMMITS_MIN {
            return;
        }
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((first, commits.clone()));
        let bytes = |chunk: &(u64, Arc<[Logged]>)| chunk.1.iter().map(|commit| commit.bytes).sum::<usize>();
        let mut all: usize = recent.iter().map(bytes).sum();
        while all > RECENT_BYTES_MAX && recent.len() > 1 {
            all -= recent.pop_front().as_ref().map_or(0, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::commit::{Deps, OpKind};
    use engine::hlc::Hlc;
    use engine::statement::Statement;
    use engine::testing::{Author, any_op, op, test_identity, test_root};
    use engine::value::Value;
    use proptest::prelude::*;

    use super::*;

    fn account() -> AccountId {
        AccountId(test_root().public())
    }

    /// Commits of three authors in any order of theirs, with and without signatures, a statement among them.
    fn any_logged() -> impl Strategy<Value = Vec<Logged>> {
        let commit = (0u8..3, proptest::collection::vec(any_op(), 0..3), any::<bool>(), 0u64..8);
        proptest::collection::vec(commit, 1..24).prop_map(|commits| {
            let mut authors: Vec<Author> = (0..3).map(Author::new).collect();
            let (mut logged, mut next) = (Vec::new(), 7);
            let (stated, sig) =
                Statement::Certify(test_identity(1).cert).into_commit(&test_root(), Hlc::new(1, 0));
            for (author, ops, signed, left_out) in commits {
                // Most follow each other, and most of an author are a stretch.
                let author = &mut authors[usize::from(author / 2)];
                let (commit, sig) = author.commit(Hlc::new(next, 0), Deps::new(), ops);
                let position = next + if left_out > 5 { left_out } else { 0 };
                next = position + 1;
                let bytes = commit.encode().len();
                logged.push(Logged { position, commit, sig: signed.then_some(sig), bytes });
            }
            let bytes = stated.encode().len();
            logged.push(Logged { position: next, commit: stated, sig: Some(sig), bytes });
            logged
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_chunk_comes_back_by_rows_and_by_columns(logged in any_logged()) {
            let entries: Vec<Entry<'_>> = logged.iter().map(Logged::entry).collect();
            let (mut by_rows, mut by_columns) = (Writer::new(), Writer::new());
            rows(7, &entries, &mut by_rows);
            columns(7, &entries, &mut by_columns);
            for bytes in [by_rows.into_bytes(), by_columns.into_bytes(), encode(7, &entries)] {
                prop_assert_eq!(decode(7, &bytes, &account()), Ok(logged.clone()));
                prop_assert!(decode(7, &[&bytes[..], &[0]].concat(), &account()).is_err());
            }
        }

        #[test]
        fn a_chunk_by_columns_that_was_cut_is_refused(logged in any_logged(), end: prop::sample::Index) {
            let entries: Vec<Entry<'_>> = logged.iter().map(Logged::entry).collect();
            let mut bytes = Writer::new();
            columns(7, &entries, &mut bytes);
            let bytes = bytes.into_bytes();
            prop_assert!(decode(7, &bytes[..end.index(bytes.len())], &account()).is_err());
        }

        #[test]
        fn bytes_of_any_kind_read_without_panic(
            logged in any_logged(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        ) {
            let entries: Vec<Entry<'_>> = logged.iter().map(Logged::entry).collect();
            let mut bytes = encode(7, &entries);
            for (place, change) in flips {
                let place = place.index(bytes.len());
                bytes[place] ^= change;
            }
            let _ = decode(7, &bytes, &account());
            let _ = decode(u64::MAX, &bytes, &account());
            let _ = packed(7, &bytes, &account());
            let _ = packed(u64::MAX, &bytes, &account());
        }
    }

    /// Runs of a frame as a batch has them: of what came packed only the columns are taken, and they go out as they came.
    #[test]
    fn columns_that_came_go_out_as_they_came() {
        let mut authors: Vec<Author> = (0..2).map(Author::new).collect();
        let (mut logged, mut position) = (Vec::new(), 7);
        for n in 0..200_u64 {
            let value = Value::Text(format!("what the commit {n} says"));
            let op = op("t", &format!("r{}", n % 9), OpKind::Put, [("f".to_owned(), value)].into());
            let (commit, sig) =
                authors[(n / 10 % 2) as usize].commit(Hlc::new(position, 0), Deps::new(), vec![op]);
            let bytes = commit.encoded_len();
            logged.push(Logged { position, commit, sig: (n % 10 == 9).then_some(sig), bytes });
            position += 1;
        }
        let entries: Vec<Entry<'_>> = logged.iter().map(Logged::entry).collect();
        let written = encode(7, &entries);
        let first = packed(7, &written, &account()).expect("a chunk").expect("every run is signed");
        assert_eq!((first.first, first.end, first.runs.len(), first.ops), (7, 207, 20, 200));
        let taken = encode_packed(7, &entries, &first.columns).expect("as good as any");
        assert_eq!(taken, written);
        assert_eq!(decode(7, &taken, &account()), Ok(logged.clone()));

        // Who wasted space does not waste ours.
        let mut bloated = first.columns;
        bloated.bytes = bloated.deflated.bytes.len() - 1;
        assert_eq!(encode_packed(7, &entries, &bloated), None);
        // A run without its end cannot be told as one, nor what lacks a commit.
        let cut = encode(7, &entries[..195]);
        assert_eq!(packed(7, &cut, &account()), Ok(None));
        let gap: Vec<Entry<'_>> = [&entries[..10], &entries[20..]].concat();
        assert_eq!(packed(7, &encode(7, &gap), &account()), Ok(None));
        assert_eq!(packed(7, &encode(7, &entries[..3]), &account()), Ok(None), "by rows");
    }

    /// The costliest of values there are, as many as a chunk has room for: what was written must be readable.
    #[test]
    fn a_full_chunk_of_the_costliest_values_is_read() {
        let map = Value::Map([(String::new(), Value::Null)].into());
        let mut author = Author::new(0);
        let (mut logged, mut all) = (Vec::new(), 0);
        for position in 7.. {
            let value = Value::List(vec![map.clone(); 5_000]);
            let op = op("t", "r", OpKind::Put, [("f".to_owned(), value)].into());
            let commit = author.commit(Hlc::new(position, 0), Deps::new(), vec![op]).0;
            let bytes = commit.encoded_len();
            all += bytes;
            if all > CHUNK_BYTES_MAX {
                break;
            }
            logged.push(Logged { position, commit, sig: None, bytes });
        }
        let entries: Vec<Entry<'_>> = logged.iter().map(Logged::entry).collect();
        let cost: usize = logged.iter().map(|one| cost::of_commit(&one.commit, one.bytes)).sum();
        assert!(logged.len() > COLUMNS_COMMITS_MIN && cost > engine::config::DECODED_BYTES_MAX);
        assert_eq!(decode(7, &encode(7, &entries), &account()), Ok(logged));
    }

    #[test]
    fn what_was_read_last_is_at_hand_within_its_bounds() {
        let recent = Recent::default();
        let chunk = |bytes: usize| -> Arc<[Logged]> {
            let mut author = Author::new(0);
            let mut logged = |position| {
                let commit = author.commit(Hlc::new(position, 0), Deps::new(), Vec::new()).0;
                Logged { position, commit, sig: None, bytes: bytes / COLUMNS_COMMITS_MIN }
            };
            (1..=COLUMNS_COMMITS_MIN as u64).map(&mut logged).collect()
        };
        for first in 1..=4 {
            recent.keep(first, &chunk(RECENT_BYTES_MAX / 4));
        }
        assert!(recent.get(1).is_some());
        recent.keep(5, &chunk(RECENT_BYTES_MAX / 4));
        let there = |first| recent.get(first).is_some();
        assert_eq!([1, 2, 3, 4, 5].map(there), [true, false, true, true, true]);
        recent.keep(6, &chunk(2 * RECENT_BYTES_MAX));
        assert_eq!([1, 3, 5, 6].map(there), [false, false, false, true], "one may be larger than all");
    }
}
