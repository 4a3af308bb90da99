//! What counts of each replica: the fences of all statements applied, joined.
//!
//! Invariant: a pure function of the set of statements. Of two fences for one replica the smaller counts; of a revoked
//! device's replicas only those count that every revocation lists. A device is never fenced on itself for being revoked:
//! it keeps what it has, and stops talking.

use std::collections::BTreeMap;

use crate::commit::{CommitHash, Deps, span};
use crate::identity::{DeviceId, Dot, ReplicaId, Sig};
use crate::knowledge::Knowledge;
use crate::marks::{ON, mark};
use crate::planted::{self, Bug};
use crate::statement::{Fence, Forked, Revocation, Statement};
use crate::wire::columns::HashedCommit;
use crate::wire::message::Run;

/// Fences by device and by replica.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    own: Option<DeviceId>,
    /// With the commit of one statement that says so.
    revoked: BTreeMap<DeviceId, (Revocation, Dot)>,
    forked: BTreeMap<ReplicaId, (Option<Fence>, Dot)>,
    /// Proofs of forks taken in.
    proofs: usize,
}

/// Where a replica ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The last sequence number that counts; 0 if none does.
    pub(crate) seq: u64,
    /// The hash and signature there, if any counts.
    pub(crate) signed: Option<(CommitHash, Sig)>,
}

impl Limit {
    fn of(fence: Option<&Fence>) -> Limit {
        Limit { seq: fence.map_or(0, |fence| fence.seq), signed: fence.map(|fence| (fence.hash, fence.sig)) }
    }
}

impl Fences {
    /// No fences yet, on a device.
    pub(crate) fn new(own: DeviceId) -> Fences {
        Fences { own: Some(own), ..Fences::default() }
    }

    /// Takes in a statement.
    pub(crate) fn join(&mut self, statement: &Statement, because: Dot) {
        match statement {
            Statement::Certify(_) => {}
            Statement::Revoke(new) => match self.revoked.get_mut(&new.device) {
                None => {
                    self.revoked.insert(new.device, (new.clone(), because));
                }
                Some((known, dot)) => {
                    mark!(RevokedTwice if because != *dot);
                    mark!(SmallerFenceWon if known.fences != new.fences);
                    known.fences.retain(|incarnation, fence| match new.fences.get(incarnation) {
                        Some(other) => {
                            *fence = smaller(*fence, *other);
                            true
                        }
                        None => planted::is(Bug::LargerFenceWins),
                    });
                    if (new.issued_ms, because) < (known.issued_ms, *dot) {
                        (known.issued_ms, known.reason, *dot) = (new.issued_ms, new.reason.clone(), because);
                    }
                }
            },
            Statement::Fork(proof) => {
                self.proofs += 1;
                let new = (proof.fence(), because);
                let known = self.forked.entry(proof.replica()).or_insert(new);
                // With the fence goes a proof of that very fence: its branches continue it.
                let order =
                    |(fence, dot): &(Option<Fence>, Dot)| (fence.map(|fence| (fence.seq, fence.hash)), *dot);
                if order(&new) < order(known) {
                    *known = new;
                }
            }
        }
    }

    /// The revocation of a device, joined, and the commit of one statement that says so.
    pub(crate) fn revocation(&self, device: &DeviceId) -> Option<&(Revocation, Dot)> {
        self.revoked.get(device)
    }

    pub(crate) fn revoked(&self, device: &DeviceId) -> bool {
        self.revoked.contains_key(device)
    }

    /// All revocations, joined.
    pub(crate) fn revocations(&self) -> impl Iterator<Item = &Revocation> {
        self.revoked.values().map(|(revocation, _)| revocation)
    }

    /// How many proofs of forks there are.
    pub(crate) fn proofs(&self) -> usize {
        self.proofs
    }

    /// All replicas that forked, joined.
    pub(crate) fn forks(&self) -> impl Iterator<Item = Forked> {
        let forked = |(replica, (fence, because)): (&ReplicaId, &(Option<Fence>, Dot))| Forked {
            replica: *replica,
            seq: fence.map_or(0, |fence| fence.seq),
            because: *because,
        };
        self.forked.iter().map(forked)
    }

    /// Where a replica ends because it forked, and the commit of a statement that proves just this.
    pub(crate) fn fork(&self, replica: &ReplicaId) -> Option<(Option<Fence>, Dot)> {
        self.forked.get(replica).copied()
    }

    /// Where a replica ends; `None` if it does not.
    pub(crate) fn limit(&self, replica: &ReplicaId) -> Option<Limit> {
        let revoked = self.revoked.get(&replica.device).filter(|_| self.own != Some(replica.device));
        let revoked = revoked.map(|(revocation, _)| Limit::of(revocation.fences.get(&replica.incarnation)));
        let forked = self.forked.get(replica).map(|(fence, _)| Limit::of(fence.as_ref()));
        match (revoked, forked) {
            (Some(one), Some(other)) => Some(if other.seq < one.seq { other } else { one }),
            (one, other) => one.or(other),
        }
    }

    /// The same sequence number, or where its replica ends before it: what a dependency beyond a fence counts as.
    pub(crate) fn clamp(&self, replica: &ReplicaId, seq: u64) -> u64 {
        if planted::is(Bug::FencedDepsBlock) {
            return seq;
        }
        self.limit(replica).map_or(seq, |limit| seq.min(limit.seq))
    }

    /// Whether all dependencies are met, where `has` gives what is there of a replica from its start.
    pub(crate) fn met(&self, deps: &Deps, has: impl Fn(&ReplicaId) -> u64) -> bool {
        deps.iter().all(|(replica, seq)| self.clamp(replica, *seq) <= has(replica))
    }

    /// Takes what lies beyond fences out of a statement of knowledge.
    pub(crate) fn clamp_all(&self, knowledge: &mut Knowledge) {
        if self.revoked.is_empty() && self.forked.is_empty() {
            return;
        }
        let before = if ON { knowledge.commits() } else { 0 };
        knowledge.cut(|replica| self.limit(replica).map(|limit| limit.seq));
        mark!(FencedClaimed if knowledge.commits() < before);
    }

    /// Whether statements vouch for what a run has up to the fence, whatever its signature: it has the very commit there.
    /// Not if that is the last of a span, which everybody who has it has with its signature: where a log goes on without
    /// one, proofs of forks would find no end.
    pub(crate) fn vouch(&self, run: &Run<HashedCommit>) -> bool {
        let ends = |seq| span(seq) != span(seq + 1);
        let first = run.commits.first().map(|first| first.commit.dot.replica);
        let ends = first.and_then(|replica| self.limit(&replica)).is_some_and(|limit| ends(limit.seq));
        !ends && self.at_fence(run).is_some_and(|(here, fence)| here == fence)
    }

    /// Whether a run has another commit at the fence.
    pub(crate) fn contradict(&self, run: &Run<HashedCommit>) -> bool {
        self.at_fence(run).is_some_and(|(here, fence)| here != fence)
    }

    /// The hash that a run has at the fence of its replica, and the hash of the fence.
    fn at_fence(&self, run: &Run<HashedCommit>) -> Option<(CommitHash, CommitHash)> {
        let first = run.commits.first()?.commit.dot;
        let limit = self.limit(&first.replica)?;
        let index = usize::try_from(limit.seq.checked_sub(first.seq)?).ok()?;
        Some((run.commits.get(index)?.hash, limit.signed?.0))
    }

    /// The part of a run that counts, still ending in a signature; `None` if nothing does. A run that is on another
    /// branch than the fence counts for nothing: it cannot be proven up to there.
    pub(crate) fn cut(&self, mut run: Run<HashedCommit>) -> Option<Run<HashedCommit>> {
        let (Some(first), Some(last)) = (run.commits.first(), run.commits.last()) else { return Some(run) };
        let Some(limit) = self.limit(&first.commit.dot.replica) else { return Some(run) };
        if last.commit.dot.seq <= limit.seq {
            return Some(run);
        }
        let kept = usize::try_from((limit.seq + 1).checked_sub(first.commit.dot.seq)?).ok()?;
        let (hash, sig) = limit.signed?;
        run.commits.truncate(kept);
        // What waits is counted by its commits.
        run.commits.shrink_to_fit();
        run.sig = sig;
        run.commits.last().is_some_and(|last| last.hash == hash).then_some(run)
    }
}

/// Of two fences for one replica, the one that leaves less. Of equal ones any would do; the choice is the same everywhere.
fn smaller(one: Fence, other: Fence) -> Fence {
    let first = (one.seq, one.hash, one.sig.0) <= (other.seq, other.hash, other.sig.0);
    if first != planted::is(Bug::LargerFenceWins) { one } else { other }
}
