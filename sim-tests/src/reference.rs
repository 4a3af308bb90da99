//! The reference merge: what rows must look like, computed straight from the definition over the set of all writes.
//! Slow, obvious, and sharing nothing with the engine's merge.
//!
//! The definition: a row is there iff its last create is not before its last delete; a field shows its last write,
//! unless the row's last delete comes after it. "Last" is by (clock, device, incarnation, sequence number).

use std::collections::BTreeMap;

use engine::commit::{Commit, OpKind};
use engine::value::Value;

/// A place in the total order of writes, taken apart so that the order is this tuple's and not the engine's.
pub(crate) type Place = (u64, [u8; 16], u64, u64);

/// The place of a commit's writes.
pub(crate) fn place(commit: &Commit) -> Place {
    let replica = &commit.dot.replica;
    (commit.hlc.0, *replica.device.0.as_bytes(), replica.incarnation, commit.dot.seq)
}

#[derive(Debug, Clone)]
struct Write {
    place: Place,
    kind: OpKind,
    fields: BTreeMap<String, Value>,
}

/// Every write to every row so far.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    rows: BTreeMap<(String, String), Vec<Write>>,
}

/// What a row must look like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowView {
    /// The last create, if no delete comes after it.
    pub created: Option<Place>,
    /// The last delete.
    pub deleted: Option<Place>,
    /// The last write of each field that no delete comes after.
    pub fields: BTreeMap<String, (Place, Value)>,
}

impl Reference {
    /// Adds a commit's writes.
    pub fn add(&mut self, commit: &Commit) {
        for op in &commit.ops {
            let fields =
                op.fields.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
            let write = Write { place: place(commit), kind: op.kind, fields };
            self.rows.entry((op.table.to_string(), op.row.to_string())).or_default().push(write);
        }
    }

    /// The rows that were ever written, by table and key.
    pub fn rows(&self) -> impl Iterator<Item = &(String, String)> {
        self.rows.keys()
    }

    /// Takes a commit's writes out again: it no longer counts.
    pub fn remove(&mut self, commit: &Commit) {
        for op in &commit.ops {
            let key = (op.table.to_string(), op.row.to_string());
            if let Some(writes) = self.rows.get_mut(&key) {
                writes.retain(|write| write.place != place(commit));
            }
        }
    }

    /// How often a row was written.
    pub fn writes(&self, key: &(String, String)) -> usize {
        self.rows.get(key).map_or(0, Vec::len)
    }

    /// What a row must look like.
    pub fn row(&self, key: &(String, String)) -> RowView {
        let Some(writes) = self.rows.get(key) else { return RowView::default() };
        let deletes = |kind: OpKind| matches!(kind, OpKind::Delete | OpKind::Replace);
        let creates = |kind: OpKind| matches!(kind, OpKind::Put | OpKind::Replace);
        let deleted = writes.iter().filter(|write| deletes(write.kind)).map(|write| write.place).max();
        let stands = |place: Place| deleted.is_none_or(|deleted| place >= deleted);
        let created = writes.iter().filter(|write| creates(write.kind)).map(|write| write.place).max();
        let mut fields: BTreeMap<String, (Place, Value)> = BTreeMap::new();
        for write in writes.iter().filter(|write| stands(write.place)) {
            for (name, value) in &write.fields {
                if fields.get(name).is_none_or(|(place, _)| *place < write.place) {
                    fields.insert(name.clone(), (write.place, value.clone()));
                }
            }
        }
        RowView { created: created.filter(|place| stands(*place)), deleted, fields }
    }

    /// The largest place of a write to this row, made so far, that an operation of this kind on these fields replaces.
    pub fn overwritten(&self, key: &(String, String), kind: OpKind, fields: &[&str]) -> Option<Place> {
        let all = matches!(kind, OpKind::Delete | OpKind::Replace);
        let writes = self.rows.get(key)?.iter();
        writes
            .filter(|write| {
                all || write.kind != OpKind::Update
                    || fields.iter().any(|field| write.fields.contains_key(*field))
            })
            .map(|write| write.place)
            .max()
    }
}
