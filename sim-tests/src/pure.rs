//! Harness P: the sans-IO engines on one event queue in virtual time, with stores in memory. Its point is speed.

mod syncs;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use engine::config::Config;
use engine::hlc::Hlc;
use engine::identity::{DeviceId, Dot};
use engine::io::{Order, Written};
use engine::name::TableName;
use engine::prng::Prng;
use engine::statement::Statement;
use engine::store::{Batch, MemStore, Store, StoreRead};
use engine::testing::{Happened, LinkFaults, Mesh, Moment, StandIns, stand_ins, test_identity};

use self::syncs::Waiting;
use crate::history::Global;
use crate::intruder::{Intrusion, Neighbour, by_peer, by_stranger};
use crate::marks::Situation;
use crate::oracle::{Injected, Observer, Violation, check_bounds, check_equal, check_event, violation};
use crate::pairing::invite;
use crate::plan::{Event, Plan, letter};
use crate::run::{Failure, Report};
use crate::view::{Sabotage, Spoiler, View};

/// Virtual time in which a core must converge once faults have stopped, in milliseconds.
pub(crate) const CONVERGENCE_MS_MAX: u64 = 10 * 60 * 1000;
/// One seed of so many signs for real; the others have hashes stand in for signatures, which are a sixth of the work.
const SIGNED_EVERY: u64 = 16;
/// How many frames a reader of frames serves, by seed: 0 where none is read ahead.
const READ_AHEAD: [u64; 8] = [0, 0, 1, 0, 0, 2, 0, 16];
/// Batches that a full disk refuses before somebody makes space.
const FULL_DISK_FAILURES: u32 = 64;
/// Rounds in which it must, besides those that its credit makes necessary: greetings, statements, timers.
const CONVERGENCE_ROUNDS: u64 = 100;

/// Most devices of a plan, and times that a machine begins anew: each time it gets a key that nobody else has.
pub(crate) const NODES_MAX: u8 = *crate::plan::NODES.end() as u8;
pub(crate) const READMISSIONS_MAX: u8 = 9;

/// A run of a plan over the engines.
#[derive(Debug)]
pub struct Pure<'a> {
    plan: &'a Plan,
    config: Config,
    mesh: Mesh,
    observers: Vec<Observer>,
    backups: BTreeMap<usize, MemStore>,
    global: Global,
    injected: Injected,
    /// Devices that hold the root key, or may.
    roots: BTreeSet<DeviceId>,
    /// Machines that were told that the device they are is revoked.
    told: BTreeSet<(usize, DeviceId)>,
    /// How often each machine began anew.
    readmissions: BTreeMap<usize, u8>,
    intrusions: u64,
    /// Applications that wait to be in sync.
    waiting: Vec<Waiting>,
    events_seen: usize,
    /// The hash of all that had happened when the safety oracles looked last.
    looked_at: Option<u64>,
    sabotage: Option<Sabotage>,
    patience_ms: u64,
    report: Report,
    _stand_ins: Option<StandIns>,
}

impl<'a> Pure<'a> {
    /// A run that has not begun.
    pub fn new(plan: &'a Plan) -> Pure<'a> {
        let stand_ins = (!plan.seed.is_multiple_of(SIGNED_EVERY)).then(stand_ins);
        let config = plan.config();
        let mut mesh = Mesh::new(plan.nodes as u8, plan.seed, config.clone());
        mesh.set_latency(plan.knobs.latency_micros);
        mesh.keep_frames();
        mesh.set_packing(plan.knobs.packed_commits);
        mesh.set_read_ahead(READ_AHEAD[(plan.seed % READ_AHEAD.len() as u64) as usize]);
        plan.knobs.drift_ppm.iter().enumerate().for_each(|(node, ppm)| mesh.set_drift(node, *ppm));
        let device = |node| mesh.key(node).device();
        let devices = (0..plan.nodes).map(device).collect();
        let observers = (0..plan.nodes).map(|node| Observer::new(node, device(node), &config)).collect();
        let roots = BTreeSet::from([device(0)]);
        Pure {
            plan,
            config,
            mesh,
            observers,
            backups: BTreeMap::new(),
            global: Global::of(devices),
            injected: Injected::default(),
            roots,
            told: BTreeSet::new(),
            readmissions: BTreeMap::new(),
            intrusions: 0,
            waiting: Vec::new(),
            events_seen: 0,
            looked_at: None,
            sabotage: None,
            patience_ms: CONVERGENCE_MS_MAX,
            report: Report::default(),
            _stand_ins: stand_ins,
        }
    }

    /// Spoils what the oracles see of a device.
    #[must_use]
    pub fn with_sabotage(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }

    /// Gives the core another time to converge, in virtual milliseconds.
    #[must_use]
    pub(crate) fn with_patience(mut self, ms: u64) -> Self {
        self.patience_ms = ms;
        self
    }

    /// Has frames read ahead as it is for another seed.
    #[must_use]
    pub fn with_read_ahead(mut self, frames: u64) -> Self {
        self.mesh.set_read_ahead(frames);
        self
    }

    /// Records the conversation and the events as text, for [`Report::transcript`].
    #[must_use]
    pub fn with_transcript(mut self) -> Self {
        self.mesh.transcript = Some(Vec::new());
        self
    }

    /// Records all that happens, for [`Report::moments`]. A boot has no part in it: devices are there from the start.
    #[must_use]
    pub fn with_moments(mut self) -> Self {
        self.mesh.moments = Some(Vec::new());
        self
    }

    /// Carries the plan out. What happened until a failure is in the report.
    pub fn run(mut self) -> (Report, Result<(), Failure>) {
        let result = self.events().and_then(|()| self.converge());
        let Report { counts, faults, marks, convergence_rounds, .. } = &mut self.report;
        let mesh = &self.mesh.counts;
        marks.note(Situation::FramesCutOff, mesh.cut_off > 0);
        marks.note(Situation::FrameLost, mesh.lost > 0);
        marks.note(Situation::FrameDoubled, mesh.doubled > 0);
        marks.note(Situation::FrameDamaged, mesh.damaged > 0);
        marks.note(Situation::PowerCutAtBatch, mesh.cuts_between_outputs > 0);
        marks.note(Situation::StoreRefused, mesh.store_failures > 0);
        marks.note(Situation::PairOverwritten, self.observers.iter().any(Observer::pair_overwritten));
        marks.note(Situation::LongLog, self.observers.iter().any(|observer| observer.position() > 100));
        marks.note(Situation::CoreOfAll, self.plan.core_nodes().len() == self.plan.nodes);
        marks.note(Situation::CoreOfSome, self.plan.core_nodes().len() < self.plan.nodes);
        marks.note(Situation::ConvergedLate, *convergence_rounds > 10);
        counts.add("frames arrived", mesh.arrived);
        faults.add("frames lost", mesh.lost);
        faults.add("frames doubled", mesh.doubled);
        faults.add("frames damaged", mesh.damaged);
        faults.add("frames cut off", mesh.cut_off);
        faults.add("batches refused by a store", mesh.store_failures);
        faults.add("power cuts between two outputs", mesh.cuts_between_outputs);
        self.report.commits = self.observers.iter().map(Observer::position).max().unwrap_or(0);
        self.report.simulated_ms = self.mesh.now_ms();
        self.report.checkpoints.push(self.mesh.trace_hash());
        self.report.moments = self.mesh.moments.take().unwrap_or_default();
        self.report.transcript = self.mesh.transcript.take().unwrap_or_default();
        (self.report, result)
    }

    fn fail<T>(&self, event: Option<usize>, violation: Violation) -> Result<T, Failure> {
        Err(Failure { at_ms: self.mesh.now_ms(), event, violation })
    }

    fn events(&mut self) -> Result<(), Failure> {
        for (number, timed) in self.plan.events.iter().enumerate() {
            let run = self.run_to(timed.at_ms);
            if let Err(violation) = run
                .and_then(|()| self.check_news())
                .and_then(|()| self.perform(&timed.event))
                .and_then(|()| self.check())
            {
                return self.fail(Some(number), violation);
            }
            self.report.checkpoints.push(self.mesh.trace_hash());
        }
        Ok(())
    }

    fn perform(&mut self, event: &Event) -> Result<(), Violation> {
        let counts = if event.is_fault() { &mut self.report.faults } else { &mut self.report.counts };
        counts.add(event.kind(), 1);
        let running = |node: &usize| self.mesh.running(*node);
        let starts = matches!(event, Event::Restart { .. } | Event::Restore { .. });
        self.report.marks.note(Situation::ActedWhileDown, !starts && !event.nodes().iter().all(running));
        self.report.marks.note(Situation::AllDown, !(0..self.plan.nodes).any(|node| running(&node)));
        let now_ms = self.mesh.now_ms();
        if let Some(lines) = &mut self.mesh.transcript {
            lines.push(format!("{now_ms:>7} ms  * {event}"));
        }
        self.planned(|| event.to_string());
        match event {
            Event::Write { .. } | Event::Pair { .. } => return self.write(event),
            Event::Connect { a, b } => self.mesh.connect(*a, *b),
            Event::Disconnect { a, b } => self.mesh.disconnect(*a, *b),
            Event::Roam { a, b } => self.mesh.roam(*a, *b),
            Event::Cut { a, b } => self.mesh.cut(*a, *b),
            Event::CutOneWay { from, to } => self.mesh.cut_one_way(*from, *to),
            Event::Hold { a, b } => self.mesh.hold(*a, *b),
            Event::Bandwidth { bytes_per_second } => self.mesh.set_bandwidth(*bytes_per_second),
            Event::Leave { node } => self.mesh.leave(*node),
            Event::Intrude { node, by } => return self.intrude(*node, *by),
            Event::Invite { ask, attempts } => {
                return invite(self.plan.seed, *ask, attempts, &mut self.report.marks);
            }
            Event::Crash { node, after_writes: 0 } => self.mesh.crash(*node),
            Event::Crash { node, after_writes } => self.mesh.crash_at_batch(*node, *after_writes),
            Event::Restart { node } => self.mesh.restart(*node),
            Event::Backup { node } => {
                self.backups.insert(*node, self.mesh.store(*node).clone());
            }
            Event::Restore { node, unguarded } => {
                self.report.marks.note(Situation::RestoredNothing, !self.backups.contains_key(node));
                if let Some(backup) = self.backups.get(node) {
                    let store = backup.clone();
                    if *unguarded {
                        self.global.forked.insert(self.mesh.key(*node).device());
                    }
                    let store = if *unguarded { store } else { store.without_replica() };
                    self.change_life(*node, |mesh| mesh.replace_store(*node, store));
                }
            }
            Event::Clone { node, of, unguarded } => {
                self.backups.remove(node);
                if *unguarded {
                    self.global.forked.insert(self.mesh.key(*of).device());
                }
                self.change_life(*node, |mesh| mesh.become_copy(*node, *of, !*unguarded));
            }
            Event::Revoke { by, node } => return self.revoke(*by, *node),
            Event::Promote { by, node } => return self.promote(*by, *node),
            Event::Readmit { node } => self.readmit(*node),
            Event::DiskFull { node, full } => {
                self.mesh.fail_commits(*node, if *full { FULL_DISK_FAILURES } else { 0 });
            }
            Event::Read { node } => {
                let view = View { store: self.mesh.store(*node), spoil: Spoiler(self.sabotage_of(*node)) };
                return self.observers[*node].check_all(&mut self.global, &view);
            }
            Event::Sync { node } => self.sync(*node),
            Event::Busy { node } => self.fill_counter(*node),
            Event::Clock { node, offset_ms } => {
                self.look_at_clocks();
                self.mesh.set_wall_offset(*node, *offset_ms);
            }
            Event::FailStorage { node, times } => self.mesh.fail_commits(*node, *times),
            Event::Faults { loss_ppm, double_ppm, damage_ppm, jitter_micros } => {
                self.injected.damaged |= *damage_ppm > 0;
                self.mesh.set_faults(LinkFaults {
                    loss_ppm: *loss_ppm,
                    double_ppm: *double_ppm,
                    damage_ppm: *damage_ppm,
                    jitter_micros: *jitter_micros,
                });
            }
            Event::Latency { micros } => self.mesh.set_latency(*micros),
        }
        Ok(())
    }

    fn planned(&mut self, text: impl FnOnce() -> String) {
        let at_micros = self.mesh.now_ms() * 1000;
        if let Some(moments) = &mut self.mesh.moments {
            moments.push(Moment { at_micros, what: Happened::Planned(text()) });
        }
    }

    fn write(&mut self, event: &Event) -> Result<(), Violation> {
        let Ok(Some((node, changes))) = event.changes() else {
            return violation("a plan's names are valid", event.to_string());
        };
        let together = 1 + self.plan.knobs.repeated_writes as usize;
        let ids = self.mesh.write_group(node, vec![changes; together]);
        ids.into_iter().try_for_each(|id| self.written(node, id))
    }

    /// Takes in what became of a transaction.
    fn written(&mut self, node: usize, id: u64) -> Result<(), Violation> {
        match self.mesh.results.get(&id) {
            Some(Ok(written)) => {
                let written: Written = *written;
                self.report.counts.add("writes acknowledged", 1);
                let view = View { store: self.mesh.store(node), spoil: Spoiler(self.sabotage_of(node)) };
                self.observers[node].acknowledged(&mut self.global, &view, &written)
            }
            Some(Err(_)) => {
                self.report.marks.note(Situation::WriteRefused, true);
                self.report.counts.add("writes refused", 1);
                Ok(())
            }
            None => {
                self.report.marks.note(Situation::WriteLost, self.mesh.running(node));
                self.report.counts.add("writes unanswered", 1);
                Ok(())
            }
        }
    }

    /// Gives an administrator's order. Whether it was carried out; `None` if nobody knows, because storage failed.
    fn order(&mut self, by: usize, order: Order) -> Result<Option<Option<Dot>>, Violation> {
        let holds_root = self.roots.contains(&self.mesh.key(by).device());
        let id = self.mesh.administer(by, order);
        match self.mesh.administered.get(&id) {
            Some(Ok(_)) if !holds_root => {
                let sentence = format!("{}'s order was carried out", letter(by));
                violation("only administrators give orders", sentence)
            }
            Some(Ok(dot)) => {
                self.report.counts.add("orders carried out", 1);
                Ok(Some(Some(*dot)))
            }
            Some(Err(_)) => {
                self.report.counts.add("orders refused", 1);
                Ok(Some(None))
            }
            None => Ok(None),
        }
    }

    fn revoke(&mut self, by: usize, node: usize) -> Result<(), Violation> {
        if !self.mesh.running(by) {
            return Ok(());
        }
        let device = self.mesh.key(node).device();
        let before = self.injected.revoked;
        let ordered = self.global.ordered.insert(device);
        self.injected.revoked = true;
        let due = self.observers[by].applied_of(&device);
        let Some(done) = self.order(by, Order::Revoke { device, reason: "lost".into() })? else {
            return Ok(());
        };
        let Some(dot) = done else {
            self.injected.revoked = before;
            if ordered {
                self.global.ordered.remove(&device);
            }
            return Ok(());
        };
        let stored = self.mesh.store(by).commits(&dot.replica, 1, 1, usize::MAX).unwrap_or_default();
        let said = stored.first().and_then(|stored| match stored.commit.statement.as_deref() {
            Some(Statement::Revoke(said)) => Some(said),
            _ => None,
        });
        let fences = said.map(|said| {
            said.fences.iter().map(|(incarnation, fence)| (*incarnation, (fence.seq, fence.hash))).collect()
        });
        if fences.as_ref() != Some(&due) {
            let sentence = format!("{} stated {fences:?}, and had {due:?}", letter(by));
            return violation("what the issuer had applied counts, and nothing else", sentence);
        }
        Ok(())
    }

    fn promote(&mut self, by: usize, node: usize) -> Result<(), Violation> {
        if !self.mesh.running(by) {
            return Ok(());
        }
        let device = self.mesh.key(node).device();
        if self.order(by, Order::Certify { device, name: None, admin: Some(true) })? != Some(None) {
            self.roots.insert(device);
        }
        Ok(())
    }

    /// A machine is paired anew: another device, an empty database.
    fn readmit(&mut self, node: usize) {
        let times = self.readmissions.entry(node).or_default();
        if *times == READMISSIONS_MAX {
            return;
        }
        *times += 1;
        let identity = test_identity(*times * NODES_MAX + node as u8);
        self.global.admit(identity.device());
        self.backups.remove(&node);
        self.change_life(node, |mesh| mesh.become_device(node, identity));
    }

    /// Has somebody hostile speak to a device. That must change nothing.
    fn intrude(&mut self, node: usize, by: Intrusion) -> Result<(), Violation> {
        self.intrusions += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.plan.seed.to_be_bytes());
        seed[8..16].copy_from_slice(&self.intrusions.to_be_bytes());
        let fate = Prng::new(seed);
        let neighbour =
            (0..self.plan.nodes).find(|other| *other != node && self.mesh.connected(node, *other));
        let attack = by_stranger(by, self.intrusions, fate.clone()).or_else(|| {
            let other = neighbour?;
            let (peer, session) = (self.mesh.key(other), self.mesh.session(other, node)?);
            let mut heads = self.observers[node].heads().clone();
            heads.retain(|replica, head| self.observers[other].heads().get(replica) == Some(head));
            by_peer(by, &Neighbour { peer, session, heads: &heads }, fate)
        });
        let Some(attack) = attack.filter(|_| self.mesh.running(node)) else { return Ok(()) };
        self.injected.suspects.extend([attack.peer.device(), self.mesh.key(node).device()]);
        let standing = |mesh: &Mesh| (mesh.engine(node).knowledge().clone(), mesh.engine(node).digest());
        // The frames that were dropped in the session with whoever speaks, if there is one.
        let session = |mesh: &Mesh| {
            let peers = if mesh.running(node) { mesh.engine(node).stats().peers } else { Vec::new() };
            let peer = peers.into_iter().find(|stats| stats.ready && stats.peer == attack.peer);
            peer.map(|stats| stats.traffic.frames_dropped)
        };
        let (before, dropped) = (standing(&self.mesh), session(&self.mesh));
        attack.inputs.into_iter().for_each(|input| self.mesh.input(node, input));
        if self.mesh.running(node) && standing(&self.mesh) != before {
            let sentence = format!("{} at {} did", by.kind(), letter(node));
            return violation("what is hostile changes nothing", sentence);
        }
        let passed = dropped.is_some() && session(&self.mesh) == dropped;
        if by.ends_session() && passed {
            let sentence = format!("{} at {} did not", by.kind(), letter(node));
            return violation("what no rule allows ends the session", sentence);
        }
        if let Some(situation) = by.situation() {
            // Where the session went on, it was not for a frame of another one.
            self.report.marks.note(situation, passed || dropped.is_some() && session(&self.mesh).is_none());
        }
        Ok(())
    }

    /// The frames that arrived last between the devices of the core, once more. What was in them the sender knew, and so
    /// all of the core knows it, unless the sender has lost it by going on from a backup.
    fn redeliver(&mut self, core: &[usize]) -> Result<(), Violation> {
        let standing = |mesh: &Mesh| -> Vec<_> {
            let engines = core.iter().filter(|node| mesh.running(**node)).map(|node| mesh.engine(*node));
            engines.map(|engine| (engine.knowledge().clone(), engine.digest())).collect()
        };
        let before = standing(&self.mesh);
        self.mesh.redeliver(core);
        let lost =
            |event: &Event| matches!(event, Event::Restore { .. } | Event::Clone { unguarded: true, .. });
        let restored = self.plan.events.iter().any(|timed| lost(&timed.event));
        if !restored && standing(&self.mesh) != before {
            return violation("delivering frames again changes nothing", "it did".into());
        }
        self.check()
    }

    /// Puts another database in place of a device's own: a backup, or that of another device. Its guard tells the device
    /// that this is a copy.
    fn change_life(&mut self, node: usize, change: impl FnOnce(&mut Mesh)) {
        self.mesh.crash(node);
        change(&mut self.mesh);
        let recovered = self.mesh.store(node).recover().expect("the store in memory recovers");
        let observers: Vec<&Observer> = self.observers.iter().collect();
        let (kept, lost) = self.global.restored(node, &recovered.heads, &observers);
        self.report.marks.note(Situation::WriteReturned, kept);
        self.report.marks.note(Situation::WriteInBackupOnly, lost);
        let mut observer = Observer::new(node, self.mesh.key(node).device(), &self.config);
        observer.clock_set(recovered.clock);
        self.observers[node] = observer;
        self.mesh.restart(node);
        self.look_at_clocks();
    }

    /// Lets a device's clock go on from the end of a millisecond's counter, a little ahead of its wall clock.
    fn fill_counter(&mut self, node: usize) {
        let links: Vec<usize> =
            (0..self.plan.nodes).filter(|other| self.mesh.connected(node, *other)).collect();
        let running = self.mesh.running(node);
        self.mesh.crash(node);
        let recovered = self.mesh.store(node).recover().expect("the store in memory recovers");
        let clock = Hlc::new(self.mesh.node_now(node).wall.0 + 20_000, u16::MAX - 1).max(recovered.clock);
        let (position, digest) = (recovered.position + 1, recovered.digest);
        let batch = Batch { position, clock, digest, replica: recovered.replica, ..Batch::default() };
        self.mesh.store(node).apply(&batch).expect("a batch without commits fits");
        self.observers[node].clock_set(clock);
        if running {
            self.mesh.restart(node);
            links.into_iter().for_each(|other| self.mesh.connect(node, other));
        }
    }

    fn sabotage_of(&self, node: usize) -> Option<Sabotage> {
        self.sabotage.filter(|sabotage| sabotage.node() == node)
    }

    fn look_at_clocks(&mut self) {
        for (node, observer) in self.observers.iter_mut().enumerate() {
            observer.wall(self.mesh.node_now(node).wall.0);
        }
    }

    /// All safety oracles, if a device was told anything since they looked last: else none of them would see any change.
    fn check_news(&mut self) -> Result<(), Violation> {
        if self.looked_at == Some(self.mesh.trace_hash()) {
            self.look_at_clocks();
            return Ok(());
        }
        self.check()
    }

    /// All safety oracles.
    fn check(&mut self) -> Result<(), Violation> {
        self.look_at_clocks();
        let mut equal = Vec::with_capacity(self.plan.nodes);
        for node in 0..self.plan.nodes {
            let view = View { store: self.mesh.store(node), spoil: Spoiler(self.sabotage_of(node)) };
            self.observers[node].observe(&mut self.global, &view)?;
            if !self.mesh.running(node) {
                continue;
            }
            let engine = self.mesh.engine(node);
            if engine.knowledge() != self.observers[node].knowledge() {
                let sentence = format!("{} claims {:?}", letter(node), engine.knowledge());
                return violation("knowledge is exactly what the log holds", sentence);
            }
            check_bounds(node, engine.waiting_bytes(), &self.config)?;
            check_memory(node, engine.waiting_memory(), &self.config)?;
            equal.push((node, engine.knowledge(), engine.digest()));
        }
        let heads = |node: usize| self.observers[node].heads();
        let forks = !self.global.forked.is_empty();
        check_equal(&equal, |a, b| !forks || heads(a) == heads(b))?;
        for (node, event) in &self.mesh.events[self.events_seen..] {
            check_event(*node, event, &self.injected, &self.global.forked)?;
            if let engine::io::Event::Revoked { device, .. } = event {
                self.told.insert((*node, *device));
            }
        }
        self.events_seen = self.mesh.events.len();
        if self.mesh.counts.store_refusals > 0 {
            return violation("a store takes every batch", "one was refused that was not made to be".into());
        }
        self.looked_at = Some(self.mesh.trace_hash());
        Ok(())
    }

    /// Faults stop, the core heals, the rest stays cut: the core must converge in time.
    fn converge(&mut self) -> Result<(), Failure> {
        self.mesh.set_faults(LinkFaults::default());
        self.mesh.set_bandwidth(0);
        self.waiting.clear();
        let core = self.plan.core_nodes();
        for node in 0..self.plan.nodes {
            self.mesh.fail_commits(node, 0);
            self.mesh.crash_at_batch(node, 0);
        }
        core.iter().for_each(|node| self.mesh.restart(*node));
        for (a, b) in self.plan.pairs() {
            if self.plan.in_core(a, b) { self.mesh.connect(a, b) } else { self.mesh.cut(a, b) }
        }
        self.planned(|| "faults stop, only the core works".into());
        let start_ms = self.mesh.now_ms();
        let standing = self.plan.standing();
        let forks = !self.global.forked.is_empty();
        self.mesh.count_rounds(&self.plan.standing_links());
        let converged = self.mesh.run_until(self.patience_ms, |mesh| {
            core.iter().all(|node| settled(mesh, standing[0], *node, standing.contains(node), forks))
        });
        self.report.convergence_ms = self.mesh.now_ms() - start_ms;
        self.report.marks.note(Situation::ConvergedAtOnce, self.report.convergence_ms == 0);
        self.report.convergence_rounds = self.mesh.rounds();
        if let Err(violation) = self.check() {
            return self.fail(None, violation);
        }
        let rounds = self.report.convergence_rounds;
        if !converged || rounds > CONVERGENCE_ROUNDS && rounds > self.rounds_max(&standing) {
            let known: BTreeMap<char, u64> = core
                .iter()
                .map(|node| (letter(*node), self.mesh.engine(*node).knowledge().commits()))
                .collect();
            let sentence = format!(
                "after {} ms and {rounds} rounds the core's devices know {known:?} commits",
                self.report.convergence_ms
            );
            return self.fail(None, Violation { oracle: "a connected core converges", sentence });
        }
        self.check_end(&core).or_else(|violation| self.fail(None, violation))
    }

    /// Rounds in which a core must converge: where the credit holds no second frame, one frame passes in a round, so a log
    /// that has to travel over all links of the core takes that many rounds a link.
    fn rounds_max(&self, core: &[usize]) -> u64 {
        let log_bytes = |node: &usize| -> usize {
            let log = self.mesh.store(*node).applied(1, usize::MAX).unwrap_or_default();
            log.iter().map(|stored| stored.commit.encoded_len()).sum()
        };
        let bytes = core.iter().map(log_bytes).max().unwrap_or(0) as u64;
        let window = self.config.credit_bytes.min(self.config.batch_bytes as u64).max(1);
        CONVERGENCE_ROUNDS + self.plan.core.len() as u64 * bytes.div_ceil(window)
    }

    fn check_end(&mut self, core: &[usize]) -> Result<(), Violation> {
        for node in 0..self.plan.nodes {
            let view = View { store: self.mesh.store(node), spoil: Spoiler(self.sabotage_of(node)) };
            self.observers[node].check_all(&mut self.global, &view)?;
        }
        let unbounded = (Bound::Unbounded, Bound::Unbounded);
        let table = TableName::new(crate::TABLE).expect("a valid name");
        let rows = |node: usize| self.mesh.store(node).scan(&table, unbounded, usize::MAX);
        let standing = self.plan.standing();
        for pair in standing.windows(2) {
            if self.observers[pair[0]].heads() != self.observers[pair[1]].heads() {
                let sentence = format!("{} and {} have other commits", letter(pair[0]), letter(pair[1]));
                return violation("no name has two commits in the end", sentence);
            }
            if rows(pair[0]) != rows(pair[1]) {
                let sentence = format!("{} and {} differ", letter(pair[0]), letter(pair[1]));
                return violation("equal knowledge, equal rows", sentence);
            }
        }
        check_acknowledged(&self.global, &self.observers.iter().collect::<Vec<_>>(), core, &standing)?;
        self.redeliver(&standing)?;
        self.check_revoked(core)
    }

    /// A revoked device of the core was told so. It has no sessions, and may write for itself.
    fn check_revoked(&mut self, core: &[usize]) -> Result<(), Violation> {
        for node in core {
            let device = self.mesh.key(*node).device();
            if !self.observers[*node].revoked(&device) {
                continue;
            }
            if !self.told.contains(&(*node, device)) {
                let sentence = format!("{} does not report it", letter(*node));
                return violation("a revoked device is told", sentence);
            }
            if self.mesh.engine(*node).stats().peers.iter().any(|peer| peer.ready) {
                let sentence = format!("{} has one", letter(*node));
                return violation("a revoked device has no session", sentence);
            }
            let before = self.report.counts.0.get("writes acknowledged").copied();
            self.write(&Event::Pair { node: *node, value: -1 })?;
            if self.report.counts.0.get("writes acknowledged").copied() == before {
                let sentence = format!("{} did not answer", letter(*node));
                return violation("a revoked device may write for itself", sentence);
            }
        }
        self.check()
    }
}

/// Whether a device of the core is as it must be in the end: it knows what the first of those in good standing knows,
/// or that it is revoked.
fn settled(mesh: &Mesh, first: usize, node: usize, standing: bool, forks: bool) -> bool {
    let (by, engine) = (mesh.engine(first), mesh.engine(node));
    // Asked after each step: what it costs to derive an id from a key counts.
    if !standing {
        let device = mesh.key(node).device();
        if by.revocations().any(|said| said.device == device) {
            return engine.revoked();
        }
    }
    // Where databases ran twice, equal numbers may be other commits until that is found out.
    let heads = |node: usize| mesh.store(node).recover().map(|recovered| recovered.heads);
    engine.knowledge() == by.knowledge() && !engine.revoked() && (!forks || heads(node) == heads(first))
}

/// Every write that a device of the core acknowledged is on all of its devices in good standing, unless it no longer
/// counts, or the device that has it was revoked.
pub(crate) fn check_acknowledged(
    global: &Global,
    observers: &[&Observer],
    core: &[usize],
    standing: &[usize],
) -> Result<(), Violation> {
    let speaks = |node: &usize| {
        core.contains(node) && !standing.iter().any(|by| observers[*by].revoked(&observers[*node].device()))
    };
    for ((dot, hash), author) in global.acknowledged.iter().filter(|(_, author)| speaks(author)) {
        for node in standing {
            if !observers[*node].settled(global, dot, hash) {
                let sentence =
                    format!("{} lacks {dot:?}, which {} acknowledged", letter(*node), letter(*author));
                return violation("an acknowledged write is everywhere in the end", sentence);
            }
        }
    }
    Ok(())
}

/// What waits stays within its bound of memory: four times as much, and a megabyte at least.
fn check_memory(node: usize, waiting_memory: u64, config: &Config) -> Result<(), Violation> {
    let memory_max = (4 * config.reorder_bytes_max as u64).max(1 << 20);
    if waiting_memory > memory_max {
        let sentence = format!("{} holds {waiting_memory} bytes of {memory_max}", letter(node));
        return violation("what waits stays within its memory", sentence);
    }
    Ok(())
}
