//! Vectors of whole frames: each control message, commits by rows and by columns, what must be skipped, and what
//! must be refused and why.

use std::io::Write as _;

use engine::codec::Writer;
use engine::commit::{Commit, CommitHash, Deps, OpKind};
use engine::config::{CONTROL_BYTES_MAX, INFLATED_BYTES_MAX, RUN_COMMITS_MAX};
use engine::hlc::Hlc;
use engine::identity::{PeerKey, Sig};
use engine::testing::{Author, op, test_identity, test_root};
use engine::value::Value;
use engine::wire::frame::{FrameError, MAJOR, pack, unpack};
use engine::wire::message::{
    Ack, Announce, Audit, Audited, Bye, Control, ErrorMessage, Fault, Have, Hello, Message, Ops, Ping, Pong,
    Run, Summary, Want, pack_control, pack_ops, parse, summary,
};
use flate2::{Compression, write::DeflateEncoder};
use serde_json::{Value as Json, json};

use crate::json::{self, hex};
use crate::parts::{MS, account, known, written_commits};

const SESSION: u32 = 0x0102_0304;

fn vector(name: &str, message: &Json, session: u32, control: &Control) -> Json {
    let frame = pack_control(session, control).unwrap();
    let (parsed, kind) = (parse(&frame, &account()).unwrap(), unpack(&frame).unwrap().1[0]);
    assert_eq!(parsed.0, session);
    let same = match (&parsed.1, control) {
        (Message::Hello(a), Control::Hello(b)) => a == &**b,
        (Message::Have(a), Control::Have(b)) => a == b,
        (Message::Summary(a), Control::Summary(b)) => a == b,
        (Message::Want(a), Control::Want(b)) => a == b,
        (Message::Ack(a), Control::Ack(b)) => a == b,
        (Message::Announce(a), Control::Announce(b)) => a == b,
        (Message::Ping(a), Control::Ping(b)) => a == b,
        (Message::Pong(a), Control::Pong(b)) => a == b,
        (Message::Error(a), Control::Error(b)) => a == b,
        (Message::Bye(a), Control::Bye(b)) => a == b,
        (Message::Grant(a), Control::Grant(b)) => a == b,
        (Message::Audit(a), Control::Audit(b)) => a == b,
        (Message::Audited(a), Control::Audited(b)) => a == b,
        _ => false,
    };
    assert!(same, "{name}");
    json!({ "name": name, "session": session, "kind": kind, "message": message, "bytes": hex(&frame) })
}

pub(crate) fn control() -> Json {
    let (a, b) = (Author::new(0), Author::new(1));
    let (knowledge, state) = (known(), [0xab; 16]);
    let digest = knowledge.digest();
    let cert = test_identity(0).cert;
    let hello =
        Hello { minor: 0, features: 0, cert, replica: a.replica, echo: 9, digest, heads_digest: [3; 16] };
    let full =
        Have { state, knowledge: knowledge.clone(), reply: true, tags: vec![[4; 8]; knowledge.replicas()] };
    let short = Summary { digest: summary(&knowledge, u128::from_be_bytes(state)), reply: false };
    let want = Want { id: 1, ranges: knowledge.clone(), credit: 4 << 20 };
    let heads = vec![(a.replica, 4), (b.replica, 300)];
    let head_json = || json::heads(heads.iter().copied());
    let ack = Ack { want: 1, credit: (4 << 20) + 1234, pushed: 0, heads: heads.clone() };
    let announce = Announce { heads: heads.clone(), tags: vec![[4; 8], [5; 8]] };
    let (digest, state, known) = (hex(&digest), hex(&state), json::knowledge(&knowledge));
    let hello_json = json!({
        "minor": 0, "features": "0", "cert": json::cert(&hello.cert), "replica": json::replica(&a.replica),
        "echo": 9, "digest": digest, "heads_digest": hex(&[3; 16]),
    });
    let tags = |tags: &[[u8; 8]]| tags.iter().map(|tag| hex(tag)).collect::<Vec<_>>();
    let full_json = json!({ "state": state, "knowledge": known, "reply": true, "tags": tags(&full.tags) });
    let short_json = json!({ "digest": hex(&short.digest), "reply": false });
    let want_json = json!({ "id": 1, "ranges": known, "credit": want.credit.to_string() });
    let ack_json =
        json!({ "want": 1, "credit": ack.credit.to_string(), "pushed": "0", "heads": head_json() });
    let announce_json = json!({ "heads": head_json(), "tags": tags(&announce.tags) });
    let time = json!({ "nonce": 0xdead_beef_u32, "wall_ms": MS.to_string() });
    let (nonce, wall_ms) = (0xdead_beef, MS);
    let mut all = vec![
        vector("Hello", &hello_json, SESSION, &Control::Hello(Box::new(hello))),
        vector("Have", &full_json, SESSION, &Control::Have(full)),
        vector("Summary, of the Have before", &short_json, SESSION, &Control::Summary(short)),
        vector("Want", &want_json, SESSION, &Control::Want(want)),
        vector("Ack", &ack_json, SESSION, &Control::Ack(ack)),
        vector("Announce", &announce_json, SESSION, &Control::Announce(announce.clone())),
        vector("Announce, by gossip", &announce_json, 0, &Control::Announce(announce)),
        vector("Ping", &time, SESSION, &Control::Ping(Ping { nonce, wall_ms })),
        vector("Pong", &time, SESSION, &Control::Pong(Pong { nonce, wall_ms })),
        vector(
            "Bye",
            &json!({ "text": "the device is stopping" }),
            SESSION,
            &Control::Bye(Bye { text: "the device is stopping".into() }),
        ),
    ];
    all.extend(audits(&digest));
    let root = test_root();
    all.push(vector("Grant", &json!({ "key": hex(&*root.to_bytes()) }), SESSION, &Control::Grant(root)));
    let faults = [
        Fault::ForeignAccount,
        Fault::Unauthorised,
        Fault::Version,
        Fault::Protocol,
        Fault::BadSignature,
        Fault::HandshakeTimeout,
        Fault::Silent,
        Fault::TooManyPeers,
        Fault::Revoked,
    ];
    for fault in faults {
        let text = fault.to_string();
        let message = json!({ "fault": fault as u8, "text": text });
        let control = Control::Error(ErrorMessage { fault, text });
        all.push(vector(&format!("Error, {fault:?}"), &message, SESSION, &control));
    }
    all.into()
}

/// A question about rows and its answer. `digest` is the hexadecimal digest of the known knowledge.
fn audits(digest: &str) -> Vec<Json> {
    let place = ("tasks".to_owned(), "t1".to_owned());
    let first = Audit { id: 7, after: None, detail: false };
    let next = Audit { id: 8, after: Some(place.clone()), detail: true };
    let (sum, row) = ([0xcd; 16], ("tasks".to_owned(), "t2".to_owned(), [0xef; 16]));
    let known = known().digest();
    let page = Audited { id: 7, digest: known, upto: Some(place), state: sum, rows: Vec::new() };
    let last = Audited { id: 8, digest: known, upto: None, state: row.2, rows: vec![row.clone()] };
    let place = json!(["tasks", "t1"]);
    let row_json = json!(["tasks", "t2", hex(&row.2)]);
    let page_json = json!({ "id": 7, "digest": digest, "upto": place, "state": hex(&sum), "rows": [] });
    let last_json =
        json!({ "id": 8, "digest": digest, "upto": null, "state": hex(&row.2), "rows": [row_json] });
    let (first_json, next_json) = (
        json!({ "id": 7, "after": null, "detail": false }),
        json!({ "id": 8, "after": place, "detail": true }),
    );
    vec![
        vector("Audit, from the beginning", &first_json, SESSION, &Control::Audit(first)),
        vector("Audit, from a row on", &next_json, SESSION, &Control::Audit(next)),
        vector("Audited, a page", &page_json, SESSION, &Control::Audited(page)),
        vector("Audited, the last rows", &last_json, SESSION, &Control::Audited(last)),
    ]
}

fn ops_vector(name: &str, by_columns: &[bool], deflated: bool, ops: &Ops<Commit>) -> Json {
    let frame = pack_ops(SESSION, ops).unwrap();
    assert_eq!(frame[1] == 1, deflated, "{name}");
    let Message::Ops(parsed) = parse(&frame, &account()).unwrap().1 else { panic!("{name}") };
    let runs = ops.runs.iter().zip(&parsed.runs).zip(by_columns).map(|((run, parsed), by_columns)| {
        let commits: Vec<Commit> = parsed.commits.iter().map(|hashed| hashed.commit.clone()).collect();
        assert_eq!((&commits, parsed.sig), (&run.commits, run.sig), "{name}");
        let canonical: Vec<String> = commits.iter().map(|commit| hex(&commit.encode())).collect();
        let last = parsed.commits.last().expect("a run has a commit");
        json!({
            "by_columns": by_columns,
            "commits": canonical,
            "hash": hex(&last.hash.0),
            "author": hex(&author(&last.commit).0),
            "sig": hex(&run.sig.0),
        })
    });
    json!({
        "name": name,
        "deflated": deflated,
        "want": ops.want,
        "offset": ops.offset.to_string(),
        "done": ops.done,
        "runs": runs.collect::<Vec<_>>(),
        "bytes": hex(&frame),
    })
}

/// The key of a commit's author, one of the first three test devices.
fn author(commit: &Commit) -> PeerKey {
    let keys = [0, 1, 2].map(|n| test_identity(n).peer_key());
    keys.into_iter().find(|key| key.device() == commit.dot.replica.device).expect("a test device")
}

fn run(commits: &[(Commit, Sig)]) -> Run<Commit> {
    let sig = commits.last().unwrap().1;
    Run { commits: commits.iter().map(|(commit, _)| commit.clone()).collect(), sig }
}

pub(crate) fn ops() -> Json {
    let (a, b) = written_commits();
    let ops = |want, done, runs: Vec<Run<Commit>>| {
        let bytes = runs.iter().flat_map(|run| &run.commits).map(|commit| commit.encode().len() as u64).sum();
        Ops { want, offset: bytes, done, runs }
    };
    let mut writer = Author::new(2);
    writer.commit(Hlc::new(MS, 0), Deps::new(), vec![]);
    let many: Vec<(Commit, Sig)> = (0..60u64)
        .map(|n| {
            let fields = [
                ("done", Value::Bool(n % 3 == 0)),
                ("rank", Value::Float(n as f64 / 4.0)),
                ("title", Value::Text(format!("entry {n}"))),
            ];
            let fields = fields.map(|(name, value)| (name.to_owned(), value)).into();
            let kind = if n % 2 == 0 { OpKind::Put } else { OpKind::Update };
            let deps = if n % 20 == 7 {
                Deps::from([(a[0].0.dot.replica, n), (b[0].0.dot.replica, 60 - n)])
            } else {
                Deps::new()
            };
            let row = format!("row-{:03}", n % 40);
            writer.commit(
                Hlc::new(MS + n / 4 * 7, (n % 4) as u16),
                deps,
                vec![op("list", &row, kind, fields)],
            )
        })
        .collect();
    let text = [("text".to_owned(), Value::Text("again and again, ".repeat(200)))].into();
    let long = writer.commit(Hlc::new(MS + 999, 0), Deps::new(), vec![op("list", "long", OpKind::Put, text)]);
    vec![
        ops_vector("a push of one commit", &[false], false, &ops(0, true, vec![run(&a[3..4])])),
        ops_vector("a first commit", &[true], false, &ops(1, false, vec![run(&a[..1])])),
        ops_vector("one replica's log", &[true], false, &ops(1, true, vec![run(&a)])),
        ops_vector("two runs", &[true, true], false, &ops(2, true, vec![run(&b), run(&a[1..])])),
        ops_vector("an empty answer", &[], false, &ops(3, true, vec![])),
        ops_vector("sixty commits, deflated", &[true], true, &ops(4, false, vec![run(&many)])),
        ops_vector("a long commit, deflated", &[false], true, &ops(4, true, vec![run(&[long])])),
    ]
    .into()
}

fn framed(start: [u8; 2], body: &[u8]) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&start);
    crc.update(body);
    [&start[..], &crc.finalize().to_le_bytes(), body].concat()
}

fn deflated(payload: &[u8], stated: u64) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(9));
    encoder.write_all(payload).unwrap();
    let mut writer = Writer::new();
    writer.raw(&SESSION.to_be_bytes());
    writer.varint(stated);
    writer.raw(&encoder.finish().unwrap());
    framed([MAJOR, 1], &writer.into_bytes())
}

fn packed(payload: &[u8]) -> Vec<u8> {
    pack(SESSION, payload).unwrap()
}

/// Frames that are more than a writer of this version makes, and are read all the same.
pub(crate) fn accepted() -> Json {
    let bye =
        unpack(&pack_control(SESSION, &Control::Bye(Bye { text: "so long".into() })).unwrap()).unwrap().1;
    let run_bytes =
        unpack(&pack_ops(SESSION, &Ops { want: 1, offset: 0, done: true, runs: vec![] }).unwrap()).unwrap().1;
    let cases = [
        ("an unknown kind is skipped", packed(&[200, 1, 2, 3])),
        ("bytes after the last known field are skipped", packed(&[&bye[..], &[1, 2, 3]].concat())),
        ("bytes after the last run are skipped", packed(&[&run_bytes[..], &[1, 2, 3]].concat())),
        ("a short payload may be deflated", deflated(&bye, bye.len() as u64)),
        ("a fault's text is shown as one line", packed(&[9, 3, 3, b'a', b'\n', b'b'])),
    ];
    let accepted = |(name, frame): &(&str, Vec<u8>)| {
        let (session, message) = parse(frame, &account()).unwrap();
        assert_eq!(session, SESSION);
        assert_eq!(matches!(message, Message::Unknown(_)), name.contains("unknown"));
        json!({ "name": name, "kind": unpack(frame).unwrap().1[0], "bytes": hex(frame) })
    };
    cases.iter().map(accepted).collect()
}

/// The payload of an `Ops` with these bytes as its one run, signed by nobody.
fn with_run(run: &[u8]) -> Vec<u8> {
    packed(&[&[4, 0, 0, 1, 1], run, &[0; 64]].concat())
}

fn rows(commits: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(0);
    writer.varint(commits.len() as u64);
    commits.iter().for_each(|commit| writer.bytes(commit));
    with_run(&writer.into_bytes())
}

fn changed(commit: &Commit, change: impl FnOnce(&mut Commit)) -> Vec<u8> {
    let mut commit = commit.clone();
    change(&mut commit);
    rows(&[commit.encode()])
}

/// The payload of an `Ops` with one run by columns.
fn columns(commits: &[(Commit, Sig)]) -> Vec<u8> {
    let ops = Ops { want: 0, offset: 0, done: true, runs: vec![run(commits)] };
    let payload = unpack(&pack_ops(SESSION, &ops).unwrap()).unwrap().1;
    assert_eq!(payload[5], 1, "by columns");
    payload
}

fn damaged_frames() -> Vec<(&'static str, Vec<u8>)> {
    let good = packed(&[10, 1, b'x']);
    let mut flipped = good.clone();
    flipped[11] ^= 4;
    let body = [&SESSION.to_be_bytes()[..], &[10, 1, b'x']].concat();
    let zeros = vec![200; CONTROL_BYTES_MAX + 1];
    vec![
        ("ten bytes: no payload", good[..10].to_vec()),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("a flipped bit", flipped),
        ("another major version", framed([MAJOR + 1, 0], &body)),
        ("another major version and unknown flags", framed([MAJOR - 1, 0x80], &body)),
        ("unknown flags", framed([MAJOR, 2], &body)),
        ("inflates to less than stated", deflated(&[10, 1, b'x'], 4)),
        ("inflates to more than stated", deflated(&[10, 1, b'x'], 2)),
        ("states more than may be inflated", deflated(&[10, 1, b'x'], INFLATED_BYTES_MAX as u64 + 1)),
        (
            "is no DEFLATE stream",
            framed([MAJOR, 1], &[&SESSION.to_be_bytes()[..], &[3, 0xff, 0xff]].concat()),
        ),
        ("a DEFLATE stream without an end", {
            // A stored block of three bytes that is not the last one.
            let stored = [3, 0, 3, 0, 0xfc, 0xff, 10, 1, b'x'];
            framed([MAJOR, 1], &[&SESSION.to_be_bytes()[..], &stored].concat())
        }),
        ("an empty payload", deflated(&[], 0)),
        ("a control message too long when inflated", deflated(&zeros, zeros.len() as u64)),
    ]
}

fn bad_messages() -> Vec<(&'static str, Vec<u8>)> {
    let a = Author::new(0).replica;
    let have = |sets: &[u8]| packed(&[&[2][..], &[0; 16], sets].concat());
    let device = |ranges: &[u8]| [&[1, 16][..], a.device.0.as_bytes(), &[1], ranges, &[0]].concat();
    let reversed = {
        let entry = |n: u8| [&[16][..], &[n; 16], &[1, 1, 1, 1]].concat();
        [&[2][..], &entry(2), &entry(1), &[0]].concat()
    };
    vec![
        ("a body cut short", packed(&[7, 1])),
        ("a truth value of 2", packed(&[&[2][..], &[0; 16], &[0, 2]].concat())),
        ("text that is not UTF-8", packed(&[10, 1, 0xff])),
        ("an unknown fault", packed(&[9, 99, 0])),
        ("ranges that touch", have(&device(&[2, 1, 2, 3, 4]))),
        ("a range from 0", have(&device(&[1, 0, 4]))),
        ("a replica without ranges", have(&device(&[0]))),
        ("replicas that descend", have(&reversed)),
        ("a head beyond 2^63 - 1", {
            let head = [&[6, 1, 16][..], a.device.0.as_bytes(), &[1]].concat();
            packed(&[&head[..], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]].concat())
        }),
    ]
}

fn bad_commits() -> Vec<(&'static str, Vec<u8>)> {
    let (a, b) = written_commits();
    let (first, second, third) = (&a[0].0, &a[1].0, &a[2].0);
    let other = b[0].0.dot.replica;
    let zero = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[24] = 0;
        bytes
    };
    let long_count = {
        let bytes = a[3].0.encode();
        // The last seven bytes of this commit are: delete, notes, a, no fields.
        let (start, end) = bytes.split_at(bytes.len() - 1);
        assert_eq!(end, [0]);
        rows(&[[start, &[0x80, 0x00]].concat()])
    };
    vec![
        ("a commit of number 0", rows(&[zero(&second.encode())])),
        ("a first commit without its certificate", changed(first, |commit| commit.introduces = None)),
        (
            "a later commit with a certificate",
            changed(second, |commit| commit.introduces = first.introduces.clone()),
        ),
        ("a first commit that has one before it", changed(first, |commit| commit.prev = CommitHash([1; 32]))),
        (
            "a certificate of another device",
            changed(first, |commit| commit.introduces = Some(Box::new(test_identity(1).cert))),
        ),
        (
            "a certificate whose name was changed",
            changed(first, |commit| {
                commit.introduces.as_mut().unwrap().name = "devic3-0".into();
            }),
        ),
        ("a stamp of 0", changed(second, |commit| commit.hlc = Hlc(0))),
        ("a stamp after the year 4199", changed(second, |commit| commit.hlc = Hlc::new(1 << 46, 0))),
        (
            "a dependency on oneself",
            changed(second, |commit| {
                commit.deps.insert(commit.dot.replica, 1);
            }),
        ),
        (
            "a dependency",
            changed(second, |commit| {
                commit.deps.insert(other, 0);
            }),
        ),
        ("operations that descend", changed(third, |commit| commit.ops.reverse())),
        (
            "a row twice",
            changed(third, |commit| {
                let again = commit.ops[0].clone();
                commit.ops.insert(0, again);
            }),
        ),
        ("a delete with fields", changed(third, |commit| commit.ops[0].kind = OpKind::Delete)),
        ("a number longer than needed", long_count),
        ("bytes after a commit", rows(&[[second.encode(), vec![0]].concat()])),
        ("commits with a gap", rows(&[first.encode(), third.encode()])),
        ("a broken chain", {
            let mut forged = second.clone();
            forged.prev = CommitHash([7; 32]);
            rows(&[first.encode(), forged.encode()])
        }),
        ("a run beyond the end of a span", {
            let (mut before, mut after) = (second.clone(), third.clone());
            (before.dot.seq, after.dot.seq) = (RUN_COMMITS_MAX as u64, RUN_COMMITS_MAX as u64 + 1);
            after.prev = before.hash();
            rows(&[before.encode(), after.encode()])
        }),
    ]
}

fn bad_runs() -> Vec<(&'static str, Vec<u8>)> {
    let (a, _) = written_commits();
    let columns = columns(&a[1..]);
    let last = columns.len() - 1;
    let with = |at: usize, byte: u8| {
        let mut columns = columns.clone();
        columns[at] = byte;
        packed(&columns)
    };
    let mut count = Writer::new();
    count.varint(RUN_COMMITS_MAX as u64 + 1);
    vec![
        ("an unknown form of a run", with_run(&[2, 1, 0])),
        ("a run without commits, by rows", with_run(&[0, 0])),
        ("a run without commits, by columns", with_run(&[1, 0])),
        ("a run of too many commits", with_run(&[&[0][..], &count.into_bytes(), &[0; 20_000]].concat())),
        ("a column with an entry too many", {
            // The last column, of the last field name, is empty here.
            assert_eq!(columns[last], 0);
            packed(&[&columns[..last], &[1, 0]].concat())
        }),
        ("columns that promise more commits than they hold", with(6, 4)),
        ("columns that hold more commits than they say", with(6, 2)),
        ("done is neither 0 nor 1", packed(&[4, 0, 0, 2, 0])),
        ("a request number of 33 bits", packed(&[4, 0x80, 0x80, 0x80, 0x80, 0x10, 0, 1, 0])),
        ("more runs than bytes for them", packed(&[4, 0, 0, 1, 9, 0, 0])),
    ]
}

pub(crate) fn refused() -> Json {
    let cases = [damaged_frames(), bad_messages(), bad_commits(), bad_runs()].concat();
    let refused = |(name, frame): &(&str, Vec<u8>)| {
        let error = parse(frame, &account()).map(|_| ()).expect_err(name);
        let kind = match error {
            FrameError::Version { .. } => "version",
            FrameError::TooLarge => "too large",
            FrameError::Damaged => "damaged",
            FrameError::Inflate => "inflate",
            FrameError::Malformed(_) => "malformed",
        };
        json!({ "name": name, "refusal": kind, "reason": error.to_string(), "bytes": hex(frame) })
    };
    cases.iter().map(refused).collect()
}
