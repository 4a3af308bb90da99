//! Both ends of a pairing, with a man in the middle who may know the code or not; and what people type.

use engine::identity::{DeviceCert, PeerKey};
use engine::pairing::{
    ATTEMPTS_MAX, Invitation, InviterEvent, Joiner, JoinerEvent, Offer, OfferState, Terms,
};
use engine::testing::{test_identity, test_root};

use crate::tape::Tape;

fn offer(ask: bool) -> Offer {
    let cert =
        DeviceCert::issue(&test_root(), test_identity(0).peer_key(), "desk", 7, true).expect("a valid name");
    let terms = Terms {
        root: test_root(),
        inviter: cert,
        others: Vec::new(),
        addresses: Vec::new(),
        admin: false,
        ask,
    };
    Offer::new(terms, [9; 32], 1_000, 1_800_000_000_000).expect("valid terms")
}

/// What the man in the middle does to a frame; true if it arrives as it was sent.
fn pass(tape: &mut Tape<'_>, frame: &mut Vec<u8>) -> bool {
    let sent = frame.clone();
    match tape.u8() % 4 {
        0 | 1 => {}
        2 => tape.damage(frame),
        _ => *frame = tape.bytes().to_vec(),
    }
    *frame == sent
}

/// A conversation in which each message may be changed: who got another `Start` or `Join` than was sent admits nobody,
/// and who got another `Reply` or `Grant` does not join. Besides, a stranger without the code who says anything.
pub fn pairing(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut offer = offer(false);
    strangers(&mut tape, &mut offer);
    if !matches!(offer.state(2_000), OfferState::Open { .. }) {
        return;
    }
    let (joining, remote) = (test_identity(8).peer_key(), test_identity(0).peer_key());
    let (mut joiner, mut start) =
        Joiner::start(&offer.code().clone(), joining, remote, "phone", [3; 32], 1_000).expect("a valid name");
    let mut guest = offer.session(joining);
    let mut whole = pass(&mut tape, &mut start);
    let Some(mut reply) = guest.handle(&mut offer, 2_000, &start).frame else { return assert!(!whole) };
    whole &= pass(&mut tape, &mut reply);
    let turn = joiner.handle(2_000, &reply);
    assert!(!matches!(turn.event, Some(JoinerEvent::Joined(_))));
    let Some(mut join) = turn.frame else { return assert!(!whole) };
    // A changed `Start` or `Reply` must have been noticed here, or it is by the inviter now.
    whole &= pass(&mut tape, &mut join);
    let turn = guest.handle(&mut offer, 2_000, &join);
    let admitted = matches!(&turn.event, Some(InviterEvent::Admitted(cert)) if cert.key == joining && cert.name == "phone");
    assert_eq!(admitted, whole);
    let Some(mut grant) = turn.frame else { return assert!(!whole) };
    whole &= pass(&mut tape, &mut grant);
    let turn = joiner.handle(2_000, &grant);
    assert_eq!(matches!(turn.event, Some(JoinerEvent::Joined(_))), whole);
    // The offer is spent, whatever else is said.
    if admitted {
        assert_eq!(offer.state(2_000), OfferState::Used);
        let mut late = offer.session(joining);
        let turn = late.handle(&mut offer, 2_000, &start);
        assert!(!matches!(turn.event, Some(InviterEvent::Admitted(_))));
    }
}

/// Strangers say anything, in turn, on channels of their own; both ends are given it.
fn strangers(tape: &mut Tape<'_>, offer: &mut Offer) {
    let (code, remote) = (offer.code().clone(), test_identity(0).peer_key());
    for n in 0..tape.u8() % 6 {
        let stranger = test_identity(100 + n).peer_key();
        let mut session = offer.session(stranger);
        let (mut joiner, _) =
            Joiner::start(&code, stranger, remote, "phone", [n; 32], 1_000).expect("a valid name");
        for _ in 0..tape.u8() % 4 {
            say(tape.bytes(), offer, &mut session, &mut joiner, stranger);
        }
    }
    if let OfferState::Open { attempts_left } = offer.state(2_000) {
        assert!((1..=ATTEMPTS_MAX).contains(&attempts_left));
    }
}

fn say(
    frame: &[u8],
    offer: &mut Offer,
    session: &mut engine::pairing::InviterSession,
    joiner: &mut Joiner,
    stranger: PeerKey,
) {
    assert_eq!(session.remote(), stranger);
    let turn = session.handle(offer, 2_000, frame);
    assert!(!matches!(turn.event, Some(InviterEvent::Admitted(_) | InviterEvent::Confirm { .. })));
    let turn = joiner.handle(2_000, frame);
    assert!(!matches!(turn.event, Some(JoinerEvent::Joined(_))));
    assert!(!joiner.confirmed());
}

/// Any text as what a person types or scans: what is read says the same when it is written and read again.
pub fn invitation(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(invitation) = Invitation::parse(text) {
        let again = Invitation::parse(&invitation.reveal()).expect("what was written reads back");
        assert_eq!(*again.reveal(), *invitation.reveal());
        assert_eq!(again.addresses(), invitation.addresses());
        assert_eq!(again.code(), invitation.code());
    }
}
