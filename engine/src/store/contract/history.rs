//! Makes histories for stores to hold, and checks that what a store holds is a history.

use std::collections::BTreeMap;

use super::put as put_op;
use crate::commit::{Commit, Deps, Op};
use crate::hlc::Hlc;
use crate::identity::{DeviceId, ReplicaId};
use crate::name::{RowKey, TableName};
use crate::row::RowState;
use crate::store::{Batch, Head, Retraction, StoreRead};
use crate::testing::Author;
use crate::value::Value;

/// Builds batches the way an engine does.
#[derive(Debug, Default)]
pub struct History {
    /// Test devices by number, each with one replica.
    pub authors: BTreeMap<u8, Author>,
    /// The newest commit of each replica.
    pub heads: BTreeMap<ReplicaId, Head>,
    /// The state of every row.
    pub rows: BTreeMap<(TableName, RowKey), RowState>,
    /// Commits made.
    pub position: u64,
    /// Those that stand, in the order in which they were made.
    pub log: Vec<Commit>,
    /// The state digest.
    pub digest: u128,
    clock: u64,
}

impl History {
    /// A batch of commits, each the next of its author, with the n-th signed iff `signed(n)`.
    pub fn batch(&mut self, commits: Vec<(u8, Vec<Op>)>, signed: impl Fn(usize) -> bool) -> Batch {
        let mut batch = Batch { position: self.position + 1, ..Batch::default() };
        for (n, (author, ops)) in commits.into_iter().enumerate() {
            let author = self.authors.entry(author).or_insert_with(|| Author::new(author));
            self.clock += 1;
            let seen = self.heads.iter().filter(|(replica, _)| **replica != author.replica);
            let deps: Deps = seen.map(|(replica, head)| (*replica, head.seq)).collect();
            let (commit, sig) = author.commit(Hlc::new(1_000 + self.clock, 3), deps.clone(), ops);
            let head = self.heads.entry(author.replica).or_default();
            head.seq = commit.dot.seq;
            head.hash = commit.hash();
            head.seen.extend(deps);
            batch.heads.insert(author.replica, head.clone());
            batch.members.extend(commit.introduces.as_deref().cloned());
            for op in &commit.ops {
                let key = (op.table.clone(), op.row.clone());
                if let Some(row) = self.rows.get(&key) {
                    self.digest = self.digest.wrapping_sub(row.digest(&op.table, &op.row));
                }
                let mut row = self.rows.remove(&key).unwrap_or_default();
                row.apply(commit.stamp(), op, &mut Vec::new());
                put(&mut batch, &key, &row);
                // An update of no fields writes nothing.
                if row != RowState::default() {
                    self.digest = self.digest.wrapping_add(row.digest(&op.table, &op.row));
                    self.rows.insert(key, row);
                }
            }
            self.log.push(commit.clone());
            batch.commits.push((commit, signed(n).then_some(sig)));
        }
        self.position += batch.commits.len() as u64;
        batch.digest = self.digest;
        batch.clock = Hlc::new(1_000 + self.clock, 9);
        batch
    }

    /// A batch of one commit of `by`, which retracts those of `author` from a sequence number on. What
    /// `author` writes later it writes as another replica.
    pub fn retract(&mut self, by: u8, author: u8, from_seq: u64) -> Batch {
        let mut batch = self.batch(vec![(by, Vec::new())], |_| true);
        let because = batch.commits[0].0.dot;
        let Some(gone) = self.authors.get(&author).map(|author| author.replica) else { return batch };
        let stands = |commit: &Commit| commit.dot.replica != gone || commit.dot.seq < from_seq;
        let (kept, void): (Vec<Commit>, Vec<Commit>) =
            std::mem::take(&mut self.log).into_iter().partition(stands);
        self.log = kept;
        for op in void.iter().flat_map(|commit| &commit.ops) {
            let key = (op.table.clone(), op.row.clone());
            if let Some(before) = self.rows.remove(&key) {
                self.digest = self.digest.wrapping_sub(before.digest(&op.table, &op.row));
            }
            let mut row = RowState::default();
            for commit in &self.log {
                let same =
                    commit.ops.iter().filter(|other| (&other.table, &other.row) == (&op.table, &op.row));
                same.for_each(|op| row.apply(commit.stamp(), op, &mut Vec::new()));
            }
            put(&mut batch, &key, &row);
            if row != RowState::default() {
                self.digest = self.digest.wrapping_add(row.digest(&op.table, &op.row));
                self.rows.insert(key, row);
            }
        }
        let mut head = Head::default();
        for commit in self.log.iter().filter(|commit| commit.dot.replica == gone) {
            head.seq = commit.dot.seq;
            head.hash = commit.hash();
            head.seen.extend(commit.deps.clone());
        }
        batch.heads.insert(gone, head.clone());
        self.heads.insert(gone, head);
        self.heads.retain(|_, head| head.seq > 0);
        batch.retractions = vec![Retraction { replica: gone, from_seq, because }];
        batch.digest = self.digest;
        let mut next = Author::new(author);
        next.replica.incarnation = gone.incarnation + 1_000;
        self.authors.insert(author, next);
        batch
    }

    /// One batch of one commit of author 1.
    pub fn put(&mut self, table: &str, row: &str, value: impl Into<Value>) -> Batch {
        self.batch(vec![(1, vec![put_op(table, row, value)])], |_| true)
    }
}

/// Sets the new state of a row, in place of another.
fn put(batch: &mut Batch, (table, row): &(TableName, RowKey), state: &RowState) {
    let rows = batch.rows.entry(table.clone()).or_default();
    match rows.binary_search_by(|(other, _)| other.cmp(row)) {
        Ok(place) => rows[place].1 = state.clone(),
        Err(place) => rows.insert(place, (row.clone(), state.clone())),
    }
}

/// Replays the log of a store and checks that rows, digest, heads and members are what it amounts to.
pub fn state_follows_from_log(store: &impl StoreRead) {
    let recovered = store.recover().expect("recovered");
    let log = store.applied(1, usize::MAX).expect("the log");
    let mut gone = std::collections::BTreeSet::new();
    for quarantined in store.quarantine(None, usize::MAX).expect("the quarantine") {
        gone.insert(quarantined.stored.position);
    }
    assert_eq!(log.last().map_or(0, |stored| stored.position), recovered.position);
    let mut rows = BTreeMap::<TableName, BTreeMap<RowKey, RowState>>::new();
    let mut heads = BTreeMap::<ReplicaId, Head>::new();
    let mut introduced = Vec::<DeviceId>::new();
    let mut before = 0;
    for stored in &log {
        // Commits that were released from the quarantine leave gaps, too: contiguity is only known without any.
        assert!(stored.position > before && !gone.contains(&stored.position));
        before = stored.position;
        let commit = &stored.commit;
        introduced.extend(commit.introduces.as_ref().map(|cert| cert.device()));
        let head = heads.entry(commit.dot.replica).or_default();
        assert_eq!(
            (commit.dot.seq, commit.prev),
            (head.seq + 1, head.hash),
            "the log of a replica is a chain"
        );
        head.seq = commit.dot.seq;
        head.hash = commit.hash();
        head.seen.extend(commit.deps.clone());
        for op in &commit.ops {
            let row = rows.entry(op.table.clone()).or_default().entry(op.row.clone()).or_default();
            row.apply(commit.stamp(), op, &mut Vec::new());
        }
    }
    rows.values_mut().for_each(|rows| rows.retain(|_, row| *row != RowState::default()));
    rows.retain(|_, rows| !rows.is_empty());
    let mut digest = 0u128;
    for (table, rows) in &rows {
        let stored = store.scan(table, super::ALL, usize::MAX).expect("a scan");
        assert_eq!(stored, rows.clone().into_iter().collect::<Vec<_>>());
        digest = rows.iter().fold(digest, |sum, (key, row)| sum.wrapping_add(row.digest(table, key)));
    }
    assert_eq!(recovered.digest, digest);
    assert_eq!(recovered.heads, heads);
    assert_eq!(store.tables().expect("tables"), rows.into_keys().collect::<Vec<_>>());
    assert!(introduced.iter().all(|device| recovered.members.contains_key(device)));
}
