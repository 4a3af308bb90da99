//! The reorder buffer: verified runs that wait for what they depend on.
//!
//! A run is applied whole. Two runs can need each other (the first half of one, the second half of the other),
//! when they were cut by devices that knew different things; so runs that only together are complete are applied
//! together, commit by commit in causal order ([`Reorder::take_joint`]).
//!
//! Invariants, at the end of a frame: no run that can be applied is in it; the bytes held are within the bound, and so
//! is the memory that they take once decoded, which a hostile member can make many times as much. What exceeds them goes only then ([`Reorder::trim`]), farthest from applicable first: so the bound never refuses the very
//! run that would unblock the others, and runs of one frame that need each other are never torn apart. While a frame
//! is taken in, its own runs may be held beyond the bound.

use std::collections::BTreeMap;

use crate::commit::CommitHash;
use crate::config::REORDER_COST_PER_BYTE;
use crate::cost;
use crate::fences::Fences;
use crate::identity::{DeviceCert, PeerKey, ReplicaId, Sig};
use crate::knowledge::Knowledge;
use crate::marks::mark;
use crate::planted::{self, Bug};
use crate::replicated::Replicated;
use crate::wire::columns::HashedCommit;
use crate::wire::message::Run;

/// Most runs held, whatever their size.
const RUNS_MAX: usize = 4096;
/// Memory that is held however small the bound.
const MEMORY_MIN: usize = 1024 * 1024;

/// A verified run and who brought it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) run: Run<HashedCommit>,
    pub(crate) from: PeerKey,
    bytes: usize,
    memory: usize,
}

impl Drop for Reorder {
    fn drop(&mut self) {
        mark!(CrashedWaiting if !self.runs.is_empty());
    }
}

/// Runs that wait, by replica and first sequence number.
#[derive(Debug)]
pub(crate) struct Reorder {
    runs: BTreeMap<(ReplicaId, u64), Waiting>,
    bytes: usize,
    bytes_max: usize,
    /// What the runs take in memory, from above.
    memory: usize,
}

impl Reorder {
    pub(crate) fn new(bytes_max: usize) -> Reorder {
        Reorder { runs: BTreeMap::new(), bytes: 0, bytes_max, memory: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the runs take in memory, from above.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Whether less than half of the bound is left.
    pub(crate) fn nearly_full(&self) -> bool {
        self.bytes > self.bytes_max / 2
    }

    pub(crate) fn commits(&self) -> u64 {
        self.runs.values().map(|waiting| waiting.run.commits.len() as u64).sum()
    }

    /// Holds a run, for now beyond the bound.
    pub(crate) fn insert(&mut self, run: Run<HashedCommit>, from: PeerKey) {
        let Some(first) = run.commits.first() else { return };
        let key = (first.commit.dot.replica, first.commit.dot.seq);
        if self.runs.get(&key).is_some_and(|held| held.run.commits.len() >= run.commits.len()) {
            return;
        }
        let replaced = self.take(&key);
        mark!(WaitingGrew if replaced.is_some());
        let bytes = run.commits.iter().map(|hashed| hashed.bytes).sum();
        let memory = cost::of_commits(&run.commits);
        self.bytes += bytes;
        self.memory += memory;
        self.runs.insert(key, Waiting { run, from, bytes, memory });
    }

    /// Gives up what exceeds the bound; `distance` says how far each run is from applicable.
    pub(crate) fn trim(&mut self, distance: impl Fn(&Run<HashedCommit>) -> u64) {
        let memory_max = self.bytes_max.saturating_mul(REORDER_COST_PER_BYTE).max(MEMORY_MIN);
        let large = |buffer: &Reorder| buffer.memory > memory_max && !planted::is(Bug::MemoryUncounted);
        let full = |buffer: &Reorder| {
            buffer.bytes > buffer.bytes_max || large(buffer) || buffer.runs.len() > RUNS_MAX
        };
        while full(self) && !planted::is(Bug::UnboundedBuffer) {
            mark!(ReorderOverflowed);
            let farthest = self.runs.iter().max_by_key(|(_, waiting)| distance(&waiting.run));
            let Some(key) = farthest.map(|(key, _)| *key) else { break };
            self.take(&key);
        }
    }

    fn take(&mut self, key: &(ReplicaId, u64)) -> Option<Waiting> {
        let waiting = self.runs.remove(key)?;
        self.bytes -= waiting.bytes;
        self.memory -= waiting.memory;
        Some(waiting)
    }

    /// Gives up what lies beyond fences.
    pub(crate) fn cut(&mut self, fences: &Fences) {
        for Waiting { run, from, .. } in self.take_all() {
            match fences.cut(run) {
                Some(run) => self.insert(run, from),
                None => mark!(BufferPurged),
            }
        }
    }

    /// Gives up everything.
    pub(crate) fn clear(&mut self) {
        mark!(RevokedWaiting if !self.runs.is_empty());
        self.take_all();
    }

    fn take_all(&mut self) -> Vec<Waiting> {
        (self.bytes, self.memory) = (0, 0);
        std::mem::take(&mut self.runs).into_values().collect()
    }

    /// Takes out one run for which `pick` says so.
    pub(crate) fn take_first(&mut self, pick: impl Fn(&Run<HashedCommit>) -> bool) -> Option<Waiting> {
        let key = self.runs.iter().find(|(_, waiting)| pick(&waiting.run)).map(|(key, _)| *key)?;
        self.take(&key)
    }

    /// Takes out all runs that can be applied completely when they are applied together, as their commits in
    /// causal order, each with the signature held for it and who brought it. Empty if there are none.
    pub(crate) fn take_joint(&mut self, state: &Replicated) -> Vec<(HashedCommit, Option<Sig>, PeerKey)> {
        if planted::is(Bug::JointRunsWait) {
            return Vec::new();
        }
        let mut active: Vec<(ReplicaId, u64)> = self.runs.keys().copied().collect();
        let order = loop {
            let (order, complete) = self.interleave(&active, state);
            if complete.len() == active.len() {
                break order;
            }
            // Others may have leant on the runs that stay incomplete: try again without these.
            active = complete;
        };
        let mut taken = BTreeMap::new();
        for key in active {
            if let Some(Waiting { run, from, .. }) = self.take(&key) {
                let len = run.commits.len();
                taken.insert(key, (run.commits.into_iter().enumerate(), run.sig, from, len));
            }
        }
        let mut commits = Vec::with_capacity(order.len());
        for (key, index) in order {
            // Indices of one run ascend; those left out are known from another run.
            let Some((rest, sig, from, len)) = taken.get_mut(&key) else { continue };
            let Some((_, hashed)) = rest.find(|(at, _)| *at == index) else { continue };
            commits.push((hashed, (index + 1 == *len).then_some(*sig), *from));
        }
        commits
    }

    /// Walks the given runs as far as dependencies allow, over what is applied. Gives the order of the commits that
    /// were reached, by run and index, and the runs that were reached to their ends.
    #[allow(clippy::type_complexity)]
    fn interleave(
        &self,
        active: &[(ReplicaId, u64)],
        state: &Replicated,
    ) -> (Vec<((ReplicaId, u64), usize)>, Vec<(ReplicaId, u64)>) {
        let mut heads: BTreeMap<ReplicaId, (u64, CommitHash)> =
            state.heads.iter().map(|(replica, head)| (*replica, (head.seq, head.hash))).collect();
        let (mut order, mut next) = (Vec::new(), vec![0; active.len()]);
        let mut moved = true;
        while moved {
            moved = false;
            for (key, next) in active.iter().zip(&mut next) {
                let Some(waiting) = self.runs.get(key) else { continue };
                while let Some(hashed) = waiting.run.commits.get(*next) {
                    let commit = &hashed.commit;
                    let (seq, hash) = heads.get(&key.0).copied().unwrap_or_default();
                    if commit.dot.seq > seq {
                        let has = |on: &ReplicaId| heads.get(on).map_or(0, |head| head.0);
                        let met = state.fences.met(&commit.deps, has);
                        if commit.dot.seq > seq + 1 || commit.prev != hash || !met {
                            break;
                        }
                        heads.insert(key.0, (commit.dot.seq, hashed.hash));
                        order.push((*key, *next));
                    }
                    *next += 1;
                    moved = true;
                }
            }
        }
        let whole = |(key, next): &(&(ReplicaId, u64), usize)| {
            self.runs.get(*key).is_some_and(|waiting| waiting.run.commits.len() == *next)
        };
        let complete = active.iter().zip(next).filter(whole).map(|(key, _)| *key).collect();
        (order, complete)
    }

    /// The certificate in a replica's first commit, if that is held. Reading it has verified it.
    pub(crate) fn introduction(&self, replica: &ReplicaId) -> Option<&DeviceCert> {
        self.runs.get(&(*replica, 1))?.run.commits.first()?.commit.introduces.as_deref()
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
