//! The target `invitation`: see `ahenk_fuzz::invitation` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahenk_fuzz::invitation(data));
