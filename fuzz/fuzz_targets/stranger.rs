//! A whole engine and a key of no account that sends it anything: nothing of it is applied, kept or known.
#![no_main]

#[path = "../device.rs"]
mod device;

use engine::identity::{PeerKey, SecretKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let key = PeerKey(SecretKey::from_bytes(&[77; 32]).public());
    let mut device = device::Device::new(key);
    device.frames(data);
    device.assert_knows_only_itself();
    device.assert_unharmed();
});
