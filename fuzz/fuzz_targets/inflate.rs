//! The target `inflate`: see `ahenk_fuzz::inflate` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::inflate(data));
