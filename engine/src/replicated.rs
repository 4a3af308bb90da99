//! The replicated state: applies commits to rows, heads, membership, ledger and digest, and gathers what
//! changed into a [`Batch`].
//!
//! Invariants: a run is applied whole and only when all it depends on is applied (causal order); knowledge,
//! rows and digest move together, in one batch; the row states in a draft are those the store will have.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::codec::{DecodeError, Writer};
use crate::commit::{Commit, CommitHash, Deps, Op, OpKind, Stamp};
use crate::config::{Config, DECODED_BYTES_MAX};
use crate::cost;
use crate::fences::Fences;
use crate::hlc::{Hlc, LocalClock};
use crate::identity::{AccountId, DeviceCert, DeviceId, Dot, Identity, ReplicaId, Sig, Verifiers};
use crate::knowledge::Knowledge;
use crate::marks::mark;
use crate::name::{RowKey, TableName};
use crate::numbering::Numbering;
use crate::planted::{self, Bug};
use crate::row::{DigestChange, Losses, Lost, RowState, Superseded};
use crate::statement::Statement;
use crate::store::{Batch, Conflict, Head, Recovered, StoreError, StoreRead};
use crate::time::Now;
use crate::wire::columns::HashedCommit;
use crate::wire::message::Run;

/// Room is made for so many commits of a frame at once, at most.
const COMMITS_EXPECTED_MAX: usize = 4 * 1024;

/// What stands in memory of the state that is in the store.
#[derive(Debug)]
pub(crate) struct Replicated {
    pub(crate) account: AccountId,
    pub(crate) own: DeviceId,
    pub(crate) fences: Fences,
    pub(crate) replica: ReplicaId,
    pub(crate) heads: BTreeMap<ReplicaId, Head>,
    pub(crate) knowledge: Knowledge,
    /// Shared with those who read frames ahead.
    pub(crate) members: Arc<BTreeMap<DeviceId, DeviceCert>>,
    pub(crate) clock: LocalClock,
    pub(crate) digest: u128,
    /// What replicas are called in rows in memory.
    numbering: Numbering,
    /// Keys of authors whose signatures were verified.
    pub(crate) authors: Verifiers,
    position: u64,
    conflict_next: u64,
    conflicts_max: u64,
}

/// A batch in the making, over the store as it is.
pub(crate) struct Draft<'a> {
    pub(crate) store: &'a dyn StoreRead,
    pub(crate) batch: Batch,
    /// Where in `touched` each row of each table is.
    rows: BTreeMap<TableName, BTreeMap<RowKey, usize>>,
    /// In the order in which they were touched. Beside the map, whose entries move when others come.
    touched: Vec<Touched>,
    scratch: Writer,
    /// Devices that were not known before.
    pub(crate) newcomers: Vec<DeviceId>,
}

#[derive(Default)]
struct Touched {
    state: RowState,
    /// By how much its digest has changed since it was read from the store, if anything of it has.
    change: Option<u128>,
}

impl Touched {
    fn changed(&mut self, by: Option<u128>) {
        if let Some(by) = by {
            self.change = Some(self.change.unwrap_or(0).wrapping_add(by));
        }
    }
}

/// How a run relates to what is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// All of it is applied already.
    Known,
    /// It can be applied now; so many of its commits are known already.
    Ready(usize),
    /// Something it depends on is missing.
    Waits,
    /// It contradicts a commit that is applied.
    Fork,
}

impl Replicated {
    pub(crate) fn new(
        identity: &Identity,
        replica: ReplicaId,
        recovered: Recovered,
        config: &Config,
        store: &impl StoreRead,
    ) -> Result<Replicated, StoreError> {
        let mut fences = Fences::new(identity.device());
        for replica in recovered.heads.keys().filter(|replica| replica.device == identity.account().device())
        {
            for stored in store.commits(replica, 1, 1, usize::MAX)? {
                stored.commit.statement.iter().for_each(|said| fences.join(said, stored.commit.dot));
            }
        }
        let mut members = recovered.members.clone();
        // The latest certificate may have come since the identity was written down.
        let known = members.get(&identity.device());
        if known.is_none_or(|known| later(&identity.cert, known)) {
            members.insert(identity.device(), identity.cert.clone());
        }
        let clock = if planted::is(Bug::ClockForgotten) { Hlc::default() } else { recovered.clock };
        Ok(Replicated {
            account: identity.account(),
            own: identity.device(),
            fences,
            replica,
            knowledge: recovered.knowledge(),
            numbering: recovered.heads.keys().collect(),
            heads: recovered.heads,
            members: Arc::new(members),
            clock: LocalClock::new(clock, config.drift_ms_max),
            digest: recovered.digest,
            authors: Verifiers::default(),
            position: recovered.position,
            conflict_next: recovered.conflict_next.max(1),
            conflicts_max: config.conflicts_max,
        })
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How a well-formed and verified run fits onto what is applied.
    pub(crate) fn fit(&self, run: &Run<HashedCommit>) -> Fit {
        let (Some(first), Some(last)) = (run.commits.first(), run.commits.last()) else { return Fit::Known };
        let head = self.heads.get(&first.commit.dot.replica);
        let (head_seq, head_hash) = head.map_or((0, CommitHash::default()), |head| (head.seq, head.hash));
        if first.commit.dot.seq > head_seq + 1 {
            return if planted::is(Bug::GaplessVector) { Fit::Ready(0) } else { Fit::Waits };
        }
        let known = (head_seq + 1 - first.commit.dot.seq) as usize;
        // The hash that the run has at our head: of its own commit there, or what its first builds on.
        let at_head = match known.checked_sub(1) {
            None => Some(first.commit.prev),
            Some(index) => run.commits.get(index).map(|hashed| hashed.hash),
        };
        if at_head.is_some_and(|theirs| theirs != head_hash) {
            return Fit::Fork;
        }
        if last.commit.dot.seq <= head_seq {
            return if planted::is(Bug::DuplicateAppliedTwice) { Fit::Ready(0) } else { Fit::Known };
        }
        let met = run.commits[known..].iter().all(|hashed| self.missing_deps(&hashed.commit.deps) == 0);
        if met || planted::is(Bug::NoCausalWait) { Fit::Ready(known) } else { Fit::Waits }
    }

    fn missing_deps(&self, deps: &Deps) -> u64 {
        let missing = deps.iter().map(|(replica, seq)| {
            self.fences.clamp(replica, *seq).saturating_sub(self.knowledge.prefix_len(replica))
        });
        // A dependency may name any number: a sum that wrapped to 0 would let the commit in before its time.
        missing.fold(0, u64::saturating_add)
    }

    /// Whether earlier commits of a run's own replica are missing.
    pub(crate) fn gap_before(&self, run: &Run<HashedCommit>) -> bool {
        run.commits.first().is_some_and(|first| {
            first.commit.dot.seq > self.knowledge.prefix_len(&first.commit.dot.replica) + 1
        })
    }

    /// Whether a run depends on commits that no longer count.
    pub(crate) fn leans_on_fenced(&self, run: &Run<HashedCommit>) -> bool {
        let mut deps = run.commits.iter().flat_map(|hashed| &hashed.commit.deps);
        deps.any(|(replica, seq)| self.fences.clamp(replica, *seq) < *seq)
    }

    /// How many commits are known to be missing before this run can be applied; 0 if none is.
    pub(crate) fn distance(&self, run: &Run<HashedCommit>) -> u64 {
        let Some(first) = run.commits.first() else { return 0 };
        let gap =
            first.commit.dot.seq.saturating_sub(self.knowledge.prefix_len(&first.commit.dot.replica) + 1);
        gap.saturating_add(
            run.commits.iter().map(|hashed| self.missing_deps(&hashed.commit.deps)).max().unwrap_or(0),
        )
    }

    pub(crate) fn draft<'a>(&self, store: &'a dyn StoreRead) -> Draft<'a> {
        let numbering = self.numbering.clone();
        let batch = Batch { position: self.position + 1, numbering, ..Batch::default() };
        Draft {
            store,
            batch,
            rows: BTreeMap::new(),
            touched: Vec::new(),
            scratch: Writer::new(),
            newcomers: Vec::new(),
        }
    }

    /// Applies a run that fits, all but its first `known` commits.
    pub(crate) fn apply_run(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        run: Run<HashedCommit>,
        known: usize,
    ) -> Result<(), StoreError> {
        let last = run.commits.len() - 1;
        let dots = run.commits.get(known).zip(run.commits.get(last));
        let Some((first, end)) = dots.map(|(first, last)| (first.commit.dot, last.commit.dot.seq)) else {
            return Ok(());
        };
        draft.batch.commits.reserve(run.commits.len() - known);
        for (index, hashed) in run.commits.into_iter().enumerate().skip(known) {
            self.clock.observe(now.wall, hashed.commit.hlc);
            self.merge(draft, now, hashed.commit, hashed.hash, (index == last).then_some(run.sig))?;
        }
        self.know(first, end);
        Ok(())
    }

    /// Applies a verified commit whose dependencies are applied.
    pub(crate) fn apply_remote(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        hashed: HashedCommit,
        sig: Option<Sig>,
    ) -> Result<(), StoreError> {
        self.clock.observe(now.wall, hashed.commit.hlc);
        self.apply(draft, now, hashed.commit, hashed.hash, sig)
    }

    pub(crate) fn apply(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        commit: Commit,
        hash: CommitHash,
        sig: Option<Sig>,
    ) -> Result<(), StoreError> {
        let dot = commit.dot;
        self.merge(draft, now, commit, hash, sig)?;
        self.know(dot, dot.seq);
        Ok(())
    }

    /// Notes that commits of a replica are applied, from one on.
    fn know(&mut self, first: Dot, last: u64) {
        let from = if planted::is(Bug::GaplessVector) { 1 } else { first.seq };
        self.knowledge.insert(first.replica, from, last);
    }

    /// Applies a commit, but does not note that.
    fn merge(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        commit: Commit,
        hash: CommitHash,
        sig: Option<Sig>,
    ) -> Result<(), StoreError> {
        let replica = commit.dot.replica;
        let head = self.heads.entry(replica).or_default();
        if head.seq == 0 {
            self.numbering.add(&replica);
            draft.batch.numbering = self.numbering.clone();
        }
        head.seq = commit.dot.seq;
        head.hash = hash;
        for (replica, seq) in &commit.deps {
            let seen = head.seen.entry(*replica).or_default();
            *seen = (*seen).max(*seq);
        }
        if let Some(cert) = &commit.introduces {
            self.admit(draft, cert);
        }
        match commit.statement.as_deref() {
            Some(Statement::Certify(cert)) => self.admit(draft, cert),
            Some(Statement::Fork(proof)) => self.admit(draft, &proof.author),
            _ => {}
        }
        commit.statement.iter().for_each(|said| self.fences.join(said, commit.dot));
        let (stamp, mut unseen) = (commit.stamp(), Vec::new());
        for op in &commit.ops {
            let mut lost = Unseen { heads: &self.heads, stamp, values: unseen };
            let (touched, scratch) = draft.touch(&op.table, &op.row)?;
            let row = &mut touched.state;
            if planted::is(Bug::DeleteOfUnknownIgnored) && !row.visible() && op.kind == OpKind::Delete {
                unseen = lost.values;
                continue;
            }
            let (visible, deleted) = (row.visible(), row.was_deleted());
            let mut change = DigestChange::new(&op.table, &op.row, scratch);
            row.apply_noting(stamp, op, &mut lost, &mut change);
            mark!(CreatedAgain if deleted && !visible && row.visible());
            mark!(LateDelete if op.kind == OpKind::Delete && visible && row.visible());
            hidden(row, visible, stamp, op, &mut lost);
            touched.changed(change.sum());
            unseen = lost.values;
            for superseded in unseen.drain(..) {
                self.judge(draft, now, stamp, op, superseded);
            }
        }
        self.position += 1;
        draft.batch.commits.push((commit, sig));
        Ok(())
    }

    /// Our own latest certificate.
    pub(crate) fn own_cert(&self, identity: &Identity) -> DeviceCert {
        self.members.get(&self.own).unwrap_or(&identity.cert).clone()
    }

    /// Adds a verified certificate.
    pub(crate) fn admit(&mut self, draft: &mut Draft<'_>, cert: &DeviceCert) {
        let new = !self.members.contains_key(&cert.device());
        let newer = self.members.get(&cert.device()).is_none_or(|known| later(cert, known));
        if newer {
            Arc::make_mut(&mut self.members).insert(cert.device(), cert.clone());
            draft.batch.members.push(cert.clone());
        }
        if new {
            draft.newcomers.push(cert.device());
        }
    }

    /// Lists a superseded value as a conflict, unless it was written anew or bugs are planted. That the author of this
    /// commit had not seen the other write is known.
    fn judge(&mut self, draft: &mut Draft<'_>, now: Now, stamp: Stamp, op: &Op, lost: Superseded) {
        if planted::is(Bug::LedgerForgets) {
            return;
        }
        let written_anew = if lost.winner == stamp {
            op.fields.get(&lost.field) == Some(&lost.value)
        } else {
            let shown = draft.state(op).and_then(|state| state.field(lost.field.as_str()));
            shown.as_ref() == Some(&lost.value)
        };
        if written_anew {
            mark!(SameValueTwice);
            return;
        }
        mark!(ConflictListed);
        mark!(ArrivalLost if lost.loser == stamp);
        mark!(TieBroken if lost.loser.hlc == lost.winner.hlc);
        draft.batch.conflicts.push(Conflict {
            id: self.conflict_next,
            table: op.table.clone(),
            row: op.row.clone(),
            field: lost.field,
            value: lost.value,
            loser: lost.loser,
            winner: lost.winner,
            noticed_ms: now.wall.0,
        });
        self.conflict_next += 1;
    }

    /// Writes a local commit, and leaves it unsigned: what is written together is signed at its end. The operations are in
    /// canonical order and within the limits, but for the size.
    pub(crate) fn write(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        identity: &Identity,
        ops: Vec<Op>,
        bytes_max: usize,
    ) -> Result<Result<Unsigned, LocalError>, StoreError> {
        let mut floor: Option<Hlc> = None;
        for op in &ops {
            floor = floor.max(draft.row(&op.table, &op.row)?.floor(op));
        }
        if planted::is(Bug::NoLocalDominance) {
            floor = None;
        }
        let mut clock = self.clock;
        let Some(hlc) = clock.tick(now.wall, floor) else { return Ok(Err(LocalError::StampsExhausted)) };
        let head = self.heads.get(&self.replica).cloned().unwrap_or_default();
        let deps = self.new_deps(&head.seen);
        let dot = Dot { replica: self.replica, seq: head.seq + 1 };
        let introduces = (dot.seq == 1).then(|| Box::new(self.own_cert(identity)));
        let commit = Commit { dot, prev: head.hash, hlc, deps, introduces, statement: None, ops };
        let (hash, bytes) = commit.hash_and_len(&mut Writer::with_capacity(256));
        if bytes > bytes_max {
            return Ok(Err(LocalError::TooLarge { bytes }));
        }
        let cost = cost::of_commit(&commit, bytes);
        if cost > DECODED_BYTES_MAX {
            return Ok(Err(LocalError::TooCostly { bytes: cost }));
        }
        debug_assert_eq!(commit.check(), Ok::<(), DecodeError>(()));
        let stamp = commit.stamp();
        self.clock = clock;
        self.apply(draft, now, commit, hash, None)?;
        Ok(Ok(Unsigned { stamp, hash, bytes, cost }))
    }

    fn new_deps(&self, seen: &Deps) -> Deps {
        self.heads
            .iter()
            .filter(|(replica, head)| {
                **replica != self.replica && head.seq > seen.get(*replica).copied().unwrap_or(0)
            })
            .map(|(replica, head)| (*replica, head.seq))
            .take(if planted::is(Bug::DepsForgotten) { 1 } else { usize::MAX })
            .collect()
    }

    /// Ends a draft. `None` if it changes nothing.
    pub(crate) fn finish(&mut self, draft: Draft<'_>) -> Option<Batch> {
        let Draft { mut batch, rows, mut touched, .. } = draft;
        if batch.commits.is_empty() && batch.members.is_empty() && batch.released.is_empty() {
            return None;
        }
        for (table, rows) in rows {
            let mut changed = Vec::with_capacity(rows.len());
            for (row, at) in rows {
                let Some(Touched { state, change: Some(change) }) = touched.get_mut(at).map(std::mem::take)
                else {
                    continue;
                };
                if !state.was_deleted() || !planted::is(Bug::DigestForgetsDeletes) {
                    self.digest = self.digest.wrapping_add(change);
                }
                changed.push((row, state));
            }
            if !changed.is_empty() {
                batch.rows.insert(table, changed);
            }
        }
        let mut last = None;
        for replica in batch.commits.iter().map(|(commit, _)| commit.dot.replica) {
            if last.replace(replica) != Some(replica)
                && let Some(head) = self.heads.get(&replica)
            {
                batch.heads.insert(replica, head.clone());
            }
        }
        batch.replica = Some(self.replica);
        batch.clock = self.clock.last();
        batch.digest = self.digest;
        batch.conflicts_from = self.conflict_next.saturating_sub(self.conflicts_max);
        Some(batch)
    }
}

/// Keeps the values that lost against writes which their author had not seen, or the other way round.
/// (No earlier applied commit can have seen the one that is being applied: commits are applied in causal order.)
struct Unseen<'a> {
    heads: &'a BTreeMap<ReplicaId, Head>,
    /// Of the commit that is being applied, its replica's newest.
    stamp: Stamp,
    values: Vec<Superseded>,
}

impl Losses for Unseen<'_> {
    fn lost(&mut self, lost: Lost<'_>) {
        let other = if lost.loser == self.stamp { lost.winner } else { lost.loser };
        if !had_seen(self.heads, &self.stamp.dot, &other.dot) {
            self.values.push(lost.to_owned());
        }
    }
}

/// Whether the author of `of`, its replica's newest applied commit, had seen `other` when it wrote it.
fn had_seen(heads: &BTreeMap<ReplicaId, Head>, of: &Dot, other: &Dot) -> bool {
    if of.replica == other.replica {
        return other.seq <= of.seq;
    }
    let seen = heads.get(&of.replica).and_then(|head| head.seen.get(&other.replica));
    seen.is_some_and(|seq| *seq >= other.seq)
}

/// Adds the values that are newer than a delete of their row and yet not shown, because only a create brings a row
/// back: written by an update that the delete's author had not seen, or the other way round. Each is added once,
/// when it or the delete comes in.
fn hidden(row: &RowState, was_visible: bool, stamp: Stamp, op: &Op, lost: &mut impl Losses) {
    if row.visible() {
        return;
    }
    let Some(winner) = row.del() else { return };
    for cell in row.cells().packed() {
        let hidden_now = if op.kind.deletes() { was_visible } else { cell.stamp == stamp };
        if hidden_now {
            mark!(UpdateHidden);
            lost.lost(Lost::there(cell, winner));
        }
    }
}

/// Whether a certificate replaces another of the same device: by time of issue, then bytes.
fn later(cert: &DeviceCert, than: &DeviceCert) -> bool {
    (cert.issued_ms, cert.sig.0) > (than.issued_ms, than.sig.0)
}

/// A local commit that has yet to be signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unsigned {
    pub(crate) stamp: Stamp,
    pub(crate) hash: CommitHash,
    /// Of its canonical form.
    pub(crate) bytes: usize,
    /// What it takes in memory where it is received.
    pub(crate) cost: usize,
}

/// Why a local commit was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocalError {
    TooLarge { bytes: usize },
    TooCostly { bytes: usize },
    StampsExhausted,
}

impl Draft<'_> {
    /// Makes room for so many commits, each of which touches a row: both lists are long, and each time they grow they may be
    /// copied. What a hostile frame holds may never be applied, so not for more than most frames have.
    pub(crate) fn expect(&mut self, commits: usize) {
        let commits = commits.min(COMMITS_EXPECTED_MAX);
        self.batch.commits.reserve(commits);
        self.touched.reserve(commits);
    }

    /// A row, and room to work in.
    fn touch(&mut self, table: &TableName, row: &RowKey) -> Result<(&mut Touched, &mut Writer), StoreError> {
        let rows = match self.rows.get_mut(table) {
            Some(rows) => rows,
            None => self.rows.entry(table.clone()).or_default(),
        };
        let at = match rows.entry(row.clone()) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let mut state = self.store.row(table, row)?.unwrap_or_default();
                state.renumber(&self.batch.numbering);
                self.touched.push(Touched { state, change: None });
                *entry.insert(self.touched.len() - 1)
            }
        };
        // Places in the map are places in the list.
        Ok((&mut self.touched[at], &mut self.scratch))
    }

    /// Puts a row in a state that does not follow from the one it was in.
    pub(crate) fn put(&mut self, table: &TableName, row: &RowKey, state: RowState) -> Result<(), StoreError> {
        let (touched, _) = self.touch(table, row)?;
        let change = state.digest(table, row).wrapping_sub(touched.state.digest(table, row));
        touched.changed((touched.state != state).then_some(change));
        touched.state = state;
        Ok(())
    }

    fn state(&self, op: &Op) -> Option<&RowState> {
        let at = self.rows.get(&op.table)?.get(&op.row)?;
        self.touched.get(*at).map(|touched| &touched.state)
    }

    /// The row as it is in this draft.
    pub(crate) fn row(&mut self, table: &TableName, row: &RowKey) -> Result<&RowState, StoreError> {
        Ok(&self.touch(table, row)?.0.state)
    }
}
