//! Any messages to both sides of a pairing: without the code nobody is admitted and nobody joins.
#![no_main]

use engine::identity::DeviceCert;
use engine::pairing::{InviterEvent, Joiner, JoinerEvent, Offer, Terms};
use engine::testing::{test_identity, test_root};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (inviter, stranger) = (test_identity(0), test_identity(8).peer_key());
    let cert = DeviceCert::issue(&test_root(), inviter.peer_key(), "desk", 7, true).expect("a valid name");
    let terms = Terms {
        root: test_root(),
        inviter: cert,
        others: Vec::new(),
        addresses: Vec::new(),
        admin: false,
        ask: false,
    };
    let mut offer = Offer::new(terms, [9; 32], 1_000, 1_800_000_000_000).expect("valid terms");
    let mut guest = offer.session(stranger);
    let code = offer.code().clone();
    let remote = inviter.peer_key();
    let (mut joiner, _) =
        Joiner::start(&code, stranger, remote, "phone", [3; 32], 1_000).expect("a valid name");
    let mut data = data;
    while let [len, rest @ ..] = data {
        let (frame, next) = rest.split_at(usize::from(*len).min(rest.len()));
        data = next;
        let turn = guest.handle(&mut offer, 2_000, frame);
        assert!(!matches!(turn.event, Some(InviterEvent::Admitted(_))));
        let turn = joiner.handle(2_000, frame);
        assert!(!matches!(turn.event, Some(JoinerEvent::Joined(_))));
    }
});
