//! A disk that fills up under a running daemon: what was answered stays, what cannot be kept is refused in words, and
//! all is well again when there is room.

mod support;

use std::fs;
use std::process::{Command, Stdio};

use support::{World, until};

/// Room beyond the present size of the database, in bytes.
const ROOM_BYTES: u64 = 3 * 1024 * 1024;

#[test]
fn a_full_disk_is_told_loses_nothing_and_heals() {
    let world = World::new();
    let device = world.founder("a");
    device.run(&["put", "t", "small", "x=1"]).ok();
    let blocks = (fs::metadata(device.home.join("ahenk.redb")).expect("a database").len() + ROOM_BYTES) / 512;
    // No file of this process may grow beyond that; with the signal ignored, writing says so as a full disk would.
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" start");
    let mut daemon = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_ahenk-cli")])
        .env("AHENK_HOME", &device.home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts");
    until("the daemon answers", || {
        device.json(&["status"]).code == 0 && device.home.join("daemon.sock").exists()
    });

    let value = "v".repeat(100_000);
    let mut kept = Vec::new();
    let refused = loop {
        let row = format!("row{}", kept.len());
        let ran = device.json(&["put", "t", &row, &format!("x={value}")]);
        if ran.code != 0 {
            break ran;
        }
        kept.push(row);
        assert!(kept.len() < 200, "the limit has no effect");
    };
    assert!(refused.error(8, "storage").contains("full"));
    assert!(!kept.is_empty());
    for row in &kept {
        until("reads go on", || device.run(&["get", "t", row]).code == 0);
    }
    assert_eq!(device.run(&["get", "t", &format!("row{}", kept.len())]).code, 3, "it was refused");

    device.run(&["stop"]).ok();
    daemon.wait().expect("it ends");
    device.start();
    for row in &kept {
        assert_eq!(device.run(&["get", "t", row, "x"]).ok().stdout.trim(), value);
    }
    device.run(&["put", "t", "more", &format!("x={value}")]).ok();
}
