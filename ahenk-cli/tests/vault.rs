//! Encrypted homes through the command line: nothing that they hold is in their files, the passphrase opens them and
//! nothing else does, and all that works on a plain home works on them.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use support::{Device, LISTEN, World};

const SECRET: &str = "a passphrase of several words";
const VALUE: &str = "Zwetschgendatschi";
const ROW: &str = "hush-hush-row";
const TABLE: &str = "confidential_table";

/// A device with a new account and an encrypted home.
fn founder(world: &World, name: &str) -> Device {
    let device = world.device(name);
    device.set_passphrase(SECRET);
    device.run(&["init", "--name", name, "--listen", LISTEN, "--no-mdns", "--encrypt"]).ok();
    device
}

fn forget_passphrase(device: &Device) {
    fs::remove_file(device.passphrase_file()).expect("it was there");
}

/// All files of a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The files of a home in which a text occurs.
fn found(home: &Path, what: &[u8]) -> Vec<PathBuf> {
    let has =
        |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.windows(what.len()).any(|part| part == what));
    files(home).into_iter().filter(has).collect()
}

fn path(world: &World, name: &str) -> String {
    world.path().join(name).display().to_string()
}

#[test]
fn no_value_key_table_or_secret_is_in_the_files_of_an_encrypted_home() {
    let world = World::new();
    let (plain, device) = (world.founder("plain"), founder(&world, "a"));
    let phrase = "written twice, to be in the table of rows and in the log";
    for one in [&plain, &device] {
        one.start();
        one.run(&["put", TABLE, ROW, &format!("field_of_mine={VALUE}"), &format!("note={phrase}")]).ok();
        let backup = path(&world, &format!("backup-{}", one.name));
        one.run(&["backup", &backup]).ok();
    }
    let known = [VALUE, ROW, TABLE, "field_of_mine", phrase, SECRET];
    for known in &known[..5] {
        assert!(!found(&plain.home, known.as_bytes()).is_empty(), "the test looks for the right things");
    }
    for running in [true, false] {
        for known in known {
            assert_eq!(
                found(&device.home, known.as_bytes()),
                [] as [PathBuf; 0],
                "{known}, running: {running}"
            );
        }
        if running {
            device.run(&["stop"]).ok();
        }
    }
    let backup = fs::read(path(&world, "backup-a")).expect("the backup");
    for known in known {
        assert!(!backup.windows(known.len()).any(|part| part == known.as_bytes()), "{known} in the backup");
    }
    // The keys are there in no form that the plain home has.
    for key in ["device.key", "account.key"] {
        let (plain, sealed) =
            (fs::read_to_string(plain.home.join(key)), fs::read_to_string(device.home.join(key)));
        assert!(plain.expect("text").starts_with("ahenk key 1 "), "{key}");
        assert!(sealed.expect("text").starts_with("ahenk sealed key 1 "), "{key}");
    }
    assert_eq!(device.json(&["vault", "status"]).json(), json!({ "encrypted": true }));
    assert_eq!(plain.json(&["vault", "status"]).json(), json!({ "encrypted": false }));
}

#[test]
fn without_the_right_passphrase_nothing_opens_and_nothing_changes() {
    let world = World::new();
    let device = founder(&world, "a");
    device.run(&["put", TABLE, ROW, &format!("f={VALUE}")]).ok();
    let before = fs::read(device.home.join("ahenk.redb")).expect("the file");
    let commands: [&[&str]; 4] =
        [&["get", TABLE, ROW], &["start", "--daemon"], &["start"], &["vault", "passphrase"]];
    device.set_passphrase("another passphrase");
    for command in commands {
        let message = device.json(command).error(9, "locked");
        assert!(message.contains("passphrase") && message.contains("wrong"), "{message}");
    }
    forget_passphrase(&device);
    for command in commands {
        let message = device.json(command).error(9, "locked");
        assert!(message.contains("no terminal"), "{message}");
    }
    assert_eq!(fs::read(device.home.join("ahenk.redb")).expect("the file"), before);
    device.set_passphrase(SECRET);
    assert_eq!(device.json(&["get", TABLE, ROW]).json(), json!({ "f": VALUE }));
    // A short one is refused before there is anything.
    let other = world.device("b");
    other.set_passphrase("short");
    other.json(&["init", "--encrypt"]).error(2, "usage");
    assert!(!other.home.exists());
    // Files that somebody puts there in the clear are not taken for the home's.
    fs::rename(device.home.join("ahenk.redb"), device.home.join("aside")).expect("moved");
    let plain = world.founder("plain");
    plain.run(&["put", "t", "r", "f=1"]).ok();
    fs::copy(plain.home.join("ahenk.redb"), device.home.join("ahenk.redb")).expect("copied");
    assert!(device.json(&["get", "t", "r"]).error(8, "storage").contains("not encrypted"));
    fs::copy(plain.home.join("device.key"), device.home.join("device.key")).expect("copied");
    assert!(device.json(&["get", "t", "r"]).error(8, "storage").contains("device.key"));
}

#[test]
fn commands_need_no_passphrase_while_the_daemon_runs_and_restart_asks_before_it_stops() {
    let world = World::new();
    let device = founder(&world, "a");
    device.start();
    forget_passphrase(&device);
    device.run(&["put", TABLE, ROW, "f=1"]).ok();
    assert_eq!(device.json(&["get", TABLE, ROW]).json(), json!({ "f": 1 }));
    let checks = device.run(&["doctor"]).ok();
    assert!(checks.stdout.contains("encrypted"), "{}", checks.stdout);
    device.json(&["restart"]).error(9, "locked");
    assert!(device.status()["running"].as_bool().expect("a boolean"), "it was not stopped");
    device.set_passphrase(SECRET);
    device.run(&["restart"]).ok();
    assert_eq!(device.json(&["get", TABLE, ROW]).json(), json!({ "f": 1 }));
}

#[test]
fn a_device_joins_with_an_encrypted_home_and_syncs_like_any_other() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.run(&["put", TABLE, ROW, &format!("f={VALUE}")]).ok();
    b.set_passphrase(SECRET);
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes", "--admin"]);
    let code = inviting.code();
    let args = ["--json", "device", "join", "--name", "b", "--listen", LISTEN, "--no-mdns", "--encrypt"];
    b.run_with_input(&args, &format!("{code}\n")).ok();
    inviting.wait().ok();
    assert_eq!(b.json(&["get", TABLE, ROW]).json(), json!({ "f": VALUE }));
    assert_eq!(found(&b.home, VALUE.as_bytes()), [] as [PathBuf; 0]);
    let root = fs::read_to_string(b.home.join("account.key")).expect("it administers");
    assert!(root.starts_with("ahenk sealed key 1 "));
    assert_eq!(b.status()["admin"], true);
}

#[test]
fn another_passphrase_opens_what_was_written_and_backups_keep_that_of_their_time() {
    let world = World::new();
    let device = founder(&world, "a");
    device.run(&["put", "t", "r", "n=1"]).ok();
    device.run(&["backup", &path(&world, "old")]).ok();
    fs::write(path(&world, "new.txt"), "the second passphrase\n").expect("written");
    device.run(&["vault", "passphrase", "--new-file", &path(&world, "new.txt")]).ok();
    device.json(&["get", "t", "r"]).error(9, "locked");
    device.set_passphrase("the second passphrase");
    assert_eq!(device.json(&["get", "t", "r"]).json(), json!({ "n": 1 }));
    device.run(&["put", "t", "r", "n=2"]).ok();
    // Its own backup needs nothing but the home's passphrase, old as it is.
    device.run(&["restore", &path(&world, "old"), "--force"]).ok();
    assert_eq!(device.json(&["get", "t", "r"]).json(), json!({ "n": 1 }));
    // Another home of the account has another key, and takes it with the passphrase of its time.
    let other = world.device("b");
    device.start();
    device.admit(&other);
    device.run(&["stop"]).ok();
    other.json(&["restore", &path(&world, "old"), "--force"]).error(9, "locked");
    fs::write(path(&world, "wrong.txt"), "no such passphrase\n").expect("written");
    let wrong = ["restore", &path(&world, "old"), "--force", "--passphrase-file", &path(&world, "wrong.txt")];
    other.json(&wrong).error(9, "locked");
    fs::write(path(&world, "old.txt"), format!("{SECRET}\n")).expect("written");
    let right = ["restore", &path(&world, "old"), "--force", "--passphrase-file", &path(&world, "old.txt")];
    other.run(&right).ok();
    assert_eq!(other.json(&["get", "t", "r"]).json(), json!({ "n": 1 }));
    assert!(found(&other.home, b"ahenk vault 1").is_empty(), "a plain home keeps it plain");
    other.json(&["vault", "passphrase"]).error(3, "not-found");
}

#[test]
fn a_home_is_encrypted_and_decrypted_afterwards_and_goes_on_as_it_was() {
    let world = World::new();
    let (device, other) = (world.founder("a"), world.device("b"));
    device.start();
    device.admit(&other);
    device.run(&["put", TABLE, ROW, &format!("field_of_mine={VALUE}")]).ok();
    device.set_passphrase(SECRET);
    device.json(&["vault", "encrypt"]).error(6, "conflict");
    device.run(&["stop"]).ok();
    let before = device.json(&["status"]).json();
    assert!(!found(&device.home, VALUE.as_bytes()).is_empty());
    assert_eq!(device.json(&["vault", "status"]).json(), json!({ "encrypted": false }));
    // What is too short is refused before anything is touched.
    device.set_passphrase("short");
    device.json(&["vault", "encrypt"]).error(2, "usage");
    device.json(&["vault", "decrypt"]).error(6, "conflict");
    device.set_passphrase(SECRET);
    let encrypted = device.json(&["vault", "encrypt"]).json();
    assert_eq!(encrypted, json!({ "encrypted": true, "left": [] }));
    assert_eq!(device.json(&["vault", "status"]).json(), json!({ "encrypted": true }));
    for known in [VALUE, ROW, TABLE, "field_of_mine"] {
        assert_eq!(found(&device.home, known.as_bytes()), Vec::<PathBuf>::new(), "{known}");
    }
    device.json(&["vault", "encrypt"]).error(6, "conflict");
    device.set_passphrase("not the passphrase");
    device.json(&["get", TABLE, ROW]).error(9, "locked");
    device.json(&["vault", "decrypt"]).error(9, "locked");
    device.set_passphrase(SECRET);
    assert_eq!(device.json(&["get", TABLE, ROW]).json(), json!({ "field_of_mine": VALUE }));
    let after = device.json(&["status"]).json();
    assert_eq!((&after["digest"], &after["device"]), (&before["digest"], &before["device"]));
    // It is still an administrator, and its devices still know it.
    device.start();
    other.start();
    device.run(&["put", TABLE, ROW, "n=2"]).ok();
    device.run(&["sync"]).ok();
    assert_eq!(other.json(&["get", TABLE, ROW]).json(), json!({ "field_of_mine": VALUE, "n": 2 }));
    device.run(&["device", "promote", "b", "--yes"]).ok();
    device.run(&["stop"]).ok();
    assert_eq!(device.json(&["vault", "decrypt"]).json(), json!({ "encrypted": false, "left": [] }));
    forget_passphrase(&device);
    assert_eq!(device.json(&["get", TABLE, ROW]).json(), json!({ "field_of_mine": VALUE, "n": 2 }));
    assert_eq!(device.json(&["vault", "status"]).json(), json!({ "encrypted": false }));
    assert!(!device.home.join("vault.key").exists());
}

#[test]
fn a_home_whose_conversion_is_killed_at_any_time_is_whole_and_the_next_command_tidies_it_up() {
    let world = World::new();
    let device = world.founder("a");
    device.set_passphrase(SECRET);
    device.run(&["put", TABLE, ROW, &format!("field_of_mine={VALUE}")]).ok();
    let mut forms = std::collections::BTreeSet::new();
    for round in 0..14 {
        let encrypted = device.json(&["vault", "status"]).json()["encrypted"] == json!(true);
        let convert = if encrypted { "decrypt" } else { "encrypt" };
        let mut child = device.command(&["vault", convert]).stdout(Stdio::null()).spawn().expect("started");
        std::thread::sleep(std::time::Duration::from_millis(60 * round));
        // It may have ended.
        let _ = child.kill();
        child.wait().expect("ended");
        assert_eq!(device.json(&["get", TABLE, ROW]).json(), json!({ "field_of_mine": VALUE }), "{round}");
        let names: Vec<_> = files(&device.home);
        assert!(!names.iter().any(|path| path.to_string_lossy().contains(".next")), "{names:?}");
        assert!(!device.home.join("conversion").exists());
        forms.insert(device.json(&["vault", "status"]).json()["encrypted"].to_string());
    }
    assert_eq!(forms.len(), 2, "some of them were not cut off");
}
