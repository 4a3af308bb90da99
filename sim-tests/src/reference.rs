//! The reference merge: what rows must look like, computed straight from the definition over the set of all writes.
//! Obvious, and sharing nothing with the engine's merge.
//!
//! The definition: a row is there iff its last create is not before its last delete; a field shows its last write,
//! unless the row's last delete comes after it. "Last" is by (clock, device, incarnation, sequence number).
//!
//! Invariant: what is kept as the last of each row is the last of the writes that are kept.

use std::collections::BTreeMap;

use engine::commit::{Commit, Op, OpKind, Stamp};
use engine::hlc::Hlc;
use engine::name::{FieldName, RowKey, TableName};
use engine::row::RowState;
use engine::value::Value;

/// A place in the total order of writes, taken apart so that the order is this tuple's and not the engine's.
pub(crate) type Place = (u64, [u8; 16], u64, u64);

/// A row's table and key.
pub(crate) type Key = (TableName, RowKey);

/// The place of a commit's writes.
pub(crate) fn place(commit: &Commit) -> Place {
    place_of(commit.stamp())
}

/// The place of a write that the engine stamped so.
pub(crate) fn place_of(stamp: Stamp) -> Place {
    let replica = stamp.dot.replica;
    (stamp.hlc.0, *replica.device.0.as_bytes(), replica.incarnation, stamp.dot.seq)
}

#[derive(Debug, Clone)]
struct Write {
    place: Place,
    kind: OpKind,
    fields: Vec<(FieldName, Value)>,
}

/// The last writes to a row, by what they do.
#[derive(Debug, Clone, Default)]
struct Last {
    /// Anything.
    any: Option<Place>,
    /// Anything but an update.
    whole: Option<Place>,
    created: Option<Place>,
    deleted: Option<Place>,
    fields: BTreeMap<FieldName, (Place, Value)>,
}

impl Last {
    fn note(&mut self, write: &Write) {
        let place = Some(write.place);
        self.any = self.any.max(place);
        if write.kind != OpKind::Update {
            self.whole = self.whole.max(place);
        }
        if matches!(write.kind, OpKind::Put | OpKind::Replace) {
            self.created = self.created.max(place);
        }
        if matches!(write.kind, OpKind::Delete | OpKind::Replace) {
            self.deleted = self.deleted.max(place);
        }
        for (name, value) in &write.fields {
            if self.fields.get(name).is_none_or(|(place, _)| *place < write.place) {
                self.fields.insert(name.clone(), (write.place, value.clone()));
            }
        }
    }

    /// Whether no delete comes after a place.
    fn stands(&self, place: Place) -> bool {
        self.deleted.is_none_or(|deleted| place >= deleted)
    }

    fn created(&self) -> Option<Place> {
        self.created.filter(|place| self.stands(*place))
    }

    fn fields(&self) -> impl Iterator<Item = (&FieldName, Place, &Value)> {
        let fields = self.fields.iter().map(|(name, (place, value))| (name, *place, value));
        fields.filter(|(_, place, _)| self.stands(*place))
    }
}

#[derive(Debug, Clone, Default)]
struct Row {
    writes: Vec<Write>,
    last: Last,
}

/// Every write to every row so far.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    rows: BTreeMap<Key, Row>,
}

/// What a row must look like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowView {
    /// The last create, if no delete comes after it.
    pub created: Option<Place>,
    /// The last delete.
    pub deleted: Option<Place>,
    /// The last write of each field that no delete comes after.
    pub fields: BTreeMap<FieldName, (Place, Value)>,
}

impl Reference {
    /// Adds a commit's writes.
    pub fn add(&mut self, commit: &Commit) {
        for op in &commit.ops {
            let fields = op.fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            let write = Write { place: place(commit), kind: op.kind, fields };
            let row = self.rows.entry((op.table.clone(), op.row.clone())).or_default();
            row.last.note(&write);
            row.writes.push(write);
        }
    }

    /// Takes a commit's writes out again: it no longer counts.
    pub fn remove(&mut self, commit: &Commit) {
        for op in &commit.ops {
            if let Some(row) = self.rows.get_mut(&(op.table.clone(), op.row.clone())) {
                row.writes.retain(|write| write.place != place(commit));
                row.last = Last::default();
                row.writes.iter().for_each(|write| row.last.note(write));
            }
        }
    }

    /// How often a row was written.
    pub fn writes(&self, key: &Key) -> usize {
        self.rows.get(key).map_or(0, |row| row.writes.len())
    }

    /// The rows that were ever written, by table and key.
    pub fn rows(&self) -> impl Iterator<Item = &Key> {
        self.rows.keys()
    }

    /// What a row must look like.
    pub fn row(&self, key: &Key) -> RowView {
        let Some(Row { last, .. }) = self.rows.get(key) else { return RowView::default() };
        let fields = last.fields().map(|(name, place, value)| (name.clone(), (place, value.clone())));
        RowView { created: last.created(), deleted: last.deleted, fields: fields.collect() }
    }

    /// Whether a row looks as it must.
    pub fn is(&self, key: &Key, state: &RowState) -> bool {
        let Some(Row { last, .. }) = self.rows.get(key) else { return *state == RowState::default() };
        let mut cells = state.cells().iter();
        let mut fields = last.fields();
        let mut is_next = |(name, place, value): (&FieldName, Place, &Value)| {
            cells.next().is_some_and(|(field, cell)| {
                (&field, place_of(cell.stamp), &cell.value) == (name, place, value)
            })
        };
        let same = fields.all(&mut is_next) && cells.next().is_none();
        state.ins().map(place_of) == last.created() && state.del().map(place_of) == last.deleted && same
    }

    /// Whether a row is there.
    pub fn visible(&self, key: &Key) -> bool {
        self.rows.get(key).is_some_and(|row| row.last.created().is_some())
    }

    /// Whether a row was ever deleted.
    pub fn deleted(&self, key: &Key) -> bool {
        self.rows.get(key).is_some_and(|row| row.last.deleted.is_some())
    }

    /// The last write of a field, if no delete comes after it.
    pub fn field(&self, key: &Key, name: &FieldName) -> Option<(Place, &Value)> {
        let last = &self.rows.get(key)?.last;
        last.fields.get(name).filter(|(place, _)| last.stands(*place)).map(|(place, value)| (*place, value))
    }

    /// The largest place of a write to this row, made so far, that an operation of this kind on these fields replaces.
    pub fn overwritten<'a>(
        &self,
        key: &Key,
        kind: OpKind,
        fields: impl Iterator<Item = &'a FieldName>,
    ) -> Option<Place> {
        let last = &self.rows.get(key)?.last;
        if matches!(kind, OpKind::Delete | OpKind::Replace) {
            return last.any;
        }
        let fields = fields.filter_map(|name| last.fields.get(name)).map(|(place, _)| *place);
        last.whole.max(fields.max())
    }

    /// Whether a commit's stamp just exceeds what it overwrites: then its author's clock may never have shown it.
    pub fn raised(&self, commit: &Commit) -> bool {
        let last = |op: &Op| {
            let key = (op.table.clone(), op.row.clone());
            self.overwritten(&key, op.kind, op.fields.keys())
        };
        let last = commit.ops.iter().filter_map(last).max();
        last.is_some_and(|(hlc, ..)| commit.hlc <= Hlc(hlc).successor())
    }
}

#[cfg(test)]
mod tests {
    use engine::commit::{Deps, Op};
    use engine::fields::FieldValues;
    use engine::hlc::Hlc;
    use engine::prng::Prng;
    use engine::testing::Author;

    use super::*;

    /// The definition once more, over a list of writes.
    fn defined(writes: &[Write]) -> RowView {
        let last = |kinds: &[OpKind]| {
            let of = writes.iter().filter(|write| kinds.contains(&write.kind));
            of.map(|write| write.place).max()
        };
        let deleted = last(&[OpKind::Delete, OpKind::Replace]);
        let stands = |place: Place| Some(place) >= deleted;
        let mut fields: BTreeMap<FieldName, (Place, Value)> = BTreeMap::new();
        for write in writes.iter().filter(|write| stands(write.place)) {
            for (name, value) in &write.fields {
                if fields.get(name).is_none_or(|(place, _)| *place < write.place) {
                    fields.insert(name.clone(), (write.place, value.clone()));
                }
            }
        }
        let created = last(&[OpKind::Put, OpKind::Replace]);
        RowView { created: created.filter(|place| stands(*place)), deleted, fields }
    }

    fn replaced(writes: &[Write], kind: OpKind, fields: &[FieldName]) -> Option<Place> {
        let all = matches!(kind, OpKind::Delete | OpKind::Replace);
        let hit = |write: &&Write| {
            all || write.kind != OpKind::Update || write.fields.iter().any(|(name, _)| fields.contains(name))
        };
        writes.iter().filter(hit).map(|write| write.place).max()
    }

    #[test]
    fn what_is_kept_of_a_row_is_what_the_definition_gives_over_all_its_writes() {
        const KINDS: [OpKind; 4] = [OpKind::Put, OpKind::Update, OpKind::Delete, OpKind::Replace];
        let key: Key = (TableName::new("t").unwrap(), RowKey::new("r").unwrap());
        let names = ["x", "y", "z"].map(|name| FieldName::new(name).unwrap());
        let mut prng = Prng::new([7; 32]);
        for _ in 0..200 {
            let mut reference = Reference::default();
            let mut authors = [Author::new(0), Author::new(1)];
            let mut commits: Vec<Commit> = Vec::new();
            for _ in 0..1 + prng.below(12) {
                let kind = KINDS[prng.below(4) as usize];
                let mut op =
                    Op { table: key.0.clone(), row: key.1.clone(), kind, fields: FieldValues::new() };
                for name in names.iter().filter(|_| kind != OpKind::Delete) {
                    if prng.chance_ppm(500_000) {
                        op.fields.insert(name.clone(), Value::Int(prng.below(3) as i64));
                    }
                }
                let author = &mut authors[prng.below(2) as usize];
                let (commit, _) = author.commit(Hlc::new(1_000 + prng.below(6), 0), Deps::new(), vec![op]);
                reference.add(&commit);
                commits.push(commit);
                if prng.chance_ppm(200_000) {
                    reference.remove(&commits.swap_remove(prng.below(commits.len() as u64) as usize));
                }
                let writes: Vec<Write> = commits
                    .iter()
                    .flat_map(|commit| commit.ops.iter().map(|op| (place(commit), op)))
                    .map(|(place, op)| {
                        let fields = op.fields.iter().map(|(name, value)| (name.clone(), value.clone()));
                        Write { place, kind: op.kind, fields: fields.collect() }
                    })
                    .collect();
                assert_eq!(reference.row(&key), defined(&writes));
                assert_eq!(reference.writes(&key), writes.len());
                for (kind, fields) in
                    KINDS.into_iter().flat_map(|kind| [(kind, &names[..1]), (kind, &names[1..])])
                {
                    let due = replaced(&writes, kind, fields);
                    assert_eq!(reference.overwritten(&key, kind, fields.iter()), due);
                }
            }
        }
    }
}
