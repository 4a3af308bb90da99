//! Getting what we lack: requests out, commits in and applied; and local writes.

use std::collections::BTreeMap;

use crate::config::{REPLICAS_FOR_STATEMENTS, REPLICAS_MAX};
use crate::engine::Engine;
use crate::hlc::Hlc;
use crate::identity::{DeviceCert, Dot, PeerKey, ReplicaId};
use crate::io::{Event, Output, WriteRequest};
use crate::knowledge::Knowledge;
use crate::marks::mark;
use crate::peer::{OpenWant, Peer};
use crate::planted::{self, Bug};
use crate::reading::Checked;
use crate::replicated::{Draft, Fit};
use crate::statement::NO_SIG;
use crate::store::{Batch, StoreError, StoreRead};
use crate::time::Now;
use crate::timer::Timer;
use crate::wire::columns::HashedCommit;
use crate::wire::message::{Ack, Announce, Control, Fault, Ops, Run, Want, pack_control};
use crate::wire::packed::PackedColumns;
use crate::write::fold;

/// Most ranges in one request.
const WANT_RANGES_MAX: usize = 512;

impl Engine {
    /// Asks a peer for what it has and we lack, unless that is under way; notes when nothing is lacking on
    /// either side, and keeps the retry timer running while something is.
    pub(crate) fn advance(&mut self, now: Now, key: PeerKey) {
        let Some(peer) = self.peers.get(&key).filter(|peer| peer.ready()) else { return };
        let equal = peer.known == self.state.knowledge;
        if equal && !peer.heads_stated.is_empty() {
            self.compare_heads_stated(key);
        }
        let Some(peer) = self.peers.get(&key) else { return };
        if equal && peer.asked.is_none() && peer.disputed.is_empty() && !peer.heads_differ {
            return self.note_synced(now, key);
        }
        let mut lacking = peer.known.minus(&self.state.knowledge);
        if planted::is(Bug::NeverAsksForOwn) {
            lacking.retain(|replica| replica.device != self.identity.device());
        }
        // Normally each commit is asked of one peer only, unless that one let its last request expire. Where that brought nothing that could be kept, the parts may need
        // each other: then this peer is asked for all of it, which it gives in causal order.
        let (idle, fruitless, disputed) = (peer.want.is_none(), peer.fruitless, peer.disputed.clone());
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.synced = false;
        }
        if idle && !(lacking.is_empty() && disputed.is_empty()) {
            mark!(AskedForAll if fruitless);
            if !fruitless || planted::is(Bug::SmallBufferStarves) {
                lacking = lacking.minus(&self.reorder.knowledge());
                mark!(WaitingNotAsked if lacking.is_empty());
                for other in self.peers.values() {
                    if let Some(want) = other.want.as_ref().filter(|_| !other.late) {
                        mark!(AskedElsewhere if !lacking.is_empty() && lacking.minus(&want.ranges).is_empty());
                        lacking = lacking.minus(&want.ranges);
                    }
                }
            }
            lacking.union(&disputed);
            lacking.truncate(WANT_RANGES_MAX);
            if !lacking.is_empty() {
                self.say_want(now, key, lacking);
            }
        }
        if self.peers.get(&key).is_some_and(Peer::in_doubt) {
            self.say_ping(now, key);
        }
        self.keep_retrying(now, key);
    }

    pub(crate) fn advance_all(&mut self, now: Now) {
        for key in self.ready_peers() {
            self.advance(now, key);
        }
    }

    fn say_want(&mut self, now: Now, key: PeerKey, ranges: Knowledge) {
        let credit = self.credit_start();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        planted::asks_since(self.identity.device(), peer.device, self.state.clock.last());
        peer.want_last = peer.want_last.wrapping_add(1).max(1);
        let id = peer.want_last;
        let waiting = self.reorder.bytes();
        peer.want = Some(OpenWant { id, ranges: ranges.clone(), progress: false, waiting });
        self.timers.set(Timer::Want(key), now.mono.plus_ms(peer.want_ms));
        self.send(key, &Control::Want(Want { id, ranges, credit }));
    }

    /// Bytes of a new answer that may be under way before the first acknowledgement: two full frames.
    fn credit_start(&self) -> u64 {
        (2 * self.config.batch_bytes as u64).min(self.config.credit_bytes)
    }

    pub(crate) fn want_expired(&mut self, now: Now, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if planted::is(Bug::WantNeverRetried) {
            return;
        }
        if let Some(mut want) = peer.want.take() {
            want.progress |= self.reorder.bytes() > want.waiting;
            mark!(RequestExpired if !want.progress);
            mark!(RequestExpiredHalfway if want.progress);
            peer.fruitless = !want.progress;
            peer.late = !want.progress;
            peer.want_ms = peer.want_ms.saturating_mul(2).min(self.config.want_ms_max);
            // Another peer may be quicker; this one is asked again on its retry timer at the latest.
            let others = self.ready_peers();
            others.into_iter().filter(|other| *other != key).for_each(|other| self.advance(now, other));
            self.advance(now, key);
        }
    }

    pub(crate) fn on_ops(
        &mut self,
        now: Now,
        key: PeerKey,
        ops: Ops<HashedCommit>,
        (columns, checked): (Option<PackedColumns>, Vec<Option<Checked>>),
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        let before = self.state.position();
        let (waiting, fencing) = (self.reorder.bytes(), self.fencing.len());
        let mut draft = self.state.draft(store);
        draft.expect(ops.runs.iter().map(|run| run.commits.len()).sum());
        let (mut touched, mut bad) = (BTreeMap::<ReplicaId, u64>::new(), None);
        let answer = Answer { id: ops.want, offset: ops.offset, done: ops.done };
        // Whether what is applied is just what came, in the order in which it came.
        let mut as_sent = true;
        let checked = checked.into_iter().chain(std::iter::repeat(None));
        for (run, checked) in ops.runs.into_iter().zip(checked) {
            let Some(last) = run.commits.last() else { continue };
            let all = draft.batch.commits.len() + run.commits.len();
            touched.insert(last.commit.dot.replica, last.commit.dot.seq);
            bad = self.receive(&mut draft, now, key, (run, checked))?.err();
            as_sent &= draft.batch.commits.len() == all;
            if bad.is_some() {
                break;
            }
        }
        // Once for the whole frame: both look at all that waits.
        let all = draft.batch.commits.len();
        self.unblock(&mut draft, now)?;
        if as_sent && bad.is_none() && draft.batch.commits.len() == all {
            draft.batch.columns = columns;
            mark!(TakenPacked if draft.batch.columns.is_some());
        }
        let state = &self.state;
        self.reorder.trim(|run| state.distance(run));
        self.settle(draft, true);
        if let Some((fault, text)) = bad {
            // What came before it in this frame was good, and stays.
            self.fault(now, key, fault, text);
            return Ok(());
        }
        // A peer's other branch is followed back at once, as far as it goes.
        let disputes = self.peers.get(&key).is_some_and(|peer| !peer.disputed.is_empty());
        let applied = self.state.position() > before || self.fencing.len() > fencing || disputes;
        let progress = applied || self.reorder.bytes() > waiting;
        self.answered(now, key, answer, applied, progress);
        self.acknowledge(key, ops.want, ops.offset, ops.done, touched.keys());
        if self.state.position() > before {
            self.announce(now, Some(key));
        }
        self.advance_all(now);
        // After a fruitless answer the next request waits for the retry timer.
        Ok(())
    }

    /// Verifies a run, and applies it or lets it wait. The inner error is the peer's fault.
    fn receive(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        from: PeerKey,
        (run, checked): (Run<HashedCommit>, Option<Checked>),
    ) -> Result<Result<(), (Fault, &'static str)>, StoreError> {
        let (Some(first), Some(last)) = (run.commits.first(), run.commits.last()) else { return Ok(Ok(())) };
        if last.commit.statement.is_some() {
            return self.receive_statement(draft, now, from, run);
        }
        let replica = last.commit.dot.replica;
        if self.state.fences.limit(&replica).is_some_and(|limit| first.commit.dot.seq > limit.seq)
            && !planted::is(Bug::FenceIgnored)
        {
            mark!(BeyondFence);
            self.refused(from, run.commits.len());
            return Ok(Ok(()));
        }
        let (first_seq, last_seq, hash) = (first.commit.dot.seq, last.commit.dot.seq, last.hash);
        let member = self.state.members.get(&replica.device).or(first.commit.introduces.as_deref());
        let member = member.or_else(|| self.reorder.introduction(&replica));
        mark!(AuthorUnknown if member.is_none());
        // Without the author's certificate nothing can be said about the run; it is in the author's first commit.
        let Some(author) = member.map(|cert| cert.key) else { return Ok(Ok(())) };
        // What is applied already need not be verified again, but a fork must not be reported on anybody's word.
        let head = self.state.heads.get(&replica);
        let reached = head.is_some_and(|head| last_seq <= head.seq);
        // One that is not durable yet is taken for the same: if it is not, the tags will say so.
        let known =
            reached && self.state.hash_at(&replica, last_seq, draft.store)?.is_none_or(|ours| ours == hash);
        let trusted = known
            || planted::is(Bug::SignatureUnchecked)
            || (run.sig == NO_SIG && planted::is(Bug::UnsignedTaken));
        // What was found out ahead counts if it was about the key that counts.
        let checked = checked.filter(|checked| checked.author == author);
        mark!(VerifiedAhead if checked.is_some());
        let signed = trusted
            || match checked {
                Some(checked) => checked.signed || planted::is(Bug::ReadAheadBelieved),
                None => self.state.authors.verify_commit(&self.state.account, &author, &hash, &run.sig),
            };
        let vouched = !signed && self.state.fences.vouch(&run);
        if !signed && !vouched && run.sig == NO_SIG {
            // It ends at a fence of which we have not heard. The statement comes too, and then it is asked for again.
            mark!(FenceUnheard);
            return Ok(Ok(()));
        }
        if !signed && !vouched {
            mark!(ForgedRun);
            return Ok(Err((Fault::BadSignature, "")));
        }
        if !self.state.heads.contains_key(&replica)
            && self.replicas() >= REPLICAS_MAX - REPLICAS_FOR_STATEMENTS
        {
            if !self.fencing.is_empty() {
                // A statement that retracts, and so makes room, is about to be applied. Then it is asked for again.
                return Ok(Ok(()));
            }
            return Ok(Err((Fault::Protocol, "the account has too many replicas")));
        }
        let commits = run.commits.len();
        if self.state.fences.contradict(&run) && !planted::is(Bug::FenceIgnored) {
            // A third branch, which parts before the fence.
            mark!(ThirdBranch);
            self.refused(from, commits);
            self.contradicted(now, from, &run, draft.store)?;
            return Ok(Ok(()));
        }
        let run = if planted::is(Bug::FenceIgnored) { Some(run) } else { self.state.fences.cut(run) };
        let Some(mut run) = run else {
            self.refused(from, commits);
            return Ok(Ok(()));
        };
        if vouched {
            run.sig = NO_SIG;
        }
        mark!(CutAtFence if run.commits.len() < commits);
        self.refused(from, commits - run.commits.len());
        let last_seq = run.commits.last().map_or(last_seq, |last| last.commit.dot.seq);
        if let Some(peer) = self.peers.get_mut(&from)
            && !known
        {
            peer.brought(replica, first_seq, last_seq);
        }
        if self.planted_refusal(now, &run) {
            return Ok(Ok(()));
        }
        if reached && !known {
            self.contradicted(now, from, &run, draft.store)?;
            return Ok(Ok(()));
        }
        self.place(draft, now, from, run)?;
        Ok(Ok(()))
    }

    /// How many replicas there are besides the account's statements.
    fn replicas(&self) -> usize {
        let account = self.state.account.device();
        self.state.heads.keys().filter(|replica| replica.device != account).count()
    }

    /// Counts commits that lie beyond a fence.
    fn refused(&mut self, from: PeerKey, commits: usize) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.traffic.commits_refused += commits as u64;
        }
    }

    /// Bugs at the door: whether a verified run is dropped.
    fn planted_refusal(&mut self, now: Now, run: &Run<HashedCommit>) -> bool {
        let stamps = run.commits.iter().map(|hashed| hashed.commit.hlc);
        if planted::is(Bug::ClockFoldsUnapplied) {
            stamps.clone().for_each(|stamp| self.state.clock.observe(now.wall, stamp));
        }
        let ahead = |stamp: Hlc| stamp.ms() > now.wall.0.saturating_add(self.config.drift_ms_max);
        planted::is(Bug::FarFutureRefused) && stamps.clone().any(ahead)
            || planted::is(Bug::FullBufferRefuses) && self.reorder.nearly_full()
    }

    /// Applies what no longer has to wait.
    pub(crate) fn unblock(&mut self, draft: &mut Draft<'_>, now: Now) -> Result<(), StoreError> {
        loop {
            let state = &self.state;
            if let Some(next) = self.reorder.take_first(|run| state.fit(run) != Fit::Waits) {
                mark!(WaitedAndApplied if matches!(state.fit(&next.run), Fit::Ready(_)));
                self.place(draft, now, next.from, next.run)?;
                continue;
            }
            let joint = self.reorder.take_joint(&self.state);
            if joint.is_empty() {
                return Ok(());
            }
            mark!(JointRuns);
            for (hashed, sig, from) in joint {
                self.count(from, 1, hashed.commit.ops.len(), 0);
                let own = hashed.commit.dot.replica == self.state.replica;
                self.state.apply_remote(draft, now, hashed, sig)?;
                if own {
                    self.rewound();
                }
            }
        }
    }

    fn place(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        from: PeerKey,
        run: Run<HashedCommit>,
    ) -> Result<(), StoreError> {
        planted::brought_by(Some(from.device()));
        let commits = run.commits.len();
        match self.state.fit(&run) {
            Fit::Known => {
                mark!(RunDoubled);
                self.count(from, 0, 0, commits);
            }
            Fit::Ready(known) => {
                mark!(RunHalfKnown if known > 0);
                mark!(FencedDeps if self.state.leans_on_fenced(&run));
                let ops = run.commits[known..].iter().map(|hashed| hashed.commit.ops.len()).sum();
                self.count(from, commits - known, ops, known);
                let own =
                    run.commits.last().is_some_and(|last| last.commit.dot.replica == self.state.replica);
                self.state.apply_run(draft, now, run, known)?;
                if own {
                    self.rewound();
                }
            }
            Fit::Waits => {
                mark!(GapWaits if self.state.gap_before(&run));
                mark!(DepsWait if !self.state.gap_before(&run));
                self.reorder.insert(run, from);
                if planted::is(Bug::SmallBufferStarves) {
                    let state = &self.state;
                    self.reorder.trim(|run| state.distance(run));
                }
            }
            Fit::Fork => self.contradicted(now, from, &run, draft.store)?,
        }
        Ok(())
    }

    /// A peer had commits that we signed and this database does not hold: it is an old copy, and must not go on
    /// with sequence numbers that are used.
    pub(crate) fn rewound(&mut self) {
        let from = self.state.replica;
        let to = self.new_incarnation();
        self.state.replica = to;
        self.event(Event::Rewound { from, to });
    }

    pub(crate) fn count(&mut self, from: PeerKey, commits: usize, ops: usize, doubled: usize) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.traffic.commits_received += commits as u64;
            peer.traffic.ops_received += ops as u64;
            peer.traffic.commits_doubled += doubled as u64;
        }
    }

    /// Notes how far the answer to a request has come. What it added to a full reorder buffer by taking the place of
    /// something else is no progress in the end: two parts that need each other would be asked for in turn, for ever.
    fn answered(&mut self, now: Now, key: PeerKey, answer: Answer, applied: bool, progress: bool) {
        let Answer { id, offset, done } = answer;
        let (held, waiting) = (self.reorder.knowledge(), self.reorder.bytes());
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if id == 0 {
            peer.received_bytes = peer.received_bytes.max(offset);
            return;
        }
        peer.answered(id);
        if progress {
            peer.retry_ms = self.config.retry_ms;
            peer.fruitless = false;
            peer.late = false;
        }
        let Some(want) = &mut peer.want else { return };
        let mut wait_ms = None;
        if want.id == id && done {
            // What it did not show now is asked for again when it states once more that it differs.
            peer.disputed = peer.disputed.minus(&want.ranges);
            want.progress |= applied || waiting > want.waiting;
            // What was asked for may have come from others meanwhile.
            let lacking = want.ranges.minus(&self.state.knowledge).minus(&held);
            if want.progress || lacking.is_empty() {
                peer.want = None;
                peer.want_ms = self.config.want_ms;
                return self.timers.clear(Timer::Want(key));
            }
            // The peer could give nothing of it: asked again after a pause, not in a tight loop.
            mark!(AnswerBroughtNothing);
            wait_ms = Some(peer.retry_ms.saturating_mul(2));
        } else if progress {
            // The rest of an earlier answer counts as well: on a slow link the new one queues behind it.
            mark!(LateAnswerCounts if want.id != id);
            want.progress |= applied && want.id == id;
            wait_ms = Some(peer.want_ms);
        }
        if let Some(wait_ms) = wait_ms {
            self.timers.set(Timer::Want(key), now.mono.plus_ms(wait_ms));
        }
    }

    fn acknowledge<'a>(
        &mut self,
        key: PeerKey,
        want: u32,
        offset: u64,
        done: bool,
        replicas: impl Iterator<Item = &'a ReplicaId>,
    ) {
        let heads = replicas
            .map(|replica| (*replica, self.state.knowledge.prefix_len(replica)))
            .filter(|(_, seq)| *seq > 0)
            .collect();
        let Some(peer) = self.peers.get(&key) else { return };
        // Slow start: as much again may be under way as has arrived, so that a slow link is not flooded with an answer
        // that may have to be given again.
        let window = offset.clamp(self.credit_start(), self.config.credit_bytes);
        mark!(CreditGrew if !done && want != 0 && window > self.credit_start());
        let credit = if done || want == 0 { 0 } else { offset.saturating_add(window) };
        let ack = Ack { want, credit, pushed: peer.received_bytes, heads };
        self.send(key, &Control::Ack(ack));
    }

    /// Ends a draft and hands it out, followed by what people may want to know of it.
    pub(crate) fn settle(&mut self, mut draft: Draft<'_>, remote: bool) {
        let newcomers = std::mem::take(&mut draft.newcomers);
        let Some(batch) = self.state.finish(draft) else { return };
        // The store takes them at their word: the simulator does not.
        let told = batch.columns.as_ref().filter(|_| crate::marks::ON);
        let commits = || batch.commits.iter().map(|(commit, _)| commit);
        assert!(
            told.is_none_or(|told| told.hold(commits(), &self.state.account)),
            "columns of other commits"
        );
        let (commits, members) = (batch.commits.len() as u64, !batch.members.is_empty());
        let mut events = conflict_events(&batch);
        if commits > 0 {
            events.push(Event::Applied { position: self.state.position(), commits, remote });
        }
        events.extend(newcomers.into_iter().map(|device| Event::Member { device }));
        self.outputs.extend(planted_pieces(batch).into_iter().map(|batch| Output::Commit(Box::new(batch))));
        if members {
            self.output_members();
        }
        events.into_iter().for_each(|event| self.event(event));
    }

    pub(crate) fn learn(&mut self, certs: &[DeviceCert], store: &impl StoreRead) {
        let mut draft = self.state.draft(store);
        for cert in certs.iter().filter(|cert| cert.check(&self.identity.account()).is_ok()) {
            self.state.admit(&mut draft, cert);
        }
        self.settle(draft, false);
    }

    pub(crate) fn introduce(&mut self, now: Now, store: &impl StoreRead) -> Result<(), StoreError> {
        if self.state.heads.contains_key(&self.state.replica) {
            return Ok(());
        }
        let mut draft = self.state.draft(store);
        // Within all limits: it has no operations. Our own certificate is recorded with it.
        if let Ok(written) = self.state.write(&mut draft, now, &self.identity, Vec::new(), usize::MAX)? {
            self.sign(&mut draft, &[written]);
        }
        draft.batch.members.push(self.identity.cert.clone());
        self.settle(draft, false);
        Ok(())
    }

    /// Drops commits from the quarantine.
    pub(crate) fn release(&mut self, id: u64, dots: Vec<Dot>, store: &impl StoreRead) {
        let mut draft = self.state.draft(store);
        draft.batch.released = dots;
        self.settle(draft, false);
        self.outputs.push_back(Output::Released { id });
    }

    pub(crate) fn write(
        &mut self,
        now: Now,
        requests: Vec<WriteRequest>,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        planted::brought_by(None);
        let before = self.state.knowledge.clone();
        let mut draft = self.state.draft(store);
        let (mut written, mut results) = (Vec::new(), Vec::new());
        for request in requests {
            let (id, release) = (request.id, request.release.clone());
            let result = match fold(&mut draft, request)? {
                Ok(ops) => {
                    let result = self.write_one(&mut draft, now, ops, &mut written)?;
                    if result.is_ok() {
                        draft.batch.released.extend(release);
                    }
                    result
                }
                Err(error) => Err(error),
            };
            results.push(Output::Wrote { id, result });
        }
        if planted::is(Bug::AnsweredBeforeDurable) {
            self.outputs.extend(results.drain(..));
        }
        let pieces = self.sign(&mut draft, &written);
        self.settle(draft, false);
        mark!(RevokedWrites if !written.is_empty() && self.revoked());
        // The commits first: answers wake as many tasks as there are writers, and gossip is a hint that takes the transport more
        // work.
        let spread = !written.is_empty() && !self.revoked();
        if spread {
            self.push(now, &before, &pieces);
        }
        self.outputs.extend(results);
        if spread {
            self.publish();
        }
        Ok(())
    }

    /// Tells of what was written by gossip, if there are devices connected elsewhere: who has a session with us has been given
    /// the commits, or was told of them. A message of gossip is signed, and verified by each who hears it.
    fn publish(&mut self) {
        let elsewhere = |key: &PeerKey| {
            let (device, peer) = (key.device(), self.peers.get(key));
            device != self.state.own && !self.state.revoked(&device) && !peer.is_some_and(Peer::ready)
        };
        if !self.state.members.values().any(|cert| elsewhere(&cert.key)) {
            mark!(AllConnected);
            return;
        }
        let head = (self.state.replica, self.state.knowledge.prefix_len(&self.state.replica));
        let announce = Announce { heads: vec![head], tags: vec![self.state.tag(&head.0)] };
        if let Some(frame) = pack_control(0, &Control::Announce(announce)) {
            self.outputs.push_back(Output::Broadcast(frame));
        }
    }
}

/// Which part of the answer to which request a frame is.
#[derive(Debug, Clone, Copy)]
struct Answer {
    id: u32,
    offset: u64,
    done: bool,
}

/// The batch, unless a planted bug tears it.
fn planted_pieces(mut batch: Batch) -> Vec<Batch> {
    let whole = if planted::is(Bug::KnowledgeBeforeState) {
        0
    } else if planted::is(Bug::PiecewiseTransaction) {
        1
    } else {
        return vec![batch];
    };
    if batch.rows().count() <= whole {
        return vec![batch];
    }
    let mut left = whole;
    let rows = batch.rows.iter_mut().map(|(table, rows)| {
        let late = rows.split_off(left.min(rows.len()));
        left -= rows.len();
        (table.clone(), late)
    });
    let rows = rows.collect();
    let position = batch.position + batch.commits.len() as u64;
    let Batch { replica, clock, digest, conflicts_from, .. } = batch;
    vec![batch, Batch { position, rows, replica, clock, digest, conflicts_from, ..Batch::default() }]
}

fn conflict_events(batch: &Batch) -> Vec<Event> {
    let event = |conflict: &crate::store::Conflict| Event::Conflict {
        id: conflict.id,
        table: conflict.table.clone(),
        row: conflict.row.clone(),
        field: conflict.field.clone(),
    };
    batch.conflicts.iter().map(event).collect()
}
