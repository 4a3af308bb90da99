//! The target `certificate`: see `ahenk_fuzz::certificate` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::certificate(data));
