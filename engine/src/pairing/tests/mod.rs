//! Whole pairings between two state machines: the success and each way to fail, and the helpers
//! that play them. Hostile peers are in [`hostile`].

mod hostile;

use std::cell::Cell;

use super::*;
use crate::identity::{AccountId, CertError, DeviceCert, PeerKey, SecretKey};

const WALL_MS: u64 = 1_800_000_000_000;

fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

fn key(n: u8) -> PeerKey {
    PeerKey(secret(n).public())
}

fn cert(n: u8, name: &str) -> DeviceCert {
    DeviceCert::issue(&secret(1), key(n), name, 7, n == 2).expect("valid name")
}

const INVITER: u8 = 2;
const JOINER: u8 = 3;

fn terms() -> Terms {
    Terms {
        root: secret(1),
        inviter: cert(INVITER, "desk"),
        others: vec![cert(4, "phone"), cert(5, "attic")],
        addresses: vec!["/ip4/192.0.2.1/tcp/4001".to_owned()],
        admin: false,
        ask: false,
    }
}

fn offer(terms: Terms) -> Offer {
    Offer::new(terms, [9; 32], 1_000, WALL_MS).expect("valid terms")
}

/// A joiner with a seed of its own, as every run has.
fn joiner(code: &PairingCode) -> (Joiner, Vec<u8>) {
    joiner_as(code, JOINER, key(INVITER))
}

fn joiner_as(code: &PairingCode, who: u8, remote: PeerKey) -> (Joiner, Vec<u8>) {
    thread_local!(static RUN: Cell<u64> = const { Cell::new(0) });
    let run = RUN.with(|run| run.replace(run.get() + 1));
    let mut seed = [who; 32];
    seed[..8].copy_from_slice(&run.to_le_bytes());
    Joiner::start(code, key(who), remote, "laptop", seed, 1_000).expect("valid name")
}

/// The same nameplate and other words.
fn wrong_code(right: &PairingCode) -> PairingCode {
    let text = format!("{}-zoo-zoo-zoo", right.nameplate());
    let code = PairingCode::parse(&text).expect("well formed");
    assert_ne!(&code, right);
    code
}

fn frame<E: std::fmt::Debug>(turn: Turn<E>) -> Vec<u8> {
    assert!(turn.event.is_none(), "{turn:?}");
    turn.frame.expect("a frame")
}

fn inviter_error(turn: &Turn<InviterEvent>) -> PairingError {
    match turn.event {
        Some(InviterEvent::Failed(error)) => error,
        _ => panic!("not failed: {turn:?}"),
    }
}

fn joiner_error(turn: &Turn<JoinerEvent>) -> PairingError {
    match turn.event {
        Some(JoinerEvent::Failed(error)) => error,
        _ => panic!("not failed: {turn:?}"),
    }
}

fn joined(turn: Turn<JoinerEvent>) -> Joined {
    match turn.event {
        Some(JoinerEvent::Joined(joined)) => *joined,
        _ => panic!("not joined: {turn:?}"),
    }
}

fn admitted(turn: &Turn<InviterEvent>) -> &DeviceCert {
    match &turn.event {
        Some(InviterEvent::Admitted(cert)) => cert,
        _ => panic!("not admitted: {turn:?}"),
    }
}

/// Runs a pairing up to the inviter's answer to `Join`.
fn until_join(
    offer: &mut Offer,
    code: &PairingCode,
    now_ms: u64,
) -> (InviterSession, Joiner, Turn<InviterEvent>) {
    let mut session = offer.session(key(JOINER));
    let (mut joiner, start) = joiner(code);
    let reply = frame(session.handle(offer, now_ms, &start));
    let join = frame(joiner.handle(now_ms, &reply));
    let turn = session.handle(offer, now_ms, &join);
    (session, joiner, turn)
}

/// One wrong guess, played to its end on both sides.
fn guess_wrong(offer: &mut Offer) {
    let mut session = offer.session(key(JOINER));
    let (mut joiner, start) = joiner(&wrong_code(&offer.code().clone()));
    let reply = frame(session.handle(offer, 2_000, &start));
    let turn = joiner.handle(2_000, &reply);
    assert_eq!(joiner_error(&turn), PairingError::WrongCode);
    let told = session.handle(offer, 2_000, &turn.frame.expect("the inviter is told"));
    assert_eq!(inviter_error(&told), PairingError::WrongCode);
    assert!(told.frame.is_none(), "a refusal is not answered");
}

#[test]
fn the_right_code_admits_the_device_and_hands_over_the_account() {
    let mut offer = offer(terms());
    let code = offer.code().clone();
    let (session, mut joiner, turn) = until_join(&mut offer, &code, 4_000);
    let issued = admitted(&turn).clone();
    let joined = joined(joiner.handle(4_000, &turn.frame.expect("the grant")));

    assert_eq!(joined.account, AccountId(secret(1).public()));
    assert_eq!(joined.cert, issued);
    assert_eq!((issued.key, issued.name.as_str(), issued.admin), (key(JOINER), "laptop", false));
    assert_eq!(issued.issued_ms, WALL_MS + 3_000);
    assert_eq!(joined.inviter, terms().inviter);
    assert_eq!(joined.others, terms().others);
    assert_eq!(joined.addresses, terms().addresses);
    assert!(joined.root.is_none());
    assert!(session.ended() && joiner.ended());
    assert_eq!(offer.state(4_000), OfferState::Used);
}

#[test]
fn an_administrator_is_given_the_root_key_and_no_frame_shows_it() {
    let mut offer = offer(Terms { admin: true, ..terms() });
    let code = offer.code().clone();
    let (_, mut joiner, turn) = until_join(&mut offer, &code, 2_000);
    assert!(admitted(&turn).admin);
    let grant = turn.frame.expect("the grant");
    let root = secret(1).to_bytes();
    assert!(!grant.windows(32).any(|window| window == root.as_slice()));
    let joined = joined(joiner.handle(2_000, &grant));
    assert_eq!(joined.root.expect("the root key").to_bytes(), root);
}

#[test]
fn the_user_is_asked_and_may_admit_or_decline() {
    for admit in [true, false] {
        let mut offer = offer(Terms { ask: true, ..terms() });
        let code = offer.code().clone();
        let (mut session, mut joiner, asked) = until_join(&mut offer, &code, 2_000);
        let expected =
            InviterEvent::Confirm { name: "laptop".to_owned(), fingerprint: fingerprint(&key(JOINER)) };
        assert_eq!(asked.event, Some(expected));
        assert!(asked.frame.is_none() && joiner.confirmed());

        let answer = session.confirm(&mut offer, 3_000, admit);
        let heard = joiner.handle(3_000, answer.frame.as_ref().expect("the answer"));
        if admit {
            assert_eq!(joined(heard).cert, *admitted(&answer));
        } else {
            assert_eq!(inviter_error(&answer), PairingError::Declined);
            assert_eq!(joiner_error(&heard), PairingError::Declined);
        }
        assert_eq!(offer.state(3_000), OfferState::Used, "who knew the code has used it up");
        let again = session.confirm(&mut offer, 3_000, true);
        assert!(again.frame.is_none() && again.event.is_none());
    }
}

#[test]
fn wrong_words_are_told_to_both_sides_and_cost_an_attempt() {
    let mut offer = offer(terms());
    guess_wrong(&mut offer);
    assert_eq!(offer.state(2_000), OfferState::Open { attempts_left: 2 });
}

#[test]
fn a_wrong_nameplate_costs_nothing() {
    let mut offer = offer(terms());
    let other = if offer.code().nameplate() == 10 { 11 } else { 10 };
    let code = PairingCode::parse(&format!("{other}-zoo-zoo-zoo")).expect("well formed");
    for _ in 0..20 {
        let mut session = offer.session(key(JOINER));
        let (mut joiner, start) = joiner(&code);
        let turn = session.handle(&mut offer, 2_000, &start);
        assert_eq!(inviter_error(&turn), PairingError::NoSuchOffer);
        let heard = joiner.handle(2_000, &turn.frame.expect("the refusal"));
        assert_eq!(joiner_error(&heard), PairingError::NoSuchOffer);
    }
    assert_eq!(offer.state(2_000), OfferState::Open { attempts_left: ATTEMPTS_MAX });
}

#[test]
fn two_wrong_attempts_leave_one_that_succeeds() {
    let mut offer = offer(terms());
    guess_wrong(&mut offer);
    guess_wrong(&mut offer);
    let code = offer.code().clone();
    let (_, mut joiner, turn) = until_join(&mut offer, &code, 2_000);
    joined(joiner.handle(2_000, &turn.frame.expect("the grant")));
}

#[test]
fn three_wrong_attempts_end_the_offer_even_for_the_right_code() {
    let mut offer = offer(terms());
    for _ in 0..ATTEMPTS_MAX {
        guess_wrong(&mut offer);
    }
    assert_eq!(offer.state(2_000), OfferState::Exhausted);
    let mut session = offer.session(key(JOINER));
    let (mut joiner, start) = joiner(&offer.code().clone());
    let turn = session.handle(&mut offer, 2_000, &start);
    assert_eq!(inviter_error(&turn), PairingError::TooManyAttempts);
    let heard = joiner.handle(2_000, &turn.frame.expect("the refusal"));
    assert_eq!(joiner_error(&heard), PairingError::TooManyAttempts);
}

#[test]
fn attempts_count_when_begun_so_parallel_channels_win_no_extra_guesses() {
    let mut offer = offer(terms());
    let code = wrong_code(&offer.code().clone());
    let mut replies = 0;
    // None of these channels ever finishes; nothing is given back when they are dropped.
    for _ in 0..10 {
        let mut session = offer.session(key(JOINER));
        let turn = session.handle(&mut offer, 2_000, &joiner(&code).1);
        replies += u32::from(turn.event.is_none());
    }
    assert_eq!(replies, ATTEMPTS_MAX);
    assert_eq!(offer.state(2_000), OfferState::Exhausted);
}

#[test]
fn of_two_channels_with_the_right_code_one_is_admitted() {
    for ask in [false, true] {
        let mut offer = offer(Terms { ask, ..terms() });
        let code = offer.code().clone();
        let mut first = offer.session(key(JOINER));
        let mut second = offer.session(key(6));
        let (mut a, start_a) = joiner_as(&code, JOINER, key(INVITER));
        let (mut b, start_b) = joiner_as(&code, 6, key(INVITER));
        let reply_a = frame(first.handle(&mut offer, 2_000, &start_a));
        let reply_b = frame(second.handle(&mut offer, 2_000, &start_b));
        let join_a = frame(a.handle(2_000, &reply_a));
        let join_b = frame(b.handle(2_000, &reply_b));
        let mut won = second.handle(&mut offer, 2_000, &join_b);
        let lost = first.handle(&mut offer, 2_000, &join_a);
        assert_eq!(inviter_error(&lost), PairingError::AlreadyUsed);
        assert_eq!(joiner_error(&a.handle(2_000, &lost.frame.expect("told"))), PairingError::AlreadyUsed);
        if ask {
            won = second.confirm(&mut offer, 2_000, true);
        }
        assert_eq!(joined(b.handle(2_000, &won.frame.expect("the grant"))).cert.key, key(6));
    }
}

#[test]
fn a_used_offer_refuses_the_right_code() {
    let mut offer = offer(terms());
    let code = offer.code().clone();
    let _admitted = until_join(&mut offer, &code, 2_000);
    let mut session = offer.session(key(6));
    let turn = session.handle(&mut offer, 2_000, &joiner_as(&code, 6, key(INVITER)).1);
    assert_eq!(inviter_error(&turn), PairingError::AlreadyUsed);
}

#[test]
fn an_offer_ends_after_five_minutes_wherever_a_session_stands() {
    let mut offer = offer(terms());
    let (code, end_ms) = (offer.code().clone(), 1_000 + OFFER_MS);
    assert_eq!(offer.deadline_ms(), end_ms);

    let mut fresh = offer.session(key(JOINER));
    let mut idle = offer.session(key(JOINER));
    let mut halfway = offer.session(key(JOINER));
    let (mut joiner, start) = joiner(&code);
    let reply = frame(halfway.handle(&mut offer, end_ms - 1, &start));
    let join = frame(joiner.handle(end_ms - 1, &reply));

    assert!(idle.expire(&offer, end_ms - 1).event.is_none());
    assert_eq!(inviter_error(&idle.expire(&offer, end_ms)), PairingError::Expired);
    assert_eq!(inviter_error(&fresh.handle(&mut offer, end_ms, &start)), PairingError::Expired);
    let late = halfway.handle(&mut offer, end_ms, &join);
    assert_eq!(inviter_error(&late), PairingError::Expired);
    assert_eq!(joiner_error(&joiner.handle(end_ms, &late.frame.expect("told"))), PairingError::Expired);
    assert_eq!(offer.state(end_ms), OfferState::Expired);
}

#[test]
fn a_user_who_never_answers_ends_the_pairing_after_two_minutes() {
    let mut offer = offer(Terms { ask: true, ..terms() });
    let (code, asked_ms) = (offer.code().clone(), 1_000 + OFFER_MS - 1);
    let (mut session, _, _) = until_join(&mut offer, &code, asked_ms);
    assert_eq!(session.deadline_ms(&offer), Some(asked_ms + CONFIRM_MS));
    assert!(session.expire(&offer, asked_ms + CONFIRM_MS - 1).event.is_none());
    let late = session.confirm(&mut offer, asked_ms + CONFIRM_MS, true);
    assert_eq!(inviter_error(&late), PairingError::Expired);
}

#[test]
fn a_joiner_gives_up_when_nothing_comes() {
    let (mut joiner, _) = joiner(&offer(terms()).code().clone());
    let deadline_ms = joiner.deadline_ms().expect("running");
    assert!(joiner.expire(deadline_ms - 1).event.is_none());
    assert_eq!(joiner_error(&joiner.expire(deadline_ms)), PairingError::Expired);
    assert_eq!(joiner.deadline_ms(), None);
}

#[test]
fn another_version_is_told_to_both_sides() {
    let mut offer = offer(terms());
    let mut session = offer.session(key(JOINER));
    let (mut joiner, _) = joiner(&offer.code().clone());
    // Whatever follows the version byte is not looked at.
    let turn = session.handle(&mut offer, 2_000, &[9, 1, 2, 3]);
    assert_eq!(inviter_error(&turn), PairingError::VersionMismatch { ours: 1, theirs: 9 });
    let mut from_newer = turn.frame.expect("told");
    assert_eq!(from_newer[0], PAIRING_VERSION);
    from_newer[0] = 2;
    let heard = joiner.handle(2_000, &from_newer);
    assert_eq!(joiner_error(&heard), PairingError::VersionMismatch { ours: 1, theirs: 2 });
    assert_eq!(offer.state(2_000), OfferState::Open { attempts_left: ATTEMPTS_MAX });
}

#[test]
fn the_largest_grant_fits_a_message() {
    let name = "n".repeat(crate::config::DEVICE_NAME_BYTES_MAX);
    let late = |n: u8| DeviceCert::issue(&secret(1), key(n), &name, u64::MAX / 2, true).expect("valid name");
    let mut offer = offer(Terms {
        inviter: late(INVITER),
        others: vec![late(4); OTHERS_MAX],
        addresses: vec!["a".repeat(ADDRESS_BYTES_MAX); ADDRESSES_MAX],
        admin: true,
        ..terms()
    });
    let mut session = offer.session(key(JOINER));
    let code = offer.code().clone();
    let (mut joiner, start) =
        Joiner::start(&code, key(JOINER), key(INVITER), &name, [1; 32], 1_000).expect("valid name");
    let reply = frame(session.handle(&mut offer, 2_000, &start));
    let join = frame(joiner.handle(2_000, &reply));
    let grant = session.handle(&mut offer, 2_000, &join).frame.expect("the grant");
    assert!(grant.len() <= MESSAGE_BYTES_MAX, "{} bytes", grant.len());
    assert_eq!(joined(joiner.handle(2_000, &grant)).others.len(), OTHERS_MAX);
}

#[test]
fn terms_that_no_grant_can_hold_are_refused_at_once() {
    let make = |terms| Offer::new(terms, [9; 32], 0, WALL_MS).err();
    assert_eq!(make(Terms { root: secret(8), ..terms() }), Some(OfferError::Cert(CertError::ForeignAccount)));
    let others = vec![cert(4, "phone"); OTHERS_MAX + 1];
    assert_eq!(make(Terms { others, ..terms() }), Some(OfferError::TooManyDevices));
    let mut forged = cert(4, "phone");
    forged.sig.0[0] ^= 1;
    let others = vec![forged];
    assert_eq!(make(Terms { others, ..terms() }), Some(OfferError::Cert(CertError::BadSignature)));
    let addresses = vec!["/a".to_owned(); ADDRESSES_MAX + 1];
    assert_eq!(make(Terms { addresses, ..terms() }), Some(OfferError::TooManyAddresses));
    assert_eq!(make(Terms { addresses: vec!["a,b".to_owned()], ..terms() }), Some(OfferError::BadAddress));
}

#[test]
fn a_joiner_needs_a_valid_device_name() {
    let code = offer(terms()).code().clone();
    let start = |name: &str| Joiner::start(&code, key(3), key(2), name, [1; 32], 0).is_ok();
    assert!(start("laptop") && !start("") && !start("a\nb") && !start(&"x".repeat(65)));
}

#[test]
#[should_panic(expected = "the offer that opened it")]
fn a_session_is_not_driven_with_another_offer() {
    let mut session = offer(terms()).session(key(JOINER));
    let mut other = Offer::new(terms(), [10; 32], 0, WALL_MS).expect("valid terms");
    let _turn = session.handle(&mut other, 0, &[]);
}

#[test]
fn debug_shows_no_secret() {
    let mut offer = offer(Terms { admin: true, ..terms() });
    let code = offer.code().clone();
    let session = offer.session(key(JOINER));
    let (joiner, _) = joiner(&code);
    let text = format!("{offer:?} {session:?} {joiner:?}");
    for word in code.reveal().split('-').skip(1) {
        assert!(!text.contains(word), "{word} in {text}");
    }
    assert!(!text.contains("9, 9, 9"), "the seed in {text}");
}

#[test]
fn fingerprints_are_readable_stable_and_differ_by_key() {
    let text = fingerprint(&key(2));
    assert_eq!(text.len(), 19);
    assert!(text.split('-').all(|group| group.len() == 4));
    assert_eq!(text, fingerprint(&key(2)));
    let all: std::collections::BTreeSet<String> = (0..100).map(|n| fingerprint(&key(n))).collect();
    assert_eq!(all.len(), 100);
}
