//! Harness T: the real driver (`ahenk::Node`), the real `RedbStore` on a simulated disk, and `SimTransport`, on
//! machines simulated by turmoil. It judges through the stores, and reads them while everything runs.
//!
//! Invariant: a machine that loses power loses its disk first, so that nothing that runs while it is torn down (redb's
//! `Drop` shuts down cleanly) reaches the medium.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahenk::{Cursor, Db, Node, Options, Watch, WriteFailed};
use engine::commit::{OpKind, Stamp};
use engine::config::Config;
use engine::identity::{DeviceCert, Identity, PeerKey};
use engine::io::{Change, Event as EngineEvent, WriteRequest, Written};
use engine::knowledge::Knowledge;
use engine::store::StoreRead;
use engine::testing::{EPOCH_MS, test_identity};
use engine::time::{Clock, Now};
use tokio::sync::{broadcast, mpsc};
use transport_sim::{FaultyLink, Form, LinkOptions, LinkSettings, SimTransport, Skew, SkewedClock};

use crate::disk::SimDisk;
use crate::oracle::{Global, Injected, Observer, Violation, check_equal, check_event, violation};
use crate::plan::{Event, Plan, letter};
use crate::pure::check_acknowledged;
use crate::run::{Failure, Report, panics};
use crate::sim_store::SimStore;

/// Virtual time of one step of turmoil, in milliseconds.
const TICK_MS: u64 = 10;
/// Steps between two looks at all stores.
const LOOK_TICKS: u64 = 50;
/// Virtual time in which a core must converge once faults have stopped, in milliseconds.
const CONVERGENCE_MS_MAX: u64 = 5 * 60 * 1000;
/// What a clock may show beyond the harness's own reckoning, in milliseconds.
const CLOCK_SLACK_MS: u64 = 2 * TICK_MS + 100;

/// Readings of a clock at one point of virtual time after which its reader is taken to spin.
const READINGS_MAX: u64 = 200_000;

/// A clock that notices a driver which does nothing for ever without letting time pass.
struct WatchedClock {
    clock: SkewedClock,
    /// Monotonic microseconds of the last reading, and how many there were at that point.
    last: (AtomicU64, AtomicU64),
}

impl Clock for WatchedClock {
    fn now(&self) -> Now {
        let now = self.clock.now();
        let (last, readings) = &self.last;
        if last.swap(now.mono.0, Ordering::Relaxed) != now.mono.0 {
            readings.store(0, Ordering::Relaxed);
        }
        let read = readings.fetch_add(1, Ordering::Relaxed);
        assert!(read < READINGS_MAX, "the driver spins: time stands still at {} us", now.mono.0);
        now
    }
}

/// What the harness asks a machine's application for.
#[derive(Debug)]
enum Ask {
    Write(Vec<Change>),
    Leave,
}

/// A change that a watcher saw: which commit, and what it did to which row.
type Seen = (Stamp, String, OpKind);

/// What a machine's software tells the harness.
#[derive(Debug, Default)]
struct Board {
    db: Option<Db<SimStore>>,
    asks: Option<mpsc::UnboundedSender<Ask>>,
    /// Times the software has started.
    boots: u8,
    stopped: Option<String>,
    unopened: Option<String>,
    /// It was asked to stop.
    leaving: bool,
    /// Where the machine's watcher is, over its restarts, and what it saw since the last look.
    cursor: Cursor,
    watched: Vec<Seen>,
    events: Vec<EngineEvent>,
    outcomes: Vec<Result<Written, WriteFailed>>,
}

struct Machine {
    host: String,
    disk: SimDisk,
    skew: Skew,
    offset_ms: i64,
    link: LinkSettings,
    board: Rc<RefCell<Board>>,
    powered: bool,
    boots_seen: u8,
    /// Failures of the disk that were seen.
    failed_seen: u64,
    /// The commit that the watcher is at, and the operations of it that it has seen.
    watch_at: (u64, usize),
    observer: Observer,
}

/// What a machine starts its software with.
#[derive(Clone)]
struct Setup {
    seed: u64,
    node: usize,
    config: Config,
    identity: Identity,
    members: Vec<DeviceCert>,
    directory: BTreeMap<PeerKey, String>,
    form: Form,
    drift_ppm: i64,
    disk: SimDisk,
    skew: Skew,
    link: LinkSettings,
}

/// A run of a plan on simulated machines.
pub struct Full<'a> {
    plan: &'a Plan,
    sim: turmoil::Sim<'a>,
    machines: Vec<Machine>,
    global: Global,
    injected: Injected,
    link_options: LinkOptions,
    ticks: u64,
    trace: blake3::Hasher,
    report: Report,
    transcript: bool,
}

/// The software of a machine, from power on to its end.
async fn software(setup: Setup, board: Rc<RefCell<Board>>) {
    let boots = {
        let mut board = board.borrow_mut();
        board.boots = board.boots.wrapping_add(1);
        board.boots
    };
    let store = match SimStore::open(setup.disk.clone(), setup.identity.account()) {
        Ok(store) => store,
        Err(error) => {
            board.borrow_mut().unopened = Some(error.to_string());
            return;
        }
    };
    let elapsed_ms = turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_millis() as u64);
    let clock = SkewedClock::new(EPOCH_MS + elapsed_ms, setup.drift_ppm, setup.skew);
    let clock = WatchedClock { clock, last: Default::default() };
    let own = setup.identity.peer_key();
    let options = transport_sim::Options::new(own, setup.form, setup.directory, setup.seed);
    let transport = FaultyLink::new(SimTransport::new(options), own, setup.seed, setup.link);
    let mut seed = [setup.node as u8; 32];
    seed[..8].copy_from_slice(&setup.seed.to_be_bytes());
    seed[8] = boots;
    let options =
        Options { config: setup.config, members: setup.members, ..Options::new(setup.identity, seed) };
    let (node, db) = match Node::new(options, transport, store, clock) {
        Ok(pair) => pair,
        Err(error) => {
            board.borrow_mut().stopped = Some(error.to_string());
            return;
        }
    };
    tokio::task::spawn_local(listen(db.events(), Rc::clone(&board)));
    let (sender, asks) = mpsc::unbounded_channel();
    let watch = db.watch(board.borrow().cursor);
    tokio::task::spawn_local(watching(watch, Rc::clone(&board)));
    tokio::task::spawn_local(application(db.clone(), asks, Rc::clone(&board)));
    {
        let mut board = board.borrow_mut();
        board.db = Some(db);
        board.asks = Some(sender);
        board.leaving = false;
    }
    node.run().await;
    let mut board = board.borrow_mut();
    if board.leaving {
        (board.db, board.asks) = (None, None);
    } else {
        // Nobody closed the database: whatever ended it is worth a look.
        board.stopped = Some("it ended by itself".to_owned());
    }
}

/// Follows the changes from where the machine's last watcher was.
async fn watching(mut watch: Watch<SimStore>, board: Rc<RefCell<Board>>) {
    // A failure of the store ends it; the next one goes on where it was.
    while let Ok(Some(change)) = watch.next().await {
        let mut board = board.borrow_mut();
        board.cursor = change.cursor;
        board.watched.push((change.stamp, change.row.to_string(), change.kind));
    }
}

async fn listen(mut events: broadcast::Receiver<EngineEvent>, board: Rc<RefCell<Board>>) {
    loop {
        match events.recv().await {
            Ok(event) => board.borrow_mut().events.push(event),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Does what the harness asks for, one thing after the other.
async fn application(db: Db<SimStore>, mut asks: mpsc::UnboundedReceiver<Ask>, board: Rc<RefCell<Board>>) {
    while let Some(ask) = asks.recv().await {
        let Ask::Write(changes) = ask else {
            board.borrow_mut().leaving = true;
            // It may have ended meanwhile.
            let _ = db.close().await;
            return;
        };
        let outcome = db.write(WriteRequest { changes, ..WriteRequest::default() }).await;
        board.borrow_mut().outcomes.push(outcome);
    }
}

/// What a watcher saw is what the log holds from where it was, each operation once and in order.
fn check_watched(
    node: usize,
    store: &SimStore,
    at: &mut (u64, usize),
    watched: Vec<Seen>,
) -> Result<(), Violation> {
    let oracle = "a watcher sees each change once and in order";
    for seen in watched {
        let due = loop {
            let page = store.applied(at.0, 1);
            let Some(stored) = page.ok().and_then(|page| page.into_iter().next()) else { break None };
            match stored.commit.ops.get(at.1) {
                Some(op) => {
                    *at = (stored.position, at.1 + 1);
                    break Some((stored.commit.stamp(), op.row.to_string(), op.kind));
                }
                None => *at = (stored.position + 1, 0),
            }
        };
        if due.as_ref() != Some(&seen) {
            return violation(oracle, format!("{} was shown {seen:?} where {due:?} was due", letter(node)));
        }
    }
    Ok(())
}

impl<'a> Full<'a> {
    /// A run that has not begun.
    pub fn new(plan: &'a Plan) -> Full<'a> {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(plan.seed)
            .tick_duration(Duration::from_millis(TICK_MS))
            .epoch(std::time::UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
            .simulation_duration(Duration::from_secs(u64::from(u32::MAX)))
            .tcp_capacity(1024)
            .udp_capacity(1024);
        let mut sim = builder.build();
        let identities: Vec<Identity> = (0..plan.nodes as u8).map(test_identity).collect();
        let host = |node: usize| format!("machine-{node}");
        let directory: BTreeMap<PeerKey, String> =
            identities.iter().enumerate().map(|(node, identity)| (identity.peer_key(), host(node))).collect();
        let devices = identities.iter().map(Identity::device).collect();
        let members: Vec<DeviceCert> = identities.iter().map(|identity| identity.cert.clone()).collect();
        let config = plan.config();
        let mut machines = Vec::with_capacity(plan.nodes);
        for (node, identity) in identities.into_iter().enumerate() {
            let disk = SimDisk::new(plan.seed ^ (node as u64) << 56);
            // A first creation that is interrupted can leave storage that never opens; files are created in a way that
            // cannot, so the machines come with a database.
            drop(SimStore::open(disk.clone(), identity.account()).expect("an empty disk takes a database"));
            disk.power_on();
            let setup = Setup {
                seed: plan.seed,
                node,
                config: config.clone(),
                identity: identity.clone(),
                members: members.clone(),
                directory: directory.clone(),
                form: if plan.knobs.datagrams { Form::Datagram } else { Form::Stream },
                drift_ppm: plan.knobs.drift_ppm[node],
                disk: disk.clone(),
                skew: Skew::default(),
                link: LinkSettings::default(),
            };
            let machine = Machine {
                host: host(node),
                disk,
                skew: setup.skew.clone(),
                offset_ms: 0,
                link: setup.link.clone(),
                board: Rc::default(),
                powered: true,
                boots_seen: 0,
                failed_seen: 0,
                watch_at: (1, 0),
                observer: Observer::new(node, &config),
            };
            let board = Rc::clone(&machine.board);
            sim.host(machine.host.as_str(), move || {
                let (setup, board) = (setup.clone(), Rc::clone(&board));
                async move {
                    software(setup, board).await;
                    Ok(())
                }
            });
            machines.push(machine);
        }
        Full {
            plan,
            sim,
            machines,
            global: Global::of(devices),
            injected: Injected::default(),
            link_options: LinkOptions::default(),
            ticks: 0,
            trace: blake3::Hasher::new(),
            report: Report::default(),
            transcript: false,
        }
    }

    /// Makes all disks claim to have synced when they have not, to show that the oracles notice.
    #[must_use]
    pub fn with_lying_disks(self) -> Self {
        self.machines.iter().for_each(|machine| machine.disk.lie());
        self
    }

    /// Carries the plan out. What happened until a failure is in the report.
    pub fn run(mut self, transcript: bool) -> (Report, Result<(), Failure>) {
        self.transcript = transcript;
        let result = self.events().and_then(|()| self.converge());
        self.checkpoint();
        let Report { counts, .. } = &mut self.report;
        for machine in &self.machines {
            let (link, disk) = (machine.link.counts(), machine.disk.counts());
            counts.add("frames through faulty links", link.sent);
            counts.add("frames lost", link.lost);
            counts.add("frames doubled", link.doubled);
            counts.add("frames damaged", link.damaged);
            counts.add("frames delayed", link.delayed);
            counts.add("disk writes", disk.writes);
            counts.add("disk syncs", disk.syncs);
            counts.add("disk writes dropped by a power cut", disk.dropped);
            counts.add("disk writes torn by a power cut", disk.torn);
            counts.add("disk writes failed", disk.failed);
            counts.add("power cuts", disk.cuts);
        }
        self.report.commits =
            self.machines.iter().map(|machine| machine.observer.position()).max().unwrap_or(0);
        self.report.simulated_ms = self.now_ms();
        (self.report, result)
    }

    fn now_ms(&self) -> u64 {
        self.ticks * TICK_MS
    }

    fn note(&mut self, text: &str) {
        self.trace.update(&self.ticks.to_be_bytes()).update(text.as_bytes());
        if self.transcript {
            self.report.transcript.push(format!("{:>7} ms  {text}", self.now_ms()));
        }
    }

    fn checkpoint(&mut self) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.trace.finalize().as_bytes()[..8]);
        self.report.checkpoints.push(u64::from_be_bytes(bytes));
    }

    fn fail<T>(&self, event: Option<usize>, violation: Violation) -> Result<T, Failure> {
        Err(Failure { at_ms: self.now_ms(), event, violation })
    }

    fn events(&mut self) -> Result<(), Failure> {
        for (a, b) in self.plan.pairs() {
            self.sim.partition(self.machines[a].host.as_str(), self.machines[b].host.as_str());
        }
        self.set_latency(self.plan.knobs.latency_micros);
        for (number, timed) in self.plan.events.iter().enumerate() {
            while self.now_ms() < timed.at_ms {
                self.step().or_else(|violation| self.fail(Some(number), violation))?;
            }
            self.note(&format!("* {}", timed.event));
            self.report.counts.add(timed.event.kind(), 1);
            self.perform(&timed.event).or_else(|violation| self.fail(Some(number), violation))?;
            self.checkpoint();
        }
        Ok(())
    }

    /// One tick of all machines, and what follows from it.
    fn step(&mut self) -> Result<(), Violation> {
        let stepped = self.sim.step();
        self.ticks += 1;
        if let Some(text) = panics::take() {
            return violation("nothing panics", text);
        }
        if let Err(error) = stepped {
            return violation("the software of a machine does not fail", error.to_string());
        }
        for node in 0..self.machines.len() {
            if self.machines[node].powered && self.machines[node].disk.is_cut() {
                self.power_off(node);
            }
            self.hear(node)?;
        }
        if self.ticks.is_multiple_of(LOOK_TICKS) { self.look() } else { Ok(()) }
    }

    /// Takes in what a machine's software reported.
    fn hear(&mut self, node: usize) -> Result<(), Violation> {
        let (events, outcomes, unopened, stopped) = {
            let mut board = self.machines[node].board.borrow_mut();
            let board = &mut *board;
            let reports = (std::mem::take(&mut board.events), std::mem::take(&mut board.outcomes));
            (reports.0, reports.1, board.unopened.take(), board.stopped.take())
        };
        let name = letter(node);
        for event in events {
            self.note(&format!("{name} {event:?}"));
            check_event(node, &event, &self.injected)?;
        }
        let failed = self.machines[node].disk.counts().failed;
        let failed_before = std::mem::replace(&mut self.machines[node].failed_seen, failed);
        if let Some(text) = unopened
            && self.machines[node].powered
        {
            if failed > failed_before {
                // The disk was made to fail while the database was being opened: it is opened once more.
                self.note(&format!("{name} cannot open its database: {text}"));
                self.sim.bounce(self.machines[node].host.as_str());
                return Ok(());
            }
            return violation("the database opens again", format!("{name}: {text}"));
        }
        if let Some(text) = stopped {
            return violation("a device runs until its power is cut", format!("{name}: {text}"));
        }
        for outcome in outcomes {
            self.note(&format!("{name} wrote {outcome:?}"));
            let kind = match &outcome {
                Ok(_) => "writes acknowledged",
                Err(WriteFailed::Refused(_)) => "writes refused",
                Err(_) => "writes failed",
            };
            self.report.counts.add(kind, 1);
            let db = self.machines[node].board.borrow().db.clone();
            if let (Ok(written), Some(db)) = (outcome, db) {
                self.machines[node].observer.acknowledged(&mut self.global, &**db.store(), &written)?;
            }
        }
        Ok(())
    }

    fn look_at_clock(&mut self, node: usize) {
        let now_ms = EPOCH_MS + self.now_ms() + CLOCK_SLACK_MS;
        let machine = &mut self.machines[node];
        machine.observer.wall(now_ms.saturating_add_signed(machine.offset_ms));
    }

    /// All safety oracles, on all machines that run.
    fn look(&mut self) -> Result<(), Violation> {
        let mut equal: Vec<(usize, Knowledge, u128)> = Vec::new();
        for node in 0..self.machines.len() {
            self.look_at_clock(node);
            let machine = &mut self.machines[node];
            let (db, boots) = {
                let board = machine.board.borrow();
                (board.db.clone(), board.boots)
            };
            let Some(db) = db else { continue };
            let store: &SimStore = db.store();
            if store.recover().is_err() && machine.disk.counts().failed > 0 {
                // Between a failure of the disk and the next attempt to open the database.
                continue;
            }
            if std::mem::replace(&mut machine.boots_seen, boots) != boots {
                machine.observer.reopened(&mut self.global, store)?;
            }
            machine.observer.observe(&mut self.global, store)?;
            let watched = std::mem::take(&mut machine.board.borrow_mut().watched);
            check_watched(node, store, &mut machine.watch_at, watched)?;
            match store.recover() {
                Ok(recovered) => equal.push((node, recovered.knowledge(), recovered.digest)),
                Err(error) => return violation("a store can be read", format!("{}: {error}", letter(node))),
            }
        }
        for (node, knowledge, digest) in &equal {
            self.trace.update(&[*node as u8]).update(&knowledge.digest()).update(&digest.to_be_bytes());
        }
        let equal: Vec<(usize, &Knowledge, u128)> =
            equal.iter().map(|(node, knowledge, digest)| (*node, knowledge, *digest)).collect();
        check_equal(&equal)
    }

    fn perform(&mut self, event: &Event) -> Result<(), Violation> {
        match event {
            Event::Write { .. } | Event::Pair { .. } => {
                let Ok(Some((node, changes))) = event.changes() else {
                    return violation("a plan's names are valid", event.to_string());
                };
                self.ask(node, Ask::Write(changes));
            }
            Event::Connect { a, b } => self.link(*a, *b, true),
            Event::Disconnect { a, b } | Event::Cut { a, b } => self.link(*a, *b, false),
            Event::CutOneWay { from, to } => {
                self.sim
                    .partition_oneway(self.machines[*from].host.as_str(), self.machines[*to].host.as_str());
            }
            Event::Hold { a, b } => {
                self.sim.hold(self.machines[*a].host.as_str(), self.machines[*b].host.as_str());
            }
            Event::Bandwidth { bytes_per_second } => {
                self.link_options.bytes_per_second = *bytes_per_second;
                self.set_faults(self.link_options);
            }
            Event::Leave { node } => self.ask(*node, Ask::Leave),
            Event::Crash { node, after_writes } => {
                if self.machines[*node].powered {
                    self.machines[*node].disk.cut_after(*after_writes);
                }
            }
            Event::Restart { node } => self.restart(*node),
            Event::Clock { node, offset_ms } => {
                self.look_at_clock(*node);
                self.machines[*node].offset_ms = *offset_ms;
                self.machines[*node].skew.jump(*offset_ms);
                self.look_at_clock(*node);
            }
            Event::FailStorage { node, times } => self.machines[*node].disk.fail_writes(*times),
            Event::Faults { loss_ppm, double_ppm, damage_ppm, jitter_micros } => {
                self.injected.damaged |= *damage_ppm > 0;
                self.set_faults(LinkOptions {
                    loss_ppm: *loss_ppm,
                    double_ppm: *double_ppm,
                    damage_ppm: *damage_ppm,
                    jitter_micros: *jitter_micros,
                    ..self.link_options
                });
            }
            Event::Latency { micros } => self.set_latency(*micros),
            // Its disks know no copies, its clocks are their machines' own, and its streams carry no strangers' frames.
            Event::Backup { .. } | Event::Restore { .. } | Event::Busy { .. } | Event::Intrude { .. } => {}
        }
        Ok(())
    }

    /// A machine that is down has no application to ask.
    fn ask(&self, node: usize, ask: Ask) {
        if let Some(asks) = &self.machines[node].board.borrow().asks {
            let _ = asks.send(ask);
        }
    }

    fn link(&self, a: usize, b: usize, works: bool) {
        let (a, b) = (self.machines[a].host.as_str(), self.machines[b].host.as_str());
        if works {
            // Both are harmless where nothing was held or cut.
            self.sim.release(a, b);
            self.sim.repair(a, b);
        } else {
            self.sim.partition(a, b);
        }
    }

    fn set_latency(&self, micros: u64) {
        for (a, b) in self.plan.pairs() {
            let latency = Duration::from_micros(micros);
            self.sim.set_link_latency(
                self.machines[a].host.as_str(),
                self.machines[b].host.as_str(),
                latency,
            );
        }
    }

    fn set_faults(&mut self, options: LinkOptions) {
        self.link_options = options;
        self.machines.iter().for_each(|machine| machine.link.set(options));
    }

    fn power_off(&mut self, node: usize) {
        self.note(&format!("{} is without power", letter(node)));
        let machine = &mut self.machines[node];
        machine.disk.cut_after(0);
        machine.powered = false;
        {
            let mut board = machine.board.borrow_mut();
            board.db = None;
            board.asks = None;
            // What the last step brought was heard; what a machine without power says is not.
            board.unopened = None;
        }
        self.sim.crash(machine.host.as_str());
        machine.board.borrow_mut().stopped = None;
    }

    fn restart(&mut self, node: usize) {
        let down = self.machines[node].board.borrow().db.is_none();
        if self.machines[node].powered && !down {
            return;
        }
        self.machines[node].powered = true;
        self.machines[node].disk.disarm();
        self.machines[node].disk.power_on();
        self.sim.bounce(self.machines[node].host.as_str());
    }

    /// Faults stop, the core heals, the rest stays cut: the core must converge in time.
    fn converge(&mut self) -> Result<(), Failure> {
        self.set_faults(LinkOptions::default());
        for node in 0..self.machines.len() {
            self.machines[node].disk.disarm();
            self.restart(node);
        }
        for (a, b) in self.plan.pairs() {
            self.link(a, b, self.plan.in_core(a, b));
        }
        let (start_ms, core) = (self.now_ms(), self.plan.core_nodes());
        loop {
            for _ in 0..LOOK_TICKS / 5 {
                self.step().or_else(|violation| self.fail(None, violation))?;
            }
            if self.core_is_equal(&core) {
                break;
            }
            if self.now_ms() - start_ms > CONVERGENCE_MS_MAX {
                let known: BTreeMap<char, u64> = core
                    .iter()
                    .map(|node| (letter(*node), self.machines[*node].observer.position()))
                    .collect();
                let sentence =
                    format!("after {CONVERGENCE_MS_MAX} ms the core's devices know {known:?} commits");
                return self.fail(None, Violation { oracle: "a connected core converges", sentence });
            }
        }
        self.report.convergence_ms = self.now_ms() - start_ms;
        self.check_end(&core).or_else(|violation| self.fail(None, violation))
    }

    fn core_is_equal(&self, core: &[usize]) -> bool {
        let heads = |node: usize| {
            let db = self.machines[node].board.borrow().db.clone()?;
            Some(db.store().recover().ok()?.heads)
        };
        let first = heads(core[0]);
        // The others take part again, too, though with nobody.
        let all_open = (0..self.machines.len()).all(|node| heads(node).is_some());
        all_open && core.iter().all(|node| heads(*node) == first)
    }

    fn check_end(&mut self, core: &[usize]) -> Result<(), Violation> {
        self.look()?;
        for node in 0..self.machines.len() {
            let db = self.machines[node].board.borrow().db.clone();
            let Some(db) = db else {
                return violation("every device runs in the end", format!("{} does not", letter(node)));
            };
            self.machines[node].observer.check_all(&mut self.global, &**db.store())?;
        }
        let observers: Vec<&Observer> = self.machines.iter().map(|machine| &machine.observer).collect();
        check_acknowledged(&self.global, &observers, core)
    }
}
