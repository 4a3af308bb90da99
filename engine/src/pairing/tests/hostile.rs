//! Peers that replay, relay, reflect, corrupt, forge or babble.

use proptest::prelude::*;

use super::*;
use crate::pairing::keys::{Ends, Pake, Role};
use crate::pairing::wire::{Grant, Message, Refusal, Request, decode_sealed, encode_sealed};

#[test]
fn a_recorded_conversation_is_of_no_use_again() {
    // Two attempts at one offer, so that only the inviter's fresh share differs.
    let mut offer = offer(terms());
    let code = offer.code().clone();
    let mut recorded = offer.session(key(JOINER));
    let (mut joiner_a, start) = joiner(&code);
    let reply = frame(recorded.handle(&mut offer, 2_000, &start));
    let join = frame(joiner_a.handle(2_000, &reply));

    let mut replayed = offer.session(key(JOINER));
    let second = frame(replayed.handle(&mut offer, 2_000, &start));
    assert_ne!(reply, second, "the inviter's share is new in each session");
    assert_eq!(inviter_error(&replayed.handle(&mut offer, 2_000, &join)), PairingError::WrongCode);

    // The other way round: an impostor replays the inviter's reply to a new run of the joiner.
    let (mut joiner_b, _) = joiner(&code);
    assert_eq!(joiner_error(&joiner_b.handle(2_000, &reply)), PairingError::WrongCode);
}

#[test]
fn a_man_in_the_middle_who_relays_every_message_fails() {
    const MIDDLE: u8 = 66;
    let mut offer = offer(terms());
    let code = offer.code().clone();
    // Each side's channel ends at the middle, which forwards all it hears unchanged.
    let mut session = offer.session(key(MIDDLE));
    let (mut joiner, start) = joiner_as(&code, JOINER, key(MIDDLE));
    let reply = frame(session.handle(&mut offer, 2_000, &start));
    let turn = joiner.handle(2_000, &reply);
    assert_eq!(joiner_error(&turn), PairingError::WrongCode);
    let told = session.handle(&mut offer, 2_000, &turn.frame.expect("told"));
    assert_eq!(inviter_error(&told), PairingError::WrongCode);
    assert!(PairingError::WrongCode.to_string().contains("interfering"));
}

#[test]
fn a_reply_reflected_from_the_joiner_itself_fails() {
    let code = offer(terms()).code().clone();
    let (mut joiner, start) = joiner(&code);
    let Ok(Message::Start { share, .. }) = Message::decode(&start) else { panic!("a start") };
    let reply = Message::Reply { share, confirm: [0; 32] }.encode();
    assert_eq!(joiner_error(&joiner.handle(2_000, &reply)), PairingError::WrongCode);
}

#[test]
fn the_joiner_says_nothing_of_itself_before_the_inviter_has_confirmed() {
    let mut offer = offer(terms());
    let mut session = offer.session(key(JOINER));
    let (mut joiner, start) = joiner(&wrong_code(&offer.code().clone()));
    let reply = frame(session.handle(&mut offer, 2_000, &start));
    let turn = joiner.handle(2_000, &reply);
    assert_eq!(turn.frame, Some(Message::Refuse(Refusal::WrongCode).encode()));
}

/// The four frames of a successful pairing, each with one bit flipped or cut short, and played to
/// the receiver at the point where it was due.
#[test]
fn a_flipped_bit_in_any_byte_and_any_truncation_of_any_message_is_rejected() {
    let code = offer(terms()).code().clone();
    let honest: Vec<Vec<u8>> = {
        let mut offer = offer(terms());
        let mut session = offer.session(key(JOINER));
        let (mut joiner, start) = fixed_joiner(&code);
        let reply = frame(session.handle(&mut offer, 2_000, &start));
        let join = frame(joiner.handle(2_000, &reply));
        let grant = session.handle(&mut offer, 2_000, &join).frame.expect("the grant");
        vec![start, reply, join, grant]
    };
    for (step, good) in honest.iter().enumerate() {
        let flips = (0..good.len() * 8).map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        });
        let cuts = (0..good.len()).map(|len| good[..len].to_vec());
        let longer = [0, 1, 255].map(|byte| [good.as_slice(), &[byte]].concat());
        // In a debug build a curve operation is slow: one flip a byte is enough where each byte
        // belongs to one number, checked as a whole.
        let flips = flips.enumerate().filter(|(bit, _)| bit / 8 < 4 || bit % 8 == (bit / 8) % 8);
        for bad in flips.map(|(_, bad)| bad).chain(cuts).chain(longer) {
            assert_rejected(&code, &honest, step, &bad);
        }
    }
}

fn fixed_joiner(code: &PairingCode) -> (Joiner, Vec<u8>) {
    Joiner::start(code, key(JOINER), key(INVITER), "laptop", [77; 32], 1_000).expect("valid name")
}

fn assert_rejected(code: &PairingCode, honest: &[Vec<u8>], step: usize, bad: &[u8]) {
    let mut offer = offer(terms());
    let mut session = offer.session(key(JOINER));
    let (mut joiner, start) = fixed_joiner(code);
    assert_eq!(start, honest[0], "the same seeds give the same conversation");
    let received = |at: usize| if at == step { bad } else { honest[at].as_slice() };

    let reply = session.handle(&mut offer, 2_000, received(0));
    if let Some(InviterEvent::Failed(_)) = reply.event {
        return;
    }
    // A changed share reaches the confirmation and fails there.
    let reply = if step == 0 { reply.frame.expect("a reply") } else { received(1).to_vec() };
    let join = joiner.handle(2_000, &reply);
    if let Some(JoinerEvent::Failed(_)) = join.event {
        return;
    }
    assert!(step >= 2, "a changed step {step} went through");
    let grant = session.handle(&mut offer, 2_000, received(2));
    if let Some(InviterEvent::Failed(_)) = grant.event {
        return;
    }
    assert_eq!(step, 3, "a changed step {step} went through");
    let _rejected = joiner_error(&joiner.handle(2_000, received(3)));
}

#[test]
fn oversize_and_untimely_messages_are_rejected() {
    let code = offer(terms()).code().clone();
    let huge =
        [PAIRING_VERSION].into_iter().chain(std::iter::repeat_n(2, MESSAGE_BYTES_MAX)).collect::<Vec<_>>();
    let untimely = [
        Message::Reply { share: [1; 32], confirm: [1; 32] }.encode(),
        Message::Join { confirm: [1; 32], sealed: vec![1; 40] }.encode(),
        Message::Grant { sealed: vec![1; 40] }.encode(),
        huge,
    ];
    for bad in &untimely {
        let mut offer = offer(terms());
        let mut session = offer.session(key(JOINER));
        assert_eq!(inviter_error(&session.handle(&mut offer, 2_000, bad)), PairingError::BadMessage);
        let after = session.handle(&mut offer, 2_000, &joiner(&code).1);
        assert!(after.frame.is_none() && after.event.is_none(), "an ended session does nothing more");
    }
    for bad in &untimely[1..] {
        let (mut joiner, start) = joiner(&code);
        assert_eq!(joiner_error(&joiner.handle(2_000, bad)), PairingError::BadMessage);
        let after = joiner.handle(2_000, &start);
        assert!(after.frame.is_none() && after.event.is_none());
    }
}

/// An inviter that knows the code and then grants what `change` makes of an honest grant.
fn grant_changed(change: impl FnOnce(&mut Grant)) -> Result<Joined, PairingError> {
    let code = offer(terms()).code().clone();
    let (mut joiner, start) = joiner(&code);
    let Ok(Message::Start { share, nameplate }) = Message::decode(&start) else { panic!("a start") };
    let ends = Ends { joiner: key(JOINER), inviter: key(INVITER), nameplate };
    let pake = Pake::start(Role::Inviter, &code, ends, &[5; 32]);
    let ours = pake.share();
    let keys = pake.finish(&share).expect("a point");
    let reply = Message::Reply { share: ours, confirm: keys.confirmation(Role::Inviter) };
    let join = frame(joiner.handle(2_000, &reply.encode()));
    let Ok(Message::Join { sealed, .. }) = Message::decode(&join) else { panic!("a join") };
    let request: Request =
        decode_sealed(&keys.open(Role::Joiner, &sealed).expect("sealed for us")).expect("valid");

    let mut grant = Grant {
        account: AccountId(secret(1).public()),
        cert: cert(JOINER, &request.name),
        inviter: cert(INVITER, "desk"),
        others: vec![],
        addresses: vec![],
        root: None,
    };
    change(&mut grant);
    let sealed = keys.seal(Role::Inviter, &encode_sealed(&grant));
    match joiner.handle(2_000, &Message::Grant { sealed }.encode()).event {
        Some(JoinerEvent::Joined(joined)) => Ok(*joined),
        Some(JoinerEvent::Failed(error)) => Err(error),
        None => panic!("a grant ends the pairing"),
    }
}

#[test]
fn the_joiner_rejects_a_grant_that_does_not_fit() {
    type Change = fn(&mut Grant);
    let bad = |error: GrantError| PairingError::BadCertificate(error);
    let foreign = |n, name: &str| DeviceCert::issue(&secret(99), key(n), name, 7, false).expect("valid name");
    let cases: [(Change, PairingError); 12] = [
        (|g| g.cert = cert(6, "laptop"), bad(GrantError::OtherKey)),
        (|g| g.cert = cert(JOINER, "other"), bad(GrantError::OtherName)),
        (|g| g.cert.sig.0[7] ^= 1, bad(GrantError::Cert(CertError::BadSignature))),
        (|g| g.cert.issued_ms += 1, bad(GrantError::Cert(CertError::BadSignature))),
        (|g| g.account = AccountId([8; 32]), bad(GrantError::Cert(CertError::ForeignAccount))),
        (|g| g.inviter = cert(4, "phone"), bad(GrantError::OtherInviter)),
        (|g| g.inviter.sig.0[7] ^= 1, bad(GrantError::Cert(CertError::BadSignature))),
        (|g| g.root = Some([1; 32]), bad(GrantError::RootKey)),
        (|g| g.cert.admin = true, bad(GrantError::Cert(CertError::BadSignature))),
        (|g| g.others = vec![cert(4, "phone"); OTHERS_MAX + 1], PairingError::BadMessage),
        (|g| g.addresses = vec!["/a".to_owned(); ADDRESSES_MAX + 1], PairingError::BadMessage),
        (|g| g.addresses = vec!["two words".to_owned()], PairingError::BadMessage),
    ];
    for (at, (change, error)) in cases.into_iter().enumerate() {
        assert_eq!(grant_changed(change).err(), Some(error), "case {at}");
    }
    let error = grant_changed(|g| g.others.push(foreign(4, "phone"))).err();
    assert_eq!(error, Some(bad(GrantError::Cert(CertError::ForeignAccount))));
    let admin = || DeviceCert::issue(&secret(1), key(JOINER), "laptop", 7, true).expect("valid name");
    assert_eq!(grant_changed(|g| g.cert = admin()).err(), Some(bad(GrantError::RootKey)));
    let other_root = grant_changed(|g| (g.cert, g.root) = (admin(), Some([2; 32])));
    assert_eq!(other_root.err(), Some(bad(GrantError::RootKey)));
    assert!(grant_changed(|g| (g.cert, g.root) = (admin(), Some([1; 32]))).expect("fits").root.is_some());
    assert!(grant_changed(|_| ()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn garbage_ends_an_inviters_session_without_panic(
        body in prop::collection::vec(any::<u8>(), 0..300), versioned in any::<bool>(), begun in any::<bool>(),
    ) {
        let garbage = if versioned { [&[PAIRING_VERSION], body.as_slice()].concat() } else { body };
        let mut offer = offer(terms());
        let mut session = offer.session(key(JOINER));
        if begun {
            let (_, start) = fixed_joiner(offer.code());
            let _reply = session.handle(&mut offer, 1_500, &start);
        }
        let turn = session.handle(&mut offer, 2_000, &garbage);
        let admitted = matches!(turn.event, Some(InviterEvent::Admitted(_) | InviterEvent::Confirm { .. }));
        prop_assert!(!admitted);
        prop_assert!(turn.frame.is_none_or(|frame| frame.len() <= MESSAGE_BYTES_MAX));
    }

    #[test]
    fn garbage_ends_a_joiner_without_panic(
        body in prop::collection::vec(any::<u8>(), 0..300), versioned in any::<bool>(),
    ) {
        let garbage = if versioned { [&[PAIRING_VERSION], body.as_slice()].concat() } else { body };
        let (mut joiner, _) = fixed_joiner(offer(terms()).code());
        let turn = joiner.handle(2_000, &garbage);
        prop_assert!(matches!(turn.event, Some(JoinerEvent::Failed(_))));
    }

    #[test]
    fn what_decodes_is_what_its_message_encodes_to(body in prop::collection::vec(any::<u8>(), 0..120)) {
        let frame = [&[PAIRING_VERSION], body.as_slice()].concat();
        if let Ok(message) = Message::decode(&frame) {
            prop_assert_eq!(message.encode(), frame);
        }
    }

    #[test]
    fn a_wrong_share_never_confirms(share in any::<[u8; 32]>()) {
        let code = offer(terms()).code().clone();
        let (mut joiner, _) = fixed_joiner(&code);
        let reply = Message::Reply { share, confirm: share }.encode();
        let error = joiner_error(&joiner.handle(2_000, &reply));
        prop_assert!(matches!(error, PairingError::WrongCode | PairingError::BadMessage));
    }
}
