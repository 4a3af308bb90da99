//! A relay server (circuit relay v2), through which devices reach each other that cannot otherwise.
//! It sees ciphertext only, and knows nothing of accounts.
//!
//! Invariants: it never starts without an address at which others find it; everything is bounded by
//! [`RelayLimits`]; with an allow-list, nobody else keeps a connection with it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::identity::{PeerKey, SecretKey};
use futures::StreamExt as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, allow_block_list, identify, noise, ping, relay, tcp};
use tokio::sync::oneshot;

use crate::addresses::{AddressError, Dialable, is_useless, path_kind};
use crate::config::SpawnError;
use crate::keys;
use crate::stack;

/// Bounds of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Devices that may hold a reservation at a time.
    pub reservations_max: usize,
    /// Circuits at a time.
    pub circuits_max: usize,
    /// Circuits at a time of one device that calls.
    pub circuits_per_peer_max: usize,
    /// Bytes that may pass through one circuit, each way; then it is cut.
    pub circuit_bytes_max: u64,
    /// Time that a circuit may last, in seconds; then it is cut.
    pub circuit_seconds_max: u32,
}

impl Default for RelayLimits {
    fn default() -> Self {
        RelayLimits {
            reservations_max: 1024,
            circuits_max: 256,
            circuits_per_peer_max: 16,
            circuit_bytes_max: 1024 * 1024 * 1024,
            circuit_seconds_max: 3600,
        }
    }
}

/// What a relay is started with.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Its own key; its peer id is made of it.
    pub secret: SecretKey,
    /// Multiaddrs to listen on, TCP and QUIC.
    pub listen: Vec<String>,
    /// Where devices find it, without `/p2p/` id. At least one: a relay that does not know its own
    /// addresses gives out reservations that nobody can use.
    pub external: Vec<String>,
    /// The peers that may use it; `None` for everybody.
    pub allow: Option<Vec<PeerKey>>,
    /// Its bounds.
    pub limits: RelayLimits,
}

/// Reads a peer id, as it stands at the end of an address, after `/p2p/`.
pub fn parse_peer(text: &str) -> Result<PeerKey, AddressError> {
    let id = text.parse::<PeerId>().ok().and_then(|id| keys::key_of(&id));
    id.ok_or_else(|| AddressError::BadPeer { address: text.chars().take(100).collect() })
}

/// What a relay has done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayCounters {
    /// Peers connected now.
    pub connections: u64,
    /// Reservations that are held now.
    pub reservations: u64,
    /// Reservations made and renewed.
    pub reservations_accepted: u64,
    /// Reservations refused.
    pub reservations_denied: u64,
    /// Circuits that are open now.
    pub circuits: u64,
    /// Circuits opened.
    pub circuits_accepted: u64,
    /// Circuits refused.
    pub circuits_denied: u64,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    reservations: AtomicU64,
    reservations_accepted: AtomicU64,
    reservations_denied: AtomicU64,
    circuits: AtomicU64,
    circuits_accepted: AtomicU64,
    circuits_denied: AtomicU64,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    allowed: Toggle<allow_block_list::Behaviour<allow_block_list::AllowedPeers>>,
    relay: relay::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

/// A running relay. Dropping it ends it.
#[derive(Debug)]
pub struct RelayServer {
    addresses: Vec<String>,
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl RelayServer {
    /// Starts it. Returns when every listener is open.
    pub async fn spawn(config: RelayConfig) -> Result<RelayServer, SpawnError> {
        let parse = |texts: &[String]| -> Result<Vec<Multiaddr>, SpawnError> {
            texts.iter().map(|text| Ok(Dialable::parse(text)?.address)).collect()
        };
        let (listen, external) = (parse(&config.listen)?, parse(&config.external)?);
        let unusable = |address: &&Multiaddr| {
            is_useless(address) || path_kind(address) == Some(engine::transport::PathKind::Relayed)
        };
        if external.is_empty() || external.iter().find(unusable).is_some() {
            return Err(SpawnError::NoExternalAddress);
        }
        let mut swarm = build(&config)?;
        let mut starting: HashSet<_> = stack::listen(&mut swarm, &listen)?.into_iter().collect();
        while !starting.is_empty() {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    starting.remove(&listener_id);
                }
                SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                    let address =
                        addresses.first().or(listen.first()).cloned().unwrap_or_else(Multiaddr::empty);
                    let error = reason.err().unwrap_or_else(|| std::io::ErrorKind::ConnectionAborted.into());
                    return Err(stack::listen_error(&address, error));
                }
                _ => {}
            }
        }
        let local = *swarm.local_peer_id();
        let addresses = external.iter().map(|address| format!("{address}/p2p/{local}")).collect();
        for address in external {
            swarm.add_external_address(address);
        }
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(swarm, Arc::clone(&counts), stopped));
        Ok(RelayServer { addresses, counts, stop: Some(stop), task })
    }

    /// The addresses to give to devices, with the relay's id.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// A handle that reads the counters, also after the relay has ended.
    pub fn counters(&self) -> RelayCounters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        RelayCounters {
            connections: read(&counts.connections),
            reservations: read(&counts.reservations),
            reservations_accepted: read(&counts.reservations_accepted),
            reservations_denied: read(&counts.reservations_denied),
            circuits: read(&counts.circuits),
            circuits_accepted: read(&counts.circuits_accepted),
            circuits_denied: read(&counts.circuits_denied),
        }
    }

    /// Ends it, and waits until its ports are free.
    pub async fn close(mut self) {
        self.stop = None;
        // An error would be a panic of the task, which then is down too.
        let _ = (&mut self.task).await;
    }
}

fn build(config: &RelayConfig) -> Result<Swarm<Behaviour>, SpawnError> {
    let keypair = keys::keypair_of(&config.secret);
    let limits = config.limits;
    let peers =
        u32::try_from(limits.reservations_max.saturating_add(limits.circuits_max * 2)).unwrap_or(u32::MAX);
    let allowed = config.allow.as_ref().map(|allow| {
        let mut list = allow_block_list::Behaviour::<allow_block_list::AllowedPeers>::default();
        for peer in allow.iter().filter_map(keys::peer_of) {
            list.allow_peer(peer);
        }
        list
    });
    let relay = relay::Config {
        max_reservations: limits.reservations_max,
        max_circuits: if limits.circuits_per_peer_max == 0 { 0 } else { limits.circuits_max },
        // libp2p compares with the circuits that are there already, by `>`: so many and one more would be let through.
        max_circuits_per_peer: limits.circuits_per_peer_max.saturating_sub(1),
        max_circuit_bytes: limits.circuit_bytes_max,
        max_circuit_duration: Duration::from_secs(limits.circuit_seconds_max.into()),
        ..relay::Config::default()
    };
    let identify = identify::Config::new(stack::PROTOCOL_FAMILY.to_owned(), keypair.public())
        .with_agent_version(concat!("ahenk-relay/", env!("CARGO_PKG_VERSION")).to_owned());
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(
            ConnectionLimits::default()
                .with_max_pending_incoming(Some(128))
                .with_max_established(Some(peers))
                .with_max_established_per_peer(Some(8)),
        ),
        allowed: Toggle::from(allowed),
        relay: relay::Behaviour::new(keypair.public().to_peer_id(), relay),
        ping: ping::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
    };
    let setup = |error: &dyn std::fmt::Display| SpawnError::Setup(error.to_string());
    Ok(SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, stack::multiplexer)
        .map_err(|error| setup(&error))?
        .with_quic_config(stack::quic_limits)
        .with_behaviour(|_| behaviour)
        .map_err(|never| setup(&never))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(stack::IDLE))
        .build())
}

async fn run(mut swarm: Swarm<Behaviour>, counts: Arc<Counts>, mut stopped: oneshot::Receiver<()>) {
    let mut held = BTreeSet::new();
    loop {
        let event = tokio::select! {
            event = swarm.select_next_some() => event,
            _ = &mut stopped => break,
        };
        if let SwarmEvent::Behaviour(BehaviourEvent::Relay(event)) = event {
            on_relay_event(&event, &counts, &mut held);
        }
        let connected = swarm.network_info().connection_counters().num_established();
        counts.connections.store(connected.into(), Ordering::Relaxed);
    }
    let listening: Vec<Multiaddr> = swarm.listeners().cloned().collect();
    drop(swarm);
    stack::released(&listening, Duration::from_secs(1)).await;
}

fn on_relay_event(event: &relay::Event, counts: &Counts, held: &mut BTreeSet<PeerId>) {
    use relay::Event as E;
    let more = |count: &AtomicU64| {
        count.fetch_add(1, Ordering::Relaxed);
    };
    match event {
        E::ReservationReqAccepted { src_peer_id, renewed } => {
            held.insert(*src_peer_id);
            more(&counts.reservations_accepted);
            tracing::info!(peer = %src_peer_id, renewed, "reservation");
        }
        E::ReservationClosed { src_peer_id } | E::ReservationTimedOut { src_peer_id } => {
            held.remove(src_peer_id);
        }
        E::ReservationReqDenied { src_peer_id, status } => {
            more(&counts.reservations_denied);
            tracing::warn!(peer = %src_peer_id, ?status, "reservation denied");
        }
        E::CircuitReqAccepted { src_peer_id, dst_peer_id } => {
            more(&counts.circuits);
            more(&counts.circuits_accepted);
            tracing::info!(from = %src_peer_id, to = %dst_peer_id, "circuit opened");
        }
        E::CircuitReqDenied { src_peer_id, dst_peer_id, status } => {
            more(&counts.circuits_denied);
            tracing::info!(from = %src_peer_id, to = %dst_peer_id, ?status, "circuit denied");
        }
        E::CircuitClosed { src_peer_id, dst_peer_id, error } => {
            counts.circuits.fetch_sub(1, Ordering::Relaxed);
            tracing::info!(from = %src_peer_id, to = %dst_peer_id, ?error, "circuit closed");
        }
        _ => {}
    }
    counts.reservations.store(held.len() as u64, Ordering::Relaxed);
}
