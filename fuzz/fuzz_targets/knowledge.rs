//! The target `knowledge`: see `ahenk_fuzz::knowledge` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::knowledge(data));
