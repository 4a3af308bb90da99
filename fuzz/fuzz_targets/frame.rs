//! Any bytes as a frame, with and without a right checksum; as they are and as a DEFLATE stream.
#![no_main]

use engine::config::INFLATED_BYTES_MAX;
use engine::wire::frame::{MAJOR, pack, unpack};
use libfuzzer_sys::fuzz_target;

/// CRC-32 (IEEE), bit by bit: the engine's own is private, and a second one checks it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fuzz_target!(|data: &[u8]| {
    let _ = unpack(data);
    for flags in 0..2 {
        let start = [MAJOR, flags];
        let sum = crc(&[&start, data].concat());
        let frame = [&start[..], &sum.to_le_bytes(), data].concat();
        if let Ok((session, payload)) = unpack(&frame) {
            assert!(payload.len() <= INFLATED_BYTES_MAX);
            if let Some(packed) = pack(session, &payload).filter(|_| !payload.is_empty()) {
                assert_eq!(unpack(&packed), Ok((session, payload)));
            }
        }
    }
});
