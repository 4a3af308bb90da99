//! Puts libp2p's stack together: transports, limits, behaviours, and the listeners.
//!
//! Invariants: at most 64 streams on a connection, 32 connections being set up each way, 128
//! established, 4 with one peer; gossip is signed and strictly validated, on one topic, and nothing
//! is passed on before we have looked at it.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use engine::config::BROADCAST_BYTES_MAX;
use engine::identity::PeerKey;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::ProtocolSupport;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, autonat, dcutr, gossipsub, identify, mdns, noise, ping, quic, relay,
    swarm, tcp, upnp, yamux,
};

use crate::addresses::{Dialable, path_kind};
use crate::admission;
use crate::behaviour::{Behaviour, Streams};
use crate::config::{Libp2pConfig, SpawnError, Timings};
use crate::gate::MembersOnly;
use crate::hub::Hub;
use crate::keys;
use crate::telling;

/// What we call ourselves to peers; those that call themselves otherwise are not ours.
pub(crate) const PROTOCOL_FAMILY: &str = "ahenk/1";

const STREAMS_MAX: u32 = 64;
const PENDING_MAX: u32 = 32;
const ESTABLISHED_MAX: u32 = 128;
const PER_PEER_MAX: u32 = 4;
/// Streams whose protocol is being agreed upon, on one connection.
const NEGOTIATING_MAX: usize = 16;
/// What a QUIC peer may have under way to us on one stream, in bytes.
const QUIC_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What a QUIC peer may have under way to us on one connection, in bytes.
const QUIC_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Room for the topic, the signature and the framing of a hint, in bytes.
const GOSSIP_OVERHEAD_BYTES: usize = 1024;
/// Time between two rounds of upkeep of the gossip mesh. Hints go to everybody at once anyway.
const GOSSIP_HEARTBEAT: Duration = Duration::from_secs(5);
/// A connection without streams is closed after this time.
pub(crate) const IDLE: Duration = Duration::from_secs(10);
/// Setting up a connection, encryption included, may take this long. Less than the ten seconds in which libp2p wants
/// the answer to a test of reachability.
const CONNECT: Duration = Duration::from_secs(8);

pub(crate) fn topic(config: &Libp2pConfig) -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new(&config.topic)
}

/// Builds the swarm. It does not listen yet.
pub(crate) fn build(
    config: &Libp2pConfig,
    hub: &Arc<Hub>,
    relays: BTreeSet<PeerKey>,
) -> Result<Swarm<Behaviour>, SpawnError> {
    let keypair = keys::keypair_of(&config.secret);
    let behaviour = behaviour(config, &keypair, hub, relays)?;
    let setup = |error: &dyn std::fmt::Display| SpawnError::Setup(error.to_string());
    let transports = || -> Result<_, noise::Error> {
        Ok(SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, multiplexer)?
            .with_quic_config(quic_limits))
    };
    // Names are resolved as the system is configured to; where it is not, there are only addresses.
    let swarm = match transports().map_err(|error| setup(&error))?.with_dns() {
        Ok(builder) => builder
            .with_relay_client(noise::Config::new, multiplexer)
            .map_err(|error| setup(&error))?
            .with_behaviour(|_, relay| behaviour(relay))
            .map_err(|never| setup(&never))?
            .with_swarm_config(swarm_limits)
            .with_connection_timeout(CONNECT)
            .build(),
        Err(error) => {
            tracing::warn!(%error, "no name resolution: peers can be dialed by IP address only");
            transports()
                .map_err(|error| setup(&error))?
                .with_relay_client(noise::Config::new, multiplexer)
                .map_err(|error| setup(&error))?
                .with_behaviour(|_, relay| behaviour(relay))
                .map_err(|never| setup(&never))?
                .with_swarm_config(swarm_limits)
                .with_connection_timeout(CONNECT)
                .build()
        }
    };
    Ok(swarm)
}

pub(crate) fn multiplexer() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX as usize);
    config
}

pub(crate) fn quic_limits(mut config: quic::Config) -> quic::Config {
    config.max_concurrent_stream_limit = STREAMS_MAX;
    config.max_stream_data = QUIC_STREAM_WINDOW_BYTES;
    config.max_connection_data = QUIC_CONNECTION_WINDOW_BYTES;
    config
}

fn swarm_limits(config: swarm::Config) -> swarm::Config {
    config
        .with_idle_connection_timeout(IDLE)
        .with_max_negotiating_inbound_streams(NEGOTIATING_MAX)
        // Saves a round trip for every stream: the first data travels with the proposal.
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_smart_dial()
}

/// All behaviours but the relay client, which is made together with its transport.
fn behaviour(
    config: &Libp2pConfig,
    keypair: &Keypair,
    hub: &Arc<Hub>,
    relays: BTreeSet<PeerKey>,
) -> Result<impl FnOnce(relay::client::Behaviour) -> Behaviour, SpawnError> {
    let local = keypair.public().to_peer_id();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX))
        .with_max_established(Some(ESTABLISHED_MAX))
        .with_max_established_per_peer(Some(PER_PEER_MAX));
    // One of them speaks over IPv4 or IPv6, and tells addresses of that kind only.
    let mdns_over = |enable_ipv6| {
        let mdns = mdns::Config { enable_ipv6, ..mdns::Config::default() };
        mdns::tokio::Behaviour::new(mdns, local).map_err(SpawnError::Discovery)
    };
    let mdns = config.mdns.then(|| mdns_over(false)).transpose()?;
    let mdns6 = (config.mdns && has_ipv6()).then(|| mdns_over(true)).transpose()?;
    let identify = identify::Config::new(PROTOCOL_FAMILY.to_owned(), keypair.public())
        .with_agent_version(concat!("ahenk/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_push_listen_addr_updates(true);
    let gossip = MembersOnly::new(gossip(config, keypair)?, Arc::clone(hub));
    let punch = MembersOnly::new(dcutr::Behaviour::new(local), Arc::clone(hub));
    let reach =
        MembersOnly::new(autonat::v2::client::Behaviour::default(), Arc::clone(hub)).and_relays(relays);
    let probe = MembersOnly::new(autonat::v2::server::Behaviour::default(), Arc::clone(hub));
    let telling = MembersOnly::new(telling::behaviour(), Arc::clone(hub));
    let upnp = Toggle::from(config.upnp.then(upnp::tokio::Behaviour::default));
    let (streams, ping) = (Streams::new(Arc::clone(hub)), ping::Behaviour::new(ping_config(&config.timings)));
    Ok(move |relay| Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        streams,
        ping,
        identify: identify::Behaviour::new(identify),
        gossip,
        mdns: Toggle::from(mdns),
        mdns6: Toggle::from(mdns6),
        relay,
        admission: admission::behaviour(ProtocolSupport::Outbound),
        punch,
        reach,
        probe,
        upnp,
        telling,
    })
}

fn ping_config(timings: &Timings) -> ping::Config {
    ping::Config::new()
        .with_interval(Duration::from_millis(timings.ping_ms))
        .with_timeout(Duration::from_millis(timings.ping_answer_ms_max))
}

fn gossip(
    config: &Libp2pConfig,
    keypair: &Keypair,
) -> Result<gossipsub::Behaviour<gossipsub::IdentityTransform, crate::behaviour::Topics>, SpawnError> {
    let setup = |error: String| SpawnError::Setup(format!("gossip: {error}"));
    let gossip_config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(BROADCAST_BYTES_MAX + GOSSIP_OVERHEAD_BYTES)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .build()
        .map_err(|error| setup(error.to_string()))?;
    let topic = topic(config);
    let topics = gossipsub::WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let authenticity = gossipsub::MessageAuthenticity::Signed(keypair.clone());
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter(authenticity, gossip_config, topics)
        .map_err(|error| setup(error.to_owned()))?;
    gossip.subscribe(&topic).map_err(|error| setup(error.to_string()))?;
    Ok(gossip)
}

/// Begins to listen everywhere, or fails without listening anywhere for long. All IPv6 interfaces of a machine that has
/// none are passed over, if there is anything else to listen on.
pub(crate) fn listen<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    addresses: &[Multiaddr],
) -> Result<Vec<(ListenerId, Multiaddr)>, SpawnError> {
    let (absent, present) = split(addresses, has_ipv6());
    match absent.first() {
        // A listener there would never say that it has begun.
        Some(address) if present.is_empty() => {
            return Err(listen_error(address, io::ErrorKind::AddrNotAvailable.into()));
        }
        Some(_) => tracing::info!("this machine has no IPv6: listening on IPv4 only"),
        None => {}
    }
    for address in &present {
        probe(address).map_err(|error| listen_error(address, error))?;
    }
    let mut listeners = Vec::new();
    for address in present {
        let listener = swarm.listen_on(address.clone()).map_err(|error| match error {
            TransportError::Other(error) => listen_error(address, error),
            TransportError::MultiaddrNotSupported(_) => {
                crate::AddressError::Unsupported { address: address.to_string() }.into()
            }
        })?;
        listeners.push((listener, address.clone()));
    }
    Ok(listeners)
}

/// The addresses that stand for interfaces which a machine without IPv6 does not have, and the others.
fn split(addresses: &[Multiaddr], ipv6: bool) -> (Vec<&Multiaddr>, Vec<&Multiaddr>) {
    let absent = |address: &&Multiaddr| match address.iter().next() {
        Some(Protocol::Ip6(ip)) => !ipv6 && ip.is_unspecified(),
        _ => false,
    };
    addresses.iter().partition(absent)
}

/// Whether this machine speaks IPv6 at all, if only with itself. One that may not can still bind to `::`.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Binds for a moment. libp2p's TCP listeners share their port with whoever else of this user listens
/// there, so that two instances would silently take connections from each other; a plain bind tells.
fn probe(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind(SocketAddr::new(ip, port)).map(drop),
        Some(Protocol::Udp(port)) if port != 0 => UdpSocket::bind(SocketAddr::new(ip, port)).map(drop),
        _ => Ok(()),
    }
}

pub(crate) fn listen_error(address: &Multiaddr, error: io::Error) -> SpawnError {
    let address = address.to_string();
    match error.kind() {
        io::ErrorKind::AddrInUse => SpawnError::AddressInUse { address },
        io::ErrorKind::AddrNotAvailable => SpawnError::AddressNotAvailable { address },
        _ => SpawnError::Listen { address, source: error },
    }
}

/// Reads the addresses to listen on: those of a kind that may be used.
pub(crate) fn listen_addresses(config: &Libp2pConfig) -> Result<Vec<Multiaddr>, SpawnError> {
    let mut addresses = Vec::new();
    for text in &config.listen {
        let address = Dialable::parse(text)?.address;
        if path_kind(&address).is_some_and(|kind| config.paths.contains(&kind)) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Waits until nobody listens on these addresses any more, for at most `time_max`: QUIC keeps its
/// socket until the last connection has said good-bye.
pub(crate) async fn released(addresses: &[Multiaddr], time_max: Duration) {
    let releasing = async {
        for address in addresses {
            while probe(address).is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let _ = tokio::time::timeout(time_max, releasing).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_only_its_interfaces_in_general_are_passed_over() {
        let all = ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/ip6/::/udp/1/quic-v1", "/ip6/2001:db8::1/tcp/1"];
        let all = all.map(|text| text.parse::<Multiaddr>().expect(text));
        assert_eq!(split(&all, false), (vec![&all[1], &all[2]], vec![&all[0], &all[3]]));
        assert_eq!(split(&all, true), (vec![], all.iter().collect()));
    }
}
