//! Discovery, a pulled cable and its return, and finding an inviter, between two network namespaces on one bridge:
//! `tests/netns/mdns.sh`. Skipped, and said so, where namespaces are not allowed.

#![allow(clippy::print_stderr)]

use std::path::Path;
use std::process::Command;

fn namespaces_allowed() -> bool {
    let name = format!("ahprobe{}", std::process::id());
    let ip = |verb: &str| Command::new("ip").args(["netns", verb, &name]).output();
    let added = ip("add").is_ok_and(|output| output.status.success());
    if added {
        // The probe has served its purpose; one that stays does no harm.
        let _ = ip("del");
    }
    added
}

#[test]
fn devices_on_one_lan_find_each_other_and_notice_a_pulled_cable() {
    if !namespaces_allowed() {
        eprintln!("skipped: this needs root, `ip` and the right to make network namespaces");
        return;
    }
    // Cargo builds examples for tests, beside the folder of the test itself.
    let own = std::env::current_exe().expect("a test has a path");
    let beacon = own.parent().and_then(Path::parent).expect("two folders up").join("examples/beacon");
    assert!(beacon.exists(), "{} is not built: run `cargo build --examples`", beacon.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/netns/mdns.sh");
    let output = Command::new("sh").arg(script).arg(beacon).output().expect("sh runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}
