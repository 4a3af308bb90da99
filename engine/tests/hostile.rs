//! What peers must not be able to do, and what a device says to them: foreign accounts, stolen certificates,
//! other versions, damaged, oversize and nonsensical frames, forged commits, floods.

use std::collections::BTreeMap;

use engine::codec::Writer;
use engine::commit::{Commit, CommitHash, Op, OpKind, sign_commit};
use engine::config::{CONTROL_BYTES_MAX, Config, FRAME_BYTES_MAX, REPLICAS_FOR_STATEMENTS, REPLICAS_MAX};
use engine::hlc::Hlc;
use engine::identity::{PeerKey, SecretKey, Sig};
use engine::io::{Change, Event, Input};
use engine::knowledge::Knowledge;
use engine::name::{FieldName, RowKey, TableName};
use engine::prng::Prng;
use engine::statement::{Branch, ForkProof, Revocation, Statement, fork_commit};
use engine::store::StoreRead;
use engine::testing::{Author, Mesh, identity_of, op, test_identity, test_root};
use engine::value::Value;
use engine::wire::frame::{MAJOR, pack};
use engine::wire::message::{
    Ack, Announce, Control, Fault, Have, Ops, Run, Summary, Want, pack_control, pack_ops, summary,
};

fn put(row: &str, value: i64) -> Vec<Change> {
    vec![Change {
        table: TableName::new("t").unwrap(),
        row: RowKey::new(row).unwrap(),
        kind: OpKind::Put,
        fields: BTreeMap::from([(FieldName::new("x").unwrap(), Value::Int(value))]),
    }]
}

fn faults(mesh: &Mesh, node: usize) -> Vec<Fault> {
    let fault = |(at, event): &(usize, Event)| match event {
        Event::PeerFault { fault, .. } if *at == node => Some(*fault),
        _ => None,
    };
    mesh.events.iter().filter_map(fault).collect()
}

/// One real device with data, and a peer whose frames the test makes by hand. The peer is the 9th device of the
/// account and has said a valid `Hello`.
struct Attack {
    mesh: Mesh,
    peer: PeerKey,
    author: Author,
}

const SESSION: u32 = 77;

impl Attack {
    fn new(config: Config) -> Attack {
        let mut mesh = Mesh::new(1, 5, config);
        mesh.write(0, put("a", 1));
        let author = Author::new(9);
        let peer = author.identity.peer_key();
        mesh.input(0, Input::PeerUp(peer));
        let mut attack = Attack { mesh, peer, author };
        let hello = attack.author.hello();
        attack.control(&Control::Hello(Box::new(hello)));
        assert!(attack.mesh.engine(0).stats().peers[0].ready);
        attack
    }

    fn control(&mut self, message: &Control) {
        self.raw(pack_control(SESSION, message).unwrap());
    }

    fn raw(&mut self, frame: Vec<u8>) {
        self.mesh.inject(0, self.peer, frame);
    }

    fn connected(&self) -> bool {
        !self.mesh.engine(0).stats().peers.is_empty()
    }

    /// Whatever happened, the device's own data is as it was and it can still write.
    fn assert_unharmed(&mut self, commits: u64) {
        let recovered = self.mesh.store(0).recover().unwrap();
        assert_eq!(recovered.position, commits);
        let id = self.mesh.write(0, put("b", 2));
        assert!(self.mesh.results[&id].is_ok());
    }
}

/// An account's statement with a signature of one's own making.
fn statement(statement: Statement, sign: impl Fn(&CommitHash) -> Sig) -> Ops<Commit> {
    let (commit, _) = statement.into_commit(&test_root(), Hlc::new(1_700_000_000_000, 0));
    let sig = sign(&commit.hash());
    Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits: vec![commit], sig }] }
}

#[test]
fn a_statement_that_the_root_key_did_not_sign_is_refused() {
    let device = test_identity(0).device();
    let revocation = Revocation { device, issued_ms: 1, reason: String::new(), fences: BTreeMap::new() };
    let mut attack = Attack::new(Config::default());
    let identity = attack.author.identity.clone();
    let ops = statement(Statement::Revoke(revocation), |hash| sign_commit(&identity, hash));
    attack.raw(pack_ops(SESSION, &ops).unwrap());
    assert_eq!(faults(&attack.mesh, 0), [Fault::BadSignature]);
    assert!(!attack.mesh.engine(0).revoked() && !attack.connected());
    attack.assert_unharmed(2);
}

#[test]
fn a_device_that_fills_all_replicas_leaves_room_for_the_statement_that_revokes_it() {
    let mut attack = Attack::new(Config::default());
    let hostile = attack.author.identity.clone();
    let mut lives = 0;
    while attack.connected() {
        lives += 1;
        assert!(lives <= REPLICAS_MAX as u64, "it is never stopped");
        let mut life = Author::of(hostile.clone(), 1_000 + lives);
        let row = op("t", &format!("row {lives}"), OpKind::Put, BTreeMap::from([("x".into(), Value::Null)]));
        let (commit, sig) = life.commit(Hlc::new(1_700_000_000_000, 0), BTreeMap::new(), vec![row]);
        let ops = Ops { want: 0, offset: lives, done: true, runs: vec![Run { commits: vec![commit], sig }] };
        attack.raw(pack_ops(SESSION, &ops).unwrap());
    }
    assert_eq!(faults(&attack.mesh, 0), [Fault::Protocol]);
    // Our own replica is one of those that may be.
    let taken = (REPLICAS_MAX - REPLICAS_FOR_STATEMENTS) as u64 - 1;
    assert_eq!(lives, taken + 1, "all but the last were taken in");
    assert_eq!(attack.mesh.store(0).recover().unwrap().heads.len() as u64, taken + 1);
    // Another device brings what an administrator says of it.
    attack.author = Author::new(8);
    attack.peer = attack.author.identity.peer_key();
    attack.mesh.input(0, Input::PeerUp(attack.peer));
    let hello = attack.author.hello();
    attack.control(&Control::Hello(Box::new(hello)));
    let device = hostile.device();
    let revocation = Revocation { device, issued_ms: 1, reason: String::new(), fences: BTreeMap::new() };
    let (commit, sig) =
        Statement::Revoke(revocation).into_commit(&test_root(), Hlc::new(1_700_000_000_000, 0));
    let ops = Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits: vec![commit], sig }] };
    attack.raw(pack_ops(SESSION, &ops).unwrap());
    attack.mesh.run_ms(500);
    let quarantine = attack.mesh.store(0).quarantine(None, usize::MAX).unwrap();
    assert_eq!(quarantine.len() as u64, taken, "nothing of what it wrote counts");
    assert_eq!(attack.mesh.store(0).recover().unwrap().heads.len(), 2, "ours, and the statement");
    // There is room again.
    let (commit, sig) = attack.author.commit(Hlc::new(1_700_000_000_000, 0), BTreeMap::new(), vec![]);
    let ops = Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits: vec![commit], sig }] };
    attack.raw(pack_ops(SESSION, &ops).unwrap());
    // And two of our own.
    attack.assert_unharmed(taken + 2 + 2);
}

#[test]
fn a_proof_of_a_fork_that_does_not_hold_is_refused() {
    let [mut one, mut other] = [Author::new(9), Author::new(9)];
    let (first, second, forked) = (write(&mut one, 1), write(&mut one, 2), {
        write(&mut other, 1);
        write(&mut other, 3)
    });
    let third = write(&mut one, 4);
    let good = proof(&one, &first.0, [&second, &forked]);
    assert!(good.holds(&one.identity.account()));
    let with = |change: &dyn Fn(&mut ForkProof)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let foreign = identity_of(&SecretKey::from_bytes(&[7; 32]), 9);
    let swapped = |branch: usize| {
        with(&|proof| {
            proof.branches[branch].contents = vec![third.0.content()];
            proof.branches.sort_by(|one, other| one.contents.cmp(&other.contents));
        })
    };
    let bad = [
        ("another commit before", with(&|proof| proof.hash = CommitHash([9; 32]))),
        ("another number", with(&|proof| proof.seq = 2)),
        ("another life", with(&|proof| proof.incarnation ^= 1)),
        ("one branch twice", with(&|proof| proof.branches[1] = proof.branches[0].clone())),
        ("the other way round", with(&|proof| proof.branches.reverse())),
        ("the first says something else", swapped(0)),
        ("the second says something else", swapped(1)),
        ("a branch that goes on", with(&|proof| proof.branches[0].contents.push(third.0.content()))),
        ("a branch of nothing", with(&|proof| proof.branches[0].contents.clear())),
        ("signed by nobody", with(&|proof| proof.branches[0].sig = Sig([0; 64]))),
        (
            "signed by another device",
            with(&|proof| {
                proof.branches[1].sig = sign_commit(&test_identity(8), &forked.0.hash());
            }),
        ),
        (
            "signed for another account",
            with(&|proof| {
                proof.branches = [&second, &forked].map(|(commit, _)| Branch {
                    contents: vec![commit.content()],
                    sig: sign_commit(&foreign, &commit.hash()),
                });
                proof.branches.sort_by(|one, other| one.contents.cmp(&other.contents));
            }),
        ),
        ("a certificate of another device", with(&|proof| proof.author = test_identity(8).cert)),
    ];
    for (name, proof) in bad {
        let mut attack = Attack::new(Config::default());
        let commit = fork_commit(&attack.author.identity.account(), proof);
        let runs = vec![Run { commits: vec![commit], sig: Sig([0; 64]) }];
        attack.raw(pack_ops(SESSION, &Ops { want: 0, offset: 0, done: true, runs }).unwrap());
        assert_eq!(faults(&attack.mesh, 0), [Fault::BadSignature], "{name}");
        attack.assert_unharmed(2);
    }
}

/// The author's next commit, to a row that others of its branches write, too.
fn write(author: &mut Author, n: i64) -> (Commit, Sig) {
    let fields = BTreeMap::from([("x".to_owned(), Value::Int(n))]);
    let at = Hlc::new(1_700_000_000_000, author.seq as u16);
    author.commit(at, Default::default(), vec![op("t", "forked", OpKind::Put, fields)])
}

/// A proof of branches of one commit each, that part after this one.
fn proof(author: &Author, last: &Commit, branches: [&(Commit, Sig); 2]) -> ForkProof {
    let branch = |(commit, sig): &(Commit, Sig)| Branch { contents: vec![commit.content()], sig: *sig };
    let end = (last.dot.seq, last.hash());
    ForkProof::new(author.identity.cert.clone(), author.replica.incarnation, end, branches.map(branch))
}

#[test]
fn a_proof_of_a_fork_ends_the_replica_at_the_fence_and_leaves_the_device() {
    let mut attack = Attack::new(Config::default());
    let [mut one, mut other] = [Author::new(9), Author::new(9)];
    let (first, second, forked) = (write(&mut one, 1), write(&mut one, 2), {
        write(&mut other, 1);
        write(&mut other, 3)
    });
    for (commit, sig) in [&first, &second] {
        let runs = vec![Run { commits: vec![commit.clone()], sig: *sig }];
        attack.raw(pack_ops(SESSION, &Ops { want: 0, offset: 0, done: true, runs }).unwrap());
    }
    assert_eq!(attack.mesh.engine(0).knowledge().prefix_len(&attack.author.replica), 2);
    let proof = proof(&attack.author, &first.0, [&second, &forked]);
    let commit = fork_commit(&attack.author.identity.account(), proof);
    let runs = vec![Run { commits: vec![commit], sig: Sig([0; 64]) }];
    attack.raw(pack_ops(SESSION, &Ops { want: 0, offset: 0, done: true, runs }).unwrap());
    attack.mesh.run_ms(10);
    assert_eq!(attack.mesh.engine(0).knowledge().prefix_len(&attack.author.replica), 1);
    assert_eq!(attack.mesh.store(0).quarantine(None, 9).unwrap().len(), 1);
    assert!(attack.connected() && faults(&attack.mesh, 0).is_empty());
    let event = |event: &Event| matches!(event, Event::Forked { seq: 1, retracted: 1, .. });
    assert!(attack.mesh.events.iter().any(|(_, one)| event(one)));
    engine::store::contract::state_follows_from_log(attack.mesh.store(0));
}

#[test]
fn a_run_without_a_signature_counts_only_as_far_as_a_fence_vouches_for_it() {
    let mut attack = Attack::new(Config::default());
    let [mut one, mut other] = [Author::new(9), Author::new(9)];
    let shared = [write(&mut one, 1), write(&mut one, 2)].map(|(commit, _)| commit);
    (1..=2).for_each(|n| drop(write(&mut other, n)));
    let (third, forked) = (write(&mut one, 3), write(&mut other, 4));
    let [first, second] = shared;
    let bring = |attack: &mut Attack, commits: Vec<Commit>| {
        let runs = vec![Run { commits, sig: Sig([0; 64]) }];
        attack.raw(pack_ops(SESSION, &Ops { want: 0, offset: 0, done: true, runs }).unwrap());
        attack.mesh.run_ms(10);
        attack.mesh.engine(0).knowledge().prefix_len(&attack.author.replica)
    };
    assert_eq!(bring(&mut attack, vec![first.clone(), second.clone()]), 0, "nobody vouches yet");
    let proof = proof(&attack.author, &second, [&third, &forked]);
    let proof = fork_commit(&attack.author.identity.account(), proof);
    assert_eq!(bring(&mut attack, vec![proof]), 0);
    assert_eq!(bring(&mut attack, vec![first.clone()]), 0, "it ends before the fence");
    // Commits that are like the author's and were never signed.
    let mut made_up = Author::new(9);
    let invented = [write(&mut made_up, 1), write(&mut made_up, 7)].map(|(commit, _)| commit);
    assert_eq!(bring(&mut attack, invented.to_vec()), 0, "another commit at the fence");
    assert_eq!(bring(&mut attack, vec![first, second, third.0]), 2, "cut at the fence");
    let log = attack.mesh.store(0).commits(&attack.author.replica, 2, 9, usize::MAX).unwrap();
    assert_eq!(log.iter().map(|stored| stored.sig).collect::<Vec<_>>(), [Some(Sig([0; 64]))]);
    assert!(attack.connected() && faults(&attack.mesh, 0).is_empty());
    engine::store::contract::state_follows_from_log(attack.mesh.store(0));
}

#[test]
fn a_peer_of_another_account_is_refused_with_a_word_on_both_sides() {
    let foreign = identity_of(&SecretKey::from_bytes(&[7; 32]), 1);
    let mut mesh = Mesh::with_identities(vec![test_identity(0), foreign], 1, Config::default());
    mesh.write(0, put("a", 1));
    mesh.write(1, put("b", 1));
    mesh.connect(0, 1);
    mesh.run_ms(500);
    assert!(
        faults(&mesh, 0).contains(&Fault::ForeignAccount)
            || faults(&mesh, 1).contains(&Fault::ForeignAccount)
    );
    let text = |node| {
        mesh.events.iter().any(|(at, event)| {
            *at == node && matches!(event, Event::PeerFault { text, .. } if text.contains("another account"))
        })
    };
    assert!(text(0) && text(1), "{:?}", mesh.events);
    for node in 0..2 {
        assert_eq!(mesh.engine(node).knowledge().replicas(), 1);
        assert_eq!(mesh.engine(node).members().count(), 1);
    }
}

#[test]
fn a_stolen_certificate_is_of_no_use_without_its_key() {
    let mut mesh = Mesh::new(1, 2, Config::default());
    let thief = test_identity(8).peer_key();
    mesh.input(0, Input::PeerUp(thief));
    let victim = Author::new(9);
    let hello = victim.hello();
    mesh.inject(0, thief, pack_control(SESSION, &Control::Hello(Box::new(hello))).unwrap());
    assert_eq!(faults(&mesh, 0), [Fault::Unauthorised]);
    assert!(mesh.engine(0).stats().peers.is_empty());
}

#[test]
fn a_certificate_that_the_root_key_did_not_sign_is_refused() {
    let mut mesh = Mesh::new(1, 2, Config::default());
    let mut identity = test_identity(8);
    identity.cert.name = "administrator".into();
    mesh.input(0, Input::PeerUp(identity.peer_key()));
    let peer = identity.peer_key();
    let hello = Author::of(identity, 1).hello();
    mesh.inject(0, peer, pack_control(SESSION, &Control::Hello(Box::new(hello))).unwrap());
    assert_eq!(faults(&mesh, 0), [Fault::Unauthorised]);
}

#[test]
fn nothing_is_taken_from_a_peer_before_its_hello() {
    let mut mesh = Mesh::new(1, 3, Config::default());
    let mut author = Author::new(9);
    let peer = author.identity.peer_key();
    mesh.input(0, Input::PeerUp(peer));
    let (commit, sig) = author.commit(Hlc::new(1, 0), BTreeMap::new(), Vec::new());
    let ops = Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits: vec![commit], sig }] };
    mesh.inject(0, peer, pack_ops(SESSION, &ops).unwrap());
    assert_eq!(mesh.engine(0).knowledge().replicas(), 1);
    mesh.run_ms(20_000);
    assert!(faults(&mesh, 0).contains(&Fault::HandshakeTimeout));
}

#[test]
fn another_major_version_is_told_apart_from_noise_and_said_on_both_sides() {
    let mut attack = Attack::new(Config::default());
    let mut frame = pack(SESSION, &[7]).unwrap();
    frame[0] = MAJOR + 1;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&frame[..2]);
    sum.update(&frame[6..]);
    frame[2..6].copy_from_slice(&sum.finalize().to_le_bytes());
    attack.mesh.transcript = Some(Vec::new());
    attack.raw(frame);
    assert_eq!(faults(&attack.mesh, 0), [Fault::Version]);
    assert!(!attack.connected());
    attack.assert_unharmed(2);
}

#[test]
fn damaged_frames_are_passed_over_until_there_are_too_many() {
    let mut attack = Attack::new(Config::default());
    let good =
        pack_control(SESSION, &Control::Announce(Announce { heads: Vec::new(), tags: Vec::new() })).unwrap();
    for n in 0..200 {
        let mut frame = good.clone();
        frame[n % good.len()] ^= 0x40;
        attack.raw(frame);
        assert_eq!(attack.connected(), n < 64, "after {n}");
    }
    attack.assert_unharmed(2);
}

#[test]
fn an_oversize_frame_and_an_oversize_control_frame_end_the_session() {
    for frame in [
        vec![MAJOR; FRAME_BYTES_MAX + 1],
        pack(SESSION, &[vec![3], vec![0; 2 * CONTROL_BYTES_MAX]].concat()).unwrap(),
    ] {
        let mut attack = Attack::new(Config::default());
        attack.raw(frame);
        assert_eq!(faults(&attack.mesh, 0), [Fault::Protocol]);
        attack.assert_unharmed(2);
    }
}

#[test]
fn a_message_of_a_later_minor_version_is_passed_over() {
    let mut attack = Attack::new(Config::default());
    attack.raw(pack(SESSION, &[200, 1, 2, 3]).unwrap());
    // And so are fields that a later minor version appends to a known message.
    let mut payload = vec![7];
    payload.extend(postcard::to_stdvec(&(5u32, 6u64)).unwrap());
    payload.extend([9, 9, 9]);
    attack.raw(pack(SESSION, &payload).unwrap());
    assert!(attack.connected());
    assert_eq!(attack.mesh.engine(0).stats().peers[0].traffic.frames_dropped, 1);
}

#[test]
fn a_commit_that_its_author_did_not_sign_is_refused_and_the_relay_cut_off() {
    let mut attack = Attack::new(Config::default());
    let (mut commit, sig) = attack.author.commit(
        Hlc::new(1_700_000_000_000, 0),
        BTreeMap::new(),
        vec![op("t", "a", OpKind::Put, BTreeMap::from([("x".into(), Value::Int(6))]))],
    );
    commit.ops[0].fields.insert(FieldName::new("x").unwrap(), Value::Int(7));
    let ops = Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits: vec![commit], sig }] };
    attack.raw(pack_ops(SESSION, &ops).unwrap());
    assert_eq!(faults(&attack.mesh, 0), [Fault::BadSignature]);
    attack.assert_unharmed(2);
}

#[test]
fn a_member_cannot_write_in_the_name_of_another() {
    let mut attack = Attack::new(Config::default());
    // The ninth device signs a commit that names the eighth as its author.
    let mut forged = Author::new(9);
    forged.replica = Author::new(8).replica;
    let (commit, sig) = forged.commit(Hlc::new(1_700_000_000_000, 0), BTreeMap::new(), Vec::<Op>::new());
    let ops = Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits: vec![commit], sig }] };
    attack.raw(pack_ops(SESSION, &ops).unwrap());
    assert_eq!(faults(&attack.mesh, 0), [Fault::Protocol]);
    attack.assert_unharmed(2);
}

#[test]
fn two_commits_under_one_name_raise_an_alarm_and_the_first_stays() {
    let mut attack = Attack::new(Config::default());
    let mut twin = Author::new(9);
    let row = |value| vec![op("t", "a", OpKind::Put, BTreeMap::from([("x".into(), Value::Int(value))]))];
    for (author, value) in [(&mut attack.author, 1), (&mut twin, 2)] {
        let first = author.commit(Hlc::new(1_700_000_000_000, 0), BTreeMap::new(), row(value));
        let second = author.commit(Hlc::new(1_700_000_000_001, 0), BTreeMap::new(), row(value));
        let runs = vec![Run { commits: vec![first.0, second.0], sig: second.1 }];
        let frame = pack_ops(SESSION, &Ops { want: 0, offset: 0, done: true, runs }).unwrap();
        attack.mesh.inject(0, attack.peer, frame);
    }
    assert!(attack.mesh.events.iter().any(|(_, event)| matches!(event, Event::Fork { .. })));
    attack.assert_unharmed(4);
}

#[test]
fn a_fork_is_not_reported_on_the_word_of_one_who_cannot_sign() {
    let mut attack = Attack::new(Config::default());
    let mut forged = Author::new(8);
    forged.replica = attack.mesh.engine(0).replica();
    forged.identity = test_identity(0);
    let (commit, mut sig) = forged.commit(Hlc::new(5, 5), BTreeMap::new(), Vec::new());
    let (second, _) = forged.commit(Hlc::new(6, 5), BTreeMap::new(), Vec::new());
    sig.0[3] ^= 1;
    let ops = Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits: vec![commit, second], sig }] };
    attack.raw(pack_ops(SESSION, &ops).unwrap());
    assert_eq!(faults(&attack.mesh, 0), [Fault::BadSignature]);
    assert!(!attack.mesh.events.iter().any(|(_, event)| matches!(event, Event::Fork { .. })));
    attack.assert_unharmed(2);
}

#[test]
fn runs_that_depend_on_what_never_comes_stay_within_the_buffer() {
    let config = Config { reorder_bytes_max: 20_000, ..Config::default() };
    let mut attack = Attack::new(config);
    let missing = Author::new(7).replica;
    for n in 0..500u64 {
        let deps = BTreeMap::from([(missing, n + 1)]);
        let row = op("t", "a", OpKind::Put, BTreeMap::from([("x".into(), Value::Text("y".repeat(200)))]));
        let (commit, sig) = attack.author.commit(Hlc::new(1_700_000_000_000, n as u16), deps, vec![row]);
        let ops = Ops { want: 0, offset: n, done: true, runs: vec![Run { commits: vec![commit], sig }] };
        attack.raw(pack_ops(SESSION, &ops).unwrap());
        assert!(attack.mesh.engine(0).stats().waiting_bytes <= 20_000);
    }
    assert!(attack.mesh.engine(0).stats().waiting_commits > 10);
    attack.assert_unharmed(2);
}

#[test]
fn a_request_for_everything_is_answered_no_further_than_its_credit() {
    let mut attack = Attack::new(Config { batch_bytes: 2_000, ..Config::default() });
    for n in 0..200 {
        attack.mesh.write(0, put(&format!("row {n}"), n));
    }
    let mut ranges = Knowledge::default();
    ranges.insert(attack.mesh.engine(0).replica(), 1, i64::MAX as u64);
    attack.control(&Control::Want(Want { id: 1, ranges, credit: 4_000 }));
    attack.mesh.run_ms(200);
    let sent = attack.mesh.engine(0).stats().peers[0].traffic.commits_sent;
    assert!(sent > 20 && sent < 120, "{sent} commits");
    // An acknowledgement of more than was sent does no harm, and gives the rest.
    attack.control(&Control::Ack(Ack { want: 1, credit: u64::MAX, pushed: u64::MAX, heads: Vec::new() }));
    attack.mesh.run_ms(200);
    attack.assert_unharmed(202);
}

#[test]
fn arbitrary_payloads_from_a_member_never_panic_and_change_nothing() {
    let mut prng = Prng::new([3; 32]);
    let samples: Vec<Vec<u8>> = {
        let mut author = Author::new(9);
        let (commit, sig) = author.commit(Hlc::new(1_700_000_000_000, 0), BTreeMap::new(), Vec::new());
        let ops = Ops { want: 0, offset: 1, done: true, runs: vec![Run { commits: vec![commit], sig }] };
        let mut ranges = Knowledge::default();
        ranges.insert(author.replica, 3, 9);
        vec![
            pack_ops(SESSION, &ops).unwrap(),
            pack_control(SESSION, &Control::Want(Want { id: 1, ranges, credit: 9 })).unwrap(),
            pack_control(
                SESSION,
                &Control::Announce(Announce { heads: vec![(author.replica, 4)], tags: Vec::new() }),
            )
            .unwrap(),
        ]
    };
    for _ in 0..3_000 {
        let mut attack = Attack::new(Config::default());
        for _ in 0..4 {
            let sample = &samples[prng.below(samples.len() as u64) as usize];
            // Changed below the checksum, so that the parser behind it is reached.
            let mut payload = sample[10..].to_vec();
            for _ in 0..prng.below(4) {
                let at = prng.below(payload.len() as u64) as usize;
                payload[at] = prng.next_u64() as u8;
            }
            payload.truncate(payload.len() - prng.below(3) as usize);
            attack.raw(pack(SESSION, &payload).unwrap());
        }
        attack.mesh.run_ms(5_000);
        let position = attack.mesh.store(0).recover().unwrap().position;
        assert!(position <= 3, "only the genuine sample may have been applied");
        attack.assert_unharmed(position);
    }
}

#[test]
fn no_frame_of_a_message_survives_a_lengthened_body_of_another_kind() {
    // A kind byte that is changed makes another message of the same bytes: it is parsed or refused, never trusted.
    let mut attack = Attack::new(Config::default());
    let mut writer = Writer::new();
    (0..40u8).for_each(|n| writer.u8(n));
    let body = writer.into_bytes();
    for kind in 0..=255u8 {
        let mut payload = vec![kind];
        payload.extend_from_slice(&body);
        attack.raw(pack(SESSION, &payload).unwrap());
    }
    attack.assert_unharmed(2);
    let _ = test_root();
}

#[test]
fn dependencies_that_overflow_when_added_up_are_missing_all_the_same() {
    let mut attack = Attack::new(Config::default());
    let (one, two) = (Author::new(6).replica, Author::new(7).replica);
    let deps = BTreeMap::from([(one, u64::MAX), (two, 1)]);
    let (commit, sig) = attack.author.commit(Hlc::new(1_700_000_000_000, 0), deps, Vec::new());
    let ops = Ops { want: 0, offset: 1, done: true, runs: vec![Run { commits: vec![commit], sig }] };
    attack.raw(pack_ops(SESSION, &ops).unwrap());
    attack.assert_unharmed(2);
}

#[test]
fn heads_beyond_all_measure_can_be_counted() {
    let mut attack = Attack::new(Config::default());
    let heads = (0..5).map(|n| (Author::new(n).replica, i64::MAX as u64)).collect();
    attack.control(&Control::Announce(Announce { heads, tags: Vec::new() }));
    assert_eq!(attack.mesh.engine(0).stats().peers[0].ahead, u64::MAX);
    attack.assert_unharmed(2);
}

#[test]
fn a_run_waits_for_its_authors_first_commit_even_if_that_waits_too() {
    // Three runs that can be applied only together: one: 1-2, 3; two: 1-2, where two:2 needs one:3, and one:2 needs two:1.
    let mut attack = Attack::new(Config::default());
    let (mut one, mut two) = (Author::new(6), Author::new(7));
    let hlc = Hlc::new(1_700_000_000_000, 0);
    let none = BTreeMap::new;
    let first = one.commit(hlc, none(), Vec::new());
    let second = one.commit(hlc, BTreeMap::from([(two.replica, 1)]), Vec::new());
    let third = one.commit(hlc, none(), Vec::new());
    let other = two.commit(hlc, none(), Vec::new());
    let last = two.commit(hlc, BTreeMap::from([(one.replica, 3)]), Vec::new());
    let runs = [
        Run { commits: vec![other.0, last.0], sig: last.1 },
        Run { commits: vec![first.0, second.0], sig: second.1 },
        Run { commits: vec![third.0], sig: third.1 },
    ];
    for (n, run) in runs.into_iter().enumerate() {
        let ops = Ops { want: 0, offset: n as u64, done: true, runs: vec![run] };
        attack.raw(pack_ops(SESSION, &ops).unwrap());
    }
    attack.assert_unharmed(7);
}

#[test]
fn a_peer_that_speaks_of_ever_more_scattered_commits_is_cut_off() {
    let mut attack = Attack::new(Config::default());
    for n in 0..100u64 {
        let mut knowledge = Knowledge::default();
        (0..60).for_each(|k| {
            knowledge.insert(attack.author.replica, 1000 * n + 2 * k + 1, 1000 * n + 2 * k + 1);
        });
        attack.control(&Control::Have(Have { state: [0; 16], knowledge, reply: false, tags: Vec::new() }));
    }
    assert_eq!(faults(&attack.mesh, 0), [Fault::Protocol]);
    attack.assert_unharmed(2);
}

#[test]
fn what_is_noted_of_scattered_runs_is_bounded() {
    let mut attack = Attack::new(Config { reorder_bytes_max: 2_000, ..Config::default() });
    let mut lives = Vec::new();
    for n in 0..3_000u64 {
        let (commit, sig) = attack.author.commit(Hlc::new(1_700_000_000_000, 0), BTreeMap::new(), Vec::new());
        if n % 2 == 1 {
            lives.push((commit, sig));
        }
    }
    for (n, (commit, sig)) in lives.into_iter().enumerate() {
        let first = Run { commits: vec![commit], sig };
        let ops = Ops { want: 0, offset: n as u64, done: true, runs: vec![first] };
        attack.raw(pack_ops(SESSION, &ops).unwrap());
    }
    assert!(attack.mesh.engine(0).stats().peers[0].ahead <= 64);
    attack.assert_unharmed(2);
}

#[test]
fn a_full_buffer_gives_up_what_is_farthest_from_applicable() {
    let mut attack = Attack::new(Config { reorder_bytes_max: 3_000, ..Config::default() });
    let commits: Vec<_> = (0..100)
        .map(|_| attack.author.commit(Hlc::new(1_700_000_000_000, 0), BTreeMap::new(), Vec::new()))
        .collect();
    let push = |attack: &mut Attack, n: usize| {
        let (commit, sig) = commits[n].clone();
        let runs = vec![Run { commits: vec![commit], sig }];
        attack.raw(pack_ops(SESSION, &Ops { want: 0, offset: 0, done: true, runs }).unwrap());
    };
    // The member's key is known from its `Hello`. Its second commit waits for its first, the others for many more.
    push(&mut attack, 1);
    (20..100).for_each(|n| push(&mut attack, n));
    assert!(attack.mesh.engine(0).stats().waiting_commits < 60);
    push(&mut attack, 0);
    attack.assert_unharmed(4);
}

#[test]
fn no_more_is_pushed_to_a_peer_that_confirms_nothing_than_the_limit() {
    let mut attack = Attack::new(Config { push_bytes_max: 10_000, ..Config::default() });
    let engine = attack.mesh.engine(0);
    let (knowledge, state) = (engine.knowledge().clone(), engine.digest().to_be_bytes());
    attack.control(&Control::Have(Have { state, knowledge, reply: false, tags: Vec::new() }));
    for n in 0..500 {
        attack.mesh.write(0, put(&format!("row {n}"), n));
    }
    let sent = attack.mesh.engine(0).stats().peers[0].traffic.commits_sent;
    assert!((20..120).contains(&sent), "{sent} commits");
}

#[test]
fn equal_knowledge_and_different_rows_raise_an_alarm_once() {
    let mut attack = Attack::new(Config::default());
    let knowledge = attack.mesh.engine(0).knowledge().clone();
    for _ in 0..3 {
        attack.control(&Control::Have(Have {
            state: [9; 16],
            knowledge: knowledge.clone(),
            reply: false,
            tags: Vec::new(),
        }));
    }
    let alarms = attack.mesh.events.iter().filter(|(_, event)| matches!(event, Event::Diverged { .. }));
    assert_eq!(alarms.count(), 1);
    attack.assert_unharmed(2);
}

#[test]
fn a_summary_is_answered_by_one_where_nothing_differs_and_else_by_all_that_is_known() {
    let mut attack = Attack::new(Config::default());
    let engine = attack.mesh.engine(0);
    let same = summary(engine.knowledge(), engine.digest());
    let frames = |attack: &mut Attack, digest, reply| {
        let sent = |mesh: &Mesh| mesh.engine(0).stats().peers[0].traffic;
        let before = sent(&attack.mesh);
        attack.control(&Control::Summary(Summary { digest, reply }));
        let after = sent(&attack.mesh);
        (after.frames_sent - before.frames_sent, after.bytes_sent - before.bytes_sent)
    };
    assert_eq!(frames(&mut attack, same, false), (0, 0));
    assert_eq!(frames(&mut attack, [1; 16], false), (0, 0));
    assert_eq!(frames(&mut attack, same, true).0, 1);
    let (count, bytes) = frames(&mut attack, [1; 16], true);
    assert!(count == 1 && bytes > 28, "{count} frames, {bytes} bytes");
    attack.assert_unharmed(2);
}
