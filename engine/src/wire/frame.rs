//! Frames: one message each, self-contained, with a version, a checksum, an optional DEFLATE layer and caps.
//!
//! ```text
//! u8   major version of the protocol
//! u8   flags: bit 0 deflated; others are 0
//! u32  CRC-32 (IEEE, little-endian) of all that follows, of the version and of the flags
//! u32  session number of the sender (big-endian); 0 in gossip
//! [varint length of the payload before DEFLATE, if deflated]
//! payload: u8 kind of message, then its body (see `message`)
//! ```
//! The first six bytes mean the same in every major version, so that a device of another one can be told apart
//! from noise. Invariants: every cap is checked before allocation; a frame that was cut short or has any flipped
//! bit is refused; nothing here panics on input.

use std::borrow::Cow;

use crate::codec::{DecodeError, Reader, Writer};
use crate::config::{DEFLATE_BYTES_MIN, FRAME_BYTES_MAX, INFLATED_BYTES_MAX};

use super::columns::Places;
use super::deflate::{Deflated, deflate, deflate_front, inflate_parts};

/// Major version of the protocol. Devices with different ones cannot talk, and say so.
pub const MAJOR: u8 = 4;
const DEFLATED: u8 = 1;
const HEADER_BYTES: usize = 10;

/// Why a frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer speaks another major version.
    #[error("the peer speaks protocol version {theirs}, this device {MAJOR}")]
    Version {
        /// The peer's version.
        theirs: u8,
    },
    /// Longer than the cap, as it is or inflated.
    #[error("the frame is longer than allowed")]
    TooLarge,
    /// Cut short, or the checksum does not match.
    #[error("the frame is damaged")]
    Damaged,
    /// The DEFLATE stream is bad or does not have the stated length.
    #[error("the frame does not inflate to its stated length")]
    Inflate,
    /// The content makes no sense.
    #[error("the frame is malformed: {0}")]
    Malformed(#[from] DecodeError),
}

/// Packs a payload. `None` if it does not fit a frame, which callers prevent by their own budgets.
pub fn pack(session: u32, payload: &[u8]) -> Option<Vec<u8>> {
    let mut frame = begin(payload.len());
    frame.extend_from_slice(payload);
    finish(session, frame, &Places::default())
}

/// A frame in the making, to which its payload is to be appended, of about so many bytes.
pub(super) fn begin(payload_bytes: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload_bytes);
    frame.extend_from_slice(&[0; HEADER_BYTES]);
    frame
}

/// Bytes of the payload of a frame in the making.
pub(super) fn payload_bytes(frame: &[u8]) -> usize {
    frame.len() - HEADER_BYTES
}

/// Ends a frame that was begun. Columns in it are deflated by themselves, if that pays. At the cuts, behind which the bytes
/// are of another kind, a DEFLATE block ends, so that each kind has codes of its own. All places are those in the frame.
pub(super) fn finish(session: u32, mut frame: Vec<u8>, places: &Places) -> Option<Vec<u8>> {
    let payload = frame.get(HEADER_BYTES..).filter(|payload| payload.len() <= INFLATED_BYTES_MAX)?;
    let length = payload.len();
    let deflated = deflate_payload(&frame, places);
    if let Some([front, columns]) = &deflated {
        frame.truncate(HEADER_BYTES);
        frame = append_deflated(frame, length, front, columns);
    }
    seal(session, frame, deflated.is_some())
}

/// Ends a frame that was begun, whose payload goes on with columns that are deflated already.
pub(super) fn finish_with(session: u32, mut frame: Vec<u8>, columns: &Deflated) -> Option<Vec<u8>> {
    let front = frame.split_off(HEADER_BYTES);
    let length = front.len() + columns.length;
    if length > INFLATED_BYTES_MAX {
        return None;
    }
    let front = deflate_front(&front, columns.bytes.len());
    seal(session, append_deflated(frame, length, &front, &columns.bytes), true)
}

/// The payload of a frame in the making in two parts, each of which is deflated, the second by itself; `None` if that does
/// not pay.
fn deflate_payload(frame: &[u8], places: &Places) -> Option<[Vec<u8>; 2]> {
    let cuts = |from: usize| places.cuts.iter().map(|cut| cut - from).collect::<Vec<_>>();
    if let Some(at) = places.columns
        && let Some(columns) = frame.get(at..).filter(|columns| columns.len() >= DEFLATE_BYTES_MIN)
        && let Some(columns) = deflate(columns, &cuts(at))
    {
        return Some([deflate_front(frame.get(HEADER_BYTES..at)?, columns.len()), columns]);
    }
    let payload = frame.get(HEADER_BYTES..).filter(|payload| payload.len() >= DEFLATE_BYTES_MIN)?;
    Some([deflate(payload, &cuts(HEADER_BYTES))?, Vec::new()])
}

fn append_deflated(frame: Vec<u8>, length: usize, front: &[u8], columns: &[u8]) -> Vec<u8> {
    let mut writer = Writer::over(frame);
    writer.varint(length as u64);
    writer.raw(front);
    writer.raw(columns);
    writer.into_bytes()
}

/// Writes what stands in front of the payload.
fn seal(session: u32, mut frame: Vec<u8>, deflated: bool) -> Option<Vec<u8>> {
    let start = [MAJOR, if deflated { DEFLATED } else { 0 }];
    frame[..2].copy_from_slice(&start);
    frame[6..HEADER_BYTES].copy_from_slice(&session.to_be_bytes());
    let sum = checksum(start, &frame[6..]);
    frame[2..6].copy_from_slice(&sum.to_le_bytes());
    (frame.len() <= FRAME_BYTES_MAX).then_some(frame)
}

/// What a frame holds.
#[derive(Debug)]
pub(super) struct Opened<'a> {
    pub(super) session: u32,
    /// One that was not deflated stays where it is.
    pub(super) payload: Cow<'a, [u8]>,
    /// Where in the payload what was deflated by itself begins, and what it was deflated to.
    pub(super) parted: Option<(usize, &'a [u8])>,
}

/// Unpacks a frame into the sender's session number and the payload.
pub fn unpack(frame: &[u8]) -> Result<(u32, Vec<u8>), FrameError> {
    open(frame).map(|opened| (opened.session, opened.payload.into_owned()))
}

/// Unpacks a frame.
pub(super) fn open(frame: &[u8]) -> Result<Opened<'_>, FrameError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge);
    }
    if frame.len() <= HEADER_BYTES {
        return Err(FrameError::Damaged);
    }
    let mut reader = Reader::new(frame);
    let start: [u8; 2] = reader.array()?;
    let stated = u32::from_le_bytes(reader.array()?);
    let body = reader.raw(reader.remaining())?;
    // The checksum comes first: bits that flip on the way must not look like another version.
    if checksum(start, body) != stated {
        return Err(FrameError::Damaged);
    }
    if start[0] != MAJOR {
        return Err(FrameError::Version { theirs: start[0] });
    }
    let mut reader = Reader::new(body);
    let session = u32::from_be_bytes(reader.array()?);
    let (payload, parted) = match start[1] {
        0 => (Cow::Borrowed(reader.raw(reader.remaining())?), None),
        DEFLATED => {
            let length = reader.varint()?;
            let length = usize::try_from(length).ok().filter(|len| *len <= INFLATED_BYTES_MAX);
            let length = length.ok_or(FrameError::TooLarge)?;
            let inflated = inflate_parts(reader.raw(reader.remaining())?, length);
            let (payload, parted) = inflated.ok_or(FrameError::Inflate)?;
            (Cow::Owned(payload), parted)
        }
        flags => return Err(DecodeError::UnknownTag(flags).into()),
    };
    Ok(Opened { session, payload, parted })
}

fn checksum(start: [u8; 2], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&start);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_payload_comes_back(
            session: u32,
            payload in prop_oneof![
                proptest::collection::vec(0u8..4, 1..5000),
                proptest::collection::vec(any::<u8>(), 1..5000),
            ],
            cuts in proptest::collection::btree_set(0usize..5000, 0..5),
        ) {
            let cuts: Vec<usize> = cuts.into_iter().map(|cut| HEADER_BYTES + cut).collect();
            let frame = [begin(0), payload.clone()].concat();
            prop_assert_eq!(unpack(&finish(session, frame, &Places { columns: None, cuts }).unwrap()), Ok((session, payload)));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }

    #[test]
    fn every_truncation_and_every_bit_flip_is_refused() {
        for payload in [vec![7; 40], (0..3000).map(|n| (n % 7) as u8).collect::<Vec<_>>()] {
            let frame = pack(9, &payload).unwrap();
            for end in 0..frame.len() {
                assert!(unpack(&frame[..end]).is_err());
            }
            for bit in 0..frame.len() * 8 {
                let mut flipped = frame.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(unpack(&flipped).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_decompression_bomb_is_refused_without_inflating_it() {
        let zeros = vec![0; 8 * INFLATED_BYTES_MAX];
        let bomb = deflate(&zeros, &[]).unwrap();
        assert!(bomb.len() < FRAME_BYTES_MAX);
        for stated in [10, INFLATED_BYTES_MAX as u64, 8 * INFLATED_BYTES_MAX as u64] {
            let mut writer = Writer::new();
            writer.raw(&1u32.to_be_bytes());
            writer.varint(stated);
            writer.raw(&bomb);
            let body = writer.into_bytes();
            let mut frame = vec![MAJOR, DEFLATED];
            frame.extend_from_slice(&checksum([MAJOR, DEFLATED], &body).to_le_bytes());
            frame.extend_from_slice(&body);
            let refused = unpack(&frame).unwrap_err();
            assert!(matches!(refused, FrameError::TooLarge | FrameError::Inflate), "{refused:?}");
        }
    }

    #[test]
    fn an_oversize_frame_is_refused() {
        assert_eq!(unpack(&vec![MAJOR; FRAME_BYTES_MAX + 1]), Err(FrameError::TooLarge));
        assert_eq!(pack(1, &vec![0; INFLATED_BYTES_MAX + 1]), None);
    }

    #[test]
    fn another_major_version_is_named() {
        let mut frame = pack(1, b"hello").unwrap();
        frame[0] = 9;
        let sum = checksum([9, 0], &frame[6..]);
        frame[2..6].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(unpack(&frame), Err(FrameError::Version { theirs: 9 }));
    }
}
