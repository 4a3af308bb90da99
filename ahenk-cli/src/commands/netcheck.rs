//! `netcheck`: how this device stands in the network, and why it does not meet another one.

use super::{Env, meeting};
use crate::backend::Need;
use crate::commands::doctor::{Check, human};
use crate::error::Result;
use crate::netcheck::round_trip;
use crate::output::span;
use crate::protocol::Request;
use crate::report::NetCheck;

/// Arguments of `netcheck`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Devices and relays that are connected tell what they see of this one: without
any, the kind of NAT stays unknown. Each device that is not connected gets a
line that says why and what to do. Without a daemon this one connects by itself.

Examples:
  ahenk-cli netcheck
  ahenk-cli --json netcheck | jq '{nat_udp, relays}'")]
pub(crate) struct Args {
    /// How long to wait until relays and other devices have had their say, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(0..=600))]
    timeout: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.with_backend(Need::Network, async |backend| {
        let within_ms = args.timeout.saturating_mul(1000);
        let found: NetCheck = backend.one(Request::NetCheck { within_ms }).await?;
        env.out.show(&found, |found| checks(found).iter().map(human).collect::<Vec<_>>().join("\n"))
    })
    .await
}

/// What was found, for people.
fn checks(found: &NetCheck) -> Vec<Check> {
    let mut checks = vec![
        nat("udp", &found.nat_udp),
        nat("tcp", &found.nat_tcp),
        ipv6(found),
        reachable(found),
        router(found),
    ];
    checks.extend(found.observed.iter().map(|address| Check::ok("seen at", address.clone())));
    checks.extend(found.relays.iter().map(|relay| match (relay.reserved, &relay.last_error) {
        (true, _) => {
            let away = relay.round_trip_micros.map(|micros| format!(", {} away", round_trip(micros)));
            Check::ok("relay", format!("{}{}", relay.address, away.unwrap_or_default()))
        }
        (false, None) => Check::ok("relay", format!("{} is being asked", relay.address)),
        (false, Some(error)) => Check::warning(
            "relay",
            format!("{}: {error}", relay.address),
            "`ahenk-cli doctor` says what may be the matter with it",
        ),
    }));
    checks.push(match found.mdns_seen {
        None => Check::warning(
            "mdns",
            "off: devices on the same network are not found by themselves",
            "`ahenk-cli config set network.mdns true`, then `ahenk-cli restart`",
        ),
        Some(0) => Check::ok("mdns", "on; no device was seen on the local network"),
        Some(seen) => Check::ok("mdns", format!("on; {seen} seen on the local network")),
    });
    checks.push(match found.clock_offset_ms {
        None => Check::ok("clock", "no connected device to compare with"),
        Some(ms) if ms.unsigned_abs() < 1000 => {
            Check::ok("clock", "within a second of the other devices' clocks")
        }
        Some(ms) => {
            let way = if ms > 0 { "behind" } else { "ahead of" };
            Check::ok("clock", format!("{} {way} the other devices' clocks", span(ms.unsigned_abs())))
        }
    });
    checks.extend(meeting::checks(found));
    checks
}

fn nat(kind: &str, nat: &str) -> Check {
    let name = format!("nat {kind}");
    match nat {
        "none" => Check::ok(&name, "none: others see the address that this device has"),
        "endpoint-independent" => {
            Check::ok(&name, "one that keeps ports: direct paths can be made through it")
        }
        "endpoint-dependent" => Check::warning(
            &name,
            "symmetric: it gives each connection another port, so direct paths cannot be made through it",
            "devices behind other NATs are reached through a relay; a port forwarded by hand or by the router, or IPv6, makes a direct path",
        ),
        "port-changing" => {
            Check::ok(&name, "one that changes ports; a second relay or device would tell which kind")
        }
        _ => Check::ok(&name, "not known: no relay and no device outside has said how it sees this one"),
    }
}

fn ipv6(found: &NetCheck) -> Check {
    match found.ipv6.as_str() {
        "global" => Check::ok("ipv6", "this device has addresses of the whole internet"),
        "local" => Check::ok("ipv6", "within this network only"),
        "none" => Check::ok("ipv6", "in use, but this network has none"),
        _ => Check::ok(
            "ipv6",
            "not in use: this machine has none, or `network.listen` names IPv4 addresses only",
        ),
    }
}

fn reachable(found: &NetCheck) -> Check {
    let failed = found.tests.iter().filter(|test| !test.reachable).count();
    match found.confirmed.as_slice() {
        [] if failed > 0 => Check::ok("reachable", "not from outside: others dialed this device in vain"),
        [] => Check::ok("reachable", "from outside: not known"),
        addresses => Check::ok("reachable", format!("from outside at {}", addresses.join(", "))),
    }
}

fn router(found: &NetCheck) -> Check {
    let hint =
        "`ahenk-cli config set network.upnp true`, then `ahenk-cli restart`, asks the router for ports";
    match found.port_mapping.as_str() {
        "mapped" => {
            let by = found.mapped_by.join(", ");
            Check::ok("router", format!("maps {} ({by})", found.mapped.join(", ")))
        }
        "no-gateway" => Check::ok("router", "asked for ports, but none answers"),
        "not-public" => Check::ok("router", "asked for ports, but is itself behind a NAT"),
        "searching" => Check::ok("router", "being asked for ports"),
        _ if found.nat_udp == "endpoint-dependent" => Check::warning("router", "not asked for ports", hint),
        _ => Check::ok("router", "not asked for ports"),
    }
}
