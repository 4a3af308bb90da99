//! The target `frame`: see `ahenk_fuzz::frame` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::frame(data));
