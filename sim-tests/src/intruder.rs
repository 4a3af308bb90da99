//! What hostile peers say: frames that a device must refuse, whoever they seem to come from.
//!
//! Invariant: nothing here is signed with a key that the account trusts for what it says, or it waits for what never comes:
//! so no part of it may ever be in a log. What seems to come from a peer says nothing of what that peer has, which it alone
//! can know.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use engine::codec::Writer;
use engine::commit::{Commit, CommitHash, OpKind, sign_commit};
use engine::config::{FRAME_BYTES_MAX, RUN_COMMITS_MAX};
use engine::hlc::Hlc;
use engine::identity::{DeviceCert, Identity, PeerKey, ReplicaId, SecretKey, Sig};
use engine::io::Input;
use engine::prng::Prng;
use engine::statement::{Branch, ForkProof, Revocation, Statement, fork_commit};
use engine::testing::{Author, EPOCH_MS, frame_of, identity_of, nests, op, row, test_identity, test_root};
use engine::value::Value;
use engine::wire::frame::{MAJOR, pack};
use engine::wire::message::{Announce, Control, Hello, MINOR, Ops, Run, pack_control, pack_ops};

use serde::{Deserialize, Serialize};

use crate::marks::Situation;
use crate::plan::TABLE;

/// Session number of strangers.
const SESSION: u32 = 66;
/// Devices of the test account from this number on take no part in plans.
const OUTSIDER: u8 = 200;

/// Commits that wait for ever, and values in each: with the buffer that some plans have they exceed its bound of memory, a
/// megabyte at least, before that of bytes.
const FILLERS: usize = 8;
const FILLER_ITEMS: usize = 6_000;

/// What a costly frame holds: 37 MB by the rule, where 34 may be; more would only take longer to make.
const COSTLY_COMMITS: usize = 30;
const COSTLY_NESTS: usize = 50;

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
    /// A connected peer brings a proof of a fork that does not hold.
    MadeUpProof,
    /// A connected peer states another head than there is.
    FalseTags,
    /// A connected peer brings another commit under the name of one that there is, which its author did not sign.
    Rewritten,
    /// A connected peer sends a run that goes on beyond the end of a span.
    BeyondSpan,
    /// A connected peer sends commits without a signature.
    Unsigned,
    /// A connected peer sends many commits that wait for what never comes, and take much more in memory than on the way.
    Filler,
    /// A connected peer sends a small frame that takes hundreds of megabytes in memory.
    Costly,
    /// A device of another account connects, and sends commits of its own.
    Foreign,
    /// A device connects that claims to be of the account, with a certificate of its own making, and sends commits.
    Uncertified,
}

impl Intrusion {
    /// All but the costly one, which costs this machine so much, too, that few plans have it.
    pub const ALL: [Intrusion; 16] = [
        Intrusion::Noise,
        Intrusion::Oversize,
        Intrusion::Bomb,
        Intrusion::Version,
        Intrusion::Forged,
        Intrusion::Smuggled,
        Intrusion::Slander,
        Intrusion::Babble,
        Intrusion::MadeUpProof,
        Intrusion::FalseTags,
        Intrusion::Rewritten,
        Intrusion::BeyondSpan,
        Intrusion::Unsigned,
        Intrusion::Filler,
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
            Intrusion::MadeUpProof => "made-up proof of a fork",
            Intrusion::FalseTags => "made-up heads",
            Intrusion::Rewritten => "forged second commit",
            Intrusion::BeyondSpan => "run beyond a span",
            Intrusion::Unsigned => "commits without a signature",
            Intrusion::Filler => "commits that wait for ever",
            Intrusion::Costly => "frame that takes much memory",
            Intrusion::Foreign => "device of another account",
            Intrusion::Uncertified => "device without a certificate",
        }
    }

    /// Whether it ends a session in which it is said, whatever the devices know.
    pub(crate) fn ends_session(self) -> bool {
        use Intrusion::{
            BeyondSpan, Bomb, Costly, Forged, MadeUpProof, Oversize, Slander, Smuggled, Version,
        };
        matches!(
            self,
            Oversize | Bomb | Version | Forged | Smuggled | Slander | MadeUpProof | BeyondSpan | Costly
        )
    }

    /// The situation in which a session hears it, for those that go far enough.
    pub(crate) fn situation(self) -> Option<Situation> {
        Some(match self {
            Intrusion::MadeUpProof => Situation::ProofMadeUp,
            Intrusion::FalseTags => Situation::TagsMadeUp,
            Intrusion::Rewritten => Situation::CommitRewritten,
            Intrusion::BeyondSpan => Situation::SpanPassed,
            Intrusion::Unsigned => Situation::RunUnsigned,
            Intrusion::Filler => Situation::ReorderFilled,
            Intrusion::Costly => Situation::FrameCostly,
            _ => return None,
        })
    }
}

/// The last commits of replicas, of which both a device and whoever speaks to it have the same.
pub(crate) type Heads = BTreeMap<ReplicaId, (u64, CommitHash)>;

/// The peer in whose name something is said, and what it has in common with the device that hears it.
pub(crate) struct Neighbour<'a> {
    pub(crate) peer: PeerKey,
    /// The number that it uses towards the device.
    pub(crate) session: u32,
    pub(crate) heads: &'a Heads,
}

/// Who speaks, and the inputs that a device gets of it.
pub(crate) struct Attack {
    pub(crate) peer: PeerKey,
    pub(crate) inputs: Vec<Input>,
}

/// What a device gets in the name of a peer; `None` if there is nothing to say.
pub(crate) fn by_peer(by: Intrusion, neighbour: &Neighbour<'_>, mut fate: Prng) -> Option<Attack> {
    let Neighbour { peer, session, heads } = *neighbour;
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
            return Some(Attack { peer, inputs: (0..=DAMAGED_FRAMES).map(|_| input()).collect() });
        }
        Intrusion::Forged => commits(session, Author::new(OUTSIDER), &mut fate, true),
        Intrusion::Smuggled => {
            let author = Author::of(self_made(fate.below(100)), 1);
            commits(session, author, &mut fate, false)
        }
        Intrusion::Slander => slander(session, &peer, &mut fate),
        Intrusion::MadeUpProof => made_up_proof(session, &mut fate),
        Intrusion::FalseTags => {
            let (replica, (seq, hash)) = any_head(heads, &mut fate)?;
            let mut tag = [0; 8];
            tag.copy_from_slice(&hash.0[..8]);
            tag[0] ^= 1;
            let announce = Announce { heads: vec![(replica, seq)], tags: vec![tag] };
            pack_control(session, &Control::Announce(announce))?
        }
        Intrusion::Rewritten => {
            let (replica, (seq, _)) = any_head(heads, &mut fate)?;
            let mut author = Author::new(OUTSIDER);
            (author.replica, author.seq) = (replica, seq - 1);
            let (mut commit, sig) = written(&mut author, &mut fate);
            // A replica's first commit says who its author is; this one leaves that to those who know.
            if seq == 1 {
                return None;
            }
            commit.prev = CommitHash([7; 32]);
            run(session, vec![commit], sig)
        }
        Intrusion::BeyondSpan => {
            let mut author = Author::new(OUTSIDER);
            author.seq = RUN_COMMITS_MAX as u64 - 1;
            let [(mut before, _), (mut beyond, _)] = [(); 2].map(|()| written(&mut author, &mut fate));
            before.prev = CommitHash([7; 32]);
            beyond.prev = before.hash();
            let sig = sign_commit(&author.identity, &beyond.hash());
            run(session, vec![before, beyond], sig)
        }
        Intrusion::Unsigned => {
            let (commit, _) = written(&mut Author::new(OUTSIDER), &mut fate);
            run(session, vec![commit], Sig([0; 64]))
        }
        Intrusion::Filler => fillers(session, &mut fate),
        Intrusion::Costly => costly(session),
        _ => (0..20 + fate.below(200)).map(|_| fate.next_u64() as u8).collect(),
    };
    Some(Attack { peer, inputs: vec![Input::Frame { peer, bytes: frame }] })
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
    let account = test_identity(0).account();
    let secret = SecretKey::from_bytes(&[77 + number as u8; 32]);
    let key = PeerKey(secret.public());
    let mut cert = DeviceCert::issue(&secret, key, "stranger", EPOCH_MS, true).expect("a valid name");
    cert.account = account;
    Identity { secret, cert, root: None }
}

/// A run of one commit that nobody may accept: with a signature of nobody (`forged`), or because of who brings it, or
/// who wrote it.
fn commits(session: u32, mut author: Author, fate: &mut Prng, forged: bool) -> Vec<u8> {
    let (commit, sig) = written(&mut author, fate);
    // Zeros are no signature, and another matter.
    let sig = if forged { Sig([fate.next_u64() as u8 | 1; 64]) } else { sig };
    run(session, vec![commit], sig)
}

/// An author's next commit, to a row that is written often.
fn written(author: &mut Author, fate: &mut Prng) -> (Commit, Sig) {
    let fields = BTreeMap::from([("x".to_owned(), Value::Int(-1))]);
    let steps = vec![op(TABLE, "hot-0", OpKind::Put, fields)];
    author.commit(Hlc::new(EPOCH_MS + fate.below(1_000_000), 0), BTreeMap::new(), steps)
}

/// A push of one run.
fn run(session: u32, commits: Vec<Commit>, sig: Sig) -> Vec<u8> {
    let runs = vec![Run { commits, sig }];
    pack_ops(session, &Ops { want: 0, offset: 1, done: true, runs }).expect("a short frame")
}

/// One of the heads, if there are any.
fn any_head(heads: &Heads, fate: &mut Prng) -> Option<(ReplicaId, (u64, CommitHash))> {
    let at = fate.below(heads.len().max(1) as u64) as usize;
    heads.iter().nth(at).map(|(replica, head)| (*replica, *head))
}

/// A proof of a fork of a device that takes no part, which would hold but for one thing.
fn made_up_proof(session: u32, fate: &mut Prng) -> Vec<u8> {
    let mut one = Author::new(OUTSIDER);
    let first = written(&mut one, fate).0;
    let mut other = one.clone();
    let branches = [written(&mut one, fate), written(&mut other, fate)];
    let branches = branches.map(|(commit, sig)| Branch { contents: vec![commit.content()], sig });
    let author = one.identity.cert.clone();
    let end = (first.dot.seq, first.hash());
    let mut proof = ForkProof::new(author, one.replica.incarnation, end, branches);
    match fate.below(6) {
        0 => proof.hash = CommitHash([9; 32]),
        1 => proof.seq += 1,
        2 => proof.incarnation ^= 1,
        3 => proof.branches[1] = proof.branches[0].clone(),
        4 => proof.branches[0].sig = Sig([0; 64]),
        // Of a device that takes part: the first one's certificate is known to all.
        _ => proof.author = test_identity(0).cert,
    }
    run(session, vec![fork_commit(&test_identity(0).account(), proof)], Sig([0; 64]))
}

/// Commits of a device that takes no part, each of which waits for one that nobody ever writes.
fn fillers(session: u32, fate: &mut Prng) -> Vec<u8> {
    let (mut author, missing) = (Author::new(OUTSIDER + 1), Author::new(OUTSIDER + 2).replica);
    // Another life each time: what waits already is not taken in again.
    author.replica.incarnation = 1 + fate.below(1_000);
    let mut filler = |n: usize| {
        let ops = row(Value::List(vec![Value::Null; FILLER_ITEMS]));
        let deps = BTreeMap::from([(missing, n as u64 + 1)]);
        let (commit, sig) = author.commit(Hlc::new(EPOCH_MS, n as u16), deps, ops);
        Run { commits: vec![commit], sig }
    };
    let runs = (0..FILLERS).map(&mut filler).collect();
    pack_ops(session, &Ops { want: 0, offset: 1, done: true, runs }).expect("a short frame")
}

/// A frame that takes more memory than a frame may. It is made once: that costs as much as a plan.
fn costly(session: u32) -> Vec<u8> {
    static FRAME: OnceLock<Vec<u8>> = OnceLock::new();
    let made =
        FRAME.get_or_init(|| frame_of(1, Author::new(OUTSIDER), COSTLY_COMMITS, &|| nests(COSTLY_NESTS)));
    let mut frame = made.clone();
    frame[6..10].copy_from_slice(&session.to_be_bytes());
    reseal(frame)
}

/// A revocation of a peer, with a signature of nobody.
fn slander(session: u32, peer: &PeerKey, fate: &mut Prng) -> Vec<u8> {
    let (device, reason) = (peer.device(), String::new());
    let said = Revocation { device, issued_ms: EPOCH_MS, reason, fences: BTreeMap::new() };
    let (commit, _) = Statement::Revoke(said).into_commit(&test_root(), Hlc::new(EPOCH_MS, 0));
    run(session, vec![commit], Sig([fate.next_u64() as u8; 64]))
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
