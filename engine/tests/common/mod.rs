//! What tests over `Mesh` share: one table, one field, and what it means to agree.

use std::collections::BTreeMap;

use engine::commit::OpKind;
use engine::io::Change;
use engine::name::{FieldName, RowKey, TableName};
use engine::store::StoreRead;
use engine::store::contract::state_follows_from_log;
use engine::testing::Mesh;
use engine::value::Value;

/// Longest time that agreement may take, in milliseconds.
pub(crate) const LONG_MS: u64 = 120_000;

/// What to do with the field `f` of a row of table `t`.
pub(crate) fn change(row: &str, kind: OpKind, value: i64) -> Change {
    let field = FieldName::new("f").expect("a name");
    let fields = if kind == OpKind::Delete { BTreeMap::new() } else { [(field, Value::Int(value))].into() };
    Change {
        table: TableName::new("t").expect("a name"),
        row: RowKey::new(row).expect("a key"),
        kind,
        fields,
    }
}

/// Writes it.
pub(crate) fn put(mesh: &mut Mesh, node: usize, row: &str, value: i64) {
    mesh.write(node, vec![change(row, OpKind::Put, value)]);
}

/// Reads it.
pub(crate) fn read(mesh: &Mesh, node: usize, row: &str) -> Option<i64> {
    let table = TableName::new("t").expect("a name");
    let state = mesh.store(node).row(&table, &RowKey::new(row).expect("a key")).expect("a read")?;
    match state.field("f")? {
        Value::Int(value) => Some(value),
        other => panic!("not written here: {other:?}"),
    }
}

/// The sequence numbers in a device's quarantine.
pub(crate) fn quarantined(mesh: &Mesh, node: usize) -> Vec<u64> {
    let all = mesh.store(node).quarantine(None, 1_000).expect("a read");
    all.iter().map(|one| one.stored.commit.dot.seq).collect()
}

/// Runs until these devices know the same, and checks that they have the same and that it follows from their logs.
pub(crate) fn equal(mesh: &mut Mesh, nodes: &[usize]) {
    let same = |mesh: &Mesh| {
        nodes.windows(2).all(|two| mesh.engine(two[0]).knowledge() == mesh.engine(two[1]).knowledge())
    };
    assert!(mesh.run_until(LONG_MS, same), "knowledge of {nodes:?} does not become equal");
    for node in nodes {
        assert_eq!(mesh.engine(*node).digest(), mesh.engine(nodes[0]).digest());
        state_follows_from_log(mesh.store(*node));
    }
}

/// Connects each of these to each.
pub(crate) fn full_mesh(mesh: &mut Mesh, nodes: &[usize]) {
    for (index, a) in nodes.iter().enumerate() {
        nodes[index + 1..].iter().for_each(|b| mesh.connect(*a, *b));
    }
}
