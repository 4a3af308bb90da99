//! Commits that go on in the form in which they came: columns, deflated by themselves, pass from a log into a frame, and from
//! a frame into a log, without being read and written again.
//!
//! Invariants: packed columns are those of the commits that they stand beside, of all of them in their order, and nothing
//! else; how these are cut into runs or stretches is told in front of them ([`encode_heads`]) and is no part of them.

use super::columns::{HashedCommit, decode_stretches, encode_heads, encode_stretches};
use super::deflate::{Deflated, inflate, stored_whole};
use crate::codec::{Reader, Writer};
use crate::commit::{Commit, span};
use crate::cost::{self, Budget};
use crate::identity::{AccountId, Dot, Sig};

/// The columns of commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedColumns {
    /// The columns.
    pub deflated: Deflated,
    /// What the commits have in canonical form, in bytes.
    pub bytes: usize,
    /// What they cost in memory.
    pub cost: usize,
}

impl PackedColumns {
    /// Whether they are those of just these commits.
    pub fn hold<'a>(&self, commits: impl Iterator<Item = &'a Commit>, account: &AccountId) -> bool {
        let commits: Vec<&Commit> = commits.collect();
        let mut body = Writer::new();
        encode_heads(stretches(commits.iter().copied()), &mut body);
        let Some(columns) = inflate(&self.deflated.bytes, self.deflated.length) else { return false };
        body.raw(&columns);
        let (mut reader, mut budget) = (Reader::new(body.as_bytes()), Budget::of(self.cost));
        let Ok(read) = decode_stretches(&mut reader, account, &mut budget) else { return false };
        let read: Vec<&HashedCommit> = read.iter().flatten().collect();
        read.len() == commits.len()
            && read.iter().zip(commits).all(|(read, commit)| read.commit == *commit)
            && read.iter().map(|read| read.bytes).sum::<usize>() == self.bytes
            && (reader.finish().is_ok() && budget.left() == 0)
    }
}

/// A run as it lies in a log: what is told of it in front of the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedRun {
    /// Its first commit.
    pub first: Dot,
    /// How many commits it has.
    pub commits: u64,
    /// What stands in front of the columns, but for the signature.
    pub head: Vec<u8>,
    /// The signature of its last commit.
    pub sig: Sig,
}

impl PackedRun {
    /// The sequence number of its last commit.
    pub fn last_seq(&self) -> u64 {
        self.first.seq.saturating_add(self.commits).saturating_sub(1)
    }
}

/// Commits that a store applied one after the other, as it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLog {
    /// The position of the first.
    pub first: u64,
    /// The position after the last.
    pub end: u64,
    /// How many operations they have.
    pub ops: u64,
    /// The runs that they are.
    pub runs: Vec<PackedRun>,
    /// Their columns.
    pub columns: PackedColumns,
}

impl PackedLog {
    /// Packs commits that have the positions from `first` on, up to the last one at which each run of them is signed. Does not
    /// look for anything to deflate.
    pub fn of(first: u64, commits: &[(&Commit, Option<Sig>)]) -> Option<PackedLog> {
        let signed = commits.iter().rposition(|(_, sig)| sig.is_some())?;
        let commits = commits.get(..=signed)?;
        // A statement of the account travels by rows, as `docs/protocol.md` says.
        if commits.iter().any(|(commit, _)| commit.statement.is_some()) {
            return None;
        }
        let mut at = 0;
        let mut runs = Vec::new();
        for stretch in stretches(commits.iter().map(|(commit, _)| *commit)) {
            at += stretch.len();
            let (sig, mut head) = (commits.get(at - 1)?.1?, Writer::new());
            let dot = stretch.first()?.dot;
            let count = stretch.len() as u64;
            encode_heads(vec![stretch], &mut head);
            // Behind the number of stretches, which is 1.
            let head = head.as_bytes().get(1..)?.to_vec();
            runs.push(PackedRun { first: dot, commits: count, head, sig });
        }
        let all = || commits.iter().map(|(commit, _)| *commit);
        let mut body = Writer::new();
        let columns = encode_stretches(stretches(all()), &mut body).columns?;
        let columns = body.as_bytes().get(columns..)?;
        let columns = PackedColumns {
            deflated: Deflated { bytes: stored_whole(columns), length: columns.len() },
            bytes: all().map(Commit::encoded_len).sum(),
            cost: all().map(|commit| cost::of_commit(commit, commit.encoded_len())).sum(),
        };
        let ops = all().map(|commit| commit.ops.len() as u64).sum();
        Some(PackedLog { first, end: first + commits.len() as u64, ops, runs, columns })
    }

    /// How many commits there are.
    pub fn commits(&self) -> u64 {
        self.runs.iter().map(|run| run.commits).sum()
    }
}

/// Cuts commits into stretches: contiguous ones of one replica, within a span, as runs are.
pub fn stretches<'a>(commits: impl Iterator<Item = &'a Commit>) -> Vec<Vec<&'a Commit>> {
    let follows = |before: &Commit, after: &Commit| {
        let (before, after) = (before.dot, after.dot);
        before.replica == after.replica && before.seq + 1 == after.seq && span(before.seq) == span(after.seq)
    };
    let mut stretches = Vec::<Vec<&Commit>>::new();
    for commit in commits {
        match stretches.last_mut() {
            Some(stretch) if stretch.last().is_some_and(|last| follows(last, commit)) => stretch.push(commit),
            _ => stretches.push(vec![commit]),
        }
    }
    stretches
}
