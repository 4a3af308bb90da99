//! The cells of rows as they lie in memory: a field's name behind a byte with its length, its stamp, its value. The marks of a
//! row (last create and last delete) lie in a cell whose name is empty. A stamp names its replica by number ([`Numbering`])
//! if it has one. This form never leaves memory: what is hashed and stored names replicas in full
//! ([`PackedCell::encode`]).
//!
//! Invariant: what is written here is read here, with the same numbers, to its last byte.

use crate::codec::{DecodeError, Put, Reader, Room};
use crate::commit::{Stamp, get_replica, put_replica};
use crate::config::FIELD_BYTES_MAX;
use crate::hlc::Hlc;
use crate::identity::Dot;
use crate::name::FieldName;
use crate::numbering::{NUMBERED_MAX, Numbering};
use crate::value::{Encoded, Value};

// The length of a name is a byte.
const _: () = assert!(FIELD_BYTES_MAX <= u8::MAX as usize);
/// In place of a replica's number: its name follows.
const WRITTEN_OUT: u8 = NUMBERED_MAX as u8;
/// The length of a stamp whose replica has a number: that, the clock, and the sequence number.
pub(crate) const NUMBERED_BYTES: usize = 1 + 8 + SEQ_BYTES;
/// What a sequence number takes beside a replica's number. Those that do not fit are written out.
const SEQ_BYTES: usize = 5;
/// The length of a stamp that is written out.
pub(crate) const WRITTEN_OUT_BYTES: usize = 1 + 8 + 8 + 24;
/// The name of the cell that holds the marks.
const MARKS: &[u8] = b"";
/// Bits of the marks that there are.
pub(crate) const INS: u8 = 1;
pub(crate) const DEL: u8 = 2;

/// A field's value and the write it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The write.
    pub stamp: Stamp,
    /// What it wrote.
    pub value: Value,
}

/// A field with its cell, as it lies in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedCell<'a> {
    /// The write.
    pub stamp: Stamp,
    /// What it wrote.
    pub value: Encoded<'a>,
    name: &'a [u8],
}

impl<'a> PackedCell<'a> {
    pub(crate) fn new(name: &'a [u8], stamp: Stamp, value: Encoded<'a>) -> PackedCell<'a> {
        PackedCell { stamp, value, name }
    }

    pub(crate) fn read(whole: &'a [u8], numbering: &Numbering) -> Option<PackedCell<'a>> {
        let (len, rest) = whole.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*len))?;
        let (stamp, value) = unpack_stamp(rest, numbering)?;
        Some(PackedCell { stamp, value: Encoded::rest(Reader::new(value)), name })
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

    /// The cell by itself.
    pub fn to_cell(&self) -> Cell {
        Cell { stamp: self.stamp, value: self.value.to_value() }
    }

    /// In canonical form.
    pub(crate) fn encode(&self, writer: &mut impl Put) {
        NewCell::Packed(*self).encode(writer);
    }
}

/// The last create of a row that is not deleted, and its last delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks {
    pub(crate) ins: Option<Stamp>,
    pub(crate) del: Option<Stamp>,
}

impl Marks {
    /// Which there are, as bits.
    fn which(&self) -> u8 {
        let bit = |mark: &Option<Stamp>, bit| if mark.is_some() { bit } else { 0 };
        bit(&self.ins, INS) | bit(&self.del, DEL)
    }

    /// Reads the marks off the front of the cells of a row.
    pub(crate) fn read(cells: &[u8], numbering: &Numbering) -> Marks {
        let [0, which, stamps @ ..] = cells else { return Marks::default() };
        let mut rest = stamps;
        let mut next = |bit| {
            let (stamp, behind) = if which & bit == 0 { None } else { unpack_stamp(rest, numbering) }?;
            rest = behind;
            Some(stamp)
        };
        Marks { ins: next(INS), del: next(DEL) }
    }

    fn each(&self, mut with: impl FnMut(&Stamp)) {
        self.ins.iter().for_each(&mut with);
        self.del.iter().for_each(with);
    }

    /// In canonical form.
    pub(crate) fn encode(&self, writer: &mut impl Put) {
        writer.u8(self.which());
        self.each(|stamp| put_stamp(writer, stamp));
    }

    /// Reads what [`Marks::encode`] wrote.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Marks, DecodeError> {
        let which = reader.u8()?;
        if which > INS | DEL {
            return Err(DecodeError::UnknownTag(which));
        }
        let mut next = |bit| (which & bit != 0).then(|| get_stamp(reader)).transpose();
        Ok(Marks { ins: next(INS)?, del: next(DEL)? })
    }
}

/// A cell that is to be in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NewCell<'a> {
    Marks(Marks),
    Written(&'a FieldName, Stamp, &'a Value),
    Packed(PackedCell<'a>),
}

impl NewCell<'_> {
    pub(crate) fn len(&self, numbering: &Numbering) -> usize {
        let of = |stamp: &Stamp| {
            if short(stamp, numbering).is_some() { NUMBERED_BYTES } else { WRITTEN_OUT_BYTES }
        };
        match self {
            NewCell::Marks(marks) => {
                let mut len = 2;
                marks.each(|stamp| len += of(stamp));
                len
            }
            NewCell::Written(field, stamp, value) => {
                1 + field.as_str().len() + of(stamp) + value.encoded_len()
            }
            NewCell::Packed(cell) => 1 + cell.name.len() + of(&cell.stamp) + cell.value.bytes().len(),
        }
    }

    /// In canonical form, which marks have elsewhere ([`Marks::encode`]).
    pub(crate) fn encode(&self, writer: &mut impl Put) {
        self.write(writer, |writer, name| writer.bytes(name), put_stamp);
    }

    /// As it lies in a row.
    pub(crate) fn put(&self, room: &mut impl Put, numbering: &Numbering) {
        self.write(room, put_name, |room, stamp| pack_stamp(room, stamp, numbering));
    }

    fn write<P: Put>(&self, to: &mut P, name: impl FnOnce(&mut P, &[u8]), stamp: impl Fn(&mut P, &Stamp)) {
        match self {
            NewCell::Marks(marks) => {
                name(to, MARKS);
                to.u8(marks.which());
                marks.each(|mark| stamp(to, mark));
            }
            NewCell::Written(field, written, value) => {
                name(to, field.as_str().as_bytes());
                stamp(to, written);
                value.encode(to);
            }
            NewCell::Packed(cell) => {
                name(to, cell.name);
                stamp(to, &cell.stamp);
                to.raw(cell.value.bytes());
            }
        }
    }
}

/// The marks that the cells of a row begin with, as bits.
pub(crate) fn marks_of(cells: &[u8]) -> u8 {
    match cells {
        [0, which, ..] => *which,
        _ => 0,
    }
}

/// The name of a packed cell.
pub(crate) fn name_of(cell: &[u8]) -> &[u8] {
    let named = cell.split_first().and_then(|(len, rest)| rest.get(..usize::from(*len)));
    named.unwrap_or_default()
}

fn put_name(room: &mut impl Put, name: &[u8]) {
    room.u8(name.len() as u8);
    room.raw(name);
}

/// The number of a stamp's replica, if the stamp can be told with it.
fn short(stamp: &Stamp, numbering: &Numbering) -> Option<u8> {
    numbering.number(&stamp.dot.replica).filter(|_| stamp.dot.seq >> (8 * SEQ_BYTES) == 0)
}

fn pack_stamp(room: &mut impl Put, stamp: &Stamp, numbering: &Numbering) {
    let seq = stamp.dot.seq.to_le_bytes();
    let mut packed = [WRITTEN_OUT; NUMBERED_BYTES];
    packed[1..9].copy_from_slice(&stamp.hlc.0.to_le_bytes());
    match short(stamp, numbering) {
        Some(number) => {
            packed[0] = number;
            packed[9..].copy_from_slice(&seq[..SEQ_BYTES]);
            room.raw(&packed);
        }
        None => {
            room.raw(&packed[..9]);
            room.raw(&seq);
            put_replica(room, &stamp.dot.replica);
        }
    }
}

/// Takes a packed stamp off the front of some bytes.
fn unpack_stamp<'a>(bytes: &'a [u8], numbering: &Numbering) -> Option<(Stamp, &'a [u8])> {
    let (number, rest) = bytes.split_first()?;
    let (hlc, rest) = rest.split_first_chunk()?;
    let hlc = Hlc(u64::from_le_bytes(*hlc));
    if *number == WRITTEN_OUT {
        let (seq, rest) = rest.split_first_chunk()?;
        let mut reader = Reader::new(rest);
        let dot = Dot { replica: get_replica(&mut reader).ok()?, seq: u64::from_le_bytes(*seq) };
        return Some((Stamp { hlc, dot }, reader.rest()));
    }
    let (low, rest) = rest.split_first_chunk::<SEQ_BYTES>()?;
    let mut seq = [0; 8];
    seq[..SEQ_BYTES].copy_from_slice(low);
    let dot = Dot { replica: *numbering.replica(*number)?, seq: u64::from_le_bytes(seq) };
    Some((Stamp { hlc, dot }, rest))
}

/// A stamp in canonical form.
pub(crate) fn put_stamp(writer: &mut impl Put, stamp: &Stamp) {
    let mut fixed = [0; 8 + 24];
    fixed[..8].copy_from_slice(&stamp.hlc.0.to_be_bytes());
    put_replica(&mut Room::new(&mut fixed[8..]), &stamp.dot.replica);
    writer.raw(&fixed);
    writer.varint(stamp.dot.seq);
}

pub(crate) fn get_stamp(reader: &mut Reader<'_>) -> Result<Stamp, DecodeError> {
    let hlc = Hlc(u64::from_be_bytes(reader.array()?));
    let replica = get_replica(reader)?;
    Ok(Stamp { hlc, dot: Dot { replica, seq: reader.varint()? } })
}
