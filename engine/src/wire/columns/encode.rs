//! Writes runs. The format is specified in the parent module.

use std::collections::BTreeMap;

use crate::codec::Writer;
use crate::commit::{Commit, Deps, Op, put_introduction, put_replica};
use crate::hlc::Hlc;
use crate::identity::ReplicaId;
use crate::name::{FieldName, RowKey, TableName};
use crate::value::Value;

use super::{COLUMNS, Part, Places, ROWS};

/// Shared starts of values shorter than this are not worth telling.
const SHARED_BYTES_MIN: usize = 3;
/// A column of so many bytes is worth a DEFLATE block of its own.
const LONG_COLUMN_BYTES: usize = 1024;

fn stated(part: &&Part<'_>) -> bool {
    part.commits.iter().any(|commit| commit.statement.is_some())
}

/// Writes what stands in front of the columns: of runs of statements, which are not by columns, all.
pub(super) fn heads(parts: &[Part<'_>], writer: &mut Writer) {
    writer.varint(parts.len() as u64);
    for part in parts {
        if stated(&part) {
            rows(part, writer);
            continue;
        }
        let Some(first) = part.commits.first() else { continue };
        writer.u8(COLUMNS);
        writer.varint(part.commits.len() as u64);
        put_replica(writer, &first.dot.replica);
        writer.varint(first.dot.seq);
        if first.dot.seq == 1 {
            put_introduction(writer, first.introduces.as_deref());
        } else {
            writer.raw(&first.prev.0);
        }
        put_sig(part, writer);
    }
}

/// Writes runs by columns, except those of statements.
pub(super) fn by_columns(parts: &[Part<'_>], writer: &mut Writer) -> Places {
    heads(parts, writer);
    if parts.iter().all(|part| stated(&part)) {
        return Places::default();
    }
    let in_columns =
        || parts.iter().filter(|part| !stated(part)).flat_map(|part| part.commits.iter().copied());
    let mut columns = Columns::of(&in_columns());
    in_columns().for_each(|commit| columns.commit(commit));
    let begin = writer.len();
    Places { columns: Some(begin), cuts: columns.write(writer) }
}

/// Writes runs by rows.
pub(super) fn by_rows(parts: &[Part<'_>], writer: &mut Writer) {
    writer.varint(parts.len() as u64);
    parts.iter().for_each(|part| rows(part, writer));
}

fn rows(part: &Part<'_>, writer: &mut Writer) {
    writer.u8(ROWS);
    writer.varint(part.commits.len() as u64);
    for commit in &part.commits {
        let len = commit.encoded_len();
        writer.varint(len as u64);
        let start = writer.len();
        commit.encode_to(writer);
        debug_assert_eq!(writer.len() - start, len, "the length of a commit is that of its encoding");
    }
    put_sig(part, writer);
}

fn put_sig(part: &Part<'_>, writer: &mut Writer) {
    if let Some(sig) = part.sig {
        writer.raw(&sig.0);
    }
}

/// The dictionaries, and the columns as they grow.
#[derive(Default)]
struct Columns<'a> {
    /// With the last sequence number so far.
    replicas: Vec<(&'a ReplicaId, u64)>,
    tables: Vec<&'a TableName>,
    fields: Vec<&'a FieldName>,
    /// Shapes by kind, table and fields.
    shapes: BTreeMap<(u8, usize, Vec<usize>), usize>,
    shape_list: Writer,
    /// Row keys by place of first occurrence.
    rows: BTreeMap<&'a RowKey, usize>,
    last_hlc: Option<Hlc>,
    last_new_row: &'a [u8],
    ms: Writer,
    counter: Writer,
    deps: Writer,
    ops: Writer,
    shape: Writer,
    row: Writer,
    shared: Writer,
    rest: Writer,
    keys: Writer,
    values: Vec<Values<'a>>,
}

/// The columns of one field.
#[derive(Default)]
struct Values<'a> {
    last_int: i64,
    last_string: &'a [u8],
    tags: Writer,
    numbers: Writer,
    shared: Writer,
    contents: Writer,
}

impl<'a> Columns<'a> {
    /// Empty columns with the dictionaries that must be known before: those in ascending order.
    fn of(commits: &(impl Iterator<Item = &'a Commit> + Clone)) -> Columns<'a> {
        let ops = || commits.clone().flat_map(|commit| &commit.ops);
        let replicas = distinct(commits.clone().flat_map(|commit| commit.deps.keys()));
        let fields = distinct(ops().flat_map(|op| op.fields.keys()));
        Columns {
            replicas: replicas.into_iter().map(|replica| (replica, 0)).collect(),
            tables: distinct(ops().map(|op| &op.table)),
            values: fields.iter().map(|_| Values::default()).collect(),
            fields,
            ..Columns::default()
        }
    }

    fn commit(&mut self, commit: &'a Commit) {
        let last = self.last_hlc.unwrap_or_default();
        self.ms.zigzag((commit.hlc.ms() as i64).wrapping_sub(last.ms() as i64));
        self.counter.zigzag(i64::from(commit.hlc.counter()) - super::expected_counter(last, commit.hlc.ms()));
        self.last_hlc = Some(commit.hlc);
        self.dependencies(&commit.deps);
        self.ops.varint(commit.ops.len() as u64);
        commit.ops.iter().for_each(|op| self.op(op));
    }

    fn dependencies(&mut self, deps: &Deps) {
        let place = |replica| self.replicas.partition_point(|(other, _)| *other < replica);
        let places: Vec<usize> = deps.keys().map(place).collect();
        put_indices(&mut self.deps, &places);
        for (place, seq) in places.into_iter().zip(deps.values()) {
            let (_, last) = &mut self.replicas[place];
            self.deps.zigzag(seq.wrapping_sub(*last) as i64);
            *last = *seq;
        }
    }

    fn op(&mut self, op: &'a Op) {
        let fields: Vec<usize> = op.fields.keys().map(|field| place(&self.fields, field)).collect();
        for (field, value) in fields.iter().zip(op.fields.values()) {
            self.values[*field].value(value);
        }
        let shape = (op.kind.tag(), place(&self.tables, &op.table), fields);
        let place = match self.shapes.get(&shape) {
            Some(place) => *place,
            None => self.new_shape(shape),
        };
        self.shape.varint(place as u64);
        match self.rows.get(&op.row) {
            Some(place) => self.row.varint((self.rows.len() - place) as u64),
            None => self.new_row(&op.row),
        }
    }

    fn new_shape(&mut self, shape: (u8, usize, Vec<usize>)) -> usize {
        let place = self.shapes.len();
        self.shape_list.u8(shape.0);
        self.shape_list.varint(shape.1 as u64);
        put_indices(&mut self.shape_list, &shape.2);
        self.shapes.insert(shape, place);
        place
    }

    fn new_row(&mut self, row: &'a RowKey) {
        self.row.varint(0);
        self.rows.insert(row, self.rows.len());
        let key = row.as_str().as_bytes();
        let shared = shared_len(key, self.last_new_row);
        self.shared.varint(shared as u64);
        self.rest.varint((key.len() - shared) as u64);
        self.keys.raw(&key[shared..]);
        self.last_new_row = key;
    }

    fn write(self, writer: &mut Writer) -> Vec<usize> {
        writer.varint(self.replicas.len() as u64);
        self.replicas.iter().for_each(|(replica, _)| put_replica(writer, replica));
        writer.varint(self.tables.len() as u64);
        self.tables.iter().for_each(|table| writer.bytes(table.as_str().as_bytes()));
        writer.varint(self.fields.len() as u64);
        self.fields.iter().for_each(|field| writer.bytes(field.as_str().as_bytes()));
        writer.varint(self.shapes.len() as u64);
        writer.raw(&self.shape_list.into_bytes());
        let fixed = [
            self.ms,
            self.counter,
            self.deps,
            self.ops,
            self.shape,
            self.row,
            self.shared,
            self.rest,
            self.keys,
        ];
        let values = self
            .values
            .into_iter()
            .flat_map(|field| [field.tags, field.numbers, field.shared, field.contents]);
        let mut cuts = Vec::new();
        for column in fixed.into_iter().chain(values) {
            let long = column.len() >= LONG_COLUMN_BYTES;
            if long && cuts.last().is_none_or(|last| *last < writer.len()) {
                cuts.push(writer.len());
            }
            writer.bytes(column.as_bytes());
            if long {
                cuts.push(writer.len());
            }
        }
        cuts
    }
}

impl<'a> Values<'a> {
    fn value(&mut self, value: &'a Value) {
        self.tags.u8(value.tag());
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Int(value) => {
                self.numbers.zigzag(value.wrapping_sub(self.last_int));
                self.last_int = *value;
            }
            Value::Float(value) => self.contents.raw(&value.to_bits().to_le_bytes()),
            Value::Text(text) => self.string(text.as_bytes()),
            Value::Bytes(bytes) => self.string(bytes),
            Value::List(_) | Value::Map(_) => value.encode(&mut self.contents),
        }
    }

    fn string(&mut self, bytes: &'a [u8]) {
        let shared = shared_len(bytes, self.last_string);
        let shared = if shared < SHARED_BYTES_MIN { 0 } else { shared };
        self.numbers.varint((bytes.len() - shared) as u64);
        self.shared.varint(shared as u64);
        self.contents.raw(&bytes[shared..]);
        self.last_string = bytes;
    }
}

/// How many bytes two strings have in common at their starts.
fn shared_len(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// The distinct items in ascending order.
fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = items.collect();
    list.sort_unstable();
    list.dedup();
    list
}

/// The place of an item of such a list.
fn place<T: Ord>(items: &[&T], item: &T) -> usize {
    items.partition_point(|other| *other < item)
}

/// Writes strictly ascending places.
fn put_indices(writer: &mut Writer, indices: &[usize]) {
    writer.varint(indices.len() as u64);
    let mut next = 0;
    for index in indices {
        writer.varint((index - next) as u64);
        next = index + 1;
    }
}
