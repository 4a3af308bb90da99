//! The fields of a row, packed: one piece of memory with all of them in canonical form, as digests and stores take them. A
//! row is copied whenever it enters or leaves a store; copies share that piece until one of them is changed.
//!
//! Invariants: names ascend strictly; each cell is what [`PackedCell::read`] reads, to its last byte; equal fields have equal
//! bytes, whatever became of them before; there is no piece without fields.

use std::sync::Arc;

use crate::codec::{DecodeError, Put, Reader, Room, Writer, bytes_len, varint_len};
use crate::commit::{Stamp, get_field, get_replica, put_replica};
use crate::hlc::Hlc;
use crate::identity::Dot;
use crate::name::FieldName;
use crate::value::{Encoded, Value};

/// Memory for the piece itself, roughly, in bytes.
const PIECE_BYTES: usize = 32;
/// Bytes of the place where a cell ends, counted from where the first begins. A row that no store could keep does not fit.
const END_BYTES: usize = size_of::<u32>();

/// A field's value and the write it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The write.
    pub stamp: Stamp,
    /// What it wrote.
    pub value: Value,
}

/// A field with its cell, as it lies in a row: its name, stamp and value in canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedCell<'a> {
    /// The write.
    pub stamp: Stamp,
    /// What it wrote.
    pub value: Encoded<'a>,
    name: &'a [u8],
    whole: &'a [u8],
}

impl<'a> PackedCell<'a> {
    fn read(whole: &'a [u8]) -> Option<PackedCell<'a>> {
        let mut reader = Reader::new(whole);
        let name = reader.bytes(usize::MAX, "a field name").ok()?;
        let stamp = get_stamp(&mut reader).ok()?;
        let value = Encoded::rest(reader);
        Some(PackedCell { stamp, value, name, whole })
    }

    /// The text of the name.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The name.
    pub fn field(&self) -> FieldName {
        // It was checked when it came in.
        FieldName::checked(&String::from_utf8_lossy(self.name))
    }
}

/// A cell that is to be in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NewCell<'a> {
    Written(&'a FieldName, Stamp, &'a Value),
    Packed(PackedCell<'a>),
}

impl NewCell<'_> {
    fn len(&self) -> usize {
        match self {
            NewCell::Written(field, stamp, value) => {
                bytes_len(field.as_str().len()) + stamp_len(stamp) + value.encoded_len()
            }
            NewCell::Packed(cell) => cell.whole.len(),
        }
    }

    fn put(&self, room: &mut impl Put) {
        match self {
            NewCell::Written(field, stamp, value) => {
                room.bytes(field.as_str().as_bytes());
                put_stamp(room, stamp);
                value.encode(room);
            }
            NewCell::Packed(cell) => room.raw(cell.whole),
        }
    }
}

/// What changes: in ascending order cells, and where they come. Most changes are of one cell.
#[derive(Debug, Default)]
pub(crate) struct Edits<'a> {
    first: Option<Edit<'a>>,
    more: Vec<Edit<'a>>,
}

#[derive(Debug)]
struct Edit<'a> {
    /// Where the cell is that is replaced, or else before which one it comes.
    place: Result<usize, usize>,
    cell: NewCell<'a>,
}

impl<'a> Edits<'a> {
    pub(crate) fn push(&mut self, place: Result<usize, usize>, cell: NewCell<'a>) {
        let edit = Edit { place, cell };
        match self.first {
            None => self.first = Some(edit),
            Some(_) => self.more.push(edit),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Edit<'a>> {
        self.first.iter().chain(&self.more)
    }
}

/// Fields by name, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cells {
    count: usize,
    /// Where each cell ends, then the cells.
    packed: Option<Arc<[u8]>>,
}

impl Cells {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Memory that they take, roughly, in bytes.
    pub fn bytes(&self) -> usize {
        self.packed.as_ref().map_or(0, |packed| PIECE_BYTES + packed.len())
    }

    /// The ends, and the cells behind each other.
    fn split(&self) -> (&[u8], &[u8]) {
        let packed = self.packed.as_deref().unwrap_or_default();
        packed.split_at_checked(self.count * END_BYTES).unwrap_or_default()
    }

    /// All cells behind each other, in canonical form.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.split().1
    }

    /// The bytes of the cells, ascending.
    pub(crate) fn raw(&self) -> impl Iterator<Item = &[u8]> {
        let (ends, cells) = self.split();
        let mut from = 0;
        ends.as_chunks().0.iter().map(move |end| {
            let to = u32::from_le_bytes(*end) as usize;
            cells.get(std::mem::replace(&mut from, to)..to).unwrap_or_default()
        })
    }

    /// The cells as they lie here, ascending by name.
    pub fn packed(&self) -> impl Iterator<Item = PackedCell<'_>> {
        self.raw().filter_map(PackedCell::read)
    }

    /// Names and cells, ascending by name.
    pub fn iter(&self) -> impl Iterator<Item = (FieldName, Cell)> {
        self.packed().map(|cell| (cell.field(), Cell { stamp: cell.stamp, value: cell.value.to_value() }))
    }

    /// The stamps, ascending by the names of their fields.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.packed().map(|cell| cell.stamp)
    }

    /// The cell of a field.
    pub fn get(&self, name: &str) -> Option<Cell> {
        let cell = self.find(name)?;
        Some(Cell { stamp: cell.stamp, value: cell.value.to_value() })
    }

    /// The cell of a field, as it lies here.
    pub fn find(&self, name: &str) -> Option<PackedCell<'_>> {
        self.at(self.place(name.as_bytes()).ok()?)
    }

    fn end_of(ends: &[[u8; END_BYTES]], place: usize) -> usize {
        ends.get(place).map_or(0, |end| u32::from_le_bytes(*end) as usize)
    }

    fn raw_at(&self, place: usize) -> Option<&[u8]> {
        let (ends, cells) = self.split();
        let ends = ends.as_chunks().0;
        cells.get(
            place.checked_sub(1).map_or(0, |before| Self::end_of(ends, before))..Self::end_of(ends, place),
        )
    }

    /// The cell at a place.
    pub(crate) fn at(&self, place: usize) -> Option<PackedCell<'_>> {
        self.raw_at(place).and_then(PackedCell::read)
    }

    /// Where a field is, or before which it would come.
    pub(crate) fn place(&self, name: &[u8]) -> Result<usize, usize> {
        let (mut from, mut to) = (0, self.count);
        while from < to {
            let middle = (from + to) / 2;
            match name_of(self.raw_at(middle).unwrap_or_default()).cmp(name) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        Err(from)
    }

    /// Replaces and adds cells.
    pub(crate) fn edit(&mut self, edits: &Edits<'_>) {
        if self.replace_alike(edits).is_none() {
            self.rebuild(edits);
        }
    }

    /// Does it if all that changes is one cell for another of its length, and tells whether it is done.
    fn replace_alike(&mut self, edits: &Edits<'_>) -> Option<()> {
        let Some(Edit { place, cell }) = &edits.first else { return Some(()) };
        let place = place.ok().filter(|_| edits.more.is_empty())?;
        let len = self.raw_at(place).map(<[u8]>::len).filter(|len| *len == cell.len())?;
        let (ends, _) = self.split();
        let end = ends.len() + Self::end_of(ends.as_chunks().0, place);
        let packed = self.packed.as_mut()?;
        if Arc::get_mut(packed).is_none() {
            *packed = Arc::from(&packed[..]);
        }
        cell.put(&mut Room::new(Arc::get_mut(packed)?.get_mut(end - len..end)?));
        Some(())
    }

    fn rebuild(&mut self, edits: &Edits<'_>) {
        let (mut count, mut bytes) = (self.count, self.as_bytes().len());
        for Edit { place, cell } in edits.iter() {
            bytes += cell.len();
            match place {
                Ok(place) => bytes -= self.raw_at(*place).unwrap_or_default().len(),
                Err(_) => count += 1,
            }
        }
        let mut packer = Packer::new(count, bytes);
        let mut next = 0;
        for Edit { place, cell } in edits.iter() {
            let (Ok(to) | Err(to)) = *place;
            packer.copy(self, next, to);
            packer.push(cell);
            next = if place.is_ok() { to + 1 } else { to };
        }
        packer.copy(self, next, self.count);
        *self = packer.finish();
    }

    /// Keeps some of the cells.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(PackedCell<'_>) -> bool) {
        // Most often none stays.
        let mut kept = Vec::new();
        for (place, cell) in self.packed().enumerate() {
            if keep(cell) {
                kept.push((place, cell.whole.len()));
            }
        }
        if kept.len() == self.count {
            return;
        }
        let mut packer = Packer::new(kept.len(), kept.iter().map(|(_, len)| len).sum());
        kept.iter().for_each(|(place, _)| packer.copy(self, *place, place + 1));
        *self = packer.finish();
    }

    /// Whether this is a copy of the other, and neither has changed since.
    pub(crate) fn same_piece(&self, other: &Cells) -> bool {
        match (&self.packed, &other.packed) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }
}

/// The name of a cell in canonical form.
pub(crate) fn name_of(cell: &[u8]) -> &[u8] {
    Reader::new(cell).bytes(usize::MAX, "a field name").unwrap_or_default()
}

/// Fills a piece of memory of just the right size.
struct Packer {
    count: usize,
    /// Ends so far.
    ends: usize,
    /// Bytes of cells so far.
    bytes: usize,
    packed: Arc<[u8]>,
}

impl Packer {
    fn new(count: usize, bytes: usize) -> Packer {
        let packed = std::iter::repeat_n(0, count * END_BYTES + bytes).collect();
        Packer { count, ends: 0, bytes: 0, packed }
    }

    /// Nobody else has the piece yet.
    fn room(&mut self) -> (&mut [[u8; END_BYTES]], &mut [u8]) {
        let all = Arc::get_mut(&mut self.packed).unwrap_or_default();
        let (ends, cells) = all.split_at_mut_checked(self.count * END_BYTES).unwrap_or_default();
        (
            ends.as_chunks_mut().0.get_mut(self.ends..).unwrap_or_default(),
            cells.get_mut(self.bytes..).unwrap_or_default(),
        )
    }

    fn push(&mut self, cell: &NewCell<'_>) {
        self.bytes += {
            let mut room = Room::new(self.room().1);
            let before = room.left();
            cell.put(&mut room);
            before - room.left()
        };
        self.end_here();
    }

    fn end_here(&mut self) {
        let end = (self.bytes as u32).to_le_bytes();
        self.room().0.iter_mut().take(1).for_each(|place| *place = end);
        self.ends += 1;
    }

    /// Takes over cells of another list, from one up to another.
    fn copy(&mut self, other: &Cells, from: usize, to: usize) {
        if from >= to {
            return;
        }
        let (ends, cells) = other.split();
        let ends = ends.as_chunks().0;
        let start = from.checked_sub(1).map_or(0, |before| Cells::end_of(ends, before));
        let (taken, at) = (cells.get(start..Cells::end_of(ends, to - 1)).unwrap_or_default(), self.bytes);
        let (new_ends, room) = self.room();
        Room::new(room).raw(taken);
        for (new, old) in new_ends.iter_mut().zip(ends.get(from..to).unwrap_or_default()) {
            *new = ((u32::from_le_bytes(*old) as usize - start + at) as u32).to_le_bytes();
        }
        self.ends += to - from;
        self.bytes += taken.len();
    }

    fn finish(self) -> Cells {
        debug_assert_eq!((self.ends, self.count * END_BYTES + self.bytes), (self.count, self.packed.len()));
        Cells { count: self.count, packed: (self.count > 0).then_some(self.packed) }
    }
}

/// Gathers fields that come in ascending order.
#[derive(Debug, Default)]
pub struct CellsBuilder {
    ends: Vec<u8>,
    cells: Writer,
    /// Where the last one begins.
    last: usize,
}

impl CellsBuilder {
    /// With room for so many bytes.
    pub fn with_capacity(bytes: usize) -> CellsBuilder {
        CellsBuilder { cells: Writer::with_capacity(bytes), ..CellsBuilder::default() }
    }

    /// Adds a field that comes after all others.
    pub fn push(&mut self, field: &FieldName, stamp: &Stamp, value: Encoded<'_>) -> Result<(), DecodeError> {
        let name = field.as_str().as_bytes();
        let begin = self.cells.len();
        if begin > 0 && name_of(self.cells.as_bytes().get(self.last..).unwrap_or_default()) >= name {
            return Err(DecodeError::Unordered("fields"));
        }
        self.cells.bytes(name);
        put_stamp(&mut self.cells, stamp);
        self.cells.raw(value.bytes());
        self.last = begin;
        let end = u32::try_from(self.cells.len()).map_err(|_| DecodeError::TooLarge("a row"))?;
        self.ends.extend_from_slice(&end.to_le_bytes());
        Ok(())
    }

    /// What was added.
    pub fn finish(self) -> Cells {
        let count = self.ends.len() / END_BYTES;
        let mut packed = self.ends;
        packed.extend_from_slice(self.cells.as_bytes());
        Cells { count, packed: (count > 0).then(|| packed.into()) }
    }
}

/// Reads what [`Cells::as_bytes`] gives, of so many cells.
pub(crate) fn get_cells(reader: &mut Reader<'_>, count: usize) -> Result<Cells, DecodeError> {
    let mut cells = CellsBuilder::with_capacity(reader.remaining());
    for _ in 0..count {
        let (field, stamp) = (get_field(reader)?, get_stamp(reader)?);
        cells.push(&field, &stamp, Encoded::read(reader)?)?;
    }
    Ok(cells.finish())
}

impl FromIterator<(FieldName, Cell)> for Cells {
    /// Of several cells of one field the last stays.
    fn from_iter<I: IntoIterator<Item = (FieldName, Cell)>>(fields: I) -> Cells {
        let mut cells = Cells::default();
        for (name, cell) in fields {
            let mut edits = Edits::default();
            edits.push(
                cells.place(name.as_str().as_bytes()),
                NewCell::Written(&name, cell.stamp, &cell.value),
            );
            cells.edit(&edits);
        }
        cells
    }
}

pub(crate) fn put_stamp(writer: &mut impl Put, stamp: &Stamp) {
    writer.raw(&stamp.hlc.0.to_be_bytes());
    put_replica(writer, &stamp.dot.replica);
    writer.varint(stamp.dot.seq);
}

fn stamp_len(stamp: &Stamp) -> usize {
    8 + 24 + varint_len(stamp.dot.seq)
}

pub(crate) fn get_stamp(reader: &mut Reader<'_>) -> Result<Stamp, DecodeError> {
    let hlc = Hlc(u64::from_be_bytes(reader.array()?));
    let replica = get_replica(reader)?;
    Ok(Stamp { hlc, dot: Dot { replica, seq: reader.varint()? } })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::{DeviceId, ReplicaId};

    fn cell(n: u64) -> Cell {
        let replica = ReplicaId { device: DeviceId(uuid::Uuid::from_bytes([1; 16])), incarnation: 1 };
        // Sequence numbers of one byte and of two, values of all lengths.
        let stamp = Stamp { hlc: Hlc(n), dot: Dot { replica, seq: n * 8 } };
        Cell { stamp, value: Value::Text("x".repeat(n as usize / 4)) }
    }

    fn name(n: u8) -> FieldName {
        FieldName::new(&format!("field {}", "é".repeat(usize::from(n)))).expect("a name")
    }

    proptest! {
        #[test]
        fn fields_are_those_of_a_tree_and_have_the_same_bytes_however_they_came_and_copies_do_not_change(
            steps in proptest::collection::vec((0u8..4, proptest::collection::btree_map(0u8..60, 0u64..40, 1..4)), 0..20),
        ) {
            let (mut cells, mut model) = (Cells::default(), BTreeMap::new());
            for (kind, fields) in steps {
                let (before, held) = (cells.clone(), cells.iter().collect::<Vec<_>>());
                let fields: Vec<_> = fields.into_iter().map(|(field, n)| (name(field), cell(n))).collect();
                if kind == 0 {
                    let gone = |field: &FieldName| fields.iter().any(|(other, _)| other == field);
                    cells.retain(|cell| !gone(&cell.field()));
                    model.retain(|field, _| !gone(field));
                } else {
                    let mut edits = Edits::default();
                    let other: Cells = fields.iter().cloned().collect();
                    let mut packed = other.packed();
                    for (field, cell) in &fields {
                        let written = NewCell::Written(field, cell.stamp, &cell.value);
                        let new = packed.next().filter(|_| kind == 1).map_or(written, NewCell::Packed);
                        edits.push(cells.place(field.as_str().as_bytes()), new);
                    }
                    cells.edit(&edits);
                    model.extend(fields);
                }
                prop_assert!(before.iter().eq(held));
                prop_assert!(cells.iter().eq(model.iter().map(|(name, cell)| (name.clone(), cell.clone()))));
                prop_assert_eq!((cells.len(), cells.is_empty()), (model.len(), model.is_empty()));
                for field in (0..60).map(name) {
                    prop_assert_eq!(cells.get(field.as_str()), model.get(&field).cloned());
                }
                let mut reader = Reader::new(cells.as_bytes());
                let read = get_cells(&mut reader, cells.len());
                prop_assert_eq!((read.as_ref(), reader.finish()), (Ok(&cells), Ok(())));
                prop_assert_eq!(cells.iter().collect::<Cells>(), cells.clone());
                prop_assert_eq!(cells.bytes() == 0, cells.is_empty());
            }
        }
    }
}
