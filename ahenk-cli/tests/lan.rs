//! Two machines on one LAN find each other with no configuration: `tests/netns/lan.sh`, which plays them with network
//! namespaces. Skipped, and said so, where namespaces are not allowed.

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
fn two_machines_on_one_lan_pair_and_sync_with_no_configuration() {
    if !namespaces_allowed() {
        eprintln!("skipped: this needs root, `ip` and the right to make network namespaces");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/netns/lan.sh");
    let output =
        Command::new("sh").arg(script).arg(env!("CARGO_BIN_EXE_ahenk-cli")).output().expect("sh runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}
