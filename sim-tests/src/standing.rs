//! What counts of each replica, straight from the definition: the least that any statement of the account lets count.
//! Shares nothing with the engine's fences.

use std::collections::BTreeSet;

use engine::commit::{Commit, CommitHash};
use engine::identity::{DeviceId, Dot, ReplicaId};
use engine::statement::Statement;

/// The last commit of a replica that counts: its number and hash; zeros if none does.
pub(crate) type End = (u64, CommitHash);

/// The statements that a device has heard, as far as they take something away.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Whose view it is. A device is never fenced on itself for being revoked.
    own: DeviceId,
    /// Revoked devices, each with what counts of one revocation, by incarnation.
    revocations: Vec<(DeviceId, Vec<(u64, End)>)>,
    forks: Vec<(ReplicaId, End)>,
    said: BTreeSet<Dot>,
}

impl Standing {
    pub(crate) fn of(own: DeviceId) -> Standing {
        Standing { own, revocations: Vec::new(), forks: Vec::new(), said: BTreeSet::new() }
    }

    /// Takes in a statement's commit.
    pub(crate) fn hear(&mut self, commit: &Commit) {
        match commit.statement.as_deref() {
            None | Some(Statement::Certify(_)) => return,
            Some(Statement::Revoke(revocation)) => {
                let counts = revocation.fences.iter();
                let counts = counts.map(|(incarnation, fence)| (*incarnation, (fence.seq, fence.hash)));
                self.revocations.push((revocation.device, counts.collect()));
            }
            Some(Statement::Fork(proof)) => {
                self.forks.push((proof.replica(), (proof.seq, proof.hash)));
            }
        }
        self.said.insert(commit.dot);
    }

    /// Whether a statement that takes something away was heard.
    pub(crate) fn heard(&self, statement: &Dot) -> bool {
        self.said.contains(statement)
    }

    /// Whether a device is one of the account's no longer.
    pub(crate) fn revoked(&self, device: &DeviceId) -> bool {
        self.revocations.iter().any(|(revoked, _)| revoked == device)
    }

    /// The device whose view this is.
    pub(crate) fn device(&self) -> DeviceId {
        self.own
    }

    /// Whether the device whose view this is was revoked.
    pub(crate) fn own_revoked(&self) -> bool {
        self.revoked(&self.own)
    }

    /// The last sequence number of a replica that counts; `None` if all do.
    pub(crate) fn limit(&self, replica: &ReplicaId) -> Option<u64> {
        self.end(replica).map(|(seq, _)| seq)
    }

    /// The last commit of a replica that counts; `None` if all do.
    pub(crate) fn end(&self, replica: &ReplicaId) -> Option<End> {
        let here = |device: &DeviceId| *device == replica.device && *device != self.own;
        let of = |counts: &[(u64, End)]| {
            let listed = counts.iter().find(|(incarnation, _)| *incarnation == replica.incarnation);
            listed.map_or_else(End::default, |(_, end)| *end)
        };
        let revoked = self.revocations.iter().filter(|(device, _)| here(device)).map(|(_, it)| of(it));
        let forked = self.forks.iter().filter(|(forked, _)| forked == replica).map(|(_, end)| *end);
        // Of two that lie on different branches under one number, a revocation's is the one.
        [revoked.min(), forked.min()].into_iter().flatten().min_by_key(|(seq, _)| *seq)
    }
}
