//! Reads runs by columns. The format is specified in the parent module.
//!
//! Everything here is hostile. Invariants: each commit, operation and value takes bytes of the input; names,
//! which cost a byte to repeat, are counted before they are copied; memory is taken from a budget before it is used.

use crate::codec::{DecodeError, Reader, Writer};
use crate::commit::{
    Commit, CommitHash, Deps, Op, OpKind, get_field, get_introduction, get_replica, get_table,
};
use crate::config::{
    COMMIT_BYTES_MAX, COMMIT_OPS_MAX, INFLATED_BYTES_MAX, REPLICAS_MAX, ROW_FIELDS_MAX, ROW_KEY_BYTES_MAX,
};
use crate::cost::{self, Budget};
use crate::fields::FieldValues;
use crate::hlc::Hlc;
use crate::identity::{AccountId, DeviceCert, Dot, ReplicaId};
use crate::name::{FieldName, RowKey, TableName};
use crate::value::Value;

use super::HashedCommit;

/// What stands in front of a run's columns.
pub(super) struct Head {
    count: usize,
    dot: Dot,
    prev: CommitHash,
    introduces: Option<Box<DeviceCert>>,
}

impl Head {
    /// Each commit takes `bytes_each_min` bytes at least of what else is to be read.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        bytes_each_min: usize,
        account: &AccountId,
        budget: &mut Budget,
    ) -> Result<Head, DecodeError> {
        let count = super::run_len(reader, bytes_each_min)?;
        let dot = Dot { replica: get_replica(reader)?, seq: reader.varint()? };
        let (mut introduces, mut prev) = (None, CommitHash::default());
        if dot.seq == 1 {
            introduces = get_introduction(reader, account, budget)?;
        } else {
            prev = CommitHash(reader.array()?);
        }
        Ok(Head { count, dot, prev, introduces })
    }

    /// The first commit, and how many there are.
    pub(super) fn place(&self) -> (Dot, usize) {
        (self.dot, self.count)
    }
}

/// Memory that the dictionaries may take for a byte of what is read by them.
const DICTIONARY_TIMES: usize = 2;
/// Memory that entries of the dictionaries take, in bytes, besides long names: less than [`DICTIONARY_TIMES`] what that
/// costs for which an honest device enters them, an operation or a field of one or a dependency.
const REPLICA: usize = 64;
const TABLE: usize = 24;
const FIELD: usize = 144;
const SHAPE: usize = 64;
const PLACE: usize = 8;
/// What stands before a name that does not lie in place, and how long names are that do.
const SHARED: usize = 16;
const NAME_IN_PLACE: usize = 23;

/// The dictionaries, and the columns as they shrink.
pub(super) struct Columns<'a> {
    /// With the last sequence number so far.
    replicas: Vec<(ReplicaId, u64)>,
    tables: Vec<TableName>,
    fields: Vec<Field<'a>>,
    shapes: Vec<Shape>,
    rows: Rows<'a>,
    last_hlc: Hlc,
    /// What is hashed of the commit that is being read.
    scratch: Writer,
    ms: Reader<'a>,
    counter: Reader<'a>,
    deps: Reader<'a>,
    ops: Reader<'a>,
    shape: Reader<'a>,
}

/// What operations have in common. The places are within their dictionaries.
struct Shape {
    kind: OpKind,
    table: usize,
    fields: Vec<usize>,
    /// Length of all names in it, in bytes.
    names_bytes: usize,
}

impl<'a> Columns<'a> {
    /// The commits of the next run. `bytes` counts what all runs have together in canonical form.
    pub(super) fn run(
        &mut self,
        head: Head,
        bytes: &mut usize,
        budget: &mut Budget,
    ) -> Result<Vec<HashedCommit>, DecodeError> {
        let Head { count, mut dot, mut prev, mut introduces } = head;
        budget.take_each(count, cost::COMMIT)?;
        let mut run = Vec::with_capacity(count);
        for _ in 0..count {
            let next = self.commit(dot, prev, introduces.take(), budget)?;
            super::count_bytes(bytes, next.bytes)?;
            // `check` keeps sequence numbers far below the overflow.
            dot.seq += 1;
            prev = next.hash;
            run.push(next);
        }
        Ok(run)
    }

    /// Reads the dictionaries and finds where the columns lie. What is read by them may cost `decoded`.
    pub(super) fn open(reader: &mut Reader<'a>, decoded: usize) -> Result<Columns<'a>, DecodeError> {
        let budget = &mut Budget::of(decoded.saturating_mul(DICTIONARY_TIMES));
        let replicas = ascending(reader, budget, (24, REPLICA), "replicas", |_| 0, get_replica)?;
        let length = |name: &str| if name.len() > NAME_IN_PLACE { SHARED + name.len() } else { 0 };
        let of_table = |table: &TableName| length(table.as_str());
        let tables = ascending(reader, budget, (2, TABLE), "tables", of_table, get_table)?;
        let of_field = |field: &FieldName| length(field.as_str());
        let names = ascending(reader, budget, (2, FIELD), "fields", of_field, get_field)?;
        let shapes = get_shapes(reader, budget, &tables, &names)?;
        Ok(Columns {
            replicas: replicas.into_iter().map(|replica| (replica, 0)).collect(),
            tables,
            shapes,
            last_hlc: Hlc::default(),
            scratch: Writer::new(),
            // In the order in which they were written: fields of a struct are evaluated as they stand.
            ms: column(reader)?,
            counter: column(reader)?,
            deps: column(reader)?,
            ops: column(reader)?,
            shape: column(reader)?,
            rows: Rows::open(reader)?,
            fields: Field::open_all(names, reader)?,
        })
    }

    fn commit(
        &mut self,
        dot: Dot,
        prev: CommitHash,
        introduces: Option<Box<DeviceCert>>,
        budget: &mut Budget,
    ) -> Result<HashedCommit, DecodeError> {
        let (hlc, deps) = (self.hlc()?, self.dependencies(budget)?);
        let count = usize::try_from(self.ops.varint()?).unwrap_or(usize::MAX);
        if count > COMMIT_OPS_MAX {
            return Err(DecodeError::TooLarge("operations of a commit"));
        }
        if count > self.shape.remaining() {
            return Err(DecodeError::Truncated);
        }
        budget.take_each(count, cost::OP)?;
        let (mut ops, mut names_bytes) = (Vec::with_capacity(count), 0);
        for _ in 0..count {
            ops.push(self.op(&mut names_bytes, budget)?);
        }
        let commit = Commit { dot, prev, hlc, deps, introduces, statement: None, ops };
        commit.check()?;
        let (hash, bytes) = commit.hash_and_len(&mut self.scratch);
        if bytes > COMMIT_BYTES_MAX {
            return Err(DecodeError::TooLarge("a commit"));
        }
        Ok(HashedCommit { commit, hash, bytes })
    }

    fn hlc(&mut self) -> Result<Hlc, DecodeError> {
        let ms = (self.last_hlc.ms() as i64).wrapping_add(self.ms.zigzag()?) as u64;
        let expected = super::expected_counter(self.last_hlc, ms);
        let counter =
            expected.checked_add(self.counter.zigzag()?).and_then(|counter| u16::try_from(counter).ok());
        let Some(counter) = counter.filter(|_| ms < 1 << 48) else {
            return Err(DecodeError::Invalid("a stamp"));
        };
        self.last_hlc = Hlc::new(ms, counter);
        Ok(self.last_hlc)
    }

    fn dependencies(&mut self, budget: &mut Budget) -> Result<Deps, DecodeError> {
        let places = get_indices(&mut self.deps, REPLICAS_MAX, self.replicas.len(), "dependencies")?;
        budget.take_deps(places.len())?;
        let mut deps = Deps::new();
        for place in places {
            let (replica, last) = &mut self.replicas[place];
            *last = last.wrapping_add_signed(self.deps.zigzag()?);
            if *last == 0 || *last > i64::MAX as u64 {
                return Err(DecodeError::Invalid("a dependency"));
            }
            deps.insert(*replica, *last);
        }
        Ok(deps)
    }

    /// Reads an operation of a commit whose names had `names_bytes` bytes before it.
    fn op(&mut self, names_bytes: &mut usize, budget: &mut Budget) -> Result<Op, DecodeError> {
        let shape = &self.shapes[place(&mut self.shape, self.shapes.len())?];
        *names_bytes += shape.names_bytes;
        let row = self.rows.next(names_bytes)?;
        budget.take(shape.names_bytes + row.as_str().len())?;
        budget.take_each(shape.fields.len(), cost::FIELD)?;
        let mut fields = FieldValues::with_capacity(shape.fields.len());
        for field in &shape.fields {
            let field = &mut self.fields[*field];
            // Places in a dictionary that ascends, ascending.
            fields.push(field.name.clone(), field.value(names_bytes, budget)?);
        }
        Ok(Op { table: self.tables[shape.table].clone(), row, kind: shape.kind, fields })
    }

    pub(super) fn finish(self) -> Result<(), DecodeError> {
        let rows = [self.rows.row, self.rows.shared, self.rows.rest, self.rows.keys];
        let four = |field: Field<'a>| [field.tags, field.numbers, field.shared, field.contents];
        let values = self.fields.into_iter().flat_map(four);
        let fixed = [self.ms, self.counter, self.deps, self.ops, self.shape];
        fixed.into_iter().chain(rows).chain(values).try_for_each(Reader::finish)
    }
}

/// The columns of row keys.
struct Rows<'a> {
    /// In the order in which they were new.
    known: Vec<RowKey>,
    /// The last new one.
    last: Vec<u8>,
    row: Reader<'a>,
    shared: Reader<'a>,
    rest: Reader<'a>,
    keys: Reader<'a>,
}

impl<'a> Rows<'a> {
    fn open(reader: &mut Reader<'a>) -> Result<Rows<'a>, DecodeError> {
        let [row, shared, rest, keys] = [column(reader)?, column(reader)?, column(reader)?, column(reader)?];
        Ok(Rows { known: Vec::new(), last: Vec::new(), row, shared, rest, keys })
    }

    /// The next row key, counted in `names_bytes` before it is made.
    fn next(&mut self, names_bytes: &mut usize) -> Result<RowKey, DecodeError> {
        let back = self.row.varint()?;
        let old = usize::try_from(back).ok().and_then(|back| self.known.len().checked_sub(back));
        let Some(old) = old else { return Err(DecodeError::Invalid("a place of a row key")) };
        if let Some(row) = self.known.get(old) {
            count_names(names_bytes, row.as_str().len())?;
            return Ok(row.clone());
        }
        // `back` is 0: a new one.
        let shared = usize::try_from(self.shared.varint()?).unwrap_or(usize::MAX);
        if shared > self.last.len() {
            return Err(DecodeError::Invalid("a shared start of a row key"));
        }
        let rest = usize::try_from(self.rest.varint()?).unwrap_or(usize::MAX);
        if rest > ROW_KEY_BYTES_MAX {
            return Err(DecodeError::TooLarge("a row key"));
        }
        count_names(names_bytes, shared + rest)?;
        self.last.truncate(shared);
        self.last.extend_from_slice(self.keys.raw(rest)?);
        let key = str::from_utf8(&self.last).map_err(|_| DecodeError::BadText)?;
        let row = RowKey::new(key).map_err(|_| DecodeError::Invalid("a row key"))?;
        self.known.push(row.clone());
        Ok(row)
    }
}

/// The columns of one field.
struct Field<'a> {
    name: FieldName,
    last_int: i64,
    last_string: Vec<u8>,
    tags: Reader<'a>,
    numbers: Reader<'a>,
    shared: Reader<'a>,
    contents: Reader<'a>,
}

impl<'a> Field<'a> {
    fn open(name: FieldName, reader: &mut Reader<'a>) -> Result<Field<'a>, DecodeError> {
        let [tags, numbers, shared, contents] =
            [column(reader)?, column(reader)?, column(reader)?, column(reader)?];
        Ok(Field { name, last_int: 0, last_string: Vec::new(), tags, numbers, shared, contents })
    }

    fn open_all(names: Vec<FieldName>, reader: &mut Reader<'a>) -> Result<Vec<Field<'a>>, DecodeError> {
        let mut fields = Vec::with_capacity(names.len());
        for name in names {
            fields.push(Field::open(name, reader)?);
        }
        Ok(fields)
    }

    /// The next value. What it shares with another is counted in `names_bytes` before it is copied.
    fn value(&mut self, names_bytes: &mut usize, budget: &mut Budget) -> Result<Value, DecodeError> {
        Ok(match self.tags.u8()? {
            0 => Value::Null,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => {
                self.last_int = self.last_int.wrapping_add(self.numbers.zigzag()?);
                Value::Int(self.last_int)
            }
            4 => Value::Float(f64::from_bits(u64::from_le_bytes(self.contents.array()?))),
            5 => {
                let text = str::from_utf8(self.string(names_bytes)?).map_err(|_| DecodeError::BadText)?;
                budget.take(text.len())?;
                Value::Text(text.to_owned())
            }
            6 => {
                let bytes = self.string(names_bytes)?;
                budget.take(bytes.len())?;
                Value::Bytes(bytes.to_owned())
            }
            tag @ (7 | 8) => {
                let value = Value::decode_within(&mut self.contents, budget)?;
                if value.tag() != tag {
                    return Err(DecodeError::Invalid("a value's tag"));
                }
                value
            }
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }

    fn string(&mut self, names_bytes: &mut usize) -> Result<&[u8], DecodeError> {
        let rest = usize::try_from(self.numbers.varint()?).unwrap_or(usize::MAX);
        let shared = usize::try_from(self.shared.varint()?).unwrap_or(usize::MAX);
        if shared > self.last_string.len() {
            return Err(DecodeError::Invalid("a shared start of a value"));
        }
        count_names(names_bytes, shared)?;
        let rest = self.contents.raw(rest)?;
        self.last_string.truncate(shared);
        self.last_string.extend_from_slice(rest);
        Ok(&self.last_string)
    }
}

/// Finds a column and steps over it.
fn column<'a>(reader: &mut Reader<'a>) -> Result<Reader<'a>, DecodeError> {
    reader.bytes(INFLATED_BYTES_MAX, "a column").map(Reader::new)
}

/// Reads a dictionary whose entries ascend strictly. Each takes so many bytes of the input, at least, and of memory,
/// besides what it has elsewhere.
fn ascending<'a, T: Ord>(
    reader: &mut Reader<'a>,
    budget: &mut Budget,
    (bytes_each_min, cost_each): (usize, usize),
    what: &'static str,
    elsewhere: impl Fn(&T) -> usize,
    get: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.count(INFLATED_BYTES_MAX, bytes_each_min, what)?;
    budget.take_each(count, cost_each)?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let item = get(reader)?;
        budget.take(elsewhere(&item))?;
        if items.last().is_some_and(|last| *last >= item) {
            return Err(DecodeError::Unordered(what));
        }
        items.push(item);
    }
    Ok(items)
}

fn get_shapes(
    reader: &mut Reader<'_>,
    budget: &mut Budget,
    tables: &[TableName],
    fields: &[FieldName],
) -> Result<Vec<Shape>, DecodeError> {
    let count = reader.count(INFLATED_BYTES_MAX, 3, "shapes of operations")?;
    budget.take_each(count, SHAPE)?;
    let mut shapes = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = OpKind::from_tag(reader.u8()?)?;
        let table = place(reader, tables.len())?;
        let indices = get_indices(reader, ROW_FIELDS_MAX, fields.len(), "fields of a row")?;
        budget.take_each(indices.len(), PLACE)?;
        let names = indices.iter().map(|field| fields[*field].as_str().len()).sum::<usize>();
        let names_bytes = tables[table].as_str().len() + names;
        shapes.push(Shape { kind, table, fields: indices, names_bytes });
    }
    Ok(shapes)
}

/// Reads a place in a dictionary of `len` entries.
fn place(reader: &mut Reader<'_>, len: usize) -> Result<usize, DecodeError> {
    let place = usize::try_from(reader.varint()?).ok().filter(|place| *place < len);
    place.ok_or(DecodeError::Invalid("a place in a dictionary"))
}

/// Reads at most `max` strictly ascending places in a dictionary of `len` entries.
fn get_indices(
    reader: &mut Reader<'_>,
    max: usize,
    len: usize,
    what: &'static str,
) -> Result<Vec<usize>, DecodeError> {
    let count = reader.count(max, 1, what)?;
    let mut indices = Vec::with_capacity(count);
    let mut next = 0;
    for _ in 0..count {
        // `next` is at most `len`.
        let index = next + place(reader, len - next)?;
        indices.push(index);
        next = index + 1;
    }
    Ok(indices)
}

/// Counts what a commit repeats.
fn count_names(names_bytes: &mut usize, more: usize) -> Result<(), DecodeError> {
    *names_bytes += more;
    if *names_bytes > COMMIT_BYTES_MAX { Err(DecodeError::TooLarge("a commit")) } else { Ok(()) }
}
