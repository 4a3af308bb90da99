//! Test vectors of the wire protocol: `docs/vectors.json` is what this code makes, `docs/protocol.md` states the
//! limits that this code keeps (the part `addresses` is made and checked by the transport that has them), and `docs/check_vectors.py`, which knows the document only, agrees with both.
//!
//! After a change of the protocol that is meant, run with `UPDATE_VECTORS=1` and read the difference.
//! Invariant: everything here is deterministic; keys are those of `engine::testing`.

mod frames;
mod json;
mod pairing;
mod parts;

use std::path::{Path, PathBuf};
use std::process::Command;

use engine::{config, pairing as pair, wire};
use serde_json::{Value as Json, json};

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// `addresses` is the part that this code does not make.
fn vectors(addresses: &Json) -> Json {
    json!({
        "addresses": addresses,
        "about": "Test vectors of docs/protocol.md, made and checked by engine/tests/vectors and transport-libp2p/src/whereabouts_vectors.rs. Bytes are hexadecimal, 64-bit integers are decimal text.",
        "varints": parts::varints(),
        "varints_refused": parts::varints_refused(),
        "zigzag": parts::zigzag(),
        "values": parts::values(),
        "values_refused": parts::values_refused(),
        "devices": parts::devices(),
        "certificate": parts::certificate(),
        "commits": parts::commits(),
        "statements": parts::statements(),
        "rows": parts::rows(),
        "knowledge": parts::knowledge(),
        "control": frames::control(),
        "ops": frames::ops(),
        "accepted": frames::accepted(),
        "refused": frames::refused(),
        "pairing": pairing::pairing(),
    })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may be told to write them")]
fn the_vectors_are_those_of_the_document() {
    let path = docs("vectors.json");
    let there: Json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let made = serde_json::to_string_pretty(&vectors(&there["addresses"])).unwrap() + "\n";
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let at = made.lines().zip(golden.lines()).position(|(made, golden)| made != golden);
    assert!(made == golden, "docs/vectors.json differs from what the code makes, from line {at:?} on");
}

/// A program in another language, written from the document, reads all vectors as they are meant.
#[test]
fn a_reader_made_from_the_document_agrees() {
    let Ok(output) = Command::new("python3").arg(docs("check_vectors.py")).output() else {
        #[allow(clippy::print_stderr, reason = "the one way to say that a test was skipped")]
        {
            eprintln!("skipped: there is no python3 to run docs/check_vectors.py with");
        }
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docs/check_vectors.py failed:\n{text}");
    assert!(text.contains("all vectors agree"), "{text}");
}

/// Name and value of each row of the document's table of limits: `| `NAME` | 123 | ...`.
fn limits_in_the_document() -> Vec<(String, u128)> {
    let text = std::fs::read_to_string(docs("protocol.md")).unwrap();
    let (_, table) = text.split_once("<!-- limits: checked against the code -->").unwrap();
    let (table, _) = table.split_once("<!-- end of limits -->").unwrap();
    let row = |line: &str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?.to_owned();
        Some((name, cells.next()?.replace(' ', "").parse().unwrap()))
    };
    table.lines().filter_map(row).collect()
}

#[test]
fn the_limits_in_the_document_are_those_of_the_code() {
    macro_rules! constants {
        ($($path:path),* $(,)?) => {
            vec![$((stringify!($path).rsplit("::").next().unwrap().trim().to_owned(), $path as u128)),*]
        };
    }
    let mut code = constants![
        config::FRAME_BYTES_MAX,
        config::CONTROL_BYTES_MAX,
        config::BROADCAST_BYTES_MAX,
        config::INFLATED_BYTES_MAX,
        config::DEFLATE_BYTES_MIN,
        config::COMMIT_BYTES_MAX,
        wire::columns::RUNS_BYTES_MAX,
        config::DECODED_BYTES_MAX,
        config::RUN_COMMITS_MAX,
        config::COMMIT_OPS_MAX,
        config::ROW_FIELDS_MAX,
        config::TABLE_BYTES_MAX,
        config::ROW_KEY_BYTES_MAX,
        config::FIELD_BYTES_MAX,
        config::DEVICE_NAME_BYTES_MAX,
        config::VALUE_DEPTH_MAX,
        config::REPLICAS_MAX,
        config::REPLICAS_FOR_STATEMENTS,
        config::REVOKED_REPLICAS_MAX,
        config::REASON_BYTES_MAX,
        config::RANGES_MAX,
        wire::message::HEADS_MAX,
        config::STAMP_MS_MAX,
        config::STAMP_HEADROOM_MS,
        pair::MESSAGE_BYTES_MAX,
        pair::ATTEMPTS_MAX,
        pair::OFFER_MS,
        pair::CONFIRM_MS,
        pair::OTHERS_MAX,
        pair::ADDRESSES_MAX,
        pair::ADDRESS_BYTES_MAX,
    ];
    let own = config::Config::default();
    macro_rules! defaults {
        ($($field:ident),* $(,)?) => { $(code.push((stringify!($field).to_owned(), own.$field as u128));)* };
    }
    defaults![
        drift_ms_max,
        batch_bytes,
        batch_commits_max,
        credit_bytes,
        push_bytes_max,
        reorder_bytes_max,
        handshake_ms_max,
        retry_ms,
        retry_ms_max,
        want_ms,
        want_ms_max,
        ping_ms,
        silence_ms_max,
        peers_max,
    ];
    let mut document = limits_in_the_document();
    document.sort();
    code.sort();
    assert_eq!(document, code);
}

#[test]
fn the_versions_in_the_document_are_those_of_the_code() {
    let text = std::fs::read_to_string(docs("protocol.md")).unwrap();
    let (major, minor, pairing) = (wire::frame::MAJOR, wire::message::MINOR, pair::PAIRING_VERSION);
    let line = format!("Major version {major}, minor version {minor}; pairing version {pairing}.");
    assert!(text.contains(&line), "the document does not say: {line}");
}

/// The frame that the document takes apart is the one in the vectors.
#[test]
fn the_example_in_the_document_is_a_vector() {
    let text = std::fs::read_to_string(docs("protocol.md")).unwrap();
    let vectors = frames::control();
    let ping = vectors.as_array().unwrap().iter().find(|vector| vector["name"] == "Ping").unwrap();
    assert!(text.contains(&format!("\n    {}\n", ping["bytes"].as_str().unwrap())));
}

/// The conversations that the document shows are the recorded ones.
#[test]
fn the_conversations_in_the_document_are_the_recorded_ones() {
    let text = std::fs::read_to_string(docs("protocol.md")).unwrap();
    for name in ["two_new_devices_meet", "a_live_write_is_pushed_and_relayed_by_announcement"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations").join(name);
        let recorded = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        assert!(text.contains(&format!("```text\n{recorded}```")), "{name} differs");
    }
}
