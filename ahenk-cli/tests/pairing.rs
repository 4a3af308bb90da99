//! Two devices and more: pairing with all its outcomes, and what comes after it.

mod support;

use std::fs;

use serde_json::Value as Json;
use support::{Device, World, until, until_status, wrong};

fn names(device: &Device) -> Vec<String> {
    let devices = device.json(&["device", "list"]).json();
    let name = |device: &Json| device["name"].as_str().expect("a name").to_owned();
    devices.as_array().expect("a list").iter().map(name).collect()
}

fn digest(device: &Device) -> String {
    device.status()["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn two_devices_without_daemons_pair_by_a_long_code_and_the_data_is_there() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.run(&["put", "tasks", "t1", "title=tea"]).ok();
    a.admit(&b);
    assert_eq!(b.json(&["get", "tasks", "t1"]).json()["title"], "tea");
    assert_eq!((names(&a), names(&b)), (vec!["a".into(), "b".into()], vec!["b".into(), "a".into()]));
    assert_eq!(digest(&a), digest(&b));
    assert!(!b.home.join("account.key").exists(), "the root key stays with the administrator");
    let leftovers = fs::read_dir(world.path()).expect("readable").count();
    assert_eq!(leftovers, 2, "two homes and nothing else");
}

#[test]
fn pairing_through_the_daemon_asks_and_a_write_appears_on_the_other_side_live() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.start();
    let mut inviting = a.spawn(&["--json", "device", "invite"]);
    let code = inviting.code();
    let joining = std::thread::scope(|scope| {
        let joining = scope.spawn(|| b.join(&code));
        let confirm = inviting.next();
        assert_eq!((&confirm["event"], &confirm["name"]), (&"confirm".into(), &"b".into()));
        inviting.say("y");
        let joined = joining.join().expect("it ends").json();
        assert_eq!(joined["fingerprint"], confirm["fingerprint"]);
        joined
    });
    assert_eq!((&joining["synced"], &joining["inviter"]), (&true.into(), &"a".into()));
    inviting.wait().ok();
    b.start();
    until_status(&a, "both are connected", |status| status["peers"][0]["in_sync"] == true);
    a.run(&["put", "tasks", "t1", "title=tea"]).ok();
    until("the write arrives", || b.run(&["get", "tasks", "t1"]).code == 0);
    b.run(&["put", "tasks", "t1", "title=coffee"]).ok();
    until("and back", || a.json(&["get", "tasks", "t1", "title"]).stdout.trim() == "\"coffee\"");
    let peers = a.json(&["peer", "list", "--verbose"]).json();
    assert_eq!((&peers[0]["name"], &peers[0]["path"]), (&"b".into(), &"direct-tcp".into()));
    a.json(&["sync"]).json();
    assert_eq!(digest(&a), digest(&b));
}

#[test]
fn a_declined_device_is_told_so_and_leaves_nothing_behind() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    let mut inviting = a.spawn(&["--json", "device", "invite"]);
    let code = inviting.code();
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| b.join(&code));
        assert_eq!(inviting.next()["event"], "confirm");
        inviting.say("n");
        let message = joining.join().expect("it ends").error(5, "not-authorised");
        assert!(message.contains("declined"), "{message}");
    });
    assert!(inviting.wait().error(5, "not-authorised").contains("declined"));
    assert_eq!(fs::read_dir(world.path()).expect("readable").count(), 1, "only the inviter's home");
    assert_eq!(names(&a), ["a"]);
}

#[test]
fn a_wrong_code_is_told_on_both_sides_and_three_of_them_end_the_offer() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes"]);
    let code = inviting.code();
    for left in [2, 1, 0] {
        let message = b.join(&wrong(&code)).error(5, "not-authorised");
        assert!(message.contains("code does not match"), "{message}");
        let attempt = inviting.next();
        assert_eq!((&attempt["event"], &attempt["attempts_left"]), (&"attempt".into(), &left.into()));
        assert!(attempt["reason"].as_str().expect("a reason").contains("code does not match"), "{attempt}");
    }
    assert!(inviting.wait().error(5, "not-authorised").contains("too often"));
    let message = b.join(&code).error(7, "network");
    assert!(message.contains("cannot reach"), "{message}");
    assert!(!b.home.exists());
}

#[test]
fn a_code_with_another_number_costs_no_attempt_and_the_right_one_still_works() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes"]);
    let code = inviting.code();
    let other = if code.starts_with("10") { "11" } else { "10" };
    let message = b.join(&format!("{other}{}", &code[2..])).error(3, "not-found");
    assert!(message.contains("no invitation with this number"), "{message}");
    let attempt = inviting.next();
    assert_eq!(attempt["attempts_left"], 3, "{attempt}");
    b.join(&code).ok();
    inviting.wait().ok();
}

#[test]
fn a_code_admits_one_device_only() {
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
    a.start();
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes"]);
    let code = inviting.code();
    b.join(&code).ok();
    inviting.wait().ok();
    let message = c.join(&code).error(3, "not-found");
    assert!(message.contains("not waiting"), "{message}");
    // A later offer does not know the old code either.
    let mut again = a.spawn(&["--json", "device", "invite", "--yes"]);
    let new = again.code();
    assert_ne!(new, code);
    assert_ne!(c.join(&code).code, 0);
    assert!(!c.home.exists());
}

#[test]
fn a_code_that_has_expired_admits_nobody_and_both_sides_are_told() {
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
    a.start();
    // Nobody answers whether to admit it, until the offer has expired and the time to answer as well.
    let mut inviting = a.spawn(&["--json", "device", "invite", "--expires", "2"]);
    let item = inviting.next();
    let (code, left) = (item["long_code"].as_str().expect("a code"), item["expires_in_ms"].as_u64());
    assert!(left.expect("a number") <= 2_000, "{item}");
    let message = inviting.wait().error(6, "conflict");
    assert!(message.contains("expired"), "{message}");
    let message = b.join(code).error(3, "not-found");
    assert!(message.contains("not waiting"), "{message}");
    assert!(!b.home.exists());
    // A device that begins in time and is too slow is told the same as the one that waits for it.
    let mut inviting = a.spawn(&["--json", "device", "invite", "--expires", "1", "--yes"]);
    let code = inviting.code();
    c.join(&wrong(&code)).error(5, "not-authorised");
    assert_eq!(inviting.next()["event"], "attempt");
    assert!(inviting.wait().error(6, "conflict").contains("expired"));
    assert_ne!(c.join(&code).code, 0);
    assert!(!c.home.exists());
    assert_eq!(names(&a), ["a"]);
}

#[test]
fn a_second_invitation_at_a_time_is_refused_and_cancelling_frees_the_place() {
    let world = World::new();
    let a = world.founder("a");
    a.start();
    let mut first = a.spawn(&["--json", "device", "invite", "--yes"]);
    first.code();
    assert!(a.json(&["device", "invite", "--yes"]).error(6, "conflict").contains("another invitation"));
    drop(first);
    let mut second = None;
    until("the place is free", || {
        let mut running = a.spawn(&["--json", "device", "invite", "--yes"]);
        let mut line = String::new();
        use std::io::BufRead as _;
        running.stdout().read_line(&mut line).expect("readable");
        let free = line.contains("code");
        second = Some(running);
        free
    });
}

#[test]
fn only_an_administrator_invites_and_the_others_say_who_that_is() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    let ran = b.run(&["device", "invite", "--yes"]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("run this on a"), "{}", ran.stderr);
}

#[test]
fn nonsense_instead_of_a_code_is_a_usage_error_and_is_not_repeated() {
    let world = World::new();
    let b = world.device("b");
    for bad in ["", "hello", "42-only-two", "42-zoo-zoo-xyzzy", "42-zoo-zoo-zoo@"] {
        let message = b.join(bad).error(2, "usage");
        assert!(bad.is_empty() || !message.contains("xyzzy"), "{message}");
    }
    // Without discovery a short code leads nowhere.
    b.join("42-zoo-zoo-zoo").error(2, "usage");
    b.join("42-zoo-zoo-zoo@/ip4/127.0.0.1/tcp/1").error(7, "network");
    assert_eq!(fs::read_dir(world.path()).expect("readable").count(), 0);
}

#[test]
fn a_device_of_another_account_is_refused_in_words() {
    let world = World::new();
    let (a, stranger) = (world.founder("a"), world.founder("stranger"));
    a.start();
    stranger.start();
    let address = stranger.status()["listening"][0].as_str().expect("an address").to_owned();
    let message = a.json(&["peer", "add", &address]).error(5, "not-authorised");
    assert!(message.contains("not one of this account") && message.contains("another account"), "{message}");
    assert_eq!(a.json(&["peer", "list"]).json(), serde_json::json!([]));
    // Addresses that cannot work.
    a.json(&["peer", "add", "somewhere"]).error(2, "usage");
    a.json(&["peer", "add", "/ip4/127.0.0.1/tcp/1"]).error(7, "network");
    let own = a.status()["listening"][0].as_str().expect("an address").to_owned();
    assert!(a.json(&["peer", "add", &own]).error(2, "usage").contains("this device itself"));
}

#[test]
fn devices_find_each_other_again_after_restarts_and_offline_writes_meet() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    a.run(&["put", "t", "from-a", "x=1"]).ok();
    b.run(&["put", "t", "from-b", "x=2"]).ok();
    a.start();
    // One side with a daemon, the other without: the command brings its own network.
    let synced = b.json(&["sync", "--timeout", "30"]).json();
    assert_eq!(synced["peers"], 1);
    assert_eq!(a.json(&["get", "t", "from-b"]).json()["x"], 2);
    assert_eq!(b.json(&["get", "t", "from-a"]).json()["x"], 1);
    b.start();
    a.run(&["stop"]).ok();
    b.run(&["put", "t", "later", "x=3"]).ok();
    a.start();
    until("the write arrives after a restart", || a.run(&["get", "t", "later"]).code == 0);
    assert_eq!(digest(&a), digest(&b));
}

#[test]
fn sync_without_anybody_there_says_so() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.json(&["sync", "--timeout", "1"]).error(3, "not-found");
    a.admit(&b);
    a.json(&["sync", "--timeout", "1"]).error(7, "network");
}

#[test]
fn sync_says_how_many_of_the_devices_it_reached() {
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
    a.admit(&b);
    a.admit(&c);
    b.start();
    a.start();
    until_status(&a, "b is there", |status| {
        status["peers"].as_array().is_some_and(|peers| peers.iter().any(|peer| peer["in_sync"] == true))
    });
    let synced = a.json(&["sync"]).json();
    assert_eq!((&synced["peers"], &synced["devices"]), (&1.into(), &2.into()));
    assert!(a.run(&["sync"]).ok().stdout.contains("1 of 2 devices"));
}

#[test]
fn a_second_device_of_one_name_is_remarked_upon() {
    let world = World::new();
    let (a, b) = (world.founder("a"), Device { home: world.path().join("b"), name: "a".into() });
    let mut inviting = a.spawn(&["--json", "device", "invite"]);
    let code = inviting.code();
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| b.join(&code));
        assert_eq!(inviting.next()["same_name"], true);
        inviting.say("y");
        joining.join().expect("it ends").ok();
    });
    inviting.wait().ok();
}

#[test]
fn an_address_that_was_added_is_remembered() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    a.start();
    let address = a.status()["listening"][0].as_str().expect("an address").to_owned();
    fs::remove_file(b.home.join("addresses.json")).expect("there");
    b.json(&["sync", "--timeout", "1"]).error(7, "network");
    assert_eq!(b.json(&["peer", "add", &address]).json()["name"], "a");
    assert_eq!(b.json(&["sync"]).json()["peers"], 1);
}

#[test]
fn a_daemon_survives_a_damaged_memory_of_addresses() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    fs::write(b.home.join("addresses.json"), "{\"peers\": 7").expect("written");
    b.start();
    a.start();
    let address = a.status()["listening"][0].as_str().expect("an address").to_owned();
    b.json(&["peer", "add", &address]).json();
    until_status(&a, "they meet", |status| status["peers"][0]["connected"] == true);
}

#[test]
fn joining_where_a_device_is_already_is_refused_before_the_code_is_spent() {
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.founder("b"), world.device("c"));
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes"]);
    let code = inviting.code();
    b.join(&code).error(6, "conflict");
    c.join(&code).ok();
    inviting.wait().ok();
}

#[test]
fn an_address_for_the_code_that_nobody_can_call_is_refused() {
    let world = World::new();
    let a = world.founder("a");
    for bad in ["here", "/ip4/192.0.2.1", "/ip4/192.0.2.1/tcp/0", "/ip4/192.0.2.1/tcp/70000"] {
        a.json(&["device", "invite", "--address", bad]).error(2, "usage");
    }
    let mut inviting =
        a.spawn(&["--json", "device", "invite", "--address", "/dns4/home.example.org/tcp/4001"]);
    assert!(inviting.code().ends_with("@/dns4/home.example.org/tcp/4001"));
}

#[test]
fn devices_that_listen_with_quic_only_pair_and_sync_over_it() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let listen = ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--no-mdns"];
    a.run(&[&["init", "--name", "a"][..], &listen].concat()).ok();
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes"]);
    let code = inviting.code();
    let args = [&["--json", "device", "join", "--name", "b"][..], &listen].concat();
    assert_eq!(b.run_with_input(&args, &code).json()["synced"], true);
    inviting.wait().ok();
    assert_eq!(names(&b)[0], "b");
    // Where the flag is not given, it looks for others by itself.
    let mdns = |device: &Device| device.json(&["config", "get", "network.mdns"]).json()["value"].clone();
    assert_eq!(mdns(&b), Json::from(false));
    let usual = world.device("usual");
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes"]);
    let args = ["--json", "device", "join", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
    usual.run_with_input(&args, &inviting.code()).ok();
    inviting.wait().ok();
    assert_eq!(mdns(&usual), Json::from(true));
    a.start();
    b.start();
    until("they meet", || {
        let peers = b.json(&["peer", "list"]).json();
        let of_a = peers.as_array().expect("peers").iter().find(|peer| peer["name"] == "a").expect("listed");
        of_a["path"] == "direct-quic"
    });
}

#[test]
fn status_is_shown_again_when_something_changes_at_the_next_look() {
    let world = World::new();
    let a = world.founder("a");
    a.start();
    let mut watching = a.spawn(&["--json", "status", "--watch"]);
    let mut rarely = a.spawn(&["--json", "status", "--watch", "--interval", "3600"]);
    let first = watching.next();
    assert_eq!(rarely.next()["position"], first["position"]);
    a.run(&["put", "t", "r", "a=1"]).ok();
    let second = watching.next();
    assert_eq!(second["position"].as_u64(), first["position"].as_u64().map(|position| position + 1));
    assert_ne!(second["digest"], first["digest"]);
    rarely.child.kill().expect("it still runs");
    assert_eq!(rarely.wait().stdout, "", "it looked once");
}
