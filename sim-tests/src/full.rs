//! Harness T: the real driver (`ahenk::Node`), the real `RedbStore` on a simulated disk, and `SimTransport`, on
//! machines simulated by turmoil. It judges through the stores, and reads them while everything runs.
//!
//! Invariant: a machine that loses power loses its disk first, so that nothing that runs while it is torn down (redb's
//! `Drop` shuts down cleanly) reaches the medium.

mod lives;
mod syncs;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ahenk::{Scan, WriteFailed};
use engine::config::Config;
use engine::identity::{DeviceCert, DeviceId, Identity, SecretKey};
use engine::io::Order;
use engine::knowledge::Knowledge;
use engine::store::StoreRead;
use engine::testing::{EPOCH_MS, Happened, test_identity};
use engine::value::Value;
use transport_sim::{Form, LinkOptions, LinkSettings, Skew};

use self::lives::{directory, host, machines_by_key};
use crate::disk::{DiskImage, SimDisk};
use crate::history::Global;
use crate::intruded::Suspects;
use crate::marks::Situation;
use crate::oracle::{Injected, Observer, Violation, check_bounds, check_equal, check_event, violation};
use crate::pairing::invite;
use crate::plan::{Event, Plan, letter};
use crate::pure::check_acknowledged;
use crate::recorder::Recording;
use crate::run::{Failure, Report, panics};
use crate::sim_store::SimStore;
use crate::software::{Ask, Board, Setup, software};
use crate::watched::check_watched;

/// Virtual time of one step of turmoil, in milliseconds.
const TICK_MS: u64 = 10;
/// Steps between two looks at all stores.
const LOOK_TICKS: u64 = 50;
/// Virtual time in which a core must converge once faults have stopped, in milliseconds.
const CONVERGENCE_MS_MAX: u64 = 5 * 60 * 1000;
/// Steps in which some watcher must have seen something more, in the end, until all have seen everything.
const WATCH_TICKS_MAX: u64 = 1_000;
/// What a clock may show beyond the harness's own reckoning, in milliseconds.
const CLOCK_SLACK_MS: u64 = 2 * TICK_MS + 100;

struct Machine {
    host: String,
    disk: SimDisk,
    skew: Skew,
    offset_ms: i64,
    link: LinkSettings,
    board: Rc<RefCell<Board>>,
    powered: bool,
    boots_seen: u32,
    backup: Option<DiskImage>,
    /// The commit that the watcher is at, and the operations of it that it has seen.
    watch_at: (u64, usize),
    observer: Observer,
    /// Who it is at its next start, and the root key if another administrator gave it that one.
    identity: Rc<RefCell<Identity>>,
    granted: Rc<RefCell<Option<SecretKey>>>,
    /// The devices that it was told of when it was paired.
    members: Rc<RefCell<Vec<DeviceCert>>>,
    device: DeviceId,
    /// How often it began anew.
    readmissions: u8,
    /// In whose names something hostile was said to it.
    suspects: Suspects,
    /// Whether it holds the root key, or may.
    holds_root: bool,
    /// Whether it was told that it is revoked.
    told: bool,
}

/// A run of a plan on simulated machines.
pub struct Full<'a> {
    plan: &'a Plan,
    config: Config,
    sim: turmoil::Sim<'a>,
    machines: Vec<Machine>,
    global: Global,
    injected: Injected,
    link_options: LinkOptions,
    intrusions: u64,
    ticks: u64,
    trace: blake3::Hasher,
    report: Report,
    transcript: bool,
    recording: Option<Recording>,
}

impl<'a> Full<'a> {
    /// A run that has not begun.
    pub fn new(plan: &'a Plan) -> Full<'a> {
        Full::with_recording(plan, None)
    }

    /// The same, with a record of all that happens, for [`Report::moments`].
    pub fn recorded(plan: &'a Plan) -> Full<'a> {
        let account = test_identity(0).account();
        Full::with_recording(plan, Some(Recording::of(account, machines_by_key(plan.nodes))))
    }

    fn with_recording(plan: &'a Plan, recording: Option<Recording>) -> Full<'a> {
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
        let directory = directory(plan);
        let devices = identities.iter().map(Identity::device).collect();
        let members: Vec<DeviceCert> = identities.iter().map(|identity| identity.cert.clone()).collect();
        let config = plan.config();
        let mut machines = Vec::with_capacity(plan.nodes);
        for (node, identity) in identities.into_iter().enumerate() {
            let disk = SimDisk::new(plan.seed ^ (node as u64) << 56);
            // A first creation that is interrupted can leave storage that never opens; files are created in a way that
            // cannot, so the machines come with a database.
            drop(
                SimStore::open(disk.clone(), identity.account(), 0).expect("an empty disk takes a database"),
            );
            disk.power_on();
            let setup = Setup {
                seed: plan.seed,
                node,
                config: config.clone(),
                checkpoint_bytes: plan.knobs.checkpoint_bytes,
                repeated_writes: plan.knobs.repeated_writes,
                identity: Rc::new(RefCell::new(identity.clone())),
                suspects: Suspects::default(),
                members: Rc::new(RefCell::new(members.clone())),
                directory: directory.clone(),
                form: if plan.knobs.datagrams { Form::Datagram } else { Form::Stream },
                drift_ppm: plan.knobs.drift_ppm[node],
                disk: disk.clone(),
                skew: Skew::default(),
                link: LinkSettings::default(),
                slow_watcher: (plan.seed >> node) & 1 == 1,
                recording: recording.clone(),
                granted: Rc::default(),
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
                backup: None,
                watch_at: (1, 0),
                observer: Observer::new(node, identity.device(), &config),
                identity: Rc::clone(&setup.identity),
                granted: Rc::clone(&setup.granted),
                members: Rc::clone(&setup.members),
                readmissions: 0,
                suspects: setup.suspects.clone(),
                device: identity.device(),
                holds_root: identity.root.is_some(),
                told: false,
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
            config,
            sim,
            machines,
            global: Global::of(devices),
            injected: Injected::default(),
            link_options: LinkOptions::default(),
            intrusions: 0,
            ticks: 0,
            trace: blake3::Hasher::new(),
            report: Report::default(),
            transcript: false,
            recording,
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
        let Report { counts, faults, marks, .. } = &mut self.report;
        marks.note(Situation::Datagrams, self.plan.knobs.datagrams);
        marks.note(Situation::Streams, !self.plan.knobs.datagrams);
        marks.note(Situation::CoreOfAll, self.plan.core_nodes().len() == self.plan.nodes);
        marks.note(Situation::CoreOfSome, self.plan.core_nodes().len() < self.plan.nodes);
        for machine in &self.machines {
            let (link, disk) = (machine.link.counts(), machine.disk.counts());
            marks.note(Situation::FrameLost, link.lost > 0);
            marks.note(Situation::FrameDoubled, link.doubled > 0);
            marks.note(Situation::FrameDamaged, link.damaged > 0);
            marks.note(Situation::FrameDelayed, link.delayed > 0);
            marks.note(Situation::WriteDropped, disk.dropped > 0);
            marks.note(Situation::WriteTorn, disk.torn > 0);
            marks.note(Situation::DiskWriteFailed, disk.failed > disk.no_space);
            marks.note(Situation::DiskFull, disk.no_space > 0);
            marks.note(Situation::CutInCommit, disk.cuts_at_write > 0);
            marks.note(Situation::StartFailed, machine.board.borrow().failed_starts > 0);
            marks.note(Situation::PairOverwritten, machine.observer.pair_overwritten());
            marks.note(Situation::LongLog, machine.observer.position() > 100);
            counts.add("frames through faulty links", link.sent);
            faults.add("frames lost", link.lost);
            faults.add("frames doubled", link.doubled);
            faults.add("frames damaged", link.damaged);
            faults.add("frames delayed", link.delayed);
            counts.add("disk writes", disk.writes);
            counts.add("disk syncs", disk.syncs);
            faults.add("disk writes dropped by a power cut", disk.dropped);
            faults.add("disk writes torn by a power cut", disk.torn);
            faults.add("disk writes failed", disk.failed);
            faults.add("disk writes without space", disk.no_space);
            faults.add("power cuts", disk.cuts);
            faults.add("starts on a failing disk", machine.board.borrow().failed_starts);
        }
        self.report.commits =
            self.machines.iter().map(|machine| machine.observer.position()).max().unwrap_or(0);
        self.report.simulated_ms = self.now_ms();
        self.report.moments = self.recording.as_ref().map(Recording::take).unwrap_or_default();
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

    fn record(&self, what: impl FnOnce() -> Happened) {
        if let Some(recording) = &self.recording {
            recording.note(what());
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
            self.record(|| Happened::Planned(timed.event.to_string()));
            let datagrams = self.plan.knobs.datagrams;
            let skipped = match timed.event {
                Event::Busy { .. } => true,
                // Datagrams need no connection.
                Event::Roam { .. } => datagrams,
                _ => false,
            };
            let counts =
                if timed.event.is_fault() { &mut self.report.faults } else { &mut self.report.counts };
            counts.add(timed.event.kind(), u64::from(!skipped));
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
            if self.machines[node].disk.counts().late > 0 {
                let sentence = format!("{} did after it had let go of it", letter(node));
                return violation("a device that has stopped changes nothing on its disk", sentence);
            }
            self.hear(node)?;
        }
        if self.ticks.is_multiple_of(LOOK_TICKS) { self.look() } else { Ok(()) }
    }

    /// Takes in what a machine's software reported.
    fn hear(&mut self, node: usize) -> Result<(), Violation> {
        let (events, outcomes, orders, unopened, stopped) = {
            let mut board = self.machines[node].board.borrow_mut();
            let board = &mut *board;
            let reports = (std::mem::take(&mut board.events), std::mem::take(&mut board.outcomes));
            let orders = std::mem::take(&mut board.orders);
            self.report.marks.note(Situation::ShutDown, std::mem::take(&mut board.shut_down));
            (reports.0, reports.1, orders, board.unopened.take(), board.stopped.take())
        };
        let name = letter(node);
        for peer in self.machines[node].suspects.take() {
            self.injected.suspects.extend([peer.device(), self.machines[node].device]);
        }
        for event in events {
            self.note(&format!("{name} {event:?}"));
            self.record(|| Happened::Told { node, text: format!("{event:?}") });
            check_event(node, &event, &self.injected, &self.global.forked)?;
            let machine = &mut self.machines[node];
            machine.told |=
                matches!(event, engine::io::Event::Revoked { device, .. } if device == machine.device);
        }
        for outcome in orders {
            self.note(&format!("{name} ordered {outcome:?}"));
            let kind = if outcome.is_ok() { "orders carried out" } else { "orders refused or failed" };
            self.report.counts.add(kind, 1);
            if outcome.is_ok() && !self.machines[node].holds_root {
                return violation(
                    "only administrators give orders",
                    format!("{name}'s order was carried out"),
                );
            }
        }
        if let Some(text) = unopened
            && self.machines[node].powered
        {
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
            self.report.marks.note(Situation::WriteRefused, kind == "writes refused");
            self.report.marks.note(Situation::WriteFailed, kind == "writes failed");
            let db = self.machines[node].board.borrow().db.clone();
            if let (Ok(written), Some(db)) = (outcome, db) {
                self.machines[node].observer.acknowledged(&mut self.global, &**db.store(), &written)?;
            }
        }
        self.hear_synced(node)
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
                self.report.marks.note(Situation::StoreReopened, true);
                continue;
            }
            if std::mem::replace(&mut machine.boots_seen, boots) != boots {
                self.report.marks.note(Situation::RebootedBehind, machine.watch_at > (1, 0));
                machine.observer.reopened(&mut self.global, store)?;
            }
            machine.observer.observe(&mut self.global, store)?;
            let (watched, waiting_bytes) = {
                let mut board = machine.board.borrow_mut();
                (std::mem::take(&mut board.watched), std::mem::take(&mut board.waiting_bytes))
            };
            check_bounds(node, waiting_bytes, &self.config)?;
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
        let heads = |node: usize| self.machines[node].observer.heads();
        let forks = !self.global.forked.is_empty();
        check_equal(&equal, |a, b| !forks || heads(a) == heads(b))
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
            Event::Backup { node } => {
                self.machines[*node].backup = Some(self.machines[*node].disk.image());
            }
            Event::Restore { node, unguarded } => return self.restore(*node, !*unguarded),
            Event::DiskFull { node, full } => self.machines[*node].disk.fill(*full),
            Event::Read { node } => return self.read(*node),
            Event::Revoke { by, node } => {
                let device = self.machines[*node].device;
                if self.machines[*by].holds_root {
                    self.global.ordered.insert(device);
                    self.injected.revoked = true;
                }
                self.ask(*by, Ask::Order(Order::Revoke { device, reason: "lost".into() }));
            }
            Event::Promote { by, node } => {
                let device = self.machines[*node].device;
                self.machines[*node].holds_root |= self.machines[*by].holds_root;
                self.ask(*by, Ask::Order(Order::Certify { device, name: None, admin: Some(true) }));
            }
            Event::Invite { ask, attempts } => {
                return invite(self.plan.seed, *ask, attempts, &mut self.report.marks);
            }
            Event::Readmit { node } => return self.readmit(*node),
            Event::Clone { node, of, unguarded } => return self.become_copy(*node, *of, !*unguarded),
            Event::Sync { node } => self.sync(*node),
            Event::Intrude { node, by } => self.intrude(*node, *by),
            Event::Roam { a, b } => self.roam(*a, *b),
            // What a device's clock goes on from lies in its database, in no form of the harness's.
            Event::Busy { .. } => {}
        }
        Ok(())
    }

    /// What the application's interface gives must be what the log amounts to.
    fn read(&mut self, node: usize) -> Result<(), Violation> {
        self.look()?;
        let db = self.machines[node].board.borrow().db.clone();
        let Some(db) = db else { return Ok(()) };
        // Nothing runs between the look and this.
        let Ok(rows) = db.scan(crate::TABLE, &Scan::all()) else { return Ok(()) };
        let rows: BTreeMap<String, BTreeMap<String, Value>> = rows
            .into_iter()
            .map(|(key, row)| {
                let fields = row.fields.into_iter().map(|(name, value)| (name.to_string(), value));
                (key.to_string(), fields.collect())
            })
            .collect();
        self.machines[node].observer.check_shown(&rows)
    }

    /// A machine that is down has no application to ask.
    fn ask(&mut self, node: usize, ask: Ask) {
        let asked = self.machines[node].board.borrow().asks.as_ref().map(|asks| asks.send(ask));
        self.report.marks.note(Situation::ActedWhileDown, asked.is_none());
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
        self.record(|| Happened::Stopped { node });
        let machine = &mut self.machines[node];
        machine.disk.cut_after(0);
        machine.powered = false;
        {
            let mut board = machine.board.borrow_mut();
            board.db = None;
            board.asks = None;
            (board.visits, board.roamer) = (None, None);
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
        self.record(|| Happened::Started { node });
        self.machines[node].powered = true;
        self.machines[node].disk.disarm();
        self.machines[node].disk.power_on();
        self.sim.bounce(self.machines[node].host.as_str());
    }

    /// Faults stop, the core heals, the rest stays cut: the core must converge in time.
    fn converge(&mut self) -> Result<(), Failure> {
        self.set_faults(LinkOptions::default());
        self.record(|| Happened::Planned("faults stop, only the core works".into()));
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
            if self.core_is_settled(&core) {
                break;
            }
            // One that was just stopping when the faults stopped is started now.
            (0..self.machines.len()).for_each(|node| self.restart(node));
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

    /// Whether the devices in good standing know the same, and the others that they are revoked, as those see it.
    fn core_is_settled(&self, core: &[usize]) -> bool {
        let heads = |node: usize| {
            let db = self.machines[node].board.borrow().db.clone()?;
            Some(db.store().recover().ok()?.heads)
        };
        let standing = self.plan.standing();
        let first = heads(standing[0]);
        // The others take part again, too, though with nobody.
        let all_open = (0..self.machines.len()).all(|node| heads(node).is_some());
        let settled = |node: usize| {
            let Machine { device, observer, .. } = &self.machines[node];
            let known = &self.machines[standing[0]].observer;
            if !standing.contains(&node) && known.revoked(device) {
                return observer.revoked(device) || !self.can_be_told(node);
            }
            heads(node) == first && !observer.revoked(device)
        };
        all_open && core.iter().all(|node| settled(*node))
    }

    /// A watcher, however slow, comes to see all there is.
    fn check_watchers(&mut self) -> Result<(), Violation> {
        let cursors =
            |full: &Self| full.machines.iter().map(|one| one.board.borrow().cursor).collect::<Vec<_>>();
        // However much there is to see: what is not allowed is to stand still.
        let (mut still, mut seen) = (0, cursors(self));
        while still < WATCH_TICKS_MAX {
            let behind = |machine: &Machine| {
                let board = machine.board.borrow();
                board.db.as_ref().is_none_or(|db| !matches!(db.watch(board.cursor).try_next(), Ok(None)))
            };
            let Some(node) = self.machines.iter().position(behind) else { return self.look() };
            self.report.marks.note(Situation::WatcherBehind, true);
            self.step()?;
            if self.ticks.is_multiple_of(LOOK_TICKS) {
                self.note(&format!("{} still watches", letter(node)));
            }
            let now = cursors(self);
            still = if now == seen { still + 1 } else { 0 };
            seen = now;
        }
        violation("a watcher sees each change once and in order", "one does not come to the end".into())
    }

    fn check_end(&mut self, core: &[usize]) -> Result<(), Violation> {
        self.check_watchers()?;
        for node in 0..self.machines.len() {
            let db = self.machines[node].board.borrow().db.clone();
            let Some(db) = db else {
                return violation("every device runs in the end", format!("{} does not", letter(node)));
            };
            self.machines[node].observer.check_all(&mut self.global, &**db.store())?;
        }
        let observers: Vec<&Observer> = self.machines.iter().map(|machine| &machine.observer).collect();
        check_acknowledged(&self.global, &observers, core, &self.plan.standing())?;
        for node in core {
            let Machine { device, observer, told, board, .. } = &self.machines[*node];
            if observer.revoked(device) && !told && !board.borrow().revoked {
                let sentence = format!("{} does not report it", letter(*node));
                return violation("a revoked device is told", sentence);
            }
        }
        Ok(())
    }
}
