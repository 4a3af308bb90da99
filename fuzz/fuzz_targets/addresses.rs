//! The target `addresses`: see `ahenk_fuzz::addresses_told` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::addresses_told(data));
