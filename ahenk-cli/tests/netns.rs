//! Any two networks: the cases of `tests/netns/cases.sh`, which plays NATs, relays, pulled cables and narrow paths with
//! network namespaces, the real program and its commands only. One case a test, so that each can be run alone:
//! `cargo test -p ahenk-cli --test netns cone`, or `tests/netns/cases.sh target/debug/ahenk-cli cone`.
//! Skipped, and said so, where namespaces are not allowed.

#![allow(clippy::print_stderr)]

use std::path::Path;
use std::process::Command;

fn allowed() -> bool {
    let works = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let name = format!("ahprobe{}", std::process::id());
    let tools = works("nft", &["--version"]) && works("python3", &["--version"]);
    // Several tests may probe at once: one that finds the namespace there may make them too.
    let added = works("ip", &["netns", "add", &name]) || works("ip", &["netns", "pids", &name]);
    if added {
        let _ = works("ip", &["netns", "del", &name]);
    }
    tools && added
}

fn case(name: &str) {
    if !allowed() {
        eprintln!("skipped: this needs root, `ip`, `nft`, python3 and the right to make network namespaces");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/netns/cases.sh");
    let output = Command::new("sh")
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_ahenk-cli"))
        .arg(name)
        .output()
        .expect("sh runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    eprintln!("{}", text(&output.stdout));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

macro_rules! cases {
    ($($(#[doc = $about:literal])* $test:ident: $case:literal;)*) => {
        $($(#[doc = $about])* #[test] fn $test() { case($case); })*
    };
}

cases! {
    public_devices_connect_directly: "public";
    two_cone_nats_meet_at_the_relay_and_go_direct_at_once: "cone";
    a_symmetric_nat_stays_on_the_relay_and_200_mb_pass_through_one_circuit: "symmetric";
    a_port_mapped_by_upnp_makes_a_direct_path_of_symmetric_nats: "upnp";
    a_port_mapped_by_pcp_does_too: "pcp";
    a_port_mapped_by_nat_pmp_does_too_is_renewed_and_given_back: "natpmp";
    a_restart_of_the_relay_during_a_sync_costs_seconds: "relay_restart";
    a_cable_pulled_for_a_minute_costs_seconds_after_its_return: "cable";
    a_device_that_changes_its_address_is_found_again: "address";
    two_devices_that_both_moved_find_each_other_through_a_third: "third";
    devices_that_slept_go_on_when_they_wake: "slept";
    devices_meet_where_there_is_ipv6_only: "ipv6";
    a_device_is_found_by_its_name: "dns";
    a_relay_that_refuses_is_told_in_status_and_doctor: "refused";
    a_path_narrower_than_it_says_does_not_hang_the_sync: "mtu";
    a_path_that_carries_one_way_only_is_noticed_and_given_up: "one_way";
    a_device_that_stalls_costs_bounded_memory: "stall";
}
