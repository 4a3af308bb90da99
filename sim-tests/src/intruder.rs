//! What hostile peers say: frames that a device must refuse, whoever they seem to come from.
//!
//! Invariant: nothing here is signed with a key that the account trusts for what it says, so no part of it may ever be
//! in a log.

use std::collections::BTreeMap;

use engine::codec::Writer;
use engine::commit::{Commit, OpKind};
use engine::config::FRAME_BYTES_MAX;
use engine::hlc::Hlc;
use engine::identity::{DeviceCert, Identity, PeerKey, SecretKey, Sig};
use engine::io::Input;
use engine::prng::Prng;
use engine::statement::{Revocation, Statement};
use engine::testing::{Author, EPOCH_MS, identity_of, op, test_root};
use engine::value::Value;
use engine::wire::frame::{MAJOR, pack};
use engine::wire::message::{Control, Hello, MINOR, Ops, Run, pack_control, pack_ops};

use serde::{Deserialize, Serialize};

use crate::plan::TABLE;

/// Session number of strangers.
const SESSION: u32 = 66;
/// Devices of the test account from this number on take no part in plans.
const OUTSIDER: u8 = 200;

/// Damaged frames in a row that a device puts up with.
const DAMAGED_FRAMES: usize = 64;

/// What somebody hostile does. Nothing of it may change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intrusion {
    /// A connected peer sends bytes that mean nothing.
    Noise,
    /// A connected peer sends a frame that is longer than any may be.
    Oversize,
    /// A connected peer sends a frame that inflates beyond measure.
    Bomb,
    /// A connected peer sends a frame of another major version.
    Version,
    /// A connected peer relays a commit that its author did not sign.
    Forged,
    /// A connected peer relays a commit of an author who certified itself, well signed.
    Smuggled,
    /// A connected peer brings a revocation that the root key did not sign.
    Slander,
    /// A connected peer sends nothing but damaged frames.
    Babble,
    /// A device of another account connects, and sends commits of its own.
    Foreign,
    /// A device connects that claims to be of the account, with a certificate of its own making, and sends commits.
    Uncertified,
}

impl Intrusion {
    /// All of them.
    pub const ALL: [Intrusion; 10] = [
        Intrusion::Noise,
        Intrusion::Oversize,
        Intrusion::Bomb,
        Intrusion::Version,
        Intrusion::Forged,
        Intrusion::Smuggled,
        Intrusion::Slander,
        Intrusion::Babble,
        Intrusion::Foreign,
        Intrusion::Uncertified,
    ];

    /// A few words for summaries.
    pub fn kind(self) -> &'static str {
        match self {
            Intrusion::Noise => "garbage frame",
            Intrusion::Oversize => "oversize frame",
            Intrusion::Bomb => "decompression bomb",
            Intrusion::Version => "frame of another version",
            Intrusion::Forged => "forged commit",
            Intrusion::Smuggled => "commit of an author without a certificate",
            Intrusion::Slander => "forged revocation",
            Intrusion::Babble => "damaged frames only",
            Intrusion::Foreign => "device of another account",
            Intrusion::Uncertified => "device without a certificate",
        }
    }
}

/// Who speaks, and the inputs that a device gets of it.
pub(crate) struct Attack {
    pub(crate) peer: PeerKey,
    pub(crate) inputs: Vec<Input>,
}

/// What a device that is `peer`'s neighbour gets; `session` is the number that the peer uses towards it.
pub(crate) fn by_peer(by: Intrusion, peer: PeerKey, session: u32, mut fate: Prng) -> Attack {
    let frame = match by {
        Intrusion::Oversize => vec![MAJOR; FRAME_BYTES_MAX + 1],
        Intrusion::Bomb => bomb(session),
        Intrusion::Version => {
            let mut frame = pack(session, &[1]).expect("a short frame");
            frame[0] = MAJOR + 1;
            reseal(frame)
        }
        Intrusion::Babble => {
            let frame = pack(session, &[1]).map(|frame| [frame, vec![0]].concat()).expect("a short frame");
            let input = || Input::Frame { peer, bytes: frame.clone() };
            return Attack { peer, inputs: (0..=DAMAGED_FRAMES).map(|_| input()).collect() };
        }
        Intrusion::Forged => commits(session, Author::new(OUTSIDER), &mut fate, true),
        Intrusion::Smuggled => {
            let author = Author::of(self_made(fate.below(100)), 1);
            commits(session, author, &mut fate, false)
        }
        Intrusion::Slander => slander(session, &peer, &mut fate),
        _ => (0..20 + fate.below(200)).map(|_| fate.next_u64() as u8).collect(),
    };
    Attack { peer, inputs: vec![Input::Frame { peer, bytes: frame }] }
}

/// What a device gets of a stranger; `None` if the intrusion is by a peer.
pub(crate) fn by_stranger(by: Intrusion, number: u64, mut fate: Prng) -> Option<Attack> {
    let identity = match by {
        Intrusion::Foreign => {
            identity_of(&SecretKey::from_bytes(&[9; 32]), OUTSIDER.wrapping_add(number as u8))
        }
        Intrusion::Uncertified => self_made(number),
        _ => return None,
    };
    let peer = identity.peer_key();
    let author = Author::of(identity.clone(), 1);
    let hello = Hello {
        minor: MINOR,
        features: 0,
        cert: identity.cert,
        replica: author.replica,
        echo: 0,
        digest: [0; 16],
        heads_digest: [0; 16],
    };
    let hello = pack_control(SESSION, &Control::Hello(Box::new(hello))).expect("a short frame");
    let frames = [hello, commits(SESSION, Author::new(OUTSIDER), &mut fate, false)];
    let mut inputs = vec![Input::PeerUp(peer)];
    inputs.extend(frames.map(|bytes| Input::Frame { peer, bytes }));
    inputs.push(Input::PeerDown(peer));
    Some(Attack { peer, inputs })
}

/// A device with a certificate of this very account, signed by itself.
fn self_made(number: u64) -> Identity {
    let account = engine::testing::test_identity(0).account();
    let secret = SecretKey::from_bytes(&[77 + number as u8; 32]);
    let key = PeerKey(secret.public());
    let mut cert = DeviceCert::issue(&secret, key, "stranger", EPOCH_MS, true).expect("a valid name");
    cert.account = account;
    Identity { secret, cert, root: None }
}

/// A run of one commit that nobody may accept: with a signature of nobody (`forged`), or because of who brings it, or
/// who wrote it.
fn commits(session: u32, mut author: Author, fate: &mut Prng, forged: bool) -> Vec<u8> {
    let fields = BTreeMap::from([("x".to_owned(), Value::Int(-1))]);
    let steps = vec![op(TABLE, "hot-0", OpKind::Put, fields)];
    let (commit, sig): (Commit, Sig) =
        author.commit(Hlc::new(EPOCH_MS + fate.below(1_000_000), 0), BTreeMap::new(), steps);
    let sig = if forged { Sig([fate.next_u64() as u8; 64]) } else { sig };
    let runs = vec![Run { commits: vec![commit], sig }];
    pack_ops(session, &Ops { want: 0, offset: 1, done: true, runs }).expect("a short frame")
}

/// A revocation of a peer, with a signature of nobody.
fn slander(session: u32, peer: &PeerKey, fate: &mut Prng) -> Vec<u8> {
    let (device, reason) = (peer.device(), String::new());
    let said = Revocation { device, issued_ms: EPOCH_MS, reason, fences: BTreeMap::new() };
    let (commit, _) = Statement::Revoke(said).into_commit(&test_root(), Hlc::new(EPOCH_MS, 0));
    let runs = vec![Run { commits: vec![commit], sig: Sig([fate.next_u64() as u8; 64]) }];
    pack_ops(session, &Ops { want: 0, offset: 1, done: true, runs }).expect("a short frame")
}

/// Says that it inflates to more than any frame may.
fn bomb(session: u32) -> Vec<u8> {
    let mut body = Writer::new();
    body.raw(&session.to_be_bytes());
    body.varint(1 << 40);
    body.raw(&[0; 100]);
    let mut frame = vec![MAJOR, 1, 0, 0, 0, 0];
    frame.extend_from_slice(&body.into_bytes());
    reseal(frame)
}

/// Puts the checksum right.
fn reseal(mut frame: Vec<u8>) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..2]);
    hasher.update(&frame[6..]);
    frame[2..6].copy_from_slice(&hasher.finalize().to_le_bytes());
    frame
}
