//! Forks: two commits of one name, both signed by their author. Noticed by the tags of heads, proven from the log.
//!
//! Invariants: a tag is a hint that makes a device look, and accuses nobody; an alarm is raised only for a run whose
//! signature verifies, and a fence only by a proof that holds the author's signatures of both branches. The proof is a
//! statement, so the outcome is the same everywhere: the replica ends at the last commit before its branches part, and what
//! was applied beyond is quarantined, on each device what that device had. That commit needs no signature of its own: the
//! author signed its hash with either branch, so the proof vouches for all before it, whoever hands it on.
//!
//! Where a branch begins before what a peer has given, the part before it is asked for, each time further back. What
//! peers know is compared by `(replica, seq)` as ever; tags (8 bytes of the hash of a replica's head) tell whether what
//! two devices know under one name is one thing.

use crate::commit::{CommitHash, link};
use crate::config::{REPLICAS_FOR_STATEMENTS, REPLICAS_MAX, RUN_COMMITS_MAX};
use crate::engine::Engine;
use crate::identity::{DeviceCert, Dot, PeerKey, ReplicaId};
use crate::io::Event;
use crate::marks::mark;
use crate::planted::{self, Bug};
use crate::replicated::Replicated;
use crate::statement::{Branch, ForkProof, NO_SIG, Statement, fork_commit};
use crate::store::{StoreError, StoreRead};
use crate::time::Now;
use crate::wire::columns::HashedCommit;
use crate::wire::message::{Run, Tag};

/// Commits that are asked for before a run whose branch begins earlier; each time four times as many.
const BACK_COMMITS: u64 = 64;

/// What a run that contradicts the log shows.
enum Shown {
    /// A fork.
    Fork(Box<ForkProof>),
    /// Its branch begins before it.
    Earlier,
    /// Nothing: there is no difference, or not all of a branch and its signature is durable yet.
    Nothing,
}

impl Replicated {
    /// The tag of what is applied last of a replica.
    pub(crate) fn tag(&self, replica: &ReplicaId) -> Tag {
        let hash = self.heads.get(replica).and_then(|head| head.hash.0.first_chunk());
        hash.copied().unwrap_or_default()
    }

    /// The tags of all replicas known, in their order.
    pub(crate) fn tags(&self) -> Vec<Tag> {
        self.knowledge.iter().map(|(replica, _)| self.tag(replica)).collect()
    }

    /// 16 bytes that are equal iff all heads are, but for a collision.
    pub(crate) fn heads_digest(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"ahenk heads 1");
        self.tags().iter().for_each(|tag| {
            hasher.update(tag);
        });
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        digest
    }

    /// The hash of a commit that is applied and durable; zeros for number 0.
    pub(crate) fn hash_at(
        &self,
        replica: &ReplicaId,
        seq: u64,
        store: &dyn StoreRead,
    ) -> Result<Option<CommitHash>, StoreError> {
        if seq == 0 {
            return Ok(Some(CommitHash::default()));
        }
        match self.heads.get(replica) {
            Some(head) if head.seq == seq => Ok(Some(head.hash)),
            Some(head) if head.seq > seq => {
                let stored = store.commits(replica, seq, 1, 1)?;
                Ok(stored.first().map(|stored| stored.commit.hash()))
            }
            _ => Ok(None),
        }
    }

    /// What a verified run shows that has another commit than the log, or builds on another.
    fn shown_by(&self, run: &Run<HashedCommit>, store: &dyn StoreRead) -> Result<Shown, StoreError> {
        let (Some(first), Some(last)) = (run.commits.first(), run.commits.last()) else {
            return Ok(Shown::Nothing);
        };
        let Dot { replica, seq } = first.commit.dot;
        match self.hash_at(&replica, seq - 1, store)? {
            None => return Ok(Shown::Nothing),
            Some(ours) if ours != first.commit.prev => return Ok(Shown::Earlier),
            Some(_) => {}
        }
        let Some((parting, ours)) = self.our_branch(run, store)? else { return Ok(Shown::Nothing) };
        let mut theirs = Branch {
            contents: run.commits[parting..].iter().map(|hashed| hashed.commit.content()).collect(),
            sig: run.sig,
        };
        if run.sig == NO_SIG && !self.close(&mut theirs, &last.commit.dot, last.hash, store)? {
            return Ok(Shown::Nothing);
        }
        let author = self.author_of(&replica, store)?;
        let (Some(author), Some(parts)) = (author, run.commits.get(parting)) else {
            return Ok(Shown::Nothing);
        };
        let end = (parts.commit.dot.seq - 1, parts.commit.prev);
        let proof = ForkProof::new(author, replica.incarnation, end, [ours, theirs]);
        debug_assert!(proof.holds(&self.account), "what is made here holds");
        Ok(Shown::Fork(Box::new(proof)))
    }

    /// The index in a run of its first commit that is another than ours, and our commits from there to a signature.
    fn our_branch(
        &self,
        run: &Run<HashedCommit>,
        store: &dyn StoreRead,
    ) -> Result<Option<(usize, Branch)>, StoreError> {
        let Some(first) = run.commits.first().map(|first| first.commit.dot) else { return Ok(None) };
        let (mut seq, mut parting, mut last) = (first.seq, None, None);
        let mut ours = Branch { contents: Vec::new(), sig: NO_SIG };
        loop {
            let page = store.commits(&first.replica, seq, RUN_COMMITS_MAX, 256 * 1024)?;
            if page.is_empty() {
                break;
            }
            for stored in page {
                let content = stored.commit.content();
                let hash = link(&stored.commit.dot, &stored.commit.prev, &content);
                if parting.is_none() {
                    let index = (seq - first.seq) as usize;
                    let Some(theirs) = run.commits.get(index) else { return Ok(None) };
                    parting = (theirs.hash != hash).then_some(index);
                }
                seq += 1;
                let Some(parting) = parting else { continue };
                ours.contents.push(content);
                last = Some((stored.commit.dot, hash));
                if let Some(sig) = stored.sig.filter(|sig| *sig != NO_SIG) {
                    ours.sig = sig;
                    return Ok(Some((parting, ours)));
                }
            }
        }
        let (Some(parting), Some((dot, hash))) = (parting, last) else { return Ok(None) };
        Ok(self.close(&mut ours, &dot, hash, store)?.then_some((parting, ours)))
    }

    /// Completes a branch that ends where an earlier proof lets its replica end: with that proof's commits and signature.
    fn close(
        &self,
        branch: &mut Branch,
        at: &Dot,
        hash: CommitHash,
        store: &dyn StoreRead,
    ) -> Result<bool, StoreError> {
        let Some((Some(fence), because)) = self.fences.fork(&at.replica) else { return Ok(false) };
        if (fence.seq, fence.hash) != (at.seq, hash) {
            return Ok(false);
        }
        let stored = store.commits(&because.replica, because.seq, 1, usize::MAX)?.pop();
        let statement = stored.and_then(|stored| stored.commit.statement);
        let Some(Statement::Fork(proof)) = statement.map(|statement| *statement) else { return Ok(false) };
        let ForkProof { branches: [beyond, _], .. } = *proof;
        branch.contents.extend(beyond.contents);
        branch.sig = beyond.sig;
        Ok(true)
    }

    fn author_of(
        &self,
        replica: &ReplicaId,
        store: &dyn StoreRead,
    ) -> Result<Option<DeviceCert>, StoreError> {
        let introduced =
            store.commits(replica, 1, 1, usize::MAX)?.pop().and_then(|stored| stored.commit.introduces);
        Ok(introduced.map(|cert| *cert).or_else(|| self.members.get(&replica.device).cloned()))
    }

    /// Whether another proof of a fork may be kept. A device can fork itself as often as it likes, and must not keep
    /// itself from being revoked by that.
    pub(crate) fn room_for_proof(&self) -> bool {
        let account = self.account.device();
        let replicas = self.heads.keys().filter(|replica| replica.device != account).count();
        replicas + self.fences.proofs() < REPLICAS_MAX - REPLICAS_FOR_STATEMENTS
    }
}

impl Engine {
    /// Looks into a verified run that contradicts the log. What of the peer's branch is lacking for a proof is asked for.
    pub(crate) fn contradicted(
        &mut self,
        now: Now,
        from: PeerKey,
        run: &Run<HashedCommit>,
        store: &dyn StoreRead,
    ) -> Result<(), StoreError> {
        let Some(first) = run.commits.first() else { return Ok(()) };
        let Dot { replica, seq } = first.commit.dot;
        if planted::is(Bug::ForkUnproven) {
            self.alarm(run, store)?;
            return Ok(());
        }
        match self.state.shown_by(run, store)? {
            Shown::Fork(proof) if self.state.room_for_proof() => {
                let hashed = HashedCommit::of(fork_commit(&self.state.account, *proof));
                mark!(ForkProven);
                if self.take_statement(now, hashed, NO_SIG, None) {
                    debug_assert!(
                        false,
                        "a commit that is applied lies beyond the place where the branches part"
                    );
                }
                self.alarm(run, store)
            }
            Shown::Fork(_) => {
                self.unprovable.insert(replica);
                self.alarm(run, store)
            }
            Shown::Earlier if seq > 1 => {
                mark!(BranchFollowed);
                let width = (4 * run.commits.len() as u64).max(BACK_COMMITS);
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.disputed.insert(replica, seq.saturating_sub(width).max(1), seq - 1);
                }
                Ok(())
            }
            Shown::Earlier | Shown::Nothing => Ok(()),
        }
    }

    /// Tells people, once for each replica.
    fn alarm(&mut self, run: &Run<HashedCommit>, store: &dyn StoreRead) -> Result<(), StoreError> {
        for hashed in &run.commits {
            let dot = hashed.commit.dot;
            let Some(ours) = self.state.hash_at(&dot.replica, dot.seq, store)? else { break };
            if ours != hashed.hash {
                if self.alarmed.insert(dot.replica) {
                    self.event(Event::Fork { dot, ours, theirs: hashed.hash });
                }
                break;
            }
        }
        Ok(())
    }

    /// Compares the tag that a peer states for its commit `seq` of a replica with ours, and asks to see its branch if it
    /// differs. Says whether it does. If our head has another number, it is kept: we may get there by what others bring,
    /// or back to it by a fence, and then this peer, who thinks that we know the same, says nothing more.
    pub(crate) fn compare_tag(&mut self, key: PeerKey, replica: &ReplicaId, seq: u64, tag: Tag) -> bool {
        let ours = self.state.heads.get(replica).map_or(0, |head| head.seq);
        if ours != seq
            && !planted::is(Bug::HeadsForgotten)
            && let Some(peer) = self.peers.get_mut(&key)
        {
            peer.heads_stated.insert(*replica, (seq, tag));
        }
        let same = ours != seq || self.state.tag(replica) == tag;
        if same || planted::is(Bug::ForkUnnoticed) || self.unprovable.contains(replica) {
            return false;
        }
        if planted::is(Bug::TagsBelieved) {
            let (dot, ours) = (Dot { replica: *replica, seq }, self.state.heads.get(replica));
            let ours = ours.map_or_else(CommitHash::default, |head| head.hash);
            self.event(Event::Fork { dot, ours, theirs: CommitHash::default() });
        }
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        peer.disputed.insert(*replica, seq.saturating_sub(BACK_COMMITS - 1).max(1), seq);
        true
    }

    /// Compares what a peer stated of heads when ours had other numbers, now that we know as much as it.
    pub(crate) fn compare_heads_stated(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let mut differ = false;
        for (replica, (seq, tag)) in std::mem::take(&mut peer.heads_stated) {
            differ |= self.compare_tag(key, &replica, seq, tag);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            mark!(BranchesMet if differ);
            peer.heads_differ |= differ;
            // What has still another number is old, or lies beyond a fence.
            peer.heads_stated.clear();
        }
    }
}
