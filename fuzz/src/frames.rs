//! Frames with a right checksum around anything.

use engine::wire::frame::MAJOR;

/// The session number of the peer that the fuzzer plays.
pub(crate) const SESSION: u32 = 77;

/// CRC-32 (IEEE), bit by bit: the engine's own is private, and a second one checks it.
fn crc(parts: [&[u8]; 2]) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// A frame of this body, which begins with the session number.
pub(crate) fn sealed(flags: u8, body: &[u8]) -> Vec<u8> {
    let start = [MAJOR, flags];
    [&start[..], &crc([&start, body]).to_le_bytes(), body].concat()
}

/// A frame of this payload, not deflated.
pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    sealed(0, &[&SESSION.to_be_bytes(), payload].concat())
}
