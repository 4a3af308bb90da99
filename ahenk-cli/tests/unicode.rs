//! A real data set over three devices, the third of which never meets the first: every character of Unicode.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

mod support;

use std::path::Path;

use serde_json::Value as Json;
use support::{Device, World};

/// Of Debian's package `unicode-data`.
const FILE: &str = "/usr/share/unicode/UnicodeData.txt";
const COLUMNS: &str = "code,name,category,combining,bidi,decomposition,decimal,digit,numeric,mirrored,old_name,\
                       comment,upper,lower,title";

fn rows(device: &Device) -> u64 {
    let tables = device.json(&["tables"]).ok().stdout;
    let first = tables.lines().next().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
    first.map_or(0, |table| table["rows"].as_u64().expect("a number"))
}

fn digest(device: &Device) -> String {
    device.status()["digest"].as_str().expect("a digest").to_owned()
}

fn sync(device: &Device) {
    let synced = device.json(&["sync", "--timeout", "60"]).json();
    assert_eq!(synced["peers"], 1, "exactly one other device is met");
}

/// Starts a device, has it sync with the one that it can reach, and stops it.
fn visit(device: &Device) {
    device.start();
    sync(device);
    device.run(&["stop"]).ok();
}

#[test]
fn all_of_unicode_arrives_over_a_device_in_between_and_edits_made_apart_converge() {
    if !Path::new(FILE).exists() {
        eprintln!("skipped: there is no {FILE} (Debian has it in the package unicode-data)");
        return;
    }
    let expected = std::fs::read_to_string(FILE).expect("readable").lines().count() as u64;
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
    a.start();
    a.admit(&b);
    a.admit(&c);
    b.start();
    sync(&b);

    let layout = ["--delimiter", ";", "--columns", COLUMNS, "--no-quotes", "--key", "code"];
    let summary = a.json(&[&["import", FILE, "--table", "characters"], &layout[..]].concat()).json();
    assert_eq!((&summary["written"], &summary["skipped"]), (&expected.into(), &0.into()));
    sync(&a);
    assert_eq!((rows(&b), digest(&b)), (expected, digest(&a)));

    // From here on A and C never run at the same time.
    a.run(&["stop"]).ok();
    c.start();
    assert_eq!(rows(&c), 0);
    let address = b.status()["listening"][0].as_str().expect("an address").to_owned();
    c.json(&["peer", "add", &address]).ok();
    sync(&c);
    assert_eq!((rows(&c), digest(&c)), (expected, digest(&b)));
    assert_eq!(c.json(&["get", "characters", "011E", "name"]).json(), "LATIN CAPITAL LETTER G WITH BREVE");

    // Apart, all edit the same row, and each another field of a second one.
    b.run(&["stop"]).ok();
    c.run(&["stop"]).ok();
    for (device, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        device.run(&["put", "characters", "0041", &format!("comment=by {name}")]).ok();
        device.run(&["put", "characters", "0042", &format!("{name}=seen")]).ok();
    }
    b.start();
    visit(&c);
    visit(&a);
    visit(&c);
    b.run(&["stop"]).ok();
    let digests = [&a, &b, &c].map(digest);
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    assert_eq!(rows(&b), expected);
    for device in [&a, &b, &c] {
        assert_eq!(device.json(&["get", "characters", "0041", "comment"]).json(), "by c", "the last edit");
        let merged = device.json(&["get", "characters", "0042"]).json();
        assert!(["a", "b", "c"].iter().all(|field| merged[field] == "seen"), "{merged}");
    }
    // The values that lost are listed where they met the winner.
    let conflicts = b.json(&["conflicts"]).ok().stdout;
    let conflicts: Vec<Json> =
        conflicts.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut lost: Vec<(&str, &str)> = conflicts
        .iter()
        .map(|conflict| {
            assert_eq!((&conflict["row"], &conflict["field"]), (&"0041".into(), &"comment".into()));
            assert_eq!((&conflict["won"]["value"], &conflict["why"]), (&"by c".into(), &"later".into()));
            let lost = &conflict["lost"];
            (lost["value"].as_str().expect("text"), lost["device"].as_str().expect("a name"))
        })
        .collect();
    lost.sort_unstable();
    assert_eq!(lost, [("by a", "a"), ("by b", "b")]);
}
