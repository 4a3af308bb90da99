//! Settings: typed, checked, kept with their comments, and each with its effect.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use support::{Ran, World, until_status};

#[test]
fn settings_are_set_and_unset_and_say_where_they_come_from() {
    let world = World::new();
    let device = world.founder("a");
    let get = |key: &str| device.json(&["config", "get", key]).json();
    assert_eq!(
        (&get("network.mdns")["value"], &get("network.mdns")["origin"]),
        (&false.into(), &"file".into())
    );
    assert_eq!(get("sync.heartbeat_ms")["origin"], "default");
    let path = device.json(&["config", "path"]).json()["path"].as_str().expect("a path").to_owned();
    let before = fs::read_to_string(&path).expect("settings") + "# the last word\n";
    fs::write(&path, &before).expect("written");
    let set = device.json(&["config", "set", "sync.heartbeat_ms", "2000"]).json();
    assert_eq!((&set["value"], &set["origin"]), (&2000.into(), &"file".into()));
    assert_eq!(device.run(&["config", "get", "sync.heartbeat_ms"]).ok().stdout, "2000\n");
    let text = fs::read_to_string(&path).expect("settings");
    assert!(text.contains("# the last word") && text.contains("heartbeat_ms = 2000"), "{text}");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    device.run(&["config", "unset", "sync.heartbeat_ms"]).ok();
    assert_eq!(get("sync.heartbeat_ms")["origin"], "default");
    device.json(&["config", "unset", "sync.heartbeat_ms"]).error(3, "not-found");
    let list = device.run(&["config", "list"]).ok().stdout;
    assert!(list.contains("network.listen") && list.contains("/ip4/127.0.0.1/tcp/0"), "{list}");
}

#[test]
fn what_may_not_be_set_is_refused_and_says_what_may() {
    let world = World::new();
    let device = world.founder("a");
    let before = fs::read_to_string(device.home.join("config.toml")).expect("settings");
    for (args, part) in [
        (&["network.mdsn", "true"][..], "network.mdsn"),
        (&["network.mdns", "maybe"], "cannot be `maybe`"),
        (&["network.mdns"], "one value"),
        (&["limits.peers", "-1"], "limits.peers"),
        (&["log.level", "loud"], "loud"),
        (&["network.listen", "localhost"], "network.listen"),
    ] {
        let ran = device.json(&[&["config", "set"], args].concat());
        let hint = ran.stderr.clone();
        assert!(ran.error(2, "usage").contains(part), "{hint}");
    }
    let ran = device.run(&["config", "get", "network.mdsn"]);
    assert!(ran.stderr.contains("did you mean `network.mdns`"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(device.home.join("config.toml")).expect("settings"), before);
}

#[test]
fn the_environment_overrides_the_file_and_is_checked_too() {
    let world = World::new();
    let device = world.founder("a");
    let with = |value: &str| {
        let args = ["--json", "config", "get", "network.mdns"];
        Ran::of(device.command(&args).env("AHENK_NETWORK_MDNS", value).output().expect("it starts"))
    };
    assert_eq!(with("true").json()["origin"], "environment");
    assert_eq!(with("").json()["origin"], "file");
    assert!(with("perhaps").error(2, "usage").contains("AHENK_NETWORK_MDNS"));
}

#[test]
fn an_edited_file_is_taken_only_if_it_is_right_and_no_word_is_lost() {
    let world = World::new();
    let device = world.founder("a");
    let path = device.home.join("config.toml");
    let before = fs::read_to_string(&path).expect("settings");
    let edit = |script: &str| {
        let mut command = device.command(&["--json", "config", "edit"]);
        Ran::of(command.env_remove("VISUAL").env("EDITOR", script).output().expect("it starts"))
    };
    let appending = |line: &str| format!("sh -c 'printf \"{line}\\n\" >> \"$1\"' sh");
    let wrong = edit(&appending("[sync]\\nenabled = 7"));
    assert!(wrong.error(2, "usage").contains("sync.enabled"));
    assert_eq!(fs::read_to_string(&path).expect("settings"), before);
    edit("false").error(2, "usage");
    edit("sed -i 's/= 7/= false/'").ok();
    assert_eq!(fs::read_to_string(&path).expect("settings"), before + "[sync]\nenabled = false\n");
    assert_eq!(
        fs::read_dir(&device.home)
            .expect("there")
            .filter(|it| it.as_ref().is_ok_and(|it| it.file_name().to_string_lossy().contains("draft")))
            .count(),
        0
    );
}

#[test]
fn a_daemon_that_may_not_sync_listens_nowhere_and_says_so() {
    let world = World::new();
    let device = world.founder("a");
    device.run(&["config", "set", "sync.enabled", "false"]).ok();
    device.start();
    let status = device.status();
    assert_eq!((&status["sync_enabled"], &status["listening"]), (&false.into(), &serde_json::json!([])));
    assert!(device.run(&["status"]).ok().stdout.contains("sync.enabled"));
    device.run(&["put", "t", "r", "a=1"]).ok();
    assert!(device.json(&["device", "invite", "--yes"]).error(6, "conflict").contains("sync.enabled"));
}

#[test]
fn the_daemon_listens_where_it_is_set_and_connects_to_the_bootstrap_addresses() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.start();
    a.admit(&b);
    // Both forget where the other was found, and `a` moves to a port that `b` has never heard of.
    a.run(&["stop"]).ok();
    for device in [&a, &b] {
        fs::remove_file(device.home.join("addresses.json")).expect("removed");
    }
    a.run(&["config", "set", "network.listen", "/ip4/127.0.0.1/udp/0/quic-v1"]).ok();
    a.start();
    let address = a.status()["listening"][0].as_str().expect("an address").to_owned();
    assert!(address.contains("/udp/"), "{address}");
    b.run(&["config", "set", "network.bootstrap", &address]).ok();
    b.start();
    until_status(&b, "they are connected", |status| status["peers"][0]["connected"] == true);
}

#[test]
fn the_log_is_put_aside_by_size_and_only_so_many_files_are_kept() {
    let world = World::new();
    let device = world.founder("a");
    for (key, value) in
        [("log.file_bytes", "4096"), ("log.files", "2"), ("log.level", "trace"), ("log.format", "json")]
    {
        device.run(&["config", "set", key, value]).ok();
    }
    let first = device.start();
    let logs = device.home.join("logs");
    support::until("the log was put aside three times", || {
        device.status();
        // The file of a log that was put aside twice over is gone.
        logs.join("ahenk.log.2").exists()
    });
    let kept = fs::read_to_string(logs.join("ahenk.log.1")).expect("a log");
    let line: serde_json::Value = serde_json::from_str(kept.lines().next().expect("a line")).expect("JSON");
    assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    let again = device.json(&["restart"]).json()["pid"].as_u64().expect("a process id");
    assert_ne!(first, again);
    device.run(&["stop"]).ok();
    for entry in fs::read_dir(&logs).expect("readable") {
        let entry = entry.expect("an entry");
        assert_eq!(entry.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        assert!(["ahenk.log", "ahenk.log.1", "ahenk.log.2"].contains(&&*entry.file_name().to_string_lossy()));
    }
}

#[test]
fn restart_starts_what_does_not_run_and_leaves_a_daemon_alone_when_settings_are_wrong() {
    let world = World::new();
    let device = world.founder("a");
    let pid = device.json(&["restart"]).json()["pid"].as_u64().expect("a process id");
    let path = device.home.join("config.toml");
    let good = fs::read_to_string(&path).expect("settings");
    fs::write(&path, "[network]\nmdns = 3\n").expect("written");
    assert!(device.json(&["restart"]).error(2, "usage").contains("network.mdns"));
    assert_eq!(device.status()["pid"], pid);
    fs::write(&path, good).expect("written");
}

#[test]
fn shells_complete_commands_and_settings_and_manual_pages_are_written() {
    let world = World::new();
    let device = world.device("a");
    assert!(device.run(&["completions", "bash"]).ok().stdout.contains("COMPLETE=\"bash\""));
    let complete = |words: &[&str]| {
        let mut command = device.command(&[&["--", "ahenk-cli"], words].concat());
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true").env("IFS", "\n");
        Ran::of(command.output().expect("it starts")).ok().stdout
    };
    assert!(complete(&["rest"]).lines().any(|word| word == "restart"));
    assert!(complete(&["config", "get", "network."]).lines().any(|word| word == "network.mdns"));
    let folder = world.path().join("man");
    device.run(&["man", &folder.display().to_string()]).ok();
    let page = fs::read_to_string(folder.join("ahenk-cli-put.1")).expect("a page");
    assert!(page.contains(".TH") && page.contains("ROW"), "{page}");
}
