//! One peer's session: what has been said, what is known of the other side, and what is under way.
//! Plain state; the rules that move it are in `engine`, `answer` and `exchange`.

use std::collections::BTreeMap;

use crate::config::{Config, RANGES_MAX, REPLICAS_MAX};
use crate::identity::{DeviceId, PeerKey, ReplicaId};
use crate::io::{PeerStats, Traffic};
use crate::knowledge::Knowledge;
use crate::planted::{self, Bug};
use crate::time::{Instant, WallMs};
use crate::wire::message::Tag;
use crate::wire::packed::PackedRun;

/// A request of the peer that is being answered.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) id: u32,
    /// What is still to be sent.
    pub(crate) ranges: Knowledge,
    /// Canonical bytes of commits sent.
    pub(crate) sent: u64,
    /// Bytes that may be sent in all.
    pub(crate) credit: u64,
    /// What has been sent.
    pub(crate) covered: Knowledge,
    /// By replica, the next commit to be sent and its position in the log, as far as it was looked up.
    pub(crate) positions: BTreeMap<ReplicaId, (u64, u64)>,
    /// Commits in the last run that was cut.
    pub(crate) run_commits: usize,
    /// The position in our log before which all that was wanted has been sent, where that is known.
    pub(crate) sent_before: Option<u64>,
}

impl Serve {
    /// Whether all of a run is still to be sent.
    pub(crate) fn wants(&self, run: &PackedRun) -> bool {
        let within = |(first, last): &(u64, u64)| *first <= run.first.seq && run.last_seq() <= *last;
        self.ranges.get(&run.first.replica).is_some_and(|set| set.ranges().iter().any(within))
    }
}

/// A request to the peer whose answer has not ended.
#[derive(Debug)]
pub(crate) struct OpenWant {
    pub(crate) id: u32,
    pub(crate) ranges: Knowledge,
    /// Whether its answer has brought anything new.
    pub(crate) progress: bool,
    /// Bytes that waited in the reorder buffer when it was made.
    pub(crate) waiting: usize,
}

/// Somebody waits to be in sync, and the peer was asked what it has. What it said before it was asked may be under way
/// still, and looks the same. Over a stream its answer is there once something is that it sent later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Whether nothing was asked before of which the answer may be under way: a summary that answers is for this.
    pub(crate) certain: bool,
    /// Whether anything has come that says what the peer has.
    pub(crate) stated: bool,
    /// The nonce of a ping that was sent after the question.
    pub(crate) ping: Option<u32>,
}

/// A session with one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) device: DeviceId,
    /// Our session number, in each of our frames.
    pub(crate) session: u32,
    /// The peer's, once its `Hello` was accepted: the session is ready.
    pub(crate) theirs: Option<u32>,
    /// What the peer has durably, as far as it has said.
    pub(crate) known: Knowledge,
    /// What we pushed unasked and the peer has not confirmed yet.
    pub(crate) pushed: Knowledge,
    /// Canonical bytes pushed in this session.
    pub(crate) pushed_bytes: u64,
    /// Of which the peer has confirmed.
    pub(crate) pushed_acked: u64,
    /// Canonical bytes that the peer has pushed to us.
    pub(crate) received_bytes: u64,
    pub(crate) serve: Option<Serve>,
    pub(crate) want: Option<OpenWant>,
    pub(crate) want_last: u32,
    /// What both know and is to be compared, because tags say that it differs.
    pub(crate) disputed: Knowledge,
    /// Whether heads of equal numbers were last stated to be other commits.
    pub(crate) heads_differ: bool,
    /// Heads that it stated of which ours had another number then, with their tags: to be compared when we know the same.
    pub(crate) heads_stated: BTreeMap<ReplicaId, (u64, Tag)>,
    /// Whether the last request ended without bringing anything new.
    pub(crate) fruitless: bool,
    /// Whether the last request expired, and nothing new has come since: what it is asked for is asked of others, too.
    pub(crate) late: bool,
    /// The current wait for the next part of an answer, in milliseconds.
    pub(crate) want_ms: u64,
    /// The current wait before a statement is repeated, in milliseconds.
    pub(crate) retry_ms: u64,
    pub(crate) synced: bool,
    pub(crate) asked: Option<Asked>,
    /// The last request before the last question of which the answer may be under way.
    pub(crate) unanswered: Option<u32>,
    pub(crate) last_sync: WallMs,
    pub(crate) ping: Option<(u32, Instant)>,
    pub(crate) clock_offset_ms: Option<i64>,
    /// Damaged frames since the last good one.
    pub(crate) damaged: u32,
    /// Whether its rows were ours when both last stated equal knowledge.
    pub(crate) rows_equal: Option<bool>,
    pub(crate) told_diverged: bool,
    /// Whether the peer says that it holds the account's root key.
    pub(crate) has_root: bool,
    pub(crate) traffic: Traffic,
}

impl Peer {
    pub(crate) fn new(key: &PeerKey, session: u32, config: &Config) -> Peer {
        Peer {
            device: key.device(),
            session,
            theirs: None,
            known: Knowledge::default(),
            pushed: Knowledge::default(),
            pushed_bytes: 0,
            pushed_acked: 0,
            received_bytes: 0,
            serve: None,
            want: None,
            want_last: 0,
            disputed: Knowledge::default(),
            heads_differ: false,
            heads_stated: BTreeMap::new(),
            fruitless: false,
            late: false,
            want_ms: config.want_ms,
            retry_ms: config.retry_ms,
            synced: false,
            asked: None,
            unanswered: None,
            last_sync: WallMs(0),
            ping: None,
            clock_offset_ms: None,
            damaged: 0,
            rows_equal: None,
            told_diverged: false,
            has_root: false,
            traffic: Traffic::default(),
        }
    }

    /// Whether the peer's `Hello` has been accepted.
    pub(crate) fn ready(&self) -> bool {
        self.theirs.is_some()
    }

    /// Whether so many bytes more may be pushed to the peer, of which `max` may be unconfirmed.
    pub(crate) fn room_to_push(&self, bytes: u64, max: u64) -> bool {
        self.pushed_bytes - self.pushed_acked + bytes <= max
    }

    /// Forgets what was said in a session of the peer that is over, keeping counters.
    pub(crate) fn restart(&mut self, key: &PeerKey, theirs: u32, config: &Config) {
        let traffic = self.traffic;
        *self = Peer { theirs: Some(theirs), traffic, ..Peer::new(key, self.session, config) };
    }

    /// Notes that the peer is asked what it has.
    pub(crate) fn ask(&mut self) {
        self.unanswered = Some(self.want_last);
        if let Some(asked) = &mut self.asked {
            asked.ping = None;
        }
    }

    /// Notes that the peer has said what it has, perhaps by a summary, which it says only when it is asked.
    pub(crate) fn stated(&mut self, summary: bool) {
        let Some(asked) = &mut self.asked else { return };
        asked.stated = true;
        if summary && asked.certain || planted::is(Bug::SyncTakesOldWord) {
            self.caught_up();
        }
    }

    /// Notes that the answer to a request came. What was asked before the request was answered before it.
    pub(crate) fn answered(&mut self, want: u32) {
        if self.unanswered.is_some_and(|last| want > last) {
            self.caught_up();
        }
    }

    /// Notes that a pong came. Whether that was waited for.
    pub(crate) fn ponged(&mut self, nonce: u32) -> bool {
        let awaited = self.asked.is_some_and(|asked| asked.ping == Some(nonce));
        if awaited {
            self.caught_up();
        }
        awaited
    }

    /// Whether a ping is needed to know when the peer has answered.
    pub(crate) fn in_doubt(&self) -> bool {
        self.want.is_none() && self.asked.is_some_and(|asked| asked.stated && asked.ping.is_none())
    }

    fn caught_up(&mut self) {
        self.unanswered = None;
        self.asked.take_if(|asked| asked.stated);
    }

    /// Notes that the peer has what it sent, unless that would scatter the note over too many ranges: frames that
    /// overtake each other do so for a while, and its next statement tells in any case.
    pub(crate) fn brought(&mut self, replica: ReplicaId, first: u64, last: u64) {
        let room = match self.known.get(&replica) {
            Some(set) => set.ranges().len() < RANGES_MAX,
            None => self.known.replicas() < REPLICAS_MAX,
        };
        if room {
            self.known.insert(replica, first, last);
        }
    }

    /// Notes that all of its request was sent. That counts as expected until its `Ack` says that it is known.
    pub(crate) fn served(&mut self) {
        let serve = self.serve.take();
        serve.iter().for_each(|serve| self.pushed.union(&serve.covered));
    }

    /// What the peer has or is about to have.
    pub(crate) fn expected(&self) -> Knowledge {
        let mut expected = self.known.clone();
        expected.union(&self.pushed);
        if let Some(serve) = &self.serve {
            expected.union(&serve.covered);
        }
        expected
    }

    /// Whether all of `what` is among what the peer has or is about to have.
    pub(crate) fn expects(&self, what: &Knowledge) -> bool {
        what.minus(&self.known).is_empty() || what.minus(&self.expected()).is_empty()
    }

    pub(crate) fn stats(&self, peer: PeerKey, ours: &Knowledge) -> PeerStats {
        PeerStats {
            peer,
            device: self.device,
            ready: self.ready(),
            synced: self.synced,
            behind: ours.minus(&self.known).commits(),
            ahead: self.known.minus(ours).commits(),
            last_sync_ms: self.last_sync.0,
            clock_offset_ms: self.clock_offset_ms,
            rows_equal: self.rows_equal,
            traffic: self.traffic,
        }
    }
}
