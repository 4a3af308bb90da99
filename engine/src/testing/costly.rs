//! Frames of which a few kilobytes become hundreds of megabytes in memory, made as no honest device would: for tests of
//! what a frame may make a device hold while it is decoded. Each costs more than [`crate::config::DECODED_BYTES_MAX`], and
//! must be refused.

use std::collections::BTreeMap;

use miniz_oxide::deflate::compress_to_vec;

use super::{Author, op};
use crate::codec::Writer;
use crate::commit::{Op, OpKind};
use crate::config::{INFLATED_BYTES_MAX, RUN_COMMITS_MAX};
use crate::hlc::Hlc;
use crate::value::Value;
use crate::wire::frame::MAJOR;
use crate::wire::message::{Ops, Run, pack_ops};

/// How well a frame is deflated: better than an honest device would take the time for.
const DEFLATE_BEST: u8 = 9;

/// One frame of each kind, with its name, by an author of the account.
pub fn costly_frames(session: u32, author: &Author) -> Vec<(&'static str, Vec<u8>)> {
    let framed = |commits, ops: &dyn Fn() -> Vec<Op>| frame_of(session, author.clone(), commits, ops);
    let mut frames = vec![
        ("nulls of two commits", framed(2, &|| row(Value::List(vec![Value::Null; 980_000])))),
        ("maps of one entry", framed(1, &|| row(Value::List(vec![nest(1); 190_000])))),
        ("nested maps", framed(1, &|| nests(10_000))),
        ("nested maps of small commits", nested_maps(session, author.clone())),
        ("operations, again and again", framed(60, &|| rows(6_000, 0))),
        ("fields, again and again", framed(20, &|| rows(100, 1_000))),
    ];
    frames.extend(dictionaries(session));
    frames
}

/// The least of them: 10,000 nested maps over 200 commits, 14 kB deflated well.
pub fn nested_maps(session: u32, author: Author) -> Vec<u8> {
    frame_of(session, author, 200, &|| nests(50))
}

/// A frame of so many commits, all of which do the same, in runs as long as may be.
pub fn frame_of(session: u32, mut author: Author, commits: usize, ops: &dyn Fn() -> Vec<Op>) -> Vec<u8> {
    let at = Hlc::new(1_700_000_000_000, 0);
    let commits: Vec<_> = (0..commits).map(|_| author.commit(at, BTreeMap::new(), ops())).collect();
    let run = |span: &[(_, _)]| Run {
        commits: span.iter().map(|(commit, _)| Clone::clone(commit)).collect(),
        sig: span.last().expect("a commit").1,
    };
    let runs = commits.chunks(RUN_COMMITS_MAX).map(run).collect();
    pack_ops(session, &Ops { want: 0, offset: 1, done: true, runs }).expect("a frame")
}

/// An operation on one row, of one field.
pub fn row(value: Value) -> Vec<Op> {
    vec![op("t", "row", OpKind::Put, BTreeMap::from([("x".to_owned(), value)]))]
}

/// Operations on so many rows, each of so many fields.
pub fn rows(rows: usize, fields: usize) -> Vec<Op> {
    let fields: BTreeMap<_, _> = (0..fields).map(|n| (format!("{n:x}"), Value::Null)).collect();
    (0..rows).map(|at| op("t", &format!("{at:06}"), OpKind::Put, fields.clone())).collect()
}

/// An operation on one row, of a field of so many maps of one entry, nested 30 deep.
pub fn nests(count: usize) -> Vec<Op> {
    row(Value::List(vec![nest(30); count]))
}

fn nest(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| Value::Map(BTreeMap::from([(String::new(), inner)])))
}

/// Frames that are nearly nothing but dictionaries: of names of fields, names of tables, and shapes of operations.
fn dictionaries(session: u32) -> Vec<(&'static str, Vec<u8>)> {
    let fields = |writer: &mut Writer| {
        names(writer, 1, 1);
        names(writer, 200_000, 3);
        writer.varint(0);
        // The columns, without an entry.
        writer.raw(&vec![0; 9 + 4 * 200_000]);
    };
    let tables = |writer: &mut Writer| {
        names(writer, 400_000, 4);
        writer.raw(&[0; 11]);
    };
    let shapes = |count: usize, places: usize| {
        move |writer: &mut Writer| {
            names(writer, 1, 1);
            names(writer, places, 3);
            writer.varint(count as u64);
            for _ in 0..count {
                writer.raw(&[0, 0]);
                writer.varint(places as u64);
                writer.raw(&vec![0; places]);
            }
            writer.raw(&vec![0; 9 + 4 * places]);
        }
    };
    vec![
        ("dictionary of fields", dictionary(session, fields)),
        ("dictionary of tables", dictionary(session, tables)),
        ("dictionary of shapes", dictionary(session, shapes(690_000, 0))),
        ("dictionary of places", dictionary(session, shapes(450, 4_096))),
    ]
}

/// The beginning of a frame of one run by columns, and behind it dictionaries and whatever.
fn dictionary(session: u32, write: impl Fn(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    // Ops: want, offset, done, one run; by columns, one commit, a replica, its second commit; prev and signature.
    writer.raw(&[4, 0, 0, 1, 1, 1, 1]);
    writer.raw(&[0; 24]);
    writer.u8(2);
    writer.raw(&[1; 32 + 64]);
    writer.varint(0);
    write(&mut writer);
    assert!(writer.len() <= INFLATED_BYTES_MAX, "it must not be refused for its length");
    deflated(session, writer.as_bytes())
}

fn deflated(session: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = Writer::new();
    body.raw(&session.to_be_bytes());
    body.varint(payload.len() as u64);
    body.raw(&compress_to_vec(payload, DEFLATE_BEST));
    let start = [MAJOR, 1];
    let sum = crc32fast::hash(&[&start, body.as_bytes()].concat());
    [&start, &sum.to_le_bytes()[..], body.as_bytes()].concat()
}

/// Ascending names of `len` letters.
fn names(writer: &mut Writer, count: usize, len: usize) {
    writer.varint(count as u64);
    for n in 0..count {
        let letter = |at: usize| b'0' + (n / 64usize.pow((len - 1 - at) as u32) % 64) as u8;
        writer.bytes(&(0..len).map(letter).collect::<Vec<_>>());
    }
}
