//! Statements of the account: who is (no longer) a device of it, and which replicas are forked.
//!
//! A statement travels and lies in the log as a commit of a replica of its own, which has that one commit. The replica's
//! device is the account's root key, its incarnation a hash of the statement: so there is never another commit under
//! that dot, nothing that could be fenced, and nothing that a statement must wait for.
//!
//! Invariants: what a statement is worth follows from itself, never from who brought it or when. Certificates and
//! revocations are signed by the root key; a proof of a fork holds the author's own signatures. Statements join like sets,
//! and fences by the smaller sequence number: the order in which a device learns them cannot matter.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Reader, Writer};
use crate::commit::{
    Commit, CommitHash, ContentHash, Deps, get_cert, get_device, link, put_cert, span, verify_commit,
};
use crate::config::{COMMIT_BYTES_MAX, REASON_BYTES_MAX, REPLICAS_MAX, RUN_COMMITS_MAX};
use crate::hlc::Hlc;
use crate::identity::{AccountId, DeviceCert, DeviceId, Dot, PeerKey, ReplicaId, SecretKey, Sig};

/// The end of what counts of a replica: its last commit that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// That commit's sequence number, at least 1.
    pub seq: u64,
    /// Its hash.
    pub hash: CommitHash,
    /// Its author's signature: whoever received it inside a longer run can hand on exactly what counts. Zeros if nobody
    /// has one, because a fork ended the replica there: then a statement alone vouches for what lies before it.
    pub sig: Sig,
}

/// A device is no longer one of the account's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The device.
    pub device: DeviceId,
    /// When, by the issuer's clock, in milliseconds since the Unix epoch. For people only.
    pub issued_ms: u64,
    /// Why, in words for people: at most [`REASON_BYTES_MAX`] bytes without control characters, or empty.
    pub reason: String,
    /// What still counts of the device's replicas, by incarnation. Nothing counts of one that is not listed.
    pub fences: BTreeMap<u64, Fence>,
}

/// One of two stretches of a forked replica's log, by its links: what its commits say is not in it. The author signed
/// their hashes, whatever they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Hashes of what its commits say, from the first beyond the fence: all within a span.
    pub contents: Vec<ContentHash>,
    /// The author's signature of the last commit.
    pub sig: Sig,
}

// Two branches of full length fit a commit, with all else that a proof has.
const _: () = assert!(2 * RUN_COMMITS_MAX * 32 + 1024 <= COMMIT_BYTES_MAX);

/// A device signed two commits of one name: its database runs twice, or its key is stolen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkProof {
    /// The author's certificate.
    pub author: DeviceCert,
    /// The incarnation that forked.
    pub incarnation: u64,
    /// The last commit that counts, after which the branches part; 0 if none does.
    pub seq: u64,
    /// Its hash, which the author signed with either branch; zeros if `seq` is 0.
    pub hash: CommitHash,
    /// Both continue that commit, and their first commits differ: the smaller content is first.
    pub branches: [Branch; 2],
}

/// A replica that is proven to have forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forked {
    /// The replica.
    pub replica: ReplicaId,
    /// The last of its commits that counts; 0 if none does.
    pub seq: u64,
    /// The commit of a statement that proves it.
    pub because: Dot,
}

impl ForkProof {
    /// A proof from two branches in either order: equal proofs shall be equal commits, whoever makes them.
    pub fn new(
        author: DeviceCert,
        incarnation: u64,
        (seq, hash): (u64, CommitHash),
        mut branches: [Branch; 2],
    ) -> ForkProof {
        branches.sort_by(|one, other| one.contents.cmp(&other.contents));
        ForkProof { author, incarnation, seq, hash, branches }
    }

    /// The replica that forked.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId { device: self.author.device(), incarnation: self.incarnation }
    }

    /// Where the replica ends; `None` before its first commit.
    pub(crate) fn fence(&self) -> Option<Fence> {
        (self.seq > 0).then_some(Fence { seq: self.seq, hash: self.hash, sig: NO_SIG })
    }

    /// Whether it proves what it says.
    pub fn holds(&self, account: &AccountId) -> bool {
        self.check(account).is_some()
    }

    fn check(&self, account: &AccountId) -> Option<()> {
        self.author.check(account).ok()?;
        if self.seq > i64::MAX as u64 || (self.seq == 0 && self.hash != CommitHash::default()) {
            return None;
        }
        let [one, other] = &self.branches;
        let differ = one.contents.first()? < other.contents.first()?;
        let signed = |branch: &Branch| {
            let (first, last) = (self.seq + 1, self.seq + branch.contents.len() as u64);
            span(first) == span(last)
                && verify_commit(account, &self.author.key, &self.follow(&branch.contents), &branch.sig)
        };
        (differ && signed(one) && signed(other)).then_some(())
    }

    /// The hash of the last of the commits beyond the fence that say this.
    fn follow(&self, contents: &[ContentHash]) -> CommitHash {
        let (replica, first) = (self.replica(), self.seq + 1);
        let step = |prev, (seq, content)| link(&Dot { replica, seq }, &prev, content);
        (first..).zip(contents).fold(self.hash, step)
    }
}

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// A device of the account: its name, and whether it administers. The latest certificate of a device counts.
    Certify(DeviceCert),
    /// A device of the account no longer.
    Revoke(Revocation),
    /// A replica has forked, and is fenced. Its device stays and goes on under another incarnation.
    Fork(Box<ForkProof>),
}

impl Statement {
    /// Makes the commit that carries a certificate or a revocation, signed by the root key.
    pub fn into_commit(self, root: &SecretKey, hlc: Hlc) -> (Commit, Sig) {
        let account = AccountId(root.public());
        let commit = carry(&account, hlc, self);
        let sig = root.sign(&crate::commit::signed_message(&account, &commit.hash()));
        (commit, sig)
    }

    /// Whether a statement's commit is genuine; `sig` is what its run carries.
    pub(crate) fn genuine(&self, account: &AccountId, hash: &CommitHash, sig: &Sig) -> bool {
        match self {
            Statement::Certify(cert) => {
                cert.check(account).is_ok() && verify_commit(account, &PeerKey(account.0), hash, sig)
            }
            Statement::Revoke(_) => verify_commit(account, &PeerKey(account.0), hash, sig),
            Statement::Fork(proof) => *sig == NO_SIG && proof.holds(account),
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        match self {
            Statement::Certify(cert) => {
                writer.u8(CERTIFY);
                put_cert(writer, cert);
            }
            Statement::Revoke(revocation) => {
                writer.u8(REVOKE);
                writer.raw(revocation.device.0.as_bytes());
                writer.varint(revocation.issued_ms);
                writer.bytes(revocation.reason.as_bytes());
                writer.varint(revocation.fences.len() as u64);
                for (incarnation, fence) in &revocation.fences {
                    writer.raw(&incarnation.to_be_bytes());
                    put_fence(writer, fence);
                }
            }
            Statement::Fork(proof) => {
                writer.u8(FORK);
                put_cert(writer, &proof.author);
                writer.raw(&proof.incarnation.to_be_bytes());
                writer.varint(proof.seq);
                if proof.seq > 0 {
                    writer.raw(&proof.hash.0);
                }
                for branch in &proof.branches {
                    writer.varint(branch.contents.len() as u64);
                    branch.contents.iter().for_each(|content| writer.raw(&content.0));
                    writer.raw(&branch.sig.0);
                }
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, account: &AccountId) -> Result<Statement, DecodeError> {
        Ok(match reader.u8()? {
            CERTIFY => Statement::Certify(get_cert(reader, account)?),
            REVOKE => Statement::Revoke(get_revocation(reader)?),
            FORK => {
                let author = get_cert(reader, account)?;
                let incarnation = u64::from_be_bytes(reader.array()?);
                let seq = get_seq(reader)?;
                let hash = if seq > 0 { CommitHash(reader.array()?) } else { CommitHash::default() };
                let branches = [get_branch(reader)?, get_branch(reader)?];
                Statement::Fork(Box::new(ForkProof { author, incarnation, seq, hash, branches }))
            }
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}

const CERTIFY: u8 = 1;
const REVOKE: u8 = 2;
const FORK: u8 = 3;

/// Stands where nobody has a signature and none is needed: in the run of a proof of a fork, which is signed by what it
/// holds, and in a run that ends at a fence, for which the statement vouches. As a signature it never verifies.
pub(crate) const NO_SIG: Sig = Sig([0; 64]);

/// The commit that carries a proof of a fork. Equal proofs give equal commits, whoever makes them.
pub fn fork_commit(account: &AccountId, proof: ForkProof) -> Commit {
    carry(account, Hlc(1), Statement::Fork(Box::new(proof)))
}

fn carry(account: &AccountId, hlc: Hlc, statement: Statement) -> Commit {
    let replica = ReplicaId { device: account.device(), incarnation: 0 };
    let mut commit = Commit {
        dot: Dot { replica, seq: 1 },
        prev: CommitHash::default(),
        hlc,
        deps: Deps::new(),
        introduces: None,
        statement: Some(Box::new(statement)),
        ops: Vec::new(),
    };
    commit.dot.replica.incarnation = incarnation_of(&commit);
    commit
}

/// The incarnation under which a statement's commit stands: a hash of all else in it.
pub(crate) fn incarnation_of(commit: &Commit) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&commit.hash_unnamed(b"ahenk statement 1").as_bytes()[..8]);
    u64::from_be_bytes(bytes)
}

/// True if a revocation may give this reason.
pub fn reason_ok(reason: &str) -> bool {
    reason.len() <= REASON_BYTES_MAX && !reason.chars().any(char::is_control)
}

fn get_revocation(reader: &mut Reader<'_>) -> Result<Revocation, DecodeError> {
    let device = get_device(reader)?;
    let issued_ms = reader.varint()?;
    let reason = reader.text(REASON_BYTES_MAX, "a reason")?.to_owned();
    if !reason_ok(&reason) {
        return Err(DecodeError::Invalid("a reason"));
    }
    let count = reader.count(REPLICAS_MAX, 105, "fences")?;
    let mut fences = BTreeMap::new();
    for _ in 0..count {
        let incarnation = u64::from_be_bytes(reader.array()?);
        if fences.last_key_value().is_some_and(|(last, _)| *last >= incarnation) {
            return Err(DecodeError::Unordered("fences"));
        }
        fences.insert(incarnation, get_fence(reader)?);
    }
    Ok(Revocation { device, issued_ms, reason, fences })
}

fn put_fence(writer: &mut Writer, fence: &Fence) {
    writer.varint(fence.seq);
    writer.raw(&fence.hash.0);
    writer.raw(&fence.sig.0);
}

fn get_fence(reader: &mut Reader<'_>) -> Result<Fence, DecodeError> {
    let seq = get_seq(reader)?;
    if seq == 0 {
        return Err(DecodeError::Invalid("a fence"));
    }
    Ok(Fence { seq, hash: CommitHash(reader.array()?), sig: Sig(reader.array()?) })
}

fn get_seq(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let seq = reader.varint()?;
    if seq > i64::MAX as u64 { Err(DecodeError::Invalid("a fence")) } else { Ok(seq) }
}

fn get_branch(reader: &mut Reader<'_>) -> Result<Branch, DecodeError> {
    let count = reader.count(RUN_COMMITS_MAX, 32, "commits of a branch")?;
    let mut contents = Vec::with_capacity(count);
    for _ in 0..count {
        contents.push(ContentHash(reader.array()?));
    }
    Ok(Branch { contents, sig: Sig(reader.array()?) })
}
