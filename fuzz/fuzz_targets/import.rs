//! The target `import`: see `ahenk_fuzz::import` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::import(data));
