//! What a device says of its way to another one: round trips, how it stands in the network, why two do not meet, and
//! where a third one is to be found.

mod support;

use serde_json::Value as Json;
use support::{Device, World, until, until_status};

fn lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Two devices of one account with their daemons running and connected.
fn two(world: &World) -> (Device, Device) {
    let (a, b) = (world.founder("a"), world.device("b"));
    a.start();
    a.admit(&b);
    b.start();
    until_status(&a, "they meet", |status| status["peers"][0]["connected"] == true);
    (a, b)
}

#[test]
fn ping_measures_round_trips_and_says_why_there_are_none() {
    let world = World::new();
    let (a, b) = two(&world);
    let ran = a.json(&["ping", "b", "--count", "2"]).ok();
    let answers = lines(&ran.stdout);
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert!(answer["round_trip_micros"].as_u64().is_some_and(|micros| micros > 0), "{answer}");
        assert!(answer["path"] == "direct-tcp" && answer["error"].is_null(), "{answer}");
    }
    let direct = a.run(&["ping", "b", "--until-direct"]).ok().stdout;
    assert!(direct.lines().count() == 1 && direct.contains("direct-tcp, /ip4/127.0.0.1/tcp/"), "{direct}");
    a.json(&["ping", "a"]).error(2, "usage");
    a.json(&["ping", "nobody"]).error(3, "not-found");

    b.run(&["stop"]).ok();
    until_status(&a, "its end is seen", |status| status["peers"][0]["connected"] == false);
    let ran = a.json(&["ping", "b", "--timeout", "3"]);
    assert!(lines(&ran.stdout)[0]["error"].as_str().is_some_and(|error| error.contains("not connected")));
    assert!(ran.error(7, "network").contains("did not answer"));
}

/// A relay that takes calls and says nothing: whoever waits for it waits as long as they want to.
fn silent_relay() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let id = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let address =
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{id}", listener.local_addr().expect("an address").port());
    (listener, address)
}

#[test]
fn a_timeout_lasts_as_long_as_it_says() {
    let world = World::new();
    let (a, b) = two(&world);
    let (_listener, relay) = silent_relay();
    a.run(&["config", "set", "network.relay_servers", &relay]).ok();
    b.run(&["stop"]).ok();
    for command in
        [&["sync"][..], &["wait", "--synced"], &["verify", "--peer", "b"], &["ping", "b"], &["netcheck"]]
    {
        // `netcheck` counts from the start of the daemon.
        a.run(&["restart"]).ok();
        let begun = std::time::Instant::now();
        let with = |seconds| [&["--json"], command, &["--timeout", seconds]].concat();
        let mut long = a.spawn(&with("600"));
        let ended = a.run(&with("2"));
        // Whoever asks once a second asks for the last time a second before.
        assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "{command:?}: {}", ended.stderr);
        let other = long.child.try_wait().expect("asked");
        assert!(other.is_none(), "{command:?} with another timeout ended as well: {other:?}");
        // The daemon is told that nobody waits any more.
        drop(long);
    }
}

#[test]
fn netcheck_and_doctor_say_why_a_device_is_not_there_and_what_to_do() {
    let world = World::new();
    let (a, b) = two(&world);
    let found = a.json(&["netcheck"]).json();
    assert_eq!((&found["peers"][0]["name"], &found["nat_tcp"]), (&"b".into(), &"unknown".into()));
    assert!(found["mdns_seen"].is_null() && found["port_mapping"] != "mapped", "{found}");
    assert!(a.run(&["netcheck", "--timeout", "0"]).ok().stdout.contains("b is connected, direct-tcp"));
    let verbose = a.run(&["peer", "list", "--verbose"]).ok().stdout;
    assert!(verbose.contains("connected for") && verbose.contains("in sync"), "{verbose}");

    b.run(&["stop"]).ok();
    until("the reason is found", || {
        let ran = a.run(&["doctor"]);
        ran.stdout.contains("b is not connected") && ran.stdout.contains("no daemon listens there")
    });
    assert!(a.run(&["netcheck", "--timeout", "0"]).ok().stdout.contains("ahenk-cli start --daemon` there"));
}

#[test]
fn a_device_that_moved_is_found_through_a_third_one_and_no_address_is_typed() {
    let world = World::new();
    let (a, b) = two(&world);
    let c = world.device("c");
    a.admit(&c);
    c.start();
    let sees = |device: &Device, name: &str| {
        let peers = device.json(&["peer", "list"]).json();
        peers.as_array().expect("peers").iter().any(|peer| peer["name"] == name && peer["connected"] == true)
    };
    until("all have met", || sees(&b, "c") && sees(&c, "b") && sees(&c, "a"));
    c.run(&["stop"]).ok();
    b.run(&["stop"]).ok();
    // Another port, as another network would be.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    b.run(&["config", "set", "network.listen", &format!("/ip4/127.0.0.1/tcp/{port}")]).ok();
    b.start();
    until("the first two meet", || sees(&a, "b"));
    // It takes no calls, so that it has to find the other by itself.
    c.run(&["config", "set", "network.listen"]).ok();
    c.start();
    until("the third is told", || sees(&c, "b"));
    let peers = c.json(&["peer", "list"]).json();
    let b = peers.as_array().expect("peers").iter().find(|peer| peer["name"] == "b").expect("listed");
    assert!(b["address"].as_str().is_some_and(|at| at.ends_with(&format!("/tcp/{port}"))), "{b}");
    assert!(b["addresses_ms"].as_u64().is_some_and(|ms| ms > 0), "{b}");
}
