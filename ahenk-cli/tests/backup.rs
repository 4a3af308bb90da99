//! Backups through the command line: made live, put back as a new replica, and what was deleted stays deleted.

mod support;

use std::fs;

use serde_json::{Value as Json, json};
use support::{Device, World, exchange};

fn replica(device: &Device) -> Json {
    device.status()["replica"].clone()
}

#[test]
fn a_restored_device_is_a_new_replica_gets_back_what_others_know_and_brings_back_nothing_that_was_deleted() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    a.run(&["put", "t", "kept", "n=1"]).ok();
    a.run(&["put", "t", "gone", "n=1"]).ok();
    let before = replica(&a);
    let backup = world.path().join("backup").display().to_string();
    a.start();
    let made = a.json(&["backup", &backup]).json();
    assert_eq!(made["bytes"], fs::metadata(&backup).expect("it is there").len());
    let message = a.json(&["restore", &backup, "--force"]).error(6, "conflict");
    assert!(message.contains("daemon is running"), "{message}");
    a.run(&["stop"]).ok();
    a.run(&["delete", "t", "gone"]).ok();
    a.run(&["put", "t", "later", "n=1"]).ok();
    exchange(&a, &b);

    assert!(a.json(&["restore", &backup]).error(6, "conflict").contains("not overwritten"));
    let restored = a.json(&["restore", &backup, "--force"]).json();
    assert_ne!(restored["replica"], before, "a new incarnation");
    assert_eq!(a.run(&["count", "t"]).ok().stdout, "2\n", "as it was then");
    let kept = restored["replaced"].as_str().expect("what was there is kept");
    assert!(fs::metadata(kept).expect("it is there").len() > 0);
    a.run(&["put", "t", "after", "n=1"]).ok();
    exchange(&a, &b);
    for device in [&a, &b] {
        let listed = device.json(&["list", "t"]).ok().stdout;
        let rows: Vec<Json> = listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let keys: Vec<&str> = rows.iter().map(|row| row["row"].as_str().expect("a key")).collect();
        assert_eq!(keys, ["after", "kept", "later"], "{}", device.name);
    }
    assert_eq!(a.status()["digest"], b.status()["digest"]);
}

#[test]
fn backups_overwrite_nothing_and_only_backups_of_this_account_are_restored() {
    let world = World::new();
    let (a, stranger) = (world.founder("a"), world.founder("stranger"));
    let path = |name: &str| world.path().join(name).display().to_string();
    fs::write(path("taken"), "mine").expect("written");
    a.run(&["put", "t", "r", "n=1"]).ok();
    assert!(a.json(&["backup", &path("taken")]).error(6, "conflict").contains("not overwritten"));
    assert!(a.json(&["backup", &path("no/such/place")]).error(8, "storage").contains("no/such"));
    assert!(a.json(&["backup", &path("a/inside")]).error(2, "usage").contains("home folder"));
    stranger.run(&["backup", &path("theirs")]).ok();
    assert!(a.json(&["restore", &path("theirs"), "--force"]).error(5, "not-authorised").contains("account"));
    assert!(a.json(&["restore", &path("taken"), "--force"]).error(8, "storage").contains("taken"));
    assert!(a.json(&["restore", &path("nothing"), "--force"]).error(3, "not-found").contains("nothing"));
    assert_eq!(fs::read_to_string(path("taken")).expect("readable"), "mine");
    assert_eq!(a.json(&["get", "t", "r"]).json(), json!({ "n": 1 }));
    // A home whose database is lost takes a backup without being told twice.
    a.run(&["backup", &path("own")]).ok();
    fs::remove_file(a.home.join("ahenk.redb")).expect("lost");
    assert_eq!(a.json(&["restore", &path("own")]).json()["replaced"], Json::Null);
    assert_eq!(a.json(&["get", "t", "r"]).json(), json!({ "n": 1 }));
}
