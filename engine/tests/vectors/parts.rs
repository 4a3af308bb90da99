//! Vectors of what frames are made of: integers, values, identities, commits, rows, knowledge.

use std::collections::BTreeMap;

use engine::codec::{Reader, Writer};
use engine::commit::{Commit, Deps, Op, OpKind, Stamp, verify_commit};
use engine::hlc::Hlc;
use engine::identity::{AccountId, DeviceCert, PeerKey, SecretKey, Sig};
use engine::knowledge::Knowledge;
use engine::name::{RowKey, TableName};
use engine::row::RowState;
use engine::statement::{Branch, Fence, ForkProof, Revocation, Statement, fork_commit};
use engine::testing::{Author, op, test_identity, test_root};
use engine::value::Value;
use serde_json::{Value as Json, json};

use crate::json::{self, hex};

/// Commits of one replica, from its first, each with its signature.
pub(crate) type Log = Vec<(Commit, Sig)>;

/// The milliseconds that all stamps here are near.
pub(crate) const MS: u64 = 1_700_000_000_000;

pub(crate) fn account() -> AccountId {
    test_identity(0).account()
}

fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    write(&mut writer);
    writer.into_bytes()
}

pub(crate) fn varints() -> Json {
    [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), i64::MAX as u64, u64::MAX]
        .map(|value| json!({ "value": value.to_string(), "bytes": hex(&written(|w| w.varint(value))) }))
        .to_vec()
        .into()
}

pub(crate) fn varints_refused() -> Json {
    let cases: [(&str, &[u8]); 5] = [
        ("0 in two bytes", &[0x80, 0x00]),
        ("300 in three bytes", &[0xac, 0x82, 0x00]),
        ("cut short", &[0xff]),
        ("65 bits", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
        ("eleven bytes", &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]),
    ];
    let refused = |(why, bytes): &(&str, &[u8])| {
        assert!(Reader::new(bytes).varint().is_err(), "{why}");
        json!({ "why": why, "bytes": hex(bytes) })
    };
    cases.iter().map(refused).collect()
}

pub(crate) fn zigzag() -> Json {
    [0, -1, 1, -2, 63, -64, 64, i64::MAX, i64::MIN]
        .map(|value| json!({ "value": value.to_string(), "bytes": hex(&written(|w| w.zigzag(value))) }))
        .to_vec()
        .into()
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| Value::List(vec![inner]))
}

fn every_kind() -> Vec<Value> {
    let map =
        [("", Value::Null), ("Z", Value::Int(1)), ("a", Value::List(vec![])), ("é", Value::Text("".into()))];
    vec![
        Value::Null,
        Value::Bool(false),
        Value::Bool(true),
        Value::Int(0),
        Value::Int(-300),
        Value::Int(i64::MIN),
        Value::Float(1.5),
        Value::Float(-0.0),
        Value::Float(f64::from_bits(0x7ff8_0000_0000_0001)),
        Value::Text(String::new()),
        Value::Text("naïve \u{1F600}".into()),
        Value::Bytes(vec![0, 255, 128]),
        Value::List(vec![Value::Int(1), Value::Text("two".into()), Value::Null]),
        Value::Map(map.map(|(key, value)| (key.to_owned(), value)).into()),
        nested(32),
    ]
}

pub(crate) fn values() -> Json {
    let vector =
        |value: &Value| json!({ "value": json::value(value), "bytes": hex(&written(|w| value.encode(w))) });
    every_kind().iter().map(vector).collect()
}

pub(crate) fn values_refused() -> Json {
    let cases = [
        ("an unknown tag", vec![9]),
        ("a float cut short", vec![4, 0, 0]),
        ("text that is not UTF-8", vec![5, 1, 0xff]),
        ("a surrogate in UTF-8", vec![5, 3, 0xed, 0xa0, 0x80]),
        ("map keys that descend", vec![8, 2, 1, b'b', 0, 1, b'a', 0]),
        ("a map key twice", vec![8, 2, 1, b'a', 0, 1, b'a', 0]),
        ("a list longer than the input", vec![7, 5, 0]),
        ("nested too deep", written(|w| nested(33).encode(w))),
        ("a length in two bytes", vec![6, 0x81, 0x00, 7]),
    ];
    let refused = |(why, bytes): &(&str, Vec<u8>)| {
        let mut reader = Reader::new(bytes);
        assert!(Value::decode(&mut reader).and_then(|_| reader.finish()).is_err(), "{why}");
        json!({ "why": why, "bytes": hex(bytes) })
    };
    cases.iter().map(refused).collect()
}

pub(crate) fn devices() -> Json {
    let device = |n: u8| {
        let secret = SecretKey::from_bytes(&[n; 32]);
        let key = PeerKey(secret.public());
        json!({
            "secret": hex(&[n; 32]),
            "key": hex(&key.0),
            "device": hex(key.device().0.as_bytes()),
            "uuid": key.device().to_string(),
        })
    };
    [100, 101, 7].map(device).to_vec().into()
}

pub(crate) fn certificate() -> Json {
    let cert = test_identity(1).cert;
    cert.check(&account()).unwrap();
    let shown = cert.to_bytes();
    assert_eq!(DeviceCert::from_bytes(&shown).as_ref(), Ok(&cert));
    json!({ "root_secret": hex(&*test_root().to_bytes()), "cert": json::cert(&cert), "shown": hex(&shown) })
}

fn fields(fields: &[(&str, Value)]) -> BTreeMap<String, Value> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// A few commits of two replicas: each first one, each kind of operation, each kind of value, dependencies.
pub(crate) fn written_commits() -> (Log, Log) {
    let (mut a, mut b) = (Author::new(0), Author::new(1));
    let names: Vec<String> = (0..every_kind().len()).map(|n| format!("f{n:02}")).collect();
    let kinds = names.into_iter().zip(every_kind()).collect();
    let a1 = a.commit(Hlc::new(MS, 0), Deps::new(), vec![]);
    let a2 = a.commit(Hlc::new(MS + 5, 0), Deps::new(), vec![op("kinds", "all", OpKind::Put, kinds)]);
    let b1 = b.commit(Hlc::new(MS + 2, 3), Deps::new(), vec![]);
    let ops = vec![
        op(
            "notes",
            "a",
            OpKind::Put,
            fields(&[("title", Value::Text("first".into())), ("n", Value::Int(1))]),
        ),
        op("notes", "ab", OpKind::Update, fields(&[("title", Value::Text("second".into()))])),
        op("notes", "b", OpKind::Delete, BTreeMap::new()),
        op("tags", "a", OpKind::Replace, fields(&[("n", Value::Int(-1))])),
    ];
    let b2 = b.commit(Hlc::new(MS + 5, 1), Deps::from([(a.replica, 2)]), ops);
    let ops = vec![
        op("notes", "a", OpKind::Update, fields(&[("n", Value::Int(3))])),
        op("notes", "c", OpKind::Put, fields(&[("n", Value::Int(1000)), ("title", Value::Null)])),
        op("tags", "abc", OpKind::Put, BTreeMap::new()),
    ];
    let a3 = a.commit(Hlc::new(MS + 5, 2), Deps::from([(b.replica, 2)]), ops);
    let a4 =
        a.commit(Hlc::new(MS + 4, 9), Deps::new(), vec![op("notes", "a", OpKind::Delete, BTreeMap::new())]);
    (vec![a1, a2, a3, a4], vec![b1, b2])
}

pub(crate) fn commits() -> Json {
    let (a, b) = written_commits();
    let vector = |(commit, sig): &(Commit, Sig)| {
        let bytes = commit.encode();
        let hash = commit.hash();
        assert_eq!(Commit::decode(&bytes, &account()).as_ref(), Ok(commit));
        let author =
            test_identity(u8::from(commit.dot.replica.device != test_identity(0).device())).peer_key();
        assert!(verify_commit(&account(), &author, &hash, sig));
        json!({
            "commit": json::commit(commit),
            "author": hex(&author.0),
            "bytes": hex(&bytes),
            "content": hex(&commit.content().0),
            "hash": hex(&hash.0),
            "sig": hex(&sig.0),
        })
    };
    a.iter().chain(&b).map(vector).collect()
}

/// One statement of each kind, as its commit.
pub(crate) fn statements() -> Json {
    let (root, (a, b)) = (test_root(), written_commits());
    let fence = |(commit, sig): &(Commit, Sig)| Fence { seq: commit.dot.seq, hash: commit.hash(), sig: *sig };
    let (replica, device) = (b[0].0.dot.replica, b[0].0.dot.replica.device);
    let fences = [(replica.incarnation, fence(&b[1])), (replica.incarnation + 7, fence(&b[0]))].into();
    let revocation = Revocation { device, issued_ms: MS + 50, reason: "left in a train".into(), fences };
    let cert = DeviceCert::issue(&root, test_identity(1).peer_key(), "desk", MS + 40, true).expect("a name");
    let mut other = Author::new(0);
    let fork: Log =
        (0..4).map(|n| other.commit(Hlc::new(MS, u16::from(n > 1)), Deps::new(), vec![])).collect();
    let proof = |seq: usize, ours: &[(Commit, Sig)], theirs: &[(Commit, Sig)]| {
        let branch = |log: &[(Commit, Sig)]| Branch {
            contents: log[seq..].iter().map(|(commit, _)| commit.content()).collect(),
            sig: log.last().expect("commits").1,
        };
        let author = test_identity(0).cert;
        let (incarnation, end) = (a[0].0.dot.replica.incarnation, (seq as u64, ours[seq].0.prev));
        let proof = ForkProof::new(author, incarnation, end, [branch(ours), branch(theirs)]);
        assert!(proof.holds(&account()));
        fork_commit(&account(), proof)
    };
    assert_eq!(fork[0].0, a[0].0);
    let signed = [Statement::Certify(cert), Statement::Revoke(revocation)]
        .map(|statement| statement.into_commit(&root, Hlc::new(MS + 60, 1)));
    let mut other = Author::new(0);
    let anew: Log = (0..2).map(|n| other.commit(Hlc::new(MS + 7, n), Deps::new(), vec![])).collect();
    let proven = [proof(1, &a[..3], &fork[..2]), proof(0, &a[..2], &anew)];
    let all = signed.into_iter().chain(proven.map(|commit| (commit, Sig([0; 64]))));
    let vector = |(commit, sig): (Commit, Sig)| {
        let bytes = commit.encode();
        assert_eq!(Commit::decode(&bytes, &account()), Ok(commit.clone()));
        json!({
            "commit": json::commit(&commit),
            "bytes": hex(&bytes),
            "content": hex(&commit.content().0),
            "hash": hex(&commit.hash().0),
            "sig": hex(&sig.0),
        })
    };
    all.map(vector).collect()
}

fn apply(rows: &mut BTreeMap<(TableName, RowKey), RowState>, stamp: Stamp, op: &Op) {
    rows.entry((op.table.clone(), op.row.clone())).or_default().apply(stamp, op, &mut Vec::new());
}

/// The rows that the commits above give, whatever the order.
pub(crate) fn rows() -> Json {
    let (a, b) = written_commits();
    let all: Vec<Commit> = a.into_iter().chain(b).map(|(commit, _)| commit).collect();
    let (mut rows, mut backwards) = (BTreeMap::new(), BTreeMap::new());
    for commit in &all {
        commit.ops.iter().for_each(|op| apply(&mut rows, commit.stamp(), op));
    }
    for commit in all.iter().rev() {
        commit.ops.iter().for_each(|op| apply(&mut backwards, commit.stamp(), op));
    }
    assert_eq!(rows, backwards);
    let digest = |(table, row): &(TableName, RowKey), state: &RowState| state.digest(table, row);
    let vector = |(key, state): (&(TableName, RowKey), &RowState)| {
        assert_eq!(RowState::decode(&state.encode()).as_ref(), Ok(state));
        json!({
            "table": key.0.as_str(),
            "row": key.1.as_str(),
            "visible": state.visible(),
            "bytes": hex(&state.encode()),
            "digest": hex(&digest(key, state).to_be_bytes()),
        })
    };
    let state = rows.iter().fold(0u128, |sum, (key, state)| sum.wrapping_add(digest(key, state)));
    json!({ "rows": rows.iter().map(vector).collect::<Vec<_>>(), "state": hex(&state.to_be_bytes()) })
}

pub(crate) fn known() -> Knowledge {
    let (a, b) = (Author::new(0).replica, Author::new(1).replica);
    let mut knowledge = Knowledge::default();
    knowledge.insert(a, 1, 4);
    knowledge.insert(b, 1, 2);
    knowledge.insert(b, 7, 300);
    knowledge
}

pub(crate) fn knowledge() -> Json {
    [Knowledge::default(), known()]
        .map(|knowledge| json!({ "knowledge": json::knowledge(&knowledge), "digest": hex(&knowledge.digest()) }))
        .to_vec()
        .into()
}
