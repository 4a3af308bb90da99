//! The target `message`: see `ahenk_fuzz::message` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::message(data));
