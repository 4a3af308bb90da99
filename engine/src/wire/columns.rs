//! The form in which a run of commits travels: by columns, which is about half of the canonical form
//! after DEFLATE, because like lies beside like and what can be computed is left out.
//!
//! A run is 1 to [`RUN_COMMITS_MAX`] contiguous commits of one replica. What is hashed and signed stays
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
//! sequence numbers in the dictionary of dependencies too.
//!
//! ```text
//! run      = 0, list of bytes                  the canonical form of each commit, or
//!          | 1, columns                        whichever is shorter; 0 if they are equal, or for a statement
//! columns  = varint                            commits in the run
//!            replica                           of all commits
//!            varint                            sequence number of the first commit; the others follow it
//!            certificate                       if that number is 1: as in the canonical form; else:
//!            32 bytes                          hash of the commit before the first
//!            list of replica                   dictionary of dependencies, strictly ascending
//!            list of text                      dictionary of tables, strictly ascending
//!            list of text                      dictionary of field names, strictly ascending
//!            list of shape                     dictionary of shapes
//!            column ms                         for each commit: zigzag, milliseconds of its stamp minus
//!                                              those of the commit before
//!            column counter                    for each commit: zigzag, counter of its stamp minus the
//!                                              expected: one more than that of the commit before if the
//!                                              milliseconds are the same, else 0
//!            column deps                       for each commit: indices of replicas, then for each of them
//!                                              zigzag: sequence number minus the last in this run for it
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
//!                                              for each text or byte string: varint, its length
//!            column contents                   for each float: 8 bytes, little-endian; for each text or
//!                                              byte string: its bytes; for each list or map: its
//!                                              canonical form, tag included
//! shape    = u8 kind, varint place of the table, indices of field names
//! ```
//!
//! # Limits
//! Every commit must pass [`Commit::check`] and the limits of [`crate::config`]. What a few bytes can
//! name again and again through a dictionary is counted by its canonical size before it is copied:
//! [`COMMIT_BYTES_MAX`] bytes a commit, [`RUN_BYTES_MAX`] a run.

use crate::codec::{DecodeError, Reader, Writer};
use crate::commit::{Commit, CommitHash, hash_commit};
use crate::config::{COMMIT_BYTES_MAX, INFLATED_BYTES_MAX, RUN_COMMITS_MAX};
use crate::hlc::Hlc;
use crate::identity::AccountId;

mod decode;
mod encode;
#[cfg(test)]
mod tests;

/// Most bytes that the commits of one run may have together in canonical form.
pub const RUN_BYTES_MAX: usize = 2 * INFLATED_BYTES_MAX;

const ROWS: u8 = 0;
const COLUMNS: u8 = 1;

/// A commit with its hash and the length of its canonical encoding, both computed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedCommit {
    /// The commit.
    pub commit: Commit,
    /// Hash of its canonical encoding.
    pub hash: CommitHash,
    /// Length of its canonical encoding, in bytes.
    pub bytes: usize,
}

/// Writes a run, uncompressed. It takes at most a few bytes more than the canonical encodings, each
/// behind its length; [`decode_run`] refuses it if these exceed [`RUN_BYTES_MAX`] together.
///
/// # Panics
/// If there is no commit or there are more than [`RUN_COMMITS_MAX`]. That they are contiguous commits of one
/// replica is up to the caller: else what is read is not what was written.
pub fn encode_run(commits: &[Commit], writer: &mut Writer) {
    assert!((1..=RUN_COMMITS_MAX).contains(&commits.len()), "a run has 1 to {RUN_COMMITS_MAX} commits");
    debug_assert!(commits.windows(2).all(|pair| {
        pair[0].dot.replica == pair[1].dot.replica && pair[0].dot.seq + 1 == pair[1].dot.seq
    }));
    let (mut rows, mut columns) = (Writer::new(), Writer::new());
    rows.varint(commits.len() as u64);
    commits.iter().for_each(|commit| rows.bytes(&commit.encode()));
    encode::columns(commits, &mut columns);
    if rows.len() <= columns.len() || commits.iter().any(|commit| commit.statement.is_some()) {
        writer.u8(ROWS);
        writer.raw(&rows.into_bytes());
    } else {
        writer.u8(COLUMNS);
        writer.raw(&columns.into_bytes());
    }
}

/// Reads a run of the account: 1 to [`RUN_COMMITS_MAX`] commits of one replica, contiguous and chained by
/// their hashes. Who signed them is not checked here, nor whether the first follows what is known.
pub fn decode_run(reader: &mut Reader<'_>, account: &AccountId) -> Result<Vec<HashedCommit>, DecodeError> {
    match reader.u8()? {
        ROWS => decode_rows(reader, account),
        COLUMNS => decode::columns(reader, account),
        tag => Err(DecodeError::UnknownTag(tag)),
    }
}

/// Reads the number of commits in a run, each of which takes at least `bytes_each_min` bytes.
fn run_len(reader: &mut Reader<'_>, bytes_each_min: usize) -> Result<usize, DecodeError> {
    match reader.count(RUN_COMMITS_MAX, bytes_each_min, "a run of commits")? {
        0 => Err(DecodeError::Invalid("a run without commits")),
        count => Ok(count),
    }
}

fn decode_rows(reader: &mut Reader<'_>, account: &AccountId) -> Result<Vec<HashedCommit>, DecodeError> {
    let count = run_len(reader, 1)?;
    let mut run = Vec::<HashedCommit>::new();
    let mut run_bytes = 0;
    for _ in 0..count {
        let bytes = reader.bytes(COMMIT_BYTES_MAX, "a commit")?;
        run_bytes += bytes.len();
        if run_bytes > RUN_BYTES_MAX {
            return Err(DecodeError::TooLarge("a run of commits"));
        }
        let commit = Commit::decode(bytes, account)?;
        let follows = run.last().is_none_or(|last| {
            let (before, after) = (last.commit.dot, commit.dot);
            before.replica == after.replica && before.seq + 1 == after.seq && last.hash == commit.prev
        });
        if !follows {
            return Err(DecodeError::Invalid("a run that is not contiguous"));
        }
        run.push(HashedCommit { commit, hash: hash_commit(bytes), bytes: bytes.len() });
    }
    Ok(run)
}

/// The counter that a stamp of these milliseconds most likely has after `last`.
fn expected_counter(last: Hlc, ms: u64) -> i64 {
    if last.ms() == ms { i64::from(last.counter()) + 1 } else { 0 }
}
