//! What each setting does, seen from outside. Those that only the engine, its driver, the store or the transport can show
//! (intervals, batches, credit, rates, memory) are shown by their tests; that a setting reaches them, by those of `config`.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use support::{Device, LISTEN, Ran, World, until, until_status};

fn set(device: &Device, key: &str, values: &[&str]) {
    device.run(&[&["config", "set", key], values].concat()).ok();
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

fn listening(device: &Device) -> Vec<String> {
    let status = device.status();
    let list = status["listening"].as_array().expect("a list").iter();
    list.map(|address| address.as_str().expect("text").to_owned()).collect()
}

#[test]
fn the_database_lies_where_database_path_says_and_is_never_made_anew_elsewhere() {
    let world = World::new();
    let device = world.device("a");
    let folder = world.path().join("data").join("of a");
    let database = folder.join("notes.redb");
    let init = device
        .command(&["init", "--name", "a", "--listen", LISTEN, "--no-mdns"])
        .env("AHENK_DATABASE_PATH", &database)
        .output();
    Ran::of(init.expect("it starts")).ok();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&database), mode(&folder)), (0o600, 0o700));
    assert!(!device.home.join("ahenk.redb").exists());
    // It is remembered: the variable is gone now.
    assert_eq!(device.json(&["config", "get", "database.path"]).json()["origin"], "file");
    device.run(&["put", "t", "r", "a=1"]).ok();
    set(&device, "database.path", &["moved.redb"]);
    let ran = device.json(&["get", "t", "r"]);
    let said = ran.stderr.clone();
    ran.error(8, "storage");
    assert!(said.contains("database.path") && said.contains("moved.redb"), "{said}");
    assert!(!device.home.join("moved.redb").exists(), "none is made in its place");
    for suffix in ["", ".guard"] {
        let from = folder.join(format!("notes.redb{suffix}"));
        fs::rename(from, device.home.join(format!("moved.redb{suffix}"))).expect("moved");
    }
    assert_eq!(device.json(&["get", "t", "r"]).json()["a"], 1);
    assert!(device.status()["copied_ms"].is_null(), "a moved database is the same life");
}

#[test]
fn a_setting_that_is_wrong_hides_neither_the_data_nor_where_it_is() {
    let world = World::new();
    let device = world.founder("a");
    device.run(&["put", "t", "r", "a=1"]).ok();
    fs::rename(device.home.join("ahenk.redb"), device.home.join("b.redb")).expect("moved");
    fs::rename(device.home.join("ahenk.redb.guard"), device.home.join("b.redb.guard")).expect("moved");
    let text = "[database]\npath = \"b.redb\"\n[network]\nmdns = 3\n[nonsense]\nx = 1\n";
    fs::write(device.home.join("config.toml"), text).expect("written");
    assert_eq!(device.json(&["get", "t", "r"]).json()["a"], 1);
    fs::write(device.home.join("config.toml"), "[database\n").expect("written");
    device.json(&["get", "t", "r"]).error(2, "usage");
}

#[test]
fn device_name_renames_an_administrator_once_for_each_change_and_nobody_else() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    set(&a, "device.name", &["desk"]);
    a.start();
    assert_eq!(a.status()["name"], "desk");
    b.start();
    until_status(&b, "the other one hears of it", |status| status["peers"][0]["name"] == "desk");
    a.run(&["device", "rename", "desk", "table"]).ok();
    a.run(&["restart"]).ok();
    assert_eq!(a.status()["name"], "table", "what an administrator says later counts");
    b.json(&["config", "set", "device.name", "x"]).error(5, "not-authorised");
    let named = world.device("c");
    let init = named.command(&["init", "--listen", LISTEN]).env("AHENK_DEVICE_NAME", "shelf").output();
    Ran::of(init.expect("it starts")).ok();
    assert_eq!(named.status()["name"], "shelf");
}

#[test]
fn it_listens_at_the_port_and_with_the_transports_that_are_set() {
    let world = World::new();
    let device = world.founder("a");
    let port = free_port();
    set(&device, "network.listen", &["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    set(&device, "network.listen_port", &[&port.to_string()]);
    device.start();
    let at = listening(&device);
    assert!(at.iter().any(|address| address.contains(&format!("/tcp/{port}/"))), "{at:?}");
    assert!(at.iter().any(|address| address.contains(&format!("/udp/{port}/quic-v1"))), "{at:?}");
    set(&device, "network.transports", &["quic"]);
    device.run(&["restart"]).ok();
    let at = listening(&device);
    assert!(!at.is_empty() && at.iter().all(|address| address.contains("/quic-v1")), "{at:?}");
}

#[test]
fn without_relays_none_is_asked() {
    let world = World::new();
    let device = world.founder("a");
    let nobody = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let id = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8";
    set(&device, "network.relay_servers", &[&format!("{nobody}/p2p/{id}")]);
    device.start();
    assert_eq!(device.status()["relays"].as_array().map(Vec::len), Some(1));
    set(&device, "network.relay", &["false"]);
    device.run(&["restart"]).ok();
    assert_eq!(device.status()["relays"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_transaction_beyond_message_bytes_is_refused_and_an_import_is_cut_to_fit() {
    let world = World::new();
    let device = world.founder("a");
    set(&device, "sync.message_bytes", &["128 KiB"]);
    let large = "v".repeat(70_000);
    let refused = device.json(&["put", "t", "r", &format!("x={large}")]).error(2, "usage");
    assert!(refused.contains("65536"), "{refused}");
    let field = |n: u32| format!("\"f{n}\":\"{}\"", "w".repeat(10_000));
    let fields: Vec<String> = (0..20).map(field).collect();
    let row = format!("{{\"table\":\"t\",\"row\":\"r\",\"fields\":{{{}}}}}\n", fields.join(","));
    let file = world.path().join("rows.jsonl");
    fs::write(&file, row).expect("written");
    device.run(&["import", &file.display().to_string()]).ok();
    assert_eq!(device.json(&["get", "t", "r"]).json().as_object().map(serde_json::Map::len), Some(20));
}

#[test]
fn at_the_limit_of_the_disk_writes_are_refused_by_name_and_all_is_made_up_for_without_it() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    // Two megabytes are more than a database of a few rows has, and less than what comes now.
    set(&b, "limits.disk_bytes", &["2 MiB"]);
    a.start();
    b.start();
    until_status(&b, "they are connected", |status| status["peers"][0]["in_sync"] == true);
    let value = "v".repeat(100_000);
    let mut kept = 0;
    let refused = loop {
        let ran = b.json(&["put", "t", &format!("b{kept}"), &format!("x={value}")]);
        if ran.code != 0 {
            break ran;
        }
        kept += 1;
        assert!(kept < 100, "the limit has no effect");
    };
    assert!(refused.stderr.contains("limits.disk_bytes"), "{}", refused.stderr);
    assert!(refused.error(8, "storage").contains("limit"));
    a.run(&["put", "t", "a", "x=1"]).ok();
    assert_eq!(b.run(&["get", "t", "a"]).code, 3, "it has no room for it");
    for row in 0..kept {
        until("reads go on", || b.run(&["get", "t", &format!("b{row}")]).code == 0);
    }
    b.run(&["config", "unset", "limits.disk_bytes"]).ok();
    b.run(&["restart"]).ok();
    until("what it missed arrives", || b.run(&["get", "t", "a"]).code == 0);
    until("and what it wrote", || a.run(&["get", "t", &format!("b{}", kept - 1)]).code == 0);
    b.run(&["put", "t", "more", "x=1"]).ok();
}

#[test]
fn the_log_goes_to_the_file_that_is_set() {
    let world = World::new();
    let device = world.founder("a");
    let file = world.path().join("var").join("ahenk.log");
    set(&device, "log.file", &[&file.display().to_string()]);
    device.start();
    assert_eq!(device.status()["log"], file.display().to_string());
    assert!(fs::read_to_string(&file).expect("a log").contains("the daemon is running"));
    assert!(!device.home.join("logs").exists());
}

#[test]
fn the_daemon_tells_prometheus_how_it_is_at_the_port_that_is_set() {
    let world = World::new();
    let device = world.founder("a");
    let port = free_port();
    set(&device, "metrics.port", &[&port.to_string()]);
    device.start();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("read");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("\nahenk_up 1\n"), "{page}");
    let other = world.founder("b");
    set(&other, "metrics.port", &[&port.to_string()]);
    assert!(other.json(&["start", "--daemon"]).error(6, "conflict").contains(&port.to_string()));
}

#[test]
fn sizes_may_have_a_unit() {
    let world = World::new();
    let device = world.founder("a");
    for (given, bytes) in [("64M", 64 << 20), ("1 GiB", 1 << 30), ("33554432", 32u64 << 20), ("0", 0)] {
        let set = device.json(&["config", "set", "limits.memory_bytes", given]).json();
        assert_eq!(set["value"], bytes, "{given}");
    }
    for wrong in ["64MB", "-1", "31M", "1e9", "M"] {
        device.json(&["config", "set", "limits.memory_bytes", wrong]).error(2, "usage");
    }
}

#[test]
fn while_the_settings_are_edited_nobody_else_changes_them() {
    let world = World::new();
    let device = world.founder("a");
    let program = env!("CARGO_BIN_EXE_ahenk-cli");
    let edit = |script: &str| {
        let mut command = device.command(&["--json", "config", "edit"]);
        command.env_remove("VISUAL").env("EDITOR", format!("sh -c '{script}' sh"));
        Ran::of(command.output().expect("it starts"))
    };
    let within = edit(&format!("{program} config set network.mdns true && touch \"$1.set\"; true"));
    within.ok();
    assert!(!device.home.join("config.draft.toml.set").exists(), "it was refused");
    assert_eq!(device.json(&["config", "get", "network.mdns"]).json()["value"], false);
    // An editor of somebody else's knows no lock.
    let path = device.home.join("config.toml");
    let behind = format!("echo \"# mine\" >> \"$1\"; echo \"# theirs\" >> {}", path.display());
    assert!(edit(&behind).error(6, "conflict").contains("changed meanwhile"));
    let draft = device.home.join("config.draft.toml");
    assert!(fs::read_to_string(&path).expect("settings").contains("# theirs"));
    assert!(fs::read_to_string(&draft).expect("a draft").contains("# mine"), "no word is lost");
}
