//! The target `store_file`: see `ahenk_fuzz::store_file` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::store_file(data));
