//! A plan: everything that is done to a group of simulated devices, as data. One format for both harnesses.
//!
//! Invariant: a plan holds every decision of a run. Removing one of its events changes nothing about the others,
//! because the fate of a frame is a hash of seed, link and number, not a draw from a shared stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use engine::commit::OpKind;
use engine::config::Config;
use engine::io::Change;
use engine::name::{FieldName, NameError, RowKey, TableName};
use engine::value::Value;
use serde::{Deserialize, Serialize};

use crate::Harness;
use crate::intruder::Intrusion;
use crate::pairing::{ATTEMPTS, Attempt};

/// The table that planned writes go to.
pub const TABLE: &str = "t";
/// Fewest and most devices of a plan.
pub(crate) const NODES: std::ops::RangeInclusive<usize> = 2..=16;
/// Latest time of an event, in milliseconds.
const AT_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// A run, before it has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Drives the devices' random choices and the fate of frames.
    pub seed: u64,
    /// How many devices there are.
    pub nodes: usize,
    /// Limits and the network.
    pub knobs: Knobs,
    /// What happens when, ascending by time.
    pub events: Vec<Timed>,
    /// The links that work again after the last event; all others stay cut. They join some devices, and those must
    /// converge.
    pub core: Vec<(usize, usize)>,
}

/// What stays the same during a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Aim for one `Ops` frame, in bytes.
    pub batch_bytes: usize,
    /// Credit of one peer, in bytes.
    pub credit_bytes: u64,
    /// Pushes under way to one peer, in bytes.
    pub push_bytes_max: u64,
    /// Reorder buffer, in bytes.
    pub reorder_bytes_max: usize,
    /// One-way delay of all links at the start, in microseconds.
    pub latency_micros: u64,
    /// Whether the full harness sends frames as datagrams instead of over streams.
    pub datagrams: bool,
    /// How many commits the stores of the pure harness show packed together, as a file's does; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub packed_commits: u64,
    /// Bytes of rows, and four times as many of the log, from which on the stores of the full harness write rows into
    /// their table and gather the log by columns; 0 for the limits of a real device, which no plan reaches.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub checkpoint_bytes: u64,
    /// How many times more a planned transaction is written, together with it, as several writers at once would; 0 for once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated_writes: u64,
    /// How fast each device's wall clock runs, in parts per million beside true time.
    pub drift_ppm: Vec<i64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Milliseconds since the start.
    pub at_ms: u64,
    /// What happens.
    #[serde(flatten)]
    pub event: Event,
}

/// One thing that happens. Devices are numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Event {
    /// A device's application commits a transaction.
    Write {
        /// The device.
        node: usize,
        /// Its steps, in order.
        steps: Vec<Step>,
    },
    /// A device's application writes one value to two rows in one transaction. Readers must never see them differ.
    Pair {
        /// The device.
        node: usize,
        /// The value.
        value: i64,
    },
    /// Two devices can reach each other from now on; also mends a cut.
    Connect {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
    /// Two devices lose each other, and both notice. (The full harness has no such thing: there it is a cut.)
    Disconnect {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
    /// Two connected devices get another connection while the last one still seems open. (With datagrams the full
    /// harness has no such thing.)
    Roam {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
    /// Frames between two devices vanish without a word.
    Cut {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
    /// Frames from one device to another vanish without a word; those the other way arrive.
    CutOneWay {
        /// The sender.
        from: usize,
        /// Who hears nothing any more.
        to: usize,
    },
    /// Frames between two devices are held back, until [`Event::Connect`] lets them all go.
    Hold {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
    /// So many bytes pass each way of each link in a second from now on; 0 for any number.
    Bandwidth {
        /// Bytes in a second.
        bytes_per_second: u64,
    },
    /// A device says goodbye and stops, until it starts again.
    Leave {
        /// The device.
        node: usize,
    },
    /// Somebody hostile speaks to a device.
    Intrude {
        /// The device.
        node: usize,
        /// What it is told.
        by: Intrusion,
    },
    /// Somebody is invited to the account, and devices try to join. It goes on beside everything else.
    Invite {
        /// Whether the inviting user is asked (and agrees).
        ask: bool,
        /// The attempts.
        attempts: Vec<Attempt>,
    },
    /// A device loses power.
    Crash {
        /// The device.
        node: usize,
        /// At this many more writes to its disk, 0 for at once. The pure harness has no disk, and counts batches.
        after_writes: u64,
    },
    /// A device's database is copied aside.
    Backup {
        /// The device.
        node: usize,
    },
    /// A device loses its database and goes on from the last copy, if there is one.
    Restore {
        /// The device.
        node: usize,
        /// Whether its guard went back with it, so that it does not notice.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unguarded: bool,
    },
    /// A machine becomes a copy of another device, key and database, and both run from now on.
    Clone {
        /// The machine; what it was before is gone.
        node: usize,
        /// The device.
        of: usize,
        /// Whether the copy does not notice that it is one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unguarded: bool,
    },
    /// An administrator declares that the device which a machine is now is one of the account's no longer.
    Revoke {
        /// Who says so. What a device says that does not hold the root key is refused.
        by: usize,
        /// The machine.
        node: usize,
    },
    /// An administrator makes a device an administrator, too.
    Promote {
        /// Who says so.
        by: usize,
        /// The device.
        node: usize,
    },
    /// A machine begins anew, with an empty database and as a new device of the account: it was paired again.
    Readmit {
        /// The machine.
        node: usize,
    },
    /// A device's storage has no space left, or has some again.
    DiskFull {
        /// The device.
        node: usize,
        /// Whether it is full.
        full: bool,
    },
    /// A device's application reads all of the table.
    Read {
        /// The device.
        node: usize,
    },
    /// A device's application compares with all connected devices, and waits until all know the same.
    Sync {
        /// The device.
        node: usize,
    },
    /// A device has stamped so much in one millisecond that the counter of its clock is almost full. (Pure harness.)
    Busy {
        /// The device.
        node: usize,
    },
    /// A device that is down starts again.
    Restart {
        /// The device.
        node: usize,
    },
    /// A device's wall clock is set so far from true time.
    Clock {
        /// The device.
        node: usize,
        /// Milliseconds ahead; negative for behind.
        offset_ms: i64,
    },
    /// The next writes to a device's storage fail: commits in the pure harness, disk writes in the full one.
    FailStorage {
        /// The device.
        node: usize,
        /// How many.
        times: u32,
    },
    /// Frames are treated so from now on; all zeros for faultless streams.
    Faults {
        /// Lost, in parts per million.
        loss_ppm: u64,
        /// Doubled.
        double_ppm: u64,
        /// With a flipped bit.
        damage_ppm: u64,
        /// Largest extra delay, in microseconds. Frames overtake each other.
        jitter_micros: u64,
    },
    /// All links take so long from now on, one way.
    Latency {
        /// Microseconds.
        micros: u64,
    },
}

/// One step of a transaction on table [`TABLE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is done.
    pub kind: OpKind,
    /// The row.
    pub row: String,
    /// The fields written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, i64>,
}

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is no JSON of this shape.
    #[error("not a plan: {0}")]
    Json(#[from] serde_json::Error),
    /// A name in it cannot be used.
    #[error("event {event}: {source}")]
    Name {
        /// Which event, from 0.
        event: usize,
        /// The cause.
        source: NameError,
    },
    /// It contradicts itself.
    #[error("{0}")]
    Invalid(String),
}

impl Plan {
    /// Reads a plan from JSON and checks it.
    pub fn from_json(text: &str) -> Result<Plan, PlanError> {
        let plan: Plan = serde_json::from_str(text)?;
        plan.check()?;
        Ok(plan)
    }

    /// The plan as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan has only keys of text")
    }

    /// Checks that it can be carried out.
    pub fn check(&self) -> Result<(), PlanError> {
        let invalid = |text: String| Err(PlanError::Invalid(text));
        if !NODES.contains(&self.nodes) || self.knobs.drift_ppm.len() != self.nodes {
            return invalid(format!("{} devices, each with a drift, are not possible", self.nodes));
        }
        let link_ok = |(a, b): (usize, usize)| a < self.nodes && b < self.nodes && a != b;
        if self.core.is_empty() || !self.core.iter().all(|link| link_ok(*link)) {
            return invalid("the core needs links between devices of the plan".into());
        }
        if !self.core_is_joined() {
            return invalid("the core falls apart, or hangs on a device that the plan revokes".into());
        }
        if self.core_has_copies() {
            return invalid("the core holds a device and its copy".into());
        }
        for (event, timed) in self.events.iter().enumerate() {
            let at_ms = timed.at_ms;
            if at_ms > AT_MS_MAX || event > 0 && at_ms < self.events[event - 1].at_ms {
                return invalid(format!("event {event} is out of order or too late"));
            }
            let nodes_ok = match timed.event.nodes()[..] {
                [a, b] => link_ok((a, b)),
                ref one => one.iter().all(|node| *node < self.nodes),
            };
            if !nodes_ok {
                return invalid(format!("event {event} names a device that does not exist"));
            }
            if let Event::Invite { attempts, .. } = &timed.event
                && (attempts.len() > ATTEMPTS || !attempts.iter().all(Attempt::possible))
            {
                return invalid(format!("event {event} has attempts that are not possible"));
            }
            timed.event.changes().map_err(|source| PlanError::Name { event, source })?;
        }
        Ok(())
    }

    /// The engine's configuration.
    pub fn config(&self) -> Config {
        Config {
            batch_bytes: self.knobs.batch_bytes,
            credit_bytes: self.knobs.credit_bytes,
            push_bytes_max: self.knobs.push_bytes_max,
            reorder_bytes_max: self.knobs.reorder_bytes_max,
            ..Config::default()
        }
    }

    /// The devices that the core joins, ascending.
    pub fn core_nodes(&self) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.core.iter().flat_map(|(a, b)| [*a, *b]).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// The devices that the core joins and that the plan does not revoke, ascending: they must converge.
    pub fn standing(&self) -> Vec<usize> {
        let doomed = doomed(self.nodes, &self.events);
        self.core_nodes().into_iter().filter(|node| !doomed.contains(node)).collect()
    }

    /// The links of the core between those.
    pub fn standing_links(&self) -> Vec<(usize, usize)> {
        let standing = self.standing();
        let both = |(a, b): &&(usize, usize)| standing.contains(a) && standing.contains(b);
        self.core.iter().filter(both).copied().collect()
    }

    /// Whether two devices of the core are one in the end, as original and copy. Nobody talks to both at one time.
    fn core_has_copies(&self) -> bool {
        let (devices, _) = fates(self.nodes, &self.events);
        let core = self.core_nodes();
        let distinct: BTreeSet<usize> = core.iter().map(|node| devices[*node]).collect();
        distinct.len() < core.len()
    }

    /// Whether the links of the core join all of its devices that the plan does not revoke, and each of the others to
    /// one of these.
    fn core_is_joined(&self) -> bool {
        let (standing, links) = (self.standing(), self.standing_links());
        let mut reached: BTreeSet<usize> = standing.first().copied().into_iter().collect();
        for _ in &links {
            for (a, b) in &links {
                if reached.contains(a) || reached.contains(b) {
                    reached.extend([*a, *b]);
                }
            }
        }
        let told = |node: &usize| {
            standing.contains(node) || standing.iter().any(|other| self.in_core(*node, *other))
        };
        !standing.is_empty()
            && standing.iter().all(|node| reached.contains(node))
            && self.core_nodes().iter().all(told)
    }

    /// All pairs of devices.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.nodes).flat_map(|a| (a + 1..self.nodes).map(move |b| (a, b)))
    }

    /// Whether the frames of a link arrive in the order in which they were sent, or not at all.
    pub(crate) fn in_order(&self, harness: Harness) -> bool {
        let bends = |event: &Event| match event {
            Event::Faults { .. } => *event != crate::FAULTLESS,
            // The pure harness knows no streams: a frame that takes less time overtakes.
            Event::Latency { .. } | Event::Bandwidth { .. } => harness == Harness::Pure,
            _ => false,
        };
        let datagrams = harness == Harness::Full && self.knobs.datagrams;
        !datagrams && !self.events.iter().any(|timed| bends(&timed.event))
    }

    /// Whether a link works after the last event.
    pub fn in_core(&self, a: usize, b: usize) -> bool {
        self.core.contains(&(a, b)) || self.core.contains(&(b, a))
    }
}

/// The devices that an event names, borrowed as the event is.
macro_rules! named {
    ($event:expr) => {
        match $event {
            Event::Connect { a, b }
            | Event::Disconnect { a, b }
            | Event::Roam { a, b }
            | Event::Cut { a, b }
            | Event::CutOneWay { from: a, to: b }
            | Event::Hold { a, b }
            | Event::Clone { node: a, of: b, .. }
            | Event::Revoke { by: a, node: b }
            | Event::Promote { by: a, node: b } => vec![a, b],
            Event::Write { node, .. }
            | Event::Pair { node, .. }
            | Event::Crash { node, .. }
            | Event::Restart { node }
            | Event::Leave { node }
            | Event::Intrude { node, .. }
            | Event::Backup { node }
            | Event::Restore { node, .. }
            | Event::DiskFull { node, .. }
            | Event::Read { node }
            | Event::Sync { node }
            | Event::Busy { node }
            | Event::Readmit { node }
            | Event::Clock { node, .. }
            | Event::FailStorage { node, .. } => vec![node],
            Event::Faults { .. } | Event::Latency { .. } | Event::Bandwidth { .. } | Event::Invite { .. } => {
                Vec::new()
            }
        }
    };
}

impl Event {
    /// The devices that it names.
    pub(crate) fn nodes_mut(&mut self) -> Vec<&mut usize> {
        named!(self)
    }

    /// The same, to look at.
    pub(crate) fn nodes(&self) -> Vec<usize> {
        named!(self).into_iter().copied().collect()
    }

    /// Whether it breaks something, or attacks.
    pub(crate) fn is_fault(&self) -> bool {
        !matches!(
            self,
            Event::Write { .. }
                | Event::Pair { .. }
                | Event::Connect { .. }
                | Event::Restart { .. }
                | Event::Backup { .. }
                | Event::DiskFull { full: false, .. }
                | Event::Read { .. }
                | Event::Sync { .. }
                | Event::Promote { .. }
                | Event::Readmit { .. }
                | Event::Invite { .. }
                | Event::Bandwidth { bytes_per_second: 0 }
        ) && *self != crate::FAULTLESS
    }

    /// What a write writes, and where; `None` for all other events.
    pub fn changes(&self) -> Result<Option<(usize, Vec<Change>)>, NameError> {
        let step = |row: &str, kind, fields: Vec<(&str, i64)>| {
            let fields = fields
                .into_iter()
                .map(|(name, value)| Ok((FieldName::new(name)?, Value::Int(value))))
                .collect::<Result<_, NameError>>()?;
            Ok(Change { table: TableName::new(TABLE)?, row: RowKey::new(row)?, kind, fields })
        };
        Ok(match self {
            Event::Write { node, steps } => {
                let steps = steps.iter().map(|it| {
                    let fields = it.fields.iter().map(|(name, value)| (name.as_str(), *value));
                    step(&it.row, it.kind, fields.collect())
                });
                Some((*node, steps.collect::<Result<_, NameError>>()?))
            }
            Event::Pair { node, value } => {
                let both = PAIR.map(|row| step(row, OpKind::Put, vec![("value", *value)]));
                Some((*node, both.into_iter().collect::<Result<_, NameError>>()?))
            }
            _ => None,
        })
    }

    /// One word for summaries.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Write { .. } | Event::Pair { .. } => "write",
            Event::Connect { .. } => "connect",
            Event::Disconnect { .. } => "disconnect",
            Event::Roam { .. } => "another connection",
            Event::Cut { .. } => "cut",
            Event::CutOneWay { .. } => "cut one way",
            Event::Hold { .. } => "hold",
            Event::Bandwidth { .. } => "bandwidth",
            Event::Leave { .. } => "leave",
            Event::Intrude { by, .. } => by.kind(),
            Event::Invite { .. } => "invitation",
            Event::Crash { .. } => "crash",
            Event::Restart { .. } => "restart",
            Event::Backup { .. } => "backup",
            Event::Restore { unguarded: true, .. } => "restore unnoticed",
            Event::Restore { .. } => "restore",
            Event::Clone { unguarded: true, .. } => "clone unnoticed",
            Event::Clone { .. } => "clone",
            Event::Revoke { .. } => "revocation",
            Event::Promote { .. } => "promotion",
            Event::Readmit { .. } => "re-admission",
            Event::DiskFull { full: true, .. } => "disk full",
            Event::DiskFull { .. } => "disk freed",
            Event::Read { .. } => "read",
            Event::Sync { .. } => "sync",
            Event::Busy { .. } => "busy clock",
            Event::Clock { .. } => "clock",
            Event::FailStorage { .. } => "storage failure",
            Event::Faults { loss_ppm: 0, double_ppm: 0, damage_ppm: 0, jitter_micros: 0 } => "faults off",
            Event::Faults { .. } => "faults on",
            Event::Latency { .. } => "latency",
        }
    }
}

/// Which device each machine is in the end (copies are one with their original), and which of them are revoked, if
/// every order is carried out.
fn fates(nodes: usize, events: &[Timed]) -> (Vec<usize>, BTreeSet<usize>) {
    let (mut devices, mut revoked): (Vec<usize>, _) = ((0..nodes).collect(), BTreeSet::new());
    let mut next = nodes;
    for timed in events {
        match timed.event {
            Event::Clone { node, of, .. } if node.max(of) < nodes => devices[node] = devices[of],
            Event::Readmit { node } if node < nodes => {
                devices[node] = next;
                next += 1;
            }
            Event::Revoke { node, .. } if node < nodes => {
                revoked.insert(devices[node]);
            }
            _ => {}
        }
    }
    (devices, revoked)
}

/// The machines whose device is revoked in the end, if every order is carried out.
pub(crate) fn doomed(nodes: usize, events: &[Timed]) -> BTreeSet<usize> {
    let (devices, revoked) = fates(nodes, events);
    (0..nodes).filter(|node| revoked.contains(&devices[*node])).collect()
}

/// The two rows that [`Event::Pair`] writes together.
pub const PAIR: [&str; 2] = ["pair-left", "pair-right"];

/// A device's letter.
pub fn letter(node: usize) -> char {
    char::from(b'A' + node as u8)
}

fn noticed(unguarded: bool) -> &'static str {
    if unguarded { " and does not notice" } else { "" }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Write { node, steps } => {
                write!(f, "{} writes", letter(*node))?;
                for step in steps {
                    write!(f, " {:?} {}", step.kind, step.row)?;
                    if !step.fields.is_empty() {
                        write!(f, " {:?}", step.fields)?;
                    }
                }
                Ok(())
            }
            Event::Pair { node, value } => {
                write!(f, "{} writes {value} to both rows of the pair", letter(*node))
            }
            Event::Connect { a, b } => write!(f, "connect {} {}", letter(*a), letter(*b)),
            Event::Disconnect { a, b } => write!(f, "disconnect {} {}", letter(*a), letter(*b)),
            Event::Roam { a, b } => write!(f, "{} and {} get another connection", letter(*a), letter(*b)),
            Event::Cut { a, b } => write!(f, "cut {} {}", letter(*a), letter(*b)),
            Event::CutOneWay { from, to } => write!(f, "cut from {} to {}", letter(*from), letter(*to)),
            Event::Hold { a, b } => write!(f, "hold {} {}", letter(*a), letter(*b)),
            Event::Bandwidth { bytes_per_second: 0 } => write!(f, "links are fast"),
            Event::Bandwidth { bytes_per_second } => {
                write!(f, "links pass {bytes_per_second} bytes a second")
            }
            Event::Leave { node } => write!(f, "{} says goodbye and stops", letter(*node)),
            Event::Invite { ask, attempts } => {
                let asked = if *ask { "after a question" } else { "unasked" };
                write!(f, "somebody is invited, admitted {asked}, and these try: {attempts:?}")
            }
            Event::Intrude { node, by } => write!(f, "{} at {}", by.kind(), letter(*node)),
            Event::Crash { node, after_writes: 0 } => write!(f, "{} loses power", letter(*node)),
            Event::Crash { node, after_writes } => {
                write!(f, "{} loses power at write {after_writes} from now", letter(*node))
            }
            Event::Restart { node } => write!(f, "{} starts", letter(*node)),
            Event::Backup { node } => write!(f, "{} is backed up", letter(*node)),
            Event::Restore { node, unguarded } => {
                write!(f, "{} is restored from its backup{}", letter(*node), noticed(*unguarded))
            }
            Event::Clone { node, of, unguarded } => {
                write!(f, "{} becomes a copy of {}{}", letter(*node), letter(*of), noticed(*unguarded))
            }
            Event::Revoke { by, node } => write!(f, "{} revokes {}", letter(*by), letter(*node)),
            Event::Promote { by, node } => {
                write!(f, "{} makes {} an administrator", letter(*by), letter(*node))
            }
            Event::Readmit { node } => write!(f, "{} begins anew as a new device", letter(*node)),
            Event::DiskFull { node, full: true } => write!(f, "{}'s disk is full", letter(*node)),
            Event::DiskFull { node, .. } => write!(f, "{}'s disk has space again", letter(*node)),
            Event::Read { node } => write!(f, "{} reads everything", letter(*node)),
            Event::Sync { node } => write!(f, "{} waits to be in sync", letter(*node)),
            Event::Busy { node } => write!(f, "{}'s clock has a counter that is almost full", letter(*node)),
            Event::Clock { node, offset_ms } => write!(f, "{}'s clock is {offset_ms} ms off", letter(*node)),
            Event::FailStorage { node, times } => {
                write!(f, "{}'s storage fails {times} times", letter(*node))
            }
            Event::Faults { loss_ppm: 0, double_ppm: 0, damage_ppm: 0, jitter_micros: 0 } => {
                write!(f, "frames are safe")
            }
            Event::Faults { loss_ppm, double_ppm, damage_ppm, jitter_micros } => write!(
                f,
                "frames are lost {loss_ppm} ppm, doubled {double_ppm} ppm, damaged {damage_ppm} ppm, late {jitter_micros} us"
            ),
            Event::Latency { micros } => write!(f, "links take {micros} us"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} devices, {:?}", self.seed, self.nodes, self.knobs)?;
        for (number, timed) in self.events.iter().enumerate() {
            writeln!(f, "{number:>4}  {:>7} ms  {}", timed.at_ms, timed.event)?;
        }
        let core: Vec<String> =
            self.core.iter().map(|(a, b)| format!("{}-{}", letter(*a), letter(*b))).collect();
        write!(f, "then faults stop, and only {} work", core.join(" "))
    }
}
