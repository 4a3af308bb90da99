//! Several engines on one event queue in virtual time: `Pair` and `Mesh` in one. Deterministic: the same seed
//! and the same calls give the same run to the byte.
//!
//! Links are streams by default; with [`LinkFaults`] they are datagrams that get lost, doubled, reordered and
//! damaged. The fate of a frame is a hash of the seed, the link and the frame's number on it, so that a change
//! elsewhere does not reshuffle it.

mod faults;
mod network;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};

use super::link::{LinkFaults, MeshCounts};
use super::moment::{Happened, Moment};
use super::rounds::Rounds;
use super::test_identity;
use super::trace::Trace;
use crate::codec::Writer;
use crate::config::Config;
use crate::engine::Engine;
use crate::identity::{Dot, Identity, PeerKey};
use crate::io::{
    AdminError, Change, Event, Input, Order, Output, PeerPage, WriteError, WriteRequest, Written,
};
use crate::reading::FrameReader;
use crate::store::{MemStore, Store, StoreError, StoreRead};
use crate::time::{Instant, Now, WallMs};

/// Wall clock at the start of every run, in milliseconds since the Unix epoch.
pub const EPOCH_MS: u64 = 1_700_000_000_000;
/// Most frames that a link holds back; more are lost.
const HELD_MAX: usize = 1024;
/// Most frames that are kept for another delivery.
const KEPT_MAX: usize = 64;
/// A link that an engine cut comes back after this long, in microseconds, and after twice as long each time that this
/// happens again within [`STEADY_MICROS`], as dialers do.
const RECONNECT_MICROS: u64 = 1_000_000;
/// How often that wait doubles at most.
const DOUBLINGS_MAX: u32 = 5;
/// A link that lasted for so long is as good as new, in microseconds.
const STEADY_MICROS: u64 = 10_000_000;

#[derive(Debug)]
struct Node {
    identity: Identity,
    engine: Option<Engine>,
    store: MemStore,
    wall_offset_ms: i64,
    drift_ppm: i64,
    boots: u8,
    fail_commits: u32,
    cut: Option<Cut>,
    /// What reads frames ahead, and for how many more.
    reader: Option<(FrameReader, u64)>,
}

/// A power cut at a batch to come.
#[derive(Debug, Clone, Copy)]
struct Cut {
    batches: u64,
    keeps_last: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Happening {
    Arrival { from: usize, to: usize, epoch: u64, number: u64, frame: Vec<u8> },
    Gossip { from: usize, to: usize, frame: Vec<u8> },
    Reconnect { a: usize, b: usize },
}

#[derive(Debug, Default)]
struct Link {
    up: bool,
    /// Frames vanish without either side being told.
    silent: bool,
    /// Frames to the device of the lower number vanish, or to that of the higher.
    deaf: [bool; 2],
    /// Frames wait here until the link is connected again.
    held: Option<Vec<Happening>>,
    /// When the last byte of what was sent before has passed, to the lower and to the higher.
    busy: [Instant; 2],
    /// Frames of an earlier epoch no longer arrive.
    epoch: u64,
    /// Since when it is up.
    since: Instant,
    /// How often in a row it was cut by an engine soon after it had come up.
    cuts: u32,
    frames: u64,
}

/// Engines, their stores, and the links between them.
#[derive(Debug)]
pub struct Mesh {
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), Link>,
    /// What is to happen, by its time; at one time in the order in which it was scheduled.
    queue: VecDeque<(Instant, Happening)>,
    now: Instant,
    seed: u64,
    config: Config,
    faults: LinkFaults,
    read_ahead: u64,
    latency_micros: u64,
    bytes_per_second: u64,
    /// The session numbers that devices use towards each other, by sender and receiver.
    sessions: BTreeMap<(usize, usize), u32>,
    /// Frames that arrived, the newest last, if they are kept.
    kept: Option<VecDeque<(usize, usize, Vec<u8>)>>,
    requests: u64,
    /// What each write came to, by request id.
    pub results: BTreeMap<u64, Result<Written, WriteError>>,
    /// What each order of an administrator came to, by id.
    pub administered: BTreeMap<u64, Result<Dot, AdminError>>,
    /// Events in order, each with its node.
    pub events: Vec<(usize, Event)>,
    /// Answers of peers about their rows, each with the node that asked.
    pub audited: Vec<(usize, Option<Box<PeerPage>>)>,
    /// All that happened, if recorded.
    pub moments: Option<Vec<Moment>>,
    copies: u64,
    /// How many commits each store shows packed together.
    packs: u64,
    /// The conversation as text, if recorded.
    pub transcript: Option<Vec<String>>,
    /// What happened to frames and stores so far.
    pub counts: MeshCounts,
    rounds: Rounds,
    trace: Trace,
}

impl Mesh {
    /// `count` devices of the test account, not connected.
    pub fn new(count: u8, seed: u64, config: Config) -> Mesh {
        Mesh::with_identities((0..count).map(test_identity).collect(), seed, config)
    }

    /// Devices of given identities, not connected.
    pub fn with_identities(identities: Vec<Identity>, seed: u64, config: Config) -> Mesh {
        let node = |identity| Node {
            identity,
            engine: None,
            store: MemStore::new(),
            wall_offset_ms: 0,
            drift_ppm: 0,
            boots: 0,
            fail_commits: 0,
            cut: None,
            reader: None,
        };
        let mut mesh = Mesh {
            nodes: identities.into_iter().map(node).collect(),
            links: BTreeMap::new(),
            queue: VecDeque::new(),
            now: Instant(0),
            seed,
            config,
            faults: LinkFaults::default(),
            read_ahead: 0,
            latency_micros: 5_000,
            bytes_per_second: 0,
            sessions: BTreeMap::new(),
            kept: None,
            requests: 0,
            results: BTreeMap::new(),
            administered: BTreeMap::new(),
            events: Vec::new(),
            audited: Vec::new(),
            moments: None,
            copies: 0,
            packs: 0,
            transcript: None,
            counts: MeshCounts::default(),
            rounds: Rounds::default(),
            trace: Trace::default(),
        };
        (0..mesh.nodes.len()).for_each(|node| mesh.boot(node));
        mesh
    }

    /// Two connected devices.
    pub fn pair(seed: u64) -> Mesh {
        let mut mesh = Mesh::new(2, seed, Config::default());
        mesh.connect(0, 1);
        mesh
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        self.now.0 / 1000
    }

    /// A device's store.
    pub fn store(&self, node: usize) -> &MemStore {
        &self.nodes[node].store
    }

    /// A device's engine; panics while it is stopped.
    pub fn engine(&self, node: usize) -> &Engine {
        self.nodes[node].engine.as_ref().expect("the node runs")
    }

    /// Whether a device is running.
    pub fn running(&self, node: usize) -> bool {
        self.nodes[node].engine.is_some()
    }

    /// A device's key.
    pub fn key(&self, node: usize) -> PeerKey {
        self.nodes[node].identity.peer_key()
    }

    /// The time as a device sees it.
    pub fn node_now(&self, node: usize) -> Now {
        let Node { wall_offset_ms, drift_ppm, .. } = &self.nodes[node];
        let drift_ms = self.now_ms() as i64 * drift_ppm / 1_000_000;
        let wall = (EPOCH_MS + self.now_ms()).saturating_add_signed(wall_offset_ms + drift_ms);
        Now { mono: self.now, wall: WallMs(wall) }
    }

    /// Connects two running devices, and mends whatever keeps their frames from arriving.
    pub fn connect(&mut self, a: usize, b: usize) {
        self.links.entry(pair(a, b)).or_default().cuts = 0;
        self.dial(a, b);
    }

    fn dial(&mut self, a: usize, b: usize) {
        if self.same_device(a, b) {
            return;
        }
        for (at, new) in [(a, b), (b, a)] {
            for old in 0..self.nodes.len() {
                if self.same_device(old, new) {
                    self.disconnect(at, old);
                }
            }
        }
        let link = self.links.entry(pair(a, b)).or_default();
        (link.silent, link.deaf) = (false, [false; 2]);
        for happening in link.held.take().unwrap_or_default() {
            self.schedule(self.latency_micros, happening);
        }
        let link = self.links.entry(pair(a, b)).or_default();
        if link.up || self.nodes[a].engine.is_none() || self.nodes[b].engine.is_none() {
            return;
        }
        link.up = true;
        link.epoch += 1;
        link.since = self.now;
        let (key_a, key_b) = (self.key(a), self.key(b));
        self.input(a, Input::PeerUp(key_b));
        self.input(b, Input::PeerUp(key_a));
    }

    /// Disconnects two devices; both are told, and what is under way is lost.
    pub fn disconnect(&mut self, a: usize, b: usize) {
        let Some(link) = self.links.get_mut(&pair(a, b)).filter(|link| link.up) else { return };
        link.up = false;
        link.epoch += 1;
        let (key_a, key_b) = (self.key(a), self.key(b));
        self.input(a, Input::PeerDown(key_b));
        self.input(b, Input::PeerDown(key_a));
    }

    /// The number of the connection between two devices, another for each that they have.
    pub fn connection(&self, a: usize, b: usize) -> Option<u64> {
        self.links.get(&pair(a, b)).filter(|link| link.up).map(|link| link.epoch)
    }

    /// Whether two devices are connected.
    pub fn connected(&self, a: usize, b: usize) -> bool {
        self.links.get(&pair(a, b)).is_some_and(|link| link.up && !link.silent)
    }

    /// Stops a device at once, as a power cut does. Its store stays.
    pub fn crash(&mut self, node: usize) {
        self.stop(node);
        for other in 0..self.nodes.len() {
            if other == node {
                continue;
            }
            if let Some(link) = self.links.get_mut(&pair(node, other)).filter(|link| link.up) {
                link.up = false;
                link.epoch += 1;
                let key = self.key(node);
                self.input(other, Input::PeerDown(key));
            }
        }
    }

    /// Starts a stopped device from its store.
    pub fn restart(&mut self, node: usize) {
        if self.nodes[node].engine.is_none() {
            self.boot(node);
        }
    }

    /// Hands a device a transaction. The id is the key of its outcome in `results`.
    pub fn write(&mut self, node: usize, changes: Vec<Change>) -> u64 {
        self.write_group(node, vec![changes])[0]
    }

    /// Hands a device transactions that become durable together. The ids are the keys of their outcomes in `results`.
    pub fn write_group(&mut self, node: usize, transactions: Vec<Vec<Change>>) -> Vec<u64> {
        let first = self.requests + 1;
        self.requests += transactions.len() as u64;
        let ids: Vec<u64> = (first..=self.requests).collect();
        let requests = ids.iter().zip(transactions);
        let requests =
            requests.map(|(id, changes)| WriteRequest { id: *id, changes, ..WriteRequest::default() });
        self.input(node, Input::Write(requests.collect()));
        ids
    }

    /// Has an administrator do something. The id is the key of its outcome in `administered`.
    pub fn administer(&mut self, node: usize, order: Order) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.input(node, Input::Administer { id, order });
        id
    }

    /// Gives a device an input as its driver would.
    pub fn input(&mut self, node: usize, input: Input) {
        let now = self.node_now(node);
        self.note(node, now, &input);
        let read_ahead = self.read_ahead;
        let Node { engine, store, reader, .. } = &mut self.nodes[node];
        let Some(engine) = engine else { return };
        let input = match input {
            Input::Frame { peer, bytes } if read_ahead > 0 && engine.reads_ahead(&peer) => {
                let (with, left) = reader.take().unwrap_or_else(|| (engine.reader(), read_ahead));
                let frame = with.read(&bytes);
                *reader = (left > 1).then(|| (with, left - 1));
                Input::Read { peer, frame }
            }
            input => input,
        };
        match engine.handle(now, input, store) {
            Ok(()) => self.perform(node),
            Err(_) => self.reboot(node),
        }
    }

    /// Delivers a frame to a device as if it came from a peer.
    pub fn inject(&mut self, to: usize, peer: PeerKey, frame: Vec<u8>) {
        self.input(to, Input::Frame { peer, bytes: frame });
    }

    /// Runs for some virtual milliseconds.
    pub fn run_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while self.step(end) {}
        self.now = end;
    }

    /// Runs to a point of time, in milliseconds since the start, or until something holds. Says whether it does.
    pub fn run_to_ms(&mut self, at_ms: u64, holds: impl Fn(&Mesh) -> bool) -> bool {
        let end = Instant(at_ms * 1000).max(self.now);
        while !holds(self) {
            if !self.step(end) {
                self.now = end;
                return holds(self);
            }
        }
        true
    }

    /// Runs until all running devices have equal knowledge, at most so many milliseconds. Says whether they have.
    pub fn run_until_equal(&mut self, ms_max: u64) -> bool {
        self.run_until(ms_max, Mesh::equal)
    }

    /// Runs until something holds, at most so many milliseconds. Says whether it does.
    pub fn run_until(&mut self, ms_max: u64, holds: impl Fn(&Mesh) -> bool) -> bool {
        let end = self.now.plus_ms(ms_max);
        while !holds(self) {
            if !self.step(end) {
                return holds(self);
            }
        }
        true
    }

    /// A hash of everything that happened so far, in order: inputs with their times and nodes, outcomes and events.
    pub fn trace_hash(&self) -> u64 {
        self.trace.finish()
    }

    fn note(&mut self, node: usize, now: Now, input: &Input) {
        self.trace.write_u64(node as u64);
        self.trace.write_u64(now.mono.0);
        self.trace.write_u64(now.wall.0);
        match input {
            Input::Frame { peer, bytes } | Input::Broadcast { from: peer, bytes } => {
                self.trace.write(&peer.0);
                self.trace.write(bytes);
            }
            Input::Write(requests) => requests.iter().for_each(|request| self.note_write(request)),
            Input::Timeout => self.trace.write_u8(0),
            Input::PeerUp(peer) => self.trace.write(&peer.0),
            // Short, and rare beside frames.
            other => self.trace.write(format!("{other:?}").as_bytes()),
        }
    }

    fn note_write(&mut self, request: &WriteRequest) {
        let mut writer = Writer::new();
        writer.varint(request.id);
        for change in &request.changes {
            writer.u8(change.kind.tag());
            writer.bytes(change.table.as_str().as_bytes());
            writer.bytes(change.row.as_str().as_bytes());
            for (field, value) in &change.fields {
                writer.bytes(field.as_str().as_bytes());
                value.encode(&mut writer);
            }
        }
        self.trace.write(writer.as_bytes());
    }

    /// Whether all running devices have equal knowledge.
    pub fn equal(&self) -> bool {
        let mut engines = self.nodes.iter().filter_map(|node| node.engine.as_ref());
        let Some(first) = engines.next() else { return true };
        engines.all(|engine| engine.knowledge() == first.knowledge())
    }

    /// Does the next thing that is due until `end`; false if there is none.
    fn step(&mut self, end: Instant) -> bool {
        let queued = self.queue.front().map(|(at, _)| *at);
        let timer = (0..self.nodes.len())
            .filter_map(|node| Some((self.nodes[node].engine.as_ref()?.poll_timeout()?.0, node)))
            .min();
        match (queued, timer) {
            (Some(at), _) if at <= end && timer.is_none_or(|(deadline, _)| at <= deadline) => {
                self.now = self.now.max(at);
                if let Some((_, happening)) = self.queue.pop_front() {
                    self.happen(happening);
                }
                true
            }
            (_, Some((deadline, node))) if deadline <= end => {
                self.now = self.now.max(deadline);
                self.counts.timers += 1;
                self.input(node, Input::Timeout);
                true
            }
            _ => false,
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival { from, to, epoch, number, frame } => {
                let link = self.links.get(&pair(from, to));
                let hears = |link: &Link| !link.silent && !link.deaf[way(from, to)];
                if link.is_some_and(|link| link.epoch == epoch && link.up && hears(link)) {
                    self.moment(|| Happened::Arrived { frame: number });
                    self.record(from, to, &frame);
                    self.keep(from, to, &frame);
                    self.counts.arrived += 1;
                    self.rounds.arrived(from, to);
                    let peer = self.key(from);
                    self.input(to, Input::Frame { peer, bytes: frame });
                } else {
                    self.moment(|| Happened::Vanished { frame: number });
                    self.counts.cut_off += 1;
                }
            }
            Happening::Gossip { from, to, frame } => {
                let from = self.key(from);
                self.input(to, Input::Broadcast { from, bytes: frame });
            }
            Happening::Reconnect { a, b } => {
                // A pulled cable is not mended by dialling again.
                if self.links.get(&pair(a, b)).is_none_or(|link| !link.silent) {
                    self.dial(a, b);
                }
            }
        }
    }

    fn boot(&mut self, node: usize) {
        let now = self.node_now(node);
        let seed = self.boot_seed(node);
        let config = self.config.clone();
        let Node { identity, engine, store, boots, .. } = &mut self.nodes[node];
        *boots = boots.wrapping_add(1);
        let recovered = store.recover().expect("the store in memory recovers");
        *engine = Engine::new(config, identity.clone(), seed, recovered, now, store).ok();
        self.counts.store_refusals += u64::from(engine.is_none());
        self.moment(|| Happened::Started { node });
        self.perform(node);
    }

    fn boot_seed(&self, node: usize) -> [u8; 32] {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_be_bytes());
        seed[8] = node as u8;
        seed[9] = self.nodes[node].boots;
        seed
    }

    /// The store failed: as the contract says, the engine is made anew from what the store recovers.
    fn reboot(&mut self, node: usize) {
        self.crash(node);
        self.boot(node);
        for other in 0..self.nodes.len() {
            if other != node && self.links.contains_key(&pair(node, other)) {
                self.schedule(RECONNECT_MICROS, Happening::Reconnect { a: node, b: other });
            }
        }
    }

    fn perform(&mut self, node: usize) {
        let mut outputs = VecDeque::new();
        let poll = |mesh: &mut Mesh| mesh.nodes[node].engine.as_mut()?.poll_output();
        while let Some(output) = outputs.pop_front().or_else(|| poll(self)) {
            match output {
                Output::Commit(batch) => {
                    let node_state = &mut self.nodes[node];
                    let failed = node_state.fail_commits > 0;
                    node_state.fail_commits = node_state.fail_commits.saturating_sub(1);
                    self.counts.store_failures += u64::from(failed);
                    let cut = node_state.cut.as_mut().is_some_and(|cut| {
                        cut.batches -= 1;
                        cut.batches == 0
                    });
                    let lost = cut && node_state.cut.take().is_some_and(|cut| !cut.keeps_last);
                    let result = match () {
                        () if failed => Err(StoreError::Full),
                        () if lost => Ok(()),
                        () => node_state.store.apply(&batch),
                    };
                    self.counts.store_refusals += u64::from(!failed && result.is_err());
                    self.counts.cuts_between_outputs += u64::from(cut);
                    self.batch_moment(node, &batch, !failed && !lost && result.is_ok());
                    if cut {
                        return self.cut_power(node);
                    }
                    if result.is_err() {
                        return self.reboot(node);
                    }
                }
                Output::Wrote { id, result } => {
                    (id, &result).hash(&mut self.trace);
                    self.results.insert(id, result);
                }
                Output::Administered { id, result } => {
                    self.trace.write(format!("{id} {result:?}").as_bytes());
                    self.administered.insert(id, result);
                }
                Output::Released { .. } => {}
                Output::Granted(root) => self.nodes[node].identity.root = Some(root),
                Output::Send { peer, frame } => self.transmit(node, peer, frame),
                Output::Broadcast(frame) => self.gossip(node, &frame),
                Output::Disconnect { peer, .. } => {
                    // The engine gets another input: it must have given all that the last one led to.
                    outputs.extend(std::iter::from_fn(|| poll(self)));
                    self.hang_up(node, peer);
                }
                Output::Members(_) => {}
                Output::Audited { page, .. } => self.audited.push((node, page)),
                Output::Event(event) => {
                    event.hash(&mut self.trace);
                    self.moment(|| Happened::Told { node, text: format!("{event:?}") });
                    self.events.push((node, event));
                }
            }
        }
    }

    /// Stops a device between two of its outputs. What it has sent is on its way and arrives.
    fn cut_power(&mut self, node: usize) {
        self.stop(node);
        for other in 0..self.nodes.len() {
            if self.connected(node, other) {
                self.flush(node, other);
            }
        }
        self.crash(node);
    }
}

/// The index of a direction of a link.
fn way(from: usize, to: usize) -> usize {
    usize::from(to > from)
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}
