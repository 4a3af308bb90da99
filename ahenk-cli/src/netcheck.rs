//! Requests about how this device stands in the network, and how far another one is.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use engine::identity::PeerKey;
use transport_libp2p::{Libp2pControl, Mapper, NatKind, PingError, PortMapping, ReachDetails, RelayDetails};

use crate::data::Names;
use crate::error::{CliError, Result, closed};
use crate::network::{node_status, path_name, peers};
use crate::report::{DialTest, NetCheck, Pong, RelayCheck};
use crate::service::Context;

/// Time between two looks at whether everybody has had their say.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Measures one round trip. That there is no answer is an answer too.
pub(crate) async fn ping(context: &Context, device: &str) -> Result<Pong> {
    let names = Names::read(context).await?;
    let device = names.one(device)?;
    if device == context.identity.device() {
        return Err(CliError::usage("that is this device itself").hint("name another device"));
    }
    let net = context.net()?;
    let status = node_status(context).await?;
    let cert = status.members.iter().find(|cert| cert.device() == device).ok_or_else(closed)?;
    let none = Pong {
        name: cert.name.clone(),
        id: device.to_string(),
        round_trip_micros: None,
        path: None,
        address: None,
        error: None,
    };
    match net.ping(cert.key).await {
        Ok(pong) => Ok(Pong {
            round_trip_micros: u64::try_from(pong.round_trip.as_micros()).ok(),
            path: Some(path_name(pong.path.kind)),
            address: Some(pong.path.address),
            ..none
        }),
        Err(PingError::TransportClosed) => Err(closed()),
        Err(PingError::NotConnected) => {
            let error = match failure(net, cert.key).await? {
                Some(why) => format!("not connected: {why}"),
                None => "not connected".to_owned(),
            };
            Ok(Pong { error: Some(error), ..none })
        }
        Err(error) => Ok(Pong { error: Some(error.to_string()), ..none }),
    }
}

/// Why the latest attempt to reach a device failed.
async fn failure(net: &Libp2pControl, key: PeerKey) -> Result<Option<String>> {
    let details = net.peers().await?.into_iter().find(|peer| peer.peer == key);
    Ok(details.and_then(|details| details.last_error))
}

/// Whether relays and devices have answered, or will not.
fn settled(reach: &ReachDetails, relays: &[RelayDetails], connected: bool) -> bool {
    let asked = relays.iter().all(|relay| relay.reserved || relay.failures > 0);
    let seen = !reach.observed.is_empty() || (!connected && !relays.iter().any(|relay| relay.reserved));
    asked && seen && (connected || relays.iter().any(|relay| relay.round_trip_micros.is_some()))
}

pub(crate) async fn netcheck(context: &Context, within: Duration) -> Result<NetCheck> {
    let (net, started) = (context.net()?, Instant::now());
    let (reach, relays, listening) = loop {
        let (reach, relays) = (net.reach().await?, net.relays().await?);
        let connected = net.peers().await?.iter().any(|peer| peer.session.is_some());
        // A daemon that has run for so long has heard what there is.
        let late = started.elapsed() >= within || context.started.elapsed() >= within;
        if late || settled(&reach, &relays, connected) {
            break (reach, relays, net.listen_addresses().await?);
        }
        tokio::time::sleep(LOOK_EVERY.min(within)).await;
    };
    let (port_mapping, pairs) = match &reach.mapping {
        PortMapping::Off => ("off", Vec::new()),
        PortMapping::Searching => ("searching", Vec::new()),
        PortMapping::NoGateway => ("no-gateway", Vec::new()),
        PortMapping::NotPublic => ("not-public", Vec::new()),
        PortMapping::Mapped(addresses) => ("mapped", addresses.clone()),
    };
    let (mapped, by): (Vec<String>, BTreeSet<Mapper>) = pairs.into_iter().unzip();
    let mut observed: Vec<String> = reach.observed.iter().map(|(_, address)| address.clone()).collect();
    observed.sort();
    observed.dedup();
    let ipv6 = ipv6(&listening).to_owned();
    Ok(NetCheck {
        listening,
        ipv6,
        nat_udp: nat_name(reach.nat_udp).to_owned(),
        nat_tcp: nat_name(reach.nat_tcp).to_owned(),
        observed,
        confirmed: reach.confirmed,
        tests: reach
            .tests
            .into_iter()
            .map(|t| DialTest { address: t.address, reachable: t.reachable })
            .collect(),
        port_mapping: port_mapping.to_owned(),
        mapped,
        mapped_by: by.into_iter().map(mapper_name).collect(),
        relays: relays.into_iter().map(relay).collect(),
        mdns_seen: reach.mdns_seen.map(|seen| seen as u64),
        clock_offset_ms: node_status(context).await?.stats.clock_offset_ms(),
        peers: peers(context).await?,
    })
}

/// How far IPv6 reaches, going by the addresses that this device listens on.
fn ipv6(listening: &[String]) -> &'static str {
    let address = |text: &String| -> Option<Ipv6Addr> {
        let mut parts = text.strip_prefix("/ip6/")?.split('/');
        parts.next()?.parse().ok()
    };
    let own = listening.iter().filter(|text| !text.contains("/p2p-circuit")).filter_map(address);
    let reach = |ip: Ipv6Addr| match (ip.is_loopback(), ip.is_unique_local()) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    match own.map(reach).max() {
        None => "off",
        Some(0) => "none",
        Some(1) => "local",
        Some(_) => "global",
    }
}

fn relay(details: RelayDetails) -> RelayCheck {
    let RelayDetails { address, reserved, round_trip_micros, last_error, .. } = details;
    RelayCheck { address, reserved, round_trip_micros, last_error }
}

fn mapper_name(by: Mapper) -> String {
    match by {
        Mapper::Upnp => "upnp",
        Mapper::Pcp => "pcp",
        Mapper::NatPmp => "nat-pmp",
    }
    .to_owned()
}

fn nat_name(kind: NatKind) -> &'static str {
    match kind {
        NatKind::Unknown => "unknown",
        NatKind::None => "none",
        NatKind::EndpointIndependent => "endpoint-independent",
        NatKind::EndpointDependent => "endpoint-dependent",
        NatKind::PortChanging => "port-changing",
    }
}

/// The time of a round trip for people.
pub(crate) fn round_trip(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::ipv6;

    #[test]
    fn how_far_ipv6_reaches_follows_from_where_this_device_listens() {
        let of =
            |listening: &[&str]| ipv6(&listening.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let circuit = "/ip6/2001:db8::9/tcp/1/p2p/R/p2p-circuit/p2p/X";
        assert_eq!(of(&["/ip4/192.0.2.1/tcp/1", circuit]), "off");
        assert_eq!(of(&["/ip6/::1/tcp/1"]), "none");
        assert_eq!(of(&["/ip6/::1/tcp/1", "/ip6/fd00::1/tcp/1"]), "local");
        assert_eq!(of(&["/ip6/fd00::1/tcp/1", "/ip6/2001:db8::1/tcp/1"]), "global");
    }
}
