//! Commits: the unit of the log. One local transaction, applied whole or not at all, everywhere.
//!
//! Invariants of a [`Commit`] that was built or decoded here: `seq` is at least 1; the first commit of a
//! replica, and no other, carries its device's certificate, unless it is a statement of the account; operations ascend strictly by table and row, so
//! a row occurs once; every size is within `config`; the stamp is one that all devices accept.
//! A commit's canonical form is [`Commit::encode`], whatever form it travels or lies on disk in. It is hashed in two
//! steps, so that a chain of commits can be shown by 32 bytes for each of them: first its *content*, which is all of it
//! but its name and the hash before it, then these and the content's hash ([`link`]). The last is what is signed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::{DecodeError, Put, Reader, Writer, bytes_len, varint_len};
use crate::config::{
    COMMIT_BYTES_MAX, COMMIT_OPS_MAX, DEVICE_NAME_BYTES_MAX, FIELD_BYTES_MAX, REPLICAS_MAX, ROW_FIELDS_MAX,
    ROW_KEY_BYTES_MAX, RUN_COMMITS_MAX, TABLE_BYTES_MAX,
};
use crate::cost::{self, Budget};
use crate::fields::FieldValues;
use crate::hlc::Hlc;
use crate::identity::{
    AccountId, DeviceCert, DeviceId, Dot, Identity, PeerKey, ReplicaId, Sig, Verifiers, hex, verify,
};
use crate::name::{FieldName, RowKey, TableName};
use crate::planted::{self, Bug};
use crate::statement::{Statement, incarnation_of};
use crate::value::Value;

/// A replica's name, encoded.
const REPLICA_BYTES: usize = 24;

/// What stands before a content that is hashed.
const CONTENT: &[u8] = b"ahenk content 2";
/// What stands before a name, the hash before it and a content's hash that are hashed.
const LINK: &[u8] = b"ahenk commit 2";
const LINK_BYTES: usize = LINK.len() + REPLICA_BYTES + 8 + 32 + 32;

/// BLAKE3 hash of what a commit says: of its canonical encoding without its name and the hash before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "={}", hex(&self.0[..4]))
    }
}

/// Hash of a commit: its place in its replica's log, and what it says. Given by [`link`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct CommitHash(pub [u8; 32]);

impl fmt::Debug for CommitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", hex(&self.0[..4]))
    }
}

/// What an operation does to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpKind {
    /// Creates the row if it is not there, and writes fields.
    Put,
    /// Writes fields; does not bring a deleted row back.
    Update,
    /// Deletes the row.
    Delete,
    /// Deletes the row and creates it anew with these fields only.
    Replace,
}

impl OpKind {
    pub(crate) fn tag(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_tag(tag: u8) -> Result<OpKind, DecodeError> {
        Ok(match tag {
            0 => OpKind::Put,
            1 => OpKind::Update,
            2 => OpKind::Delete,
            3 => OpKind::Replace,
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }

    /// Whether what was in the row before is deleted.
    pub fn deletes(self) -> bool {
        matches!(self, OpKind::Delete | OpKind::Replace)
    }

    /// Whether the row is (again) there.
    pub fn inserts(self) -> bool {
        matches!(self, OpKind::Put | OpKind::Replace)
    }
}

/// One operation of a commit: what it does to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// The table.
    pub table: TableName,
    /// The row.
    pub row: RowKey,
    /// What is done.
    pub kind: OpKind,
    /// The fields written. Empty for a delete.
    pub fields: FieldValues,
}

/// What an author had seen: for each other replica, the length of the prefix that it had applied. In a
/// commit, only the entries that grew since the author's previous commit.
pub type Deps = BTreeMap<ReplicaId, u64>;

/// One transaction of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its name for ever.
    pub dot: Dot,
    /// Hash of the replica's previous commit; zeros for the first.
    pub prev: CommitHash,
    /// Orders its writes against others to the same fields.
    pub hlc: Hlc,
    /// What its author had newly seen.
    pub deps: Deps,
    /// The author's certificate, in the first commit of each replica.
    pub introduces: Option<Box<DeviceCert>>,
    /// What the account says, in a commit of its own: see [`Statement`].
    pub statement: Option<Box<Statement>>,
    /// What it does, ascending by table and row.
    pub ops: Vec<Op>,
}

impl Commit {
    /// The one byte form that is hashed and signed.
    pub fn encode(&self) -> Vec<u8> {
        // Room for most commits of one operation.
        let mut writer = Writer::with_capacity(256);
        self.encode_to(&mut writer);
        writer.into_bytes()
    }

    /// Appends what [`Commit::encode`] gives.
    pub fn encode_to(&self, writer: &mut Writer) {
        put_replica(writer, &self.dot.replica);
        writer.varint(self.dot.seq);
        writer.raw(&self.prev.0);
        self.encode_content(writer);
    }

    /// Appends the canonical form from behind `prev` on.
    fn encode_content(&self, writer: &mut Writer) {
        writer.raw(&self.hlc.0.to_be_bytes());
        put_deps(writer, &self.deps);
        match (&self.introduces, &self.statement) {
            (_, Some(statement)) => {
                writer.u8(2);
                statement.encode(writer);
            }
            (introduces, None) => put_introduction(writer, introduces.as_deref()),
        }
        writer.varint(self.ops.len() as u64);
        for op in &self.ops {
            writer.u8(op.kind.tag());
            writer.bytes(op.table.as_str().as_bytes());
            writer.bytes(op.row.as_str().as_bytes());
            writer.varint(op.fields.len() as u64);
            for (field, value) in &op.fields {
                writer.bytes(field.as_str().as_bytes());
                value.encode(writer);
            }
        }
    }

    /// Bytes of the canonical form before the content.
    fn head_len(&self) -> usize {
        REPLICA_BYTES + varint_len(self.dot.seq) + self.prev.0.len()
    }

    /// Hash of what it says.
    pub fn content(&self) -> ContentHash {
        self.put_content(&mut Writer::with_capacity(256))
    }

    /// Hash of what it says, which is put into `scratch`, in place of all that was there, to be hashed in one go.
    fn put_content(&self, scratch: &mut Writer) -> ContentHash {
        scratch.clear();
        scratch.raw(CONTENT);
        self.encode_content(scratch);
        ContentHash(*blake3::hash(scratch.as_bytes()).as_bytes())
    }

    /// Its hash.
    pub fn hash(&self) -> CommitHash {
        link(&self.dot, &self.prev, &self.content())
    }

    /// Its hash, and the length of its canonical encoding. What was in `scratch` is lost.
    pub(crate) fn hash_and_len(&self, scratch: &mut Writer) -> (CommitHash, usize) {
        let content = self.put_content(scratch);
        (link(&self.dot, &self.prev, &content), self.head_len() + scratch.len() - CONTENT.len())
    }

    /// Its hash, where its canonical encoding is at hand.
    pub(crate) fn hash_encoded(&self, encoded: &[u8]) -> CommitHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(CONTENT).update(encoded.get(self.head_len()..).unwrap_or_default());
        link(&self.dot, &self.prev, &ContentHash(*hasher.finalize().as_bytes()))
    }

    /// Hash of all in its canonical form but the incarnation, which is taken to be 0.
    pub(crate) fn hash_unnamed(&self, domain: &[u8]) -> blake3::Hash {
        let mut writer = Writer::with_capacity(256);
        put_replica(&mut writer, &ReplicaId { incarnation: 0, ..self.dot.replica });
        writer.varint(self.dot.seq);
        writer.raw(&self.prev.0);
        self.encode_content(&mut writer);
        blake3::Hasher::new().update(domain).update(writer.as_bytes()).finalize()
    }

    /// Bytes of what [`Commit::encode`] gives, without making it.
    pub fn encoded_len(&self) -> usize {
        if self.statement.is_some() {
            return self.encode().len();
        }
        let introduction = self.introduces.as_deref().map_or(0, cert_len);
        let deps = self.deps.values().map(|seq| REPLICA_BYTES + varint_len(*seq));
        let ops = self.ops.iter().map(|op| {
            let names = bytes_len(op.table.as_str().len()) + bytes_len(op.row.as_str().len());
            let fields = op.fields.iter();
            let fields = fields.map(|(name, value)| bytes_len(name.as_str().len()) + value.encoded_len());
            1 + names + varint_len(op.fields.len() as u64) + fields.sum::<usize>()
        });
        let counts = varint_len(self.deps.len() as u64) + 1 + varint_len(self.ops.len() as u64);
        self.head_len() + size_of::<u64>() + counts + introduction + deps.sum::<usize>() + ops.sum::<usize>()
    }

    /// Reads the canonical form; `introduced` certificates are of `account` and have been verified.
    pub fn decode(bytes: &[u8], account: &AccountId) -> Result<Commit, DecodeError> {
        Commit::decode_within(bytes, account, &mut Budget::default())
    }

    /// The same, taking what the commit costs from the budget first.
    pub(crate) fn decode_within(
        bytes: &[u8],
        account: &AccountId,
        budget: &mut Budget,
    ) -> Result<Commit, DecodeError> {
        if bytes.len() > COMMIT_BYTES_MAX {
            return Err(DecodeError::TooLarge("a commit"));
        }
        budget.take(cost::COMMIT)?;
        let mut reader = Reader::new(bytes);
        let replica = get_replica(&mut reader)?;
        let dot = Dot { replica, seq: reader.varint()? };
        let prev = CommitHash(reader.array()?);
        let hlc = Hlc(u64::from_be_bytes(reader.array()?));
        let deps = get_deps(&mut reader, budget)?;
        let (introduces, statement) = get_beginning(&mut reader, account, budget, bytes.len())?;
        let count = reader.count(COMMIT_OPS_MAX, 6, "operations of a commit")?;
        budget.take_each(count, cost::OP)?;
        let mut ops = Vec::with_capacity(count);
        for _ in 0..count {
            ops.push(get_op(&mut reader, budget)?);
        }
        reader.finish()?;
        let commit = Commit { dot, prev, hlc, deps, introduces, statement, ops };
        commit.check()?;
        if (commit.dot.replica.device == account.device()) != commit.statement.is_some() {
            return Err(DecodeError::Invalid("a commit in the account's name"));
        }
        Ok(commit)
    }

    /// Checks the invariants that reading the parts does not.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.dot.seq == 0 || self.dot.seq > i64::MAX as u64 {
            return Err(DecodeError::Invalid("a sequence number"));
        }
        if self.statement.is_some() {
            return self.check_statement();
        }
        let first = self.dot.seq == 1;
        if first != self.introduces.is_some() || first != (self.prev == CommitHash::default()) {
            return Err(DecodeError::Invalid("the start of a replica's log"));
        }
        if self.introduces.as_ref().is_some_and(|cert| cert.device() != self.dot.replica.device) {
            return Err(DecodeError::Invalid("a certificate of another device"));
        }
        if !self.hlc.acceptable() {
            return Err(DecodeError::Invalid("a stamp"));
        }
        if self.deps.contains_key(&self.dot.replica) {
            return Err(DecodeError::Invalid("a dependency on oneself"));
        }
        if !self.ops.is_sorted_by(|a, b| (&a.table, &a.row) < (&b.table, &b.row)) {
            return Err(DecodeError::Unordered("operations"));
        }
        if self.ops.iter().any(|op| op.kind == OpKind::Delete && !op.fields.is_empty()) {
            return Err(DecodeError::Invalid("a delete with fields"));
        }
        Ok(())
    }

    fn check_statement(&self) -> Result<(), DecodeError> {
        let bare = self.introduces.is_none() && self.deps.is_empty() && self.ops.is_empty();
        let alone = self.dot.seq == 1 && self.prev == CommitHash::default();
        if !bare || !alone || self.dot.replica.incarnation != incarnation_of(self) {
            return Err(DecodeError::Invalid("a statement's commit"));
        }
        if self.hlc.acceptable() { Ok(()) } else { Err(DecodeError::Invalid("a stamp")) }
    }

    /// The stamp of this commit's writes in the total order of writes.
    pub fn stamp(&self) -> Stamp {
        Stamp { hlc: self.hlc, dot: self.dot }
    }
}

/// A place in the total order of writes: by clock, then replica (device first), then sequence number.
/// Over writes; never over values, and never over who relayed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The writer's clock.
    pub hlc: Hlc,
    /// The commit that wrote.
    pub dot: Dot,
}

/// The hash of a commit of this name that follows the one with the hash `prev` and says this.
pub fn link(dot: &Dot, prev: &CommitHash, content: &ContentHash) -> CommitHash {
    let (device, incarnation) = (dot.replica.device.0.as_bytes(), dot.replica.incarnation.to_be_bytes());
    let seq = dot.seq.to_be_bytes();
    let (mut bytes, mut at) = ([0; LINK_BYTES], 0);
    for part in [LINK, device, &incarnation, &seq, &prev.0, &content.0] {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    CommitHash(*blake3::hash(&bytes).as_bytes())
}

/// Which span of its replica's log a commit is in. A span has [`RUN_COMMITS_MAX`] commits, and no run goes beyond the end of
/// one. So wherever the last commit of a span is applied its signature is held, and from no commit is it further than that
/// to a signature: which bounds every proof of a fork.
pub fn span(seq: u64) -> u64 {
    seq.saturating_sub(1) / RUN_COMMITS_MAX as u64
}

pub(crate) fn signed_message(account: &AccountId, hash: &CommitHash) -> [u8; 85] {
    let mut message = [0; 85];
    message[..21].copy_from_slice(b"ahenk signed commit 1");
    message[21..53].copy_from_slice(&account.0);
    message[53..].copy_from_slice(&hash.0);
    message
}

/// Signs a commit, and through its hash all earlier ones of its replica.
pub fn sign_commit(identity: &Identity, hash: &CommitHash) -> Sig {
    identity.secret.sign(&signed_message(&identity.account(), hash))
}

/// Verifies the author's signature.
pub fn verify_commit(account: &AccountId, author: &PeerKey, hash: &CommitHash, sig: &Sig) -> bool {
    verify(&author.0, &signed_message(account, hash), sig)
}

impl Verifiers {
    /// As [`verify_commit`].
    pub(crate) fn verify_commit(
        &mut self,
        account: &AccountId,
        author: &PeerKey,
        hash: &CommitHash,
        sig: &Sig,
    ) -> bool {
        self.verify(&author.0, &signed_message(account, hash), sig)
    }
}

pub(crate) fn put_replica(writer: &mut impl Put, replica: &ReplicaId) {
    writer.raw(replica.device.0.as_bytes());
    writer.raw(&replica.incarnation.to_be_bytes());
}

pub(crate) fn get_replica(reader: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
    let device = get_device(reader)?;
    Ok(ReplicaId { device, incarnation: u64::from_be_bytes(reader.array()?) })
}

pub(crate) fn put_deps(writer: &mut Writer, deps: &Deps) {
    writer.varint(deps.len() as u64);
    for (replica, seq) in deps {
        put_replica(writer, replica);
        writer.varint(*seq);
    }
}

fn get_deps(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<Deps, DecodeError> {
    let count = reader.count(REPLICAS_MAX, 25, "dependencies")?;
    budget.take_deps(count)?;
    let mut deps = Deps::new();
    for _ in 0..count {
        let replica = get_replica(reader)?;
        if deps.last_key_value().is_some_and(|(last, _)| *last >= replica) {
            return Err(DecodeError::Unordered("dependencies"));
        }
        let seq = reader.varint()?;
        if seq == 0 || seq > i64::MAX as u64 {
            return Err(DecodeError::Invalid("a dependency"));
        }
        deps.insert(replica, seq);
    }
    Ok(deps)
}

pub(crate) fn put_introduction(writer: &mut Writer, cert: Option<&DeviceCert>) {
    let Some(cert) = cert else { return writer.u8(0) };
    writer.u8(1);
    put_cert(writer, cert);
}

pub(crate) fn put_cert(writer: &mut Writer, cert: &DeviceCert) {
    writer.raw(&cert.key.0);
    writer.varint(cert.issued_ms);
    writer.u8(u8::from(cert.admin));
    writer.bytes(cert.name.as_bytes());
    writer.raw(&cert.sig.0);
}

/// Bytes that [`put_cert`] writes.
fn cert_len(cert: &DeviceCert) -> usize {
    cert.key.0.len() + varint_len(cert.issued_ms) + 1 + bytes_len(cert.name.len()) + cert.sig.0.len()
}

/// What a commit may begin with, of which it has one at most.
type Beginning = (Option<Box<DeviceCert>>, Option<Box<Statement>>);

/// Reads the beginning of a commit of so many canonical bytes.
fn get_beginning(
    reader: &mut Reader<'_>,
    account: &AccountId,
    budget: &mut Budget,
    bytes: usize,
) -> Result<Beginning, DecodeError> {
    Ok(match reader.u8()? {
        0 => (None, None),
        1 => {
            budget.take(cost::CERT)?;
            (Some(Box::new(get_cert(reader, account)?)), None)
        }
        2 => {
            budget.take_statement(bytes)?;
            (None, Some(Box::new(Statement::decode(reader, account)?)))
        }
        tag => return Err(DecodeError::UnknownTag(tag)),
    })
}

/// Reads what [`put_introduction`] wrote.
pub(crate) fn get_introduction(
    reader: &mut Reader<'_>,
    account: &AccountId,
    budget: &mut Budget,
) -> Result<Option<Box<DeviceCert>>, DecodeError> {
    match get_beginning(reader, account, budget, reader.remaining())? {
        (introduces, None) => Ok(introduces),
        (_, Some(_)) => Err(DecodeError::Invalid("a statement among columns")),
    }
}

/// Reads a certificate and verifies it.
pub(crate) fn get_cert(reader: &mut Reader<'_>, account: &AccountId) -> Result<DeviceCert, DecodeError> {
    let key = PeerKey(reader.array()?);
    let issued_ms = reader.varint()?;
    let admin = match reader.u8()? {
        0 => false,
        1 => true,
        tag => return Err(DecodeError::UnknownTag(tag)),
    };
    let name = reader.text(DEVICE_NAME_BYTES_MAX, "a device name")?.to_owned();
    let cert = DeviceCert { account: *account, key, name, issued_ms, admin, sig: Sig(reader.array()?) };
    if !planted::is(Bug::AuthorUnchecked) {
        cert.check(account).map_err(|_| DecodeError::Invalid("a certificate"))?;
    }
    Ok(cert)
}

pub(crate) fn get_device(reader: &mut Reader<'_>) -> Result<DeviceId, DecodeError> {
    Ok(DeviceId(Uuid::from_bytes(reader.array()?)))
}

fn get_op(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<Op, DecodeError> {
    let kind = OpKind::from_tag(reader.u8()?)?;
    let table = get_table(reader)?;
    let row = get_row(reader)?;
    let count = reader.count(ROW_FIELDS_MAX, 3, "fields of a row")?;
    budget.take(table.as_str().len() + row.as_str().len())?;
    budget.take_each(count, cost::FIELD)?;
    let mut fields = FieldValues::with_capacity(count);
    for _ in 0..count {
        let field = get_field(reader)?;
        if fields.last().is_some_and(|last| *last >= field) {
            return Err(DecodeError::Unordered("fields"));
        }
        budget.take(field.as_str().len())?;
        fields.push(field, Value::decode_within(reader, budget)?);
    }
    Ok(Op { table, row, kind, fields })
}

pub(crate) fn get_table(reader: &mut Reader<'_>) -> Result<TableName, DecodeError> {
    let text = reader.text(TABLE_BYTES_MAX, "a table name")?;
    TableName::new(text).map_err(|_| DecodeError::Invalid("a table name"))
}

pub(crate) fn get_row(reader: &mut Reader<'_>) -> Result<RowKey, DecodeError> {
    let text = reader.text(ROW_KEY_BYTES_MAX, "a row key")?;
    RowKey::new(text).map_err(|_| DecodeError::Invalid("a row key"))
}

pub(crate) fn get_field(reader: &mut Reader<'_>) -> Result<FieldName, DecodeError> {
    let text = reader.text(FIELD_BYTES_MAX, "a field name")?;
    FieldName::new(text).map_err(|_| DecodeError::Invalid("a field name"))
}
