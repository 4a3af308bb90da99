//! A client of another make, `tests/interop` (js-libp2p, written from docs/protocol.md), meets the real daemon. Skipped
//! where Node.js or its libraries are missing; `npm ci --prefix tests/interop` fetches those.

#![allow(clippy::print_stderr)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use engine::identity::{DeviceCert, PeerKey, SecretKey, hex};
use serde_json::{Value as Json, json};
use support::{Device, World};

/// Where the client is, if it can be run.
fn client() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/interop");
    let version = Command::new("node").arg("--version").output().ok()?;
    let version = String::from_utf8(version.stdout).ok()?;
    let major: u32 = version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()?;
    (major >= 20 && folder.join("node_modules").exists()).then_some(folder)
}

/// The account's root key, as the device keeps it.
fn root(device: &Device) -> SecretKey {
    let text = std::fs::read_to_string(device.home.join("account.key")).expect("an administrator");
    let digits = text.split_whitespace().next_back().expect("digits");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
    let seed: Vec<u8> = (digits.len() - 64..digits.len()).step_by(2).map(byte).collect();
    SecretKey::from_bytes(seed[..].try_into().expect("32 bytes"))
}

/// Runs the client with a key that this root certifies; `heard` is given each thing that it found.
fn meet(device: &Device, role: &str, root: &SecretKey, mut heard: impl FnMut(&Json)) -> Option<Vec<Json>> {
    let Some(folder) = client() else {
        eprintln!("skipped: needs Node.js 20 or newer, and `npm ci --prefix tests/interop`");
        return None;
    };
    device.start();
    let address = device.status()["listening"][0].as_str().expect("an address").to_owned();
    let secret = SecretKey::from_bytes(&[0x5a; 32]);
    let cert = DeviceCert::issue(root, PeerKey(secret.public()), "another make", 1_700_000_000_000, false);
    let cert = postcard::to_stdvec(&cert.expect("a name")).expect("plain data");
    let given =
        json!({ "address": address, "seed": hex(&secret.to_bytes()[..]), "cert": hex(&cert), "role": role });
    let mut node = Command::new("node");
    node.arg("client.mjs").arg(given.to_string()).current_dir(folder);
    let mut child = node.stdout(Stdio::piped()).spawn().expect("node starts");
    let mut found = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let item: Json = serde_json::from_str(&line.expect("text")).expect("JSON");
        heard(&item);
        found.push(item);
    }
    assert!(child.wait().expect("it ends").success(), "{found:?}");
    Some(found)
}

fn one<'a>(found: &'a [Json], name: &str) -> &'a Json {
    found.iter().find_map(|item| item.get(name)).unwrap_or_else(|| panic!("no {name} in {found:?}"))
}

#[test]
fn a_client_of_another_make_pings_is_let_in_fetches_commits_and_hears_gossip() {
    let world = World::new();
    let device = world.founder("daemon");
    device.run(&["put", "notes", "n", "title=one"]).ok();
    let write = |item: &Json| {
        if item.get("gossip").is_some() {
            device.run(&["put", "notes", "n", "title=two"]).ok();
        }
    };
    let Some(found) = meet(&device, "member", &root(&device), write) else { return };
    let status = device.status();
    let identify = one(&found, "identify");
    assert_eq!((&identify["protocolVersion"], &identify["sync"]), (&json!("ahenk/1"), &json!(true)));
    assert!(one(&found, "ping").is_u64());
    let hello = one(&found, "hello");
    assert_eq!((&hello["account"], &hello["name"]), (&status["account"], &json!("daemon")));
    assert!(one(&found, "have")["commits"].as_u64() >= Some(2), "its introduction and the row: {found:?}");
    let ops = one(&found, "ops");
    assert!(ops["runs"].as_u64() >= Some(1) && ops["done"] == 1, "{ops}");
    assert_eq!(one(&found, "gossip"), &json!({ "offered": true, "subscribed": true }));
    let hint = one(&found, "hint");
    assert_eq!(
        (&hint["kind"], &hint["session"], &hint["signed"]),
        (&json!(6), &json!(0), &json!(true)),
        "an Announce"
    );
    let knows = |peer: &Json| peer["name"] == "another make";
    assert!(status["peers"].as_array().is_some_and(|peers| peers.iter().any(knows)), "{status}");
}

#[test]
fn a_client_of_another_account_is_told_so_in_the_words_of_the_protocol() {
    let world = World::new();
    let device = world.founder("daemon");
    let Some(found) = meet(&device, "stranger", &SecretKey::from_bytes(&[7; 32]), |_| {}) else { return };
    assert_eq!(one(&found, "refused")["fault"], 0, "foreign account: {found:?}");
}
