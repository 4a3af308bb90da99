//! Makes histories for stores to hold, and checks that what a store holds is a history.

use std::collections::BTreeMap;

use super::put;
use crate::commit::{Deps, Op, hash_commit};
use crate::hlc::Hlc;
use crate::identity::{DeviceId, ReplicaId};
use crate::name::{RowKey, TableName};
use crate::row::RowState;
use crate::store::{Batch, Head, StoreRead};
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
            head.hash = hash_commit(&commit.encode());
            head.seen.extend(deps);
            batch.heads.insert(author.replica, head.clone());
            batch.members.extend(commit.introduces.clone());
            for op in &commit.ops {
                let key = (op.table.clone(), op.row.clone());
                if let Some(row) = self.rows.get(&key) {
                    self.digest = self.digest.wrapping_sub(row.digest(&op.table, &op.row));
                }
                let row = self.rows.entry(key.clone()).or_default();
                row.apply(commit.stamp(), op, &mut Vec::new());
                self.digest = self.digest.wrapping_add(row.digest(&op.table, &op.row));
                batch.rows.insert(key, row.clone());
            }
            batch.commits.push((commit, signed(n).then_some(sig)));
        }
        self.position += batch.commits.len() as u64;
        batch.digest = self.digest;
        batch.clock = Hlc::new(1_000 + self.clock, 9);
        batch
    }

    /// One batch of one commit of author 1.
    pub fn put(&mut self, table: &str, row: &str, value: impl Into<Value>) -> Batch {
        self.batch(vec![(1, vec![put(table, row, value)])], |_| true)
    }
}

/// Replays the log of a store and checks that rows, digest, heads and members are what it amounts to.
pub fn state_follows_from_log(store: &impl StoreRead) {
    let recovered = store.recover().expect("recovered");
    let log = store.applied(1, usize::MAX).expect("the log");
    assert_eq!(log.len() as u64, recovered.position);
    let mut rows = BTreeMap::<TableName, BTreeMap<RowKey, RowState>>::new();
    let mut heads = BTreeMap::<ReplicaId, Head>::new();
    let mut introduced = Vec::<DeviceId>::new();
    for (position, stored) in (1..).zip(&log) {
        assert_eq!(stored.position, position);
        let commit = &stored.commit;
        introduced.extend(commit.introduces.as_ref().map(|cert| cert.device()));
        let head = heads.entry(commit.dot.replica).or_default();
        assert_eq!(
            (commit.dot.seq, commit.prev),
            (head.seq + 1, head.hash),
            "the log of a replica is a chain"
        );
        head.seq = commit.dot.seq;
        head.hash = hash_commit(&commit.encode());
        head.seen.extend(commit.deps.clone());
        for op in &commit.ops {
            let row = rows.entry(op.table.clone()).or_default().entry(op.row.clone()).or_default();
            row.apply(commit.stamp(), op, &mut Vec::new());
        }
    }
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
