//! A daemon in daily use: its log, what it logs, the service that starts it, and waiting for it to be in sync.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value as Json;
use support::{Device, Ran, World, until};

fn lines(ran: Ran) -> Vec<Json> {
    ran.ok().stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn logs_shows_the_newest_records_of_a_level_and_follows_what_comes() {
    let world = World::new();
    let device = world.founder("a");
    assert!(device.json(&["logs"]).error(3, "not-found").contains("no log"));
    for format in ["full", "pretty", "json", "compact"] {
        device.run(&["config", "set", "log.format", format]).ok();
        device.run(&["restart"]).ok();
        let newest = lines(device.json(&["logs", "--level", "info", "--lines", "2"]));
        assert_eq!(newest.len(), 2, "{format}: {newest:?}");
        assert!(newest.iter().all(|record| record["level"] == "info"), "{format}: {newest:?}");
        let said = newest.iter().any(|record| {
            record["message"].as_str().is_some_and(|text| text.contains("the daemon is running"))
        });
        assert!(said, "{format}: {newest:?}");
    }
    assert!(lines(device.json(&["logs", "--level", "error"])).is_empty(), "nothing went wrong");
    let mut following = device.spawn(&["--json", "logs", "--follow", "--lines", "0"]);
    device.run(&["log", "set", "debug"]).ok();
    let id = following.child.id().to_string();
    // Each call leaves something in the log of that level.
    until("a record comes", || {
        device.status();
        fs::read_to_string(device.home.join("logs/ahenk.log")).is_ok_and(|log| log.contains("DEBUG"))
    });
    while following.next()["level"] != "debug" {}
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
    following.wait().ok();
}

#[test]
fn log_set_changes_what_a_running_daemon_logs_until_it_ends() {
    let world = World::new();
    let device = world.founder("a");
    device.json(&["log", "set", "debug"]).error(4, "not-running");
    device.start();
    let level = |device: &Device| device.json(&["log", "get"]).json()["level"].clone();
    let usual = level(&device);
    assert_eq!(device.json(&["log", "set", "off"]).json()["level"], "off");
    let size = || fs::metadata(device.home.join("logs/ahenk.log")).expect("a log").len();
    let before = size();
    device.json(&["log", "set", "loud"]).error(2, "usage");
    assert_eq!((size(), level(&device)), (before, "off".into()), "it logs nothing");
    assert_eq!(device.json(&["log", "set", "warn,ahenk_cli=trace"]).json()["level"], "warn,ahenk_cli=trace");
    device.run(&["log", "set", "trace"]).ok();
    until("it logs more", || {
        device.status();
        size() > before
    });
    device.json(&["log", "set", "default"]).json();
    assert_eq!(level(&device), usual);
    device.run(&["log", "set", "off"]).ok();
    device.run(&["restart"]).ok();
    assert_eq!(level(&device), usual);
}

#[test]
#[cfg(target_os = "linux")]
fn a_daemon_in_the_background_outlives_the_terminal_it_was_started_from() {
    let world = World::new();
    let device = world.founder("a");
    let pid = device.start();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // After the name, which may hold anything: state, parent, group, session, terminal.
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    assert_eq!((fields[3], fields[4]), (pid.to_string().as_str(), "0"), "a session of its own, no terminal");
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).expect("open"), PathBuf::from("/dev/null"));
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("a folder"), PathBuf::from("/"));
}

/// A home of a user, and programs that stand in for the system's.
struct User {
    device: Device,
    home: PathBuf,
    programs: PathBuf,
}

impl User {
    fn new(world: &World, systemctl: Option<&str>) -> User {
        let (home, programs) = (world.path().join("user"), world.path().join("programs"));
        for folder in [&home, &programs] {
            fs::create_dir(folder).expect("made");
        }
        if let Some(script) = systemctl {
            let path = programs.join("systemctl");
            fs::write(&path, format!("#!/bin/sh\necho \"$@\" >> {}/asked\n{script}\n", home.display()))
                .expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        User { device: world.founder("a"), home, programs }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.device.command(&[&["--json"], args].concat());
        let command =
            command.env("HOME", &self.home).env_remove("XDG_CONFIG_HOME").env("PATH", &self.programs);
        Ran::of(command.output().expect("it starts"))
    }

    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.home.join("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
#[cfg(target_os = "linux")]
fn service_install_writes_the_unit_and_has_systemd_start_it_and_uninstall_undoes_that() {
    let world = World::new();
    let user = User::new(&world, Some("exit 0"));
    let printed = user.run(&["service", "print"]).json();
    assert!(!user.home.join(".config").exists(), "print only prints");
    let installed = user.run(&["service", "install"]).json();
    let (file, name) =
        (installed["file"].as_str().expect("a file"), installed["name"].as_str().expect("a name"));
    assert_eq!(fs::read_to_string(file).expect("a unit"), printed["text"].as_str().expect("text"));
    assert!(file.starts_with(&user.home.join(".config/systemd/user").display().to_string()), "{file}");
    assert_eq!(installed["started"], true);
    let expected = [
        "--user daemon-reload".to_owned(),
        format!("--user enable {name}"),
        format!("--user restart {name}"),
    ];
    assert_eq!(user.asked(), expected);
    // Again is fine: it is ours.
    user.run(&["service", "install", "--no-start"]).json();
    assert_eq!(user.asked().len(), 3, "nothing was started");
    user.run(&["service", "uninstall"]).json();
    assert!(!PathBuf::from(file).exists());
    assert_eq!(
        user.asked()[3..],
        [format!("--user disable --now {name}"), "--user daemon-reload".to_owned()]
    );
    user.run(&["service", "uninstall"]).error(3, "not-found");
    fs::write(file, "[Unit]\nDescription=mine\n").expect("written");
    user.run(&["service", "install"]).error(6, "conflict");
    assert!(fs::read_to_string(file).expect("there").contains("mine"));
    user.run(&["service", "install", "--force"]).json();
    assert!(!fs::read_to_string(file).expect("there").contains("mine"));
}

#[test]
#[cfg(target_os = "linux")]
fn without_systemd_service_install_says_what_to_do_and_a_failure_of_it_is_told() {
    let world = World::new();
    let user = User::new(&world, None);
    let installed = user.run(&["service", "install"]).json();
    assert_eq!(installed["started"], false);
    let commands = installed["commands"].as_array().expect("commands");
    assert!(commands.iter().any(|command| command.as_str().is_some_and(|text| text.contains("enable"))));
    drop(world);
    let world = World::new();
    let user = User::new(&world, Some("echo 'no bus' >&2; exit 1"));
    assert!(user.run(&["service", "install"]).error(4, "not-running").contains("no bus"));
}

#[test]
fn the_service_runs_what_the_unit_says_and_logs_to_the_file() {
    let world = World::new();
    let device = world.founder("a");
    let text = device.json(&["service", "print", "--kind", "systemd"]).json()["text"].clone();
    let text = text.as_str().expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let mut daemon = Command::new("sh")
        .args(["-c", &format!("exec {line}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts");
    until("it answers", || device.home.join("daemon.sock").exists() && device.status()["running"] == true);
    assert_eq!(device.status()["pid"], daemon.id());
    device.run(&["stop"]).ok();
    assert!(
        daemon.wait().expect("it ends").success(),
        "a stop is no failure, after which it would be restarted"
    );
    assert!(!lines(device.json(&["logs"])).is_empty());
    let plist = device.json(&["service", "print", "--kind", "launchd"]).json();
    assert!(plist["name"].as_str().is_some_and(|name| name.ends_with(".plist")));
    assert!(plist["text"].as_str().is_some_and(|text| text.contains("<string>--log-to-file</string>")));
}

#[test]
fn wait_returns_when_it_is_so_and_fails_when_the_time_is_up() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.json(&["wait"]).error(2, "usage");
    a.admit(&b);
    a.start();
    let late = a.json(&["wait", "--peer", "b", "--timeout", "1"]).error(7, "network");
    assert!(late.contains("not connected to b"), "{late}");
    let late = a.json(&["wait", "--synced", "--timeout", "1"]).error(7, "network");
    assert!(late.contains("no other device is connected"), "{late}");
    a.json(&["wait", "--peer", "nobody"]).error(3, "not-found");
    a.json(&["wait", "--peer", "a"]).error(2, "usage");
    let waiting = a.spawn(&["--json", "wait", "--synced", "--peer", "b", "--timeout", "60"]);
    b.start();
    let done: Json = serde_json::from_str(waiting.wait().ok().stdout.trim()).expect("JSON");
    assert_eq!(done["peers"], serde_json::json!(["b"]));
    a.run(&["put", "t", "r", "x=1"]).ok();
    a.json(&["wait", "--synced"]).json();
    assert_eq!(b.run(&["get", "t", "r", "x"]).ok().stdout.trim(), "1");
    // Without a daemon it connects by itself.
    a.run(&["stop"]).ok();
    let id = a.json(&["device", "list"]).json();
    let id = id.as_array().expect("a list").iter().find(|one| one["name"] == "b").expect("b")["id"].clone();
    let begin = &id.as_str().expect("text")[..8];
    assert_eq!(a.json(&["wait", "--peer", begin]).json()["peers"], serde_json::json!(["b"]));
}

#[test]
fn an_id_may_be_cut_short_unless_that_fits_several_which_are_named() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    let devices = a.json(&["device", "list"]).json();
    let ids: Vec<&str> =
        devices.as_array().expect("a list").iter().map(|one| one["id"].as_str().expect("text")).collect();
    let shared = (0..).find(|&n| ids[0][..=n] != ids[1][..=n]).expect("they differ");
    for id in &ids {
        let renamed = a.json(&["device", "rename", &id[..=shared], "c"]).json();
        assert_eq!(renamed["device"], **id);
    }
    // Now both are called so.
    for args in [&["device", "rename", "c", "d"][..], &["device", "revoke", "c", "--yes"]] {
        let message = a.json(args).error(2, "usage");
        assert!(ids.iter().all(|id| message.contains(id)), "{message}");
    }
    let begun = a.json(&["oplog", "--device", &ids[1][..=shared]]).ok();
    assert_eq!(begun.code, 0);
    a.json(&["oplog", "--device", "zz"]).error(3, "not-found");
    a.run(&["device", "rename", ids[1], "laptop"]).ok();
    let ran = a.run(&["device", "rename", "labtop", "x"]);
    assert!(ran.code == 3 && ran.stderr.contains("did you mean `laptop`"), "{}", ran.stderr);
    // A revoked device does not stand in the way of the one that took its name.
    a.run(&["device", "revoke", ids[1], "--yes"]).ok();
    let again = Device { home: world.path().join("again"), name: "laptop".into() };
    a.admit(&again);
    let new = again.status()["device"].clone();
    assert_eq!(a.json(&["device", "rename", "laptop", "desk"]).json()["device"], new);
}

#[test]
fn a_mistyped_table_is_answered_with_the_one_that_was_meant() {
    let world = World::new();
    let device = world.founder("a");
    device.run(&["put", "tasks", "t1", "a=1"]).ok();
    for args in
        [&["get", "tsks", "t1"][..], &["delete", "tasts", "t1"], &["list", "task"], &["count", "Tasks"]]
    {
        let ran = device.run(args);
        assert!(ran.stderr.contains("did you mean `tasks`"), "{args:?}: {}", ran.stderr);
    }
    let ran = device.run(&["get", "tasks", "t9"]);
    assert!(ran.code == 3 && !ran.stderr.contains("did you mean"), "{}", ran.stderr);
    assert!(device.run(&["--quiet", "list", "task"]).ok().stderr.is_empty());
}

#[test]
fn what_is_shown_fits_a_terminal_80_wide_but_for_paths_and_addresses() {
    let world = World::new();
    let (a, b) = (world.founder("laptop"), world.device("phone"));
    a.admit(&b);
    a.start();
    b.start();
    until("they are connected", || a.status()["peers"][0]["in_sync"] == true);
    a.run(&["put", "tasks", "t1", "title=Tea"]).ok();
    let home = a.home.display().to_string();
    for args in [
        &["status"][..],
        &["device", "list"],
        &["peer", "list"],
        &["account", "show"],
        &["stats"],
        &["info"],
        &["doctor"],
        &["config", "list"],
        &["oplog"],
        &["history", "tasks", "t1"],
        &["explain", "tasks", "t1"],
        &["verify"],
    ] {
        let shown = a.run(args).ok().stdout;
        let wide = shown.lines().filter(|line| line.chars().count() > 80);
        let wide: Vec<&str> = wide.filter(|line| !line.contains(&home) && !line.contains("/ip4/")).collect();
        assert!(wide.is_empty(), "{args:?}: {wide:#?}");
    }
    let id = a.status()["peers"][0]["id"].as_str().expect("text").to_owned();
    let listed = a.run(&["device", "list"]).ok().stdout;
    assert!(listed.contains(&id[..8]) && !listed.contains(&id), "the beginning of an id will do: {listed}");
}

#[test]
fn shells_complete_tables_and_devices_with_the_daemon_and_without() {
    let world = World::new();
    let (a, b) = (world.founder("laptop"), world.device("phone"));
    a.admit(&b);
    a.run(&["put", "tasks", "t1", "a=1"]).ok();
    let complete = |words: &[&str]| {
        let mut command = a.command(&[&["--", "ahenk-cli"], words].concat());
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true").env("IFS", "\n");
        let ran = Ran::of(command.output().expect("it starts")).ok();
        ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for running in [false, true] {
        if running {
            a.start();
        }
        for words in [&["get", "t"][..], &["history", ""], &["export", "--table", "ta"]] {
            assert!(complete(words).contains(&"tasks".to_owned()), "{words:?}, {running}");
        }
        assert_eq!(complete(&["device", "revoke", "p"]), ["phone"]);
        assert_eq!(complete(&["verify", "--peer", ""]), ["phone"], "a device is no peer of its own");
        assert!(complete(&["oplog", "--device", ""]).contains(&"laptop".to_owned()));
    }
    let elsewhere = world.path().join("nowhere").display().to_string();
    assert!(!complete(&["--home", &elsewhere, "get", ""]).contains(&"tasks".to_owned()));
}
