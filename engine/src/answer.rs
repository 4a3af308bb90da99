//! Giving what peers lack: requests answered under credit, and new commits pushed at once.
//!
//! Commits are sent in the order in which this store applied them, which is causal, in runs that end where a
//! signature is held. A receiver can apply each run as it arrives; the reorder buffer is for frames that overtake.

use std::collections::BTreeMap;

use crate::commit::{Commit, sign_commit, span};
use crate::config::{DECODED_BYTES_MAX, INFLATED_BYTES_MAX};
use crate::cost;
use crate::engine::Engine;
use crate::hlc::Hlc;
use crate::identity::{DeviceId, PeerKey, ReplicaId, Sig};
use crate::knowledge::Knowledge;
use crate::marks::mark;
use crate::peer::Serve;
use crate::planted::{self, Bug};
use crate::replicated::{Draft, Unsigned};
use crate::store::{StoreError, StoreRead, StoredCommit};
use crate::time::Now;
use crate::timer::Timer;
use crate::wire::message::{Ack, Ops, Run, Want, pack_ops, pack_stored};
use crate::wire::packed::PackedLog;

/// Frames packed for one peer in one call, to keep each call short.
const FRAMES_PER_CALL: usize = 2;
/// Canonical bytes of commits that are little enough to be pushed twice.
const PUSHED_AGAIN_BYTES_MAX: usize = 16 * 1024;
/// No commit has fewer canonical bytes.
const COMMIT_BYTES_MIN: usize = 64;

/// Requests for so few commits are gathered: none that is stored by columns is whole among them.
const PACKED_COMMITS_MIN: u64 = 4;

/// What a store has packed.
enum Found {
    /// Commits that are all to be sent next.
    Whole(Box<PackedLog>),
    /// Commits of which some are to be sent next; the position after the last.
    Part(u64),
    Nothing,
}

/// A run to send, its size, and what it costs the receiver in memory.
pub(crate) struct Piece {
    run: Run<Commit>,
    bytes: u64,
    cost: usize,
}

impl Piece {
    /// A commit by itself.
    pub(crate) fn of(commit: Commit, sig: Sig) -> Piece {
        let bytes = commit.encoded_len();
        let cost = cost::of_commit(&commit, bytes);
        Piece { run: Run { commits: vec![commit], sig }, bytes: bytes as u64, cost }
    }
}

impl Engine {
    pub(crate) fn on_want(
        &mut self,
        now: Now,
        key: PeerKey,
        want: &Want,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        match &mut peer.serve {
            // Requests can overtake each other: an older one is void.
            Some(serve) if serve.id > want.id => {
                mark!(OldRequest);
                return Ok(());
            }
            Some(serve) if serve.id == want.id => {
                mark!(RequestDoubled);
                serve.credit = serve.credit.max(want.credit);
            }
            serve => {
                mark!(RequestReplaced if serve.is_some());
                let have = &self.state.knowledge;
                let mut ranges = want.ranges.minus(&want.ranges.minus(have));
                if planted::is(Bug::ServesOnlyOwn) {
                    ranges.retain(|replica| replica.device == self.identity.device());
                }
                if planted::is(Bug::ScalarCursor) {
                    let cursor = planted::asked_since(key.device(), self.identity.device());
                    ranges = newer_than(cursor, &ranges, store)?;
                }
                peer.serve = Some(Serve {
                    id: want.id,
                    ranges,
                    sent: 0,
                    credit: want.credit,
                    covered: Knowledge::default(),
                    positions: BTreeMap::new(),
                    run_commits: 0,
                    sent_before: None,
                });
            }
        }
        self.pump(now, key, store)
    }

    pub(crate) fn on_ack(
        &mut self,
        now: Now,
        key: PeerKey,
        ack: &Ack,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        ack.heads.iter().for_each(|(replica, seq)| peer.known.insert(*replica, 1, *seq));
        peer.pushed = peer.pushed.minus(&peer.known);
        peer.pushed_acked = peer.pushed_acked.max(ack.pushed.min(peer.pushed_bytes));
        if let Some(serve) = peer.serve.as_mut().filter(|serve| serve.id == ack.want) {
            serve.credit = serve.credit.max(ack.credit);
        }
        self.known_grew(now, key);
        self.pump(now, key, store)
    }

    pub(crate) fn pump_all(&mut self, now: Now, store: &impl StoreRead) -> Result<(), StoreError> {
        for key in self.ready_peers() {
            self.pump(now, key, store)?;
        }
        self.advance_all(now);
        Ok(())
    }

    /// Sends a few frames of the answer to a peer's request, as far as its credit goes.
    fn pump(&mut self, now: Now, key: PeerKey, store: &impl StoreRead) -> Result<(), StoreError> {
        for _ in 0..FRAMES_PER_CALL {
            let Some(peer) = self.peers.get(&key) else { return Ok(()) };
            mark!(CreditExhausted if peer.serve.as_ref().is_some_and(|serve| serve.sent >= serve.credit));
            let Some(serve) = peer.serve.as_ref().filter(|serve| serve.sent < serve.credit) else {
                return Ok(());
            };
            let id = serve.id;
            let until = match self.packed(key, store)? {
                Found::Whole(packed) => match self.give_packed(key, &packed) {
                    Some(true) => return Ok(()),
                    Some(false) => continue,
                    None => packed.end,
                },
                Found::Part(end) => end,
                Found::Nothing => u64::MAX,
            };
            let pieces = self.gather(key, until, store)?;
            let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
            let Some(serve) = peer.serve.as_mut() else { return Ok(()) };
            serve.sent += pieces.iter().map(|piece| piece.bytes).sum::<u64>();
            let done = serve.ranges.is_empty();
            let ops = Ops {
                want: id,
                offset: serve.sent,
                done,
                runs: pieces.into_iter().map(|piece| piece.run).collect(),
            };
            if done {
                peer.served();
            }
            self.send_ops(key, &ops);
            if done {
                return Ok(());
            }
        }
        mark!(AnswerPaused);
        self.timers.set(Timer::Pump, now.mono);
        Ok(())
    }

    /// What the store has packed of what is to be sent next.
    fn packed(&mut self, key: PeerKey, store: &impl StoreRead) -> Result<Found, StoreError> {
        let Some(peer) = self.peers.get(&key) else { return Ok(Found::Nothing) };
        let Some(serve) = peer.serve.as_ref().filter(|serve| serve.ranges.commits() >= PACKED_COMMITS_MIN)
        else {
            return Ok(Found::Nothing);
        };
        // Our log has what commits depend on before them. So the peer has all of that when they arrive, if it has, or is given
        // before them, whatever it lacks.
        let lacking = self.state.knowledge.minus(&peer.expected());
        if !lacking.minus(&serve.ranges).is_empty() {
            return Ok(Found::Nothing);
        }
        let Some(serve) = self.peers.get_mut(&key).and_then(|peer| peer.serve.as_mut()) else {
            return Ok(Found::Nothing);
        };
        let config = &self.config;
        let whole = |packed: &PackedLog, position: u64, serve: &Serve| {
            packed.first == position
                && packed.columns.bytes <= 2 * config.batch_bytes
                && packed.columns.cost <= DECODED_BYTES_MAX
                && packed.commits() <= config.batch_commits_max as u64
                && packed.runs.iter().all(|run| serve.wants(run))
        };
        // Most often that is what follows what was sent last, and then nothing has to be looked up.
        if let Some(position) = serve.sent_before.take()
            && let Some(packed) = store.packed(position)?
            && whole(&packed, position, serve)
        {
            return Ok(Found::Whole(Box::new(packed)));
        }
        let next = next_in_order(serve, true, &self.state.account.device(), store)?;
        let Some((_, _, _, position)) = next else { return Ok(Found::Nothing) };
        let Some(packed) = store.packed(position)? else { return Ok(Found::Nothing) };
        if whole(&packed, position, serve) {
            return Ok(Found::Whole(Box::new(packed)));
        }
        mark!(PackedPart);
        Ok(Found::Part(packed.end))
    }

    /// Sends commits as the store has them, all of which a peer asked for. Says whether the answer ends with them; `None` if
    /// they do not fit a frame.
    fn give_packed(&mut self, key: PeerKey, packed: &PackedLog) -> Option<bool> {
        let peer = self.peers.get_mut(&key)?;
        let (session, serve) = (peer.session, peer.serve.as_mut()?);
        let mut ranges = serve.ranges.clone();
        for run in &packed.runs {
            ranges.remove(&run.first.replica, run.first.seq, run.last_seq());
        }
        let (sent, done) = (serve.sent + packed.columns.bytes as u64, ranges.is_empty());
        let frame = pack_stored(session, serve.id, sent, done, packed)?;
        mark!(GivenPacked);
        for run in &packed.runs {
            serve.covered.insert(run.first.replica, run.first.seq, run.last_seq());
        }
        (serve.ranges, serve.sent, serve.sent_before) = (ranges, sent, Some(packed.end));
        if done {
            peer.served();
        }
        peer.traffic.commits_sent += packed.commits();
        peer.traffic.ops_sent += packed.ops;
        self.send_frame(key, frame);
        Some(done)
    }

    /// Takes from a peer's request the next runs that fill a frame, of commits that have positions before `until`. That the
    /// first one fits follows from its having come in one frame, or from our having signed it so that it fits one.
    fn gather(&mut self, key: PeerKey, until: u64, store: &impl StoreRead) -> Result<Vec<Piece>, StoreError> {
        let (mut pieces, mut bytes, mut commits, mut cost) = (Vec::new(), 0, 0, 0);
        let (commits_max, account) = (self.config.batch_commits_max, self.state.account.device());
        let mut statements = false;
        while bytes < self.config.batch_bytes as u64 && commits < commits_max {
            let Some(peer) = self.peers.get_mut(&key) else { break };
            let Some(serve) = &mut peer.serve else { break };
            let next = next_in_order(serve, until < u64::MAX, &account, store)?;
            let Some((replica, first, end, position)) = next else { break };
            // Statements have a frame of their own, so that what follows can go out as the store has it.
            let beyond = position >= until || statements != (replica.device == account);
            if beyond && !pieces.is_empty() {
                break;
            }
            statements = replica.device == account;
            let likely = serve.run_commits;
            let has = peer.expected();
            let left = self.config.batch_bytes - bytes as usize;
            let piece = self.cut_run(&replica, (first, end), (left, likely), (&has, until), store)?;
            let Some(serve) = self.peers.get_mut(&key).and_then(|peer| peer.serve.as_mut()) else { break };
            match piece {
                // A run that was cut to less than its first signature would not fit beside the others.
                Some(piece)
                    if !pieces.is_empty()
                        && (bytes + piece.bytes > 2 * self.config.batch_bytes as u64
                            || cost + piece.cost > DECODED_BYTES_MAX
                            || commits + piece.run.commits.len() > commits_max) =>
                {
                    mark!(RunTooLong);
                    break;
                }
                Some(piece) => {
                    let last = first + piece.run.commits.len() as u64 - 1;
                    serve.ranges.remove(&replica, first, last);
                    serve.covered.insert(replica, first, last);
                    commits += piece.run.commits.len();
                    serve.run_commits = piece.run.commits.len();
                    bytes += piece.bytes;
                    cost += piece.cost;
                    pieces.push(piece);
                }
                // No signature from here on: nothing of this replica can be proven now.
                None => serve.ranges.remove(&replica, first, u64::MAX),
            }
        }
        Ok(pieces)
    }

    /// Commits of a replica from `first` on, ending at a signature: the last one within `bytes_max` and before the position
    /// `until` up to which the peer has all dependencies, but at least the first one. It is likely to have `likely` commits.
    fn cut_run(
        &self,
        replica: &ReplicaId,
        (first, end): (u64, u64),
        (bytes_max, likely): (usize, usize),
        (has, until): (&Knowledge, u64),
        store: &impl StoreRead,
    ) -> Result<Option<Piece>, StoreError> {
        let mut commits = Vec::<StoredCommit>::new();
        let mut cut: Option<(usize, Sig, usize, usize)> = None;
        let (mut bytes, mut cost, mut open) = (0, 0, true);
        // Where replicas answer each other a run is a commit or two: most of a long page would be read in vain.
        let mut page_commits = (likely + 8).min(self.config.batch_commits_max);
        while open {
            let from = first + commits.len() as u64;
            let page = store.commits(replica, from, page_commits, bytes_max.max(64 * 1024))?;
            page_commits = (page_commits * 4).min(self.config.batch_commits_max);
            if page.is_empty() {
                break;
            }
            for stored in page {
                let met = self.state.fences.met(&stored.commit.deps, |replica| has.prefix_len(replica));
                let size = stored.commit.encoded_len();
                let costs = cost::of_commit(&stored.commit, size);
                // The last commit may cross the budget, but not by so much that no frame would hold the run.
                let over = bytes >= bytes_max
                    || bytes + size > bytes_max + self.config.batch_bytes
                    || cost + costs > DECODED_BYTES_MAX
                    || commits.len() >= self.config.batch_commits_max;
                let past = first + commits.len() as u64 > end || stored.position >= until;
                // The last of a span is signed wherever it is.
                let too_long = span(stored.commit.dot.seq) != span(first) || bytes > INFLATED_BYTES_MAX / 2;
                if (cut.is_some() && (!met || over || past)) || too_long {
                    mark!(CutByDeps if !met);
                    mark!(CutBySize if over && !past);
                    open = false;
                    break;
                }
                bytes += size;
                cost += costs;
                if let Some(sig) = stored.sig {
                    cut = Some((commits.len() + 1, sig, bytes, cost));
                }
                commits.push(stored);
            }
        }
        let Some((length, sig, bytes, cost)) = cut else { return Ok(None) };
        mark!(RelayedUnsigned if first + length as u64 - 1 > end);
        let commits = commits.into_iter().take(length).map(|stored| stored.commit).collect();
        Ok(Some(Piece { run: Run { commits, sig }, bytes: bytes as u64, cost }))
    }

    /// Pushes commits that were just written to the peers that have all that came before, and tells the others.
    pub(crate) fn push(&mut self, now: Now, before: &Knowledge, pieces: &[Piece]) {
        let bytes: u64 = pieces.iter().map(|piece| piece.bytes).sum();
        for key in self.ready_peers() {
            let Some(peer) = self.peers.get(&key) else { continue };
            let room = peer.room_to_push(bytes, self.config.push_bytes_max);
            mark!(PushNoRoom if !room);
            mark!(PushWhileServing if peer.serve.is_some());
            mark!(PushPeerBehind if !peer.expects(before));
            if peer.serve.is_some() || !room || !peer.expects(before) {
                self.announce_to(now, key);
                continue;
            }
            mark!(Pushed);
            for piece in pieces {
                self.push_piece(key, piece);
            }
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.synced = false;
            }
            self.keep_retrying(now, key);
        }
    }

    /// Pushes once more what we wrote and a peer has not confirmed, if that is all that it lacks, and is little: a push was
    /// lost, and to tell of it would cost as much as the commits, and a round trip. Says whether it did.
    pub(crate) fn push_again(
        &mut self,
        now: Now,
        key: PeerKey,
        store: &impl StoreRead,
    ) -> Result<bool, StoreError> {
        let Some(peer) = self.peers.get(&key).filter(|peer| peer.serve.is_none()) else { return Ok(false) };
        let news = self.state.knowledge.minus(&peer.known);
        // What others wrote it may be getting from others.
        let ours = news.get(&self.state.replica).filter(|_| news.replicas() == 1 && !self.revoked());
        let Some([(first, last)]) = ours.map(|set| set.ranges()) else { return Ok(false) };
        let (first, last, has) = (*first, *last, peer.known.clone());
        let likely = usize::try_from(last - first).unwrap_or(usize::MAX);
        if likely >= PUSHED_AGAIN_BYTES_MAX / COMMIT_BYTES_MIN {
            return Ok(false);
        }
        let cut = (PUSHED_AGAIN_BYTES_MAX, likely);
        let Some(piece) = self.cut_run(&self.state.replica, (first, last), cut, (&has, u64::MAX), store)?
        else {
            return Ok(false);
        };
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(false) };
        let room = peer.room_to_push(piece.bytes, self.config.push_bytes_max);
        let whole = piece.run.commits.last().is_some_and(|commit| commit.dot.seq == last);
        if !room || !whole || piece.bytes > PUSHED_AGAIN_BYTES_MAX as u64 {
            return Ok(false);
        }
        mark!(PushedAgain);
        peer.synced = false;
        self.push_piece(key, &piece);
        self.keep_retrying(now, key);
        Ok(true)
    }

    fn push_piece(&mut self, key: PeerKey, piece: &Piece) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let (Some(first), Some(last)) = (piece.run.commits.first(), piece.run.commits.last()) else { return };
        if planted::is(Bug::PushTakenAsKnown) {
            peer.known.insert(first.dot.replica, first.dot.seq, last.dot.seq);
        }
        peer.pushed.insert(first.dot.replica, first.dot.seq, last.dot.seq);
        peer.pushed_bytes += piece.bytes;
        let ops = Ops { want: 0, offset: peer.pushed_bytes, done: true, runs: vec![piece.run.clone()] };
        self.send_ops(key, &ops);
    }

    /// Cuts what was just written, contiguous commits of our own, into runs that fit frames, and signs each at its end: that
    /// signature covers all of it. Gives them to be pushed, if there is anybody to push them to.
    pub(crate) fn sign(&self, draft: &mut Draft<'_>, written: &[Unsigned]) -> Vec<Piece> {
        let commits = &mut draft.batch.commits;
        debug_assert_eq!(commits.len(), written.len(), "what is written locally is all that is in its batch");
        let heard = !self.ready_peers().is_empty();
        let (mut pieces, mut first) = (Vec::new(), 0);
        while first < written.len() {
            let (count, bytes, cost) = self.run_of(&written[first..]);
            let end = first + count;
            let sig = sign_commit(&self.identity, &written[end - 1].hash);
            mark!(SignedTogether if count > 1);
            mark!(GroupOfRuns if count < written.len());
            let signed = if planted::is(Bug::GroupEndUnsigned) { first } else { end - 1 };
            commits[signed].1 = Some(sig);
            if heard {
                let commits = commits[first..end].iter().map(|(commit, _)| commit.clone()).collect();
                pieces.push(Piece { run: Run { commits, sig }, bytes, cost });
            }
            first = end;
        }
        pieces
    }

    /// How many of what was written make the first run, their bytes, and what they cost. A run fits a frame, and does not go
    /// beyond the end of a span.
    fn run_of(&self, written: &[Unsigned]) -> (usize, u64, usize) {
        let (mut bytes, mut cost) = (0, 0);
        for (count, next) in written.iter().enumerate() {
            let more = (bytes + next.bytes, cost + next.cost);
            let fits = more.0 <= self.config.batch_bytes
                && more.1 <= DECODED_BYTES_MAX
                && count < self.config.batch_commits_max
                && span(next.stamp.dot.seq) == span(written[0].stamp.dot.seq);
            if !fits && count > 0 {
                return (count, bytes as u64, cost);
            }
            (bytes, cost) = more;
        }
        (written.len(), bytes as u64, cost)
    }

    pub(crate) fn send_ops(&mut self, key: PeerKey, ops: &Ops<Commit>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        // `None` would mean a run beyond a frame's cap, which the limits on commits and runs prevent.
        let Some(frame) = pack_ops(peer.session, ops) else { return };
        let commits = ops.runs.iter().flat_map(|run| &run.commits);
        peer.traffic.commits_sent += commits.clone().count() as u64;
        peer.traffic.ops_sent += commits.map(|commit| commit.ops.len() as u64).sum::<u64>();
        self.send_frame(key, frame);
    }
}

/// The wanted commits stamped later than a cursor: what a request by a single stamp would bring.
fn newer_than(cursor: Hlc, wanted: &Knowledge, store: &impl StoreRead) -> Result<Knowledge, StoreError> {
    let mut newer = Knowledge::default();
    for (replica, set) in wanted.iter() {
        for (first, last) in set.ranges() {
            let count = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
            let commits = store.commits(replica, *first, count, usize::MAX)?.into_iter();
            commits
                .filter(|stored| stored.commit.hlc > cursor || stored.commit.introduces.is_some())
                .for_each(|stored| newer.insert(*replica, stored.commit.dot.seq, stored.commit.dot.seq));
        }
    }
    Ok(newer)
}

/// The wanted commit that this store applied first: its replica, its number, the end of its range, and its position, which is
/// 0 if it need not be known. Statements of the account come before all else: they wait for nothing, and a receiver may lack
/// the room for anything else until it has them.
fn next_in_order(
    serve: &mut Serve,
    placed: bool,
    account: &DeviceId,
    store: &impl StoreRead,
) -> Result<Option<(ReplicaId, u64, u64, u64)>, StoreError> {
    let Serve { ranges, positions, .. } = serve;
    let firsts = ranges.iter().filter_map(|(replica, set)| Some((*replica, *set.ranges().first()?)));
    if ranges.replicas() == 1 && !placed {
        // No other to compare with.
        return Ok(firsts.map(|(replica, (first, end))| (replica, first, end, 0)).next());
    }
    let mut best: Option<((bool, u64), ReplicaId, u64, u64)> = None;
    for (replica, (first, end)) in firsts {
        let position = match positions.get(&replica) {
            Some((of, position)) if *of == first => *position,
            _ => {
                let stored = store.commits(&replica, first, 1, 1)?;
                let position = stored.first().map_or(u64::MAX, |stored| stored.position);
                positions.insert(replica, (first, position));
                position
            }
        };
        let place = (replica.device != *account, position);
        if best.is_none_or(|(other, ..)| place < other) {
            best = Some((place, replica, first, end));
        }
    }
    Ok(best.map(|((_, position), replica, first, end)| (replica, first, end, position)))
}
