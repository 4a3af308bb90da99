//! What a device says of itself: numbers, metrics, findings, and a report that gives nothing away.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value as Json, json};
use support::{Device, World, until_status};

fn pair(world: &World) -> (Device, Device) {
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    (a, b)
}

#[test]
fn stats_and_metrics_count_what_was_sent_and_received() {
    let world = World::new();
    let (a, b) = pair(&world);
    let quiet = a.json(&["stats"]).json();
    assert_eq!((&quiet["up_ms"], &quiet["peers"][0]["connected"]), (&Json::Null, &json!(false)));
    a.start();
    b.start();
    until_status(&a, "both are connected", |status| status["peers"][0]["in_sync"] == true);
    a.run(&["put", "t", "r", "x=1"]).ok();
    a.run(&["sync"]).ok();
    let stats = a.json(&["stats"]).json();
    let peer = &stats["peers"][0];
    assert_eq!(
        (&peer["connected"], &peer["in_sync"], &peer["rows_equal"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!((&peer["ops_sent"], &stats["total"]["ops_sent"]), (&json!(1), &json!(1)));
    assert_eq!(b.json(&["stats"]).json()["total"]["ops_received"], 1);
    assert!(a.run(&["stats"]).ok().stdout.contains("SENT/RECEIVED"));
    let text = a.run(&["metrics"]).ok().stdout;
    for line in [
        "# TYPE ahenk_ops_sent_total counter\nahenk_ops_sent_total 1\n",
        "ahenk_up 1\n",
        "ahenk_conflicts_total 0\n",
        &format!("ahenk_peer_in_sync{{peer=\"b\",id=\"{}\"}} 1\n", peer["id"].as_str().expect("an id")),
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    // Each sample belongs to a family that was announced before it.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(text.contains(&format!("# TYPE {name} ")), "{line}");
        assert!(line.rsplit(' ').next().expect("a value").parse::<f64>().is_ok(), "{line}");
    }
    let info = a.json(&["info"]).json();
    assert_eq!(
        (&info["version"], &info["devices"], &info["tables"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(2), &json!(1))
    );
    assert!(a.run(&["info"]).ok().stdout.contains("file format"));
}

#[test]
fn metrics_are_served_at_a_loopback_port_with_a_daemon_and_without() {
    let world = World::new();
    let a = world.founder("a");
    let mut serving = a.spawn(&["--json", "metrics", "--serve", "0"]);
    let url = serving.next()["listening"].as_str().expect("an address").to_owned();
    let address =
        url.strip_prefix("http://").and_then(|url| url.strip_suffix("/metrics")).expect("a URL").to_owned();
    assert!(address.starts_with("127.0.0.1:"));
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let page = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("\nahenk_up 0\n"), "{page}");
    a.start();
    assert!(ask("GET /metrics HTTP/1.1\r\n\r\n").contains("\nahenk_up 1\n"));
    assert!(ask("GET /etc/passwd HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let message =
        a.json(&["metrics", "--serve", address.rsplit(':').next().expect("a port")]).error(6, "conflict");
    assert!(message.contains("port"), "{message}");
}

fn verdict(device: &Device, check: &str) -> String {
    let ran = device.json(&["doctor"]);
    let checks: Vec<Json> = serde_json::from_str(ran.stdout.trim()).expect("a list");
    let found = checks.iter().find(|one| one["name"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check}: {checks:?}"));
    assert_eq!(found["verdict"] == "ok", found["hint"].is_null(), "{found}");
    let failed = checks.iter().any(|one| one["verdict"] == "failure");
    assert_eq!(ran.code, if failed { 8 } else { 0 });
    found["verdict"].as_str().expect("a verdict").to_owned()
}

#[test]
fn the_doctor_finds_what_was_broken_and_nothing_else() {
    let world = World::new();
    let a = world.founder("a");
    for check in ["home", "keys", "config", "database", "sync", "clock"] {
        assert_eq!(verdict(&a, check), "ok", "{check}");
    }
    assert_eq!(verdict(&a, "daemon"), "warning");
    a.start();
    assert_eq!(verdict(&a, "daemon"), "ok");
    a.run(&["stop"]).ok();
    fs::set_permissions(a.home.join("device.key"), fs::Permissions::from_mode(0o644)).expect("changed");
    assert_eq!(verdict(&a, "home"), "failure");
    fs::set_permissions(a.home.join("device.key"), fs::Permissions::from_mode(0o600)).expect("changed");
    let config = fs::read_to_string(a.home.join("config.toml")).expect("readable");
    fs::write(a.home.join("config.toml"), "nonsense = 1").expect("written");
    assert_eq!(verdict(&a, "config"), "failure");
    fs::write(a.home.join("config.toml"), config).expect("written");
    fs::write(a.home.join("ahenk.redb"), "no database").expect("written");
    assert_eq!((verdict(&a, "database"), verdict(&a, "keys")), ("failure".to_owned(), "ok".to_owned()));
    let human = a.run(&["doctor"]);
    assert_eq!(human.code, 8);
    assert!(
        human.stdout.contains("FAIL  database") && human.stdout.contains("ok    keys"),
        "{}",
        human.stdout
    );
    assert!(world.device("nobody").json(&["doctor"]).error(3, "not-found").contains("no device"));
}

#[test]
fn a_bug_report_holds_no_data_no_keys_and_says_neither_who_nor_where() {
    let world = World::new();
    let (a, b) = (world.founder("adas-laptop"), world.device("adas-phone"));
    a.admit(&b);
    a.run(&["put", "diary", "monday", "text=secret thought"]).ok();
    a.start();
    b.run(&["sync"]).ok();
    let path = world.path().join("report.txt");
    let made = a.json(&["bugreport", "--output", &path.display().to_string()]).json();
    let text = fs::read_to_string(&path).expect("it is there");
    assert_eq!(made["bytes"], text.len());
    let status = a.status();
    let id = |name: &str| status[name].as_str().expect("an id").to_owned();
    let key = fs::read_to_string(a.home.join("device.key")).expect("a key");
    let secrets = [
        "diary".to_owned(),
        "monday".to_owned(),
        "secret thought".to_owned(),
        "adas-".to_owned(),
        id("account"),
        id("device"),
        id("home"),
        "127.0.0.1".to_owned(),
        key.trim().to_owned(),
    ];
    for secret in secrets {
        assert!(!text.contains(&secret), "{secret} is in the report:\n{text}");
    }
    for part in [
        "== what ==",
        "== stats ==",
        "\"verdict\": \"ok\"",
        "== config.toml ==",
        "device-1",
        "the daemon is running",
    ] {
        assert!(text.contains(part), "{part} is not in the report:\n{text}");
    }
    assert!(
        a.json(&["bugreport", "--output", &path.display().to_string()])
            .error(6, "conflict")
            .contains("already")
    );
    // A database that does not open is when a report is needed most.
    a.run(&["stop"]).ok();
    fs::write(a.home.join("ahenk.redb"), "no database").expect("written");
    let other = world.path().join("other.txt").display().to_string();
    a.run(&["bugreport", "--output", &other]).ok();
    assert!(fs::read_to_string(&other).expect("it is there").contains("not an Ahenk database"));
}
