//! What is known of all devices together, and every commit that some log held, by name. Where a database ran twice
//! unnoticed there is more than one under a name.
//!
//! Invariant: commits are told apart by their content, and a commit's hash is computed once however many devices have it.

use std::collections::{BTreeMap, BTreeSet};

use engine::commit::{Commit, CommitHash};
use engine::identity::{DeviceId, Dot, ReplicaId};
use engine::store::Head;

use crate::oracle::Observer;

/// What is known of all devices together.
#[derive(Debug, Default)]
pub struct Global {
    /// The account's devices.
    pub(crate) devices: BTreeSet<DeviceId>,
    /// Devices that were revoked by an administrator's order, or may have been: what a device was told when its storage
    /// failed may be durable or not.
    pub ordered: BTreeSet<DeviceId>,
    /// Devices whose database ran twice, or went on from an old state, without noticing: their replicas may fork.
    pub forked: BTreeSet<DeviceId>,
    pub(crate) history: History,
    /// Commits that were answered with success, each with the device that must have it: the one that answered, unless
    /// that was restored from a backup since.
    pub acknowledged: BTreeMap<(Dot, CommitHash), usize>,
}

impl Global {
    /// Nothing yet, of an account with these devices.
    pub fn of(devices: BTreeSet<DeviceId>) -> Global {
        Global { devices, ..Global::default() }
    }

    /// A device is one of the account's from now on.
    pub fn admit(&mut self, device: DeviceId) {
        self.devices.insert(device);
    }

    /// A device goes on from a backup. What it had answered since and nobody else has is lost, as it must be; the rest
    /// is another's to keep. Tells whether there was any of either, the kept first.
    pub fn restored(
        &mut self,
        node: usize,
        backup: &BTreeMap<ReplicaId, Head>,
        observers: &[&Observer],
    ) -> (bool, bool) {
        let (mut kept, mut lost) = (false, false);
        let Global { acknowledged, history, .. } = self;
        acknowledged.retain(|(dot, hash), holder| {
            let head = backup.get(&dot.replica).map(|head| (head.seq, head.hash));
            if *holder == node && !head.is_some_and(|head| history.stands(head, dot, hash)) {
                let others = observers.iter().filter(|other| other.node != node);
                let Some(other) = others.into_iter().find(|other| other.has(history, dot, hash)) else {
                    lost = true;
                    return false;
                };
                *holder = other.node;
                kept = true;
            }
            true
        });
        (kept, lost)
    }
}

/// The commits of all devices together.
#[derive(Debug, Default)]
pub(crate) struct History {
    commits: BTreeMap<Dot, Vec<(CommitHash, Commit)>>,
}

impl History {
    /// Takes in a commit of some log. Gives its hash, and how many different commits have its name.
    pub(crate) fn note(&mut self, commit: &Commit) -> (CommitHash, usize) {
        let named = self.commits.entry(commit.dot).or_default();
        let found = named.iter().find(|(_, known)| known == commit).map(|(hash, _)| *hash);
        let hash = found.unwrap_or_else(|| {
            let hash = commit.hash();
            named.push((hash, commit.clone()));
            hash
        });
        (hash, named.len())
    }

    /// Whether a commit is in a log that has this one last of its replica, and not another of its name.
    pub(crate) fn stands(&self, head: (u64, CommitHash), dot: &Dot, hash: &CommitHash) -> bool {
        let named = self.commits.get(dot).map_or(0, Vec::len);
        if head.0 < dot.seq || named < 2 {
            return head.0 >= dot.seq && named == 1;
        }
        let found = self.back(dot.replica, head).find(|(_, commit)| commit.dot == *dot);
        found.is_some_and(|(found, _)| found == *hash)
    }

    /// A log's commits of a replica, from the one that it ends in back to the first.
    pub(crate) fn back(
        &self,
        replica: ReplicaId,
        (mut seq, mut hash): (u64, CommitHash),
    ) -> impl Iterator<Item = (CommitHash, &Commit)> {
        std::iter::from_fn(move || {
            let named = self.commits.get(&Dot { replica, seq })?;
            let (found, commit) = named.iter().find(|(known, _)| *known == hash)?;
            (seq, hash) = (seq - 1, commit.prev);
            Some((*found, commit))
        })
    }
}
