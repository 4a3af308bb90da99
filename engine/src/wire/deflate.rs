//! DEFLATE, for what travels and for what a store keeps: columns, of which each long one has a block of its own.
//!
//! Invariant: no more is inflated than the caller allows, and one byte.

use miniz_oxide::deflate::core::{CompressionStrategy, CompressorOxide};
use miniz_oxide::deflate::stream;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};

/// How hard DEFLATE looks for repetitions, of 10.
const DEFLATE_LEVEL: u8 = 1;

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
    let (status, read, written) = decompress(
        &mut DecompressorOxide::new(),
        bytes,
        &mut payload,
        0,
        TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
    );
    payload.truncate(written);
    (status == TINFLStatus::Done && read == bytes.len() && written == length).then_some(payload)
}
