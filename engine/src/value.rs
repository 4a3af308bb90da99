//! What a field holds.
//!
//! Invariant: each value has one encoding, so equal values hash alike on all devices. Floats are
//! compared and kept by their bits: `-0.0` and `0.0` differ, a NaN equals itself.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Put, Reader, bytes_len, varint_len, zigzag};
use crate::config::{COMMIT_BYTES_MAX, VALUE_DEPTH_MAX};
use crate::cost::Budget;

/// A value of a field. A list or map is one register: it is written and merged as a whole.
#[derive(Debug, Clone)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A 64-bit signed integer.
    Int(i64),
    /// A 64-bit float (IEEE 754), kept by its bits.
    Float(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// An ordered list.
    List(Vec<Value>),
    /// A map with text keys.
    Map(BTreeMap<String, Value>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            (Value::Map(a), Value::Map(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

macro_rules! from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::$variant(value.into())
            }
        })*
    };
}
from!(bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float, &str => Text, String => Text,
      Vec<u8> => Bytes, Vec<Value> => List, BTreeMap<String, Value> => Map);

impl Value {
    /// True if lists and maps are nested no deeper than [`VALUE_DEPTH_MAX`].
    pub fn depth_ok(&self) -> bool {
        self.depth_within(VALUE_DEPTH_MAX)
    }

    /// The byte that begins this value's encoding.
    pub(crate) fn tag(&self) -> u8 {
        match self {
            Value::Null => 0,
            Value::Bool(false) => 1,
            Value::Bool(true) => 2,
            Value::Int(_) => 3,
            Value::Float(_) => 4,
            Value::Text(_) => 5,
            Value::Bytes(_) => 6,
            Value::List(_) => 7,
            Value::Map(_) => 8,
        }
    }

    fn depth_within(&self, left: usize) -> bool {
        match self {
            Value::List(items) => left > 0 && items.iter().all(|item| item.depth_within(left - 1)),
            Value::Map(entries) => left > 0 && entries.values().all(|value| value.depth_within(left - 1)),
            _ => true,
        }
    }

    /// Writes the one encoding of this value: a tag byte, then the content.
    pub fn encode(&self, writer: &mut impl Put) {
        writer.u8(self.tag());
        match self {
            Value::Null | Value::Bool(_) => {}
            Value::Int(value) => writer.zigzag(*value),
            Value::Float(value) => writer.raw(&value.to_bits().to_le_bytes()),
            Value::Text(text) => writer.bytes(text.as_bytes()),
            Value::Bytes(bytes) => writer.bytes(bytes),
            Value::List(items) => {
                writer.varint(items.len() as u64);
                items.iter().for_each(|item| item.encode(writer));
            }
            Value::Map(entries) => {
                writer.varint(entries.len() as u64);
                for (key, value) in entries {
                    writer.bytes(key.as_bytes());
                    value.encode(writer);
                }
            }
        }
    }

    /// Bytes that [`Value::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        1 + match self {
            Value::Null | Value::Bool(_) => 0,
            Value::Int(value) => varint_len(zigzag(*value)),
            Value::Float(_) => 8,
            Value::Text(text) => bytes_len(text.len()),
            Value::Bytes(bytes) => bytes_len(bytes.len()),
            Value::List(items) => {
                varint_len(items.len() as u64) + items.iter().map(Value::encoded_len).sum::<usize>()
            }
            Value::Map(entries) => {
                let each = entries.iter().map(|(key, value)| bytes_len(key.len()) + value.encoded_len());
                varint_len(entries.len() as u64) + each.sum::<usize>()
            }
        }
    }

    /// Reads a value of our own keeping; nesting and sizes are bounded.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Value, DecodeError> {
        Value::decode_within(reader, &mut Budget::of(usize::MAX))
    }

    /// Reads a value that somebody else made: what it has elsewhere than in its place is taken from the budget first.
    pub(crate) fn decode_within(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<Value, DecodeError> {
        Value::decode_nested(reader, budget, VALUE_DEPTH_MAX)
    }

    fn decode_nested(
        reader: &mut Reader<'_>,
        budget: &mut Budget,
        left: usize,
    ) -> Result<Value, DecodeError> {
        let nested = || left.checked_sub(1).ok_or(DecodeError::TooLarge("a value's nesting"));
        Ok(match reader.u8()? {
            0 => Value::Null,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => Value::Int(reader.zigzag()?),
            4 => Value::Float(f64::from_bits(u64::from_le_bytes(reader.array()?))),
            5 => {
                let text = reader.text(COMMIT_BYTES_MAX, "a text")?;
                budget.take(text.len())?;
                Value::Text(text.to_owned())
            }
            6 => {
                let bytes = reader.bytes(COMMIT_BYTES_MAX, "a byte string")?;
                budget.take(bytes.len())?;
                Value::Bytes(bytes.to_owned())
            }
            7 => {
                let left = nested()?;
                let count = reader.count(COMMIT_BYTES_MAX, 1, "a list")?;
                budget.take_list(count)?;
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(Value::decode_nested(reader, budget, left)?);
                }
                Value::List(items)
            }
            8 => {
                let left = nested()?;
                let count = reader.count(COMMIT_BYTES_MAX, 2, "a map")?;
                budget.take_map(count)?;
                let mut entries = BTreeMap::<String, Value>::new();
                for _ in 0..count {
                    let key = reader.text(COMMIT_BYTES_MAX, "a map key")?;
                    if entries.last_key_value().is_some_and(|(last, _)| last.as_str() >= key) {
                        return Err(DecodeError::Unordered("map keys"));
                    }
                    budget.take(key.len())?;
                    let key = key.to_owned();
                    entries.insert(key, Value::decode_nested(reader, budget, left)?);
                }
                Value::Map(entries)
            }
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}

/// A value in its encoding: bytes that are known to be just one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded<'a>(&'a [u8]);

impl<'a> Encoded<'a> {
    /// Reads over a value, which is refused as [`Value::decode`] would, but not made.
    pub fn read(reader: &mut Reader<'a>) -> Result<Encoded<'a>, DecodeError> {
        let mut value = reader.clone();
        skip(reader, VALUE_DEPTH_MAX)?;
        value.raw(value.remaining() - reader.remaining()).map(Encoded)
    }

    /// All that is left, which was written or read as a value before.
    pub(crate) fn rest(mut reader: Reader<'a>) -> Encoded<'a> {
        Encoded(reader.raw(reader.remaining()).unwrap_or_default())
    }

    /// The encoding.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The value.
    pub fn to_value(self) -> Value {
        let value = Value::decode(&mut Reader::new(self.0));
        debug_assert!(value.is_ok(), "{value:?}");
        value.unwrap_or(Value::Null)
    }
}

fn skip(reader: &mut Reader<'_>, left: usize) -> Result<(), DecodeError> {
    let nested = || left.checked_sub(1).ok_or(DecodeError::TooLarge("a value's nesting"));
    match reader.u8()? {
        0..=2 => {}
        3 => drop(reader.varint()?),
        4 => drop(reader.raw(8)?),
        5 => drop(reader.text(COMMIT_BYTES_MAX, "a text")?),
        6 => drop(reader.bytes(COMMIT_BYTES_MAX, "a byte string")?),
        7 => {
            let left = nested()?;
            for _ in 0..reader.count(COMMIT_BYTES_MAX, 1, "a list")? {
                skip(reader, left)?;
            }
        }
        8 => {
            let (left, mut last) = (nested()?, None);
            for _ in 0..reader.count(COMMIT_BYTES_MAX, 2, "a map")? {
                let key = reader.text(COMMIT_BYTES_MAX, "a map key")?;
                if last.replace(key).is_some_and(|last| last >= key) {
                    return Err(DecodeError::Unordered("map keys"));
                }
                skip(reader, left)?;
            }
        }
        tag => return Err(DecodeError::UnknownTag(tag)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Writer;
    use crate::testing::any_value;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_comes_back_and_no_truncation_reads(value in any_value()) {
            let mut writer = Writer::new();
            value.encode(&mut writer);
            let bytes = writer.into_bytes();
            prop_assert_eq!(bytes.len(), value.encoded_len());
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Value::decode(&mut reader), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
            for end in 0..bytes.len() {
                prop_assert!(Value::decode(&mut Reader::new(&bytes[..end])).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_over_is_what_would_be_read(value in any_value(), at: proptest::sample::Index, to: u8) {
            let mut writer = Writer::new();
            value.encode(&mut writer);
            let mut bytes = writer.into_bytes();
            prop_assert_eq!(Encoded::read(&mut Reader::new(&bytes)).map(Encoded::to_value), Ok(value));
            let at = at.index(bytes.len());
            bytes[at] = to;
            let (mut over, mut reader) = (Reader::new(&bytes), Reader::new(&bytes));
            let read = Encoded::read(&mut over).map(Encoded::to_value);
            prop_assert_eq!(read, Value::decode(&mut reader));
            prop_assert_eq!(over.remaining(), reader.remaining());
        }
    }

    #[test]
    fn a_bomb_of_nested_lists_is_refused_without_recursing() {
        let bomb = [7, 1].repeat(100_000);
        assert_eq!(Value::decode(&mut Reader::new(&bomb)), Err(DecodeError::TooLarge("a value's nesting")));
    }
}
