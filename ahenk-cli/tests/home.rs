//! One device by itself: its home, its daemon, its errors.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

use support::{Device, LISTEN, Ran, World, until};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o777
}

#[test]
fn init_shows_a_phrase_of_24_words_and_a_second_one_is_refused() {
    let world = World::new();
    let device = world.device("a");
    let made = device.json(&["init", "--name", "laptop"]).json();
    assert_eq!(made["recovery_phrase"].as_str().expect("a phrase").split(' ').count(), 24);
    assert_eq!(made["name"], "laptop");
    let before = fs::read(device.home.join("device.key")).expect("a key");
    assert!(device.json(&["init"]).error(6, "conflict").contains("already a device"));
    assert_eq!(fs::read(device.home.join("device.key")).expect("a key"), before);
}

#[test]
fn init_does_not_touch_a_folder_that_holds_something_else() {
    let world = World::new();
    let device = world.device("a");
    fs::create_dir(&device.home).expect("made");
    fs::write(device.home.join("letter.txt"), "dear").expect("written");
    device.json(&["init"]).error(6, "conflict");
    assert_eq!(fs::read_dir(world.path()).expect("readable").count(), 1, "no leftovers beside it");
    assert_eq!(fs::read_dir(&device.home).expect("readable").count(), 1);
}

#[test]
fn every_command_without_a_home_says_so() {
    let world = World::new();
    let device = world.device("nowhere");
    for args in [
        &["status"][..],
        &["start"],
        &["start", "--daemon"],
        &["stop"],
        &["sync"],
        &["device", "list"],
        &["device", "invite"],
        &["peer", "list"],
        &["peer", "add", "/ip4/127.0.0.1/tcp/1"],
        &["get", "t", "r"],
        &["put", "t", "r", "a=1"],
    ] {
        let message = device.json(args).error(3, "not-found");
        assert!(message.contains("no device in"), "{args:?}: {message}");
    }
    assert!(!device.home.exists(), "asking made no folder");
}

#[test]
fn secrets_are_for_their_owner_only() {
    let world = World::new();
    let device = world.founder("a");
    device.start();
    assert_eq!(mode(&device.home), 0o700);
    assert_eq!(mode(&device.home.join("daemon.sock")), 0o600);
    for entry in fs::read_dir(&device.home).expect("readable") {
        let entry = entry.expect("an entry");
        assert_eq!(mode(&entry.path()) & 0o077, 0, "{}", entry.path().display());
    }
    let key = fs::read_to_string(device.home.join("device.key")).expect("a key");
    let digits = key.trim_end().rsplit(' ').next().expect("digits").to_owned();
    let log = fs::read_to_string(device.home.join("logs/ahenk.log")).expect("a log");
    assert!(!log.contains(&digits));
}

#[test]
fn a_second_daemon_says_that_there_is_one() {
    let world = World::new();
    let device = world.founder("a");
    let pid = device.start();
    for args in [&["start"][..], &["start", "--daemon"]] {
        let message = device.json(args).error(6, "conflict");
        assert!(message.contains("already running") && message.contains(&pid.to_string()), "{message}");
    }
    assert_eq!(device.status()["pid"], pid, "the first one still runs");
}

#[test]
fn what_a_killed_daemon_left_behind_is_dealt_with() {
    let world = World::new();
    let device = world.founder("a");
    let pid = device.start();
    device.run(&["put", "notes", "n", "text=before"]).ok();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs").success());
    assert!(device.home.join("daemon.sock").exists(), "a kill leaves the socket");
    // A look at the moment of its death may fail.
    until("the process is gone", || {
        let ran = device.json(&["status"]);
        ran.code == 0 && ran.stdout.contains("\"running\":false")
    });
    // A direct command works beside the stale socket, and so does a new daemon.
    assert_eq!(device.json(&["get", "notes", "n"]).json()["text"], "before");
    let again = device.start();
    assert_ne!(again, pid);
    assert_eq!(device.json(&["get", "notes", "n"]).json()["text"], "before");
}

#[test]
fn no_acknowledged_write_is_lost_when_the_daemon_is_killed_under_load() {
    let world = World::new();
    let device = world.founder("a");
    let pid = device.start();
    let home = device.home.clone();
    let writer = std::thread::spawn(move || {
        let world_device = Device { home, name: "a".to_owned() };
        let mut acknowledged = 0;
        for n in 0..1000 {
            let row = format!("r{n}");
            // After the kill, writes go to the store directly; the thread ends with the first refusal or at its count.
            if world_device.run(&["put", "t", &row, "a=1", "b=2"]).code != 0 || n > 60 {
                break;
            }
            acknowledged = n + 1;
        }
        std::mem::forget(world_device);
        acknowledged
    });
    until("some writes are there", || device.run(&["get", "t", "r5"]).code == 0);
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs").success());
    let acknowledged = writer.join().expect("the writer ends");
    assert!(acknowledged > 5);
    device.start();
    for n in 0..acknowledged {
        let row = device.json(&["get", "t", &format!("r{n}")]).json();
        assert_eq!((&row["a"], &row["b"]), (&1.into(), &2.into()), "row {n} is whole");
    }
}

#[test]
fn stop_is_graceful_and_says_when_there_is_nothing_to_stop() {
    let world = World::new();
    let device = world.founder("a");
    assert!(device.json(&["stop"]).error(4, "not-running").contains("not running"));
    let pid = device.start();
    assert_eq!(device.json(&["stop"]).json()["pid"], pid);
    assert!(!device.home.join("daemon.sock").exists(), "it tidied up");
    let log = fs::read_to_string(device.home.join("logs/ahenk.log")).expect("a log");
    assert!(log.contains("stopped"), "{log}");
    device.json(&["stop"]).error(4, "not-running");
}

#[test]
fn a_daemon_in_the_foreground_ends_gracefully_on_a_signal() {
    let world = World::new();
    let device = world.founder("a");
    for signal in ["-TERM", "-INT"] {
        let running = device.spawn(&["start"]);
        until("it answers", || device.status()["running"] == true);
        let pid = running.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
        let ran = running.wait().ok();
        assert!(ran.stderr.contains("stopped"), "{}", ran.stderr);
        assert!(!device.home.join("daemon.sock").exists());
    }
}

#[test]
fn commands_do_the_same_with_the_daemon_and_without() {
    let world = World::new();
    let device = world.founder("a");
    device.run(&["put", "t", "r", "a=1"]).ok();
    let without = device.json(&["get", "t", "r"]).json();
    let missing_without = device.json(&["get", "t", "x"]).error(3, "not-found");
    device.start();
    assert_eq!(device.json(&["get", "t", "r"]).json(), without);
    assert_eq!(device.json(&["get", "t", "x"]).error(3, "not-found"), missing_without);
    let long = "k".repeat(600);
    device.json(&["put", "t", &long, "a=1"]).error(2, "usage");
}

#[test]
fn a_process_that_holds_the_lock_is_named() {
    let world = World::new();
    let device = world.founder("a");
    let lock = fs::File::create(device.home.join("daemon.lock")).expect("a file");
    lock.lock().expect("locked");
    fs::write(device.home.join("daemon.lock"), "4242 another command\n").expect("written");
    let message = device.json(&["status"]).error(6, "conflict");
    assert!(message.contains("another command, process 4242"), "{message}");
    drop(lock);
    device.status();
}

#[test]
fn a_setting_that_does_not_exist_is_an_error_that_names_it() {
    let world = World::new();
    let device = world.founder("a");
    let path = device.home.join("config.toml");
    let good = fs::read_to_string(&path).expect("settings");
    for (bad, named) in
        [("colour = 3\n", "colour"), ("[network]\nmdns = \"yes\"\n", "mdns"), ("listen = [\n", "config.toml")]
    {
        fs::write(&path, bad).expect("written");
        for args in [&["start"][..], &["start", "--daemon"], &["sync"]] {
            let ran = device.json(args);
            let members = args == ["sync"];
            let message = ran.error(2, "usage");
            assert!(message.contains(named), "{message}, {members}");
        }
    }
    fs::write(&path, "[network]\nlisten = [\"/ip4/127.0.0.1/sctp/1\"]\nmdns = false\n").expect("written");
    device.json(&["start"]).error(2, "usage");
    fs::write(&path, good).expect("written");
    device.start();
}

#[test]
fn a_damaged_or_missing_file_is_an_error_and_is_left_as_it_is() {
    let world = World::new();
    let device = world.founder("a");
    device.run(&["put", "t", "r", "a=1"]).ok();
    let database = device.home.join("ahenk.redb");
    let good = fs::read(&database).expect("a database");
    fs::write(&database, b"not a database").expect("written");
    device.json(&["get", "t", "r"]).error(8, "storage");
    device.json(&["start", "--daemon"]).error(8, "storage");
    assert_eq!(fs::read(&database).expect("still there"), b"not a database");
    fs::remove_file(&database).expect("removed");
    device.json(&["get", "t", "r"]).error(8, "storage");
    assert!(!database.exists(), "no empty database takes its place");
    fs::write(&database, &good).expect("restored");
    assert_eq!(device.json(&["get", "t", "r"]).json()["a"], 1);
    let key = device.home.join("device.key");
    let text = fs::read_to_string(&key).expect("a key");
    fs::write(&key, &text[..40]).expect("written");
    let message = device.json(&["status"]).error(8, "storage");
    assert!(message.contains("device.key"), "{message}");
    assert!(!message.contains(&text[12..40]), "no part of a key is shown");
}

#[test]
fn a_socket_of_something_else_is_no_daemon_for_long() {
    let world = World::new();
    let device = world.founder("a");
    let socket = device.home.join("daemon.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let answering = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut stream = listener.accept().expect("a client").0;
        let _ = stream.write_all(b"{\"v\":99,\"body\":{}}\n");
    });
    let message = device.json(&["status"]).error(6, "conflict");
    assert!(message.contains("another version"), "{message}");
    answering.join().expect("answered");
    // Its listener is gone: the socket is stale.
    device.status();
}

#[test]
fn commands_given_while_the_daemon_stops_are_carried_out() {
    let world = World::new();
    let device = world.founder("a");
    for round in 0..3 {
        device.start();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                for n in 0..12 {
                    device.run(&["put", "t", &format!("r{round}-{n}"), "a=1"]).ok();
                }
            });
            device.run(&["stop"]).ok();
            writing.join().expect("every write was taken");
        });
    }
    assert_eq!(device.json(&["count", "t"]).json()["rows"], 36);
}

#[test]
fn a_daemon_whose_socket_is_gone_is_named_and_can_be_stopped() {
    let world = World::new();
    let device = world.founder("a");
    let pid = device.start();
    fs::remove_file(device.home.join("daemon.sock")).expect("removed");
    let message = device.json(&["get", "t", "r"]).error(6, "conflict");
    assert!(message.contains(&format!("process {pid}")) && message.contains("socket"), "{message}");
    assert_eq!(device.json(&["stop"]).json()["pid"], pid);
    device.run(&["put", "t", "r", "a=1"]).ok();
}

#[test]
fn a_suspended_daemon_hangs_no_command() {
    let world = World::new();
    let device = world.founder("a");
    let pid = device.start();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs");
        assert!(sent.success());
    };
    signal("-STOP");
    let message = device.json(&["get", "t", "r"]).error(6, "conflict");
    assert!(message.contains("does not answer"), "{message}");
    signal("-CONT");
    assert_eq!(device.status()["pid"], pid);
}

#[test]
fn what_start_would_refuse_init_refuses() {
    let world = World::new();
    let device = world.device("a");
    for bad in ["/ip4/0.0.0.0/udp/4001", "/dns4/localhost/tcp/1", "0.0.0.0:4001"] {
        let message = device.json(&["init", "--listen", bad]).error(2, "usage");
        assert!(message.contains("--listen"), "{message}");
    }
    assert!(!device.home.exists());
}

#[test]
fn a_home_that_cannot_be_looked_into_is_not_taken_for_an_empty_one() {
    let world = World::new();
    fs::write(world.path().join("file"), "no folder").expect("written");
    let device = Device { home: world.path().join("file").join("home"), name: "a".into() };
    device.json(&["status"]).error(8, "storage");
    let ran = device.command(&["--json", "status"]).env("AHENK_HOME", "").env("HOME", world.path()).output();
    let ran = Ran::of(ran.expect("the program starts"));
    let message = ran.error(3, "not-found");
    assert!(message.contains("no device in"), "an empty variable is none: {message}");
}

#[test]
fn a_copied_home_says_so() {
    let world = World::new();
    let device = world.founder("a");
    device.run(&["put", "t", "r", "a=1"]).ok();
    let copy = world.device("copy");
    fs::create_dir(&copy.home).expect("made");
    for entry in fs::read_dir(&device.home).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_file() {
            fs::copy(&path, copy.home.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
    assert!(device.status()["copied_ms"].is_null());
    assert!(copy.status()["copied_ms"].is_u64());
    assert!(copy.run(&["status"]).ok().stdout.contains("a device key is for one machine"));
}

#[test]
fn a_mistyped_command_line_is_a_usage_error_in_json_too() {
    let world = World::new();
    let device = world.device("a");
    device.json(&["frobnicate"]).error(2, "usage");
    assert!(device.json(&["put", "t"]).error(2, "usage").contains("<ROW>"));
    assert_eq!(device.run(&["put", "t"]).code, 2);
    assert_eq!(device.run(&["--help"]).code, 0);
    let help = device.run(&["--help"]).ok().stdout;
    assert!(help.contains("Exit codes") && help.contains("not authorised"), "{help}");
    let device = world.founder("b");
    device.json(&["put", "t", "r", "novalue"]).error(2, "usage");
    device.json(&["init", "--name", "\u{7}", "--listen", LISTEN]).error(6, "conflict");
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let world = World::new();
    let device = world.founder("a");
    let mut command = device.command(&["status"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn commands_that_run_at_one_time_without_a_daemon_wait_for_each_other() {
    let world = World::new();
    let device = world.founder("a");
    let writes: Vec<_> = (0..16)
        .map(|n| {
            let row = format!("r{n}");
            device
                .command(&["put", "t", &row, "x=1"])
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("started")
        })
        .collect();
    for write in writes {
        let ended = write.wait_with_output().expect("it ends");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(device.run(&["list", "t"]).ok().stdout.lines().count(), 16);
}

#[test]
fn an_account_whose_recovery_phrase_cannot_be_shown_does_not_come_to_be() {
    let world = World::new();
    let device = world.device("a");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
    let ended = device.command(&["init"]).stdout(full).output().expect("it ends");
    assert!(!ended.status.success());
    assert_eq!(fs::read_dir(world.path()).expect("readable").count(), 0, "something was left behind");
}

#[test]
fn a_home_that_is_too_long_for_a_socket_is_refused_before_anything_is_made() {
    let world = World::new();
    let device = world.device(&"long".repeat(40));
    device.json(&["init"]).error(2, "usage");
    assert_eq!(fs::read_dir(world.path()).expect("readable").count(), 0);
}
