//! What a row holds, packed: one piece of memory with its marks and its fields. A row is copied whenever it enters or leaves a
//! store; copies share that piece until one of them is changed.
//!
//! The piece has a list of where each cell ends, then the cells (`cells`), that of the marks in front of the others.
//! Invariants: names ascend strictly; each cell is what [`PackedCell::read`] reads; there is no piece without cells.

use std::sync::Arc;

use crate::cells::{DEL, INS, Marks, NewCell, PackedCell, marks_of, name_of};
use crate::codec::{DecodeError, Put as _, Room, Writer};
use crate::commit::Stamp;
use crate::numbering::Numbering;
use crate::planted::{self, Bug};
use crate::value::Encoded;

/// Memory for the piece itself, roughly, in bytes.
const PIECE_BYTES: usize = 32;
/// Bytes of the place where a cell ends, counted from where the first begins. A row that no store could keep does not fit.
const END_BYTES: usize = size_of::<u32>();

/// What changes: in ascending order cells, and where they come. Most changes are of the marks and one field.
#[derive(Debug, Default)]
pub(crate) struct Edits<'a> {
    first: [Option<Edit<'a>>; 2],
    more: Vec<Edit<'a>>,
}

#[derive(Debug)]
struct Edit<'a> {
    /// Where the cell is that is replaced, or else before which one it comes.
    place: Result<usize, usize>,
    cell: NewCell<'a>,
    /// What it takes, in bytes.
    len: usize,
}

impl<'a> Edits<'a> {
    /// Adds one to those of a row.
    pub(crate) fn push(&mut self, pack: &Pack, place: Result<usize, usize>, cell: NewCell<'a>) {
        let edit = Edit { place, cell, len: cell.len(&pack.numbering) };
        match self.first.iter_mut().find(|room| room.is_none()) {
            Some(room) => *room = Some(edit),
            None => self.more.push(edit),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Edit<'a>> {
        self.first.iter().flatten().chain(&self.more)
    }
}

/// A row's marks and fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pack {
    numbering: Numbering,
    /// Of cells, that of the marks included.
    count: u32,
    /// Where each cell ends, then the cells.
    packed: Option<Arc<[u8]>>,
}

impl PartialEq for Pack {
    /// Whether they say the same, whatever numbers they have for replicas.
    fn eq(&self, other: &Pack) -> bool {
        self.same_piece(other)
            || self.numbering.same(&other.numbering) && self.packed == other.packed
            || self.count == other.count && self.marks() == other.marks() && self.fields().eq(other.fields())
    }
}

impl Eq for Pack {}

impl Pack {
    fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.packed.is_none()
    }

    /// Memory that they take, roughly, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.packed.as_ref().map_or(0, |packed| PIECE_BYTES + packed.len())
    }

    /// The ends, and the cells behind each other.
    fn split(&self) -> (&[u8], &[u8]) {
        let packed = self.packed.as_deref().unwrap_or_default();
        packed.split_at_checked(self.count() * END_BYTES).unwrap_or_default()
    }

    /// 1 if there are marks, which come first.
    fn first_field(&self) -> usize {
        usize::from(marks_of(self.split().1) != 0)
    }

    /// How many fields there are.
    pub(crate) fn fields_len(&self) -> usize {
        self.count() - self.first_field()
    }

    pub(crate) fn marks(&self) -> Marks {
        Marks::read(self.split().1, &self.numbering)
    }

    /// Whether there is a last create.
    pub(crate) fn has_ins(&self) -> bool {
        marks_of(self.split().1) & INS != 0
    }

    /// Whether there is a last delete.
    pub(crate) fn has_del(&self) -> bool {
        marks_of(self.split().1) & DEL != 0
    }

    /// The bytes of the fields, ascending.
    fn raw(&self) -> impl Iterator<Item = &[u8]> {
        let (ends, cells) = self.split();
        let mut from = 0;
        let all = ends.as_chunks().0.iter().map(move |end| {
            let to = u32::from_le_bytes(*end) as usize;
            cells.get(std::mem::replace(&mut from, to)..to).unwrap_or_default()
        });
        all.skip(self.first_field())
    }

    /// Reads a cell of this row.
    fn read<'a>(&self, cell: &'a [u8]) -> Option<PackedCell<'a>> {
        PackedCell::read(cell, &self.numbering)
    }

    /// The fields, ascending by name.
    pub(crate) fn fields(&self) -> impl Iterator<Item = PackedCell<'_>> {
        self.raw().filter_map(|cell| self.read(cell))
    }

    /// The cell of a field.
    pub(crate) fn find(&self, name: &str) -> Option<PackedCell<'_>> {
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
        self.raw_at(place).and_then(|cell| self.read(cell))
    }

    /// Where a field is, or before which it would come.
    pub(crate) fn place(&self, name: &[u8]) -> Result<usize, usize> {
        let (mut from, mut to) = (0, self.count());
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

    /// Where the marks are, or would come.
    pub(crate) fn place_of_marks(&self) -> Result<usize, usize> {
        if self.first_field() > 0 { Ok(0) } else { Err(0) }
    }

    /// Replaces and adds cells.
    pub(crate) fn edit(&mut self, edits: &Edits<'_>) {
        if edits.first[0].is_some() && !self.replace_alike(edits) {
            self.rebuild(edits);
        }
    }

    /// Does it if one or two cells replace others of their lengths, and tells whether it is done.
    fn replace_alike(&mut self, edits: &Edits<'_>) -> bool {
        let (ends, _) = self.split();
        let (start, ends) = (ends.len(), ends.as_chunks().0);
        let room = |edit: &Edit<'_>| {
            let place = edit.place.ok()?;
            let len = self.raw_at(place).map(<[u8]>::len)?;
            let end = start + Self::end_of(ends, place);
            (len == edit.len).then_some(end - len..end)
        };
        let rooms = edits.first.each_ref().map(|edit| edit.as_ref().map(room));
        if !edits.more.is_empty() || rooms.contains(&Some(None)) {
            return false;
        }
        let Some(packed) = &mut self.packed else { return false };
        if Arc::get_mut(packed).is_none() {
            *packed = Arc::from(&packed[..]);
        }
        let Some(packed) = Arc::get_mut(packed) else { return false };
        for (edit, room) in edits.iter().zip(rooms.into_iter().flatten().flatten()) {
            edit.cell.put(&mut Room::new(packed.get_mut(room).unwrap_or_default()), &self.numbering);
        }
        true
    }

    fn rebuild(&mut self, edits: &Edits<'_>) {
        let (mut count, mut bytes) = (self.count(), self.split().1.len());
        for Edit { place, len, .. } in edits.iter() {
            bytes += len;
            match place {
                Ok(place) => bytes -= self.raw_at(*place).unwrap_or_default().len(),
                Err(_) => count += 1,
            }
        }
        let mut packer = Packer::new(count, bytes);
        let mut next = 0;
        for Edit { place, cell, .. } in edits.iter() {
            let (Ok(to) | Err(to)) = *place;
            packer.copy(self, next, to);
            packer.push(cell, &self.numbering);
            next = if place.is_ok() { to + 1 } else { to };
        }
        packer.copy(self, next, self.count());
        self.hold(packer);
    }

    fn hold(&mut self, packer: Packer) {
        let (packed, count) = packer.finish();
        (self.packed, self.count) = (packed, count as u32);
    }

    /// Keeps the marks, and some of the fields.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(PackedCell<'_>) -> bool) {
        // Most often no field stays.
        let (first, mut kept) = (self.first_field(), Vec::new());
        kept.extend((first > 0).then_some(0));
        kept.extend((first..self.count()).filter(|place| self.at(*place).is_some_and(&mut keep)));
        if kept.len() == self.count() {
            return;
        }
        let bytes = kept.iter().filter_map(|place| self.raw_at(*place)).map(<[u8]>::len).sum();
        let mut packer = Packer::new(kept.len(), bytes);
        kept.iter().for_each(|place| packer.copy(self, *place, place + 1));
        self.hold(packer);
    }

    /// Takes over the numbers that replicas have elsewhere.
    pub(crate) fn renumber(&mut self, numbering: &Numbering) {
        if self.numbering.same(numbering) {
            return;
        }
        let differ = !self.is_empty() && !numbering.extends(&self.numbering);
        if differ && !planted::is(Bug::NumbersKept) {
            let mut other = Pack { numbering: numbering.clone(), ..Pack::default() };
            let mut edits = Edits::default();
            if self.first_field() > 0 {
                edits.push(&other, Err(0), NewCell::Marks(self.marks()));
            }
            self.fields().for_each(|cell| edits.push(&other, Err(0), NewCell::Packed(cell)));
            other.rebuild(&edits);
            *self = other;
        }
        self.numbering = numbering.clone();
    }

    /// Whether this is a copy of the other, and neither has changed since.
    fn same_piece(&self, other: &Pack) -> bool {
        match (&self.packed, &other.packed) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }
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

    fn push(&mut self, cell: &NewCell<'_>, numbering: &Numbering) {
        self.bytes += {
            let mut room = Room::new(self.room().1);
            let before = room.left();
            cell.put(&mut room, numbering);
            before - room.left()
        };
        let end = (self.bytes as u32).to_le_bytes();
        self.room().0.iter_mut().take(1).for_each(|place| *place = end);
        self.ends += 1;
    }

    /// Takes over cells of another row with the same numbers, from one up to another.
    fn copy(&mut self, other: &Pack, from: usize, to: usize) {
        if from >= to {
            return;
        }
        let (ends, cells) = other.split();
        let ends = ends.as_chunks().0;
        let start = from.checked_sub(1).map_or(0, |before| Pack::end_of(ends, before));
        let (taken, at) = (cells.get(start..Pack::end_of(ends, to - 1)).unwrap_or_default(), self.bytes);
        let (new_ends, room) = self.room();
        Room::new(room).raw(taken);
        for (new, old) in new_ends.iter_mut().zip(ends.get(from..to).unwrap_or_default()) {
            *new = ((u32::from_le_bytes(*old) as usize - start + at) as u32).to_le_bytes();
        }
        self.ends += to - from;
        self.bytes += taken.len();
    }

    fn finish(self) -> (Option<Arc<[u8]>>, usize) {
        debug_assert_eq!((self.ends, self.count * END_BYTES + self.bytes), (self.count, self.packed.len()));
        ((self.count > 0).then_some(self.packed), self.count)
    }
}

/// Gathers the fields of a row, which come in ascending order.
#[derive(Debug)]
pub(crate) struct Gathered {
    numbering: Numbering,
    ends: Vec<u8>,
    cells: Writer,
    /// Where the last one begins.
    last: usize,
}

impl Gathered {
    /// With room for so many bytes.
    pub(crate) fn new(marks: Marks, numbering: &Numbering, bytes: usize) -> Gathered {
        let mut gathered = Gathered {
            numbering: numbering.clone(),
            ends: Vec::new(),
            cells: Writer::with_capacity(bytes),
            last: 0,
        };
        if marks != Marks::default() {
            NewCell::Marks(marks).put(&mut gathered.cells, numbering);
            // It is far shorter than what a `u32` counts.
            gathered.ends.extend_from_slice(&(gathered.cells.len() as u32).to_le_bytes());
        }
        gathered
    }

    /// Adds a field that comes after all others.
    pub(crate) fn push(&mut self, name: &[u8], stamp: &Stamp, value: Encoded<'_>) -> Result<(), DecodeError> {
        let begin = self.cells.len();
        if begin > 0 && name_of(self.cells.as_bytes().get(self.last..).unwrap_or_default()) >= name {
            return Err(DecodeError::Unordered("fields"));
        }
        NewCell::Packed(PackedCell::new(name, *stamp, value)).put(&mut self.cells, &self.numbering);
        self.last = begin;
        let end = u32::try_from(self.cells.len()).map_err(|_| DecodeError::TooLarge("a row"))?;
        self.ends.extend_from_slice(&end.to_le_bytes());
        Ok(())
    }

    /// What was added.
    pub(crate) fn finish(self) -> Pack {
        let count = self.ends.len() / END_BYTES;
        let mut packed = self.ends;
        packed.extend_from_slice(self.cells.as_bytes());
        let packed = (count > 0).then(|| packed.into());
        Pack { numbering: self.numbering, count: count as u32, packed }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cells::{Cell, NUMBERED_BYTES, WRITTEN_OUT_BYTES};
    use crate::codec::Reader;
    use crate::hlc::Hlc;
    use crate::identity::{DeviceId, Dot, ReplicaId};
    use crate::name::FieldName;
    use crate::value::Value;

    fn replica(n: u64) -> ReplicaId {
        ReplicaId { device: DeviceId(uuid::Uuid::from_bytes([1; 16])), incarnation: n % 5 }
    }

    /// Sequence numbers of all lengths.
    fn stamp(n: u64) -> Stamp {
        Stamp { hlc: Hlc(n), dot: Dot { replica: replica(n), seq: 1 << n | n } }
    }

    /// Values of all lengths.
    fn cell(n: u64) -> Cell {
        Cell { stamp: stamp(n), value: Value::Text("x".repeat(n as usize / 4)) }
    }

    fn name(n: u8) -> FieldName {
        FieldName::new(&format!("field {}", "é".repeat(usize::from(n)))).expect("a name")
    }

    fn marks((ins, del): (Option<u64>, Option<u64>)) -> Marks {
        Marks { ins: ins.map(stamp), del: del.map(stamp) }
    }

    type Model = BTreeMap<FieldName, Cell>;

    fn gathered(marks: Marks, fields: &Model, numbering: &Numbering) -> Pack {
        let mut gathered = Gathered::new(marks, numbering, 0);
        for (field, cell) in fields {
            let mut writer = Writer::new();
            cell.value.encode(&mut writer);
            let value = Encoded::rest(Reader::new(writer.as_bytes()));
            gathered.push(field.as_str().as_bytes(), &cell.stamp, value).expect("ascending");
        }
        gathered.finish()
    }

    fn fields(pack: &Pack) -> Vec<(FieldName, Cell)> {
        pack.fields().map(|cell| (cell.field(), cell.to_cell())).collect()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Retain(Vec<u8>),
        /// Marks and fields, the latter from another row or from a commit.
        Edit(Option<(Option<u64>, Option<u64>)>, BTreeMap<u8, u64>, bool),
        Renumber(Vec<u64>),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let mark = || proptest::option::of(0u64..40);
        let new = proptest::collection::btree_map(0u8..60, 0u64..40, 0..4);
        prop_oneof![
            1 => proptest::collection::vec(0u8..60, 1..4).prop_map(Step::Retain),
            4 => (proptest::option::of((mark(), mark())), new, any::<bool>())
                .prop_map(|(marks, fields, packed)| Step::Edit(marks, fields, packed)),
            1 => proptest::collection::vec(0u64..6, 0..6).prop_map(Step::Renumber),
        ]
    }

    proptest! {
        #[test]
        fn a_row_holds_what_a_tree_would_whatever_its_numbers_and_copies_do_not_change(
            steps in proptest::collection::vec(any_step(), 0..20),
        ) {
            let (mut pack, mut known, mut model) = (Pack::default(), Marks::default(), Model::new());
            for step in steps {
                let (before, held) = (pack.clone(), (pack.marks(), fields(&pack)));
                match step {
                    Step::Retain(gone) => {
                        let gone: Vec<_> = gone.into_iter().map(name).collect();
                        pack.retain(|cell| !gone.contains(&cell.field()));
                        model.retain(|field, _| !gone.contains(field));
                    }
                    Step::Edit(new, fields, from_row) => {
                        let mut edits = Edits::default();
                        // Marks come, and change, but do not go.
                        let new = new.map(marks).filter(|new| *new != Marks::default());
                        if let Some(new) = new {
                            edits.push(&pack, pack.place_of_marks(), NewCell::Marks(new));
                            known = new;
                        }
                        let fields: Model = fields.into_iter().map(|(field, n)| (name(field), cell(n))).collect();
                        let other = gathered(Marks::default(), &fields, &Numbering::default());
                        let mut packed = other.fields();
                        for (field, cell) in &fields {
                            let written = NewCell::Written(field, cell.stamp, &cell.value);
                            let new = packed.next().filter(|_| from_row).map_or(written, NewCell::Packed);
                            edits.push(&pack, pack.place(field.as_str().as_bytes()), new);
                        }
                        pack.edit(&edits);
                        model.extend(fields);
                    }
                    Step::Renumber(replicas) => {
                        pack.renumber(&replicas.into_iter().map(replica).collect::<Vec<_>>().iter().collect());
                    }
                }
                prop_assert_eq!((before.marks(), fields(&before)), held.clone());
                prop_assert_eq!((pack.marks(), pack.has_ins()), (known, known.ins.is_some()));
                prop_assert_eq!(fields(&pack), model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(pack.fields_len(), model.len());
                let empty = model.is_empty() && known == Marks::default();
                prop_assert_eq!((pack.is_empty(), pack.bytes() == 0), (empty, empty));
                for field in (0..60).map(name) {
                    let found = pack.find(field.as_str()).map(|cell| cell.to_cell());
                    prop_assert_eq!(found, model.get(&field).cloned());
                }
                let again = gathered(known, &model, &Numbering::default());
                prop_assert_eq!(&pack, &again);
                prop_assert!(before == pack || before.marks() != known || held.1 != fields(&pack));
            }
        }
    }

    #[test]
    fn a_replica_with_a_number_takes_a_byte() {
        let fields: Model = (0..8).map(|n| (name(n), cell(8))).collect();
        let marks = marks((Some(8), None));
        let bytes = |numbering: &Numbering| gathered(marks, &fields, numbering).bytes();
        let none = bytes(&Numbering::default());
        assert_eq!(none - bytes(&[replica(8)].iter().collect()), 9 * (WRITTEN_OUT_BYTES - NUMBERED_BYTES));
        assert_eq!(none, bytes(&[replica(9)].iter().collect()));
    }
}
