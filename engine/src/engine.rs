//! The sync state machine: the central type of this crate, its sessions and its timers.
//!
//! How peers converge: each states its knowledge (`Hello` with a digest, then `Have`), asks for what it
//! lacks (`Want`), gets it under credit (`Ops`, `Ack`), and is told of what comes later (pushes and
//! `Announce`). Every statement is idempotent and repeated on a timer while the two differ, so it is correct over
//! datagrams that are lost, doubled and reordered. The method is anti-entropy by version vectors: Demers et
//! al., "Epidemic Algorithms for Replicated Database Maintenance" (1987); Petersen et al., "Flexible Update
//! Propagation for Weakly Consistent Replication" (1997).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::administer::Fencing;
use crate::config::Config;
use crate::identity::{DeviceCert, DeviceId, Identity, PeerKey, ReplicaId};
use crate::io::{Event, Input, Output, SyncStats, Traffic, median_offset};
use crate::knowledge::Knowledge;
use crate::marks::mark;
use crate::peer::{Asked, Peer};
use crate::planted::{self, Bug};
use crate::prng::Prng;
use crate::reorder::Reorder;
use crate::replicated::Replicated;
use crate::statement::{Forked, Revocation};
use crate::store::{Recovered, StoreError, StoreRead};
use crate::time::{Instant, Now, WallMs};
use crate::timer::{Timer, Timers};
use crate::wire::message::{
    Bye, Control, ErrorMessage, Fault, HAS_ROOT, Have, Hello, MINOR, Message, Ping, Pong, Summary,
    pack_control, summary,
};

/// One replica's engine.
///
/// # Contract
///
/// 1. [`Engine::handle`] takes one input. It reads the store and changes nothing but the engine.
/// 2. Then [`Engine::poll_output`] is called until it returns `None`, and each output is performed, in order,
///    before the next `handle`. [`Output::Commit`] is a barrier: what follows it may leave only when the batch
///    is durable. `handle` with outputs left undrained is a bug of the caller and panics in debug builds.
/// 3. Then [`Engine::poll_timeout`] says when to call `handle` with [`Input::Timeout`] at the latest. A
///    spurious one is a no-op.
/// 4. `now.mono` never goes back; `now.wall` may do as it likes.
/// 5. When `handle` returns an error or a batch cannot be made durable, the engine's memory and the store may
///    differ: drop the engine, and make a new one from what the store recovers. Sessions start anew.
///
/// Errors of peers are data ([`Event::PeerFault`]), errors of the environment are an `Err`, errors of this code
/// are panics. Nothing received can cause a panic. The work of one `handle` is bounded by the size of one frame
/// plus the reorder buffer, but for a statement that retracts: it reads the log once, from its start; memory is bounded by `config` times the number of peers.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) state: Replicated,
    pub(crate) peers: BTreeMap<PeerKey, Peer>,
    pub(crate) reorder: Reorder,
    pub(crate) timers: Timers,
    pub(crate) outputs: VecDeque<Output>,
    prng: Prng,
    /// Counters of sessions that have ended.
    ended: Traffic,
    last_sync: WallMs,
    skew_told: bool,
    /// Statements that wait to be applied alone.
    pub(crate) fencing: VecDeque<Fencing>,
    /// Whether statements were applied of which not all has been drawn yet.
    pub(crate) fences_changed: bool,
    /// What people are told of them.
    pub(crate) stated_events: Vec<Event>,
    /// Forked replicas of which people were told.
    pub(crate) alarmed: BTreeSet<ReplicaId>,
    /// Those of them for whose proof there is no room.
    pub(crate) unprovable: BTreeSet<ReplicaId>,
}

impl Engine {
    /// An engine over what a store recovered. `seed` drives all its random choices. A store without a replica
    /// (a new one, or one that may be a copy) gets a new incarnation, which introduces itself in a first, empty
    /// commit: drain the outputs before the first `handle`.
    pub fn new(
        config: Config,
        identity: Identity,
        seed: [u8; 32],
        recovered: Recovered,
        now: Now,
        store: &impl StoreRead,
    ) -> Result<Engine, StoreError> {
        let config = config.sane();
        let mut prng = Prng::new(seed);
        mark!(Restarted if recovered.replica.is_some());
        mark!(CopyRenamed if recovered.replica.is_none() && last_of(&recovered, &identity).is_some());
        let replica = recovered
            .replica
            .or_else(|| planted::is(Bug::RestoredReusesNumbers).then(|| last_of(&recovered, &identity))?)
            .filter(|replica| replica.device == identity.device())
            .unwrap_or_else(|| ReplicaId { device: identity.device(), incarnation: prng.next_u64() });
        let mut engine = Engine {
            state: Replicated::new(&identity, replica, recovered, &config, store)?,
            reorder: Reorder::new(config.reorder_bytes_max),
            config,
            identity,
            peers: BTreeMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            prng,
            ended: Traffic::default(),
            last_sync: WallMs(0),
            skew_told: false,
            fencing: VecDeque::new(),
            fences_changed: false,
            stated_events: Vec::new(),
            alarmed: BTreeSet::new(),
            unprovable: BTreeSet::new(),
        };
        if engine.state.own_is_fenced() {
            engine.state.replica = engine.new_incarnation();
        }
        engine.output_members();
        if let Some((revocation, because)) = engine.state.fences.revocation(&engine.identity.device()) {
            // Said at each start: the power may have failed before it was said the first time.
            let (device, reason, because) = (revocation.device, revocation.reason.clone(), *because);
            engine.event(Event::Revoked { device, reason, because, retracted: 0 });
        }
        engine.introduce(now, store)?;
        Ok(engine)
    }

    /// Takes one input. See the contract on the type.
    pub fn handle(&mut self, now: Now, input: Input, store: &impl StoreRead) -> Result<(), StoreError> {
        debug_assert!(self.outputs.is_empty(), "outputs must be drained before the next input");
        match input {
            Input::Timeout => self.timeouts(now, store)?,
            Input::PeerUp(peer) => self.peer_up(now, peer),
            Input::Administer { id, order } => self.administer(now, id, order, store)?,
            Input::Release { id, dots } => self.release(id, dots, store),
            Input::PeerDown(peer) => self.peer_down(now, peer, None, "the connection was lost"),
            Input::Frame { peer, bytes } => self.frame(now, peer, &bytes, store)?,
            Input::Read { peer, frame } => self.read_frame(now, peer, frame, store)?,
            Input::Broadcast { from, bytes } => self.broadcast(now, from, &bytes),
            Input::Write(requests) => self.write(now, requests, store)?,
            Input::Members(certs) => self.learn(&certs, store),
            Input::SyncNow => self.sync_now(now),
            Input::Audit { id, device, after, detail } => self.ask_audit(id, device, after, detail),
            Input::Shutdown => self.shutdown(now),
        }
        self.enforce(now, store)?;
        if planted::is(Bug::SentBeforeDurable) {
            self.outputs.make_contiguous().sort_by_key(|output| !matches!(output, Output::Send { .. }));
        }
        Ok(())
    }

    /// The next thing to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle` with [`Input::Timeout`] at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.timers.next()
    }

    /// What this device has applied.
    pub fn knowledge(&self) -> &Knowledge {
        &self.state.knowledge
    }

    /// The replica that this device writes as.
    pub fn replica(&self) -> ReplicaId {
        self.state.replica
    }

    /// The digest of all rows.
    pub fn digest(&self) -> u128 {
        self.state.digest
    }

    /// The account's devices, our own included, and those that were revoked.
    pub fn members(&self) -> impl Iterator<Item = &DeviceCert> {
        self.state.members.values()
    }

    /// The account's revocations, joined per device.
    pub fn revocations(&self) -> impl Iterator<Item = &Revocation> {
        self.state.fences.revocations()
    }

    /// The replicas that are proven to have forked.
    pub fn forks(&self) -> impl Iterator<Item = Forked> {
        self.state.fences.forks()
    }

    /// Whether this device is one of the account's no longer: it keeps its data and has no sessions.
    pub fn revoked(&self) -> bool {
        self.state.revoked(&self.state.own)
    }

    /// Whether this device holds the account's root key.
    pub fn administers(&self) -> bool {
        self.identity.root.is_some()
    }

    /// Whether there are sessions, and in each both sides know the same, as the peer has said since the last
    /// [`Input::SyncNow`].
    pub fn in_sync(&self) -> bool {
        !self.peers.is_empty() && self.peers.values().all(|peer| peer.ready() && peer.synced)
    }

    /// Memory that commits take which wait for what they depend on, in bytes of their encoding.
    pub fn waiting_bytes(&self) -> u64 {
        self.reorder.bytes() as u64
    }

    /// The same as they lie in memory, counted from above.
    pub fn waiting_memory(&self) -> u64 {
        self.reorder.memory() as u64
    }

    /// What each peer with a session has applied durably, as far as it has said.
    pub fn peer_knowledge(&self) -> impl Iterator<Item = (DeviceId, &Knowledge)> {
        self.peers.values().filter(|peer| peer.ready()).map(|peer| (peer.device, &peer.known))
    }

    /// Counters and the standing of each session.
    pub fn stats(&self) -> SyncStats {
        let mut total = self.ended;
        self.peers.values().for_each(|peer| total.add(&peer.traffic));
        SyncStats {
            account: self.state.account,
            replica: self.state.replica,
            peers: self.peers.iter().map(|(key, peer)| peer.stats(*key, &self.state.knowledge)).collect(),
            total,
            last_sync_ms: self.last_sync.0,
            waiting_commits: self.reorder.commits(),
            waiting_bytes: self.waiting_bytes(),
        }
    }

    fn peer_up(&mut self, now: Now, key: PeerKey) {
        if key == self.identity.peer_key() {
            return self.output_disconnect(key, "this is our own key");
        }
        if let Some(old) = self.peers.remove(&key) {
            mark!(SessionReplaced);
            // The transport may have lost a connection without a word; what was said on it is void.
            self.ended.add(&old.traffic);
            self.timers.clear_peer(key);
        }
        let session = (self.prng.next_u64() as u32).max(1);
        self.peers.insert(key, Peer::new(&key, session, &self.config));
        if self.peers.len() > self.config.peers_max {
            return self.fault(now, key, Fault::TooManyPeers, "");
        }
        self.timers.set(Timer::Handshake(key), now.mono.plus_ms(self.config.handshake_ms_max));
        self.arm_retry(now, key);
        self.say_hello(key);
    }

    pub(crate) fn peer_down(&mut self, now: Now, key: PeerKey, fault: Option<Fault>, reason: &str) {
        let Some(peer) = self.peers.remove(&key) else { return };
        self.ended.add(&peer.traffic);
        self.timers.clear_peer(key);
        if peer.ready() || fault.is_some() {
            self.event(Event::Disconnected { device: peer.device, fault, reason: reason.to_owned() });
        }
        if peer.want.is_some() {
            // What was asked of this peer can now be asked of the others.
            self.timers.set(Timer::Pump, now.mono);
        }
    }

    /// Ends a session because of what the peer did.
    pub(crate) fn fault(&mut self, now: Now, key: PeerKey, fault: Fault, detail: &str) {
        let text = if detail.is_empty() { fault.to_string() } else { format!("{fault}: {detail}") };
        self.send(key, &Control::Error(ErrorMessage { fault, text: text.clone() }));
        self.event(Event::PeerFault { device: key.device(), fault, text: text.clone() });
        self.peer_down(now, key, Some(fault), &text);
        self.output_disconnect(key, &text);
    }

    pub(crate) fn message(
        &mut self,
        now: Now,
        key: PeerKey,
        message: Message,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        match message {
            Message::Have(have) => self.on_have(now, key, &have),
            Message::Summary(summary) => self.on_summary(now, key, &summary, store)?,
            Message::Want(want) => self.on_want(now, key, &want, store)?,
            Message::Ack(ack) => self.on_ack(now, key, &ack, store)?,
            Message::Announce(announce) => self.on_announce(now, key, &announce),
            Message::Ping(ping) => self.on_ping(now, key, ping),
            Message::Pong(pong) => self.on_pong(now, key, pong),
            Message::Grant(root) => self.on_grant(now, key, root),
            Message::Audit(audit) => self.on_audit(key, &audit, store)?,
            Message::Audited(audited) => self.on_audited(key, &audited),
            Message::Bye(bye) => {
                mark!(Goodbye);
                self.peer_down(now, key, None, &bye.text);
                self.output_disconnect(key, "the peer said goodbye");
            }
            Message::Unknown(_) => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.traffic.frames_dropped += 1;
                }
            }
            // Handled before: the first two are valid in any session, and commits come with what else was read of them.
            Message::Hello(_) | Message::Error(_) | Message::Ops(_) => {}
        }
        Ok(())
    }

    pub(crate) fn on_hello(
        &mut self,
        now: Now,
        key: PeerKey,
        session: u32,
        hello: &Hello,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        if hello.cert.account != self.state.account {
            mark!(ForeignAccount);
            self.fault(now, key, Fault::ForeignAccount, "");
            return Ok(());
        }
        let certified = hello.cert.check(&self.state.account).is_ok() || planted::is(Bug::StrangerAdmitted);
        let genuine = certified && hello.cert.key == key;
        if !genuine || hello.replica.device != key.device() || session == 0 {
            mark!(Uncertified);
            self.fault(now, key, Fault::Unauthorised, "");
            return Ok(());
        }
        let revoked = self.revoked() || self.state.revoked(&key.device());
        if revoked && !planted::is(Bug::RevokedMayConnect) {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.theirs = Some(session);
            }
            return self.part(now, key, store);
        }
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        if peer.theirs == Some(session) {
            // A repetition: the peer has not heard ours.
            if hello.echo != peer.session {
                mark!(HelloRepeated);
                self.say_hello(key);
            }
            return Ok(());
        }
        let again = peer.ready();
        mark!(SessionResumed if again);
        peer.restart(&key, session, &self.config);
        self.timers.clear(Timer::Handshake(key));
        self.timers.clear(Timer::Want(key));
        self.heard(now, key);
        self.learn(std::slice::from_ref(&hello.cert), store);
        if again && hello.echo != self.peers.get(&key).map_or(0, |peer| peer.session) {
            self.say_hello(key);
        }
        if !again {
            self.event(Event::Connected { device: key.device() });
        }
        if self.pings_first(key) {
            self.say_ping(now, key);
        }
        let digest = self.state.knowledge.digest();
        let equal = hello.digest == digest && hello.heads_digest == self.state.heads_digest();
        if equal || planted::is(Bug::EqualAssumed) {
            mark!(EqualAtOnce);
            let knowledge = self.state.knowledge.clone();
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.known = knowledge;
            }
        } else {
            self.say_have(key, false);
        }
        self.arm_retry(now, key);
        self.advance(now, key);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.has_root = hello.features & HAS_ROOT != 0;
        }
        self.grant(key);
        Ok(())
    }

    pub(crate) fn on_error(&mut self, now: Now, key: PeerKey, error: &ErrorMessage) {
        mark!(ToldFault);
        let text = format!("the other device said: {}", error.text);
        self.event(Event::PeerFault { device: key.device(), fault: error.fault, text: text.clone() });
        self.peer_down(now, key, Some(error.fault), &text);
        self.output_disconnect(key, &text);
    }

    fn on_ping(&mut self, now: Now, key: PeerKey, ping: Ping) {
        self.send(key, &Control::Pong(Pong { nonce: ping.nonce, wall_ms: now.wall.0 }));
        self.measured_clock(now, key, ping.wall_ms, 0);
    }

    fn on_pong(&mut self, now: Now, key: PeerKey, pong: Pong) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let awaited = peer.ponged(pong.nonce);
        if let Some((nonce, sent)) = peer.ping
            && nonce == pong.nonce
        {
            peer.ping = None;
            let one_way_ms = now.mono.ms_since(sent) / 2;
            self.measured_clock(now, key, pong.wall_ms, one_way_ms);
        }
        if awaited {
            self.advance(now, key);
        }
    }

    /// Compares the median of the peers' clocks with ours, and says so if they differ by too much.
    fn measured_clock(&mut self, now: Now, key: PeerKey, wall_ms: u64, one_way_ms: u64) {
        let theirs = wall_ms.saturating_add(one_way_ms).min(i64::MAX as u64) as i64;
        let ours = now.wall.0.min(i64::MAX as u64) as i64;
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.clock_offset_ms = Some(theirs.saturating_sub(ours));
        }
        let offsets: Vec<i64> = self.peers.values().filter_map(|peer| peer.clock_offset_ms).collect();
        let peers = offsets.len();
        let Some(median) = median_offset(offsets) else { return };
        let skewed = median.unsigned_abs() > self.config.skew_warn_ms;
        mark!(ClockSkewHealed if self.skew_told && !skewed);
        if skewed && !self.skew_told {
            mark!(ClockSkewTold);
            self.event(Event::ClockSkew { offset_ms: median, peers });
        }
        self.skew_told = skewed;
    }

    fn timeouts(&mut self, now: Now, store: &impl StoreRead) -> Result<(), StoreError> {
        while let Some(timer) = self.timers.pop_due(now.mono) {
            match timer {
                Timer::Handshake(key) => {
                    mark!(HandshakeTimedOut);
                    self.fault(now, key, Fault::HandshakeTimeout, "");
                }
                Timer::Silence(key) => {
                    mark!(PeerSilent);
                    self.fault(now, key, Fault::Silent, "");
                }
                Timer::Ping(key) => {
                    self.say_ping(now, key);
                    self.timers.set(Timer::Ping(key), now.mono.plus_ms(self.config.ping_ms));
                }
                Timer::Retry(key) => self.retry(now, key),
                Timer::Want(key) => self.want_expired(now, key),
                Timer::Fence => {
                    self.fence_next(now, store)?;
                    break;
                }
                Timer::Pump => {
                    self.pump_all(now, store)?;
                    // Whatever asked for more pumping has set the timer to now: leave it for the next call, so
                    // that one call does a bounded amount of work.
                    break;
                }
            }
        }
        Ok(())
    }

    fn retry(&mut self, now: Now, key: PeerKey) {
        let (retry_ms_min, retry_ms_max) = (self.config.retry_ms, self.config.retry_ms_max);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if planted::is(Bug::RepeatedOnce) && peer.retry_ms > retry_ms_min {
            return;
        }
        peer.retry_ms = (peer.retry_ms.max(retry_ms_min) * 2).min(retry_ms_max);
        if !peer.ready() {
            self.say_hello(key);
        } else if !peer.synced {
            // Pushes that were not confirmed in this time may be lost.
            mark!(PushesRepeated if !peer.pushed.is_empty());
            peer.pushed = Knowledge::default();
            peer.pushed_acked = peer.pushed_bytes;
            self.say_have(key, true);
            self.advance(now, key);
        } else {
            return;
        }
        self.arm_retry(now, key);
    }

    pub(crate) fn arm_retry(&mut self, now: Now, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        // A little jitter, so that two devices do not talk past each other in step.
        let jitter_ms = self.prng.below(peer.retry_ms / 4 + 1);
        self.timers.set(Timer::Retry(key), now.mono.plus_ms(peer.retry_ms + jitter_ms));
    }

    /// Sees to it that what was said to a peer is repeated at some time, if that is not so already.
    pub(crate) fn keep_retrying(&mut self, now: Now, key: PeerKey) {
        if self.timers.get(Timer::Retry(key)).is_none() {
            self.arm_retry(now, key);
        }
    }

    /// Of two devices one pings: that tells both that the other is there, and what time it is. The other's turn comes only
    /// if it is not heard for long.
    fn pings_first(&self, key: PeerKey) -> bool {
        self.identity.peer_key() < key
    }

    /// Any good frame of a session is a sign of life.
    pub(crate) fn heard(&mut self, now: Now, key: PeerKey) {
        let later_ms = if self.pings_first(key) { 0 } else { self.config.ping_ms / 4 };
        self.timers.set(Timer::Ping(key), now.mono.plus_ms(self.config.ping_ms + later_ms));
        self.timers.set(Timer::Silence(key), now.mono.plus_ms(self.config.silence_ms_max));
    }

    fn sync_now(&mut self, now: Now) {
        if planted::is(Bug::SyncUnasked) {
            return;
        }
        for key in self.ready_peers() {
            let retry_ms = self.config.retry_ms;
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            peer.retry_ms = retry_ms;
            peer.asked = Some(Asked { certain: peer.unanswered.is_none(), stated: false, ping: None });
            if std::mem::replace(&mut peer.synced, false) {
                self.say_summary(key, true);
            } else {
                self.say_have(key, true);
            }
            self.arm_retry(now, key);
        }
    }

    fn shutdown(&mut self, now: Now) {
        let all: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in all {
            self.send(key, &Control::Bye(Bye { text: "the device is stopping".into() }));
            self.peer_down(now, key, None, "this device is stopping");
            self.output_disconnect(key, "this device is stopping");
        }
    }

    pub(crate) fn ready_peers(&self) -> Vec<PeerKey> {
        self.peers.iter().filter(|(_, peer)| peer.ready()).map(|(key, _)| *key).collect()
    }

    fn say_hello(&mut self, key: PeerKey) {
        let echo = self.peers.get(&key).and_then(|peer| peer.theirs).unwrap_or(0);
        let hello = Hello {
            minor: MINOR,
            features: if self.identity.root.is_some() { HAS_ROOT } else { 0 },
            cert: self.state.own_cert(&self.identity),
            replica: self.state.replica,
            echo,
            digest: self.state.knowledge.digest(),
            heads_digest: self.state.heads_digest(),
        };
        self.send(key, &Control::Hello(Box::new(hello)));
    }

    pub(crate) fn say_have(&mut self, key: PeerKey, reply: bool) {
        if let Some(peer) = self.peers.get_mut(&key).filter(|_| reply) {
            peer.ask();
        }
        let (state, knowledge) = (self.state.digest.to_be_bytes(), self.state.knowledge.clone());
        self.send(key, &Control::Have(Have { state, knowledge, reply, tags: self.state.tags() }));
    }

    pub(crate) fn say_summary(&mut self, key: PeerKey, reply: bool) {
        if let Some(peer) = self.peers.get_mut(&key).filter(|_| reply) {
            peer.ask();
        }
        let digest = summary(&self.state.knowledge, self.state.digest);
        self.send(key, &Control::Summary(Summary { digest, reply }));
    }

    pub(crate) fn say_ping(&mut self, now: Now, key: PeerKey) {
        let nonce = self.prng.next_u64() as u32;
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.ping = Some((nonce, now.mono));
            if let Some(asked) = &mut peer.asked {
                asked.ping = Some(nonce);
            }
        }
        self.send(key, &Control::Ping(Ping { nonce, wall_ms: now.wall.0 }));
    }

    pub(crate) fn send(&mut self, key: PeerKey, message: &Control) {
        let Some(peer) = self.peers.get(&key) else { return };
        // `None` would mean that our own knowledge outgrew the cap, which `REPLICAS_MAX` prevents.
        if let Some(frame) = pack_control(peer.session, message) {
            self.send_frame(key, frame);
        }
    }

    pub(crate) fn send_frame(&mut self, key: PeerKey, frame: Vec<u8>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.traffic.frames_sent += 1;
        peer.traffic.bytes_sent += frame.len() as u64;
        self.outputs.push_back(Output::Send { peer: key, frame });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(crate) fn output_disconnect(&mut self, peer: PeerKey, reason: &str) {
        self.outputs.push_back(Output::Disconnect { peer, reason: reason.to_owned() });
    }

    pub(crate) fn output_members(&mut self) {
        let own = self.identity.peer_key();
        let members = self.state.members.values().map(|cert| cert.key);
        let members = members.filter(|key| *key != own && !self.state.revoked(&key.device())).collect();
        self.outputs.push_back(Output::Members(members));
    }

    pub(crate) fn new_incarnation(&mut self) -> ReplicaId {
        ReplicaId { device: self.identity.device(), incarnation: self.prng.next_u64() }
    }

    pub(crate) fn note_synced(&mut self, now: Now, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.last_sync = now.wall;
        peer.retry_ms = self.config.retry_ms;
        self.last_sync = now.wall;
        self.timers.clear(Timer::Retry(key));
        if !std::mem::replace(&mut peer.synced, true) {
            let device = peer.device;
            self.event(Event::Synced { device });
        }
    }
}

/// The replica of this device that the database holds commits of.
fn last_of(recovered: &Recovered, identity: &Identity) -> Option<ReplicaId> {
    recovered.heads.keys().rfind(|replica| replica.device == identity.device()).copied()
}
