//! Who may take part: administrators, the recovery phrase, revoked devices and what becomes of their writes.

mod support;

use std::fs;

use serde_json::Value as Json;
use support::{Device, LISTEN, World, until, until_status};

fn device<'a>(list: &'a Json, name: &str) -> &'a Json {
    let found = list.as_array().expect("a list").iter().find(|device| device["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list:#}"))
}

fn quarantine(of: &Device) -> Vec<Json> {
    let ran = of.json(&["quarantine", "list"]).ok();
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_revoked_device_is_told_keeps_its_data_and_syncs_no_more() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.run(&["put", "t", "r", "x=1"]).ok();
    a.admit(&b);
    a.start();
    b.start();
    until_status(&a, "both are connected", |status| status["peers"][0]["in_sync"] == true);
    b.json(&["device", "revoke", "a", "--yes"]).error(5, "not-authorised");
    a.json(&["device", "revoke", "nobody", "--yes"]).error(3, "not-found");
    a.json(&["device", "revoke", "a", "--yes"]).error(2, "usage");
    a.run_with_input(&["--json", "device", "revoke", "b"], "n\n").error(6, "conflict");
    let done = a.json(&["device", "revoke", "b", "--yes", "--reason", "lost on the train"]).json();
    assert_eq!(done["name"], "b");
    until_status(&b, "b is told", |status| status["revoked"] == "lost on the train");
    assert!(b.run(&["status"]).ok().stdout.contains("removed from the account: lost on the train"));
    b.json(&["sync", "--timeout", "2"]).error(5, "not-authorised");
    assert_eq!(b.json(&["get", "t", "r", "x"]).json(), 1, "it keeps its data");
    b.run(&["put", "t", "r", "x=2"]).ok();
    let devices = a.json(&["device", "list"]).json();
    assert_eq!(device(&devices, "b")["revoked"], true);
    until_status(&a, "b is no peer", |status| status["peers"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(a.json(&["stats"]).json()["peers"], Json::Array(Vec::new()), "nor is it counted as one");
    assert_eq!(a.json(&["get", "t", "r", "x"]).json(), 1, "what it writes now arrives nowhere");
    a.json(&["device", "revoke", "b", "--yes"]).error(6, "conflict");
    // It comes back as a new device.
    let again = Device { home: world.path().join("again"), name: "b".into() };
    a.admit(&again);
    assert_eq!(again.json(&["get", "t", "r", "x"]).json(), 1);
}

/// Has a new device write rows that reach `b` and not `a`, which then revokes it: `b` retracts them.
fn spread_and_revoke(world: &World, a: &Device, b: &Device, name: &str, rows: &[&str]) {
    let revoked = world.device(name);
    a.admit(&revoked);
    revoked.start();
    let address = revoked.status()["listening"][0].as_str().expect("an address").to_owned();
    b.json(&["peer", "add", &address]).json();
    for row in rows {
        revoked.run(&["put", "t", row, "x=1"]).ok();
    }
    until("the writes arrive", || rows.iter().all(|row| b.run(&["get", "t", row]).code == 0));
    revoked.run(&["stop"]).ok();
    a.json(&["device", "revoke", name, "--yes"]).json();
    a.start();
    until("they are retracted", || rows.iter().all(|row| b.run(&["get", "t", row]).code == 3));
}

#[test]
fn what_a_revoked_device_had_spread_is_retracted_and_can_be_restored_or_dropped() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    b.start();
    spread_and_revoke(&world, &a, &b, "c", &["kept", "dropped"]);
    let retracted = quarantine(&b);
    let of = |row: &str| {
        let found = retracted.iter().find(|one| one["operations"][0]["row"] == row);
        found.expect("it is kept")["commit"].as_str().expect("a name").to_owned()
    };
    // Both begin with the device that wrote them.
    b.json(&["quarantine", "show", &of("kept")[..3]]).error(2, "usage");
    assert!(b.run(&["quarantine", "show", &of("kept")]).ok().stdout.contains("put t/kept  x=1"));
    assert_eq!(b.json(&["quarantine", "restore", &of("kept")]).json()["commits"][0], of("kept").as_str());
    b.run_with_input(&["--json", "quarantine", "drop", &of("dropped")], "n\n").error(6, "conflict");
    let begin = &of("dropped")[..3];
    b.json(&["quarantine", "drop", "--yes", begin]).json();
    b.json(&["quarantine", "drop", "--yes", &of("dropped")]).error(3, "not-found");
    until("the restored row arrives", || a.run(&["get", "t", "kept"]).code == 0);
    assert_eq!(b.run(&["get", "t", "dropped"]).code, 3);
    assert!(quarantine(&a).is_empty(), "a had never applied it");
    let digest = |of: &Device| of.status()["digest"].clone();
    until("both are equal", || digest(&a) == digest(&b));
}

#[test]
fn all_that_is_in_quarantine_can_be_restored_or_dropped_at_once() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    b.start();
    for (name, present, args) in [
        ("c", 0, &["quarantine", "restore", "--all"][..]),
        ("d", 3, &["quarantine", "drop", "--all", "--yes"]),
    ] {
        let rows = ["one", "two"].map(|row| format!("{row} of {name}"));
        let rows = rows.each_ref().map(String::as_str);
        spread_and_revoke(&world, &a, &b, name, &rows);
        assert_eq!(quarantine(&b).len(), 2);
        assert_eq!(b.json(args).json()["commits"].as_array().map(Vec::len), Some(2));
        assert!(quarantine(&b).is_empty());
        assert!(rows.iter().all(|row| b.run(&["get", "t", row]).code == present), "{args:?}");
        // The next one is not to meet it.
        a.run(&["stop"]).ok();
    }
}

#[test]
fn the_recovery_phrase_makes_another_device_the_administrator() {
    let world = World::new();
    let (a, b, c) = (world.device("a"), world.device("b"), world.device("c"));
    let made = a.json(&["init", "--name", "a", "--listen", LISTEN, "--no-mdns"]).json();
    let phrase = made["recovery_phrase"].as_str().expect("a phrase").to_owned();
    a.admit(&b);
    b.json(&["device", "invite"]).error(5, "not-authorised");
    b.run_with_input(&["--json", "account", "recover"], "abandon ability\n").error(2, "usage");
    let foreign = world.device("f").json(&["init", "--name", "f"]).json();
    let other = foreign["recovery_phrase"].as_str().expect("a phrase");
    b.run_with_input(&["--json", "account", "recover"], other).error(5, "not-authorised");
    assert!(!b.home.join("account.key").exists(), "a wrong phrase leaves nothing behind");
    b.run_with_input(&["--json", "account", "recover"], &phrase).ok();
    let shown = b.json(&["account", "show"]).json();
    assert_eq!((&shown["administers"], &shown["devices"]), (&true.into(), &2.into()));
    assert_eq!(shown["account"], made["account"]);
    b.run_with_input(&["--json", "account", "recover"], &phrase).error(6, "conflict");
    // The first one is gone for good; the account goes on.
    fs::remove_dir_all(&a.home).expect("removed");
    b.json(&["device", "revoke", "a", "--yes"]).json();
    b.admit(&c);
    let devices = c.json(&["device", "list"]).json();
    assert_eq!(
        (&device(&devices, "b")["admin"], &device(&devices, "a")["revoked"]),
        (&true.into(), &true.into())
    );
}

#[test]
fn a_promoted_device_is_given_the_key_and_can_invite() {
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
    a.admit(&b);
    a.start();
    b.start();
    until_status(&a, "both are connected", |status| status["peers"][0]["in_sync"] == true);
    a.json(&["device", "promote", "b", "--yes"]).json();
    until_status(&b, "it has the key", |status| status["admin"] == true);
    a.run(&["stop"]).ok();
    b.admit(&c);
    b.run(&["stop"]).ok();
    assert!(b.home.join("account.key").exists(), "it is kept");
    b.json(&["device", "rename", "c", "camera"]).json();
    assert_eq!(device(&b.json(&["device", "list"]).json(), "camera")["revoked"], false);
}

#[test]
fn a_device_can_be_invited_as_an_administrator_and_the_code_as_a_picture_is_gone_afterwards() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    let picture = world.path().join("code.png");
    let qr = picture.display().to_string();
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes", "--admin", "--qr", &qr]);
    let code = inviting.code();
    until("the picture is there", || picture.exists());
    b.join(&code).ok();
    inviting.wait().ok();
    assert!(!picture.exists());
    assert_eq!(b.status()["admin"], true);
}
