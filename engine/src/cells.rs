//! The fields of a row, in little memory and cheap to copy: a row is copied whenever it enters or leaves a store. Copies
//! share the list until one of them is changed, and the cells beyond that.
//!
//! Invariants: names ascend strictly; there is no list without fields.

use std::sync::Arc;

use crate::commit::Stamp;
use crate::name::FieldName;
use crate::value::Value;

/// Memory for a field itself, roughly, in bytes: two allocations and its place in the list.
const FIELD_BYTES: usize = 160;

/// A field's value and the write it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The write.
    pub stamp: Stamp,
    /// What it wrote.
    pub value: Value,
}

type Named = (FieldName, Arc<Cell>);

/// Fields by name, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cells {
    fields: Option<Arc<[Named]>>,
    /// Memory that they take, roughly: it follows each change, because counting looks at every value.
    bytes: usize,
}

impl Cells {
    fn slice(&self) -> &[Named] {
        self.fields.as_deref().unwrap_or_default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slice().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_none()
    }

    /// Memory that they take, roughly, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where a field is.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.slice().binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()
    }

    /// The cell at a place.
    pub(crate) fn at(&self, place: usize) -> Option<&Cell> {
        self.slice().get(place).map(|(_, cell)| &**cell)
    }

    /// The cell of a field.
    pub fn get(&self, name: &str) -> Option<&Cell> {
        self.place(name).and_then(|place| self.at(place))
    }

    /// Replaces the cell at a place.
    pub(crate) fn replace(&mut self, place: usize, cell: Arc<Cell>) {
        let Some(old) = self.at(place).map(|old| old.value.memory_bytes()) else { return };
        self.bytes = self.bytes + cell.value.memory_bytes() - old;
        let writable = self.fields.as_mut().map(Arc::make_mut);
        if let Some((_, there)) = writable.and_then(|fields| fields.get_mut(place)) {
            *there = cell;
        }
    }

    /// Names and cells, ascending by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&FieldName, &Cell)> {
        self.slice().iter().map(|(name, cell)| (name, &**cell))
    }

    /// The cells, ascending by the names of their fields.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Cell> {
        self.slice().iter().map(|(_, cell)| &**cell)
    }

    /// The last field.
    pub fn last(&self) -> Option<(&FieldName, &Cell)> {
        self.slice().last().map(|(name, cell)| (name, &**cell))
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&FieldName, &Cell) -> bool) {
        // Most often none stays: what goes is not copied first.
        let kept: Vec<Named> = self.shared().filter(|(name, cell)| keep(name, cell)).cloned().collect();
        if kept.len() < self.len() {
            self.bytes = kept.iter().map(weight).sum();
            self.fields = (!kept.is_empty()).then(|| kept.into());
        }
    }

    /// Adds fields that are not there yet and are distinct; all of them in one go, as each takes a look at all others.
    pub(crate) fn add(&mut self, added: Vec<Named>) {
        if added.is_empty() {
            return;
        }
        self.bytes += added.iter().map(weight).sum::<usize>();
        let before = self.len();
        let mut fields: Arc<[Named]> = self.slice().iter().cloned().chain(added).collect();
        if before > 0
            && let Some(fields) = Arc::get_mut(&mut fields)
        {
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        debug_assert!(fields.is_sorted_by(|(a, _), (b, _)| a < b));
        self.fields = Some(fields);
    }

    pub(crate) fn shared(&self) -> impl Iterator<Item = &Named> {
        self.slice().iter()
    }

    /// Whether this is a copy of the other, and neither has changed since.
    pub(crate) fn same_list(&self, other: &Cells) -> bool {
        match (&self.fields, &other.fields) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }
}

fn weight((name, cell): &Named) -> usize {
    FIELD_BYTES + name.as_str().len() + cell.value.memory_bytes()
}

impl FromIterator<(FieldName, Cell)> for Cells {
    /// Of several cells of one field the last stays.
    fn from_iter<I: IntoIterator<Item = (FieldName, Cell)>>(fields: I) -> Cells {
        let mut list = Vec::<Named>::new();
        for (name, cell) in fields {
            let cell = Arc::new(cell);
            match list.last().map(|(last, _)| last.cmp(&name)) {
                None | Some(std::cmp::Ordering::Less) => list.push((name, cell)),
                Some(_) => match list.binary_search_by(|(other, _)| other.cmp(&name)) {
                    Ok(place) => list[place].1 = cell,
                    Err(place) => list.insert(place, (name, cell)),
                },
            }
        }
        let bytes = list.iter().map(weight).sum();
        Cells { fields: (!list.is_empty()).then(|| list.into()), bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hlc::Hlc;
    use crate::identity::{DeviceId, Dot, ReplicaId};

    fn cell(n: u64) -> Cell {
        let replica = ReplicaId { device: DeviceId(uuid::Uuid::from_bytes([1; 16])), incarnation: 1 };
        Cell {
            stamp: Stamp { hlc: Hlc(n), dot: Dot { replica, seq: n } },
            value: Value::Text("x".repeat(n as usize)),
        }
    }

    fn name(n: u8) -> FieldName {
        FieldName::new(&format!("field {n}")).expect("a name")
    }

    proptest! {
        #[test]
        fn what_fields_weigh_and_hold_is_the_same_however_they_came_and_copies_do_not_change(
            steps in proptest::collection::vec((0u8..3, 0u8..6, 0u64..40), 0..20),
        ) {
            let mut cells = Cells::default();
            for (kind, field, n) in steps {
                let (before, held) = (cells.clone(), cells.shared().cloned().collect::<Vec<_>>());
                match (kind, cells.place(name(field).as_str())) {
                    (0, _) => cells.retain(|other, _| *other != name(field)),
                    (_, Some(place)) => cells.replace(place, Arc::new(cell(n))),
                    (_, None) => cells.add(vec![(name(field), Arc::new(cell(n)))]),
                }
                prop_assert!(before.shared().eq(held.iter()));
                let anew: Cells = cells.iter().map(|(name, cell)| (name.clone(), cell.clone())).collect();
                prop_assert_eq!(&anew, &cells);
                prop_assert_eq!(cells.is_empty(), cells.iter().next().is_none());
            }
        }
    }
}
