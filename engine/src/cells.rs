//! The fields of a row, in little memory and cheap to copy: a row is copied whenever it leaves a store.
//!
//! Invariant: names ascend strictly.

use std::sync::Arc;

use crate::commit::Stamp;
use crate::name::FieldName;
use crate::value::Value;

/// A field's value and the write it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The write.
    pub stamp: Stamp,
    /// What it wrote.
    pub value: Value,
}

/// Fields by name, ascending. Copies share their cells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cells(Vec<(FieldName, Arc<Cell>)>);

impl Cells {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    /// The cell of a field.
    pub fn get(&self, name: &str) -> Option<&Cell> {
        self.place(name).ok().and_then(|place| self.0.get(place)).map(|(_, cell)| &**cell)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Arc<Cell>> {
        self.place(name).ok().and_then(|place| self.0.get_mut(place)).map(|(_, cell)| cell)
    }

    /// Names and cells, ascending by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&FieldName, &Cell)> {
        self.0.iter().map(|(name, cell)| (name, &**cell))
    }

    /// The cells, ascending by the names of their fields.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Cell> {
        self.0.iter().map(|(_, cell)| &**cell)
    }

    /// The last field.
    pub fn last(&self) -> Option<(&FieldName, &Cell)> {
        self.0.last().map(|(name, cell)| (name, &**cell))
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&FieldName, &Cell) -> bool) {
        self.0.retain(|(name, cell)| keep(name, cell));
    }

    /// Adds fields that are not there yet and are distinct; all of them in one go, as each takes a look at all others.
    pub(crate) fn add(&mut self, fields: impl IntoIterator<Item = (FieldName, Arc<Cell>)>) {
        let before = self.0.len();
        self.0.extend(fields);
        if self.0.len() > before && before > 0 {
            self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        debug_assert!(self.0.is_sorted_by(|(a, _), (b, _)| a < b));
    }

    pub(crate) fn shared(&self) -> impl Iterator<Item = &(FieldName, Arc<Cell>)> {
        self.0.iter()
    }
}

impl FromIterator<(FieldName, Cell)> for Cells {
    /// Of several cells of one field the last stays.
    fn from_iter<I: IntoIterator<Item = (FieldName, Cell)>>(fields: I) -> Cells {
        let mut cells = Cells::default();
        for (name, cell) in fields {
            match cells.0.last().map(|(last, _)| last.cmp(&name)) {
                None | Some(std::cmp::Ordering::Less) => cells.0.push((name, Arc::new(cell))),
                Some(_) => match cells.place(name.as_str()) {
                    Ok(place) => cells.0[place].1 = Arc::new(cell),
                    Err(place) => cells.0.insert(place, (name, Arc::new(cell))),
                },
            }
        }
        cells
    }
}
