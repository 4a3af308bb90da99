//! From a seed to a plan. Swarm configuration: half the seeds switch a random subset of the fault classes on, a
//! quarter all of them, a quarter a single one. Few hot rows, so that writes meet.

use std::collections::{BTreeMap, BTreeSet};

use engine::commit::OpKind;
use engine::config::Config;
use engine::pairing::OFFER_MS;
use engine::prng::Prng;

use crate::Harness;
use crate::intruder::Intrusion;
use crate::pairing::{Attempt, BEGIN_MS_MAX, STEP_MS_MAX, Typed};
use crate::plan::{Event, Knobs, Plan, Step, Timed, doomed};

const MINUTE_MS: i64 = 60_000;
const YEAR_MS: i64 = 365 * 24 * 60 * MINUTE_MS;
/// Offsets that clocks jump to, in milliseconds.
const OFFSETS_MS: [i64; 8] = [0, 0, 300, -MINUTE_MS, MINUTE_MS, 60 * MINUTE_MS, 70 * YEAR_MS, -20 * YEAR_MS];

/// How much happens in a plan. Small ones notice bugs two thirds as often, and cost a quarter of the usual ones; what
/// depends on size or on many faults together is left to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Usual,
    /// Much is written at a time.
    Heavy,
}

/// Of a hundred plans of the pure harness so many are small, and so many heavy.
const SMALL_PERCENT: u64 = 75;
const HEAVY_PERCENT: u64 = 4;

/// How many plans invite somebody, in millionths. A pairing costs about as much as the rest of a small plan.
const INVITING_PPM: u64 = 60_000;
/// How many plans of the pure harness have databases that go back or run twice unnoticed, in millionths.
const FORKS_PPM: u64 = 80_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Disconnects,
    Cuts,
    Crashes,
    Clocks,
    Storage,
    Frames,
    SmallBuffers,
    Latency,
    Backups,
    Ties,
    Duets,
    OneWay,
    Holds,
    SlowLinks,
    Absences,
    Intruders,
    Bursts,
    Large,
    FullDisks,
    Clones,
    Revocations,
}

const CLASSES: [Class; 21] = [
    Class::Disconnects,
    Class::Cuts,
    Class::Crashes,
    Class::Clocks,
    Class::Storage,
    Class::Frames,
    Class::SmallBuffers,
    Class::Latency,
    Class::Backups,
    Class::Ties,
    Class::Duets,
    Class::OneWay,
    Class::Holds,
    Class::SlowLinks,
    Class::Absences,
    Class::Intruders,
    Class::Bursts,
    Class::Large,
    Class::FullDisks,
    Class::Clones,
    Class::Revocations,
];

struct Maker {
    prng: Prng,
    nodes: usize,
    size: Size,
    duration_ms: u64,
    events: Vec<Timed>,
    harness: Harness,
    /// A device and the machine that becomes its copy.
    copy: Option<(usize, usize)>,
    /// Devices that may hold the root key from some time on.
    admins: Vec<usize>,
}

/// The plan of a seed. The full harness, which costs more, gets smaller ones.
pub fn plan(seed: u64, harness: Harness) -> Plan {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..12].copy_from_slice(b"plan");
    let mut prng = Prng::new(bytes);
    let size = match prng.below(100) {
        _ if harness == Harness::Full => Size::Heavy,
        of if of < SMALL_PERCENT => Size::Small,
        of if of < 100 - HEAVY_PERCENT => Size::Usual,
        _ => Size::Heavy,
    };
    let (nodes_max, seconds) = match harness {
        Harness::Pure => (6, 15 + prng.below(65)),
        Harness::Full => (5, 5 + prng.below(25)),
    };
    let writes = match size {
        _ if harness == Harness::Full => 8 + prng.below(25),
        Size::Small => 4 + prng.below(9),
        Size::Usual => 10 + prng.below(20),
        Size::Heavy => 10 + prng.below(50),
    };
    let nodes = 2 + prng.below(nodes_max - 1) as usize;
    let mut maker = Maker {
        prng,
        nodes,
        size,
        duration_ms: seconds * 1000,
        events: Vec::new(),
        harness,
        copy: None,
        admins: vec![0],
    };
    let classes = maker.classes();
    let knobs = maker.knobs(&classes);
    maker.first_links();
    (0..writes).for_each(|number| maker.write(number));
    for class in classes {
        let times = 1 + maker.prng.below(if size == Size::Small { 2 } else { 4 });
        (0..times).for_each(|_| maker.fault(class));
    }
    maker.forks(seed);
    let core = maker.core();
    let mut events = maker.events;
    events.extend(invitation(seed, seconds * 1000));
    // Stable: what was made first happens first among equals.
    events.sort_by_key(|timed| timed.at_ms);
    Plan { seed, nodes, knobs, events, core }
}

impl Maker {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.prng.below(from.len() as u64) as usize]
    }

    fn node(&mut self) -> usize {
        self.prng.below(self.nodes as u64) as usize
    }

    fn two_nodes(&mut self) -> (usize, usize) {
        let a = self.node();
        let other = self.prng.below(self.nodes as u64 - 1) as usize;
        (a, if other >= a { other + 1 } else { other })
    }

    fn time(&mut self) -> u64 {
        self.prng.below(self.duration_ms)
    }

    fn add(&mut self, at_ms: u64, event: Event) {
        self.events.push(Timed { at_ms, event });
    }

    fn classes(&mut self) -> Vec<Class> {
        match self.prng.below(4) {
            0 if self.size != Size::Small => CLASSES.to_vec(),
            1 => vec![self.pick(&CLASSES)],
            _ => {
                let ppm = if self.size == Size::Small { 250_000 } else { 500_000 };
                CLASSES.into_iter().filter(|_| self.prng.chance_ppm(ppm)).collect()
            }
        }
    }

    fn knobs(&mut self, classes: &[Class]) -> Knobs {
        let default = Config::default();
        let small = classes.contains(&Class::SmallBuffers);
        let mut size =
            |small_bytes: [u64; 3], default: u64| if small { self.pick(&small_bytes) } else { default };
        let batch_bytes = size([200, 600, 4_000], default.batch_bytes as u64) as usize;
        let credit_bytes = size([1_000, 4_000, 64_000], default.credit_bytes);
        let push_bytes_max = size([500, 2_000, 16_000], default.push_bytes_max);
        let reorder_bytes_max = size([1_000, 4_000, 64_000], default.reorder_bytes_max as u64) as usize;
        let drifts = if classes.contains(&Class::Clocks) { [-200, 0, 500] } else { [0; 3] };
        Knobs {
            batch_bytes,
            credit_bytes,
            push_bytes_max,
            reorder_bytes_max,
            latency_micros: self.pick(&[200, 5_000, 40_000]),
            datagrams: self.prng.chance_ppm(400_000),
            drift_ppm: (0..self.nodes).map(|_| self.pick(&drifts)).collect(),
        }
    }

    /// A chain in random order, and a few links more.
    fn first_links(&mut self) {
        let order = self.shuffled();
        for pair in order.windows(2) {
            self.add(0, Event::Connect { a: pair[0], b: pair[1] });
        }
        for _ in 0..self.prng.below(self.nodes as u64) {
            let (a, b) = self.two_nodes();
            let at_ms = self.time() / 2;
            self.add(at_ms, Event::Connect { a, b });
        }
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.prng.below(at as u64 + 1) as usize);
        }
        order
    }

    fn write(&mut self, number: u64) {
        let (at_ms, node) = (self.time(), self.node());
        if self.prng.chance_ppm(100_000) {
            self.add(at_ms, Event::Read { node });
        }
        if self.prng.chance_ppm(120_000) {
            return self.add(at_ms, Event::Pair { node, value: number as i64 });
        }
        let (steps, cold) = match self.prng.below(10) {
            0 => (2 + self.prng.below(4), false),
            1 if self.size == Size::Heavy => (20 + self.prng.below(20), true),
            1 => (4 + self.prng.below(8), true),
            _ => (1, false),
        };
        let steps = (0..steps).map(|_| self.step(number, cold)).collect();
        self.add(at_ms, Event::Write { node, steps });
    }

    fn step(&mut self, number: u64, cold: bool) -> Step {
        use OpKind::{Delete, Put, Replace, Update};
        let kind = self.pick(&[Put, Put, Put, Put, Update, Update, Update, Delete, Delete, Replace]);
        let row = if cold {
            format!("cold-{}", self.prng.below(200))
        } else {
            format!("hot-{}", self.prng.below(4))
        };
        // An update of a row that is not there is refused, and with it the transaction: seldom in large ones.
        let kind = if cold && kind == Update { Put } else { kind };
        let mut fields = BTreeMap::new();
        if kind != Delete {
            for _ in 0..=self.prng.below(2) {
                let field = self.pick(&["x", "y", "z"]);
                fields.insert(field.to_owned(), number as i64);
            }
        }
        Step { kind, row, fields }
    }

    fn fault(&mut self, class: Class) {
        let at_ms = self.time();
        let later_ms = at_ms + self.prng.below(self.duration_ms);
        let (a, b) = self.two_nodes();
        match class {
            Class::Disconnects => {
                if self.prng.chance_ppm(250_000) {
                    return self.add(at_ms, Event::Roam { a, b });
                }
                self.add(at_ms, Event::Disconnect { a, b });
                self.add(later_ms, Event::Connect { a, b });
            }
            Class::Cuts => {
                self.add(at_ms, Event::Cut { a, b });
                self.add(later_ms, Event::Connect { a, b });
            }
            Class::Crashes => {
                let after_writes = self.pick(&[0, 0, 1, 2, 5, 20]);
                self.add(at_ms, Event::Crash { node: a, after_writes });
                self.add(later_ms, Event::Restart { node: a });
                for other in (0..self.nodes).filter(|other| *other != a) {
                    if self.prng.chance_ppm(500_000) {
                        self.add(later_ms + 1, Event::Connect { a, b: other });
                    }
                }
            }
            Class::Clocks => {
                let offset_ms = self.pick(&OFFSETS_MS);
                self.add(at_ms, Event::Clock { node: a, offset_ms });
                if self.prng.chance_ppm(250_000) {
                    self.add(later_ms, Event::Busy { node: b });
                }
            }
            Class::Storage => {
                let times = 1 + self.prng.below(3) as u32;
                self.add(at_ms, Event::FailStorage { node: a, times });
            }
            Class::Frames => {
                let faults = Event::Faults {
                    loss_ppm: self.pick(&[0, 10_000, 100_000, 300_000]),
                    double_ppm: self.pick(&[0, 10_000, 200_000]),
                    damage_ppm: self.pick(&[0, 0, 10_000, 50_000]),
                    // The longest: a request arrives after the one that was made when it had expired.
                    jitter_micros: self.pick(&[0, 10_000, 100_000, 1_000_000, 12_000_000, 12_000_000]),
                };
                self.add(at_ms, faults);
                self.add(later_ms, FAULTLESS);
            }
            Class::SmallBuffers => {}
            Class::Backups => {
                self.add(at_ms, Event::Backup { node: a });
                self.add(later_ms, Event::Restore { node: a, unguarded: false });
                for other in (0..self.nodes).filter(|other| *other != a) {
                    if self.prng.chance_ppm(500_000) {
                        let again_ms = later_ms + self.prng.below(5_000);
                        self.add(again_ms, Event::Connect { a, b: other });
                    }
                }
            }
            Class::FullDisks => {
                self.add(at_ms, Event::DiskFull { node: a, full: true });
                self.add(later_ms, Event::DiskFull { node: a, full: false });
            }
            Class::Clones => self.clone_device(a, b, at_ms, false),
            Class::Revocations => self.revocation(at_ms),
            Class::OneWay => {
                self.add(at_ms, Event::CutOneWay { from: a, to: b });
                self.add(later_ms, Event::Connect { a, b });
            }
            Class::Holds => {
                self.add(at_ms, Event::Hold { a, b });
                self.add(later_ms, Event::Connect { a, b });
            }
            Class::SlowLinks => {
                let bytes_per_second = self.pick(&[500, 2_000, 20_000]);
                self.add(at_ms, Event::Bandwidth { bytes_per_second });
                self.add(later_ms, Event::Bandwidth { bytes_per_second: 0 });
            }
            Class::Absences => self.absence(a, b, at_ms, later_ms),
            Class::Intruders => {
                let by = self.pick(&Intrusion::ALL);
                self.add(at_ms, Event::Intrude { node: a, by });
            }
            Class::Bursts => {
                let (least, spread) = match self.size {
                    Size::Small => (3, 5),
                    Size::Usual => (4, 8),
                    Size::Heavy => (20, 30),
                };
                for number in 0..least + self.prng.below(spread) {
                    let steps = vec![self.step(number, false)];
                    self.add(at_ms, Event::Write { node: a, steps });
                }
            }
            Class::Large => {
                let steps = match self.size {
                    Size::Small => 20,
                    Size::Usual => 40,
                    Size::Heavy => 200,
                };
                let steps = (0..steps).map(|number| self.step(number, true)).collect();
                self.add(at_ms, Event::Write { node: a, steps });
            }
            Class::Ties => self.tie(at_ms, a, b),
            Class::Duets => self.duet(at_ms, a, b),
            Class::Latency => {
                let micros = self.pick(&[100, 5_000, 50_000, 300_000]);
                self.add(at_ms, Event::Latency { micros });
            }
        }
    }

    /// A device leaves in good order, joins late, or is away until the end.
    fn absence(&mut self, a: usize, b: usize, at_ms: u64, later_ms: u64) {
        match self.prng.below(3) {
            0 => {
                self.add(at_ms, Event::Leave { node: a });
                self.add(later_ms, Event::Restart { node: a });
                self.add(later_ms + 1, Event::Connect { a, b });
            }
            1 => {
                self.add(0, Event::Leave { node: a });
                self.add(at_ms, Event::Restart { node: a });
                self.add(at_ms + 1, Event::Connect { a, b });
            }
            _ => self.add(at_ms, Event::Leave { node: a }),
        }
    }

    /// A machine becomes a copy of a device. Both write on, and the others meet now the one, now the other.
    fn clone_device(&mut self, a: usize, b: usize, at_ms: u64, unguarded: bool) {
        if self.copy.is_some() || self.nodes < 3 {
            return;
        }
        self.copy = Some((a, b));
        self.add(at_ms, Event::Clone { node: b, of: a, unguarded });
        for turn in 0..4 + self.prng.below(6) {
            let (at_ms, node) = (at_ms + 1 + turn * 500, self.pick(&[a, b]));
            let other = self.node();
            if other != a && other != b {
                self.add(at_ms, Event::Connect { a: node, b: other });
            }
            let steps = vec![self.step(turn, false)];
            let later_ms = self.prng.below(500);
            self.add(at_ms + later_ms, Event::Write { node, steps });
        }
    }

    /// In some plans databases go back or run twice unnoticed. Drawn by itself, so that the other plans are what they would be
    /// without it.
    fn forks(&mut self, seed: u64) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes[8..13].copy_from_slice(b"forks");
        let usual = std::mem::replace(&mut self.prng, Prng::new(bytes));
        if self.harness == Harness::Pure && self.prng.chance_ppm(FORKS_PPM) {
            for at in 0..self.events.len() {
                let unnoticed = self.prng.chance_ppm(700_000);
                if let Event::Restore { unguarded, .. } | Event::Clone { unguarded, .. } =
                    &mut self.events[at].event
                {
                    *unguarded = unnoticed;
                }
            }
            for _ in 0..=self.prng.below(3) {
                let (at_ms, (a, b)) = (self.time(), self.two_nodes());
                match self.prng.below(2) {
                    0 if self.copy.is_none() && self.nodes > 2 => self.clone_device(a, b, at_ms, true),
                    _ => self.set_back(at_ms, a),
                }
            }
        }
        self.prng = usual;
    }

    /// A device tells somebody what it writes, is set back to before that, and writes on before it hears of it.
    fn set_back(&mut self, at_ms: u64, node: usize) {
        let others: Vec<usize> = (0..self.nodes).filter(|other| *other != node).collect();
        let (one, other) = (self.pick(&others), self.pick(&others));
        let alone = |maker: &mut Maker, at_ms| {
            others.iter().for_each(|other| maker.add(at_ms, Event::Disconnect { a: node, b: *other }));
        };
        let writes = |maker: &mut Maker, at_ms| {
            for turn in 0..1 + maker.prng.below(4) {
                let steps = vec![maker.step(turn, false)];
                maker.add(at_ms + turn * 40, Event::Write { node, steps });
            }
        };
        self.add(at_ms, Event::Backup { node });
        if self.prng.chance_ppm(500_000) {
            alone(self, at_ms);
        }
        writes(self, at_ms + 100);
        self.add(at_ms + 300, Event::Connect { a: node, b: one });
        alone(self, at_ms + 2_000);
        for turn in 0..=self.prng.below(2) {
            let at_ms = at_ms + 2_100 + turn * 2_000;
            self.add(at_ms, Event::Restore { node, unguarded: true });
            writes(self, at_ms + 100);
            self.add(at_ms + 300, Event::Connect { a: node, b: other });
            alone(self, at_ms + 1_900);
        }
        let again_ms = at_ms + 4_100 + self.prng.below(5_000);
        self.add(again_ms, Event::Connect { a: node, b: one });
    }

    /// Somebody is revoked, in one of the ways that are known to be hard. Each takes some seconds from `at_ms` on.
    fn revocation(&mut self, at_ms: u64) {
        let doomed = self.doomed();
        let left: Vec<usize> = (0..self.nodes).filter(|node| !doomed.contains(node)).collect();
        if left.len() < 2 {
            return;
        }
        let (by, victim) = (self.pick(&self.admins.clone()), self.pick(&left));
        let third = self.pick(&left);
        let (mut by, mut issued_ms) = (by, at_ms + 2_000 + self.prng.below(4_000));
        match self.prng.below(9) {
            // Another becomes an administrator and gives the order; perhaps the first is lost, or revoked by it.
            0 if victim != by => {
                self.promotion(at_ms, by, victim);
                if self.prng.chance_ppm(500_000) {
                    self.add(issued_ms - 500, Event::Leave { node: by });
                }
                return self.order(issued_ms, victim, by);
            }
            // Two administrators revoke each other.
            1 if victim != by && left.len() > 2 => {
                self.promotion(at_ms, by, victim);
                self.add(issued_ms - 500, Event::Disconnect { a: by, b: victim });
                self.order(issued_ms, by, victim);
                return self.order(issued_ms, victim, by);
            }
            // Two administrators revoke a third device, of which they know different things.
            2 if victim != by && third != by && third != victim && left.len() > 2 => {
                self.promotion(at_ms, by, third);
                self.goes_on(at_ms, by, victim, third);
                self.order(issued_ms, third, victim);
            }
            // Somebody who may not.
            3 => {
                if victim != by {
                    self.add(at_ms, Event::Promote { by: victim, node: by });
                }
                return;
            }
            // A newcomer hears of it from the revoked device alone, and then gets its commits from one who has not.
            5 if victim != by && left.len() > 3 => {
                return self.hearsay(at_ms, by, victim, &left);
            }
            // An administrator that nobody has heard of yet is cut off.
            4 if third != by && third != victim && victim != by => {
                self.promotion(at_ms, by, third);
                by = third;
            }
            _ => {}
        }
        if victim == by {
            return;
        }
        self.goes_on(at_ms, by, victim, third);
        self.order(issued_ms, by, victim);
        if self.prng.chance_ppm(300_000) {
            issued_ms += self.prng.below(5_000);
            self.add(issued_ms, Event::Readmit { node: victim });
            for other in (0..self.nodes).filter(|other| *other != victim) {
                if self.prng.chance_ppm(500_000) {
                    self.add(issued_ms + 1, Event::Connect { a: victim, b: other });
                }
            }
        }
    }

    /// The devices that are revoked in the end, as far as the plan is made.
    fn doomed(&self) -> BTreeSet<usize> {
        let mut events = self.events.clone();
        events.sort_by_key(|timed| timed.at_ms);
        doomed(self.nodes, &events)
    }

    fn hearsay(&mut self, at_ms: u64, by: usize, victim: usize, left: &[usize]) {
        let others: Vec<usize> = left.iter().copied().filter(|node| ![by, victim].contains(node)).collect();
        let (relay, newcomer) = (others[0], others[1]);
        let connect = |a, b| Event::Connect { a, b };
        self.add(at_ms, connect(by, victim));
        self.add(at_ms + 1_000, Event::Disconnect { a: by, b: victim });
        for turn in 0..6 {
            let steps = vec![self.step(turn, false)];
            self.add(at_ms + turn * 300, Event::Write { node: victim, steps });
        }
        self.add(at_ms + 2_000, Event::Readmit { node: relay });
        self.add(at_ms + 2_001, connect(relay, victim));
        self.add(at_ms + 3_000, Event::Disconnect { a: relay, b: victim });
        self.add(at_ms + 3_001, Event::Revoke { by, node: victim });
        self.add(at_ms + 3_002, connect(by, victim));
        self.add(at_ms + 4_000, Event::Readmit { node: newcomer });
        self.add(at_ms + 4_001, connect(newcomer, victim));
        self.add(at_ms + 5_000, connect(newcomer, relay));
    }

    fn promotion(&mut self, at_ms: u64, by: usize, node: usize) {
        self.add(at_ms, Event::Connect { a: by, b: node });
        self.add(at_ms + 100, Event::Promote { by, node });
        self.admins.push(node);
    }

    /// The order, and soon somebody who hears of it.
    fn order(&mut self, at_ms: u64, by: usize, node: usize) {
        self.add(at_ms, Event::Revoke { by, node });
        let other = self.node();
        if other != by && self.prng.chance_ppm(700_000) {
            let later_ms = self.prng.below(4_000);
            self.add(at_ms + later_ms, Event::Connect { a: by, b: other });
        }
    }

    /// A device is cut off from an administrator, writes on, and tells somebody else, who builds on it.
    fn goes_on(&mut self, at_ms: u64, admin: usize, node: usize, other: usize) {
        self.add(at_ms + 200, Event::Connect { a: admin, b: node });
        self.add(at_ms + 1_000, Event::Disconnect { a: admin, b: node });
        if other != node && other != admin {
            self.add(at_ms + 1_000, Event::Disconnect { a: admin, b: other });
            self.add(at_ms + 1_001, Event::Connect { a: node, b: other });
        }
        for turn in 0..2 + self.prng.below(6) {
            let steps = vec![self.step(turn, false)];
            let later_ms = self.prng.below(3_000);
            let author = if self.prng.chance_ppm(700_000) { node } else { other };
            self.add(at_ms + 1_002 + later_ms, Event::Write { node: author, steps });
        }
    }

    /// Several devices write to one field in the same millisecond.
    fn tie(&mut self, at_ms: u64, a: usize, b: usize) {
        let row = format!("hot-{}", self.prng.below(4));
        for node in 0..self.nodes {
            if node == a || node == b || self.prng.chance_ppm(300_000) {
                let fields = BTreeMap::from([("x".to_owned(), node as i64)]);
                let step = Step { kind: OpKind::Put, row: row.clone(), fields };
                self.add(at_ms, Event::Write { node, steps: vec![step] });
            }
        }
    }

    /// Two devices answer each other quickly, so that their commits depend on one another in turn.
    fn duet(&mut self, at_ms: u64, a: usize, b: usize) {
        self.add(at_ms, Event::Connect { a, b });
        let (pause_ms, row) = (self.pick(&[1, 20, 100]), format!("hot-{}", self.prng.below(4)));
        for turn in 0..4 + self.prng.below(8) {
            let node = if self.prng.chance_ppm(500_000) { a } else { b };
            let step = Step {
                kind: OpKind::Put,
                row: row.clone(),
                fields: BTreeMap::from([("y".to_owned(), turn as i64)]),
            };
            self.add(at_ms + turn * pause_ms, Event::Write { node, steps: vec![step] });
        }
    }

    /// Two or more devices, joined by a chain or a tree.
    fn core(&mut self) -> Vec<(usize, usize)> {
        let mut order = self.shuffled();
        if let Some((original, copy)) = self.copy {
            let out = self.pick(&[original, copy]);
            order.retain(|node| *node != out);
        }
        let mut doomed = self.doomed();
        if order.iter().all(|node| doomed.contains(node)) {
            // A device and its copy are one, and more were revoked than was meant. Somebody must be left.
            self.events.retain(|timed| !matches!(timed.event, Event::Revoke { .. }));
            doomed.clear();
        }
        let revoked: Vec<usize> = order.extract_if(.., |node| doomed.contains(node)).collect();
        if order.len() == 1 {
            return revoked.into_iter().take(1).map(|node| (order[0], node)).collect();
        }
        let size = 2 + self.prng.below(order.len() as u64 - 1) as usize;
        let chain = self.prng.chance_ppm(600_000);
        let mut links = Vec::with_capacity(size - 1);
        for at in 1..size {
            let to = if chain { at - 1 } else { self.prng.below(at as u64) as usize };
            links.push((order[to], order[at]));
        }
        // Those that are to be revoked meet somebody in the end, and are told, or nobody.
        for node in revoked {
            if self.prng.chance_ppm(600_000) {
                links.push((self.pick(&order[..size]), node));
            }
        }
        links
    }
}

/// In some plans somebody is invited. Drawn by itself, so that the rest of a plan does not depend on it.
fn invitation(seed: u64, duration_ms: u64) -> Option<Timed> {
    const CODES: [Typed; 5] =
        [Typed::Right, Typed::Right, Typed::Right, Typed::OtherWords, Typed::OtherNumber];
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..14].copy_from_slice(b"invite");
    let mut prng = Prng::new(bytes);
    if !prng.chance_ppm(INVITING_PPM) {
        return None;
    }
    let (at_ms, ask) = (prng.below(duration_ms), prng.chance_ppm(500_000));
    // Most come early; some when the time is almost over, or is.
    let begins_ms = [1_000, 1_000, 20_000, OFFER_MS, BEGIN_MS_MAX][prng.below(5) as usize];
    let attempts = (0..1 + prng.below(6))
        .map(|_| Attempt {
            at_ms: prng.below(begins_ms),
            step_ms: [5, 200, 3_000, STEP_MS_MAX][prng.below(4) as usize],
            code: CODES[prng.below(5) as usize],
            cut_after: prng.chance_ppm(200_000).then(|| prng.below(5) as u8),
            relayed: prng.chance_ppm(200_000),
        })
        .collect();
    Some(Timed { at_ms, event: Event::Invite { ask, attempts } })
}

/// Frames are safe.
pub const FAULTLESS: Event = Event::Faults { loss_ppm: 0, double_ppm: 0, damage_ppm: 0, jitter_micros: 0 };
