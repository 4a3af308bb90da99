//! Why this device and another one do not meet, and what to do about it.
//!
//! What is known is how this device stands, where the other one was last found, and how the latest attempt to reach it
//! ended. Each rule below is one cause; the first that fits is told.

use std::net::IpAddr;

use super::doctor::Check;
use crate::report::{NetCheck, Peer};

/// One line for each other device.
pub(crate) fn checks(found: &NetCheck) -> Vec<Check> {
    found.peers.iter().map(|peer| check(found, peer)).collect()
}

fn check(found: &NetCheck, peer: &Peer) -> Check {
    if peer.connected {
        let path = peer.path.as_deref().unwrap_or("not known");
        let detail = format!("{} is connected, {path}", peer.name);
        return match (path, found.nat_udp.as_str()) {
            ("relayed", "endpoint-dependent") => Check::warning(
                "device",
                format!("{detail}: the NAT here is symmetric, so no direct path can be made through it"),
                "forward `network.listen_port` on the router, by hand or by UPnP, PCP or NAT-PMP (`network.upnp`), or use IPv6",
            ),
            ("relayed", _) => Check::warning(
                "device",
                format!("{detail}: no direct path was found yet"),
                "`ahenk-cli netcheck` there says whether its NAT is symmetric or a firewall drops UDP and TCP",
            ),
            _ => Check::ok("device", detail),
        };
    }
    let (why, hint) = cause(found, peer);
    Check::warning("device", format!("{} is not connected: {why}", peer.name), hint)
}

/// Why a device is not connected, and what to do.
fn cause(found: &NetCheck, peer: &Peer) -> (String, &'static str) {
    let error = peer.last_error.as_deref().unwrap_or_default();
    let told = |text: &str| error.to_lowercase().contains(text);
    let relay_usable = found.relays.iter().any(|relay| relay.reserved);
    if told("no longer a device") || told("not admitted") || told("not a device of this account") {
        return (
            error.to_owned(),
            "was one of the two removed, or set up for another account? `ahenk-cli device list` on both tells",
        );
    }
    if told("paused") {
        return (error.to_owned(), "`ahenk-cli resume` on that device");
    }
    if peer.addresses.is_empty() && found.relays.is_empty() {
        return match found.mdns_seen {
            None => (
                "it is not known where it is, and discovery on the local network is off".to_owned(),
                "`ahenk-cli config set network.mdns true` and `ahenk-cli restart`, or `ahenk-cli peer add`",
            ),
            Some(_) => (
                "it is not known where it is, and it is not seen on the local network".to_owned(),
                "is its daemon running? On another network a relay is needed: `network.relay_servers` on both devices. On \
                 the same one, a guest network or a firewall may keep devices apart (UDP port 5353)",
            ),
        };
    }
    if told("is another device by now") {
        return (error.to_owned(), "its address is another device's now: is it on, and in which network?");
    }
    if told("connection refused") {
        return (
            "a machine answers where it was last, but no daemon listens there".to_owned(),
            "`ahenk-cli start --daemon` there; or it is elsewhere by now, and other devices or a relay will tell",
        );
    }
    if !found.relays.is_empty() && !relay_usable {
        return (
            "no relay serves this device, and it is not found directly".to_owned(),
            "the lines about relays say why; both devices need one relay in common",
        );
    }
    if found.relays.is_empty() && elsewhere(found, peer) {
        return (
            "its addresses are in private networks that this device is not in, or need IPv6, which is not to be had \
             here, and there is no relay"
                .to_owned(),
            "run `ahenk-cli relay` on a machine that both can reach, and set `network.relay_servers` on both",
        );
    }
    if relay_usable && told("reservation") {
        return (
            "it is at none of the relays that this device uses".to_owned(),
            "is its daemon running, and has it the same `network.relay_servers`?",
        );
    }
    if error.is_empty() {
        return ("it is being looked for".to_owned(), "`ahenk-cli ping` goes on until it answers");
    }
    (
        format!("it does not answer where it was last ({error})"),
        "is it on and awake, and its daemon running? A firewall there may drop what comes in",
    )
}

/// Whether a device was only ever found in private networks, in none of which this device is, or over IPv6, which this
/// device has not.
fn elsewhere(found: &NetCheck, peer: &Peer) -> bool {
    let own: Vec<IpAddr> = found.listening.iter().filter_map(|address| ip(address)).collect();
    let apart = |address: &String| match ip(address) {
        // The usual home network: a third number for the network, the fourth for the device.
        Some(IpAddr::V4(there)) if there.is_private() => !own.iter().any(|here| match here {
            IpAddr::V4(here) => here.octets()[..3] == there.octets()[..3],
            IpAddr::V6(_) => false,
        }),
        // Link-local ones are not told.
        Some(IpAddr::V6(_)) => !own.iter().any(|here| here.is_ipv6() && !here.is_loopback()),
        _ => false,
    };
    !peer.addresses.is_empty() && peer.addresses.iter().all(apart)
}

/// The IP address that a multiaddr begins with.
fn ip(address: &str) -> Option<IpAddr> {
    let mut parts = address.split('/');
    match (parts.next()?, parts.next()?) {
        ("", "ip4" | "ip6") => parts.next()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::commands::doctor::Verdict;

    /// What is found of one device, with these facts about it and about this device.
    fn found(peer: Json, here: Json) -> Check {
        let mut whole = json!({
            "name": "phone", "id": "00000000-0000-0000-0000-000000000000", "connected": false, "path": null,
            "address": null, "round_trip_micros": null, "connected_ms": null, "in_sync": null, "peer_lacks": null,
            "we_lack": null, "clock_offset_ms": null, "ops_sent": 0, "ops_received": 0, "bytes_sent": 0,
            "bytes_received": 0, "addresses": [], "dial_failures": 0, "last_error": null, "next_attempt_ms": null,
        });
        let mut around = json!({
            "listening": ["/ip4/192.168.1.2/tcp/4001"], "nat_udp": "unknown", "nat_tcp": "unknown", "observed": [],
            "confirmed": [], "tests": [], "port_mapping": "off", "mapped": [], "relays": [], "mdns_seen": 0,
            "clock_offset_ms": null,
        });
        let join = |into: &mut Json, from: Json| {
            let Json::Object(from) = from else { panic!("an object") };
            from.into_iter().for_each(|(name, value)| into[name] = value);
        };
        join(&mut whole, peer);
        join(&mut around, here);
        around["peers"] = json!([whole]);
        let found: NetCheck = serde_json::from_value(around).expect("a report");
        checks(&found).remove(0)
    }

    #[test]
    fn each_cause_is_told_apart_and_has_its_own_advice() {
        let relay = |reserved: bool| json!([{"address": "/ip4/45.0.0.9/tcp/1/p2p/R", "reserved": reserved, "round_trip_micros": null, "last_error": null}]);
        let far = json!(["/ip4/192.168.7.7/tcp/1"]);
        let near = json!(["/ip4/192.168.1.7/tcp/1"]);
        let cases = [
            (json!({}), json!({}), "not seen on the local network"),
            (json!({}), json!({"mdns_seen": null}), "discovery on the local network is off"),
            (
                json!({"addresses": [far[0], "/ip6/2001:db8::7/tcp/1"]}),
                json!({}),
                "private networks that this device is not in",
            ),
            (
                json!({"addresses": near, "last_error": "timed out"}),
                json!({}),
                "does not answer where it was last",
            ),
            (
                json!({"addresses": near, "last_error": "X: Connection refused (os error 111)"}),
                json!({}),
                "no daemon listens",
            ),
            (
                json!({"addresses": near, "last_error": "X is another device by now"}),
                json!({}),
                "another device by now",
            ),
            (json!({"addresses": far}), json!({"relays": relay(false)}), "no relay serves this device"),
            (
                json!({"addresses": far, "last_error": "no reservation"}),
                json!({"relays": relay(true)}),
                "at none of the relays",
            ),
            (
                json!({"last_error": "it was not admitted as a device of this account in time"}),
                json!({}),
                "not admitted",
            ),
            (json!({"last_error": "this device has paused"}), json!({}), "paused"),
            (json!({"addresses": near}), json!({}), "being looked for"),
        ];
        let mut hints = std::collections::BTreeSet::new();
        for (peer, here, expected) in cases {
            let check = found(peer, here);
            assert_eq!(check.verdict, Verdict::Warning, "{expected}");
            assert!(check.detail.contains(expected), "{expected}: {}", check.detail);
            assert!(hints.insert(check.hint), "{expected} gives no advice of its own");
        }
    }

    #[test]
    fn a_relayed_path_behind_a_symmetric_nat_is_explained_and_a_direct_one_is_fine() {
        let relayed = json!({"connected": true, "path": "relayed"});
        let check = found(relayed.clone(), json!({"nat_udp": "endpoint-dependent"}));
        assert!(check.detail.contains("symmetric") && check.hint.is_some());
        assert!(found(relayed, json!({})).detail.contains("no direct path was found yet"));
        assert_eq!(found(json!({"connected": true, "path": "direct-quic"}), json!({})).verdict, Verdict::Ok);
    }
}
