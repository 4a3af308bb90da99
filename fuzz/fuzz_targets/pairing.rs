//! The target `pairing`: see `ahenk_fuzz::pairing` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::pairing(data));
