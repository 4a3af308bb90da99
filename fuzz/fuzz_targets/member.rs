//! The target `member`: see `ahenk_fuzz::member` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::member(data));
