//! Who has what: what peers say of their knowledge (Have, Summary, Announce, gossip), and what we tell of news of ours.
//!
//! Invariants: what a peer is known to have only grows within a session; gossip is a hint, and nothing is asked for at once
//! because of it; what a peer may speak of is bounded.

use crate::config::{RANGES_MAX, REPLICAS_MAX};
use crate::engine::Engine;
use crate::identity::{PeerKey, ReplicaId};
use crate::io::Event;
use crate::knowledge::Knowledge;
use crate::marks::mark;
use crate::store::{StoreError, StoreRead};
use crate::time::Now;
use crate::timer::Timer;
use crate::wire::message::{Announce, Control, Fault, Have, Message, Summary, Tag, parse, summary};

/// Replicas that a peer may speak of before it is taken for hostile.
const KNOWN_REPLICAS_MAX: usize = 2 * REPLICAS_MAX;
/// Ranges of one replica that a peer may speak of before it is taken for hostile.
const KNOWN_RANGES_MAX: usize = 2 * RANGES_MAX;

impl Engine {
    pub(crate) fn on_have(&mut self, now: Now, key: PeerKey, have: &Have) {
        let equal = have.knowledge == self.state.knowledge;
        // Equal numbers of other commits are a fork: that rows differ then is no wonder.
        let forked = equal && !have.tags.is_empty() && have.tags != self.state.tags();
        let diverged = equal && !forked && have.state != self.state.digest.to_be_bytes();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.known.union(&have.knowledge);
        peer.stated(false);
        if equal {
            peer.rows_equal = (!forked).then_some(!diverged);
        }
        if diverged && !std::mem::replace(&mut peer.told_diverged, true) {
            let device = peer.device;
            self.event(Event::Diverged { device });
        }
        match have.reply {
            true if equal && !forked && !diverged => self.say_summary(key, false),
            true => self.say_have(key, false),
            false => {}
        }
        self.compare_tags(key, &have.knowledge, &have.tags);
        self.known_grew(now, key);
    }

    pub(crate) fn on_summary(
        &mut self,
        now: Now,
        key: PeerKey,
        theirs: &Summary,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        if theirs.digest != summary(&self.state.knowledge, self.state.digest) {
            // Most likely the peer has not heard of what we have beyond what it confirmed. Else both say all.
            match theirs.reply {
                // What it lacks, and by the summary behind that this was all.
                true if self.push_again(now, key, store)? => self.say_summary(key, false),
                true if self.has_news_for(key) => self.announce_to(now, key),
                true => self.say_have(key, true),
                false => {}
            }
            return Ok(());
        }
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        mark!(EqualByDigest);
        peer.known.union(&self.state.knowledge);
        peer.rows_equal = Some(true);
        peer.stated(!theirs.reply);
        if theirs.reply {
            self.say_summary(key, false);
        }
        self.known_grew(now, key);
        Ok(())
    }

    pub(crate) fn on_announce(&mut self, now: Now, key: PeerKey, announce: &Announce) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.stated(false);
        announce.heads.iter().for_each(|(replica, seq)| peer.known.insert(*replica, 1, *seq));
        for ((replica, seq), tag) in announce.heads.iter().zip(&announce.tags) {
            if self.compare_tag(key, replica, *seq, *tag)
                && let Some(peer) = self.peers.get_mut(&key)
            {
                peer.heads_differ = true;
            }
        }
        self.known_grew(now, key);
    }

    /// Compares the tags of a full statement with ours.
    fn compare_tags(&mut self, key: PeerKey, knowledge: &Knowledge, tags: &[Tag]) {
        let mut differ = false;
        for ((replica, set), tag) in knowledge.iter().zip(tags) {
            differ |= self.compare_tag(key, replica, set.prefix_len(), *tag);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.heads_differ = differ;
        }
    }

    /// Gossip is a hint: a peer may have something new.
    pub(crate) fn broadcast(&mut self, now: Now, from: PeerKey, bytes: &[u8]) {
        let Ok((0, Message::Announce(announce))) = parse(bytes, &self.state.account) else { return };
        if !self.state.members.contains_key(&from.device()) || self.state.revoked(&from.device()) {
            return;
        }
        let counts = |replica, seq| self.state.fences.clamp(replica, seq);
        let known = |replica| self.state.knowledge.prefix_len(replica);
        let news = announce.heads.iter().any(|(replica, seq)| known(replica) < counts(replica, *seq));
        if !news {
            mark!(GossipOldNews);
            return;
        }
        // A peer with a session tells us there, and does so first: it may be pushing just what it announces, and a
        // request now would have it sent twice. Is its origin connected elsewhere, then what it has reaches us through
        // those we are connected to. In either case only what has not come by itself in a while is asked for.
        let connected = self.peers.get(&from).is_some_and(|peer| peer.ready());
        let keys = if connected { vec![from] } else { self.ready_peers() };
        for key in keys {
            let at = now.mono.plus_ms(self.config.retry_ms);
            if self.timers.get(Timer::Retry(key)).is_none_or(|set| set > at) {
                mark!(GossipHastens);
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.synced = false;
                }
                self.timers.set(Timer::Retry(key), at);
            }
        }
    }

    pub(crate) fn known_grew(&mut self, now: Now, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        // What a peer has beyond a fence counts for nothing: it is not asked for, nor does it keep us from being in sync.
        self.state.fences.clamp_all(&mut peer.known);
        if peer.known.replicas() > KNOWN_REPLICAS_MAX {
            return self.fault(now, key, Fault::Protocol, "it speaks of too many replicas");
        }
        if peer.known.iter().any(|(_, set)| set.ranges().len() > KNOWN_RANGES_MAX) {
            return self.fault(now, key, Fault::Protocol, "it speaks of too many scattered commits");
        }
        self.advance(now, key);
    }

    /// Tells all ready peers but one, and gossip for what we wrote ourselves, how far we are.
    pub(crate) fn announce(&mut self, now: Now, except: Option<PeerKey>) {
        for key in self.ready_peers() {
            if except == Some(key) {
                continue;
            }
            self.announce_to(now, key);
        }
    }

    fn has_news_for(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_some_and(|peer| !self.state.knowledge.minus(&peer.known).is_empty())
    }

    pub(crate) fn announce_to(&mut self, now: Now, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let heads: Vec<(ReplicaId, u64)> = self
            .state
            .knowledge
            .minus(&peer.known)
            .iter()
            .filter_map(|(replica, set)| Some((*replica, set.last()?)))
            .collect();
        if heads.is_empty() {
            return;
        }
        peer.synced = false;
        let tags = heads.iter().map(|(replica, _)| self.state.tag(replica)).collect();
        self.send(key, &Control::Announce(Announce { heads, tags }));
        self.keep_retrying(now, key);
    }
}
