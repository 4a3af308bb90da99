//! Rollback: taking out of the state what a statement has fenced.
//!
//! Invariant: the state is a pure function of the commits that stand. So the rows which a retracted commit wrote are
//! derived anew from the log without it; nothing is undone by memory of what was before.
//! A statement that retracts is applied in a batch of its own, against a store in which all else is durable. Its work grows
//! with the log, once per revocation.

use std::collections::{BTreeMap, BTreeSet};

use crate::commit::verify_commit;
use crate::identity::{DeviceId, Dot, ReplicaId, Sig};
use crate::marks::mark;
use crate::name::{RowKey, TableName};
use crate::replicated::{Draft, Replicated};
use crate::row::RowState;
use crate::statement::{NO_SIG, Statement};
use crate::store::{Head, Retraction, StoreError, StoreRead};

/// Commits read from the log at a time.
const PAGE: usize = 1024;
/// Bytes of commits read from the log at a time.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

impl Replicated {
    /// The replicas of which commits are applied that no longer count once a statement does.
    pub(crate) fn exceeding(&self, statement: &Statement) -> bool {
        let fence_of = |replica: &ReplicaId| match statement {
            Statement::Certify(_) => None,
            Statement::Revoke(new) if new.device == replica.device && new.device != self.own => {
                Some(new.fences.get(&replica.incarnation).map_or(0, |fence| fence.seq))
            }
            Statement::Revoke(_) => None,
            Statement::Fork(proof) if proof.replica() == *replica => Some(proof.seq),
            Statement::Fork(_) => None,
        };
        self.heads.iter().any(|(replica, head)| fence_of(replica).is_some_and(|seq| head.seq > seq))
    }

    /// Retracts all that is applied beyond fences. Returns how many commits that is. The draft holds nothing but the
    /// statement's commit, `because`.
    pub(crate) fn roll_back(&mut self, draft: &mut Draft<'_>, because: Dot) -> Result<u64, StoreError> {
        let beyond: Vec<ReplicaId> = self
            .heads
            .iter()
            .filter(|(replica, head)| self.fences.limit(replica).is_some_and(|limit| head.seq > limit.seq))
            .map(|(replica, _)| *replica)
            .collect();
        let (mut retracted, mut touched) = (0, BTreeSet::new());
        for replica in beyond {
            retracted += self.truncate(draft, replica, because, &mut touched)?;
        }
        self.derive(draft, touched)?;
        self.void_conflicts(draft)?;
        Ok(retracted)
    }

    /// Ends a replica at its fence, or at the last signature before it.
    fn truncate(
        &mut self,
        draft: &mut Draft<'_>,
        replica: ReplicaId,
        because: Dot,
        touched: &mut BTreeSet<(TableName, RowKey)>,
    ) -> Result<u64, StoreError> {
        let Some(limit) = self.fences.limit(&replica) else { return Ok(0) };
        let (mut at, mut signed) = (Head::default(), Head::default());
        let store = draft.store;
        each_commit(store, &replica, 1, |stored| {
            if stored.commit.dot.seq > limit.seq {
                touched.extend(stored.commit.ops.into_iter().map(|op| (op.table, op.row)));
                return;
            }
            at.seq = stored.commit.dot.seq;
            at.hash = stored.commit.hash();
            for (replica, seq) in stored.commit.deps {
                let seen = at.seen.entry(replica).or_default();
                *seen = (*seen).max(seq);
            }
            // A fence that is no longer one had no signature perhaps.
            if stored.sig.is_some_and(|sig| sig != NO_SIG) {
                signed = at.clone();
            }
        })?;
        // What is handed on must end in a signature, or where a statement vouches for it: exactly here, unless this is
        // another branch.
        if at.seq > signed.seq {
            match self.signature_at(&replica, &at) {
                Some(sig) => {
                    mark!(EndsAtFence);
                    draft.batch.signatures.push((Dot { replica, seq: at.seq }, sig));
                    signed = at;
                }
                None => each_commit(store, &replica, signed.seq + 1, |stored| {
                    touched.extend(stored.commit.ops.into_iter().map(|op| (op.table, op.row)));
                })?,
            }
        }
        let from_seq = signed.seq + 1;
        let before = self.heads.get(&replica).map_or(0, |head| head.seq);
        draft.batch.retractions.push(Retraction { replica, from_seq, because });
        draft.batch.heads.insert(replica, signed.clone());
        self.knowledge.remove(&replica, from_seq, u64::MAX);
        if signed.seq == 0 {
            mark!(EndsBeforeFence);
            self.heads.remove(&replica);
        } else {
            self.heads.insert(replica, signed);
        }
        Ok((before + 1).saturating_sub(from_seq))
    }

    /// What stands for a signature of a replica's commit at the fence, if it is that very commit.
    fn signature_at(&self, replica: &ReplicaId, at: &Head) -> Option<Sig> {
        let (limit, author) = (self.fences.limit(replica)?, self.members.get(&replica.device)?);
        let (hash, sig) = limit.signed.filter(|(hash, _)| limit.seq == at.seq && *hash == at.hash)?;
        Some(if verify_commit(&self.account, &author.key, &hash, &sig) { sig } else { NO_SIG })
    }

    /// Derives rows anew from what stands in the log.
    fn derive(
        &self,
        draft: &mut Draft<'_>,
        touched: BTreeSet<(TableName, RowKey)>,
    ) -> Result<(), StoreError> {
        if touched.is_empty() {
            return Ok(());
        }
        let mut rows: BTreeMap<_, _> = touched.into_iter().map(|key| (key, RowState::default())).collect();
        let (store, mut lost, mut from) = (draft.store, Vec::new(), 1);
        loop {
            let page = store.applied(from, PAGE)?;
            let Some(last) = page.last() else { break };
            from = last.position + 1;
            for stored in page.iter().filter(|stored| self.knowledge.contains(&stored.dot())) {
                for op in &stored.commit.ops {
                    // Keys are cloned for the look-up: rows of one transaction only, and once per revocation.
                    if let Some(row) = rows.get_mut(&(op.table.clone(), op.row.clone())) {
                        row.apply(stored.commit.stamp(), op, &mut lost);
                        lost.clear();
                    }
                }
            }
        }
        for ((table, row), state) in rows {
            mark!(RowRolledAway if state.is_untouched());
            draft.put(&table, &row, state)?;
        }
        Ok(())
    }

    /// Forgets conflicts of which either side no longer stands.
    fn void_conflicts(&self, draft: &mut Draft<'_>) -> Result<(), StoreError> {
        let mut from = 0;
        loop {
            let page = draft.store.conflicts(from, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            from = last.id + 1;
            let stands = |dot: &Dot| self.knowledge.contains(dot);
            let void = page.iter().filter(|one| !stands(&one.loser.dot) || !stands(&one.winner.dot));
            draft.batch.conflicts_void.extend(void.map(|one| one.id));
            mark!(ConflictVoided if !draft.batch.conflicts_void.is_empty());
        }
    }

    /// Whether a device's replica may no longer be written as.
    pub(crate) fn own_is_fenced(&self) -> bool {
        self.fences.limit(&self.replica).is_some()
    }

    pub(crate) fn revoked(&self, device: &DeviceId) -> bool {
        self.fences.revoked(device)
    }
}

/// Reads a replica's log from a sequence number on, a page at a time.
fn each_commit(
    store: &dyn StoreRead,
    replica: &ReplicaId,
    mut from: u64,
    mut take: impl FnMut(crate::store::StoredCommit),
) -> Result<(), StoreError> {
    loop {
        let page = store.commits(replica, from, PAGE, PAGE_BYTES)?;
        let Some(last) = page.last() else { return Ok(()) };
        from = last.commit.dot.seq + 1;
        page.into_iter().for_each(&mut take);
    }
}
