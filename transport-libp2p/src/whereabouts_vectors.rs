//! The part `addresses` of `docs/vectors.json` is what this code makes of records and their messages, and what it refuses.
//! After a change of the format that is meant, run with `UPDATE_VECTORS=1` and read the difference.
//! Invariant: everything here is deterministic.

use std::fs;
use std::path::Path;

use engine::identity::{SecretKey, hex};
use serde_json::{Value as Json, json};

use crate::whereabouts::{ADDRESSES_MAX, RECORD_BYTES_MAX, RECORDS_MAX, Record, Whereabouts, pack, unpack};

const SECRETS: [u8; 2] = [100, 101];

fn made(secret: u8, at_ms: u64, addresses: &[&str]) -> Vec<u8> {
    let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
    Record::make(&SecretKey::from_bytes(&[secret; 32]), at_ms, &addresses).bytes
}

fn record(secret: u8, at_ms: u64, addresses: &[&str]) -> Json {
    let bytes = made(secret, at_ms, addresses);
    let key = SecretKey::from_bytes(&[secret; 32]).public();
    json!({ "key": hex(&key), "at_ms": at_ms.to_string(), "addresses": addresses, "bytes": hex(&bytes) })
}

const AT_MS: u64 = 1_700_000_000_000;
const FEW: [&str; 2] = ["/ip4/192.0.2.7/udp/4001/quic-v1", "/ip6/2001:db8::7/tcp/4001"];

/// Bytes that must be refused, and why.
type Refused = Vec<(&'static str, Vec<u8>)>;

/// Such records, and such messages.
fn refused() -> (Refused, Refused) {
    let good = made(SECRETS[0], AT_MS, &FEW);
    let changed = |at: usize, to: u8| {
        let mut bad = good.clone();
        bad[at] = to;
        bad
    };
    // Behind version, key and time.
    let count = 1 + 32 + 8;
    let long = "x".repeat(257);
    let records = vec![
        ("another version", changed(0, 2)),
        ("another key", changed(1, good[1] ^ 1)),
        ("a later time", changed(count - 1, good[count - 1] ^ 1)),
        ("one address fewer", changed(count, 1)),
        ("more addresses than there may be", changed(count, u8::try_from(ADDRESSES_MAX + 1).expect("few"))),
        ("an address that is not UTF-8", changed(count + 2, 0xff)),
        ("another signature", changed(good.len() - 1, good[good.len() - 1] ^ 1)),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("something behind it", [&good[..], &[0]].concat()),
        ("an address that is too long", too_long(&good[..count], long.as_bytes())),
    ];
    let messages = vec![
        ("nothing", Vec::new()),
        ("fewer records than it says", vec![1]),
        ("something behind it", vec![0, 0]),
        ("more records than there may be", [&[0x81, 0x02], &[0; RECORDS_MAX + 1][..]].concat()),
        ("a record that is too long", [&[0x01, 0x81, 0x28], &[0; RECORD_BYTES_MAX + 1][..]].concat()),
    ];
    (records, messages)
}

/// A record with one address of 257 bytes, signed as it should be.
fn too_long(head: &[u8], address: &[u8]) -> Vec<u8> {
    let body = [head, &[1, 0x81, 0x02], address].concat();
    let secret = SecretKey::from_bytes(&[SECRETS[0]; 32]);
    let sig = secret.sign(&[b"ahenk addresses 1", &body[..]].concat());
    [&body[..], &sig.0].concat()
}

fn vectors() -> Json {
    let records = [
        record(SECRETS[0], AT_MS, &FEW),
        record(SECRETS[0], AT_MS + 1, &[]),
        record(SECRETS[1], 0, &["/dns4/home.example.org/tcp/4001"]),
    ];
    let packed = [vec![], vec![made(SECRETS[0], AT_MS + 1, &[]), made(SECRETS[1], 0, &[])]];
    let message = |records: &Vec<Vec<u8>>| {
        let shown: Vec<String> = records.iter().map(|record| hex(record)).collect();
        json!({ "records": shown, "bytes": hex(&pack(records)) })
    };
    let (bad_records, bad_messages) = refused();
    let shown = |(name, bytes): &(&str, Vec<u8>)| json!({ "name": name, "bytes": hex(bytes) });
    json!({
        "records": records,
        "messages": packed.iter().map(message).collect::<Vec<_>>(),
        "records_refused": bad_records.iter().map(shown).collect::<Vec<_>>(),
        "messages_refused": bad_messages.iter().map(shown).collect::<Vec<_>>(),
    })
}

#[test]
fn the_vectors_of_addresses_are_those_of_the_document() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors.json");
    let text = fs::read_to_string(&path).expect("the vectors");
    let mut golden: Json = serde_json::from_str(&text).expect("JSON");
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        golden["addresses"] = vectors();
        let text = serde_json::to_string_pretty(&golden).expect("JSON") + "\n";
        fs::write(&path, text).expect("written");
    }
    assert_eq!(golden["addresses"], vectors(), "docs/vectors.json differs from what the code makes");
}

#[test]
fn what_the_document_says_is_refused_is_refused() {
    let (records, messages) = refused();
    let mut book = Whereabouts::new(engine::identity::PeerKey([1; 32]));
    assert!(book.take(&made(SECRETS[1], AT_MS, &FEW), |_| true).is_ok_and(|taken| taken.is_some()));
    for (name, bytes) in records {
        assert!(book.take(&bytes, |_| true).is_err(), "{name}");
    }
    for (name, bytes) in messages {
        assert!(unpack(&bytes).is_err(), "{name}");
    }
}
