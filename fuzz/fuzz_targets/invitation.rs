//! Any text as what a person types or scans: what is read says the same when it is written and read again.
#![no_main]

use engine::pairing::Invitation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(invitation) = Invitation::parse(text) {
        let again = Invitation::parse(&invitation.reveal()).expect("what was written reads back");
        assert_eq!(*again.reveal(), *invitation.reveal());
    }
});
