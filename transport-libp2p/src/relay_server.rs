//! A relay server (circuit relay v2), through which devices reach each other that cannot otherwise.
//! It sees ciphertext only; of accounts it knows which ones it serves, if it is not for everybody.
//!
//! Invariants: it never starts without an address at which others find it; everything is bounded by
//! [`RelayLimits`]; with an allow-list, nobody else is reachable through it.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::identity::{AccountId, PeerKey, SecretKey};
use futures::StreamExt as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, Transport as _};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::metrics::Registry;
use libp2p::request_response::{Message, ProtocolSupport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, allow_block_list, autonat, identify, noise, ping, quic, relay,
    tcp,
};
use tokio::sync::oneshot;

use crate::addresses::{AddressError, Dialable, is_useless, path_kind};
use crate::admission::{self, Verdict};
use crate::config::SpawnError;
use crate::relay_gate::{Guests, SharedGuests, TestsOnly};
use crate::throttle::{Throttle, Throttled};
use crate::{keys, outside, stack};

/// Setting up a connection may take this long. Less than the ten seconds in which libp2p wants the answer to a test of
/// reachability, or a device behind a NAT would never learn that it cannot be dialed, and ask again and again.
const CONNECT: Duration = Duration::from_secs(5);

/// Tests of reachability that may be dialing at a time.
const TESTS_MAX: u32 = 32;

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
    /// Time that a reservation stands unless it is renewed, in seconds. Devices renew it after three quarters.
    pub reservation_seconds: u32,
    /// Reservations that one peer may ask for in a minute.
    pub reservation_rate_max: NonZeroU32,
    /// Reservations that may be asked for in a minute from one IP address.
    pub reservation_rate_ip_max: NonZeroU32,
    /// Circuits that one peer may ask for in a minute.
    pub circuit_rate_max: NonZeroU32,
    /// Circuits that may be asked for in a minute from one IP address.
    pub circuit_rate_ip_max: NonZeroU32,
    /// Bytes that one peer may send through it in a second, over all its circuits; 0 for no limit.
    pub peer_bytes_per_s_max: u64,
}

const fn rate(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("a rate that is not 0")
}

impl Default for RelayLimits {
    fn default() -> Self {
        RelayLimits {
            reservations_max: 1024,
            circuits_max: 256,
            circuits_per_peer_max: 16,
            circuit_bytes_max: 1024 * 1024 * 1024,
            circuit_seconds_max: 3600,
            reservation_seconds: 3600,
            reservation_rate_max: rate(10),
            reservation_rate_ip_max: rate(60),
            circuit_rate_max: rate(30),
            circuit_rate_ip_max: rate(120),
            peer_bytes_per_s_max: 0,
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
    /// Where devices find it, without `/p2p/` id. At least one, unless another relay is asked: a relay that does not
    /// know its own addresses gives out reservations that nobody can use.
    pub external: Vec<String>,
    /// Other relays, with their `/p2p/` ids, that are asked where this one is seen and can be dialed, if `external` is
    /// empty.
    pub ask: Vec<String>,
    /// Peers that may be reachable through it. Without any, and without accounts, everybody may.
    pub allow: Vec<PeerKey>,
    /// Accounts whose devices may be reachable through it; they show their certificates. Without any, peers that are
    /// not in `allow` keep no connection, where it has any.
    pub allow_accounts: Vec<AccountId>,
    /// Peers that keep no connection with it, whoever they are: devices that were revoked.
    pub deny: Vec<PeerKey>,
    /// Also test for others whether they can be dialed at addresses that are not public: in a private network.
    pub test_private: bool,
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
    /// Certificates of accounts that are served.
    pub admitted: u64,
    /// Other certificates.
    pub not_admitted: u64,
    /// Tests of reachability that were not made because the address is not public.
    pub tests_refused: u64,
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
    admitted: AtomicU64,
    not_admitted: AtomicU64,
    tests_refused: Arc<AtomicU64>,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    dials: TestsOnly,
    allowed: Toggle<allow_block_list::Behaviour<allow_block_list::AllowedPeers>>,
    denied: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    relay: relay::Behaviour,
    /// Has devices show of which account they are.
    admission: Toggle<admission::Behaviour>,
    /// Tests for devices whether they can be dialed.
    probe: autonat::v2::server::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

/// A running relay. Dropping it ends it.
#[derive(Debug)]
pub struct RelayServer {
    addresses: Vec<String>,
    counts: Arc<Counts>,
    traffic: Registry,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl RelayServer {
    /// Starts it. Returns when every listener is open.
    pub async fn spawn(config: RelayConfig) -> Result<RelayServer, SpawnError> {
        let parse = |texts: &[String]| -> Result<Vec<Multiaddr>, SpawnError> {
            texts.iter().map(|text| Ok(Dialable::parse(text)?.address)).collect()
        };
        let (listen, mut external) = (parse(&config.listen)?, parse(&config.external)?);
        if external.is_empty() && !config.ask.is_empty() {
            external = outside::find(&config.secret, &listen, &config.ask).await?;
        }
        let unusable = |address: &&Multiaddr| {
            is_useless(address) || path_kind(address) == Some(engine::transport::PathKind::Relayed)
        };
        if external.is_empty() || external.iter().find(unusable).is_some() {
            return Err(SpawnError::NoExternalAddress);
        }
        let mut traffic = Registry::default();
        let counts = Arc::new(Counts::default());
        let guests = SharedGuests::new(Guests::new(
            config.allow.iter().filter_map(keys::peer_of).collect(),
            config.allow_accounts.iter().copied().collect(),
            config.limits.reservations_max,
            Duration::from_secs(config.limits.reservation_seconds.into()),
        ));
        let mut swarm = build(&config, &guests, &counts, &mut traffic)?;
        let mut starting: HashSet<_> =
            stack::listen(&mut swarm, &listen)?.into_iter().map(|(id, _)| id).collect();
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
        let (stop, stopped) = oneshot::channel();
        let running = Running { swarm, guests, counts: Arc::clone(&counts) };
        let task = tokio::spawn(running.run(stopped));
        Ok(RelayServer { addresses, counts, traffic, stop: Some(stop), task })
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
            admitted: read(&counts.admitted),
            not_admitted: read(&counts.not_admitted),
            tests_refused: read(&counts.tests_refused),
        }
    }

    /// Bytes that passed, by direction and kind of path, as text for Prometheus.
    pub fn traffic(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.traffic);
        text
    }

    /// Ends it, and waits until its ports are free.
    pub async fn close(mut self) {
        self.stop = None;
        // An error would be a panic of the task, which then is down too.
        let _ = (&mut self.task).await;
    }
}

/// What libp2p's relay needs to know. Whether there is a place for a reservation is asked last, since it takes the place.
fn relay_config(limits: &RelayLimits, guests: &SharedGuests) -> relay::Config {
    let (may, place) = (guests.clone(), guests.clone());
    let every = |rate: NonZeroU32| Duration::from_secs(60) / rate.get();
    let mut config = relay::Config {
        // Libp2p refuses renewals too when so many are held, so it is told of no limit.
        max_reservations: usize::MAX,
        reservation_duration: Duration::from_secs(limits.reservation_seconds.into()),
        max_circuits: if limits.circuits_per_peer_max == 0 { 0 } else { limits.circuits_max },
        // libp2p compares with the circuits that are there already, by `>`: so many and one more would be let through.
        max_circuits_per_peer: limits.circuits_per_peer_max.saturating_sub(1),
        max_circuit_bytes: limits.circuit_bytes_max,
        max_circuit_duration: Duration::from_secs(limits.circuit_seconds_max.into()),
        reservation_rate_limiters: vec![Box::new(move |peer: PeerId, _: &Multiaddr, _| {
            may.lock().serves(&peer)
        })],
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    }
    .reservation_rate_per_peer(limits.reservation_rate_max, every(limits.reservation_rate_max))
    .reservation_rate_per_ip(limits.reservation_rate_ip_max, every(limits.reservation_rate_ip_max))
    .circuit_src_per_peer(limits.circuit_rate_max, every(limits.circuit_rate_max))
    .circuit_src_per_ip(limits.circuit_rate_ip_max, every(limits.circuit_rate_ip_max));
    let take = move |peer: PeerId, _: &Multiaddr, now: Instant| place.lock().reserve(peer, now);
    config.reservation_rate_limiters.push(Box::new(take));
    config
}

fn build(
    config: &RelayConfig,
    guests: &SharedGuests,
    counts: &Counts,
    traffic: &mut Registry,
) -> Result<Swarm<Behaviour>, SpawnError> {
    let keypair = keys::keypair_of(&config.secret);
    let limits = config.limits;
    let peers =
        u32::try_from(limits.reservations_max.saturating_add(limits.circuits_max * 2)).unwrap_or(u32::MAX);
    // A device that shows a certificate must be let in for that.
    let closed = !config.allow.is_empty() && config.allow_accounts.is_empty();
    let allowed = closed.then(|| {
        let mut list = allow_block_list::Behaviour::<allow_block_list::AllowedPeers>::default();
        for peer in config.allow.iter().filter_map(keys::peer_of) {
            list.allow_peer(peer);
        }
        list
    });
    let mut denied = allow_block_list::Behaviour::<allow_block_list::BlockedPeers>::default();
    for peer in config.deny.iter().filter_map(keys::peer_of) {
        denied.block_peer(peer);
    }
    let asks = !config.allow_accounts.is_empty();
    let identify = identify::Config::new(stack::PROTOCOL_FAMILY.to_owned(), keypair.public())
        .with_agent_version(concat!("ahenk-relay/", env!("CARGO_PKG_VERSION")).to_owned());
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(
            ConnectionLimits::default()
                .with_max_pending_incoming(Some(128))
                .with_max_pending_outgoing(Some(TESTS_MAX))
                .with_max_established(Some(peers))
                .with_max_established_per_peer(Some(8)),
        ),
        dials: TestsOnly::new(config.test_private, Arc::clone(&counts.tests_refused)),
        allowed: Toggle::from(allowed),
        denied,
        relay: relay::Behaviour::new(keypair.public().to_peer_id(), relay_config(&limits, guests)),
        admission: Toggle::from(asks.then(|| admission::behaviour(ProtocolSupport::Inbound))),
        probe: autonat::v2::server::Behaviour::default(),
        ping: ping::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
    };
    let setup = |error: &dyn std::fmt::Display| SpawnError::Setup(error.to_string());
    Ok(SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|keypair| transport(keypair, Throttle::new(limits.peer_bytes_per_s_max)))
        .map_err(|error| setup(&error))?
        .with_bandwidth_metrics(traffic)
        .with_behaviour(|_| behaviour)
        .map_err(|never| setup(&never))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(stack::IDLE))
        .with_connection_timeout(CONNECT)
        .build())
}

/// TCP and QUIC, both slowed down by the same throttle.
fn transport(
    keypair: &Keypair,
    throttle: Throttle,
) -> Result<Boxed<(PeerId, Throttled)>, Box<dyn std::error::Error + Send + Sync>> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair)?)
        .multiplex(stack::multiplexer())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::tokio::Transport::new(stack::quic_limits(quic::Config::new(keypair)))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let slowed = quic.or_transport(tcp).map(move |either, _| {
        let (peer, muxer) = either.into_inner();
        (peer, throttle.connection(peer, muxer))
    });
    Ok(slowed.boxed())
}

/// What the relay's task owns.
struct Running {
    swarm: Swarm<Behaviour>,
    guests: SharedGuests,
    counts: Arc<Counts>,
}

fn more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Running {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let event = tokio::select! {
                event = self.swarm.select_next_some() => event,
                _ = &mut stopped => break,
            };
            match event {
                SwarmEvent::Behaviour(BehaviourEvent::Relay(event)) => self.on_relay_event(&event),
                SwarmEvent::Behaviour(BehaviourEvent::Admission(event)) => self.on_admission(event),
                SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                    self.guests.lock().gone(&peer_id);
                }
                _ => {}
            }
            let connected = self.swarm.network_info().connection_counters().num_established();
            self.counts.connections.store(connected.into(), Ordering::Relaxed);
            let held = self.guests.lock().held(Instant::now());
            self.counts.reservations.store(held as u64, Ordering::Relaxed);
        }
        let listening: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        drop(self);
        stack::released(&listening, Duration::from_secs(1)).await;
    }

    /// A device shows its certificate.
    fn on_admission(&mut self, event: admission::Event) {
        let admission::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } =
            event
        else {
            return;
        };
        let verdict = self.guests.lock().present(peer, &request);
        if verdict == Verdict::Served {
            more(&self.counts.admitted);
            tracing::info!(%peer, "of an account that is served");
        } else {
            more(&self.counts.not_admitted);
            tracing::warn!(%peer, ?verdict, "not served");
        }
        if let Some(admission) = self.swarm.behaviour_mut().admission.as_mut() {
            // Fails if the device has gone meanwhile.
            let _ = admission.send_response(channel, verdict);
        }
    }

    fn on_relay_event(&mut self, event: &relay::Event) {
        use relay::Event as E;
        let counts = &self.counts;
        match event {
            E::ReservationReqAccepted { src_peer_id, renewed } => {
                more(&counts.reservations_accepted);
                tracing::info!(peer = %src_peer_id, renewed, "reservation");
            }
            E::ReservationTimedOut { src_peer_id } => self.guests.lock().release(src_peer_id),
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
    }
}
