//! Merge: the state of a row, and what a write does to it.
//!
//! A row is three kinds of max-register over the total order of writes ([`Stamp`]): `ins` (last create),
//! `del` (last delete), and one for each field. A row is there iff `ins >= del`, a field iff its stamp
//! `>= del`; equality happens only within one commit, where the delete comes first
//! ([`Replace`](crate::commit::OpKind::Replace)).
//! Invariant (normal form): nothing with a stamp below `del` is kept, so equal sets of writes give
//! equal states whatever the order. Source of the registers: Shapiro et al., "A comprehensive study of
//! Convergent and Commutative Replicated Data Types" (INRIA RR-7506, 2011), LWW-register.

use std::collections::BTreeMap;

pub use crate::cells::{Cell, PackedCell};
use crate::cells::{Marks, NewCell, get_stamp, put_stamp};
use crate::codec::{DecodeError, Reader, Writer};
use crate::commit::{Op, Stamp, get_field};
use crate::config::ROW_FIELDS_MAX;
use crate::hlc::Hlc;
use crate::name::{FieldName, RowKey, TableName};
use crate::numbering::Numbering;
use crate::pack::{Edits, Gathered, Pack};
use crate::planted::{self, Bug};
use crate::siphash;
use crate::value::{Encoded, Value};

/// The merged state of one row. Two are equal if they say the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowState {
    pack: Pack,
}

/// The fields of a row by name, ascending.
#[derive(Debug, Clone, Copy)]
pub struct Cells<'a>(&'a Pack);

impl<'a> Cells<'a> {
    /// How many there are.
    pub fn len(self) -> usize {
        self.0.fields_len()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The cells as they lie in the row.
    pub fn packed(self) -> impl Iterator<Item = PackedCell<'a>> {
        self.0.fields()
    }

    /// Names and cells.
    pub fn iter(self) -> impl Iterator<Item = (FieldName, Cell)> {
        self.packed().map(|cell| (cell.field(), cell.to_cell()))
    }

    /// The stamps, in the order of the names of their fields.
    pub fn stamps(self) -> impl Iterator<Item = Stamp> {
        self.packed().map(|cell| cell.stamp)
    }

    /// The cell of a field.
    pub fn get(self, name: &str) -> Option<Cell> {
        self.find(name).map(|cell| cell.to_cell())
    }

    /// The cell of a field, as it lies in the row.
    pub fn find(self, name: &str) -> Option<PackedCell<'a>> {
        self.0.find(name)
    }
}

/// Makes a row of its parts, the fields in ascending order.
#[derive(Debug)]
pub struct RowBuilder {
    del: Option<Stamp>,
    /// Whether it is in normal form so far.
    normal: bool,
    fields: Gathered,
}

impl RowBuilder {
    /// A row with these marks, room for so many bytes, and these numbers for replicas.
    pub fn new(ins: Option<Stamp>, del: Option<Stamp>, numbering: &Numbering, bytes: usize) -> RowBuilder {
        let normal = ins.is_none_or(|ins| Some(ins) >= del);
        RowBuilder { del, normal, fields: Gathered::new(Marks { ins, del }, numbering, bytes) }
    }

    /// Adds a field that comes after all others.
    pub fn push(&mut self, field: &FieldName, stamp: &Stamp, value: Encoded<'_>) -> Result<(), DecodeError> {
        self.normal &= Some(*stamp) >= self.del;
        self.fields.push(field.as_str().as_bytes(), stamp, value)
    }

    /// The row; `None` if it is not in normal form.
    pub fn finish(self) -> Option<RowState> {
        self.normal.then(|| RowState { pack: self.fields.finish() })
    }
}

/// A value that is not (or no longer) what the field shows, because another write came later in the
/// total order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    /// The field.
    pub field: FieldName,
    /// The value that lost.
    pub value: Value,
    /// Its write.
    pub loser: Stamp,
    /// The write that won: of the same field, or a delete of the row.
    pub winner: Stamp,
}

/// The same, while it is being noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost<'a> {
    what: What<'a>,
    /// The write of the value that lost.
    pub loser: Stamp,
    /// The write that won.
    pub winner: Stamp,
}

/// A value that lost: one that was there, or one that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What<'a> {
    There(PackedCell<'a>),
    Comes(&'a FieldName, &'a Value),
}

impl<'a> Lost<'a> {
    /// What was there lost against a write.
    pub(crate) fn there(cell: PackedCell<'a>, winner: Stamp) -> Lost<'a> {
        Lost { what: What::There(cell), loser: cell.stamp, winner }
    }

    /// To be kept.
    pub fn to_owned(&self) -> Superseded {
        let (field, value) = match self.what {
            What::There(cell) => (cell.field(), cell.value.to_value()),
            What::Comes(field, value) => (field.clone(), value.clone()),
        };
        Superseded { field, value, loser: self.loser, winner: self.winner }
    }
}

/// Takes note of values that lose. A list keeps all of them; `()` none.
pub trait Losses {
    /// A value lost.
    fn lost(&mut self, lost: Lost<'_>);
}

impl Losses for Vec<Superseded> {
    fn lost(&mut self, lost: Lost<'_>) {
        self.push(lost.to_owned());
    }
}

impl Losses for () {
    fn lost(&mut self, _: Lost<'_>) {}
}

impl RowState {
    /// The last create that is not deleted.
    pub fn ins(&self) -> Option<Stamp> {
        self.pack.marks().ins
    }

    /// The last delete.
    pub fn del(&self) -> Option<Stamp> {
        self.pack.marks().del
    }

    /// The fields, whether the row is there or not.
    pub fn cells(&self) -> Cells<'_> {
        Cells(&self.pack)
    }

    /// Whether nothing has been written to it, or nothing that stands.
    pub fn is_untouched(&self) -> bool {
        self.pack.is_empty()
    }

    /// Memory that it takes elsewhere than in place, roughly, in bytes.
    pub fn bytes(&self) -> usize {
        self.pack.bytes()
    }

    /// Takes over the numbers that replicas have elsewhere. That takes a while unless they are the same, or more of the same.
    pub fn renumber(&mut self, numbering: &Numbering) {
        self.pack.renumber(numbering);
    }

    /// Whether the row is there.
    pub fn visible(&self) -> bool {
        // Normal form: an `ins` below `del` is not kept.
        self.pack.has_ins()
    }

    /// Whether it has been deleted before.
    pub(crate) fn was_deleted(&self) -> bool {
        self.pack.has_del()
    }

    /// The value of a field, if the row is there and has it.
    pub fn field(&self, field: &str) -> Option<Value> {
        self.cells().find(field).filter(|_| self.visible()).map(|cell| cell.value.to_value())
    }

    /// The fields of a row that is there.
    pub fn fields(&self) -> Option<BTreeMap<FieldName, Value>> {
        self.visible()
            .then(|| self.cells().packed().map(|cell| (cell.field(), cell.value.to_value())).collect())
    }

    /// The largest clock among what a write of this operation would have to overwrite.
    pub fn floor(&self, op: &Op) -> Option<Hlc> {
        let fields =
            op.fields.keys().filter_map(|name| self.cells().find(name.as_str())).map(|cell| cell.stamp.hlc);
        let all = self.cells().stamps().map(|stamp| stamp.hlc);
        let Marks { ins, del } = self.pack.marks();
        let marks = ins.iter().chain(&del).map(|stamp| stamp.hlc);
        if op.kind.deletes() { all.chain(marks).max() } else { fields.chain(marks).max() }
    }

    /// Applies a write. Writes may come in any order and any number of times. `lost` is told of each value that this
    /// write superseded or that is superseded in it, for the caller to judge whether the two were in conflict.
    /// A write that loses costs no memory.
    pub fn apply(&mut self, stamp: Stamp, op: &Op, lost: &mut impl Losses) {
        self.apply_noting(stamp, op, lost, &mut ());
    }

    /// The same, and tells what changes.
    pub(crate) fn apply_noting(
        &mut self,
        stamp: Stamp,
        op: &Op,
        lost: &mut impl Losses,
        changes: &mut impl Changes,
    ) {
        let before = self.pack.marks();
        let Marks { mut ins, mut del } = before;
        if op.kind.deletes() && del < Some(stamp) {
            del = Some(stamp);
            ins = ins.filter(|ins| *ins >= stamp);
            self.pack.retain(|cell| {
                let stays = cell.stamp >= stamp || planted::is(Bug::DeleteKeepsFields);
                if !stays {
                    changes.removed(cell);
                    lost.lost(Lost::there(cell, stamp));
                }
                stays
            });
        }
        let deleted_by = del.filter(|del| *del > stamp);
        let inserts = op.kind.inserts() || planted::is(Bug::UpdateResurrects) && !op.kind.deletes();
        if inserts && deleted_by.is_none() {
            ins = ins.max(Some(stamp));
        }
        let mut edits = Edits::default();
        let marks = Marks { ins, del };
        if marks != before {
            changes.marked(before, marks);
            edits.push(&self.pack, self.pack.place_of_marks(), NewCell::Marks(marks));
        }
        for (field, value) in &op.fields {
            let place = self.pack.place(field.as_str().as_bytes());
            let current = place.ok().and_then(|place| self.pack.at(place));
            let newer = current.map(|cell| cell.stamp).filter(|other| later(*other, stamp));
            if let Some(winner) = deleted_by.or(newer) {
                lost.lost(Lost { what: What::Comes(field, value), loser: stamp, winner });
                continue;
            }
            if current.is_some_and(|cell| cell.stamp == stamp) {
                continue;
            }
            if let Some(cell) = current {
                changes.removed(cell);
                lost.lost(Lost::there(cell, stamp));
            }
            changes.written(field, stamp, value);
            edits.push(&self.pack, place, NewCell::Written(field, stamp, value));
        }
        self.pack.edit(&edits);
    }

    /// Merges another state of the same row: the join of the two.
    pub fn merge(&mut self, other: &RowState) {
        let (ours, theirs) = (self.pack.marks(), other.pack.marks());
        let del = ours.del.max(theirs.del);
        let marks = Marks { ins: ours.ins.max(theirs.ins).filter(|ins| Some(*ins) >= del), del };
        let mut edits = Edits::default();
        if marks != ours {
            edits.push(&self.pack, self.pack.place_of_marks(), NewCell::Marks(marks));
        }
        for theirs in other.cells().packed() {
            let place = self.pack.place(theirs.name());
            let ours = place.ok().and_then(|place| self.pack.at(place));
            if ours.is_none_or(|ours| ours.stamp < theirs.stamp) {
                edits.push(&self.pack, place, NewCell::Packed(theirs));
            }
        }
        self.pack.edit(&edits);
        if self.cells().stamps().any(|stamp| Some(stamp) < del) {
            self.pack.retain(|cell| Some(cell.stamp) >= del);
        }
    }

    /// The one byte form of this state, for digests and stores.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(96 + self.pack.bytes());
        self.pack.marks().encode(&mut writer);
        writer.varint(self.cells().len() as u64);
        self.cells().packed().for_each(|cell| cell.encode(&mut writer));
        writer.into_bytes()
    }

    /// Reads what [`RowState::encode`] wrote. A state that is not in normal form, or whose fields do not
    /// ascend, is an error: it would differ for ever from the same writes merged elsewhere.
    pub fn decode(bytes: &[u8]) -> Result<RowState, DecodeError> {
        let mut reader = Reader::new(bytes);
        let Marks { ins, del } = Marks::decode(&mut reader)?;
        // A row may gather more fields over time than one commit may write.
        let count = reader.count(ROW_FIELDS_MAX * 1024, 30, "fields of a row")?;
        let mut row = RowBuilder::new(ins, del, &Numbering::default(), reader.remaining());
        for _ in 0..count {
            let (field, stamp) = (get_field(&mut reader)?, get_stamp(&mut reader)?);
            row.push(&field, &stamp, Encoded::read(&mut reader)?)?;
        }
        reader.finish()?;
        row.finish().ok_or(DecodeError::Invalid("a row with parts from before its delete"))
    }

    /// This row's share in the state digest: the sum of the digests of its parts, modulo 2^128. A part is its last
    /// create, its last delete, or a field; its digest is SipHash-1-3 with 128 bits, as an integer. Shares are
    /// added modulo 2^128 too, so that the digest of everything follows each write in constant time.
    ///
    /// It is to find faults, of disks and of code. Against forgers a sum would be no use, whatever is summed up: what was
    /// written is told by the hashes of commits, which are signed.
    pub fn digest(&self, table: &TableName, row: &RowKey) -> u128 {
        let mut scratch = Writer::new();
        let mut change = DigestChange::new(table, row, &mut scratch);
        change.marked(Marks::default(), self.pack.marks());
        self.cells().packed().for_each(|cell| change.add(|writer| put_cell(writer, &NewCell::Packed(cell))));
        change.sum().unwrap_or(0)
    }
}

/// The key of the hash of a part. It is no secret.
const PART_KEY: &[u8; 16] = b"ahenk row part 3";
const INS: u8 = 0;
const DEL: u8 = 1;
const CELL: u8 = 2;

/// Hears what of a row changes. `()` does not listen.
pub(crate) trait Changes {
    /// The marks are others.
    fn marked(&mut self, before: Marks, after: Marks);
    /// A cell went, or is replaced.
    fn removed(&mut self, cell: PackedCell<'_>);
    /// A cell came.
    fn written(&mut self, field: &FieldName, stamp: Stamp, value: &Value);
}

impl Changes for () {
    fn marked(&mut self, _: Marks, _: Marks) {}
    fn removed(&mut self, _: PackedCell<'_>) {}
    fn written(&mut self, _: &FieldName, _: Stamp, _: &Value) {}
}

/// By how much a row's digest changes. What does not change costs nothing.
pub(crate) struct DigestChange<'a> {
    table: &'a TableName,
    row: &'a RowKey,
    sum: u128,
    scratch: &'a mut Writer,
    /// The length of what all parts of the row begin with, once that is in `scratch`.
    start: Option<usize>,
}

impl<'a> DigestChange<'a> {
    /// What was in `scratch` is lost.
    pub(crate) fn new(table: &'a TableName, row: &'a RowKey, scratch: &'a mut Writer) -> DigestChange<'a> {
        DigestChange { table, row, sum: 0, scratch, start: None }
    }

    /// The change, modulo 2^128; `None` if nothing has changed.
    pub(crate) fn sum(&self) -> Option<u128> {
        self.start.is_some().then_some(self.sum)
    }

    fn hash(&mut self, put: impl FnOnce(&mut Writer)) -> u128 {
        match self.start {
            Some(start) => self.scratch.truncate(start),
            None => {
                self.scratch.clear();
                self.scratch.bytes(self.table.as_str().as_bytes());
                self.scratch.bytes(self.row.as_str().as_bytes());
                self.start = Some(self.scratch.len());
            }
        }
        put(self.scratch);
        siphash::hash(PART_KEY, self.scratch.as_bytes())
    }

    fn add(&mut self, put: impl FnOnce(&mut Writer)) {
        self.sum = self.sum.wrapping_add(self.hash(put));
    }

    fn remove(&mut self, put: impl FnOnce(&mut Writer)) {
        self.sum = self.sum.wrapping_sub(self.hash(put));
    }
}

impl Changes for DigestChange<'_> {
    fn marked(&mut self, before: Marks, after: Marks) {
        for (kind, old, new) in [(INS, before.ins, after.ins), (DEL, before.del, after.del)] {
            if old != new {
                old.iter().for_each(|stamp| self.remove(|writer| put_mark(writer, kind, stamp)));
                new.iter().for_each(|stamp| self.add(|writer| put_mark(writer, kind, stamp)));
            }
        }
    }

    fn removed(&mut self, cell: PackedCell<'_>) {
        self.remove(|writer| put_cell(writer, &NewCell::Packed(cell)));
    }

    fn written(&mut self, field: &FieldName, stamp: Stamp, value: &Value) {
        self.add(|writer| put_cell(writer, &NewCell::Written(field, stamp, value)));
    }
}

fn put_mark(writer: &mut Writer, kind: u8, stamp: &Stamp) {
    writer.u8(kind);
    put_stamp(writer, stamp);
}

fn put_cell(writer: &mut Writer, cell: &NewCell<'_>) {
    writer.u8(CELL);
    cell.encode(writer);
}

/// Whether a write that is here comes after a new one in the total order.
fn later(here: Stamp, new: Stamp) -> bool {
    planted::keeps(here, new).unwrap_or(here > new)
}
