//! The target `stranger`: see `ahenk_fuzz::stranger` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::stranger(data));
