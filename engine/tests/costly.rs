//! Commits of which a few bytes become many in memory: what all refuse is refused where it is written, and what is
//! written reaches everybody, however much of it there is.

use std::collections::BTreeMap;

use engine::config::{Config, DECODED_BYTES_MAX};
use engine::io::{Change, Event, Input, WriteError, WriteRequest};
use engine::name::{FieldName, RowKey, TableName};
use engine::testing::Mesh;
use engine::value::Value;

/// Maps of one entry, nested 30 deep, so many times: 90 bytes and 24 kB each.
fn nests(count: usize) -> Value {
    let nest = (0..30).fold(Value::Null, |inner, _| Value::Map(BTreeMap::from([(String::new(), inner)])));
    Value::List(vec![nest; count])
}

fn put(row: u64, value: Value) -> Change {
    let field = FieldName::new("x").expect("a name");
    Change {
        table: TableName::new("t").expect("a name"),
        row: RowKey::new(&format!("row {row}")).expect("a key"),
        kind: engine::commit::OpKind::Put,
        fields: BTreeMap::from([(field, value)]),
    }
}

#[test]
fn what_costs_more_memory_than_a_frame_may_is_refused_where_it_is_written() {
    let mut mesh = Mesh::new(1, 1, Config::default());
    let id = mesh.write(0, vec![put(0, nests(1_500))]);
    let refused = mesh.results[&id].clone();
    let Err(WriteError::TooCostly { bytes, max }) = refused else { panic!("{refused:?}") };
    assert!(bytes > max && max == DECODED_BYTES_MAX);
    let id = mesh.write(0, vec![put(0, nests(1_200))]);
    assert!(mesh.results[&id].is_ok());
}

/// Three commits, of which a frame holds one, in less than half of the bytes that a frame aims at.
fn write_three(mesh: &mut Mesh, from: u64) {
    let request = |id| WriteRequest { id, changes: vec![put(id, nests(800))], ..WriteRequest::default() };
    mesh.input(0, Input::Write((from..from + 3).map(request).collect()));
    assert!((from..from + 3).all(|id| mesh.results[&id].is_ok()));
}

fn same(mesh: &Mesh, a: usize, b: usize) -> bool {
    mesh.engine(a).knowledge() == mesh.engine(b).knowledge()
}

#[test]
fn commits_that_cost_much_are_pushed_given_and_handed_on_in_frames_that_everybody_takes() {
    let mut mesh = Mesh::new(3, 2, Config::default());
    write_three(&mut mesh, 1_000);
    mesh.connect(0, 1);
    assert!(mesh.run_until(60_000, |mesh| same(mesh, 0, 1)), "given");
    write_three(&mut mesh, 2_000);
    assert!(mesh.run_until(60_000, |mesh| same(mesh, 0, 1)), "pushed");
    mesh.crash(0);
    mesh.connect(1, 2);
    assert!(mesh.run_until(60_000, |mesh| same(mesh, 1, 2)), "handed on");
    let faults: Vec<_> =
        mesh.events.iter().filter(|(_, event)| matches!(event, Event::PeerFault { .. })).collect();
    assert!(faults.is_empty(), "{faults:?}");
}
