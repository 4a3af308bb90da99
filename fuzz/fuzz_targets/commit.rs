//! The target `commit`: see `ahenk_fuzz::commit` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::commit(data));
