//! A database that runs twice and does not notice: what other devices make of it, and what people are told.

mod support;

use std::fs;
use std::time::UNIX_EPOCH;

use serde_json::Value as Json;
use support::{Device, World, until, until_status};

/// A second machine with a device's home. Its guard is led to believe that this is the first one, as where a whole
/// machine is set back or cloned.
fn twin(world: &World, of: &Device) -> Device {
    let copy = Device { home: world.path().join("twin"), name: of.name.clone() };
    fs::create_dir(&copy.home).expect("made");
    for entry in fs::read_dir(&of.home).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_file() {
            fs::copy(&path, copy.home.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
    let is_guard = |name: &str| name.ends_with("guard");
    let names = fs::read_dir(&copy.home).expect("readable").map(|entry| entry.expect("readable").file_name());
    let guard = names.map(|name| name.into_string().expect("text")).find(|name| is_guard(name));
    let guard = guard.expect("a guard beside the database");
    let database = guard.trim_end_matches(".guard");
    let born = fs::metadata(copy.home.join(database)).expect("the database").created();
    if let Ok(born) = born {
        let born = born.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
        let path = copy.home.join(&guard);
        let text = fs::read_to_string(&path).expect("readable");
        let line = |line: &str| match line.strip_prefix("birth ") {
            Some(_) => format!("birth {born}\n"),
            None => format!("{line}\n"),
        };
        fs::write(&path, text.lines().map(line).collect::<String>()).expect("written");
    }
    copy
}

/// The last commits that count of replicas that forked.
fn forks(of: &Device) -> Vec<(String, u64)> {
    let status = of.status();
    let fork = |fork: &Json| {
        (fork["device"].as_str().expect("a name").to_owned(), fork["seq"].as_u64().expect("a number"))
    };
    status["forks"].as_array().expect("a list").iter().map(fork).collect()
}

fn quarantine(of: &Device) -> Vec<Json> {
    let ran = of.json(&["quarantine", "list"]).ok();
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn start(devices: &[&Device]) {
    devices.iter().for_each(|device| {
        device.start();
    });
}

fn stop(devices: &[&Device]) {
    devices.iter().for_each(|device| drop(device.run(&["stop"]).ok()));
}

#[test]
fn a_home_that_runs_twice_is_told_of_everywhere_and_all_devices_end_in_one_state() {
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
    a.admit(&b);
    a.admit(&c);
    start(&[&a, &b, &c]);
    let address = b.status()["listening"][0].as_str().expect("an address").to_owned();
    c.json(&["peer", "add", &address]).json();
    c.run(&["put", "t", "shared", "x=1"]).ok();
    for device in [&a, &b] {
        until("the shared row arrives", || device.run(&["get", "t", "shared"]).code == 0);
    }
    stop(&[&a, &b, &c]);
    let twin = twin(&world, &c);

    // The one is met by a alone, the other by b alone.
    for (clone, row, device) in [(&c, "one", &a), (&twin, "other", &b)] {
        start(&[clone, device]);
        clone.run(&["put", "t", row, "x=1"]).ok();
        until("the row arrives", || device.run(&["get", "t", row]).code == 0);
        assert!(clone.status()["copied_ms"].is_null(), "it does not notice");
        stop(&[clone, device]);
    }
    assert_eq!((forks(&a), forks(&b)), (vec![], vec![]));

    start(&[&a, &b]);
    for device in [&a, &b] {
        until_status(device, "the fork is told of", |status| status["forks"][0]["device"] == "c");
        let status = device.run(&["status"]).ok().stdout;
        assert!(status.contains("the database of c ran twice"), "{status}");
        let doctor = device.run(&["doctor"]).stdout;
        assert!(doctor.contains("the database of c ran twice"), "{doctor}");
    }
    let ends = forks(&a);
    for (clone, row) in [(&c, "one"), (&twin, "other"), (&c, "one")] {
        clone.start();
        until_status(clone, "it hears of it", |status| status["forks"][0]["device"] == "c");
        until_status(clone, "it is in sync", |status| {
            status["peers"].as_array().is_some_and(|peers| peers.iter().any(|peer| peer["in_sync"] == true))
        });
        for device in [&a, &b, clone] {
            assert_eq!(forks(device), ends);
            assert_eq!(device.run(&["get", "t", "shared"]).code, 0);
            for row in ["one", "other"] {
                assert_eq!(device.run(&["get", "t", row]).code, 3, "{row} counts at {}", device.name);
            }
        }
        let digest = |of: &Device| of.status()["digest"].clone();
        until("all have the same", || digest(&a) == digest(clone) && digest(&b) == digest(clone));
        // What each wrote is kept where it was.
        let kept = quarantine(clone);
        assert!(kept.iter().any(|one| one["operations"][0]["row"] == row), "{kept:#?}");
        clone.run(&["stop"]).ok();
    }
    let [of_a, of_b] = [&a, &b].map(quarantine);
    assert_eq!(
        (&of_a[0]["operations"][0]["row"], &of_b[0]["operations"][0]["row"]),
        (&"one".into(), &"other".into())
    );
    let commit = of_b[0]["commit"].as_str().expect("a name");
    b.json(&["quarantine", "restore", commit]).json();
    until("the restored row arrives", || a.run(&["get", "t", "other"]).code == 0);
}
