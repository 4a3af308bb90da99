//! Revocation: what a fence lets count, what becomes of the rest, and that the order of learning does not matter.

mod common;

use common::{LONG_MS, change, equal, full_mesh, put, quarantined, read};
use engine::commit::OpKind;
use engine::config::{Config, REPLICAS_FOR_STATEMENTS, REPLICAS_MAX, REVOKED_REPLICAS_MAX};
use engine::hlc::Hlc;
use engine::identity::SecretKey;
use engine::io::{AdminError, Event, Input, Order};
use engine::store::StoreRead;
use engine::testing::{Author, Mesh, op, test_identity, test_root};
use engine::value::Value;
use engine::wire::message::{Control, Fault, Ops, Run, pack_control, pack_ops};
use proptest::prelude::*;

fn revoke(mesh: &mut Mesh, by: usize, node: usize) -> u64 {
    let order = Order::Revoke { device: mesh.key(node).device(), reason: "lost".into() };
    mesh.administer(by, order)
}

/// Several administrators: devices that hold the root key from the start.
fn mesh_with_admins(count: u8, admins: u8, seed: u64) -> Mesh {
    let identity = |n| {
        let identity = test_identity(n);
        if n < admins { identity.with_root(test_root()).expect("the root key") } else { identity }
    };
    Mesh::with_identities((0..count).map(identity).collect(), seed, Config::default())
}

#[test]
fn a_revoked_device_is_told_keeps_its_data_and_is_heard_no_more() {
    let mut mesh = Mesh::new(3, 1, Config::default());
    full_mesh(&mut mesh, &[0, 1, 2]);
    put(&mut mesh, 2, "before", 1);
    equal(&mut mesh, &[0, 1, 2]);
    mesh.disconnect(2, 0);
    mesh.disconnect(2, 1);
    let id = revoke(&mut mesh, 0, 2);
    assert!(mesh.administered[&id].is_ok());
    put(&mut mesh, 2, "after", 2);
    full_mesh(&mut mesh, &[0, 1, 2]);
    mesh.run_ms(10_000);

    assert!(mesh.engine(2).revoked());
    let device = mesh.key(2).device();
    let told = |event: &Event| matches!(event, Event::Revoked { device: who, reason, .. } if *who == device && reason == "lost");
    for node in 0..3 {
        assert!(mesh.events.iter().any(|(at, event)| *at == node && told(event)), "device {node}");
        assert_eq!(read(&mesh, node, "before"), Some(1));
        assert_eq!(quarantined(&mesh, node), []);
    }
    assert_eq!(read(&mesh, 2, "after"), Some(2));
    assert_eq!((read(&mesh, 0, "after"), read(&mesh, 1, "after")), (None, None));
    equal(&mut mesh, &[0, 1]);

    // It still knows after a restart, without anybody to tell it, and may write for itself.
    mesh.crash(2);
    mesh.restart(2);
    assert!(mesh.engine(2).revoked());
    put(&mut mesh, 2, "alone", 3);
    assert_eq!(read(&mesh, 2, "alone"), Some(3));
    mesh.connect(1, 2);
    put(&mut mesh, 1, "secret", 4);
    mesh.run_ms(10_000);
    assert_eq!(read(&mesh, 2, "secret"), None);
    assert_eq!(mesh.engine(2).stats().peers.len(), 0);
}

#[test]
fn a_connected_device_is_shown_the_proof_before_it_is_cut_off() {
    let mut mesh = Mesh::new(2, 2, Config::default());
    mesh.connect(0, 1);
    put(&mut mesh, 1, "r", 1);
    equal(&mut mesh, &[0, 1]);
    revoke(&mut mesh, 0, 1);
    mesh.run_ms(1_000);
    assert!(mesh.engine(1).revoked());
    let fault = |event: &Event| matches!(event, Event::PeerFault { fault: Fault::Revoked, .. });
    assert!(mesh.events.iter().any(|(node, event)| *node == 0 && fault(event)));
}

#[test]
fn what_was_applied_beyond_a_fence_is_rolled_back_kept_and_others_stay() {
    let mut mesh = Mesh::new(3, 3, Config::default());
    full_mesh(&mut mesh, &[0, 1, 2]);
    put(&mut mesh, 2, "r", 1);
    equal(&mut mesh, &[0, 1, 2]);
    // The administrator is cut off; the thief goes on writing, and the other device builds on that.
    mesh.disconnect(0, 1);
    mesh.disconnect(0, 2);
    put(&mut mesh, 2, "r", 2);
    put(&mut mesh, 2, "new", 2);
    equal(&mut mesh, &[1, 2]);
    put(&mut mesh, 1, "mine", 3);
    put(&mut mesh, 1, "new", 4);
    equal(&mut mesh, &[1, 2]);
    revoke(&mut mesh, 0, 2);
    let watched = mesh.store(1).recover().expect("recovered").position;
    mesh.connect(0, 1);
    equal(&mut mesh, &[0, 1]);

    for node in [0, 1] {
        assert_eq!(read(&mesh, node, "r"), Some(1));
        assert_eq!(read(&mesh, node, "mine"), Some(3), "it had seen what is fenced, and counts all the same");
        assert_eq!(read(&mesh, node, "new"), Some(4));
    }
    assert_eq!(quarantined(&mesh, 0), []);
    assert_eq!(quarantined(&mesh, 1), [3, 4]);
    let retracted = |event: &Event| matches!(event, Event::Revoked { retracted: 2, .. });
    assert!(mesh.events.iter().any(|(node, event)| *node == 1 && retracted(event)));
    assert!(mesh.store(1).recover().expect("recovered").position > watched);
    // And all of it is the same after a restart.
    for node in [0, 1] {
        mesh.crash(node);
        mesh.restart(node);
    }
    mesh.connect(0, 1);
    put(&mut mesh, 1, "later", 5);
    equal(&mut mesh, &[0, 1]);
    assert_eq!(read(&mesh, 0, "later"), Some(5));
}

#[test]
fn what_a_fence_cuts_is_handed_on_up_to_the_fence_by_who_never_met_the_author() {
    // A run of many commits signed at its end only; the fence is in its middle.
    let mut mesh = Mesh::new(4, 4, Config::default());
    (1..=5).for_each(|n| put(&mut mesh, 2, "r", n));
    mesh.connect(0, 2);
    equal(&mut mesh, &[0, 2]);
    mesh.disconnect(0, 2);
    (6..=9).for_each(|n| put(&mut mesh, 2, "r", n));
    mesh.connect(1, 2);
    equal(&mut mesh, &[1, 2]);
    mesh.disconnect(1, 2);
    revoke(&mut mesh, 0, 2);
    mesh.connect(0, 1);
    equal(&mut mesh, &[0, 1]);
    mesh.disconnect(0, 1);
    mesh.connect(1, 3);
    equal(&mut mesh, &[1, 3]);
    assert_eq!(read(&mesh, 3, "r"), Some(5));
    assert_eq!(quarantined(&mesh, 1).len(), 4);
}

#[test]
fn a_relay_that_does_not_know_of_a_fence_brings_nothing_past_it() {
    let mut mesh = Mesh::new(4, 5, Config::default());
    full_mesh(&mut mesh, &[0, 1, 2, 3]);
    put(&mut mesh, 2, "r", 1);
    equal(&mut mesh, &[0, 1, 2, 3]);
    for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)] {
        mesh.disconnect(a, b);
    }
    put(&mut mesh, 2, "r", 2);
    equal(&mut mesh, &[2, 3]);
    revoke(&mut mesh, 0, 2);
    mesh.connect(0, 1);
    equal(&mut mesh, &[0, 1]);
    mesh.disconnect(0, 1);
    // 3 knows nothing of it and brings all it has to 1, which knows.
    mesh.connect(1, 3);
    equal(&mut mesh, &[1, 3]);
    assert_eq!((read(&mesh, 1, "r"), read(&mesh, 3, "r")), (Some(1), Some(1)));
    assert_eq!((quarantined(&mesh, 1).len(), quarantined(&mesh, 3).len()), (0, 1));
}

#[test]
fn of_two_fences_the_smaller_counts_whichever_is_learnt_first() {
    for first in [0, 1] {
        let mut mesh = mesh_with_admins(4, 2, 6);
        mesh.connect(0, 3);
        put(&mut mesh, 3, "r", 1);
        equal(&mut mesh, &[0, 3]);
        mesh.disconnect(0, 3);
        put(&mut mesh, 3, "r", 2);
        mesh.connect(1, 3);
        mesh.connect(2, 3);
        equal(&mut mesh, &[1, 2, 3]);
        mesh.disconnect(1, 3);
        mesh.disconnect(2, 3);
        revoke(&mut mesh, 0, 3);
        revoke(&mut mesh, 1, 3);
        mesh.connect(2, first);
        equal(&mut mesh, &[2, first]);
        full_mesh(&mut mesh, &[0, 1, 2]);
        equal(&mut mesh, &[0, 1, 2]);
        for node in [0, 1, 2] {
            assert_eq!(read(&mesh, node, "r"), Some(1), "device {node}");
        }
        assert_eq!((quarantined(&mesh, 1), quarantined(&mesh, 2)), (vec![3], vec![3]));
    }
}

#[test]
fn two_administrators_who_revoke_each_other_are_both_revoked() {
    let mut mesh = mesh_with_admins(4, 2, 7);
    full_mesh(&mut mesh, &[0, 1, 2, 3]);
    put(&mut mesh, 0, "a", 1);
    put(&mut mesh, 1, "b", 1);
    equal(&mut mesh, &[0, 1, 2, 3]);
    for (a, b) in [(0, 1), (0, 3), (1, 2), (2, 3)] {
        mesh.disconnect(a, b);
    }
    revoke(&mut mesh, 0, 1);
    revoke(&mut mesh, 1, 0);
    mesh.run_ms(5_000);
    full_mesh(&mut mesh, &[0, 1, 2, 3]);
    equal(&mut mesh, &[2, 3]);
    mesh.run_ms(5_000);
    assert_eq!(mesh.engine(2).revocations().count(), 2);
    for node in [0, 1] {
        assert!(mesh.engine(node).revoked(), "device {node}");
        assert_eq!(mesh.engine(node).stats().peers.len(), 0);
    }
    assert_eq!((read(&mesh, 3, "a"), read(&mesh, 3, "b")), (Some(1), Some(1)));
}

#[test]
fn a_promoted_device_gets_the_root_key_and_can_revoke() {
    let mut mesh = Mesh::new(3, 8, Config::default());
    mesh.connect(0, 1);
    equal(&mut mesh, &[0, 1]);
    let device = mesh.key(1).device();
    let name = Some("desk".to_owned());
    let id = mesh.administer(0, Order::Certify { device, name, admin: Some(true) });
    assert!(mesh.administered[&id].is_ok());
    equal(&mut mesh, &[0, 1]);
    assert!(mesh.run_until(LONG_MS, |mesh| mesh.engine(1).administers()));
    mesh.connect(1, 2);
    equal(&mut mesh, &[0, 1, 2]);
    for node in 0..3 {
        let cert = mesh.engine(node).members().find(|cert| cert.device() == device).expect("a member");
        assert_eq!((cert.name.as_str(), cert.admin), ("desk", true), "device {node}");
    }
    assert!(!mesh.engine(2).administers());
    let id = revoke(&mut mesh, 1, 0);
    assert!(mesh.administered[&id].is_ok());
    mesh.run_ms(2_000);
    assert!(mesh.engine(0).revoked());
    // It is an administrator after a restart as well, and its certificate the later one.
    mesh.crash(1);
    mesh.restart(1);
    let cert = mesh.engine(1).members().find(|cert| cert.device() == device).expect("a member");
    assert!(mesh.engine(1).administers() && cert.name == "desk");
}

#[test]
fn orders_that_cannot_be_are_refused_and_change_nothing() {
    let mut mesh = Mesh::new(2, 9, Config::default());
    mesh.connect(0, 1);
    equal(&mut mesh, &[0, 1]);
    let before = mesh.engine(0).knowledge().clone();
    let (admin, other) = (mesh.key(0).device(), mesh.key(1).device());
    let stranger = test_identity(9).device();
    let revoke = |device, reason: &str| Order::Revoke { device, reason: reason.into() };
    let certify = |device, name: &str| Order::Certify { device, name: Some(name.into()), admin: None };
    let long = "x".repeat(257);
    let cases = [
        (1, revoke(admin, ""), AdminError::NotAdministrator),
        (1, certify(other, "mine"), AdminError::NotAdministrator),
        (0, revoke(stranger, ""), AdminError::UnknownDevice(stranger)),
        (0, revoke(admin, ""), AdminError::Oneself),
        (0, revoke(other, &long), AdminError::BadReason),
        (0, revoke(other, "two\nlines"), AdminError::BadReason),
    ];
    for (node, order, error) in cases {
        let id = mesh.administer(node, order);
        assert_eq!(mesh.administered[&id], Err(error));
    }
    let id = mesh.administer(0, certify(other, ""));
    assert!(matches!(mesh.administered[&id], Err(AdminError::Certificate(_))));
    assert_eq!(mesh.engine(0).knowledge(), &before);
    let id = mesh.administer(0, revoke(other, ""));
    assert!(mesh.administered[&id].is_ok());
    let id = mesh.administer(0, certify(other, "again"));
    assert_eq!(mesh.administered[&id], Err(AdminError::Revoked(other)));
}

#[test]
fn a_device_comes_back_under_a_new_key() {
    let mut identities: Vec<_> = (0..3).map(test_identity).collect();
    identities.push(test_identity(7));
    let mut mesh = Mesh::with_identities(identities, 10, Config::default());
    full_mesh(&mut mesh, &[0, 1, 2]);
    put(&mut mesh, 2, "r", 1);
    equal(&mut mesh, &[0, 1, 2]);
    revoke(&mut mesh, 0, 2);
    mesh.run_ms(2_000);
    full_mesh(&mut mesh, &[0, 1, 3]);
    put(&mut mesh, 3, "r", 2);
    equal(&mut mesh, &[0, 1, 3]);
    assert_eq!(read(&mesh, 0, "r"), Some(2));
}

#[test]
fn a_root_key_that_is_another_is_not_taken() {
    let other = SecretKey::from_bytes(&[7; 32]);
    assert!(test_identity(1).with_root(other).is_err());
}

/// What happens to a group in which devices write, meet, and revoke each other.
#[derive(Debug, Clone)]
enum Step {
    Write { node: usize, row: u8, kind: OpKind },
    Meet { a: usize, b: usize },
    Revoke { by: usize, node: usize },
    Crash { node: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![3 => Just(OpKind::Put), 1 => Just(OpKind::Update), 1 => Just(OpKind::Delete), 1 => Just(OpKind::Replace)];
    prop_oneof![
        6 => (0usize..6, 0u8..3, kind).prop_map(|(node, row, kind)| Step::Write { node, row, kind }),
        5 => (0usize..6, 0usize..6).prop_map(|(a, b)| Step::Meet { a, b }),
        1 => (0usize..3, 1usize..6).prop_map(|(by, node)| Step::Revoke { by, node }),
        1 => (0usize..6).prop_map(|node| Step::Crash { node }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_the_order_devices_in_good_standing_end_in_one_state(
        seed in 0u64..1_000,
        steps in proptest::collection::vec(any_step(), 5..60),
    ) {
        let mut mesh = mesh_with_admins(6, 3, seed);
        for (n, step) in (1..).zip(steps) {
            match step {
                Step::Write { node, row, kind } => {
                    mesh.write(node, vec![change(&format!("r{row}"), kind, n)]);
                }
                Step::Meet { a, b } if a != b => {
                    mesh.connect(a, b);
                    mesh.run_ms(300);
                    mesh.disconnect(a, b);
                }
                Step::Meet { .. } => {}
                // 0 is never revoked, so that somebody stays.
                Step::Revoke { by, node } => {
                    revoke(&mut mesh, by, node);
                }
                Step::Crash { node } => {
                    mesh.crash(node);
                    mesh.restart(node);
                }
            }
        }
        // What any device knows reaches all: also what was said by devices that are revoked elsewhere.
        full_mesh(&mut mesh, &[0, 1, 2, 3, 4, 5]);
        mesh.run_ms(20_000);
        let revoked = |mesh: &Mesh, node: usize| {
            let device = mesh.key(node).device();
            mesh.engine(0).revocations().any(|revocation| revocation.device == device)
        };
        let standing: Vec<usize> = (0..6).filter(|node| !revoked(&mesh, *node)).collect();
        equal(&mut mesh, &standing);
        for node in 0..6 {
            prop_assert_eq!(mesh.engine(node).revoked(), revoked(&mesh, node), "device {}", node);
        }
        for node in &standing {
            for one in mesh.store(*node).quarantine(None, 1_000).expect("a read") {
                prop_assert!(!mesh.engine(*node).knowledge().contains(&one.stored.dot()));
            }
        }
    }
}

#[test]
fn of_a_device_with_hundreds_of_lives_the_first_count_when_it_is_revoked_and_there_is_room_again() {
    let mut mesh = Mesh::new(2, 3, Config::default());
    let hostile = Author::new(9);
    let peer = hostile.identity.peer_key();
    for node in 0..2 {
        mesh.input(node, Input::PeerUp(peer));
        let hello = Control::Hello(Box::new(hostile.hello()));
        mesh.inject(node, peer, pack_control(7, &hello).expect("a frame"));
    }
    let bring = |mesh: &mut Mesh, node: usize, mut life: Author, row: &str| {
        let fields = [("f".to_owned(), Value::Int(1))].into();
        let ops = vec![op("t", row, OpKind::Put, fields)];
        let (commit, sig) = life.commit(Hlc::new(1_700_000_000_000, 0), Default::default(), ops);
        let runs = vec![Run { commits: vec![commit], sig }];
        let ops = Ops { want: 0, offset: 0, done: true, runs };
        mesh.inject(node, peer, pack_ops(7, &ops).expect("a frame"));
    };
    // As many as there is room for, and others at one device than at the other; the numbers of the later ones are the
    // smaller.
    const LIVES: u64 = (REPLICAS_MAX - REPLICAS_FOR_STATEMENTS - 1) as u64;
    for node in 0..2 {
        for n in 0..LIVES {
            let life = Author::of(hostile.identity.clone(), 10_000 * (node as u64 + 1) - n);
            bring(&mut mesh, node, life, &format!("{node} {n}"));
        }
        assert_eq!(read(&mesh, node, &format!("{node} {}", LIVES - 1)), Some(1));
    }
    let order = Order::Revoke { device: peer.device(), reason: String::new() };
    let id = mesh.administer(0, order);
    assert!(mesh.administered[&id].is_ok());
    let counts = REVOKED_REPLICAS_MAX as u64;
    let kept =
        |mesh: &Mesh, node| (0..LIVES).filter(|n| read(mesh, node, &format!("0 {n}")).is_some()).count();
    assert_eq!(kept(&mesh, 0) as u64, counts);
    assert_eq!(read(&mesh, 0, &format!("0 {}", counts - 1)), Some(1), "those that came first");
    assert_eq!(quarantined(&mesh, 0).len() as u64, LIVES - counts, "the others are kept aside");
    mesh.connect(0, 1);
    equal(&mut mesh, &[0, 1]);
    assert_eq!((kept(&mesh, 1) as u64, read(&mesh, 1, "1 0")), (counts, None));
    // Of the two devices, each with a life, of the statement and of the lives that count.
    assert_eq!(mesh.engine(1).knowledge().replicas() as u64, 3 + counts);
}
