//! Any payload as a message: hellos with certificates, statements of knowledge, runs of commits by columns.
#![no_main]

use engine::identity::AccountId;
use engine::testing::test_root;
use engine::wire::frame::pack;
use engine::wire::message::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(frame) = pack(1, data) else { return };
    if let Ok((session, _)) = parse(&frame, &AccountId(test_root().public())) {
        assert_eq!(session, 1);
    }
});
