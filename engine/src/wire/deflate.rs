//! DEFLATE, for what travels and for what a store keeps: a *front*, and then columns, of which each long one has a block of
//! its own.
//!
//! Columns are deflated by themselves, and what stands in front of them is put before that as blocks that end with a byte. So
//! columns that are there already, in a log or in a frame, go on as they are, behind another front; both together are one
//! DEFLATE stream like any other.
//!
//! Invariants: no more is inflated than the caller allows, and one byte; columns refer to nothing in front of them.

use miniz_oxide::deflate::core::{CompressionStrategy, CompressorOxide};
use miniz_oxide::deflate::stream;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};

/// How hard DEFLATE looks for repetitions, of 10.
const DEFLATE_LEVEL: u8 = 1;
/// A front of no more than this part of the columns' bytes is stored as it is: hashes and signatures are most of it.
const STORED_FRONT_PART: usize = 12;
/// A front of fewer bytes is stored in any case: a compressor has a third of a megabyte to be cleared.
const DEFLATED_FRONT_BYTES_MIN: usize = 512;
/// Most bytes of a block that is stored as it is, and what stands before them.
const STORED_BYTES_MAX: usize = 0xffff;
const STORED_HEAD_BYTES: usize = 5;

/// Columns that were deflated by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deflated {
    /// A whole DEFLATE stream.
    pub bytes: Vec<u8>,
    /// What it inflates to, in bytes.
    pub length: usize,
}

/// What inflated, and where in it what inflates by itself begins, with the bytes of that.
pub type Parted<'a> = (Vec<u8>, Option<(usize, &'a [u8])>);

/// Deflates, and gives the result only if it saves a tenth. `cuts` are ascending places in the payload behind which the
/// bytes are of another kind: a block ends there, so that each kind has codes of its own. Short matches are left out: among
/// keys and numbers they are chance, and cost more than they save.
pub fn deflate(payload: &[u8], cuts: &[usize]) -> Option<Vec<u8>> {
    let strategy = CompressionStrategy::Filtered;
    let mut compressor = CompressorOxide::with_params(DataFormat::Raw, DEFLATE_LEVEL, strategy, 15);
    let (mut bytes, mut written, mut from) = (vec![0; payload.len() / 10 * 9], 0, 0);
    for to in cuts.iter().copied().filter(|cut| *cut < payload.len()).chain([payload.len()]) {
        let flush = if to == payload.len() { MZFlush::Finish } else { MZFlush::Sync };
        let result = stream::deflate(&mut compressor, payload.get(from..to)?, &mut bytes[written..], flush);
        written += result.bytes_written;
        let ended = result.status == Ok(MZStatus::StreamEnd);
        // Room that is used up, with more to come, is a tenth that cannot be saved.
        if result.bytes_consumed < to - from
            || ended != (to == payload.len())
            || (!ended && written == bytes.len())
        {
            return None;
        }
        from = to;
    }
    bytes.truncate(written);
    Some(bytes)
}

/// Inflates to exactly so many bytes; `None` if that is not what comes out, or if the stream ends before its bytes do. The
/// caller has checked that they are not too many.
pub fn inflate(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    // One byte more than stated shows a stream that goes on.
    let mut payload = vec![0; length.checked_add(1)?];
    let written = inflate_into(bytes, &mut payload, TINFLStatus::Done)?;
    payload.truncate(written);
    (written == length).then_some(payload)
}

/// Gives the number of bytes written, if all were read and it ended as it should. Nothing refers to what is before the first
/// byte of the output: no window is before it.
fn inflate_into(bytes: &[u8], output: &mut [u8], ended: TINFLStatus) -> Option<usize> {
    let goes_on = if ended == TINFLStatus::Done { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | goes_on;
    let (status, read, written) = decompress(&mut DecompressorOxide::new(), bytes, output, 0, flags);
    (status == ended && read == bytes.len()).then_some(written)
}

/// Deflates what stands in front of columns: blocks of which none is the last one, up to the end of a byte. Where it is little
/// beside so many bytes of deflated columns it is stored, so that a receiver finds where they begin ([`inflate_parts`]).
pub fn deflate_front(front: &[u8], columns_bytes: usize) -> Vec<u8> {
    if front.len() <= columns_bytes / STORED_FRONT_PART { stored(front) } else { shortest(front) }
}

fn shortest(front: &[u8]) -> Vec<u8> {
    if front.len() < DEFLATED_FRONT_BYTES_MIN {
        return stored(front);
    }
    let mut compressor =
        CompressorOxide::with_params(DataFormat::Raw, DEFLATE_LEVEL, CompressionStrategy::Filtered, 15);
    let mut bytes = vec![0; front.len() + STORED_HEAD_BYTES];
    let result = stream::deflate(&mut compressor, front, &mut bytes, MZFlush::Sync);
    // With room left all of it is there, the end of the last block included.
    if result.status.is_ok() && result.bytes_consumed == front.len() && result.bytes_written < bytes.len() {
        bytes.truncate(result.bytes_written);
        return bytes;
    }
    stored(front)
}

/// A whole stream that inflates to these bytes, and is no shorter.
pub fn stored_whole(bytes: &[u8]) -> Vec<u8> {
    let mut whole = stored(bytes);
    // The last block, which is empty.
    whole.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    whole
}

fn stored(front: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(front.len() + STORED_HEAD_BYTES);
    for block in front.chunks(STORED_BYTES_MAX) {
        let length = (block.len() as u16).to_le_bytes();
        bytes.push(0);
        bytes.extend_from_slice(&length);
        bytes.extend_from_slice(&length.map(|byte| !byte));
        bytes.extend_from_slice(block);
    }
    bytes
}

/// Inflates to exactly so many bytes, as [`inflate`] does. Where the stream begins with blocks that are stored, and what
/// follows inflates by itself, the place in what comes out at which it begins is given too, and what it was deflated to.
pub fn inflate_parts(bytes: &[u8], length: usize) -> Option<Parted<'_>> {
    let (mut payload, mut rest) = (Vec::with_capacity(length.checked_add(1)?), bytes);
    while let [0, a, b, not_a, not_b, after @ ..] = rest {
        let block = usize::from(u16::from_le_bytes([*a, *b]));
        if (*not_a, *not_b) != (!a, !b) || after.len() < block || payload.len() + block > length {
            break;
        }
        payload.extend_from_slice(&after[..block]);
        rest = &after[block..];
    }
    let front = payload.len();
    if front > 0 {
        payload.resize(length + 1, 0);
        if inflate_into(rest, &mut payload[front..], TINFLStatus::Done) == Some(length - front) {
            payload.truncate(length);
            return Some((payload, Some((front, rest))));
        }
    }
    // Whoever did not mean to part it may refer to what is in front, or have stored some block without a reason.
    inflate(bytes, length).map(|payload| (payload, None))
}

/// Inflates a front to exactly so many bytes. The stream goes on where these bytes end.
pub fn inflate_front(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut front = vec![0; length.checked_add(1)?];
    let written = inflate_into(bytes, &mut front, TINFLStatus::NeedsMoreInput)?;
    front.truncate(written);
    (written == length).then_some(front)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn columns_go_on_as_they_are_behind_any_front(
            front in proptest::collection::vec(0u8..9, 0..3000),
            long in 0usize..2,
            columns in proptest::collection::vec(0u8..4, 400..3000),
        ) {
            // Longer than a block that is stored may be.
            let front = [front, vec![7; long * 70_000]].concat();
            let deflated = deflate(&columns, &[]).expect("two bits a byte");
            let whole = [&front[..], &columns].concat();
            for (parted, front_bytes) in [(true, stored(&front)), (false, shortest(&front))] {
                prop_assert_eq!(inflate_front(&front_bytes, front.len()), Some(front.clone()));
                if !front.is_empty() {
                    prop_assert_eq!(inflate_front(&front_bytes, front.len() - 1), None);
                }
                let bytes = [&front_bytes[..], &deflated].concat();
                prop_assert_eq!(inflate(&bytes, whole.len()), Some(whole.clone()));
                let mut by_flate2 = Vec::new();
                flate2::read::DeflateDecoder::new(&bytes[..]).read_to_end(&mut by_flate2).expect("a stream");
                prop_assert_eq!(by_flate2, whole.clone());
                let (payload, columns) = inflate_parts(&bytes, whole.len()).expect("it inflates");
                prop_assert_eq!(payload, whole.clone());
                if parted && !front.is_empty() {
                    prop_assert_eq!(columns, Some((front.len(), &deflated[..])));
                }
                prop_assert_eq!(inflate_parts(&bytes, whole.len() - 1), None);
                prop_assert_eq!(inflate_parts(&bytes, whole.len() + 1), None);
            }
        }

        #[test]
        fn whatever_is_found_parted_inflates_by_itself(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for length in 0..64 {
                let parts = inflate_parts(&bytes, length);
                prop_assert_eq!(parts.is_some(), inflate(&bytes, length).is_some());
                if let Some((payload, Some((front, columns)))) = parts {
                    prop_assert_eq!(inflate(columns, length - front), Some(payload[front..].to_vec()));
                }
            }
        }
    }

    #[test]
    fn columns_that_refer_to_what_is_in_front_are_not_taken_for_parted() {
        let text = b"what is said twice is said twice, what is said twice";
        let mut rest = CompressorOxide::with_params(DataFormat::Raw, 9, CompressionStrategy::Default, 15);
        let mut both = vec![0; 4096];
        let skipped = stream::deflate(&mut rest, text, &mut both, MZFlush::Sync).bytes_written;
        let ended = stream::deflate(&mut rest, text, &mut both[skipped..], MZFlush::Finish).bytes_written;
        let bytes = [&stored(text)[..], &both[skipped..skipped + ended]].concat();
        let (payload, parted) = inflate_parts(&bytes, 2 * text.len()).expect("one stream");
        assert_eq!((payload, parted), (text.repeat(2), None));
    }
}
