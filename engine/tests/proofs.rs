//! Proofs of forks are bounded, whatever the forked commits hold and however often a device forks. Spans bound them: no run
//! goes beyond the last commit of one, so every log has a signature there, and a branch goes on to the next signature.

mod common;

use common::{equal, full_mesh, put, quarantined, read};
use engine::commit::{Commit, CommitHash, ContentHash, OpKind, link, sign_commit, span};
use engine::config::{COMMIT_BYTES_MAX, Config, REPLICAS_FOR_STATEMENTS, REPLICAS_MAX, RUN_COMMITS_MAX};
use engine::hlc::Hlc;
use engine::identity::{Dot, Sig};
use engine::io::{Event, Input, Order, WriteRequest};
use engine::statement::{Branch, ForkProof, Statement, fork_commit};
use engine::store::StoreRead;
use engine::testing::{Author, Mesh, op, test_identity};
use engine::value::Value;
use engine::wire::message::{Control, Fault, Ops, Run, pack_control, pack_ops};

const SESSION: u32 = 77;
const SPAN: u64 = RUN_COMMITS_MAX as u64;
const NO_SIG: Sig = Sig([0; 64]);

type Log = Vec<(Commit, Sig)>;

/// Real devices, to each of which a peer speaks whose frames the test makes by hand: the 10th device of the account.
fn met(devices: u8) -> Mesh {
    let mut mesh = Mesh::new(devices, 5, Config::default());
    let peer = Author::new(9);
    for node in 0..usize::from(devices) {
        mesh.input(node, Input::PeerUp(peer.identity.peer_key()));
        let hello = Control::Hello(Box::new(peer.hello()));
        mesh.inject(node, peer.identity.peer_key(), pack_control(SESSION, &hello).expect("a frame"));
    }
    mesh
}

/// The author's next commits. Those of other `kind`s differ.
fn write(author: &mut Author, count: u64, kind: i64) -> Log {
    let one = |author: &mut Author| {
        let fields = [("f".to_owned(), Value::Int(kind))].into();
        let at = Hlc::new(1_700_000_000_000 + author.seq, 0);
        author.commit(at, Default::default(), vec![op("t", "forked", OpKind::Put, fields)])
    };
    (0..count).map(|_| one(author)).collect()
}

/// Hands a device commits of a log as one run, signed at its end. Gives how much of the replica it then has.
fn bring(mesh: &mut Mesh, node: usize, log: &[(Commit, Sig)]) -> u64 {
    bring_signed(mesh, node, log, log.last().expect("commits").1)
}

fn bring_signed(mesh: &mut Mesh, node: usize, log: &[(Commit, Sig)], sig: Sig) -> u64 {
    let commits = log.iter().map(|(commit, _)| commit.clone()).collect();
    let ops = Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits, sig }] };
    mesh.inject(node, test_identity(9).peer_key(), pack_ops(SESSION, &ops).expect("a frame"));
    mesh.run_ms(10);
    mesh.engine(node).knowledge().prefix_len(&log[0].0.dot.replica)
}

fn faults(mesh: &Mesh) -> Vec<Fault> {
    let fault = |(_, event): &(usize, Event)| match event {
        Event::PeerFault { fault, .. } => Some(*fault),
        _ => None,
    };
    mesh.events.iter().filter_map(fault).collect()
}

/// All proofs of forks in a device's log.
fn proofs(mesh: &Mesh, node: usize) -> Vec<(Commit, ForkProof)> {
    let log = mesh.store(node).applied(1, usize::MAX).expect("a read");
    let proof = |commit: Commit| match commit.statement.as_deref() {
        Some(Statement::Fork(proof)) => Some((commit.clone(), (**proof).clone())),
        _ => None,
    };
    log.into_iter().filter_map(|stored| proof(stored.commit)).collect()
}

#[test]
fn a_run_beyond_the_end_of_a_span_is_refused() {
    let mut mesh = met(1);
    let log = write(&mut Author::new(8), SPAN + 1, 1);
    let (before, last) = log.split_at(SPAN as usize - 1);
    assert_eq!(bring(&mut mesh, 0, before), SPAN - 1);
    assert_eq!(bring(&mut mesh, 0, last), SPAN - 1);
    assert_eq!(faults(&mesh), [Fault::Protocol]);
    // Each for itself is taken in.
    let mut mesh = met(1);
    let ends = [&log[..SPAN as usize], &log[SPAN as usize..]];
    assert_eq!(ends.map(|part| bring(&mut mesh, 0, part)), [SPAN, SPAN + 1]);
    assert!(faults(&mesh).is_empty());
}

#[test]
fn what_is_handed_on_and_what_is_pushed_ends_with_a_signature_at_the_end_of_a_span() {
    let mut mesh = met(3);
    let log = write(&mut Author::new(8), SPAN + 10, 1);
    let parts = [&log[..SPAN as usize - 90], &log[SPAN as usize - 90..SPAN as usize], &log[SPAN as usize..]];
    assert_eq!(parts.map(|part| bring(&mut mesh, 0, part)), [SPAN - 90, SPAN, SPAN + 10]);
    // A device's own, many at a time: the last of them as one push.
    mesh.connect(0, 1);
    mesh.run_ms(5_000);
    let request = |id| WriteRequest {
        id,
        changes: vec![common::change("own", OpKind::Put, id as i64)],
        ..WriteRequest::default()
    };
    let own = mesh.engine(0).replica();
    let written = mesh.engine(0).knowledge().prefix_len(&own);
    mesh.input(0, Input::Write((1..=SPAN - written - 5).map(request).collect()));
    mesh.run_ms(5_000);
    mesh.input(0, Input::Write((0..10).map(|n| request(10_000 + n)).collect()));
    equal(&mut mesh, &[0, 1]);
    mesh.connect(1, 2);
    equal(&mut mesh, &[0, 1, 2]);
    assert!(faults(&mesh).is_empty(), "{:?}", faults(&mesh));
    for node in [0, 1, 2] {
        for (replica, last) in [(log[0].0.dot.replica, SPAN + 10), (own, SPAN + 5)] {
            assert_eq!(mesh.engine(node).knowledge().prefix_len(&replica), last, "device {node}");
            let stored = mesh.store(node).commits(&replica, SPAN, 1, usize::MAX).expect("a read");
            assert!(stored[0].sig.is_some_and(|sig| sig != NO_SIG), "device {node} has no signature there");
        }
    }
}

#[test]
fn a_fork_of_two_runs_of_full_length_is_proven_and_ends_the_same_everywhere() {
    let mut mesh = met(3);
    let mut one = Author::new(8);
    let shared = write(&mut one, SPAN, 0);
    let mut other = one.clone();
    let branches = [write(&mut one, SPAN, 1), write(&mut other, SPAN, 2)];
    for (node, branch) in branches.iter().enumerate() {
        assert_eq!(bring(&mut mesh, node, &shared), SPAN);
        assert_eq!(bring(&mut mesh, node, branch), 2 * SPAN);
    }
    mesh.connect(0, 1);
    // They know the same numbers at first.
    mesh.run_ms(5_000);
    equal(&mut mesh, &[0, 1]);
    mesh.connect(1, 2);
    equal(&mut mesh, &[0, 1, 2]);
    let replica = one.replica;
    for node in [0, 1, 2] {
        assert_eq!(mesh.engine(node).knowledge().prefix_len(&replica), SPAN, "device {node}");
        let forks: Vec<_> = mesh.engine(node).forks().map(|fork| (fork.replica, fork.seq)).collect();
        assert_eq!(forks, [(replica, SPAN)], "device {node}");
    }
    let [(commit, proof)] = &proofs(&mesh, 2)[..] else { panic!("not one proof") };
    assert!(proof.branches.iter().all(|branch| branch.contents.len() == RUN_COMMITS_MAX));
    assert!(commit.encoded_len() > 2 * 32 * RUN_COMMITS_MAX && commit.encoded_len() < COMMIT_BYTES_MAX / 2);
    for node in [0, 1] {
        let kept = mesh.store(node).quarantine(None, usize::MAX).expect("a read");
        assert_eq!(kept.len() as u64, SPAN, "device {node} keeps its branch");
    }
    assert!(faults(&mesh).is_empty());
}

#[test]
fn a_device_that_forks_itself_again_and_again_within_a_span_is_proven_each_time() {
    let mut mesh = met(2);
    let mut author = Author::new(8);
    let mut copies = Vec::new();
    let mut log = Log::new();
    // Each copy goes on from an earlier place to the end of the span, signed there only.
    for part in [2, 600, 1_000, 1_000, 1_000] {
        log.extend(write(&mut author, part, 0));
        copies.push(author.clone());
    }
    let rest = SPAN - author.seq;
    log.extend(write(&mut author, rest, 0));
    assert_eq!(bring(&mut mesh, 0, &log), SPAN);
    for (n, mut copy) in copies.into_iter().enumerate().rev() {
        let parted = copy.seq;
        let other = write(&mut copy, SPAN - parted, 7 + n as i64);
        assert_eq!(bring(&mut mesh, 0, &other), parted, "copy {n}");
        // From the second time on the log ends without a signature, and an earlier proof goes on from there.
        let kept = mesh.store(0).commits(&copy.replica, parted, 1, usize::MAX).expect("a read");
        assert_eq!(kept[0].sig, Some(NO_SIG));
    }
    let proofs = proofs(&mesh, 0);
    assert_eq!(proofs.iter().map(|(_, proof)| proof.seq).collect::<Vec<_>>(), [3_602, 2_602, 1_602, 602, 2]);
    for (_, proof) in &proofs {
        assert!(proof.holds(&test_identity(0).account()));
        let lengths = proof.branches.each_ref().map(|branch| branch.contents.len() as u64);
        assert_eq!(lengths, [SPAN - proof.seq; 2]);
    }
    // They are taken in elsewhere too.
    put(&mut mesh, 0, "own", 1);
    full_mesh(&mut mesh, &[0, 1]);
    equal(&mut mesh, &[0, 1]);
    assert_eq!(read(&mesh, 1, "own"), Some(1));
    assert_eq!(mesh.engine(1).knowledge().prefix_len(&author.replica), 2);
    assert!(faults(&mesh).is_empty() && quarantined(&mesh, 1).is_empty());
}

#[test]
fn a_fork_for_whose_proof_there_is_no_room_raises_an_alarm_and_its_device_can_be_revoked() {
    let mut mesh = met(1);
    let hostile = test_identity(8);
    let fork = |mesh: &mut Mesh, life: u64| {
        let copy = || Author::of(hostile.clone(), 1_000 + life);
        let kept = bring(mesh, 0, &write(&mut copy(), 1, 1));
        assert_eq!(kept, 1, "life {life}");
        bring(mesh, 0, &write(&mut copy(), 1, 2))
    };
    // Our own replica is there too. Of a replica that forks in its first commit nothing is left.
    let room = (REPLICAS_MAX - REPLICAS_FOR_STATEMENTS - 1) as u64;
    for life in 0..room - 1 {
        assert_eq!(fork(&mut mesh, life), 0, "life {life}");
    }
    assert_eq!(mesh.engine(0).forks().count() as u64, room - 1);
    // The life itself takes the last place.
    assert_eq!(fork(&mut mesh, room), 1, "what came first stays");
    assert_eq!(mesh.engine(0).forks().count() as u64, room - 1);
    let alarms = mesh.events.iter().filter(|(_, event)| matches!(event, Event::Fork { .. })).count();
    assert_eq!(alarms as u64, room, "each is told of");
    let id = mesh.administer(0, Order::Revoke { device: hostile.device(), reason: String::new() });
    assert!(mesh.administered[&id].is_ok());
    mesh.run_ms(10);
    assert_eq!(mesh.engine(0).revocations().count(), 1);
    assert!(faults(&mesh).is_empty());
}

#[test]
fn the_end_of_a_span_needs_its_signature_even_where_a_replica_ends_there() {
    let mut mesh = met(1);
    let mut one = Author::new(8);
    let shared = write(&mut one, SPAN, 0);
    let mut other = one.clone();
    let ends = [write(&mut one, 1, 1), write(&mut other, 1, 2)].map(|log| log[0].clone());
    let branch = |(commit, sig): (Commit, Sig)| Branch { contents: vec![commit.content()], sig };
    let identity = one.identity.clone();
    let last = (SPAN, shared[SPAN as usize - 1].0.hash());
    let proof = ForkProof::new(identity.cert.clone(), one.replica.incarnation, last, ends.map(branch));
    let proof = fork_commit(&identity.account(), proof);
    bring(&mut mesh, 0, &[(proof, NO_SIG)]);
    assert_eq!(mesh.engine(0).forks().count(), 1);
    assert_eq!(bring_signed(&mut mesh, 0, &shared, NO_SIG), 0, "the proof does not vouch for it");
    assert!(faults(&mesh).is_empty());
    assert_eq!(bring(&mut mesh, 0, &shared), SPAN);
}

#[test]
fn a_proof_does_not_hold_whose_branch_goes_beyond_a_span() {
    let identity = test_identity(8);
    let replica = Author::new(8).replica;
    let account = identity.account();
    // Signed well, and of commits that may not be: what they say is not looked at.
    let proof = |seq: u64, length: u64| {
        let hash = CommitHash([5; 32]);
        let branch = |first: u8| {
            let contents: Vec<_> =
                (0..length).map(|n| ContentHash([first.wrapping_add(n as u8); 32])).collect();
            let step = |prev, (seq, content)| link(&Dot { replica, seq }, &prev, content);
            let last = (seq + 1..).zip(&contents).fold(hash, step);
            Branch { contents, sig: sign_commit(&identity, &last) }
        };
        let branches = [branch(1), branch(2)];
        ForkProof::new(identity.cert.clone(), replica.incarnation, (seq, hash), branches)
    };
    assert!(proof(SPAN - 10, 10).holds(&account));
    assert!(!proof(SPAN - 10, 11).holds(&account));
    assert!(proof(SPAN, SPAN).holds(&account));
    assert!(!proof(SPAN, SPAN + 1).holds(&account));
    assert_eq!([1, SPAN, SPAN + 1, 2 * SPAN].map(span), [0, 0, 1, 1]);
}
