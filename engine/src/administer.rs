//! Statements: made here by an administrator, or received from peers; and what follows from them.
//!
//! Invariants: a statement that retracts is applied alone, over a store in which all else is durable; once a statement is
//! applied nothing beyond its fences is, waits, or is expected of anybody; a revoked device is shown the proof before its
//! session ends, and gets nothing else.

use std::collections::BTreeMap;

use crate::answer::Piece;
use crate::commit::Commit;
use crate::config::{REPLICAS_MAX, REVOKED_REPLICAS_MAX};
use crate::engine::Engine;
use crate::hlc::Hlc;
use crate::identity::{DeviceCert, DeviceId, Dot, PeerKey, ReplicaId, SecretKey, Sig};
use crate::io::{AdminError, Event, Order, Output};
use crate::marks::mark;
use crate::peer::Peer;
use crate::planted::{self, Bug};
use crate::replicated::Draft;
use crate::statement::{Fence, Revocation, Statement, reason_ok};
use crate::store::{StoreError, StoreRead};
use crate::time::Now;
use crate::timer::Timer;
use crate::wire::columns::HashedCommit;
use crate::wire::message::{Bye, Control, ErrorMessage, Fault, Ops, Run};

/// Statements that wait to be applied alone, at most; others are asked for again.
const FENCING_MAX: usize = 64;

/// A verified statement that retracts, and who brought it.
#[derive(Debug)]
pub(crate) struct Fencing {
    hashed: HashedCommit,
    sig: Sig,
    from: Option<PeerKey>,
}

impl Engine {
    /// Does what an administrator asks for.
    pub(crate) fn administer(
        &mut self,
        now: Now,
        id: u64,
        order: Order,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        let result = match self.statement_of(now, order, store)? {
            Ok((commit, sig)) => {
                let before = self.state.knowledge.clone();
                let dot = commit.dot;
                let hashed = HashedCommit::of(commit.clone());
                self.apply_alone(now, Fencing { hashed, sig, from: None }, store)?;
                self.timers.set(Timer::Fence, now.mono);
                self.push(now, &before, &[Piece::of(commit, sig)]);
                Ok(dot)
            }
            Err(error) => Err(error),
        };
        self.outputs.push_back(Output::Administered { id, result });
        Ok(())
    }

    fn statement_of(
        &self,
        now: Now,
        order: Order,
        store: &impl StoreRead,
    ) -> Result<Result<(Commit, Sig), AdminError>, StoreError> {
        mark!(OrderRefused if self.identity.root.is_none());
        let Some(root) = &self.identity.root else { return Ok(Err(AdminError::NotAdministrator)) };
        let device = match &order {
            Order::Revoke { device, .. } | Order::Certify { device, .. } => *device,
        };
        let Some(cert) = self.state.members.get(&device) else {
            return Ok(Err(AdminError::UnknownDevice(device)));
        };
        if self.state.revoked(&device) {
            mark!(OrderTooLate);
            return Ok(Err(AdminError::Revoked(device)));
        }
        if self.state.heads.len() >= REPLICAS_MAX {
            return Ok(Err(AdminError::Full));
        }
        let statement = match order {
            Order::Revoke { reason, .. } => {
                if device == self.identity.device() {
                    return Ok(Err(AdminError::Oneself));
                }
                if !reason_ok(&reason) {
                    return Ok(Err(AdminError::BadReason));
                }
                let fences = self.fences_of(&device, store)?;
                Statement::Revoke(Revocation { device, issued_ms: now.wall.0, reason, fences })
            }
            Order::Certify { name, admin, .. } => {
                // The latest certificate of a device counts: this one must be later than the one it replaces.
                let issued_ms = now.wall.0.max(cert.issued_ms.saturating_add(1));
                let name = name.unwrap_or_else(|| cert.name.clone());
                match DeviceCert::issue(root, cert.key, &name, issued_ms, admin.unwrap_or(cert.admin)) {
                    Ok(cert) => Statement::Certify(cert),
                    Err(error) => return Ok(Err(AdminError::Certificate(error))),
                }
            }
        };
        let mut clock = self.state.clock;
        let hlc = clock.tick(now.wall, None).unwrap_or(Hlc(1));
        Ok(Ok(statement.into_commit(root, hlc)))
    }

    /// What this device has applied of a device's replicas, as fences: of all of them, unless they are so many that they
    /// would leave no room for others.
    fn fences_of(
        &self,
        device: &DeviceId,
        store: &impl StoreRead,
    ) -> Result<BTreeMap<u64, Fence>, StoreError> {
        let mut fences = Vec::new();
        for (replica, head) in self.state.heads.iter().filter(|(replica, _)| replica.device == *device) {
            let stored = store.commits(replica, head.seq, 1, 1)?;
            // What is applied ends at a signature that is held.
            if let Some(sig) = stored.first().and_then(|stored| stored.sig) {
                fences.push((replica.incarnation, Fence { seq: head.seq, hash: head.hash, sig }));
            }
        }
        if fences.len() > REVOKED_REPLICAS_MAX {
            let mut begun = BTreeMap::new();
            for (incarnation, _) in &fences {
                let replica = ReplicaId { device: *device, incarnation: *incarnation };
                let first = store.commits(&replica, 1, 1, 1)?;
                begun.insert(*incarnation, first.first().map(|stored| stored.position));
            }
            fences.sort_by_key(|(incarnation, _)| begun.get(incarnation).copied());
            fences.truncate(REVOKED_REPLICAS_MAX);
        }
        Ok(fences.into_iter().collect())
    }

    /// Takes in a run that is a statement of the account: verified by itself, and applied whatever else is known.
    pub(crate) fn receive_statement(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        from: PeerKey,
        run: Run<HashedCommit>,
    ) -> Result<Result<(), (Fault, &'static str)>, StoreError> {
        let Run { commits, sig } = run;
        let Some(hashed) = commits.into_iter().next() else { return Ok(Ok(())) };
        let (dot, statement) = (hashed.commit.dot, hashed.commit.statement.clone());
        if self.state.knowledge.contains(&dot) {
            mark!(StatementTwice);
            self.count(from, 0, 0, 1);
            return Ok(Ok(()));
        }
        let Some(statement) = statement else { return Ok(Ok(())) };
        let planted = match *statement {
            Statement::Fork(_) => Bug::ProofUnchecked,
            _ => Bug::StatementUnchecked,
        };
        if !statement.genuine(&self.state.account, &hashed.hash, &sig) && !planted::is(planted) {
            mark!(StatementForged);
            return Ok(Err((Fault::BadSignature, "")));
        }
        let proof = matches!(*statement, Statement::Fork(_));
        if self.state.heads.len() >= REPLICAS_MAX || (proof && !self.state.room_for_proof()) {
            return Ok(Err((Fault::Protocol, "the account has too many replicas")));
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.brought(dot.replica, 1, 1);
        }
        if self.take_statement(now, hashed.clone(), sig, Some(from)) {
            mark!(NothingRetracted if matches!(*statement, Statement::Revoke(_)));
            self.count(from, 1, 0, 0);
            self.state.apply_remote(draft, now, hashed, Some(sig))?;
            if self.state.own_is_fenced() {
                mark!(OwnEndHeard);
                self.rewound();
            }
            self.stated(&statement, dot, 0);
        }
        Ok(Ok(()))
    }

    /// Takes a verified statement in: at once if it retracts nothing, else when it can be alone. True if it was applied.
    pub(crate) fn take_statement(
        &mut self,
        now: Now,
        hashed: HashedCommit,
        sig: Sig,
        from: Option<PeerKey>,
    ) -> bool {
        let Some(statement) = &hashed.commit.statement else { return false };
        if !self.state.exceeding(statement) {
            return true;
        }
        let queued = self.fencing.iter().any(|waiting| waiting.hashed.commit.dot == hashed.commit.dot);
        if !queued && self.fencing.len() < FENCING_MAX {
            self.fencing.push_back(Fencing { hashed, sig, from });
        }
        self.timers.set(Timer::Fence, now.mono);
        false
    }

    /// Applies the next statement that waits to be alone; when there is none, what waited for those that were applied.
    pub(crate) fn fence_next(&mut self, now: Now, store: &impl StoreRead) -> Result<(), StoreError> {
        let Some(next) = self.fencing.pop_front() else { return self.unblock_alone(now, store) };
        // For the next one, or for what waits for this one; by then it is durable.
        self.timers.set(Timer::Fence, now.mono);
        let from = next.from;
        if !self.state.knowledge.contains(&next.hashed.commit.dot) {
            self.apply_alone(now, next, store)?;
            self.announce(now, from);
        }
        Ok(())
    }

    /// Applies what no longer has to wait, because statements came that it depends on, or that fence what it depends on.
    fn unblock_alone(&mut self, now: Now, store: &impl StoreRead) -> Result<(), StoreError> {
        let before = self.state.position();
        let mut draft = self.state.draft(store);
        self.unblock(&mut draft, now)?;
        self.settle(draft, true);
        if self.state.position() > before {
            mark!(UnblockedByStatement);
            self.announce(now, None);
            self.advance_all(now);
        }
        Ok(())
    }

    fn apply_alone(&mut self, now: Now, next: Fencing, store: &impl StoreRead) -> Result<(), StoreError> {
        let because = next.hashed.commit.dot;
        let mut draft = self.state.draft(store);
        let statement = next.hashed.commit.statement.clone();
        self.state.apply(&mut draft, now, next.hashed.commit, next.hashed.hash, Some(next.sig))?;
        let mut retracted = 0;
        if !planted::is(Bug::NoRollback) {
            retracted = self.state.roll_back(&mut draft, because)?;
        }
        mark!(RolledBack if retracted > 0);
        if self.state.own_is_fenced() {
            self.rewound();
        }
        self.settle(draft, next.from.is_some());
        if let Some(statement) = statement {
            self.stated(&statement, because, retracted);
        }
        Ok(())
    }

    /// What follows at once from a statement that was applied: nothing beyond its fences waits any more. The rest is
    /// done at the end of the input, when the statement's batch has gone out.
    pub(crate) fn stated(&mut self, statement: &Statement, because: Dot, retracted: u64) {
        if !planted::is(Bug::FenceSparesBuffer) {
            self.reorder.cut(&self.state.fences);
        }
        if self.revoked() && !planted::is(Bug::RevokedStillApplies) {
            // A revoked device gets nothing any more, not even what had arrived.
            self.reorder.clear();
        }
        self.fences_changed = true;
        let event = match statement {
            Statement::Certify(_) => return,
            Statement::Revoke(revocation) => {
                let (device, reason) = (revocation.device, revocation.reason.clone());
                mark!(RevokedHears if device == self.identity.device());
                Event::Revoked { device, reason, because, retracted }
            }
            Statement::Fork(proof) => {
                Event::Forked { replica: proof.replica(), seq: proof.seq, because, retracted }
            }
        };
        self.stated_events.push(event);
    }

    /// The rest of what follows from new statements: members, sessions and what peers are taken to know.
    pub(crate) fn enforce(&mut self, now: Now, store: &impl StoreRead) -> Result<(), StoreError> {
        if !std::mem::take(&mut self.fences_changed) {
            return Ok(());
        }
        for event in std::mem::take(&mut self.stated_events) {
            self.event(event);
        }
        for peer in self.peers.values_mut() {
            peer.heads_differ = false;
            for knowledge in [&mut peer.known, &mut peer.pushed, &mut peer.disputed] {
                self.state.fences.clamp_all(knowledge);
            }
            if let Some(want) = &mut peer.want {
                self.state.fences.clamp_all(&mut want.ranges);
            }
            if let Some(serve) = &mut peer.serve {
                self.state.fences.clamp_all(&mut serve.ranges);
                self.state.fences.clamp_all(&mut serve.covered);
            }
        }
        let all = self.revoked();
        let gone = self.peers.keys().filter(|key| all || self.state.revoked(&key.device()));
        for key in gone.copied().collect::<Vec<_>>() {
            self.part(now, key, store)?;
        }
        // The transport learns last who is no member any more: it might cut the connection before the last word.
        self.output_members();
        self.ready_peers().into_iter().for_each(|key| self.grant(key));
        self.advance_all(now);
        Ok(())
    }

    /// Ends a session of which one side is revoked, with the proof: so a revoked device learns of it, and what it knows
    /// of its own revocation reaches those who do not.
    pub(crate) fn part(&mut self, now: Now, key: PeerKey, store: &impl StoreRead) -> Result<(), StoreError> {
        let own = self.identity.device();
        mark!(OwnProofShown if self.revoked());
        mark!(RevokedCalls if self.state.revoked(&key.device()));
        let mut runs = Vec::new();
        for device in [own, key.device()] {
            let Some((_, because)) = self.state.fences.revocation(&device) else { continue };
            for stored in store.commits(&because.replica, 1, 1, usize::MAX)? {
                runs.extend(stored.sig.map(|sig| Run { commits: vec![stored.commit], sig }));
            }
        }
        self.send_ops(key, &Ops { want: 0, offset: 0, done: true, runs });
        let Some((revocation, _)) = self.state.fences.revocation(&key.device()) else {
            self.send(key, &Control::Bye(Bye { text: "the device was revoked".into() }));
            self.peer_down(now, key, None, REVOKED);
            self.output_disconnect(key, REVOKED);
            return Ok(());
        };
        let text = match revocation.reason.as_str() {
            "" => Fault::Revoked.to_string(),
            reason => format!("{}: {reason}", Fault::Revoked),
        };
        self.send(key, &Control::Error(ErrorMessage { fault: Fault::Revoked, text: text.clone() }));
        self.event(Event::PeerFault { device: key.device(), fault: Fault::Revoked, text: text.clone() });
        self.peer_down(now, key, Some(Fault::Revoked), &text);
        self.output_disconnect(key, &text);
        Ok(())
    }

    /// Gives the root key to a peer that is certified as an administrator and says that it lacks it.
    pub(crate) fn grant(&mut self, key: PeerKey) {
        let wants = |peer: &Peer| peer.ready() && !peer.has_root;
        let admin = self.state.members.get(&key.device()).is_some_and(|cert| cert.admin);
        if !admin || self.state.revoked(&key.device()) || !self.peers.get(&key).is_some_and(wants) {
            return;
        }
        if let Some(root) = self.identity.root.clone() {
            self.send(key, &Control::Grant(root));
        }
    }

    /// Takes the root key from a peer, if it is that.
    pub(crate) fn on_grant(&mut self, now: Now, key: PeerKey, root: SecretKey) {
        if root.public() != self.state.account.0 {
            return self.fault(now, key, Fault::Protocol, "it gave a key that is not the account's root key");
        }
        if self.identity.root.is_none() {
            mark!(Promoted);
            self.identity.root = Some(root.clone());
            self.outputs.push_back(Output::Granted(root));
        }
    }
}

/// Why this device has no sessions any more.
const REVOKED: &str = "this device was revoked";
