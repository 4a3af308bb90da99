//! From a seed to a plan. Swarm configuration: half the seeds switch a random subset of the fault classes on, a
//! quarter all of them, a quarter a single one. Few hot rows, so that writes meet.

mod scenes;
mod vary;

use std::collections::BTreeMap;

use engine::commit::OpKind;
use engine::config::Config;
use engine::pairing::OFFER_MS;
use engine::prng::Prng;

use crate::Harness;
use crate::intruder::Intrusion;
use crate::pairing::{Attempt, BEGIN_MS_MAX, STEP_MS_MAX, Typed};
use crate::plan::{Event, Knobs, Plan, Step, Timed};

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

/// Of a hundred plans of the pure harness so many are small, and so many heavy, by the number of devices, from 2 on. What
/// a plan costs grows faster than the number of its devices: large plans are left to few of them.
const SMALL_PERCENT: [u64; 5] = [75, 75, 80, 80, 80];
const HEAVY_PERCENT: [u64; 5] = [4, 4, 3, 2, 2];
/// How likely each class of faults is among a random subset of them, by the number of devices, in millionths: in small
/// plans, and in others.
const CLASSES_SMALL_PPM: [u64; 5] = [250_000, 250_000, 230_000, 210_000, 200_000];
const CLASSES_PPM: [u64; 5] = [500_000, 500_000, 450_000, 400_000, 400_000];

/// Fewest devices of a plan.
const NODES_MIN: usize = *crate::plan::NODES.start();
/// How many plans invite somebody, in millionths: of the pure harness, where a pairing costs about as much as the rest of
/// a small plan, and of the full one.
const INVITING_PPM: u64 = 60_000;
const INVITING_FULL_PPM: u64 = 150_000;

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

/// How many plans have a frame that takes much memory, in millionths: to find out that it does takes more time than all else
/// in a plan.
const COSTLY_PPM: u64 = 4_000;

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

/// The plan of a seed. The full harness, which costs more, gets smaller ones. Some of the pure one's are variations of
/// kept plans.
pub fn plan(seed: u64, harness: Harness) -> Plan {
    let ordinary = || ordinary(seed, harness);
    let varied = if harness == Harness::Pure { vary::variation(seed, ordinary) } else { None };
    varied.unwrap_or_else(ordinary)
}

/// Random choices of a seed, for one purpose.
fn drawn(seed: u64, purpose: &[u8]) -> Prng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..8 + purpose.len()].copy_from_slice(purpose);
    Prng::new(bytes)
}

fn ordinary(seed: u64, harness: Harness) -> Plan {
    let mut prng = drawn(seed, b"plan");
    let of = prng.below(100);
    let (nodes_max, seconds) = match harness {
        Harness::Pure => (6, 15 + prng.below(65)),
        Harness::Full => (5, 5 + prng.below(25)),
    };
    let nodes = NODES_MIN + prng.below(nodes_max - 1) as usize;
    let size = match of {
        _ if harness == Harness::Full => Size::Heavy,
        of if of < SMALL_PERCENT[nodes - NODES_MIN] => Size::Small,
        of if of < 100 - HEAVY_PERCENT[nodes - NODES_MIN] => Size::Usual,
        _ => Size::Heavy,
    };
    let writes = match size {
        _ if harness == Harness::Full => 8 + prng.below(25),
        Size::Small => 4 + prng.below(9),
        Size::Usual => 10 + prng.below(20),
        Size::Heavy => 10 + prng.below(50),
    };
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
    maker.apart(seed, b"forks", Maker::forks);
    maker.apart(seed, b"syncs", |maker| maker.syncs(knobs.latency_micros));
    maker.apart(seed, b"costs", Maker::costly);
    let core = maker.core();
    let mut events = maker.events;
    let inviting_ppm = if harness == Harness::Full { INVITING_FULL_PPM } else { INVITING_PPM };
    events.extend(invitation(seed, seconds * 1000, inviting_ppm));
    // Stable: what was made first happens first among equals.
    events.sort_by_key(|timed| timed.at_ms);
    Plan { seed, nodes, knobs, events, core }
}

impl Maker {
    /// Has something drawn by itself, so that the rest of a plan is what it would be without it.
    fn apart(&mut self, seed: u64, name: &[u8; 5], draw: impl FnOnce(&mut Maker)) {
        let usual = std::mem::replace(&mut self.prng, drawn(seed, name));
        draw(self);
        self.prng = usual;
    }

    /// In a few plans somebody sends a frame that takes much memory.
    fn costly(&mut self) {
        if self.prng.chance_ppm(COSTLY_PPM) {
            let (at_ms, node) = (self.time(), self.node());
            self.add(at_ms, Event::Intrude { node, by: Intrusion::Costly });
        }
    }

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
                let ppm = if self.size == Size::Small { CLASSES_SMALL_PPM } else { CLASSES_PPM };
                let ppm = ppm[self.nodes - NODES_MIN];
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
            // Looked up and not drawn: what follows stays as it was for each seed.
            packed_commits: self.prng.clone().below(3) * 4,
            checkpoint_bytes: [0, 1_000, 8_000][self.prng.clone().below(9) as usize / 3],
            repeated_writes: [0, 0, 0, 0, 1][self.prng.clone().below(25) as usize / 5],
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
                if self.harness == Harness::Full && self.prng.chance_ppm(300_000) {
                    // While its software starts.
                    self.add(at_ms, Event::Crash { node: b, after_writes: 0 });
                    self.add(later_ms, Event::Restart { node: b });
                    self.add(later_ms, Event::FailStorage { node: b, times });
                }
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
fn invitation(seed: u64, duration_ms: u64, ppm: u64) -> Option<Timed> {
    const CODES: [Typed; 5] =
        [Typed::Right, Typed::Right, Typed::Right, Typed::OtherWords, Typed::OtherNumber];
    let mut prng = drawn(seed, b"invite");
    if !prng.chance_ppm(ppm) {
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
