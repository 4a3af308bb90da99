//! How much memory decoded commits take, from above: what a hostile device makes of few bytes is bounded by this.
//!
//! Invariant: never less than what the allocator is asked for (`tests/memory.rs`); what is shared counts for each who
//! shares it.

use std::mem::size_of;

use crate::commit::Op;
use crate::fields::FieldValues;
use crate::identity::{DeviceCert, ReplicaId};
use crate::name::FieldName;
use crate::statement::Statement;
use crate::value::Value;
use crate::wire::columns::HashedCommit;

/// Entries that a node of the standard library's B-tree has room for, and how many it has at least, but for the root.
const NODE_ENTRIES: usize = 11;
const NODE_ENTRIES_MIN: usize = 5;
/// What a node takes besides its entries, and its share of the nodes above.
const NODE_BYTES: usize = 160;
/// What stands before the text of a shared name. Short ones lie in place and have none, which is not told apart here.
const SHARED_BYTES: usize = 2 * size_of::<usize>();
/// Memory that a byte of a statement's encoding takes at most: of fences, which are the largest part for their bytes.
const STATEMENT_TIMES: usize = 8;

/// Nodes of a B-tree of so many entries.
fn tree<K, V>(len: usize) -> usize {
    let nodes = if len == 0 { 0 } else { 1 + len / NODE_ENTRIES_MIN };
    nodes * (NODE_ENTRIES * (size_of::<K>() + size_of::<V>()) + NODE_BYTES)
}

/// What a value has on the heap. Values are nested no deeper than the codec lets them.
fn value(of: &Value) -> usize {
    match of {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
        Value::Text(text) => text.capacity(),
        Value::Bytes(bytes) => bytes.capacity(),
        Value::List(items) => items.capacity() * size_of::<Value>() + items.iter().map(value).sum::<usize>(),
        Value::Map(entries) => {
            let within = entries.iter().map(|(key, item)| key.capacity() + value(item)).sum::<usize>();
            tree::<String, Value>(entries.len()) + within
        }
    }
}

fn fields(of: &FieldValues) -> usize {
    let within =
        of.iter().map(|(name, item)| SHARED_BYTES + name.as_str().len() + value(item)).sum::<usize>();
    of.capacity() * size_of::<(FieldName, Value)>() + within
}

fn op(of: &Op) -> usize {
    2 * SHARED_BYTES + of.table.as_str().len() + of.row.as_str().len() + fields(&of.fields)
}

fn commit(HashedCommit { commit: of, bytes, .. }: &HashedCommit) -> usize {
    let introduces = of.introduces.as_ref().map_or(0, |cert| size_of::<DeviceCert>() + cert.name.capacity());
    let statement = of.statement.as_ref().map_or(0, |_| size_of::<Statement>() + STATEMENT_TIMES * bytes);
    let ops = of.ops.capacity() * size_of::<Op>() + of.ops.iter().map(op).sum::<usize>();
    tree::<ReplicaId, u64>(of.deps.len()) + introduces + statement + ops
}

/// Memory that commits in a vector take, in bytes, the vector's own included.
pub(crate) fn commits(of: &Vec<HashedCommit>) -> usize {
    let within = of.iter().map(commit).sum::<usize>();
    of.capacity() * size_of::<HashedCommit>() + within
}
