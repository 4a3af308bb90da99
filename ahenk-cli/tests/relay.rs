//! The relay as a person uses it: the real program as relay and as devices, commands only.

#![allow(clippy::print_stderr)]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use support::{Device, Running, World, until, until_status, wrong};

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Starts a relay; what it says first has its address and the URL of its counters.
fn relay(world: &World, port: u16, more: &[&str]) -> (Running, String, String) {
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    let key = world.path().join("relay.key").display().to_string();
    let args = ["--json", "relay", "--key", &key, "--listen", &address, "--external", &address];
    let metrics = free_port().to_string();
    let mut running = world.device("relay").spawn(&[&args[..], &["--metrics-port", &metrics], more].concat());
    let said = running.next();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    (running, text(&said["addresses"][0]), text(&said["metrics"]))
}

fn counter(url: &str, name: &str) -> u64 {
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let mut stream = TcpStream::connect(host).expect("connected");
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("read");
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("ahenk_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("a number")
}

#[test]
fn devices_that_nobody_can_dial_meet_at_the_relay_and_again_after_its_restart() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    let port = free_port();
    let (running, address, metrics) = relay(&world, port, &[]);
    a.start();
    a.admit(&b);
    a.run(&["stop"]).ok();
    [&a, &b].into_iter().for_each(|device| device.start_behind(&address));
    until_status(&a, "they meet", |status| status["peers"][0]["path"] == "relayed");
    until_status(&b, "the relay is used", |status| status["relays"][0]["reserved"] == true);
    assert!(counter(&metrics, "relay_circuits") >= 1);
    a.run(&["put", "notes", "n", "title=one"]).ok();
    until("the edit arrives", || b.run(&["get", "notes", "n", "title"]).stdout.contains("one"));

    drop(running);
    until_status(&a, "the loss is seen", |status| {
        status["peers"][0]["connected"] == false && status["relays"][0]["reserved"] == false
    });
    a.run(&["put", "notes", "n", "title=two"]).ok();
    let (_running, again, _) = relay(&world, port, &[]);
    assert_eq!(again, address, "the relay's key is kept");
    until("the edit arrives", || b.run(&["get", "notes", "n", "title"]).stdout.contains("two"));
}

#[test]
fn a_device_joins_through_the_relay_with_the_long_code() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    let (_running, address, metrics) = relay(&world, free_port(), &[]);
    a.run(&["config", "set", "network.listen"]).ok();
    a.run(&["config", "set", "network.relay_servers", &address]).ok();
    a.run(&["put", "notes", "n", "title=here"]).ok();
    a.start();
    until_status(&a, "the relay is used", |status| status["relays"][0]["reserved"] == true);
    a.admit(&b);
    assert!(counter(&metrics, "relay_circuits_total") >= 1);
    assert_eq!(b.run(&["get", "notes", "n", "title"]).ok().stdout.trim(), "here");
}

#[test]
fn a_relay_that_is_full_serves_nobody_else() {
    let world = World::new();
    let a = world.founder("a");
    a.run(&["config", "set", "network.listen"]).ok();
    let full = |more: &[&str]| {
        let (running, address, metrics) = relay(&world, free_port(), more);
        a.run(&["config", "set", "network.relay_servers", &address]).ok();
        a.run(&["restart"]).ok();
        (running, metrics)
    };
    let (running, _) = full(&["--reservations-max", "0"]);
    until_status(&a, "the refusal is known", |status| !status["relays"][0]["last_error"].is_null());
    drop(running);
    for limit in ["--circuits-max", "--circuits-per-peer-max"] {
        let (_running, metrics) = full(&[limit, "0"]);
        until_status(&a, "the relay is used", |status| status["relays"][0]["reserved"] == true);
        let mut inviting = a.spawn(&["--json", "device", "invite", "--yes"]);
        let code = inviting.code();
        world.device(limit.trim_start_matches('-')).join(&code).error(7, "network");
        assert_eq!(counter(&metrics, "relay_circuits_total"), 0, "{limit}");
    }
}

#[test]
fn a_relay_that_refuses_is_named_in_status_and_doctor() {
    let world = World::new();
    let a = world.founder("a");
    // Somebody else's id, which is well formed.
    let (_first, elsewhere, _) = relay(&world, free_port(), &[]);
    let somebody = elsewhere.rsplit('/').next().expect("an id").to_owned();
    fs::remove_file(world.path().join("relay.key")).expect("removed");
    a.start();
    let listening = a.status()["listening"][0].as_str().expect("an address").to_owned();
    let own = listening.rsplit('/').next().expect("an id");
    for list in [["--allow", &somebody], ["--deny", own]] {
        let (_running, address, _) = relay(&world, free_port(), &list);
        a.run(&["config", "set", "network.relay_servers", &address]).ok();
        a.run(&["restart"]).ok();
        until_status(&a, "the refusal is known", |status| !status["relays"][0]["last_error"].is_null());
        assert!(a.run(&["status"]).ok().stdout.contains("NOT usable"));
        let doctor = a.run(&["doctor"]).stdout;
        assert!(doctor.contains("does not serve this device"), "{list:?}: {doctor}");
    }
}

#[test]
fn a_relay_without_a_use_is_refused_before_it_runs() {
    let world = World::new();
    let device = world.device("relay");
    assert_eq!(device.run(&["relay"]).code, 2);
    let external = ["relay", "--external", "/ip4/127.0.0.1/tcp/4001"];
    for bad in [["--circuit-bytes-max", "1000"], ["--circuit-seconds-max", "60"], ["--allow", "nobody"]] {
        device.json(&[&external[..], &bad].concat()).error(2, "usage");
    }
    device.json(&["relay", "--external", "/ip4/0.0.0.0/tcp/4001"]).error(2, "usage");
    let founder = world.founder("a");
    founder.json(&["config", "set", "network.relay_servers", "/ip4/127.0.0.1/tcp/1"]).error(2, "usage");
}

#[test]
fn how_long_a_circuit_may_last_and_how_much_it_carries_is_told_with_the_counters() {
    let world = World::new();
    let limits = ["--circuit-bytes-max", "2000000000", "--circuit-seconds-max", "7200"];
    for (more, bytes, seconds) in [(&limits[..], 2_000_000_000, 7200), (&[], 1 << 30, 3600)] {
        let (_running, _, metrics) = relay(&world, free_port(), more);
        assert_eq!(counter(&metrics, "relay_circuit_bytes_max"), bytes);
        assert_eq!(counter(&metrics, "relay_circuit_seconds_max"), seconds);
    }
}

#[test]
fn a_relay_of_an_account_serves_its_devices_from_the_pairing_on_and_nobody_else() {
    let world = World::new();
    let (a, b, foreign) = (world.founder("a"), world.device("b"), world.founder("c"));
    let account = a.json(&["account", "show"]).json()["account"].as_str().expect("an id").to_owned();
    let (_running, address, metrics) = relay(&world, free_port(), &["--allow-account", &account]);
    a.run(&["config", "set", "network.listen"]).ok();
    a.run(&["config", "set", "network.relay_servers", &address]).ok();
    a.start();
    until_status(&a, "the relay is used", |status| status["relays"][0]["reserved"] == true);
    // Not yet of the account, it calls a device that is.
    a.admit(&b);
    b.start_behind(&address);
    until_status(&b, "the relay is used", |status| status["relays"][0]["reserved"] == true);
    foreign.run(&["config", "set", "network.listen"]).ok();
    foreign.run(&["config", "set", "network.relay_servers", &address]).ok();
    foreign.start();
    until_status(&foreign, "the refusal is known", |status| {
        let error = &status["relays"][0]["last_error"];
        error.as_str().is_some_and(|text| text.contains("does not serve this account"))
    });
    assert!(foreign.run(&["doctor"]).stdout.contains("does not serve this account"));
    assert!(
        counter(&metrics, "relay_admitted_total") >= 2 && counter(&metrics, "relay_not_admitted_total") >= 1
    );
    assert_eq!(counter(&metrics, "relay_reservations"), 2);
}

#[test]
fn settings_of_a_relay_come_from_flags_then_variables_then_the_file() {
    let world = World::new();
    let (relay, a) = (world.device("relay"), world.founder("a"));
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let file = world.path().join("mine.toml");
    let text = format!(
        "[relay] # mine\nexternal = [\"{address}\"]\nlisten = [\"{address}\"]\nreservations_max = 0\n"
    );
    fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    let shown = |variable: &str| {
        let mut command = relay.command(&["--json", "relay", "config", "--config", &file]);
        command.env("AHENK_RELAY_RESERVATIONS_MAX", variable);
        let ran = support::Ran::of(command.output().expect("it runs")).json();
        ran["settings"]["reservations_max"].as_u64().expect("a number")
    };
    assert_eq!((shown(""), shown("5")), (0, 5), "the variable goes before the file");

    let of_file = ["--json", "relay", "--config", &file];
    let serves = |more: &[&str], reserved: bool| {
        let mut running = relay.spawn(&[&of_file, more].concat());
        let said = running.next();
        let at = said["addresses"][0].as_str().expect("an address").to_owned();
        assert!(said["metrics"].is_null() && at.starts_with(&address), "{said}");
        a.run(&["config", "set", "network.relay_servers", &at]).ok();
        a.run(&["restart"]).ok();
        until_status(&a, "the relay has answered", |status| {
            let relay = &status["relays"][0];
            relay["reserved"] == reserved && relay["last_error"].is_null() == reserved
        });
    };
    serves(&[], false);
    serves(&["--reservations-max", "1"], true);
    relay.json(&["relay", "--config", "nowhere.toml"]).error(3, "not-found");
}

#[test]
fn reservations_are_limited_in_their_rate_and_renewed_before_their_time() {
    let world = World::new();
    let a = world.founder("a");
    a.run(&["config", "set", "network.listen"]).ok();
    let begin = |more: &[&str]| {
        let (running, address, metrics) = relay(&world, free_port(), more);
        a.run(&["config", "set", "network.relay_servers", &address]).ok();
        a.run(&["restart"]).ok();
        until_status(&a, "the relay is used", |status| status["relays"][0]["reserved"] == true);
        (running, metrics)
    };
    for limit in ["--reservation-rate-max", "--reservation-rate-ip-max"] {
        let (_running, metrics) = begin(&[limit, "1"]);
        a.run(&["restart"]).ok();
        until_status(&a, "the refusal is known", |status| !status["relays"][0]["last_error"].is_null());
        assert!(counter(&metrics, "relay_reservations_denied_total") >= 1, "{limit}");
    }
    let (_running, metrics) = begin(&["--reservation-seconds", "10"]);
    until("it is renewed", || counter(&metrics, "relay_reservations_total") >= 2);
    assert_eq!(a.status()["relays"][0]["reserved"], true);
}

#[test]
fn circuits_are_limited_in_their_rate_for_a_device_and_for_an_ip_address() {
    let world = World::new();
    let behind = |device: &Device, limit: &str| {
        let (running, address, metrics) = relay(&world, free_port(), &[limit, "1"]);
        device.start_behind(&address);
        until_status(device, "the relay is used", |status| status["relays"][0]["reserved"] == true);
        (running, metrics)
    };
    let (a, b) = (world.founder("a"), world.device("b"));
    a.start();
    a.admit(&b);
    a.run(&["stop"]).ok();
    let (_running, metrics) = behind(&a, "--circuit-rate-max");
    let listening = a.status()["listening"].clone();
    let mut places = listening.as_array().expect("a list").iter().filter_map(|at| at.as_str());
    let at = places.find(|at| at.contains("/p2p-circuit")).expect("a place at the relay");
    b.json(&["peer", "add", at]).ok();
    b.json(&["peer", "add", at]).error(7, "network");
    assert!(counter(&metrics, "relay_circuits_denied_total") >= 1);

    // With nobody to call, it uses up nothing itself.
    let alone = world.founder("alone");
    alone.start();
    alone.run(&["stop"]).ok();
    let (_running, metrics) = behind(&alone, "--circuit-rate-ip-max");
    let mut inviting = alone.spawn(&["--json", "device", "invite", "--yes"]);
    let code = inviting.code();
    world.device("x").join(&wrong(&code)).error(5, "not-authorised");
    world.device("y").join(&code).error(7, "network");
    assert_eq!(counter(&metrics, "relay_circuits_total"), 1);
}

#[test]
fn a_device_sends_no_more_in_a_second_than_the_relay_lets_it() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    let (_running, address, metrics) = relay(&world, free_port(), &["--peer-bytes-per-s-max", "32768"]);
    assert_eq!(counter(&metrics, "relay_peer_bytes_per_second_max"), 32_768);
    a.start();
    a.admit(&b);
    a.run(&["stop"]).ok();
    a.start_behind(&address);
    b.start_behind(&address);
    until_status(&b, "they meet", |status| status["peers"][0]["connected"] == true);
    // 75 kB for whoever compresses it.
    let letter =
        |n: u32| char::from(b'0' + u8::try_from(n.wrapping_mul(2_654_435_761) >> 26).expect("6 bits"));
    let text: String = (0..100_000).map(|n: u32| letter(n.wrapping_mul(n) ^ 0x5bd1_e995)).collect();
    let begun = std::time::Instant::now();
    a.run(&["put", "notes", "n1", &format!("body={text}")]).ok();
    until("it arrives", || b.run(&["get", "notes", "n1"]).code == 0);
    let took = begun.elapsed();
    assert!(took.as_secs_f64() > 1.5, "{took:?}");
    assert_eq!(b.status()["peers"][0]["path"], "relayed");
}

#[test]
fn a_relay_finds_out_its_address_by_another_that_may_test_it() {
    let world = World::new();
    let other = world.device("other");
    for helpful in [true, false] {
        let more: &[&str] = if helpful { &["--test-private"] } else { &[] };
        let (_running, address, metrics) = relay(&world, free_port(), more);
        let listen = format!("/ip4/127.0.0.1/tcp/{}", free_port());
        let asking = ["--json", "relay", "--listen", &listen, "--ask", &address];
        if helpful {
            let said = other.spawn(&asking).next();
            assert!(said["addresses"][0].as_str().is_some_and(|found| found.starts_with(&listen)), "{said}");
        } else {
            let said = other.run(&asking).error(7, "network");
            assert!(said.contains("cannot be dialed"), "{said}");
            assert!(counter(&metrics, "relay_tests_refused_total") >= 1);
        }
    }
}

#[test]
fn the_unit_that_is_printed_is_one_that_systemd_takes() {
    let world = World::new();
    let device = world.device("relay");
    let printed = device.json(&["relay", "service", "--config", "/srv/my relay/100%.toml"]).json();
    let text = printed["text"].as_str().expect("text");
    assert!(text.contains(" relay --config \"/srv/my relay/100%%.toml\"\n"), "{text}");
    assert_eq!(device.run(&["relay", "service", "--config", "/srv/my relay/100%.toml"]).ok().stdout, text);
    let file = world.path().join(printed["name"].as_str().expect("a name"));
    fs::write(&file, text).expect("written");
    let Ok(checked) = std::process::Command::new("systemd-analyze").arg("verify").arg(&file).output() else {
        eprintln!("skipped: no systemd-analyze here");
        return;
    };
    // It also tells of the machine's own units; ours is named by its path.
    let said = String::from_utf8_lossy(&checked.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("ahenk-relay")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}
