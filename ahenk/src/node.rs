//! The driver: the only code that joins engine, store, transport and clock. The command line and the simulator run
//! exactly this.
//!
//! Architecture invariants: outputs are performed in the order in which the engine gave them; nothing that follows a
//! batch leaves before the store has made it durable; after a storage failure the engine is made anew from the store
//! and sessions start over; every queue here has a bound.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use engine::config::Config;
use engine::identity::{DeviceCert, DeviceId, Dot, Identity, PeerKey, SecretKey};
use engine::io::{Event, Input, Order, Output, PeerPage, SyncStats, WriteRequest, Written};
use engine::knowledge::Knowledge;
use engine::name::{RowKey, TableName};
use engine::statement::{Forked, Revocation};
use engine::store::{Store, StoreError};
use engine::time::{Clock, Instant};
use engine::transport::{Path, Transport, TransportEvent, TrySendError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use crate::ahead::{Ahead, Arrived};
use crate::db::{Db, OrderFailed, SyncError, SyncReport, WriteFailed};
use crate::outbox::Outboxes;
use crate::pace::Pace;

/// Local transactions that become durable together, at most.
const GROUP_MAX: usize = 256;
/// Commands that wait for the driver, at most; callers wait beyond that.
const COMMANDS_MAX: usize = 256;
/// Events that a slow listener may fall behind before it misses some.
const EVENTS_MAX: usize = 1024;
/// Pause before sessions start over after a storage failure, in milliseconds.
const STORAGE_PAUSE_MS: u64 = 1_000;

/// What a node needs besides its transport, store and clock.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limits and intervals.
    pub config: Config,
    /// Who this device is.
    pub identity: Identity,
    /// Drives all random choices of the engine. Fresh random bytes on a real device; recorded in a simulation.
    pub seed: [u8; 32],
    /// Certificates learnt by pairing.
    pub members: Vec<DeviceCert>,
}

impl Options {
    /// Defaults for a device. `seed` must be fresh random bytes each time, except in simulations.
    pub fn new(identity: Identity, seed: [u8; 32]) -> Options {
        Options { config: Config::default(), identity, seed, members: Vec::new() }
    }
}

/// Why a node could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The store failed and could not be recovered.
    #[error("the database cannot be used: {0}")]
    Store(#[from] StoreError),
}

/// The way to a connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPath {
    /// The path.
    pub path: Path,
    /// Round trip as measured by the transport, in microseconds.
    pub round_trip_micros: Option<u64>,
    /// When the connection began, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Sync as the engine sees it.
    pub stats: SyncStats,
    /// The account's devices, this one and revoked ones included.
    pub members: Vec<DeviceCert>,
    /// The account's revocations, one for each device that is a member no longer.
    pub revocations: Vec<Revocation>,
    /// Whether this device is one of those: it keeps its data and syncs no more.
    pub revoked: bool,
    /// Replicas that are proven to have forked: a database ran twice, or a key was stolen.
    pub forks: Vec<Forked>,
    /// Whether this device holds the account's root key.
    pub administers: bool,
    /// Connections as the transport sees them.
    pub paths: BTreeMap<PeerKey, PeerPath>,
    /// The state digest: equal on devices of equal knowledge.
    pub digest: u128,
    /// Commits applied.
    pub position: u64,
}

/// What a [`Db`] asks of its node.
#[derive(Debug)]
pub(crate) enum Command {
    Write {
        request: WriteRequest,
        reply: oneshot::Sender<Result<Written, WriteFailed>>,
    },
    Members(Vec<DeviceCert>),
    Administer {
        order: Order,
        reply: oneshot::Sender<Result<Dot, OrderFailed>>,
    },
    Release {
        dots: Vec<Dot>,
        reply: oneshot::Sender<Result<(), WriteFailed>>,
    },
    Sync {
        deadline: Duration,
        reply: oneshot::Sender<Result<SyncReport, SyncError>>,
    },
    Status(oneshot::Sender<NodeStatus>),
    Audit {
        device: DeviceId,
        after: Option<(TableName, RowKey)>,
        detail: bool,
        reply: oneshot::Sender<Option<PeerPage>>,
    },
    PeerKnowledge(oneshot::Sender<Vec<(DeviceId, Knowledge)>>),
    Close(oneshot::Sender<()>),
}

#[derive(Debug)]
struct SyncWaiter {
    deadline: Instant,
    reply: oneshot::Sender<Result<SyncReport, SyncError>>,
}

/// Drives one replica: see the invariants of this module.
#[derive(Debug)]
pub struct Node<T, S, C> {
    engine: Engine,
    transport: T,
    ahead: Ahead,
    store: Arc<S>,
    clock: C,
    options: Options,
    commands: mpsc::Receiver<Command>,
    positions: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
    replies: BTreeMap<u64, oneshot::Sender<Result<Written, WriteFailed>>>,
    orders: BTreeMap<u64, oneshot::Sender<Result<Dot, OrderFailed>>>,
    releases: BTreeMap<u64, oneshot::Sender<Result<(), WriteFailed>>>,
    granted: watch::Sender<Option<SecretKey>>,
    next_request: u64,
    audits: BTreeMap<u32, oneshot::Sender<Option<PeerPage>>>,
    next_audit: u32,
    connected: BTreeMap<PeerKey, PeerPath>,
    outboxes: Outboxes,
    sending: Pace,
    receiving: Pace,
    waiters: Vec<SyncWaiter>,
    /// The storage failure that could not be recovered from yet: the engine is not used until it is.
    broken: Option<StoreError>,
    /// After a storage failure: when to try again, or when sessions start over.
    resume_at: Option<Instant>,
    failures: u8,
    lives: u16,
    closing: Option<oneshot::Sender<()>>,
}

impl<T: Transport, S: Store, C: Clock> Node<T, S, C> {
    /// A node and the handle to use it. The node does nothing until [`Node::run`] (or [`Node::step`]) is polled.
    pub fn new(options: Options, transport: T, store: S, clock: C) -> Result<(Self, Db<S>), NodeError> {
        let store = Arc::new(store);
        let recovered = store.recover()?;
        let position = recovered.position;
        let engine = Engine::new(
            options.config.clone(),
            options.identity.clone(),
            options.seed,
            recovered,
            clock.now(),
            &*store,
        )?;
        let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (positions, position_receiver) = watch::channel(position);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let (granted, grants) = watch::channel(None);
        let db = Db::new(
            command_sender,
            Arc::clone(&store),
            position_receiver,
            events.clone(),
            grants,
            &options.identity,
        );
        let sending = Pace::new(options.config.send_bytes_per_s_max);
        let receiving = Pace::new(options.config.receive_bytes_per_s_max);
        let mut node = Node {
            engine,
            transport,
            ahead: Ahead::nothing(),
            store,
            clock,
            options,
            commands,
            positions,
            events,
            replies: BTreeMap::new(),
            orders: BTreeMap::new(),
            releases: BTreeMap::new(),
            granted,
            next_request: 0,
            audits: BTreeMap::new(),
            next_audit: 0,
            connected: BTreeMap::new(),
            outboxes: Outboxes::default(),
            sending,
            receiving,
            waiters: Vec::new(),
            broken: None,
            resume_at: None,
            failures: 0,
            lives: 0,
            closing: None,
        };
        node.perform()?;
        let members = std::mem::take(&mut node.options.members);
        node.input(Input::Members(members));
        Ok((node, db))
    }

    /// Reads frames that wait before their turn comes, as [`Node::spawn`] does, but on the thread that runs it: for
    /// simulations, where that must work and cannot depend on another thread.
    #[must_use]
    pub fn reading_ahead(self) -> Self {
        Node { ahead: Ahead::by_caller(), ..self }
    }

    /// Runs it on a thread of its own among the blocking ones of the current tokio runtime, until it ends as [`Node::run`]
    /// does: while it merges and waits for the disk, the runtime goes on moving what the network brings and takes, and
    /// one more thread reads the frames that wait.
    ///
    /// # Errors
    /// If the system has no means for another runtime, which the thread needs for its timers, or for another thread.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(mut self) -> std::io::Result<JoinHandle<()>>
    where
        T: Send + 'static,
        C: Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        self.ahead = Ahead::by_thread()?;
        Ok(tokio::task::spawn_blocking(move || runtime.block_on(self.run())))
    }

    /// Runs until the database is closed, all handles are dropped, or the transport ends.
    pub async fn run(mut self) {
        while self.step().await {
            // A transport that is never at a loss would keep this task from ever giving way to others.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Waits for one thing to happen (a command, an event of the transport, a deadline) and deals with it completely.
    /// Returns false when the node has closed. Cancelling the future loses nothing.
    pub async fn step(&mut self) -> bool {
        let deadline = self.next_deadline();
        let wait = deadline.map(|at| Duration::from_micros(at - self.clock.now().mono));
        let sleep = async {
            match wait {
                // A timer of tokio's would take up to a millisecond for it. Others have their turn first: what was sent
                // last is on its way while the next is prepared.
                Some(Duration::ZERO) => tokio::task::yield_now().await,
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        // While it takes nothing, the transport fills up, and then the peers' do.
        let open = self.receiving.ready(self.clock.now().mono);
        // What has to be paid for is not taken before its turn.
        let more = !self.receiving.limited();
        let engine = self.broken.is_none().then_some(&self.engine);
        // Biased: the order in which ready branches are taken must not depend on chance.
        tokio::select! {
            biased;
            arrived = poll_fn(|cx| self.ahead.poll(cx, &mut self.transport, engine, more)), if open => match arrived {
                Some(arrived) => {
                    self.arrived(arrived);
                    self.take_turns();
                }
                None => return false,
            },
            command = self.commands.recv() => match command {
                Some(command) => self.command(command),
                None => {
                    self.input(Input::Shutdown);
                    return false;
                }
            },
            () = sleep => self.deadline(),
        }
        self.answer_waiters();
        if let Some(closed) = self.closing.take() {
            self.input(Input::Shutdown);
            // A caller that went away no longer needs the answer.
            let _ = closed.send(());
            return false;
        }
        true
    }

    /// After an event of the transport, which comes first: what else is due, so that a flood starves nothing.
    fn take_turns(&mut self) {
        if let Ok(command) = self.commands.try_recv() {
            self.command(command);
        }
        if self.next_deadline().is_some_and(|at| at <= self.clock.now().mono) {
            self.deadline();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        // A broken store leaves the engine unused, and its deadlines would pass again and again.
        let engine = self.engine.poll_timeout().filter(|_| self.broken.is_none()).map(|(at, _)| at);
        let waiters = self.waiters.iter().map(|waiter| waiter.deadline).min();
        let sending = self.outboxes.sendable().then(|| self.sending.ready_at());
        // In the past, unless something was taken that has yet to be paid for.
        let receiving = Some(self.receiving.ready_at()).filter(|at| *at > self.clock.now().mono);
        [engine, waiters, self.resume_at, sending, receiving].into_iter().flatten().min()
    }

    fn deadline(&mut self) {
        let now = self.clock.now().mono;
        if self.resume_at.is_some_and(|at| at <= now) {
            self.resume_at = None;
            if let Some(failure) = self.broken.take() {
                self.recover(&failure);
            } else {
                for peer in self.connected.keys().copied().collect::<Vec<_>>() {
                    self.input(Input::PeerUp(peer));
                }
            }
        }
        self.input(Input::Timeout);
        self.drain();
    }

    fn arrived(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Event(event) => self.transport_event(event),
            Arrived::Read { peer, frame } => {
                self.receiving.spend(frame.bytes(), self.clock.now().mono);
                self.input(Input::Read { peer, frame });
            }
        }
    }

    fn transport_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::PeerUp { peer, path } => {
                debug!(?peer, address = %path.address, kind = %path.kind, "peer up");
                let since_ms = self.clock.now().wall.0;
                self.connected.insert(peer, PeerPath { path, round_trip_micros: None, since_ms });
                self.outboxes.remove(peer);
                if self.resume_at.is_none() {
                    self.input(Input::PeerUp(peer));
                }
            }
            TransportEvent::PathChanged { peer, path } => {
                info!(?peer, address = %path.address, kind = %path.kind, "path changed");
                if let Some(connected) = self.connected.get_mut(&peer) {
                    connected.path = path;
                    connected.round_trip_micros = None;
                }
            }
            TransportEvent::PeerDown { peer, reason } => {
                debug!(?peer, %reason, "peer down");
                self.connected.remove(&peer);
                self.outboxes.remove(peer);
                self.input(Input::PeerDown(peer));
            }
            TransportEvent::Frame { peer, bytes } => {
                self.receiving.spend(bytes.len(), self.clock.now().mono);
                self.input(Input::Frame { peer, bytes });
            }
            TransportEvent::Broadcast { from, bytes } => {
                self.receiving.spend(bytes.len(), self.clock.now().mono);
                self.input(Input::Broadcast { from, bytes });
            }
            TransportEvent::Writable { peer } => {
                self.outboxes.unblock(peer);
                self.drain();
            }
            TransportEvent::RoundTrip { peer, micros } => {
                if let Some(connected) = self.connected.get_mut(&peer) {
                    connected.round_trip_micros = Some(micros);
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        let mut requests = Vec::new();
        let mut next = Some(command);
        // Transactions that wait already become durable together: one flush of the disk for all of them.
        while let Some(command) = next.take() {
            match command {
                Command::Write { request, reply } => {
                    requests.push(self.register(request, reply));
                    if requests.len() < GROUP_MAX {
                        next = self.commands.try_recv().ok();
                    }
                }
                other => {
                    self.write(&mut requests);
                    self.other_command(other);
                }
            }
        }
        self.write(&mut requests);
    }

    fn register(
        &mut self,
        request: WriteRequest,
        reply: oneshot::Sender<Result<Written, WriteFailed>>,
    ) -> WriteRequest {
        self.next_request += 1;
        self.replies.insert(self.next_request, reply);
        WriteRequest { id: self.next_request, ..request }
    }

    fn write(&mut self, requests: &mut Vec<WriteRequest>) {
        if requests.is_empty() {
            return;
        }
        let requests = std::mem::take(requests);
        match self.store.room() {
            Ok(()) => self.input(Input::Write(requests)),
            Err(failure) => {
                for reply in requests.iter().filter_map(|request| self.replies.remove(&request.id)) {
                    let _ = reply.send(Err(WriteFailed::Storage(failure.clone())));
                }
            }
        }
    }

    fn other_command(&mut self, command: Command) {
        match command {
            Command::Write { .. } => {}
            Command::Members(certs) => self.input(Input::Members(certs)),
            Command::Administer { order, reply } => {
                self.next_request += 1;
                self.orders.insert(self.next_request, reply);
                self.input(Input::Administer { id: self.next_request, order });
            }
            Command::Release { dots, reply } => {
                self.next_request += 1;
                self.releases.insert(self.next_request, reply);
                self.input(Input::Release { id: self.next_request, dots });
            }
            Command::Sync { deadline, reply } => {
                let micros = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
                let deadline = self.clock.now().mono + micros;
                self.input(Input::SyncNow);
                self.waiters.push(SyncWaiter { deadline, reply });
            }
            Command::Status(reply) => {
                let status = NodeStatus {
                    stats: self.engine.stats(),
                    members: self.engine.members().cloned().collect(),
                    revocations: self.engine.revocations().cloned().collect(),
                    revoked: self.engine.revoked(),
                    forks: self.engine.forks().collect(),
                    administers: self.engine.administers(),
                    paths: self.connected.clone(),
                    digest: self.engine.digest(),
                    position: *self.positions.borrow(),
                };
                let _ = reply.send(status);
            }
            Command::Audit { device, after, detail, reply } => {
                // Whoever asked and went away waits no more.
                self.audits.retain(|_, waiting| !waiting.is_closed());
                self.next_audit = self.next_audit.wrapping_add(1);
                self.audits.insert(self.next_audit, reply);
                self.input(Input::Audit { id: self.next_audit, device, after, detail });
            }
            Command::PeerKnowledge(reply) => {
                let known = self.engine.peer_knowledge();
                // A caller that went away no longer needs the answer.
                let _ = reply.send(known.map(|(device, known)| (device, known.clone())).collect());
            }
            Command::Close(reply) => self.closing = Some(reply),
        }
    }

    /// Gives the engine an input and performs what comes out. A storage failure is dealt with here.
    fn input(&mut self, input: Input) {
        if let Some(failure) = self.broken.clone() {
            // Nothing is taken in; peers send again what is not acknowledged.
            return self.refuse_writes(&failure);
        }
        let result = self.engine.handle(self.clock.now(), input, &*self.store);
        if let Err(failure) = result.and_then(|()| self.perform()) {
            self.recover(&failure);
        }
    }

    fn perform(&mut self) -> Result<(), StoreError> {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Commit(mut batch) => {
                    self.store.apply(&batch)?;
                    // The store has them too. Two threads would contend for the counters that they share.
                    batch.rows.clear();
                    self.failures = 0;
                    self.positions.send_if_modified(|position| {
                        *position += batch.commits.len() as u64;
                        !batch.commits.is_empty()
                    });
                    self.ahead.let_go(batch);
                }
                Output::Wrote { id, result } => {
                    if let Some(reply) = self.replies.remove(&id) {
                        let _ = reply.send(result.map_err(WriteFailed::Refused));
                    }
                }
                Output::Audited { id, page } => {
                    if let Some(reply) = self.audits.remove(&id) {
                        let _ = reply.send(page.map(|page| *page));
                    }
                }
                Output::Administered { id, result } => {
                    if let Some(reply) = self.orders.remove(&id) {
                        let _ = reply.send(result.map_err(OrderFailed::Refused));
                    }
                }
                Output::Released { id } => {
                    if let Some(reply) = self.releases.remove(&id) {
                        let _ = reply.send(Ok(()));
                    }
                }
                Output::Granted(root) => {
                    // The next engine must know it, too.
                    self.options.identity.root = Some(root.clone());
                    self.granted.send_replace(Some(root));
                }
                Output::Send { peer, frame } => self.send(peer, frame),
                Output::Broadcast(frame) => {
                    self.sending.spend(frame.len() * self.connected.len(), self.clock.now().mono);
                    self.transport.broadcast(frame);
                }
                Output::Disconnect { peer, reason } => {
                    self.last_word(peer);
                    self.transport.disconnect(peer, &reason);
                }
                Output::Members(members) => self.transport.set_members(&members),
                Output::Event(event) => {
                    log_event(&event);
                    // Nobody listening is fine.
                    let _ = self.events.send(event);
                }
            }
        }
        Ok(())
    }

    /// The store failed in the middle: what the engine has in memory may be ahead of it. Starts over from the store;
    /// if that fails as well, tries again later, and refuses writes until then.
    fn recover(&mut self, failure: &StoreError) {
        error!(%failure, "storage failed; starting over from what is durable");
        self.refuse_writes(failure);
        self.outboxes.clear();
        self.failures = self.failures.saturating_add(1);
        let pause_ms = STORAGE_PAUSE_MS << self.failures.min(5);
        self.resume_at = Some(self.clock.now().mono.plus_ms(pause_ms));
        self.broken = self.restart().err();
        if let Some(again) = &self.broken {
            error!(failure = %again, pause_ms, "the database cannot be used; trying again later");
        }
    }

    fn refuse_writes(&mut self, failure: &StoreError) {
        for (_, reply) in std::mem::take(&mut self.replies) {
            let _ = reply.send(Err(WriteFailed::Storage(failure.clone())));
        }
        for (_, reply) in std::mem::take(&mut self.orders) {
            let _ = reply.send(Err(OrderFailed::Storage(failure.clone())));
        }
        for (_, reply) in std::mem::take(&mut self.releases) {
            let _ = reply.send(Err(WriteFailed::Storage(failure.clone())));
        }
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        self.store.reopen()?;
        let recovered = self.store.recover()?;
        self.positions.send_replace(recovered.position);
        self.lives = self.lives.wrapping_add(1);
        // Another seed for each life: session numbers must not repeat.
        let mut seed = self.options.seed;
        for (byte, life) in seed.iter_mut().zip(self.lives.to_be_bytes()) {
            *byte ^= life;
        }
        let (config, identity) = (self.options.config.clone(), self.options.identity.clone());
        self.engine = Engine::new(config, identity, seed, recovered, self.clock.now(), &*self.store)?;
        self.perform()
    }

    fn send(&mut self, peer: PeerKey, frame: Vec<u8>) {
        self.outboxes.push(peer, frame);
        self.drain();
        let (each, all) = (self.options.config.outbox_bytes_max, self.options.config.outboxes_bytes_max);
        while let Some((peer, bytes)) = self.outboxes.excess(each, all) {
            warn!(?peer, bytes, "the peer reads too slowly; hanging up");
            self.outboxes.remove(peer);
            self.transport.disconnect(peer, "it reads too slowly");
        }
    }

    /// Sends what waits, as far as the transport has room and the rate allows.
    fn drain(&mut self) {
        while self.sending.ready(self.clock.now().mono)
            && let Some((peer, frame)) = self.outboxes.next()
        {
            let bytes = frame.len();
            match self.transport.try_send(peer, frame) {
                Ok(()) => self.sending.spend(bytes, self.clock.now().mono),
                Err(TrySendError::Gone(_)) => self.outboxes.remove(peer),
                Err(TrySendError::Full(frame)) => self.outboxes.give_back(peer, frame),
            }
        }
    }

    /// Before hanging up: what waits goes first, for the last word of a session may be in it. That alone goes where the
    /// rate does not let the rest go, and it is small.
    fn last_word(&mut self, peer: PeerKey) {
        self.drain();
        if let Some(word) = self.outboxes.last_of(peer).filter(|_| self.sending.limited()) {
            self.sending.spend(word.len(), self.clock.now().mono);
            // A transport without room drops it, as it would the connection.
            let _ = self.transport.try_send(peer, word);
        }
        self.outboxes.remove(peer);
    }

    /// Answers those who wait for sync: when all connected devices know what we know, or when time is up.
    fn answer_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let stats = self.engine.stats();
        let ready = stats.peers.iter().filter(|peer| peer.ready).count();
        let done = self.engine.in_sync();
        let now = self.clock.now().mono;
        for waiter in std::mem::take(&mut self.waiters) {
            if done {
                let _ = waiter.reply.send(Ok(SyncReport { peers: ready, total: stats.total }));
            } else if waiter.deadline <= now {
                let error =
                    if ready == 0 { SyncError::NoPeer } else { SyncError::Timeout { connected: ready } };
                let _ = waiter.reply.send(Err(error));
            } else {
                self.waiters.push(waiter);
            }
        }
    }
}

fn log_event(event: &Event) {
    match event {
        Event::PeerFault { device, fault, text } => warn!(%device, ?fault, "{text}"),
        Event::Fork { .. } | Event::Forked { .. } | Event::Diverged { .. } => {
            error!(?event, "this needs attention");
        }
        Event::ClockSkew { .. } | Event::Rewound { .. } | Event::Revoked { .. } => {
            warn!(?event, "attention");
        }
        Event::Connected { .. } | Event::Disconnected { .. } | Event::Member { .. } => info!(?event),
        _ => debug!(?event),
    }
}
