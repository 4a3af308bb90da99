//! What one frame can make a device hold while it is decoded, counted by the allocator: the frames that take most memory
//! for their bytes, made as an honest device would not.

use std::collections::BTreeMap;
use std::io::Write as _;

use engine::codec::Writer;
use engine::commit::{Commit, CommitHash, ContentHash, Op, OpKind};
use engine::config::{DECODED_BYTES_MAX, INFLATED_BYTES_MAX, REPLICAS_MAX, RUN_COMMITS_MAX};
use engine::cost;
use engine::hlc::Hlc;
use engine::identity::Sig;
use engine::statement::{Branch, Fence, ForkProof, Revocation, Statement, fork_commit};
use engine::testing::{Author, op, test_root};
use engine::value::Value;
use engine::wire::frame::MAJOR;
use engine::wire::message::{Ops, Run, pack_ops, parse};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Room for the payload, and for what decoding needs besides what it makes.
const BESIDES: usize = 3 * INFLATED_BYTES_MAX;
/// What the dictionaries may take, over and above.
const DICTIONARIES: usize = 2 * DECODED_BYTES_MAX;

/// What a device holds at most while it reads a frame, in bytes, and whether it takes it.
fn peak(frame: &[u8]) -> (usize, bool) {
    let account = Author::new(9).identity.account();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let taken = parse(frame, &account).is_ok();
    (MEMORY.peak_usage().saturating_sub(before), taken)
}

fn framed(commits: usize, ops: &dyn Fn() -> Vec<Op>) -> Vec<u8> {
    let mut author = Author::new(9);
    let commits: Vec<_> =
        (0..commits).map(|_| author.commit(Hlc::new(1_700_000_000_000, 0), BTreeMap::new(), ops())).collect();
    let run = |span: &[(Commit, Sig)]| Run {
        commits: span.iter().map(|(commit, _)| commit.clone()).collect(),
        sig: span.last().expect("a commit").1,
    };
    let runs = commits.chunks(RUN_COMMITS_MAX).map(run).collect();
    pack_ops(7, &Ops { want: 0, offset: 1, done: true, runs }).expect("a frame")
}

/// The largest statements: a proof of a fork of two branches of full length, and a revocation that states where each of as
/// many replicas as may be ends.
fn statements() -> [(&'static str, Commit); 2] {
    let identity = Author::new(9).identity;
    let branch = |n| Branch { contents: vec![ContentHash([n; 32]); RUN_COMMITS_MAX], sig: Sig([1; 64]) };
    let end = (RUN_COMMITS_MAX as u64, CommitHash([1; 32]));
    let proof = ForkProof::new(identity.cert.clone(), 1, end, [branch(1), branch(2)]);
    let fence = Fence { seq: 1, hash: CommitHash([1; 32]), sig: Sig([1; 64]) };
    let fences = (0..REPLICAS_MAX as u64).map(|incarnation| (incarnation, fence)).collect();
    let revocation = Revocation { device: identity.device(), issued_ms: 1, reason: String::new(), fences };
    let (revoked, _) =
        Statement::Revoke(revocation).into_commit(&test_root(), Hlc::new(1_700_000_000_000, 0));
    [("fork", fork_commit(&identity.account(), proof)), ("revocation", revoked)]
}

fn row(value: Value) -> Vec<Op> {
    vec![op("t", "row", OpKind::Put, BTreeMap::from([("x".to_owned(), value)]))]
}

fn nest(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| Value::Map(BTreeMap::from([(String::new(), inner)])))
}

fn empty_map() -> Value {
    Value::Map(BTreeMap::from([(String::new(), Value::Null)]))
}

/// The beginning of a frame of one run by columns, and behind it dictionaries and whatever.
fn dictionaries(write: impl Fn(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    // Ops: want, offset, done, one run; by columns, one commit, a replica, its second commit; prev and signature.
    writer.raw(&[4, 0, 0, 1, 1, 1, 1]);
    writer.raw(&[0; 24]);
    writer.u8(2);
    writer.raw(&[1; 32 + 64]);
    writer.varint(0);
    write(&mut writer);
    assert!(writer.len() <= INFLATED_BYTES_MAX);
    deflated(writer.as_bytes())
}

/// A frame, deflated as well as can be: more than an honest device would take the time for.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut body = Writer::new();
    body.raw(&7u32.to_be_bytes());
    body.varint(payload.len() as u64);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(payload).expect("to memory");
    body.raw(&encoder.finish().expect("to memory"));
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

fn hostile_dictionaries() -> Vec<(&'static str, Vec<u8>)> {
    let fields = |count| {
        move |writer: &mut Writer| {
            names(writer, 1, 1);
            names(writer, count, 3);
            writer.varint(0);
            // The columns, without an entry.
            writer.raw(&vec![0; 9 + 4 * count]);
        }
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
        ("fields", dictionaries(fields(200_000))),
        ("tables", dictionaries(tables)),
        ("shapes", dictionaries(shapes(690_000, 0))),
        ("places", dictionaries(shapes(450, 4_096))),
    ]
}

/// One test, because the allocator counts for the whole process.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are worth reading too")]
fn no_frame_makes_a_device_hold_more_than_its_bound_while_it_is_decoded() {
    let small = |count: usize| (0..count).map(|at| format!("{at:06}")).collect::<Vec<_>>();
    let empty = |count: usize| {
        let rows = small(count);
        rows.iter().map(|row| op("t", row, OpKind::Put, BTreeMap::new())).collect::<Vec<_>>()
    };
    let wide = |rows: usize, fields: usize| {
        let fields: BTreeMap<_, _> = (0..fields).map(|n| (format!("{n:x}"), Value::Null)).collect();
        small(rows).iter().map(|row| op("t", row, OpKind::Put, fields.clone())).collect::<Vec<_>>()
    };
    let deep = |count: usize| row(Value::List(vec![nest(30); count]));
    // A name, the frame, and whether it is within the bound.
    let frames = [
        ("nulls", framed(1, &|| row(Value::List(vec![Value::Null; 980_000]))), true),
        ("nulls of two commits", framed(2, &|| row(Value::List(vec![Value::Null; 980_000]))), false),
        ("maps of one entry", framed(1, &|| row(Value::List(vec![empty_map(); 190_000]))), false),
        ("nested maps", framed(1, &|| deep(10_000)), false),
        ("nested maps, as many as may be", framed(1, &|| deep(1_300)), true),
        ("nested maps of small commits", framed(200, &|| deep(50)), false),
        (
            "lists of lists",
            framed(1, &|| row(Value::List(vec![Value::List(vec![Value::Null]); 300_000]))),
            true,
        ),
        ("operations", framed(1, &|| empty(60_000)), true),
        ("operations, again and again", framed(60, &|| empty(6_000)), false),
        ("fields", framed(1, &|| wide(150, 1_000)), true),
        ("fields, again and again", framed(20, &|| wide(100, 1_000)), false),
        ("commits", framed(16_000, &Vec::new), true),
        ("text", framed(4, &|| row(Value::Text("y".repeat(900_000)))), true),
    ];
    for (name, frame, within) in frames {
        let (peak, taken) = peak(&frame);
        println!("{name}: {} bytes on the wire, {} KiB in memory, taken: {taken}", frame.len(), peak / 1024);
        assert_eq!(taken, within, "{name}");
        assert!(peak <= DECODED_BYTES_MAX + BESIDES, "{name}: {peak} bytes");
    }
    for (name, commit) in statements() {
        let (encoded, account) = (commit.encode(), Author::new(9).identity.account());
        let cost = cost::of_commit(&commit, encoded.len());
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        assert_eq!(Commit::decode(&encoded, &account), Ok(commit));
        let peak = MEMORY.peak_usage().saturating_sub(before);
        println!("{name}: {} bytes, {peak} in memory, costs {cost}", encoded.len());
        assert!(peak <= cost, "{name}: {peak} bytes in memory, of {cost}");
    }
    for (name, frame) in hostile_dictionaries() {
        let (peak, taken) = peak(&frame);
        println!("dictionary of {name}: {} bytes on the wire, {} KiB in memory", frame.len(), peak / 1024);
        assert!(!taken, "{name}");
        assert!(peak <= DICTIONARIES + BESIDES, "{name}: {peak} bytes");
        assert!(peak >= 8 * 1024 * 1024, "{name} does not get far: {peak} bytes");
    }
}
