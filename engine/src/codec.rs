//! Bytes in and out: the primitives under every format that is hashed, signed or stored.
//!
//! Integers are unsigned LEB128 varints in their shortest form (a longer form is an error, so that
//! each value has one encoding), signed ones zigzag first, byte strings carry their length in front.
//! Invariant: a [`Reader`] never allocates more than the input can fill, and never panics.

use std::str;

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends in the middle of something.
    #[error("the input ends too early")]
    Truncated,
    /// Bytes are left over where the value should have ended.
    #[error("there are bytes after the end")]
    Trailing,
    /// An integer is not in its shortest form or does not fit.
    #[error("an integer is badly encoded")]
    BadInteger,
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    BadText,
    /// A tag has no meaning in this version.
    #[error("unknown tag {0}")]
    UnknownTag(u8),
    /// A limit is exceeded.
    #[error("{0} exceeds its limit")]
    TooLarge(&'static str),
    /// Entries that must ascend strictly do not.
    #[error("{0} are not in strictly ascending order")]
    Unordered(&'static str),
    /// A value that cannot be.
    #[error("{0} is not valid")]
    Invalid(&'static str),
}

/// What takes primitives: a [`Writer`], or a place that has the room for them.
pub trait Put {
    /// Bytes as they are.
    fn raw(&mut self, bytes: &[u8]);

    /// One byte.
    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    /// An unsigned varint.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    /// A signed varint, zigzag.
    fn zigzag(&mut self, value: i64) {
        self.varint(zigzag(value));
    }

    /// Bytes behind their length.
    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }
}

impl Put for Writer {
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }
}

/// Room for so many bytes, to be filled from the start. Whoever puts more in than it has has counted wrong.
pub(crate) struct Room<'a> {
    left: &'a mut [u8],
}

impl Room<'_> {
    pub(crate) fn new(bytes: &mut [u8]) -> Room<'_> {
        Room { left: bytes }
    }

    /// Bytes that are not filled yet.
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }
}

impl Put for Room<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        let Some((place, left)) = std::mem::take(&mut self.left).split_at_mut_checked(bytes.len()) else {
            return debug_assert!(false, "there is no room for {} bytes", bytes.len());
        };
        place.copy_from_slice(bytes);
        self.left = left;
    }
}

/// Appends primitives to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// An empty writer with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(bytes) }
    }

    /// A writer that appends to what is there.
    pub fn over(bytes: Vec<u8>) -> Writer {
        Writer { bytes }
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// What was written, still in the writer.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what was written, and keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Forgets all but the first `len` bytes, and keeps the room.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first write.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        Put::u8(self, value);
    }

    /// An unsigned varint.
    pub fn varint(&mut self, value: u64) {
        Put::varint(self, value);
    }

    /// A signed varint, zigzag.
    pub fn zigzag(&mut self, value: i64) {
        Put::zigzag(self, value);
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        Put::raw(self, bytes);
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        Put::bytes(self, bytes);
    }
}

/// The unsigned integer that stands for a signed one, near zero for those near zero.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Bytes that [`Writer::varint`] writes.
pub fn varint_len(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Bytes that [`Writer::bytes`] writes for so many bytes.
pub fn bytes_len(bytes: usize) -> usize {
    varint_len(bytes as u64) + bytes
}

/// Takes primitives from a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// How many bytes are not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Bytes not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends reading; bytes left over are an error.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// An unsigned varint.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return Err(DecodeError::BadInteger);
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(value) } else { Err(DecodeError::BadInteger) };
            }
        }
        Err(DecodeError::BadInteger)
    }

    /// A signed varint, zigzag.
    pub fn zigzag(&mut self) -> Result<i64, DecodeError> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A count of things that take at least `bytes_each_min` bytes of the remaining input each.
    pub fn count(
        &mut self,
        max: usize,
        bytes_each_min: usize,
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::TooLarge(what))?;
        if count > max {
            return Err(DecodeError::TooLarge(what));
        }
        if count.saturating_mul(bytes_each_min) > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    /// `len` bytes as they are.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// An array of bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// Bytes behind their length, at most `max`.
    pub fn bytes(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.count(max, 1, what)?;
        self.raw(len)
    }

    /// Text behind its length, at most `max` bytes.
    pub fn text(&mut self, max: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        str::from_utf8(self.bytes(max, what)?).map_err(|_| DecodeError::BadText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_come_back(value: u64, signed: i64) {
            let mut writer = Writer::new();
            writer.varint(value);
            writer.zigzag(signed);
            let bytes = writer.into_bytes();
            prop_assert_eq!(bytes.len(), varint_len(value) + varint_len(zigzag(signed)));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.zigzag(), Ok(signed));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn whatever_reads_as_an_integer_is_its_only_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint() {
                let mut writer = Writer::new();
                writer.varint(value);
                prop_assert_eq!(writer.into_bytes(), &bytes[..bytes.len() - reader.remaining()]);
            }
        }
    }

    #[test]
    fn a_count_larger_than_the_input_is_refused_before_allocation() {
        let mut writer = Writer::new();
        writer.varint(1 << 40);
        assert_eq!(
            Reader::new(&writer.into_bytes()).count(usize::MAX, 1, "things"),
            Err(DecodeError::Truncated)
        );
    }
}
