//! What one hostile member can make a device hold in memory, counted by the allocator: values, maps and operations of
//! which a few bytes become many, in commits that wait for something that never comes.

use std::alloc::System;
use std::collections::BTreeMap;

use engine::commit::{Op, OpKind};
use engine::config::Config;
use engine::hlc::Hlc;
use engine::identity::PeerKey;
use engine::io::Input;
use engine::testing::{Author, Mesh, op};
use engine::value::Value;
use engine::wire::message::{Control, Ops, Run, pack_control, pack_ops};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SESSION: u32 = 77;
/// The bound that is set on commits that wait, in bytes as they travel.
const REORDER_BYTES: usize = 2 * 1024 * 1024;
/// What they may take in memory then.
const MEMORY_MAX: usize = 4 * REORDER_BYTES;
/// Canonical bytes of each commit, roughly, and how many are sent: far more than may wait.
const COMMIT_BYTES: usize = 30_000;
const COMMITS: u64 = 150;

/// What the n-th commit is made of.
type Shape<'a> = &'a dyn Fn(u64) -> Vec<Op>;

/// Sends commits that wait; gives what the device then holds more than before, in bytes, and how many bytes wait.
fn held(ops: impl Fn(u64) -> Vec<Op>) -> (usize, usize) {
    let mut mesh = Mesh::new(1, 5, Config { reorder_bytes_max: REORDER_BYTES, ..Config::default() });
    let mut author = Author::new(9);
    let peer: PeerKey = author.identity.peer_key();
    mesh.input(0, Input::PeerUp(peer));
    mesh.inject(0, peer, pack_control(SESSION, &Control::Hello(Box::new(author.hello()))).expect("a frame"));
    let missing = Author::new(7).replica;
    let before = Region::new(GLOBAL);
    for n in 0..COMMITS {
        let deps = BTreeMap::from([(missing, n + 1)]);
        let (commit, sig) = author.commit(Hlc::new(1_700_000_000_000, n as u16), deps, ops(n));
        let ops = Ops { want: 0, offset: n, done: true, runs: vec![Run { commits: vec![commit], sig }] };
        mesh.inject(0, peer, pack_ops(SESSION, &ops).expect("a frame"));
    }
    let change = before.change();
    let stats = mesh.engine(0).stats();
    assert!(stats.waiting_commits > 0, "nothing waits: the test does not show what it is to show");
    // Growing and shrinking are counted as the one and the other.
    let held = change.bytes_allocated.saturating_sub(change.bytes_deallocated);
    (held, usize::try_from(stats.waiting_bytes).expect("small"))
}

fn row(n: u64, value: Value) -> Vec<Op> {
    vec![op("t", &format!("row {n}"), OpKind::Put, BTreeMap::from([("x".to_owned(), value)]))]
}

/// One test, because the allocator counts for the whole process.
#[test]
fn what_waits_for_one_hostile_member_stays_within_its_bound_of_memory_whatever_it_is_made_of() {
    let nulls = |n: u64| row(n, Value::List(vec![Value::Null; COMMIT_BYTES]));
    let small = || Value::Map(BTreeMap::from([(String::new(), Value::Null)]));
    let maps = |n: u64| row(n, Value::List(vec![small(); COMMIT_BYTES / 5]));
    let nest = |depth: usize| {
        (0..depth).fold(Value::Null, |inner, _| Value::Map(BTreeMap::from([(String::new(), inner)])))
    };
    let nests = |n: u64| row(n, Value::List(vec![nest(30); COMMIT_BYTES / 100]));
    let empty = |at: usize| {
        op("t", &format!("{at:05}"), OpKind::Put, BTreeMap::from([("x".to_owned(), Value::Null)]))
    };
    let operations = |_: u64| (0..COMMIT_BYTES / 20).map(empty).collect::<Vec<_>>();
    let text = |n: u64| row(n, Value::Text("y".repeat(COMMIT_BYTES)));
    let shapes: [(&str, Shape<'_>); 5] =
        [("nulls", &nulls), ("maps", &maps), ("nests", &nests), ("operations", &operations), ("text", &text)];
    let mut worst = 0;
    for (name, shape) in shapes {
        let (held, waiting) = held(shape);
        assert!(waiting <= REORDER_BYTES, "{name}: {waiting} bytes wait");
        // And what a session has of its own.
        assert!(held <= MEMORY_MAX + 512 * 1024, "{name}: {held} bytes held");
        worst = worst.max(held / waiting.max(1));
    }
    assert!(worst > 20, "no shape takes much more than it travels as: {worst}");
}
