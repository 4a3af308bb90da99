//! The one task that owns the swarm. It turns the swarm's events into steps of the pure parts
//! (dialer, address book, connection table) and of the hub, and performs what they decide.
//!
//! Invariants: this task never waits for the owner or for a peer; everything it keeps is bounded;
//! when it ends, the hub is shut, so the owner hears of the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use engine::identity::{DeviceCert, PeerKey, SecretKey};
use engine::transport::PathKind;
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, Swarm, gossipsub};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::addresses::{AddressBook, Dialable, Source, path_kind};
use crate::behaviour::Behaviour;
use crate::carrier::{self, CarrierEnd};
use crate::config::{Libp2pConfig, SpawnError, Timings};
use crate::connections::{Connection, Connections};
use crate::control::{Command, DialError};
use crate::dialer::Dialer;
use crate::discovery::Discovery;
use crate::handler::Purpose;
use crate::hub::Hub;
use crate::keys;
use crate::pairing::{ConnectReply, Desk, PairConnectError};
use crate::ports::Ports;
use crate::reach::Reach;
use crate::relays::{self, Relays};
use crate::stack;
use crate::swarm_events::{describe, root_cause};
use crate::telling::Telling;
use crate::watch::{self, Change, Watch};
use crate::whereabouts::Whereabouts;

/// Commands that may wait for this task.
pub(crate) const COMMANDS_MAX: usize = 64;

/// A dial that somebody waits for.
#[derive(Debug)]
pub(crate) enum Errand {
    /// The dialer's own.
    Reconnect(PeerKey),
    /// The user's: offer a session, whoever is there.
    Session(oneshot::Sender<Result<PeerKey, DialError>>),
    Pair(ConnectReply),
    /// To find a better way to a connected member.
    Upgrade,
    /// A circuit beside a relayed session, for a new attempt to punch a hole.
    Punch,
    /// To have a relay of ours see us.
    Look,
    /// To tell a relay of ours who we are.
    Introduce(PeerKey),
    /// To see whether somebody there waits for a device to join.
    Probe,
}

/// See the module's documentation.
pub(crate) struct Driver {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) topic: gossipsub::IdentTopic,
    pub(crate) timings: Timings,
    pub(crate) book: AddressBook,
    pub(crate) dialer: Dialer,
    pub(crate) connections: Connections,
    pub(crate) errands: BTreeMap<ConnectionId, Errand>,
    pub(crate) carriers: JoinSet<(ConnectionId, CarrierEnd)>,
    pub(crate) desk: Desk,
    pub(crate) discovery: Discovery,
    pub(crate) relays: Relays,
    pub(crate) reach: Reach,
    /// Asks the router for ports, if that is allowed.
    pub(crate) ports: Option<Ports>,
    /// What is shown to a relay that wants to see it.
    pub(crate) certificate: Option<Vec<u8>>,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) telling: Telling,
    /// Signs what this device says of itself.
    pub(crate) secret: SecretKey,
    watch: Watch,
    /// Listeners that have not yet said where they listen, and who waits for them.
    pub(crate) starting: Vec<(ListenerId, Multiaddr)>,
    pub(crate) started: Option<oneshot::Sender<Result<(), SpawnError>>>,
}

/// Shuts the hub however the task ends.
struct Shut(Arc<Hub>);

impl Drop for Shut {
    fn drop(&mut self) {
        self.0.shut();
    }
}

impl Driver {
    pub(crate) fn new(
        config: &Libp2pConfig,
        hub: Arc<Hub>,
        commands: mpsc::Receiver<Command>,
        started: oneshot::Sender<Result<(), SpawnError>>,
    ) -> Result<Driver, SpawnError> {
        let mut book = AddressBook::new(config.paths.clone());
        let now = Instant::now();
        let mut relays = Relays::new(&config.relays, rand::random(), now)?;
        for (peer, addresses) in &config.addresses {
            for address in addresses {
                let address = Dialable::parse(address)?.address;
                if book.allow(&address).is_ok() {
                    relays.learn(&address, now);
                }
                book.add(*peer, address, Source::Given);
            }
        }
        let mut whereabouts = Whereabouts::new(hub.local());
        for record in &config.records {
            // Saved by this device: one that is damaged is of no use, and no harm either.
            let _ = whereabouts.take(record, |_| true);
        }
        let listen = stack::listen_addresses(config)?;
        let mut swarm = stack::build(config, &hub, relays.keys().collect())?;
        let listeners = stack::listen(&mut swarm, &listen)?;
        Ok(Driver {
            swarm,
            commands,
            topic: stack::topic(config),
            timings: config.timings,
            book,
            dialer: Dialer::new(
                hub.local(),
                rand::random(),
                config.timings.redial_ms_max,
                config.timings.upgrade_ms,
            ),
            connections: Connections::default(),
            errands: BTreeMap::new(),
            carriers: JoinSet::new(),
            desk: Desk::new(),
            discovery: Discovery::default(),
            relays,
            reach: Reach::new(config.upnp),
            ports: config.upnp.then(Ports::spawn),
            certificate: config.certificate.as_ref().map(DeviceCert::to_bytes),
            whereabouts,
            telling: Telling::default(),
            secret: config.secret.clone(),
            watch: Watch::new(now, SystemTime::now(), watch::links()),
            starting: listeners,
            started: Some(started),
            hub,
        })
    }

    pub(crate) async fn run(mut self) {
        let shut = Shut(Arc::clone(&self.hub));
        let hub = Arc::clone(&self.hub);
        self.check_started();
        while !self.hub.owner_gone() {
            self.work();
            let wait = self
                .next_deadline()
                .map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(ended) = self.carriers.join_next() => self.on_carrier_end(ended),
                news = Ports::news(&mut self.ports) => self.on_ports(news),
                () = hub.for_swarm.notified() => {}
                () = self.desk.listener_dropped() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.finish().await;
        drop(shut);
    }

    /// The owner has gone, and all sessions were told to end: let them, for a short time.
    async fn finish(mut self) {
        let own = |address: &&Multiaddr| !address.iter().any(|part| part == Protocol::P2pCircuit);
        let listening: Vec<Multiaddr> = self.swarm.listeners().filter(own).cloned().collect();
        let finishing = async {
            while !self.carriers.is_empty() {
                self.step().await;
            }
            for id in self.connections.table.keys() {
                self.swarm.close_connection(*id);
            }
            while self.swarm.network_info().connection_counters().num_established() > 0 {
                self.step().await;
            }
        };
        let _ = tokio::time::timeout(carrier::FLUSH + Duration::from_millis(500), finishing).await;
        if let Some(ports) = self.ports.take() {
            ports.close().await;
        }
        drop(self);
        stack::released(&listening, Duration::from_secs(1)).await;
    }

    async fn step(&mut self) {
        tokio::select! {
            event = self.swarm.select_next_some() => self.on_swarm_event(event),
            Some(ended) = self.carriers.join_next() => self.on_carrier_end(ended),
        }
    }

    fn admission(&self) -> Duration {
        Duration::from_millis(self.timings.admission_ms_max)
    }

    /// Whether no connection is to be made.
    fn paused(&self) -> bool {
        self.swarm.behaviour().streams.paused
    }

    fn next_deadline(&self) -> Option<Instant> {
        let members = self.hub.members();
        let connections = self.connections.next_deadline(self.admission(), |peer| members.contains(peer));
        if self.paused() {
            return connections.into_iter().chain([self.watch.next()]).min();
        }
        let (probe, telling) = (self.discovery.next_probe(), self.next_telling(Instant::now()));
        [connections, self.dialer.next_due(), probe, self.relays.next_due(), telling, Some(self.watch.next())]
            .into_iter()
            .flatten()
            .min()
    }

    /// Everything that is due now.
    fn work(&mut self) {
        let now = Instant::now();
        if let Some(members) = self.hub.take_members_changed() {
            self.dialer.set_members(&members, now);
            self.book.prune(|peer| members.contains(peer));
            self.use_records(now);
            let connected: Vec<PeerKey> = self.connections.table.values().map(|c| c.peer).collect();
            for peer in connected {
                self.dialer.connected(&peer, now);
                self.rate(&peer, now);
            }
            self.ask_for_sync();
            self.let_in();
        }
        while let Some(frame) = self.hub.take_to_publish() {
            let topic = self.topic.clone();
            if let Err(error) = self.swarm.behaviour_mut().gossip.inner.publish(topic, frame) {
                tracing::debug!(%error, "a hint was not published");
            }
        }
        self.look_around(now);
        self.tell_news(now);
        if !self.paused() {
            self.connect(now);
        }
        self.drop_overdue(now);
        self.desk.tidy();
        let listening = self.desk.listening();
        self.swarm.behaviour_mut().streams.offer_pairing(listening);
    }

    /// Makes the connections that are due.
    fn connect(&mut self, now: Instant) {
        while let Some(peer) = self.dialer.poll(now) {
            self.reconnect(peer, now);
        }
        while let Some(peer) = self.dialer.poll_upgrade(now) {
            self.upgrade(peer, now);
        }
        self.ask_relays(now);
        self.probe_candidates(now);
    }

    /// Opens the sync stream on every connection that we dialed to a member and that has none.
    pub(crate) fn ask_for_sync(&mut self) {
        let members = self.hub.members();
        for (id, connection) in &mut self.connections.table {
            if connection.dialed_by_us && !connection.sync_asked && members.contains(&connection.peer) {
                connection.sync_asked = true;
                if let Some(peer) = keys::peer_of(&connection.peer) {
                    self.swarm.behaviour_mut().streams.open(peer, *id, Purpose::Sync);
                }
            }
        }
    }

    /// Whoever was admitted while connected takes part in everything at once.
    fn let_in(&mut self) {
        let behaviour = self.swarm.behaviour_mut();
        behaviour.gossip.let_in();
        behaviour.punch.let_in();
        behaviour.reach.let_in();
        behaviour.probe.let_in();
        let let_in = behaviour.telling.let_in();
        for peer in let_in.iter().filter_map(keys::key_of) {
            self.tell_all(&peer);
        }
    }

    fn ask_relays(&mut self, now: Instant) {
        self.relays.tidy(now);
        for (at, address) in self.relays.due(now) {
            if self.certificate.is_some()
                && let Some(relay) = self.relays.introduce(at, now)
            {
                self.introduce(relay, address, now);
                continue;
            }
            match self.swarm.listen_on(address) {
                Ok(listener) => self.relays.asking(at, listener),
                Err(error) => self.relays.refused(at, root_cause(&error), now),
            }
        }
    }

    /// Has a relay know who we are, before it is asked for a reservation.
    fn introduce(&mut self, relay: PeerKey, mut address: Multiaddr, now: Instant) {
        if self.connections.with(&relay).any(|(_, c)| c.path.kind != PathKind::Relayed) {
            // Nothing happens if it has not said yet whether it wants to: then we are called again.
            self.show_certificate(&relay, now);
            return;
        }
        // `/p2p-circuit`, and the relay's id, which the dial is told by itself.
        address.pop();
        address.pop();
        let Some(id) = keys::peer_of(&relay) else { return };
        let opts = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(vec![address]).build();
        self.dial(opts, Errand::Introduce(relay), now);
    }

    /// A relay has said whether it wants to see our certificate: show it, or ask for a reservation without.
    pub(crate) fn show_certificate(&mut self, relay: &PeerKey, now: Instant) {
        let Some(wanted) = self.connections.with(relay).find_map(|(_, c)| c.wants_certificate) else {
            return;
        };
        if !wanted {
            self.relays.introduced(relay, None, now);
        } else if self.relays.show(relay)
            && let (Some(certificate), Some(id)) = (&self.certificate, keys::peer_of(relay))
        {
            self.swarm.behaviour_mut().admission.send_request(&id, certificate.clone());
        }
    }

    /// The network is another one. Connections that began where the system no longer sends from are dead, and would be
    /// noticed only after a while.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        self.reach.network_changed();
        self.want_ports(true);
        let moved = |c: &Connection| c.source.is_some() && watch::source(&c.remote) != c.source;
        let table = self.connections.table.iter();
        let gone: Vec<ConnectionId> = table.filter(|(_, c)| moved(c)).map(|(id, _)| *id).collect();
        for id in gone {
            self.drop_connection(id, "the network it went through is gone", true);
        }
        self.try_all(now);
    }

    /// Looks whether anything about the network changed of which nobody tells.
    fn look_around(&mut self, now: Instant) {
        match self.watch.look(now, SystemTime::now(), watch::links) {
            Some(Change::Links) => self.network_changed(now),
            Some(Change::Slept) => {
                tracing::info!("this device has slept: connecting anew");
                let local = |c: &Connection| c.source.is_some_and(|source| source.is_loopback());
                let table = self.connections.table.iter();
                let stale: Vec<ConnectionId> = table.filter(|(_, c)| !local(c)).map(|(id, _)| *id).collect();
                for id in stale {
                    self.drop_connection(id, "this device has slept", true);
                }
                self.network_changed(now);
            }
            None => {}
        }
    }

    /// Ends all waits for the next attempt.
    pub(crate) fn try_all(&mut self, now: Instant) {
        self.relays.network_changed(now);
        self.dialer.network_changed(now);
    }

    fn reconnect(&mut self, peer: PeerKey, now: Instant) {
        let mut addresses = self.book.of(&peer);
        addresses.retain(|address| path_kind(address) != Some(PathKind::Relayed));
        addresses.extend(self.circuits(&peer));
        let (Some(id), false) = (keys::peer_of(&peer), addresses.is_empty()) else {
            self.dialer.stuck(&peer);
            return;
        };
        let opts = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses).build();
        self.dial(opts, Errand::Reconnect(peer), now);
    }

    /// Notes whether the best connection with a peer is as good as it gets.
    pub(crate) fn rate(&mut self, peer: &PeerKey, now: Instant) {
        let best = self.connections.with(peer).any(|(_, c)| c.path.kind >= PathKind::DirectQuic);
        self.dialer.rate(peer, best, now);
    }

    /// Notes where a peer may be found; true if that is new.
    pub(crate) fn remember(
        &mut self,
        peer: PeerKey,
        address: Multiaddr,
        source: Source,
        now: Instant,
    ) -> bool {
        if self.hub.is_member(&peer)
            && self.book.allow(&address).is_ok()
            && let Some(relay) = self.relays.learn(&address, now)
        {
            self.swarm.behaviour_mut().reach.admit(relay);
            for connection in self.connections.table.values_mut().filter(|c| c.peer == relay) {
                connection.relay = true;
            }
        }
        self.book.add(peer, address, source)
    }

    /// Starts a dial; whoever waits for it hears of its end, however it ends.
    pub(crate) fn dial(&mut self, opts: DialOpts, errand: Errand, now: Instant) {
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => drop(self.errands.insert(id, errand)),
            Err(error) => self.errand_failed(errand, describe(&error), now),
        }
    }

    pub(crate) fn errand_failed(&mut self, errand: Errand, error: String, now: Instant) {
        match errand {
            Errand::Reconnect(peer) => self.dialer.failed(&peer, error, now),
            Errand::Session(reply) => drop(reply.send(Err(DialError::Failed(error)))),
            Errand::Pair(reply) => drop(reply.send(Err(PairConnectError::Unreachable(error)))),
            Errand::Introduce(relay) => self.relays.introduced(&relay, Some(error), now),
            Errand::Upgrade | Errand::Punch | Errand::Look | Errand::Probe => {}
        }
    }

    fn drop_overdue(&mut self, now: Instant) {
        let members = self.hub.members();
        let admission = self.admission();
        for id in self.connections.overdue(now, admission, |peer| members.contains(peer)) {
            let Some(connection) = self.connections.table.get_mut(&id) else { continue };
            if self.desk.uses(id) {
                // Its time begins when the pairing ends; look again soon.
                connection.since = now + Duration::from_secs(1);
            } else if connection.carrier.is_some() {
                // Its end closes the connection.
                connection.since = now + carrier::FLUSH;
                self.hub.expel(&connection.peer, "it was not admitted as a device of this account in time");
            } else {
                self.drop_connection(id, "nothing was done with it in time", false);
            }
        }
    }

    /// Closes a connection and forgets it at once: closing one whose network is gone may take minutes. `broken` if it
    /// is dead, and nobody meant to end it.
    pub(crate) fn drop_connection(&mut self, id: ConnectionId, reason: &str, broken: bool) {
        self.swarm.close_connection(id);
        if let Some(connection) = self.connections.table.get(&id)
            && let Some(carrier) = &connection.carrier
        {
            carrier.abort();
        }
        self.forget_connection(id, reason, broken);
    }

    pub(crate) fn forget_connection(&mut self, id: ConnectionId, reason: &str, broken: bool) {
        let Some(connection) = self.connections.table.remove(&id) else { return };
        tracing::debug!(peer = ?connection.peer, address = connection.path.address, reason, "connection ended");
        for reply in connection.pairing {
            let _ = reply.send(Err(PairConnectError::Unreachable(reason.to_owned())));
        }
        if self.connections.with(&connection.peer).next().is_none() {
            let ended = Some(relays::ENDED.to_owned());
            self.relays.introduced(&connection.peer, ended, Instant::now());
            // One that never carried a session says nothing: a device that has paused ends them so.
            let broken = broken && connection.carried;
            self.dialer.lost(&connection.peer, reason.to_owned(), broken, Instant::now());
        } else {
            self.rate(&connection.peer, Instant::now());
        }
    }

    fn on_carrier_end(&mut self, ended: Result<(ConnectionId, CarrierEnd), tokio::task::JoinError>) {
        // An aborted carrier belonged to a connection that is already forgotten.
        let Ok((id, end)) = ended else { return };
        let Some(connection) = self.connections.table.get_mut(&id) else { return };
        connection.carrier = None;
        if !self.desk.uses(id) {
            self.drop_connection(id, &end.to_string(), end.broken());
        }
    }
}
