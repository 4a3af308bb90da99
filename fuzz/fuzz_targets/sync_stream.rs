//! The target `sync_stream`: see `ahenk_fuzz::sync_stream` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::sync_stream(data));
