//! What decoded commits cost in memory, by a rule that is the same on every device and build, so that all refuse the same.
//!
//! Invariants: the cost is never less than what the allocator is asked for (`tests/memory.rs`, `tests/decoding.rs`);
//! it is taken from a [`Budget`] before the memory is; what a commit costs depends on nothing but the commit, and reading
//! it in any form takes just that ([`of_commit`]). What is shared counts for each who shares it.

use crate::codec::DecodeError;
use crate::commit::{Commit, Op};
use crate::config::DECODED_BYTES_MAX;
use crate::planted::{self, Bug};
use crate::value::Value;
use crate::wire::columns::HashedCommit;

/// A commit, besides what follows.
pub(crate) const COMMIT: usize = 192;
/// The first of a commit's dependencies, besides what each takes.
const DEPS: usize = 384;
/// Each dependency.
const DEP: usize = 80;
/// A certificate.
pub(crate) const CERT: usize = 256;
/// A byte of the canonical form of a commit that carries a statement.
const STATEMENT_TIMES: usize = 6;
/// An operation, besides its names and fields.
pub(crate) const OP: usize = 112;
/// A field of an operation, besides its name and what the value has elsewhere.
pub(crate) const FIELD: usize = 80;
/// An item of a list, besides what it has elsewhere.
const ITEM: usize = 32;
/// A map that is not empty, besides what each entry takes.
const MAP: usize = 704;
/// An entry of a map, besides its key and what the value has elsewhere.
const ENTRY: usize = 112;

/// Memory that decoding may still take.
#[derive(Debug)]
pub struct Budget {
    whole: usize,
    left: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::of(if planted::is(Bug::CostIgnored) { usize::MAX } else { DECODED_BYTES_MAX })
    }
}

impl Budget {
    /// So many bytes.
    pub fn of(bytes: usize) -> Budget {
        Budget { whole: bytes, left: bytes }
    }

    /// What is left of it.
    pub fn left(&self) -> usize {
        self.left
    }

    /// What was taken of it.
    pub(crate) fn taken(&self) -> usize {
        self.whole.saturating_sub(self.left)
    }

    /// Takes some of it, before the memory is taken.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.left = self.left.checked_sub(bytes).ok_or(DecodeError::TooLarge("the memory to decode into"))?;
        Ok(())
    }

    /// Gives back what was taken, to be taken for another purpose.
    pub(crate) fn give(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes);
    }

    /// Takes what so many things cost.
    pub(crate) fn take_each(&mut self, count: usize, each: usize) -> Result<(), DecodeError> {
        self.take(count.saturating_mul(each))
    }

    /// Takes what a list of so many items costs, besides what they have elsewhere.
    pub(crate) fn take_list(&mut self, items: usize) -> Result<(), DecodeError> {
        self.take_each(items, ITEM)
    }

    /// Takes what a map of so many entries costs, besides keys and what values have elsewhere.
    pub(crate) fn take_map(&mut self, entries: usize) -> Result<(), DecodeError> {
        self.take(map(entries))
    }

    /// Takes what so many dependencies cost.
    pub(crate) fn take_deps(&mut self, count: usize) -> Result<(), DecodeError> {
        self.take(deps(count))
    }

    /// Takes what a statement costs in a commit of so many canonical bytes.
    pub(crate) fn take_statement(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.take_each(bytes, STATEMENT_TIMES)
    }
}

fn map(entries: usize) -> usize {
    if entries == 0 { 0 } else { MAP.saturating_add(entries.saturating_mul(ENTRY)) }
}

fn deps(count: usize) -> usize {
    if count == 0 { 0 } else { DEPS + count * DEP }
}

/// What a value has elsewhere than in its place. Values are nested no deeper than the codec lets them.
fn of_value(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.len() * ITEM + items.iter().map(of_value).sum::<usize>(),
        Value::Map(entries) => {
            map(entries.len()) + entries.iter().map(|(key, item)| key.len() + of_value(item)).sum::<usize>()
        }
    }
}

fn of_op(op: &Op) -> usize {
    let fields = op.fields.iter().map(|(name, value)| FIELD + name.as_str().len() + of_value(value));
    OP + op.table.as_str().len() + op.row.as_str().len() + fields.sum::<usize>()
}

/// What a commit costs, of so many canonical bytes.
pub fn of_commit(commit: &Commit, bytes: usize) -> usize {
    let cert = if commit.introduces.is_some() { CERT } else { 0 };
    let statement = if commit.statement.is_some() { STATEMENT_TIMES * bytes } else { 0 };
    COMMIT + deps(commit.deps.len()) + cert + statement + commit.ops.iter().map(of_op).sum::<usize>()
}

/// What commits cost together.
pub(crate) fn of_commits(commits: &[HashedCommit]) -> usize {
    commits.iter().map(|hashed| of_commit(&hashed.commit, hashed.bytes)).sum()
}
