//! The demo holds what it says, fits a screen, and leaves nothing behind, even when it is interrupted.

mod support;

use std::fs;
use std::io::BufRead as _;
use std::path::Path;

use support::{Device, World, until};

/// Runs with temporary files in a folder of ours, so that what is left behind shows.
fn device(world: &World) -> (Device, std::path::PathBuf) {
    let folder = world.path().join("tmp");
    fs::create_dir(&folder).expect("a folder");
    (world.device("nobody"), folder)
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("readable").count()
}

/// Processes whose command line mentions a folder.
fn processes(folder: &Path) -> usize {
    let name = folder.display().to_string();
    let mentions = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&name)
    };
    fs::read_dir("/proc").expect("a process table").flatten().filter(mentions).count()
}

#[test]
fn the_demo_holds_what_it_says_in_a_screenful() {
    let world = World::new();
    let (device, folder) = device(&world);
    let output = device.command(&["demo"]).env("TMPDIR", &folder).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().count() <= 40 && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert_eq!((entries(&folder), processes(&folder)), (0, 0));
    assert!(!device.home.exists(), "the user's own home is not touched");
}

#[test]
fn the_demo_reports_as_json_and_keeps_its_homes_if_asked_to() {
    let world = World::new();
    let (device, folder) = device(&world);
    let output =
        device.command(&["--json", "demo", "--keep"]).env("TMPDIR", &folder).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(report["rows"], 312);
    let devices = report["devices"].as_array().expect("devices");
    assert!(devices.len() == 3 && devices.iter().all(|device| device["digest"] == devices[0]["digest"]));
    assert_eq!(report["conflicts"].as_array().map(Vec::len), Some(3), "{report}");
    let homes = Path::new(report["homes"].as_str().expect("homes"));
    for name in ["laptop", "phone", "tablet"] {
        assert!(homes.join(name).join("ahenk.redb").exists());
    }
    assert_eq!((entries(&folder), processes(&folder)), (1, 0));
}

#[test]
fn an_interrupted_demo_leaves_no_process_and_no_file() {
    let world = World::new();
    let (device, folder) = device(&world);
    let mut command = device.command(&["demo"]);
    let mut child =
        command.env("TMPDIR", &folder).stdout(std::process::Stdio::piped()).spawn().expect("it runs");
    let mut lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
    // In the middle: daemons run, and something is under way.
    assert!(lines.any(|line| line.expect("text").starts_with("3.")));
    assert!(processes(&folder) > 0);
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(6));
    until("all processes are gone", || processes(&folder) == 0);
    assert_eq!(entries(&folder), 0);
}
