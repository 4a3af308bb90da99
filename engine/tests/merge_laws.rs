//! The merge laws: whatever the order and however often writes arrive, rows end up the same, and the
//! same as the definition says. Nothing written is lost without being reported.

use std::collections::{BTreeMap, BTreeSet};

use engine::commit::{Op, OpKind, Stamp};
use engine::hlc::Hlc;
use engine::identity::{DeviceId, Dot, ReplicaId};
use engine::name::{FieldName, RowKey, TableName};
use engine::row::{Cell, RowState, Superseded};
use engine::testing::{any_value, op};
use engine::value::Value;
use proptest::prelude::*;
use uuid::Uuid;

type Write = (Stamp, Op);
type Row = (TableName, RowKey);
type Rows = BTreeMap<Row, RowState>;

/// The stamp of a replica's commit. Replicas 0 and 1 are two lives of one device.
fn stamp(hlc: u64, replica: u8, seq: u64) -> Stamp {
    let replica =
        ReplicaId { device: DeviceId(Uuid::from_bytes([replica / 2; 16])), incarnation: replica.into() };
    Stamp { hlc: Hlc(hlc), dot: Dot { replica, seq } }
}

fn any_kind() -> impl Strategy<Value = OpKind> {
    prop_oneof![Just(OpKind::Put), Just(OpKind::Update), Just(OpKind::Delete), Just(OpKind::Replace)]
}

prop_compose! {
    fn any_write_op()(
        row in "[rs]",
        kind in any_kind(),
        fields in proptest::collection::btree_map("[a-c]", any_value(), 0..3),
    ) -> Op {
        op("t", &row, kind, if kind == OpKind::Delete { BTreeMap::new() } else { fields })
    }
}

prop_compose! {
    /// The writes of 2 to 4 authors, with clocks that often coincide: each commit writes a row once.
    fn any_writes()(
        logs in proptest::collection::vec(
            proptest::collection::vec((1u64..6, proptest::collection::vec(any_write_op(), 1..3)), 0..5),
            2..5,
        ),
    ) -> Vec<Write> {
        let mut writes = Vec::new();
        for (replica, log) in logs.into_iter().enumerate() {
            for (seq, (hlc, ops)) in log.into_iter().enumerate() {
                let stamp = stamp(hlc, replica as u8, seq as u64 + 1);
                let ops: BTreeMap<RowKey, Op> = ops.into_iter().map(|op| (op.row.clone(), op)).collect();
                writes.extend(ops.into_values().map(|op| (stamp, op)));
            }
        }
        writes
    }
}

/// All of the writes in some order, some of them more than once.
fn any_arrival(writes: Vec<Write>) -> impl Strategy<Value = Vec<Write>> {
    let again = proptest::sample::subsequence(writes.clone(), 0..=writes.len());
    again.prop_map(move |again| [writes.clone(), again].concat()).prop_shuffle()
}

/// Three parts of one history, which may overlap. (Equal stamps on a row are of one write.)
fn any_parts() -> impl Strategy<Value = [Vec<Write>; 3]> {
    any_writes().prop_flat_map(|writes| {
        let part = move || proptest::sample::subsequence(writes.clone(), 0..=writes.len());
        [part(), part(), part()]
    })
}

/// The same writes, arriving twice.
fn any_two_arrivals() -> impl Strategy<Value = (Vec<Write>, Vec<Write>)> {
    any_writes().prop_flat_map(|writes| (any_arrival(writes.clone()), any_arrival(writes)))
}

fn apply_to(rows: &mut Rows, writes: &[Write]) -> BTreeMap<Row, Vec<Superseded>> {
    let mut lost = BTreeMap::<Row, Vec<Superseded>>::new();
    for (stamp, op) in writes {
        let row = (op.table.clone(), op.row.clone());
        rows.entry(row.clone()).or_default().apply(*stamp, op, lost.entry(row).or_default());
    }
    lost
}

fn apply(writes: &[Write]) -> Rows {
    let mut rows = Rows::new();
    apply_to(&mut rows, writes);
    rows
}

/// The join of two sets of rows.
fn merge(mut ours: Rows, theirs: &Rows) -> Rows {
    for (row, state) in theirs {
        ours.entry(row.clone()).or_default().merge(state);
    }
    ours
}

/// What a row is by definition, from all of its writes at once.
#[derive(Debug, PartialEq)]
struct Definition {
    visible: bool,
    del: Option<Stamp>,
    cells: BTreeMap<FieldName, Cell>,
}

fn owned(state: &RowState) -> BTreeMap<FieldName, Cell> {
    state.cells().iter().collect()
}

fn define(writes: &[Write], row: &Row) -> Definition {
    let of_row = || writes.iter().filter(|(_, op)| op.table == row.0 && op.row == row.1);
    let newest = |kinds: [OpKind; 2]| {
        of_row().filter(|(_, op)| kinds.contains(&op.kind)).map(|(stamp, _)| *stamp).max()
    };
    let (ins, del) = (newest([OpKind::Put, OpKind::Replace]), newest([OpKind::Delete, OpKind::Replace]));
    let names: BTreeSet<FieldName> = of_row().flat_map(|(_, op)| op.fields.keys().cloned()).collect();
    let cells = names.into_iter().filter_map(|name| {
        let written = |(stamp, op): &Write| Some((*stamp, op.fields.get(&name)?.clone()));
        let (stamp, value) = of_row().filter_map(written).max_by_key(|(stamp, _)| *stamp)?;
        (Some(stamp) >= del).then_some((name, Cell { stamp, value }))
    });
    Definition { visible: ins.is_some() && ins >= del, del, cells: cells.collect() }
}

proptest! {
    #[test]
    fn order_and_repetition_of_writes_do_not_matter((once, otherwise) in any_two_arrivals()) {
        prop_assert_eq!(apply(&once), apply(&otherwise));
    }

    #[test]
    fn applying_all_again_changes_nothing((once, otherwise) in any_two_arrivals()) {
        let mut rows = apply(&once);
        let before = rows.clone();
        apply_to(&mut rows, &otherwise);
        prop_assert_eq!(rows, before);
    }

    #[test]
    fn merge_is_commutative_associative_and_idempotent([a, b, c] in any_parts()) {
        let (a, b, c) = (apply(&a), apply(&b), apply(&c));
        prop_assert_eq!(merge(a.clone(), &b), merge(b.clone(), &a));
        prop_assert_eq!(merge(merge(a.clone(), &b), &c), merge(a.clone(), &merge(b, &c)));
        prop_assert_eq!(&merge(a.clone(), &a), &a);
        prop_assert_eq!(&merge(a.clone(), &Rows::new()), &a);
        prop_assert_eq!(&merge(Rows::new(), &a), &a);
    }

    #[test]
    fn merging_states_is_applying_the_writes_of_both([a, b, _] in any_parts()) {
        prop_assert_eq!(merge(apply(&a), &apply(&b)), apply(&[a, b].concat()));
    }

    #[test]
    fn rows_are_what_the_definition_says(writes in any_writes().prop_flat_map(any_arrival)) {
        for (row, state) in apply(&writes) {
            let expected = define(&writes, &row);
            let got = Definition { visible: state.visible(), del: state.del(), cells: owned(&state) };
            let shown: BTreeMap<FieldName, Value> =
                expected.cells.iter().map(|(name, cell)| (name.clone(), cell.value.clone())).collect();
            prop_assert_eq!(state.fields(), expected.visible.then_some(shown));
            for name in ["a", "b", "c"] {
                let cell = expected.cells.get(name).filter(|_| expected.visible);
                prop_assert_eq!(state.field(name), cell.map(|cell| cell.value.clone()));
            }
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn an_update_never_brings_a_row_back(writes in any_writes(), op in any_write_op(), hlc in 1u64..9) {
        let mut rows = apply(&writes);
        let update = Op { kind: OpKind::Update, ..op };
        let state = rows.entry((update.table.clone(), update.row.clone())).or_default();
        let before = state.visible();
        state.apply(stamp(hlc, 9, 1), &update, &mut Vec::new());
        prop_assert_eq!(state.visible(), before);
    }

    #[test]
    fn a_delete_of_a_row_not_yet_known_beats_older_writes_that_arrive_later(
        older in any_writes(),
        row in "[rs]",
    ) {
        // All clocks in `older` are below 6.
        let delete = (stamp(6, 0, 99), op("t", &row, OpKind::Delete, BTreeMap::new()));
        let key = (delete.1.table.clone(), delete.1.row.clone());
        let rows = apply(&[vec![delete.clone()], older].concat());
        let state = &rows[&key];
        prop_assert_eq!((state.visible(), state.del(), state.cells().len()), (false, Some(delete.0), 0));
    }

    #[test]
    fn a_replace_leaves_its_own_fields_and_nothing_older(
        older in any_writes(),
        replace in any_write_op().prop_map(|op| Op { kind: OpKind::Replace, ..op }),
        replace_first: bool,
    ) {
        let replace = (stamp(6, 0, 99), replace);
        let key = (replace.1.table.clone(), replace.1.row.clone());
        let first = vec![replace.clone()];
        let rows = apply(&if replace_first { [first, older].concat() } else { [older, first].concat() });
        prop_assert_eq!(rows[&key].fields(), Some(replace.1.fields.into_iter().collect()));
    }

    #[test]
    fn every_value_written_is_kept_or_reported_lost_and_none_is_both(
        writes in any_writes().prop_flat_map(any_arrival),
    ) {
        let mut rows = Rows::new();
        let lost = apply_to(&mut rows, &writes);
        let none = Vec::new();
        for (stamp, op) in &writes {
            let row = (op.table.clone(), op.row.clone());
            let (cells, lost) = (rows[&row].cells(), lost.get(&row).unwrap_or(&none));
            for (field, value) in &op.fields {
                let kept = cells.get(field.as_str()).is_some_and(|cell| cell.stamp == *stamp && cell.value == *value);
                let mut reports = lost.iter().filter(|s| s.field == *field && s.loser == *stamp);
                let reported = reports.clone().count() > 0;
                prop_assert!(kept != reported, "{:?} {:?}: kept {}, reported {}", stamp, field, kept, reported);
                prop_assert!(reports.all(|superseded| superseded.value == *value));
            }
        }
    }

    #[test]
    fn what_is_reported_lost_was_written_and_lost_to_a_later_write_of_the_field_or_delete_of_the_row(
        writes in any_writes().prop_flat_map(any_arrival),
    ) {
        for (row, lost) in apply_to(&mut Rows::new(), &writes) {
            let find = |stamp| writes.iter().find(|(s, op)| *s == stamp && (&op.table, &op.row) == (&row.0, &row.1));
            for Superseded { field, value, loser, winner } in lost {
                prop_assert!(loser < winner);
                prop_assert_eq!(find(loser).and_then(|(_, op)| op.fields.get(&field)), Some(&value));
                let winner = find(winner).map(|(_, op)| op.kind.deletes() || op.fields.contains_key(&field));
                prop_assert_eq!(winner, Some(true));
            }
        }
    }

    #[test]
    fn a_state_comes_back_and_no_truncation_reads(writes in any_writes()) {
        for state in apply(&writes).into_values() {
            let bytes = state.encode();
            for end in 0..bytes.len() {
                prop_assert!(RowState::decode(&bytes[..end]).is_err());
            }
            prop_assert!(RowState::decode(&[&bytes[..], &[0]].concat()).is_err());
            prop_assert_eq!(RowState::decode(&bytes), Ok(state));
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_reads_as_another_state(
        writes in any_writes(),
        bit in any::<prop::sample::Index>(),
    ) {
        for state in apply(&writes).into_values() {
            let mut bytes = state.encode();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = RowState::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
                prop_assert_ne!(other, state);
            }
        }
    }

    #[test]
    fn digests_are_equal_exactly_when_states_are([a, b, _] in any_parts()) {
        let digests = |rows: &Rows| -> Vec<u128> {
            rows.iter().map(|((table, row), state)| state.digest(table, row)).collect()
        };
        let (a, b) = (apply(&a), apply(&b));
        prop_assert_eq!(digests(&a) == digests(&b), a == b);
        let [x, y] = [&a, &b].map(|rows| rows.values().next().cloned().unwrap_or_default());
        let row = op("t", "r", OpKind::Put, BTreeMap::new());
        let digest = |state: &RowState| state.digest(&row.table, &row.row);
        prop_assert_eq!(digest(&x) == digest(&y), x == y);
    }
}

#[test]
fn a_digest_is_of_one_row_of_one_table() {
    let digest = |table, row| {
        let op = op(table, row, OpKind::Put, BTreeMap::new());
        let mut state = RowState::default();
        state.apply(stamp(5, 0, 1), &op, &mut ());
        state.digest(&op.table, &op.row)
    };
    let digests =
        [digest("t", "r"), digest("t", "s"), digest("u", "r"), digest("tr", "s"), digest("t", "rs")];
    assert_eq!(BTreeSet::from(digests).len(), digests.len());
}

#[test]
fn of_two_writes_with_equal_clocks_the_device_then_the_replica_then_the_sequence_number_decides() {
    let write = |value: i64| op("t", "r", OpKind::Put, [("a".to_owned(), Value::Int(value))].into());
    // Ascending: a larger incarnation, a larger device with a smaller sequence number, a larger clock.
    let stamps = [stamp(5, 0, 1), stamp(5, 0, 2), stamp(5, 1, 1), stamp(5, 2, 1), stamp(6, 0, 1)];
    for (i, a) in stamps.iter().enumerate() {
        for (j, b) in stamps.iter().enumerate() {
            let rows = apply(&[(*a, write(i as i64)), (*b, write(j as i64))]);
            let shown = rows.values().next().and_then(|state| state.field("a"));
            assert_eq!(shown, Some(Value::Int(i.max(j) as i64)));
        }
    }
}

/// A state from its parts, in canonical form if the parts are.
fn state_bytes(ins: u64, del: u64, fields: &[(&str, u64)]) -> Vec<u8> {
    use engine::codec::Writer;
    let mut writer = Writer::new();
    let put_stamp = |writer: &mut Writer, hlc| {
        let stamp = stamp(hlc, 0, hlc);
        writer.raw(&stamp.hlc.0.to_be_bytes());
        writer.raw(stamp.dot.replica.device.0.as_bytes());
        writer.raw(&stamp.dot.replica.incarnation.to_be_bytes());
        writer.varint(stamp.dot.seq);
    };
    writer.u8(u8::from(ins != 0) | u8::from(del != 0) << 1);
    [ins, del].into_iter().filter(|hlc| *hlc != 0).for_each(|hlc| put_stamp(&mut writer, hlc));
    writer.varint(fields.len() as u64);
    for (field, hlc) in fields {
        writer.bytes(field.as_bytes());
        put_stamp(&mut writer, *hlc);
        Value::Null.encode(&mut writer);
    }
    writer.into_bytes()
}

#[test]
fn a_state_that_is_not_in_normal_form_does_not_read() {
    let reads = |bytes: Vec<u8>| RowState::decode(&bytes).is_ok();
    assert!(reads(state_bytes(2, 2, &[("a", 2), ("b", 3)])));
    assert!(reads(state_bytes(0, 2, &[("a", 3)])));
    assert!(!reads(state_bytes(1, 2, &[])), "a create below the delete");
    assert!(!reads(state_bytes(2, 2, &[("a", 1)])), "a field below the delete");
    assert!(!reads(state_bytes(1, 0, &[("b", 1), ("a", 1)])), "fields that do not ascend");
    assert!(!reads(state_bytes(1, 0, &[("a", 1), ("a", 1)])), "a field twice");
}
