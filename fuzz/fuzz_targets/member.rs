//! A whole engine and a device of the account that sends it anything: its own data stays, and it can still write.
#![no_main]

#[path = "../device.rs"]
mod device;

use engine::testing::Author;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let author = Author::new(9);
    let mut device = device::Device::new(author.identity.peer_key());
    device.hello(author.identity.cert.clone(), author.replica);
    device.frames(data);
    device.assert_unharmed();
});
