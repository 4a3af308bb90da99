//! The reorder buffer: verified runs that wait for what they depend on.
//!
//! Invariants: the bytes held stay within the bound; a run that can be applied is never in it (it is applied
//! instead), so the bound never refuses the very run that would unblock the others; when full, the run that is
//! farthest from applicable goes, be it the newcomer.

use std::collections::BTreeMap;

use crate::identity::{PeerKey, ReplicaId};
use crate::knowledge::Knowledge;
use crate::wire::columns::HashedCommit;
use crate::wire::message::Run;

/// Most runs held, whatever their size.
const RUNS_MAX: usize = 4096;

/// A verified run and who brought it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) run: Run<HashedCommit>,
    pub(crate) from: PeerKey,
    bytes: usize,
}

/// Runs that wait, by replica and first sequence number.
#[derive(Debug)]
pub(crate) struct Reorder {
    runs: BTreeMap<(ReplicaId, u64), Waiting>,
    bytes: usize,
    bytes_max: usize,
}

impl Reorder {
    pub(crate) fn new(bytes_max: usize) -> Reorder {
        Reorder { runs: BTreeMap::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn commits(&self) -> u64 {
        self.runs.values().map(|waiting| waiting.run.commits.len() as u64).sum()
    }

    /// Holds a run; `distance` says how far each run is from applicable.
    pub(crate) fn insert(
        &mut self,
        run: Run<HashedCommit>,
        from: PeerKey,
        distance: impl Fn(&Run<HashedCommit>) -> u64,
    ) {
        let Some(first) = run.commits.first() else { return };
        let key = (first.commit.dot.replica, first.commit.dot.seq);
        if self.runs.get(&key).is_some_and(|held| held.run.commits.len() >= run.commits.len()) {
            return;
        }
        self.take(&key);
        let bytes = run.commits.iter().map(|hashed| hashed.bytes).sum();
        self.bytes += bytes;
        self.runs.insert(key, Waiting { run, from, bytes });
        while self.bytes > self.bytes_max || self.runs.len() > RUNS_MAX {
            let farthest = self.runs.iter().max_by_key(|(_, waiting)| distance(&waiting.run));
            let Some(key) = farthest.map(|(key, _)| *key) else { break };
            self.take(&key);
        }
    }

    fn take(&mut self, key: &(ReplicaId, u64)) -> Option<Waiting> {
        let waiting = self.runs.remove(key)?;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    /// Takes out one run for which `pick` says so.
    pub(crate) fn take_first(&mut self, pick: impl Fn(&Run<HashedCommit>) -> bool) -> Option<Waiting> {
        let key = self.runs.iter().find(|(_, waiting)| pick(&waiting.run)).map(|(key, _)| *key)?;
        self.take(&key)
    }

    /// What is held, so that it is not asked for again.
    pub(crate) fn knowledge(&self) -> Knowledge {
        let mut knowledge = Knowledge::default();
        for ((replica, first), waiting) in &self.runs {
            knowledge.insert(*replica, *first, first + waiting.run.commits.len() as u64 - 1);
        }
        knowledge
    }
}
