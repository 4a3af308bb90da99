//! Frames that were read before their turn lead to what they would have led to otherwise.

use std::collections::BTreeMap;

use engine::commit::OpKind;
use engine::config::Config;
use engine::hlc::Hlc;
use engine::identity::{PeerKey, SecretKey, Sig};
use engine::io::{Change, Event, Input};
use engine::name::{FieldName, RowKey, TableName};
use engine::testing::{Author, EPOCH_MS, LinkFaults, Mesh, identity_of, op};
use engine::value::Value;
use engine::wire::frame::pack;
use engine::wire::message::{Control, Fault, Ops, Run, pack_control, pack_ops};

const SESSION: u32 = 77;

fn put(row: &str, value: i64) -> Vec<Change> {
    vec![Change {
        table: TableName::new("t").unwrap(),
        row: RowKey::new(row).unwrap(),
        kind: OpKind::Put,
        fields: BTreeMap::from([(FieldName::new("x").unwrap(), Value::Int(value))]),
    }]
}

/// What four devices that write over bad links are told and say, in which readers serve so many frames each.
fn course(seed: u64, read_ahead: u64) -> u64 {
    let mut mesh = Mesh::new(4, seed, Config { batch_bytes: 1024, ..Config::default() });
    mesh.set_read_ahead(read_ahead);
    mesh.set_faults(LinkFaults {
        loss_ppm: 50_000,
        double_ppm: 50_000,
        damage_ppm: 20_000,
        jitter_micros: 20_000,
    });
    for (a, b) in [(0, 1), (1, 2), (2, 3)] {
        mesh.connect(a, b);
    }
    for round in 0..20 {
        for node in 0..4 {
            mesh.write(node, put(&format!("row-{}", (round + node) % 5), round as i64));
        }
        mesh.run_ms(if round % 5 == 4 { 300 } else { 3 });
    }
    mesh.set_faults(LinkFaults::default());
    assert!(mesh.run_until_equal(60_000));
    mesh.trace_hash()
}

#[test]
fn devices_that_read_frames_ahead_go_the_same_course_as_others_however_old_their_readers() {
    for seed in 0..10 {
        let inline = course(seed, 0);
        for frames in [1, 3, 1000] {
            assert_eq!(course(seed, frames), inline, "seed {seed}, readers for {frames} frames");
        }
    }
}

/// A device, and a peer of it that has said nothing yet: the 9th device of the account.
fn device() -> (Mesh, Author, PeerKey) {
    let mut mesh = Mesh::new(1, 5, Config::default());
    let author = Author::new(9);
    let peer = author.identity.peer_key();
    mesh.input(0, Input::PeerUp(peer));
    (mesh, author, peer)
}

fn greet(mesh: &mut Mesh, author: &Author) {
    let hello = pack_control(SESSION, &Control::Hello(Box::new(author.hello()))).unwrap();
    mesh.inject(0, author.identity.peer_key(), hello);
}

/// Two runs of an author that the frame itself introduces, the second signed by `sign`.
fn two_runs(author: &mut Author, sign: impl Fn(Sig) -> Sig) -> Vec<u8> {
    let mut run = |n: i64| {
        let fields = BTreeMap::from([("x".to_owned(), Value::Int(n))]);
        let ops = vec![op("t", "a", OpKind::Put, fields)];
        let (commit, sig) = author.commit(Hlc::new(EPOCH_MS, n as u16), BTreeMap::new(), ops);
        Run { commits: vec![commit], sig }
    };
    let (first, mut second) = (run(1), run(2));
    second.sig = sign(second.sig);
    pack_ops(SESSION, &Ops { want: 0, offset: 1, done: true, runs: vec![first, second] }).unwrap()
}

fn faults(mesh: &Mesh) -> Vec<Fault> {
    let fault = |(_, event): &(usize, Event)| match event {
        Event::PeerFault { fault, .. } => Some(*fault),
        _ => None,
    };
    mesh.events.iter().filter_map(fault).collect()
}

#[test]
fn a_forged_signature_is_refused_and_what_stands_before_it_stays_whether_it_was_read_ahead_or_not() {
    for read_ahead in [0, 1] {
        for author in [8, 9] {
            let (mut mesh, speaker, peer) = device();
            mesh.set_read_ahead(read_ahead);
            greet(&mut mesh, &speaker);
            // The 8th device is known by what the frame says only, the 9th is a member.
            let mut author = if author == 9 { speaker } else { Author::new(8) };
            let forged = |mut sig: Sig| {
                sig.0[3] ^= 1;
                sig
            };
            mesh.inject(0, peer, two_runs(&mut author, forged));
            assert_eq!(faults(&mesh), [Fault::BadSignature]);
            assert_eq!(mesh.engine(0).knowledge().prefix_len(&author.replica), 1);
        }
    }
}

#[test]
fn what_was_read_ahead_of_the_end_of_a_session_is_dropped() {
    let (mut mesh, mut author, peer) = device();
    greet(&mut mesh, &author);
    let bytes = two_runs(&mut author, |sig| sig);
    let frame = mesh.engine(0).reader().read(&bytes);
    assert_eq!(frame.bytes(), bytes.len());
    mesh.input(0, Input::PeerDown(peer));
    mesh.input(0, Input::Read { peer, frame: frame.clone() });
    // Nor does a new one of the peer's take it.
    mesh.input(0, Input::PeerUp(peer));
    mesh.input(0, Input::Read { peer, frame: frame.clone() });
    assert_eq!(mesh.engine(0).knowledge().prefix_len(&author.replica), 0);
    greet(&mut mesh, &author);
    mesh.input(0, Input::Read { peer, frame });
    assert_eq!(mesh.engine(0).knowledge().prefix_len(&author.replica), 2);
}

#[test]
fn only_a_session_gives_a_right_to_be_read_ahead() {
    let (mut mesh, author, peer) = device();
    assert!(!mesh.engine(0).reads_ahead(&peer), "it has said nothing yet");
    greet(&mut mesh, &author);
    assert!(mesh.engine(0).reads_ahead(&peer));
    mesh.inject(0, peer, pack(SESSION, &[4, 1, 2, 3]).unwrap());
    assert_eq!(faults(&mesh), [Fault::Protocol]);
    assert!(!mesh.engine(0).reads_ahead(&peer), "its session has ended");
}

#[test]
#[should_panic(expected = "a frame is read for the account of its engine")]
fn what_was_read_for_another_account_is_not_taken() {
    let (mut mesh, mut author, peer) = device();
    greet(&mut mesh, &author);
    let other =
        Mesh::with_identities(vec![identity_of(&SecretKey::from_bytes(&[8; 32]), 1)], 1, Config::default());
    let reader = other.engine(0).reader();
    let frame = reader.read(&two_runs(&mut author, |sig| sig));
    mesh.input(0, Input::Read { peer, frame });
}
