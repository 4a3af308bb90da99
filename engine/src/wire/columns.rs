//! The form in which the runs of a frame travel: by columns, which is half of the canonical form
//! after DEFLATE, because like lies beside like and what can be computed is left out.
//!
//! A run is 1 to [`RUN_COMMITS_MAX`] contiguous commits of one replica, within one [`span`]. Their canonical form stays
//! [`Commit::encode`]; the columns are only a way to say the same commits in fewer bytes.
//!
//! # Format
//! Primitives are those of [`crate::codec`]: `varint`, `zigzag`, `text` and `bytes` (length in front),
//! `replica` (16 bytes of device id, 8 of incarnation, big-endian). A `list` is a varint count and that
//! many items. A `column` is `bytes` that hold one entry after another, without a count: how many
//! entries are read follows from the other columns, and none may be left over.
//! `indices` are strictly ascending places in a dictionary: a varint count, then for each the number of
//! places skipped since the one before (since the start, for the first), as a varint.
//! All differences wrap around at 64 bits. Before the first commit the stamp is taken to be 0, and the
//! sequence numbers in the dictionary of dependencies too. "The commit before" is that of the frame, of
//! whichever run by columns.
//!
//! ```text
//! runs     = list of (run, 64 bytes signature), then columns if there is a run by columns
//! run      = 0, list of bytes                  by rows: the canonical form of each commit, or
//!          | 1, head                           by columns; not for a statement
//! head     = varint                            commits in the run
//!            replica                           of all commits
//!            varint                            sequence number of the first commit; the others follow it
//!            certificate                       if that number is 1: as in the canonical form; else:
//!            32 bytes                          hash of the commit before the first
//! columns  = list of replica                   dictionary of dependencies, strictly ascending
//!            list of text                      dictionary of tables, strictly ascending
//!            list of text                      dictionary of field names, strictly ascending
//!            list of shape                     dictionary of shapes
//!            column ms                         for each commit: zigzag, milliseconds of its stamp minus
//!                                              those of the commit before
//!            column counter                    for each commit: zigzag, counter of its stamp minus the
//!                                              expected: one more than that of the commit before if the
//!                                              milliseconds are the same, else 0
//!            column deps                       for each commit: indices of replicas, then for each of them
//!                                              zigzag: sequence number minus the last one for it
//!            column ops                        for each commit: varint, number of operations
//!            column shape                      for each operation: varint, place of its shape
//!            column row                        for each operation: varint, 0 for a new row key, else n
//!                                              for the n-th newest of the row keys so far
//!            column shared                     for each new row key: varint, bytes it starts with that the
//!                                              new row key before it starts with too
//!            column rest                       for each new row key: varint, number of its other bytes
//!            column keys                       for each new row key: its other bytes
//!            for each field name, in order:
//!            column tags                       for each value: u8, as in the canonical form
//!            column numbers                    for each integer: zigzag, minus the integer before in this
//!                                              column (minus 0 for the first);
//!                                              for each text or byte string: varint, the bytes it does not
//!                                              share
//!            column shared                     for each text or byte string: varint, bytes it starts with
//!                                              that the one before it in this field starts with too
//!            column contents                   for each float: 8 bytes, little-endian; for each text or
//!                                              byte string: the bytes it does not share; for each list or
//!                                              map: its canonical form, tag included
//! shape    = u8 kind, varint place of the table, indices of field names
//! ```
//! A store keeps *stretches* in the same form, without the signatures (`encode_stretches`).
//!
//! # Limits
//! Every commit must pass [`Commit::check`] and the limits of [`crate::config`]. What a few bytes can
//! name again and again, through a dictionary or by sharing, is counted by its canonical size before it is
//! copied: [`COMMIT_BYTES_MAX`] bytes a commit, [`RUNS_BYTES_MAX`] all runs of a frame. What all commits of a frame
//! cost in memory ([`crate::cost`]) is within [`crate::config::DECODED_BYTES_MAX`], and so is, twice over, what the
//! dictionaries take: each entry of them is there for an operation or a field that costs half as much at least.

use crate::codec::{DecodeError, Reader, Writer};
use crate::commit::{Commit, CommitHash, span};
use crate::config::{COMMIT_BYTES_MAX, INFLATED_BYTES_MAX, RUN_COMMITS_MAX};
use crate::cost::{self, Budget};
use crate::hlc::Hlc;
use crate::identity::{AccountId, Dot, Sig};
use crate::planted::{self, Bug};
use crate::wire::message::Run;

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use decode::{Columns, Head};

/// Most bytes that the commits of all runs of a frame may have together in canonical form.
pub const RUNS_BYTES_MAX: usize = 2 * INFLATED_BYTES_MAX;
/// Up to so many commits, both forms are made and the shorter is taken. More are always shorter by columns.
const COMPARED_COMMITS_MAX: usize = 8;

const ROWS: u8 = 0;
const COLUMNS: u8 = 1;

/// A commit with its hash and the length of its canonical encoding, both computed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedCommit {
    /// The commit.
    pub commit: Commit,
    /// Its hash.
    pub hash: CommitHash,
    /// Length of its canonical encoding, in bytes.
    pub bytes: usize,
}

impl HashedCommit {
    /// Computes them.
    pub fn of(commit: Commit) -> HashedCommit {
        let (hash, bytes) = commit.hash_and_len(&mut Writer::with_capacity(256));
        HashedCommit { commit, hash, bytes }
    }
}

/// Where what was written by columns lies in the writer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// Where the columns begin; `None` if no run is by columns.
    pub columns: Option<usize>,
    /// Where long columns begin and end, ascending.
    pub cuts: Vec<usize>,
}

/// Contiguous commits of one replica, and the signature that they end in, where one is told with them.
struct Part<'a> {
    commits: Vec<&'a Commit>,
    sig: Option<&'a Sig>,
}

impl Part<'_> {
    fn check(&self) {
        let len = self.commits.len();
        assert!((1..=RUN_COMMITS_MAX).contains(&len), "a run has 1 to {RUN_COMMITS_MAX} commits");
        debug_assert!(self.commits.windows(2).all(|pair| {
            pair[0].dot.replica == pair[1].dot.replica && pair[0].dot.seq + 1 == pair[1].dot.seq
        }));
    }
}

fn parts(runs: &[Run<Commit>]) -> Vec<Part<'_>> {
    runs.iter().map(|run| Part { commits: run.commits.iter().collect(), sig: Some(&run.sig) }).collect()
}

/// Writes runs, uncompressed. They take at most a few bytes more than the canonical encodings, each
/// behind its length; [`decode_runs`] refuses them if these exceed [`RUNS_BYTES_MAX`] together.
///
/// # Panics
/// If a run has no commit or more than [`RUN_COMMITS_MAX`]. That they are contiguous commits of one replica is up to
/// the caller: else what is read is not what was written.
pub fn encode_runs(runs: &[Run<Commit>], writer: &mut Writer) -> Places {
    let parts = parts(runs);
    parts.iter().for_each(Part::check);
    let mut commits = runs.iter().flat_map(|run| &run.commits);
    if matches!((commits.next(), commits.next()), (Some(only), None) if only.dot.seq > 1 && only.ops.len() <= 1)
    {
        // It repeats nothing, and by columns is longer. (A replica's first commit states no hash there.)
        encode::by_rows(&parts, writer);
        return Places::default();
    }
    let mut columns = Writer::with_capacity(512);
    let places = encode::by_columns(&parts, &mut columns);
    if runs.iter().map(|run| run.commits.len()).sum::<usize>() <= COMPARED_COMMITS_MAX {
        let mut rows = Writer::new();
        encode::by_rows(&parts, &mut rows);
        if rows.len() <= columns.len() {
            writer.raw(rows.as_bytes());
            return Places::default();
        }
    }
    let start = writer.len();
    writer.raw(columns.as_bytes());
    Places {
        columns: places.columns.map(|begin| start + begin),
        cuts: places.cuts.into_iter().map(|cut| start + cut).collect(),
    }
}

/// Writes *stretches* for a store: like runs by columns, but whether they end in a signature is not told.
/// [`decode_stretches`] refuses more than [`RUNS_BYTES_MAX`] together in canonical form.
///
/// # Panics
/// As [`encode_runs`].
pub fn encode_stretches(stretches: Vec<Vec<&Commit>>, writer: &mut Writer) -> Places {
    encode::by_columns(&unsigned(stretches), writer)
}

/// Writes what stands in front of the columns of such stretches. The columns themselves are the same however their commits
/// are cut into stretches, as long as these follow each other as before.
///
/// # Panics
/// As [`encode_runs`].
pub fn encode_heads(stretches: Vec<Vec<&Commit>>, writer: &mut Writer) {
    encode::heads(&unsigned(stretches), writer);
}

fn unsigned(stretches: Vec<Vec<&Commit>>) -> Vec<Part<'_>> {
    let parts: Vec<Part<'_>> = stretches.into_iter().map(|commits| Part { commits, sig: None }).collect();
    parts.iter().for_each(Part::check);
    parts
}

/// What stands in front of the columns of a stretch, as it travels with a run but for the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StretchHead<'a> {
    /// The first of its commits.
    pub first: Dot,
    /// How many commits it has.
    pub commits: usize,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Reads what [`encode_heads`] wrote: `None` if some of it is not by columns.
pub fn decode_heads<'a>(
    heads: &'a [u8],
    account: &AccountId,
) -> Result<Option<Vec<StretchHead<'a>>>, DecodeError> {
    let mut reader = Reader::new(heads);
    let count = reader.count(RUN_COMMITS_MAX, 2, "stretches")?;
    let mut read = Vec::new();
    for _ in 0..count {
        let begin = heads.len() - reader.remaining();
        if reader.u8()? != COLUMNS {
            return Ok(None);
        }
        let (first, commits) = Head::read(&mut reader, 0, account, &mut Budget::default())?.place();
        let end = heads.len() - reader.remaining();
        read.push(StretchHead { first, commits, bytes: heads.get(begin..end).unwrap_or_default() });
    }
    reader.finish()?;
    Ok(Some(read))
}

/// Reads runs of the account: each 1 to [`RUN_COMMITS_MAX`] commits of one replica, within a span, contiguous and chained by
/// their hashes. Who signed them is not checked here, nor whether the first follows what is known.
pub fn decode_runs(
    reader: &mut Reader<'_>,
    account: &AccountId,
) -> Result<Vec<Run<HashedCommit>>, DecodeError> {
    decode_runs_within(reader, account, &mut Budget::default())
}

fn decode_runs_within(
    reader: &mut Reader<'_>,
    account: &AccountId,
    budget: &mut Budget,
) -> Result<Vec<Run<HashedCommit>>, DecodeError> {
    Ok(decode_runs_and_place(reader, account, budget)?.0)
}

/// Reads runs, and tells how many bytes were left where their columns begin, if all are by columns.
pub(super) fn decode_runs_and_place(
    reader: &mut Reader<'_>,
    account: &AccountId,
    budget: &mut Budget,
) -> Result<(Vec<Run<HashedCommit>>, Option<usize>), DecodeError> {
    let (parts, place) = decode_parts(reader, account, budget, 66, |reader| reader.array().map(Sig))?;
    let beyond = |(run, _): &(Vec<HashedCommit>, Sig)| {
        let of = |hashed: Option<&HashedCommit>| hashed.map(|hashed| span(hashed.commit.dot.seq));
        of(run.first()) != of(run.last())
    };
    if parts.iter().any(beyond) && !planted::is(Bug::SpanIgnored) {
        return Err(DecodeError::Invalid("a run beyond the end of a span"));
    }
    Ok((parts.into_iter().map(|(commits, sig)| Run { commits, sig }).collect(), place))
}

/// Reads what [`encode_stretches`] wrote, within a budget of memory.
pub fn decode_stretches(
    reader: &mut Reader<'_>,
    account: &AccountId,
    budget: &mut Budget,
) -> Result<Vec<Vec<HashedCommit>>, DecodeError> {
    let (parts, _) = decode_parts(reader, account, budget, 2, |_| Ok(()))?;
    Ok(parts.into_iter().map(|(commits, ())| commits).collect())
}

/// Runs, each with what is told behind it.
type Parted<S> = Vec<(Vec<HashedCommit>, S)>;

/// Reads runs, each with what `sig` reads behind it. Each takes `bytes_each_min` bytes at least. Tells how many bytes were
/// left where the columns begin, if all are by columns.
fn decode_parts<S>(
    reader: &mut Reader<'_>,
    account: &AccountId,
    budget: &mut Budget,
    bytes_each_min: usize,
    sig: impl Fn(&mut Reader<'_>) -> Result<S, DecodeError>,
) -> Result<(Parted<S>, Option<usize>), DecodeError> {
    /// A run that has been read, or whose commits are in the columns.
    enum Read {
        Commits(Vec<HashedCommit>),
        Head(Box<Head>),
    }
    let count = reader.count(RUN_COMMITS_MAX, bytes_each_min, "runs")?;
    let (mut parts, mut bytes) = (Vec::new(), 0);
    for _ in 0..count {
        let part = match reader.u8()? {
            ROWS => Read::Commits(decode_rows(reader, account, &mut bytes, budget)?),
            // Each commit takes a byte at least in each of four columns.
            COLUMNS => Read::Head(Box::new(Head::read(reader, 4, account, budget)?)),
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        parts.push((part, sig(reader)?));
    }
    let by_columns = parts.iter().any(|(part, _)| matches!(part, Read::Head(_)));
    let all = by_columns && parts.iter().all(|(part, _)| matches!(part, Read::Head(_)));
    let place = all.then(|| reader.remaining());
    let mut columns = by_columns.then(|| Columns::open(reader, budget.left())).transpose()?;
    let mut runs = Vec::with_capacity(parts.len());
    for (part, sig) in parts {
        let commits = match (part, &mut columns) {
            (Read::Commits(commits), _) => commits,
            (Read::Head(head), Some(columns)) => columns.run(*head, &mut bytes, budget)?,
            (Read::Head(_), None) => return Err(DecodeError::Truncated),
        };
        runs.push((commits, sig));
    }
    columns.map_or(Ok(()), Columns::finish)?;
    Ok((runs, place))
}

/// Counts canonical bytes of the runs of a frame.
fn count_bytes(bytes: &mut usize, more: usize) -> Result<(), DecodeError> {
    *bytes += more;
    if *bytes > RUNS_BYTES_MAX { Err(DecodeError::TooLarge("the runs of a frame")) } else { Ok(()) }
}

/// Reads the number of commits in a run, each of which takes at least `bytes_each_min` bytes.
fn run_len(reader: &mut Reader<'_>, bytes_each_min: usize) -> Result<usize, DecodeError> {
    match reader.count(RUN_COMMITS_MAX, bytes_each_min, "a run of commits")? {
        0 => Err(DecodeError::Invalid("a run without commits")),
        count => Ok(count),
    }
}

fn decode_rows(
    reader: &mut Reader<'_>,
    account: &AccountId,
    runs_bytes: &mut usize,
    budget: &mut Budget,
) -> Result<Vec<HashedCommit>, DecodeError> {
    let count = run_len(reader, 1)?;
    // Each takes its own, too, when it is read: until then the room is lent.
    budget.take_each(count, cost::COMMIT)?;
    let mut run = Vec::<HashedCommit>::with_capacity(count);
    for _ in 0..count {
        let bytes = reader.bytes(COMMIT_BYTES_MAX, "a commit")?;
        count_bytes(runs_bytes, bytes.len())?;
        budget.give(cost::COMMIT);
        let commit = Commit::decode_within(bytes, account, budget)?;
        let follows = run.last().is_none_or(|last| {
            let (before, after) = (last.commit.dot, commit.dot);
            before.replica == after.replica && before.seq + 1 == after.seq && last.hash == commit.prev
        });
        if !follows {
            return Err(DecodeError::Invalid("a run that is not contiguous"));
        }
        run.push(HashedCommit { hash: commit.hash_encoded(bytes), bytes: bytes.len(), commit });
    }
    Ok(run)
}

/// The counter that a stamp of these milliseconds most likely has after `last`.
fn expected_counter(last: Hlc, ms: u64) -> i64 {
    if last.ms() == ms { i64::from(last.counter()) + 1 } else { 0 }
}
