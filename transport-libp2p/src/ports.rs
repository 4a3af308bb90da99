//! Has the router map ports to this device by PCP or NAT-PMP, for routers that do not by UPnP (which libp2p speaks).
//!
//! A task of its own talks to the router, because each question may take seconds; it is told which ports are wanted and
//! tells what came of it. Invariants: only ports of a private IPv4 address that faces the router are asked for, at most
//! [`PORTS_MAX`]; a mapping is renewed long before it ends, and given back when it is no longer wanted or the transport
//! ends; only addresses of the whole internet are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    InternetProtocol, MappingFailure, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp,
};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::reach::{Mapper, Unmapped};
use crate::relay_gate::{is_public, is_shared};

/// Most ports that are asked for.
const PORTS_MAX: usize = 8;
/// Time for which a mapping is asked.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Longest time between two renewals: a router that starts anew has forgotten all.
const RENEW_MAX: Duration = Duration::from_secs(600);
/// Addresses come and go several at a time, and UPnP has the first go.
const GATHER: Duration = Duration::from_secs(2);
/// First and longest wait after a router did not answer, or refused.
const RETRY: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(1800);
/// What is not given back in this time, the router forgets by itself.
const CLOSE_MAX: Duration = Duration::from_millis(500);
/// A router answers at once or not at all.
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };

/// A port that others are to reach from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    ip: Ipv4Addr,
    port: NonZeroU16,
    udp: bool,
}

impl Port {
    /// The port of a listener, if a router may stand between it and the others.
    pub(crate) fn of(address: &Multiaddr) -> Option<Port> {
        let mut parts = address.iter();
        let Some(Protocol::Ip4(ip)) = parts.next() else { return None };
        let (port, udp) = match (parts.next()?, parts.next()) {
            (Protocol::Tcp(port), None) => (port, false),
            (Protocol::Udp(port), Some(Protocol::QuicV1)) if parts.next().is_none() => (port, true),
            _ => return None,
        };
        (ip.is_private() || is_shared(ip)).then_some(Port { ip, port: NonZeroU16::new(port)?, udp })
    }

    /// Where others reach it.
    fn outside(self, ip: Ipv4Addr, port: NonZeroU16) -> Multiaddr {
        let address = Multiaddr::from(ip);
        match self.udp {
            true => address.with(Protocol::Udp(port.get())).with(Protocol::QuicV1),
            false => address.with(Protocol::Tcp(port.get())),
        }
    }
}

/// What the task tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortNews {
    Mapped(Multiaddr, Mapper),
    Unmapped(Multiaddr),
    /// Nothing is mapped, and why.
    Not(Unmapped),
}

/// What is wanted; `look` changes when the network has, so that the router is asked anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    ports: BTreeSet<Port>,
    look: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ports {
    wanted: watch::Sender<Wanted>,
    news: mpsc::Receiver<PortNews>,
    task: JoinHandle<()>,
}

impl Ports {
    pub(crate) fn spawn() -> Ports {
        let (wanted, want) = watch::channel(Wanted::default());
        let (tell, news) = mpsc::channel(PORTS_MAX);
        Ports { wanted, news, task: tokio::spawn(run(want, tell)) }
    }

    /// These ports are wanted from now on; `anew` if the router is to be asked for all of them again.
    pub(crate) fn want(&self, ports: impl Iterator<Item = Port>, anew: bool) {
        let ports: BTreeSet<Port> = ports.take(PORTS_MAX).collect();
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.ports != ports || (anew && !ports.is_empty());
            wanted.ports = ports;
            wanted.look += u64::from(changed);
            changed
        });
    }

    /// The next news; never, if there is nobody who would tell.
    pub(crate) async fn news(ports: &mut Option<Ports>) -> PortNews {
        if let Some(ports) = ports
            && let Some(news) = ports.news.recv().await
        {
            return news;
        }
        std::future::pending().await
    }

    /// Gives back what was mapped.
    pub(crate) async fn close(self) {
        let Ports { wanted, mut news, mut task } = self;
        drop(wanted);
        news.close();
        if tokio::time::timeout(CLOSE_MAX, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// A mapping that the router made.
struct Held {
    mapping: PortMapping,
    outside: Multiaddr,
    /// When to renew it.
    renew: Instant,
}

async fn run(mut wanted: watch::Receiver<Wanted>, tell: mpsc::Sender<PortNews>) {
    let mut held: BTreeMap<Port, Held> = BTreeMap::new();
    let (mut look, mut retry, mut again) = (0, RETRY, None);
    loop {
        let now = Instant::now();
        let next = held.values().map(|held| held.renew).chain(again).min();
        let next = next.unwrap_or(now + RETRY_MAX);
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    break;
                }
                tokio::time::sleep(GATHER).await;
                retry = RETRY;
            }
            () = tokio::time::sleep_until(next) => {}
        }
        let want = wanted.borrow_and_update().clone();
        let anew = std::mem::replace(&mut look, want.look) != want.look;
        let gone: Vec<Port> = held.keys().filter(|port| !want.ports.contains(port)).copied().collect();
        for held in gone.iter().filter_map(|port| held.remove(port)) {
            give_back(held, &tell).await;
        }
        if want.ports.is_empty() {
            again = None;
            continue;
        }
        let failed = ask(&want.ports, anew, &mut held, &tell).await;
        if let (Some(why), true) = (failed, held.is_empty()) {
            let _ = tell.send(PortNews::Not(why)).await;
        }
        again = failed.map(|_| Instant::now() + retry);
        retry = failed.map_or(RETRY, |_| (retry * 2).min(RETRY_MAX));
    }
    for held in held.into_values() {
        give_back(held, &tell).await;
    }
}

/// Asks for what is lacking or due; all of it if `anew`. Why not all is mapped, if so.
async fn ask(
    ports: &BTreeSet<Port>,
    anew: bool,
    held: &mut BTreeMap<Port, Held>,
    tell: &mpsc::Sender<PortNews>,
) -> Option<Unmapped> {
    let Some((gateway, facing)) = gateway().await else { return Some(Unmapped::NoGateway) };
    let mut failed = None;
    for port in ports.iter().filter(|port| port.ip == facing) {
        if held.get(port).is_some_and(|held| !anew && held.renew > Instant::now()) {
            continue;
        }
        match map(*port, gateway).await {
            Ok((new, by)) => {
                let news = PortNews::Mapped(new.outside.clone(), by);
                let before = held.insert(*port, new).map(|before| before.outside);
                if let Some(before) = before.filter(|before| PortNews::Mapped(before.clone(), by) != news) {
                    let _ = tell.send(PortNews::Unmapped(before)).await;
                }
                let _ = tell.send(news).await;
            }
            Err(why) => {
                failed = Some(why);
                // One that is still good stays so until it ends, or the router says no.
                let lasts = |held: &Held| !anew && held.mapping.expiration() > std::time::Instant::now();
                match held.get_mut(port) {
                    Some(held) if lasts(held) => held.renew = Instant::now() + RETRY,
                    _ => {
                        if let Some(held) = held.remove(port) {
                            let _ = tell.send(PortNews::Unmapped(held.outside)).await;
                        }
                    }
                }
            }
        }
    }
    failed
}

async fn map(port: Port, gateway: Ipv4Addr) -> Result<(Held, Mapper), Unmapped> {
    let protocol = if port.udp { InternetProtocol::Udp } else { InternetProtocol::Tcp };
    let options = PortMappingOptions {
        external_port: Some(port.port),
        lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
        timeout_config: Some(PATIENCE),
    };
    let asked = PortMapping::new(gateway.into(), port.ip.into(), protocol, port.port, options).await;
    let asked = match asked {
        // An old router may not even say that it does not know PCP.
        Err(MappingFailure::Pcp(_)) => {
            natpmp::port_mapping(gateway.into(), protocol, port.port, options).await.map_err(Into::into)
        }
        asked => asked,
    };
    let mapping = asked.map_err(|error: MappingFailure| {
        tracing::debug!(%error, ?port, "the router maps no port by PCP or NAT-PMP");
        Unmapped::NoGateway
    })?;
    let (ip, by) = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip: IpAddr::V4(ip), .. } => (ip, Mapper::Pcp),
        PortMappingType::Pcp { .. } => return Err(Unmapped::NotPublic),
        PortMappingType::NatPmp => {
            let asked = natpmp::external_address(gateway.into(), Some(PATIENCE)).await;
            (asked.map_err(|_| Unmapped::NoGateway)?, Mapper::NatPmp)
        }
    };
    let outside = port.outside(ip, mapping.external_port());
    let renew = Instant::now() + (Duration::from_secs(mapping.lifetime().into()) / 2).min(RENEW_MAX);
    let held = Held { mapping, outside, renew };
    if is_public(&held.outside) {
        return Ok((held, by));
    }
    let _ = held.mapping.try_drop().await;
    Err(Unmapped::NotPublic)
}

async fn give_back(held: Held, tell: &mpsc::Sender<PortNews>) {
    if let Err((error, _)) = held.mapping.try_drop().await {
        tracing::debug!(%error, address = %held.outside, "a mapped port was not given back");
    }
    let _ = tell.send(PortNews::Unmapped(held.outside)).await;
}

/// The router that leads out, and our address that faces it.
async fn gateway() -> Option<(Ipv4Addr, Ipv4Addr)> {
    let found = tokio::task::spawn_blocking(netdev::get_default_gateway).await.ok()?.ok()?;
    let gateway = *found.ipv4.first()?;
    // Sends nothing: it asks the system which way it would.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((gateway, crab_nat::GATEWAY_PORT)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(facing) => Some((gateway, facing)),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_a_router_may_hide_are_asked_for() {
        let of = |text: &str| Port::of(&text.parse().expect(text));
        let quic = of("/ip4/192.168.1.2/udp/4001/quic-v1").expect("behind a router");
        let outside = quic.outside(Ipv4Addr::new(45, 0, 0, 1), NonZeroU16::new(7).expect("not 0"));
        assert_eq!(outside.to_string(), "/ip4/45.0.0.1/udp/7/quic-v1");
        assert!(of("/ip4/10.0.0.2/tcp/4001").is_some() && of("/ip4/100.64.0.2/tcp/4001").is_some());
        for other in [
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/45.0.0.1/tcp/4001",
            "/ip6/fd00::1/tcp/4001",
            "/ip4/192.168.1.2/tcp/0",
            "/ip4/192.168.1.9/tcp/1/p2p/12D3KooWS6HvNfwJ7Q4fKi1noNqxvnmszBH5ANkbs9Ey7X26aEjt/p2p-circuit",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
