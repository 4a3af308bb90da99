//! The canonical form of commits: one encoding each, nothing else reads, and a signature holds for
//! exactly one commit of one author in one account.

use std::collections::BTreeMap;

use engine::codec::{DecodeError, Writer};
use engine::commit::{Commit, CommitHash, Deps, Op, OpKind, sign_commit, verify_commit};
use engine::config::{
    COMMIT_BYTES_MAX, COMMIT_OPS_MAX, FIELD_BYTES_MAX, REPLICAS_MAX, ROW_FIELDS_MAX, ROW_KEY_BYTES_MAX,
    STAMP_MS_MAX, TABLE_BYTES_MAX, VALUE_DEPTH_MAX,
};
use engine::hlc::Hlc;
use engine::identity::{AccountId, DeviceCert, Dot, ReplicaId, SecretKey, Sig};
use engine::testing::{Author, any_op, identity_of, op, test_identity, test_root};
use engine::value::Value;
use proptest::prelude::*;

fn account() -> AccountId {
    AccountId(test_root().public())
}

fn decode(bytes: &[u8]) -> Result<Commit, DecodeError> {
    Commit::decode(bytes, &account())
}

prop_compose! {
    fn any_deps()(
        seqs in proptest::collection::btree_map((1u8..5, any::<u64>()), 1u64..=i64::MAX as u64, 0..3),
    ) -> Deps {
        let replica = |n: u8, incarnation| ReplicaId { device: test_identity(n).device(), incarnation };
        seqs.into_iter().map(|((n, incarnation), seq)| (replica(n, incarnation), seq)).collect()
    }
}

prop_compose! {
    /// A first commit of a replica.
    fn any_first()(
        ms in 0..=STAMP_MS_MAX,
        counter in 1u16..,
        deps in any_deps(),
        ops in proptest::collection::vec(any_op(), 0..4),
    ) -> Commit {
        Author::new(0).commit(Hlc::new(ms, counter), deps, ops).0
    }
}

prop_compose! {
    /// A commit that is not the first of its replica.
    fn any_later()(first in any_first(), seq in 2..=i64::MAX as u64, prev: [u8; 32]) -> Commit {
        let dot = Dot { seq, ..first.dot };
        let mut prev = CommitHash(prev);
        prev.0[0] |= 1;
        Commit { dot, prev, introduces: None, ..first }
    }
}

/// A later commit without operations.
fn plain() -> Commit {
    Commit {
        dot: Dot { replica: Author::new(0).replica, seq: 2 },
        prev: CommitHash([1; 32]),
        hlc: Hlc::new(1_700_000_000_000, 0),
        deps: Deps::new(),
        introduces: None,
        statement: None,
        ops: Vec::new(),
    }
}

fn check_truncations(commit: &Commit) -> Result<(), TestCaseError> {
    let bytes = commit.encode();
    for end in 0..bytes.len() {
        prop_assert!(decode(&bytes[..end]).is_err(), "the first {} of {} bytes", end, bytes.len());
    }
    prop_assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing));
    Ok(())
}

fn check_flips(commit: &Commit) -> Result<(), TestCaseError> {
    let bytes = commit.encode();
    let hash = commit.hash();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = decode(&flipped) {
            prop_assert_eq!(other.encode(), flipped.clone());
            prop_assert_ne!(&other, commit);
            prop_assert_ne!(other.hash(), hash);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_commit_comes_back(first in any_first(), later in any_later()) {
        for commit in [first, later] {
            prop_assert_eq!(commit.check(), Ok(()));
            prop_assert_eq!(commit.encoded_len(), commit.encode().len());
            prop_assert_eq!(decode(&commit.encode()), Ok(commit));
        }
    }

    #[test]
    fn no_truncation_of_a_later_commit_reads(commit in any_later()) {
        check_truncations(&commit)?;
    }

    #[test]
    fn any_bytes_after_a_valid_head_read_canonically_or_not_at_all(
        tail in proptest::collection::vec(prop_oneof![0u8..9, b'a'..b'e', any::<u8>()], 0..40),
    ) {
        let mut bytes = plain().encode();
        // Without the count of operations.
        bytes.pop();
        bytes.extend(tail);
        if let Ok(commit) = decode(&bytes) {
            prop_assert_eq!(commit.encode(), bytes);
        }
    }
}

proptest! {
    // Each case reads some thousand commits.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_flipped_bit_of_a_later_commit_is_refused_or_is_another_commit(commit in any_later()) {
        check_flips(&commit)?;
    }
}

proptest! {
    // Each reading verifies a certificate.
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn no_truncation_of_a_first_commit_reads(commit in any_first()) {
        check_truncations(&commit)?;
    }

    #[test]
    fn a_flipped_bit_of_a_first_commit_is_refused_or_is_another_commit(commit in any_first()) {
        check_flips(&commit)?;
    }
}

#[test]
fn a_signature_is_of_one_commit_of_one_author_in_one_account() {
    let (author, other) = (test_identity(0), test_identity(1));
    let hash = plain().hash();
    let sig = sign_commit(&author, &hash);
    let (account, key) = (account(), author.peer_key());
    assert!(verify_commit(&account, &key, &hash, &sig));

    let foreign = AccountId(SecretKey::from_bytes(&[9; 32]).public());
    assert!(!verify_commit(&foreign, &key, &hash, &sig));
    assert!(!verify_commit(&account, &other.peer_key(), &hash, &sig));
    let next = Commit { prev: hash, ..plain() };
    assert!(!verify_commit(&account, &key, &next.hash(), &sig));
    assert!(!verify_commit(&account, &key, &CommitHash::default(), &sig));
    for bit in 0..64 * 8 {
        let mut bytes = sig.0;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!verify_commit(&account, &key, &hash, &Sig(bytes)));
    }
}

#[test]
fn the_same_device_key_in_another_account_signs_differently() {
    let elsewhere = identity_of(&SecretKey::from_bytes(&[9; 32]), 0);
    assert_eq!(elsewhere.peer_key(), test_identity(0).peer_key());
    let hash = plain().hash();
    let sig = sign_commit(&elsewhere, &hash);
    assert!(verify_commit(&elsewhere.account(), &elsewhere.peer_key(), &hash, &sig));
    assert!(!verify_commit(&account(), &elsewhere.peer_key(), &hash, &sig));
}

#[track_caller]
fn refused(commit: &Commit, error: DecodeError) {
    assert_eq!(decode(&commit.encode()), Err(error));
}

#[test]
fn a_sequence_number_is_at_least_1_and_leaves_room() {
    let error = DecodeError::Invalid("a sequence number");
    let seq = |seq| Commit { dot: Dot { seq, ..plain().dot }, ..plain() };
    refused(&seq(0), error);
    refused(&seq(i64::MAX as u64 + 1), error);
    refused(&seq(u64::MAX), error);
    assert!(decode(&seq(i64::MAX as u64).encode()).is_ok());
}

#[test]
fn the_first_commit_and_no_other_begins_a_log() {
    let error = DecodeError::Invalid("the start of a replica's log");
    let first = Author::new(0).commit(Hlc::new(1, 0), Deps::new(), Vec::new()).0;
    let second = Dot { seq: 2, ..first.dot };
    refused(&Commit { introduces: None, ..first.clone() }, error);
    refused(&Commit { prev: CommitHash([1; 32]), ..first.clone() }, error);
    refused(&Commit { dot: second, ..first.clone() }, error);
    refused(&Commit { dot: second, prev: CommitHash([1; 32]), ..first }, error);
    refused(&Commit { prev: CommitHash::default(), ..plain() }, error);
}

#[test]
fn a_certificate_is_of_the_author_and_by_the_account() {
    let first = Author::new(0).commit(Hlc::new(1, 0), Deps::new(), Vec::new()).0;
    let with = |cert| Commit { introduces: Some(Box::new(cert)), ..first.clone() };
    refused(&with(test_identity(1).cert), DecodeError::Invalid("a certificate of another device"));

    let invalid = DecodeError::Invalid("a certificate");
    let cert = || test_identity(0).cert;
    assert!(decode(&with(cert()).encode()).is_ok());
    refused(&with(identity_of(&SecretKey::from_bytes(&[9; 32]), 0).cert), invalid);
    refused(&with(DeviceCert { admin: !cert().admin, ..cert() }), invalid);
    refused(&with(DeviceCert { name: "another name".to_owned(), ..cert() }), invalid);
    refused(&with(DeviceCert { issued_ms: cert().issued_ms + 1, ..cert() }), invalid);
    refused(&with(DeviceCert { name: String::new(), ..cert() }), invalid);
    refused(&with(DeviceCert { name: "n".repeat(65), ..cert() }), DecodeError::TooLarge("a device name"));
}

#[test]
fn a_stamp_is_one_that_all_devices_accept() {
    let error = DecodeError::Invalid("a stamp");
    refused(&Commit { hlc: Hlc(0), ..plain() }, error);
    refused(&Commit { hlc: Hlc::new(STAMP_MS_MAX + 1, 0), ..plain() }, error);
    refused(&Commit { hlc: Hlc(u64::MAX), ..plain() }, error);
    assert!(decode(&Commit { hlc: Hlc::new(STAMP_MS_MAX, u16::MAX), ..plain() }.encode()).is_ok());
}

#[test]
fn dependencies_are_on_something_of_others_and_bounded() {
    let replica = |incarnation| ReplicaId { device: test_identity(1).device(), incarnation };
    let deps = |count: u64| Commit { deps: (0..count).map(|n| (replica(n), 1)).collect(), ..plain() };
    assert!(decode(&deps(REPLICAS_MAX as u64).encode()).is_ok());
    refused(&deps(REPLICAS_MAX as u64 + 1), DecodeError::TooLarge("dependencies"));
    let own = Commit { deps: [(plain().dot.replica, 1)].into(), ..plain() };
    refused(&own, DecodeError::Invalid("a dependency on oneself"));
    let nothing = Commit { deps: [(replica(0), 0)].into(), ..plain() };
    let endless = Commit { deps: [(replica(0), i64::MAX as u64 + 1)].into(), ..plain() };
    refused(&endless, DecodeError::Invalid("a dependency"));
    refused(&nothing, DecodeError::Invalid("a dependency"));

    let two = deps(2).encode();
    // Both entries have 25 bytes; after them stands the count of operations.
    let at = two.len() - 1 - 2 * 25;
    let swapped = [&two[..at], &two[at + 25..at + 50], &two[at..at + 25], &[0]].concat();
    assert_eq!(decode(&swapped), Err(DecodeError::Unordered("dependencies")));
}

#[test]
fn operations_ascend_strictly_by_table_and_row() {
    let error = DecodeError::Unordered("operations");
    let ops = |rows: [(&str, &str); 2]| {
        let ops = rows.map(|(table, row)| op(table, row, OpKind::Put, BTreeMap::new()));
        Commit { ops: ops.to_vec(), ..plain() }
    };
    assert!(decode(&ops([("t", "b"), ("u", "a")]).encode()).is_ok());
    refused(&ops([("t", "b"), ("t", "a")]), error);
    refused(&ops([("t", "a"), ("t", "a")]), error);
    refused(&ops([("u", "a"), ("t", "b")]), error);
}

#[test]
fn a_delete_writes_no_fields() {
    let put = op("t", "r", OpKind::Put, [("f".to_owned(), Value::Null)].into());
    assert!(decode(&Commit { ops: vec![put.clone()], ..plain() }.encode()).is_ok());
    let delete = Op { kind: OpKind::Delete, ..put };
    refused(&Commit { ops: vec![delete], ..plain() }, DecodeError::Invalid("a delete with fields"));
}

#[test]
fn a_commit_has_a_bounded_number_of_operations_and_fields() {
    let ops = |count: usize| {
        let ops = (0..count).map(|n| op("t", &format!("{n:05x}"), OpKind::Put, BTreeMap::new()));
        Commit { ops: ops.collect(), ..plain() }
    };
    assert!(decode(&ops(COMMIT_OPS_MAX).encode()).is_ok());
    refused(&ops(COMMIT_OPS_MAX + 1), DecodeError::TooLarge("operations of a commit"));

    let fields = |count: usize| {
        let fields = (0..count).map(|n| (format!("{n:04x}"), Value::Null));
        Commit { ops: vec![op("t", "r", OpKind::Put, fields.collect())], ..plain() }
    };
    assert!(decode(&fields(ROW_FIELDS_MAX).encode()).is_ok());
    refused(&fields(ROW_FIELDS_MAX + 1), DecodeError::TooLarge("fields of a row"));
}

#[test]
fn a_commit_has_bounded_bytes_and_nesting() {
    let text = |len: usize| {
        let fields = [("f".to_owned(), Value::Text("x".repeat(len)))].into();
        Commit { ops: vec![op("t", "r", OpKind::Put, fields)], ..plain() }
    };
    // The length in front takes 3 bytes for both.
    let around = text(1 << 17).encode().len() - (1 << 17);
    let fits = text(COMMIT_BYTES_MAX - around);
    assert_eq!(fits.encode().len(), COMMIT_BYTES_MAX);
    assert!(decode(&fits.encode()).is_ok());
    refused(&text(COMMIT_BYTES_MAX - around + 1), DecodeError::TooLarge("a commit"));

    let nested = |depth: usize| {
        let value = (0..depth).fold(Value::Null, |value, _| Value::List(vec![value]));
        Commit { ops: vec![op("t", "r", OpKind::Put, [("f".to_owned(), value)].into())], ..plain() }
    };
    assert!(decode(&nested(VALUE_DEPTH_MAX).encode()).is_ok());
    refused(&nested(VALUE_DEPTH_MAX + 1), DecodeError::TooLarge("a value's nesting"));
}

/// A commit of one put, from names that need not be valid.
fn named(table: &[u8], row: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let mut writer = Writer::new();
    let head = plain().encode();
    writer.raw(&head[..head.len() - 1]);
    writer.varint(1);
    writer.u8(0);
    writer.bytes(table);
    writer.bytes(row);
    writer.varint(fields.len() as u64);
    for field in fields {
        writer.bytes(field);
        Value::Null.encode(&mut writer);
    }
    writer.into_bytes()
}

#[test]
fn names_are_text_and_neither_empty_nor_too_long() {
    let long = |len| vec![b'n'; len];
    let [table, row, field] = [TABLE_BYTES_MAX, ROW_KEY_BYTES_MAX, FIELD_BYTES_MAX].map(long);
    assert!(decode(&named(&table, &row, &[&field])).is_ok());
    let [table, row, field] = [TABLE_BYTES_MAX, ROW_KEY_BYTES_MAX, FIELD_BYTES_MAX].map(|max| long(max + 1));
    for (bytes, error) in [
        (named(&table, b"r", &[]), DecodeError::TooLarge("a table name")),
        (named(b"t", &row, &[]), DecodeError::TooLarge("a row key")),
        (named(b"t", b"r", &[&field]), DecodeError::TooLarge("a field name")),
        (named(b"", b"r", &[b"f"]), DecodeError::Invalid("a table name")),
        (named(b"t", b"", &[b"f"]), DecodeError::Invalid("a row key")),
        (named(b"t", b"r", &[b"", b"field"]), DecodeError::Invalid("a field name")),
        (named(b"t\n", b"r", &[b"f"]), DecodeError::Invalid("a table name")),
        (named(b"t", b"r", &[b"\x1b[2J"]), DecodeError::Invalid("a field name")),
        (named(b"\xff", b"r", &[b"f"]), DecodeError::BadText),
        (named(b"t", b"\xc3", &[b"f"]), DecodeError::BadText),
        (named(b"t", b"r", &[b"\xed\xa0\x80"]), DecodeError::BadText),
        (named(b"t", b"r", &[b"g", b"f"]), DecodeError::Unordered("fields")),
        (named(b"t", b"r", &[b"f", b"f"]), DecodeError::Unordered("fields")),
    ] {
        assert_eq!(decode(&bytes), Err(error));
    }
}

#[test]
fn unknown_tags_are_refused() {
    let mut kind = named(b"t", b"r", &[]);
    let at = plain().encode().len();
    assert_eq!(kind[at], 0);
    kind[at] = 4;
    assert_eq!(decode(&kind), Err(DecodeError::UnknownTag(4)));
    let mut introduction = plain().encode();
    // Last come the tag of a certificate or statement and the count of operations.
    let at = introduction.len() - 2;
    introduction[at] = 3;
    assert_eq!(decode(&introduction), Err(DecodeError::UnknownTag(3)));
}

#[test]
fn the_canonical_form_of_a_commit_is_fixed() {
    let fields = [
        ("int".to_owned(), Value::Int(-3)),
        ("list".to_owned(), Value::List(vec![Value::Bool(true), Value::Null])),
        ("text".to_owned(), Value::Text("é".to_owned())),
    ];
    let ops = vec![op("t", "a", OpKind::Put, fields.into()), op("t", "b", OpKind::Delete, BTreeMap::new())];
    let other = ReplicaId { device: test_identity(1).device(), incarnation: 258 };
    let commit = Commit { ops, deps: [(other, 300)].into(), ..plain() };
    let expected = [
        commit.dot.replica.device.0.as_bytes(),
        &[0, 0, 0, 0, 0, 0, 0, 1, 2][..],
        &[1; 32],
        &[0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, 0, 0],
        &[1],
        other.device.0.as_bytes(),
        &[0, 0, 0, 0, 0, 0, 1, 2, 0xac, 0x02],
        &[0],
        b"\x02",
        b"\x00\x01t\x01a\x03\x03int\x03\x05\x04list\x07\x02\x02\x00\x04text\x05\x02\xc3\xa9",
        b"\x02\x01t\x01b\x00",
    ];
    assert_eq!(commit.encode(), expected.concat());
}
