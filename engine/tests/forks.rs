//! Forks: a database that runs twice signs two commits of one name. Whoever meets both proves it, and all end in one state.

mod common;

use common::{equal, full_mesh, put, quarantined, read};
use engine::config::Config;
use engine::identity::ReplicaId;
use engine::io::{Event, Order};
use engine::store::StoreRead;
use engine::testing::{LinkFaults, Mesh, test_identity};
use proptest::prelude::*;

/// One database, twice: no guard noticed.
const CLONES: [usize; 2] = [3, 4];

/// Three devices, and two that are one: `before` commits are known to all, `known` more to the two alone.
fn cloned(seed: u64, before: i64, known: i64) -> (Mesh, ReplicaId) {
    let identities = [0, 1, 2, 3, 3].map(test_identity).to_vec();
    let mut mesh = Mesh::with_identities(identities, seed, Config::default());
    mesh.crash(CLONES[1]);
    (1..=before).for_each(|n| put(&mut mesh, 3, "shared", n));
    full_mesh(&mut mesh, &[0, 1, 2, 3]);
    equal(&mut mesh, &[0, 1, 2, 3]);
    for a in 0..4 {
        (a + 1..4).for_each(|b| mesh.disconnect(a, b));
    }
    (1..=known).for_each(|n| put(&mut mesh, 3, "shared", before + n));
    mesh.replace_store(CLONES[1], mesh.store(CLONES[0]).clone());
    mesh.restart(CLONES[1]);
    let replica = mesh.engine(3).replica();
    assert_eq!(replica, mesh.engine(4).replica());
    (mesh, replica)
}

fn meet(mesh: &mut Mesh, a: usize, b: usize) {
    mesh.connect(a, b);
    mesh.run_ms(30_000);
    mesh.disconnect(a, b);
}

/// Everybody meets everybody, the two of one key one after the other.
fn settle(mesh: &mut Mesh) {
    for clone in [3, 4, 3, 4] {
        full_mesh(mesh, &[0, 1, 2, clone]);
        mesh.run_ms(40_000);
    }
    full_mesh(mesh, &[0, 1, 2, 3]);
    equal(mesh, &[0, 1, 2, 3]);
    full_mesh(mesh, &[0, 1, 2, 4]);
    equal(mesh, &[0, 1, 2, 3, 4]);
}

fn forked_at(mesh: &Mesh, node: usize) -> Vec<(ReplicaId, u64)> {
    mesh.engine(node).forks().map(|fork| (fork.replica, fork.seq)).collect()
}

fn alarms(mesh: &Mesh, node: usize) -> usize {
    let alarm = |event: &Event| matches!(event, Event::Forked { .. });
    mesh.events.iter().filter(|(at, event)| *at == node && alarm(event)).count()
}

#[test]
fn who_meets_both_branches_proves_the_fork_and_all_end_before_it() {
    let (mut mesh, replica) = cloned(1, 2, 0);
    put(&mut mesh, 3, "one", 1);
    put(&mut mesh, 4, "other", 1);
    put(&mut mesh, 4, "other", 2);
    meet(&mut mesh, 0, 3);
    meet(&mut mesh, 1, 4);
    assert_eq!((read(&mesh, 0, "one"), read(&mesh, 1, "other")), (Some(1), Some(2)));
    meet(&mut mesh, 0, 1);
    equal(&mut mesh, &[0, 1]);
    settle(&mut mesh);
    for node in 0..5 {
        assert_eq!(forked_at(&mesh, node), [(replica, 3)], "device {node}");
        assert_eq!(mesh.engine(node).knowledge().prefix_len(&replica), 3);
        assert_eq!((read(&mesh, node, "one"), read(&mesh, node, "other")), (None, None), "device {node}");
        assert_eq!(read(&mesh, node, "shared"), Some(2), "device {node}");
        assert!(alarms(&mesh, node) > 0, "device {node} is not told");
    }
    // What each had of it is kept there.
    let kept = [0, 1, 2, 3, 4].map(|node| quarantined(&mesh, node));
    assert_eq!(kept, [vec![4], vec![4, 5], vec![], vec![4], vec![4, 5]]);
    // The device goes on, under new incarnations, and restores what it had.
    put(&mut mesh, 4, "other", 7);
    equal(&mut mesh, &[0, 1, 2, 4]);
    assert_eq!(read(&mesh, 0, "other"), Some(7));
    // All of it stands after a restart.
    mesh.crash(1);
    mesh.restart(1);
    assert_eq!(forked_at(&mesh, 1), [(replica, 3)]);
}

#[test]
fn branches_of_equal_length_are_told_apart_when_devices_meet() {
    let (mut mesh, replica) = cloned(2, 1, 0);
    put(&mut mesh, 3, "one", 1);
    put(&mut mesh, 4, "other", 1);
    meet(&mut mesh, 0, 3);
    meet(&mut mesh, 1, 4);
    // They know the same numbers, and think that they have nothing to give each other.
    assert_eq!(
        mesh.engine(0).knowledge().prefix_len(&replica),
        mesh.engine(1).knowledge().prefix_len(&replica)
    );
    mesh.connect(0, 1);
    mesh.run_ms(5_000);
    equal(&mut mesh, &[0, 1]);
    for node in [0, 1] {
        assert_eq!(forked_at(&mesh, node), [(replica, 2)], "device {node}");
    }
    assert!(!mesh.events.iter().any(|(_, event)| matches!(event, Event::Diverged { .. })));
}

#[test]
fn a_fork_that_comes_up_while_two_are_connected_is_noticed_by_what_they_announce() {
    let (mut mesh, replica) = cloned(3, 1, 0);
    mesh.connect(0, 1);
    mesh.connect(0, 3);
    mesh.connect(1, 4);
    mesh.run_ms(60_000);
    put(&mut mesh, 3, "one", 1);
    put(&mut mesh, 4, "other", 1);
    mesh.run_ms(60_000);
    for node in [0, 1] {
        assert_eq!(forked_at(&mesh, node), [(replica, 2)], "device {node}");
    }
}

#[test]
fn equally_long_branches_that_reach_two_connected_devices_from_elsewhere_are_told_apart() {
    let (mut mesh, replica) = cloned(3, 1, 0);
    mesh.set_latency(200_000);
    for (a, b) in [(0, 1), (1, 2), (0, 3), (2, 4)] {
        mesh.connect(a, b);
    }
    mesh.run_ms(60_000);
    // The one in the middle hears of both at the same time, asks for one, and from then on knows as much as both.
    put(&mut mesh, 3, "one", 1);
    put(&mut mesh, 4, "other", 1);
    mesh.run_ms(60_000);
    for node in [0, 1, 2] {
        assert_eq!(forked_at(&mesh, node), [(replica, 2)], "device {node}");
    }
}

#[test]
fn branches_that_parted_long_ago_are_followed_back_to_where_they_parted() {
    let (mut mesh, replica) = cloned(4, 1, 300);
    for n in 1..=700 {
        put(&mut mesh, 3, &format!("one{}", n % 7), n);
        put(&mut mesh, 4, "other", n);
    }
    put(&mut mesh, 4, "other", 0);
    meet(&mut mesh, 0, 3);
    meet(&mut mesh, 1, 4);
    meet(&mut mesh, 0, 1);
    settle(&mut mesh);
    for node in 0..5 {
        let [(forked, seq)] = forked_at(&mesh, node)[..] else { panic!("device {node} knows no fork") };
        // Its introduction, and 301 commits before they part.
        assert_eq!((forked, seq), (replica, 302));
        assert_eq!(mesh.engine(node).knowledge().prefix_len(&replica), seq);
        assert_eq!(read(&mesh, node, "other"), None);
    }
}

#[test]
fn what_came_in_one_run_ends_where_the_branches_part_and_is_handed_on() {
    let (mut mesh, replica) = cloned(6, 1, 20);
    put(&mut mesh, 3, "one", 1);
    put(&mut mesh, 4, "other", 1);
    // One run each, with a signature at its end only.
    meet(&mut mesh, 0, 3);
    meet(&mut mesh, 1, 4);
    let signed = |mesh: &Mesh, node: usize| {
        let log = mesh.store(node).commits(&replica, 3, 100, usize::MAX).expect("a read");
        log.iter()
            .filter(|stored| stored.sig.is_some())
            .map(|stored| stored.commit.dot.seq)
            .collect::<Vec<_>>()
    };
    assert_eq!((signed(&mesh, 0), signed(&mesh, 1)), (vec![23], vec![23]));
    meet(&mut mesh, 0, 1);
    equal(&mut mesh, &[0, 1]);
    mesh.crash(0);
    mesh.restart(0);
    // One who knows nothing of the author gets all that counts, and gives it to another clone.
    meet(&mut mesh, 0, 2);
    for node in [0, 1, 2] {
        assert_eq!(forked_at(&mesh, node), [(replica, 22)], "device {node}");
        assert_eq!(mesh.engine(node).knowledge().prefix_len(&replica), 22, "device {node}");
        assert_eq!(read(&mesh, node, "shared"), Some(21), "device {node}");
    }
    assert_eq!([0, 1, 2].map(|node| quarantined(&mesh, node)), [vec![23], vec![23], vec![]]);
    settle(&mut mesh);
    assert!(!mesh.events.iter().any(|(_, event)| matches!(event, Event::PeerFault { .. })));
}

#[test]
fn a_third_branch_that_parts_earlier_ends_the_replica_earlier_everywhere() {
    let identities = [0, 1, 2, 3, 3, 3].map(test_identity).to_vec();
    let mut mesh = Mesh::with_identities(identities, 8, Config::default());
    mesh.crash(4);
    mesh.crash(5);
    (1..=3).for_each(|n| put(&mut mesh, 3, "shared", n));
    mesh.replace_store(5, mesh.store(3).clone());
    mesh.restart(5);
    (1..=3).for_each(|n| put(&mut mesh, 3, "later", n));
    mesh.replace_store(4, mesh.store(3).clone());
    mesh.restart(4);
    let replica = mesh.engine(3).replica();
    for (clone, device) in [(3, 0), (4, 1), (5, 2)] {
        (1..=5).for_each(|n| put(&mut mesh, clone, &format!("of{clone}"), n));
        meet(&mut mesh, device, clone);
    }
    meet(&mut mesh, 0, 1);
    assert_eq!(forked_at(&mesh, 0), [(replica, 7)]);
    // The third hears of it, has no signature before the fence, and takes what the others have.
    meet(&mut mesh, 2, 1);
    full_mesh(&mut mesh, &[0, 1, 2]);
    equal(&mut mesh, &[0, 1, 2]);
    assert_eq!(quarantined(&mesh, 2), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    // Then the third copy comes. The others' logs end without a signature: the first proof completes their side of the
    // second.
    for clone in [3, 4, 5, 3, 4, 5] {
        full_mesh(&mut mesh, &[0, 1, 2, clone]);
        mesh.run_ms(40_000);
    }
    for clone in [3, 4, 5] {
        full_mesh(&mut mesh, &[0, 1, 2, clone]);
        equal(&mut mesh, &[0, 1, 2, clone]);
        assert_eq!(forked_at(&mesh, clone), [(replica, 4)]);
        assert_eq!((read(&mesh, clone, "shared"), read(&mesh, clone, "later")), (Some(3), None));
        assert_eq!(quarantined(&mesh, clone).first(), Some(&5));
    }
}

#[test]
fn a_device_that_is_set_back_to_the_fence_and_hears_of_it_writes_under_another_name() {
    let (mut mesh, replica) = cloned(10, 1, 0);
    let before = mesh.store(4).clone();
    put(&mut mesh, 3, "one", 1);
    put(&mut mesh, 4, "other", 1);
    meet(&mut mesh, 0, 3);
    meet(&mut mesh, 0, 4);
    mesh.crash(4);
    mesh.replace_store(4, before);
    mesh.restart(4);
    assert_eq!(mesh.engine(4).replica(), replica);
    // Nothing of it is retracted here.
    meet(&mut mesh, 0, 4);
    assert_eq!((forked_at(&mesh, 4), quarantined(&mesh, 4)), (vec![(replica, 2)], vec![]));
    put(&mut mesh, 4, "new", 7);
    full_mesh(&mut mesh, &[0, 1, 2, 4]);
    equal(&mut mesh, &[0, 1, 2, 4]);
    assert_eq!(read(&mesh, 0, "new"), Some(7));
}

#[test]
fn a_device_is_revoked_after_a_fork_and_what_counts_of_it_still_spreads() {
    let (mut mesh, replica) = cloned(9, 1, 4);
    put(&mut mesh, 3, "one", 1);
    put(&mut mesh, 4, "other", 1);
    meet(&mut mesh, 0, 3);
    meet(&mut mesh, 1, 4);
    meet(&mut mesh, 0, 1);
    assert_eq!(forked_at(&mesh, 0), [(replica, 6)]);
    let revoke = Order::Revoke { device: mesh.key(3).device(), reason: String::new() };
    let id = mesh.administer(0, revoke);
    assert!(mesh.administered[&id].is_ok());
    meet(&mut mesh, 0, 2);
    full_mesh(&mut mesh, &[0, 1, 2]);
    equal(&mut mesh, &[0, 1, 2]);
    for node in [0, 1, 2] {
        assert_eq!(mesh.engine(node).knowledge().prefix_len(&replica), 6);
        assert_eq!(read(&mesh, node, "shared"), Some(5), "device {node}");
    }
}

#[test]
fn a_fork_of_two_commits_of_half_a_megabyte_is_proven_and_ends_the_same_everywhere() {
    use engine::commit::OpKind;
    use engine::io::Change;
    use engine::name::{FieldName, RowKey, TableName};
    use engine::value::Value;
    let (mut mesh, replica) = cloned(5, 1, 0);
    for (node, byte) in [(3, b'a'), (4, b'b')] {
        let text = String::from_utf8(vec![byte; 700_000]).expect("text");
        let fields = [(FieldName::new("f").expect("a name"), Value::Text(text))].into();
        let (table, row) = (TableName::new("t").expect("a name"), RowKey::new("large").expect("a key"));
        mesh.write(node, vec![Change { table, row, kind: OpKind::Put, fields }]);
    }
    meet(&mut mesh, 0, 3);
    meet(&mut mesh, 1, 4);
    assert_ne!(mesh.engine(0).digest(), mesh.engine(1).digest());
    meet(&mut mesh, 0, 1);
    equal(&mut mesh, &[0, 1]);
    settle(&mut mesh);
    for node in 0..5 {
        assert_eq!(forked_at(&mesh, node), [(replica, 2)], "device {node}");
        assert_eq!(mesh.engine(node).digest(), mesh.engine(0).digest(), "device {node}");
        assert!(alarms(&mesh, node) > 0, "device {node} is not told");
    }
    let kept = [0, 1, 2, 3, 4].map(|node| quarantined(&mesh, node));
    assert_eq!(kept, [vec![3], vec![3], vec![], vec![3], vec![3]]);
}

#[derive(Debug, Clone)]
enum Step {
    Write { node: usize, row: u8 },
    Meet { a: usize, b: usize },
    Crash { node: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0usize..5, 0u8..3).prop_map(|(node, row)| Step::Write { node, row }),
        5 => (0usize..5, 0usize..5).prop_map(|(a, b)| Step::Meet { a, b }),
        1 => (0usize..5).prop_map(|node| Step::Crash { node }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_the_order_all_end_in_one_state_and_nothing_is_lost(
        seed in 0u64..1_000,
        known in 0i64..3,
        steps in proptest::collection::vec(any_step(), 5..40),
    ) {
        let (mut mesh, _) = cloned(seed, 1, known);
        mesh.set_faults(LinkFaults { loss_ppm: 100_000, double_ppm: 100_000, ..LinkFaults::default() });
        for (n, step) in (1..).zip(steps) {
            match step {
                Step::Write { node, row } => put(&mut mesh, node, &format!("r{row}"), n),
                Step::Meet { a, b } if a != b && !mesh.same_device(a, b) => {
                    mesh.connect(a, b);
                    mesh.run_ms(2_000);
                    mesh.disconnect(a, b);
                }
                Step::Meet { .. } => {}
                Step::Crash { node } => {
                    mesh.crash(node);
                    mesh.restart(node);
                }
            }
        }
        let written: Vec<_> = (0..5).flat_map(|node| mesh.store(node).applied(1, 10_000).expect("a read")).collect();
        mesh.set_faults(LinkFaults::default());
        settle(&mut mesh);
        let held: Vec<_> = (0..5).flat_map(|node| {
            let store = mesh.store(node);
            let mut all = store.applied(1, 10_000).expect("a read");
            all.extend(store.quarantine(None, 10_000).expect("a read").into_iter().map(|one| one.stored));
            all
        }).collect();
        for one in &written {
            prop_assert!(held.iter().any(|held| held.commit == one.commit), "{:?} is lost", one.dot());
        }
        for node in 0..5 {
            prop_assert_eq!(forked_at(&mesh, node), forked_at(&mesh, 0));
        }
    }
}
