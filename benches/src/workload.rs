//! The workload that everything is compared on: devices that write single fields of rows.
//!
//! Rows of 8 fields, keys of 16 bytes, values of 24, one operation a commit, 5 % deletes, stamps some hundred
//! milliseconds apart; one row for ten operations, chosen uniformly or by Zipf's law with exponent 0.99. After every
//! [`EPOCH`] operations the devices have met: each has seen what all wrote before.
//!
//! Invariant: the same arguments give the same history, so that figures of two runs compare.

use std::collections::BTreeMap;

use engine::commit::{Commit, CommitHash, Deps, Op, OpKind, Stamp, sign_commit, span};
use engine::fields::FieldValues;
use engine::hlc::Hlc;
use engine::identity::{Dot, Identity, ReplicaId};
use engine::name::{FieldName, RowKey, TableName};
use engine::prng::Prng;
use engine::testing::{EPOCH_MS, test_identity};
use engine::value::Value;
use engine::wire::message::{Ops, Run, pack_ops};

/// Operations between two meetings of all devices.
pub const EPOCH: usize = 1_000;
/// Fields of a row.
pub const FIELDS: u64 = 8;
/// Session number of the peer that sends a history.
pub const SESSION: u32 = 7;

/// How rows are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Each as often as any other.
    Uniform,
    /// The n-th in proportion to n^-0.99.
    Zipf,
}

/// What several devices wrote, in the order of their stamps.
#[derive(Debug)]
pub struct Workload {
    /// By the incarnation of its replica, less one.
    identities: Vec<Identity>,
    commits: Vec<(Commit, CommitHash)>,
    /// Rows that may be written.
    pub rows: u64,
}

/// A device while the history is being made.
struct Author {
    replica: ReplicaId,
    seq: u64,
    hash: CommitHash,
    /// What it has seen and not yet said.
    deps: Deps,
}

impl Workload {
    /// A history of `devices` that write `operations` together. They are the test devices from the second on.
    pub fn new(devices: u8, operations: u64, choice: Choice) -> Workload {
        let identities: Vec<Identity> = (1..=devices).map(test_identity).collect();
        let mut authors: Vec<Author> = (1..)
            .zip(&identities)
            .map(|(incarnation, identity)| Author {
                replica: ReplicaId { device: identity.device(), incarnation },
                seq: 0,
                hash: CommitHash::default(),
                deps: Deps::new(),
            })
            .collect();
        let rows = (operations / 10).max(1);
        let (mut prng, mut ops) = (Prng::new([devices; 32]), OpMaker::new(rows, choice));
        let (mut commits, mut ms) = (Vec::with_capacity(operations as usize), EPOCH_MS);
        for n in 0..operations as usize {
            if n.is_multiple_of(EPOCH) {
                meet(&mut authors);
            }
            ms += 1 + prng.below(600);
            let at = prng.below(u64::from(devices)) as usize;
            let author = &mut authors[at];
            author.seq += 1;
            let commit = Commit {
                dot: Dot { replica: author.replica, seq: author.seq },
                prev: author.hash,
                hlc: Hlc::new(ms, 0),
                deps: std::mem::take(&mut author.deps),
                introduces: (author.seq == 1).then(|| Box::new(identities[at].cert.clone())),
                statement: None,
                ops: vec![ops.make(&mut prng)],
            };
            author.hash = commit.hash();
            commits.push((commit, author.hash));
        }
        Workload { identities, commits, rows }
    }

    /// The commits, in the order of their stamps.
    pub fn commits(&self) -> impl ExactSizeIterator<Item = &Commit> {
        self.commits.iter().map(|(commit, _)| commit)
    }

    /// The writes, as merge sees them, in the order of their stamps.
    pub fn writes(&self) -> Vec<(Stamp, &Op)> {
        self.commits().flat_map(|commit| commit.ops.iter().map(|op| (commit.stamp(), op))).collect()
    }

    /// The history as frames of so many commits, each in runs that end where the devices met or the frame does.
    pub fn frames(&self, batch: usize) -> Vec<Vec<u8>> {
        self.batches(batch)
            .map(|runs| {
                let ops = Ops { want: 0, offset: 0, done: true, runs };
                pack_ops(SESSION, &ops).expect("a batch fits a frame")
            })
            .collect()
    }

    /// The runs of each frame.
    pub fn batches(&self, batch: usize) -> impl Iterator<Item = Vec<Run<Commit>>> {
        let epochs = move |frame: &[(Commit, CommitHash)]| {
            frame.chunks(EPOCH.min(batch)).flat_map(|epoch| self.runs(epoch)).collect()
        };
        self.commits.chunks(batch).map(epochs)
    }

    /// One run for each device that wrote in a stretch of the history, signed at its end.
    fn runs(&self, stretch: &[(Commit, CommitHash)]) -> Vec<Run<Commit>> {
        let mut by_replica = BTreeMap::<(ReplicaId, u64), (Vec<Commit>, CommitHash)>::new();
        for (commit, hash) in stretch {
            let (commits, last) = by_replica.entry((commit.dot.replica, span(commit.dot.seq))).or_default();
            commits.push(commit.clone());
            *last = *hash;
        }
        let sign = |((replica, _), (commits, last)): (&(ReplicaId, u64), &(Vec<Commit>, CommitHash))| {
            let identity = &self.identities[replica.incarnation as usize - 1];
            Run { commits: commits.clone(), sig: sign_commit(identity, last) }
        };
        by_replica.iter().map(sign).collect()
    }
}

/// All devices see what all have written.
fn meet(authors: &mut [Author]) {
    let heads: Vec<(ReplicaId, u64)> = authors.iter().map(|author| (author.replica, author.seq)).collect();
    for author in authors {
        let others = heads.iter().filter(|(replica, seq)| *replica != author.replica && *seq > 0);
        author.deps.extend(others.copied());
    }
}

/// Makes operations.
struct OpMaker {
    table: TableName,
    fields: Vec<FieldName>,
    rows: u64,
    /// Sums of n^-0.99, for Zipf's law only.
    weights: Vec<f64>,
}

impl OpMaker {
    fn new(rows: u64, choice: Choice) -> OpMaker {
        let weights = |sum: &mut f64, n: u64| {
            *sum += (n as f64).powf(-0.99);
            Some(*sum)
        };
        OpMaker {
            table: TableName::new("tasks").expect("a name"),
            fields: (0..FIELDS).map(|n| FieldName::new(&format!("field-{n}")).expect("a name")).collect(),
            rows,
            weights: if choice == Choice::Zipf {
                (1..=rows).scan(0.0, weights).collect()
            } else {
                Vec::new()
            },
        }
    }

    fn row(&self, prng: &mut Prng) -> RowKey {
        let n = match self.weights.last() {
            None => prng.below(self.rows),
            Some(all) => {
                let at = prng.below(1 << 52) as f64 / (1u64 << 52) as f64 * all;
                self.weights.partition_point(|sum| *sum <= at) as u64
            }
        };
        // Scattered, as keys that devices make up are.
        RowKey::new(&format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).expect("a key")
    }

    fn make(&mut self, prng: &mut Prng) -> Op {
        let row = self.row(prng);
        let kind = if prng.below(20) == 0 { OpKind::Delete } else { OpKind::Put };
        let field = self.fields[prng.below(FIELDS) as usize].clone();
        let value = Value::Text(format!("value is {:015x}", prng.next_u64() >> 4));
        let fields = if kind == OpKind::Delete { FieldValues::new() } else { [(field, value)].into() };
        Op { table: self.table.clone(), row, kind, fields }
    }
}
