//! Vectors of a pairing: a code, both sides' random seeds, and the four messages that follow from them.

use engine::identity::{DeviceCert, PeerKey, SecretKey};
use engine::pairing::{
    Invitation, InviterEvent, Joiner, JoinerEvent, Offer, PairingCode, Terms, fingerprint,
};
use engine::testing::{test_identity, test_root};
use serde_json::{Value as Json, json};

use crate::json::{self, hex};

const OFFER_SEED: [u8; 32] = [9; 32];
const JOINER_SEED: [u8; 32] = [8; 32];
const JOINER_SECRET: [u8; 32] = [7; 32];
const WALL_MS: u64 = 1_800_000_000_000;

fn frame(frame: Option<Vec<u8>>) -> Vec<u8> {
    frame.expect("a message")
}

pub(crate) fn pairing() -> Json {
    let inviter = test_identity(0).cert;
    let address = "/ip4/192.0.2.1/udp/4001/quic-v1";
    let terms = Terms {
        root: test_root(),
        inviter: inviter.clone(),
        others: vec![test_identity(1).cert],
        addresses: vec![address.to_owned()],
        admin: true,
        ask: false,
    };
    let mut offer = Offer::new(terms, OFFER_SEED, 0, WALL_MS).unwrap();
    let code = PairingCode::parse(&offer.code().reveal()).unwrap();
    let invitation = Invitation::new(code.clone(), vec![address.to_owned()]).unwrap();
    let joiner_key = PeerKey(SecretKey::from_bytes(&JOINER_SECRET).public());
    let mut session = offer.session(joiner_key);
    let (mut joiner, start) =
        Joiner::start(&code, joiner_key, inviter.key, "laptop", JOINER_SEED, 0).unwrap();
    let reply = frame(session.handle(&mut offer, 0, &start).frame);
    let join = frame(joiner.handle(0, &reply).frame);
    let granted = session.handle(&mut offer, 0, &join);
    let Some(InviterEvent::Admitted(cert)) = granted.event else { panic!("not admitted") };
    let grant = frame(granted.frame);
    let Some(JoinerEvent::Joined(joined)) = joiner.handle(0, &grant).event else { panic!("not joined") };
    assert_eq!(joined.cert, cert);
    let others: Vec<Json> = joined.others.iter().map(json::cert).collect();
    json!({
        "code": code.reveal().as_str(),
        "invitation": invitation.reveal().as_str(),
        "nameplate": code.nameplate(),
        "joiner": hex(&joiner_key.0),
        "inviter": hex(&inviter.key.0),
        "joiner_seed": hex(&JOINER_SEED),
        "offer_seed": hex(&OFFER_SEED),
        "joiner_fingerprint": fingerprint(&joiner_key),
        "start": hex(&start),
        "reply": hex(&reply),
        "join": hex(&join),
        "grant": hex(&grant),
        "request": { "name": "laptop" },
        "granted": {
            "account": hex(&joined.account.0),
            "cert": json::cert(&joined.cert),
            "inviter": json::cert(&joined.inviter),
            "others": others,
            "addresses": joined.addresses,
            "root": hex(&*test_root().to_bytes()),
        },
        "refusals": refusals(joiner_key, &inviter),
    })
}

/// The refusals that can be had without waiting: of another nameplate, of nonsense, of another version.
fn refusals(joiner: PeerKey, inviter: &DeviceCert) -> Json {
    let terms = Terms {
        root: test_root(),
        inviter: inviter.clone(),
        others: vec![],
        addresses: vec![],
        admin: false,
        ask: false,
    };
    let mut offer = Offer::new(terms, OFFER_SEED, 0, WALL_MS).unwrap();
    let other = [&[1, 0, 10][..], &[0; 32]].concat();
    let cases = [
        ("no such offer", other, 1u8),
        ("bad message", vec![1, 9], 6),
        ("bytes after the end", [&[1, 0, offer.code().nameplate()][..], &[0; 33]].concat(), 6),
        ("another version", vec![2, 0], 6),
    ];
    let refused = |(name, message, reason): &(&str, Vec<u8>, u8)| {
        let answer = frame(offer.session(joiner).handle(&mut offer, 0, message).frame);
        assert_eq!(answer, [1, 4, *reason], "{name}");
        json!({ "name": name, "message": hex(message), "answer": hex(&answer) })
    };
    cases.iter().map(refused).collect()
}
