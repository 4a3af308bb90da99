//! Messages: self-contained, idempotent statements. Each may be lost, doubled or overtaken without harm.
//!
//! A payload is a kind byte and a body. Bodies are postcard structures, but for `Ops`, whose runs have
//! a form of their own (see `columns`). Fields that a later minor version adds stand at the end of a body
//! and are skipped by an older one, as are kinds it does not know.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::columns::{HashedCommit, Places, decode_runs_and_place, encode_runs};
use super::deflate::Deflated;
use super::frame::{FrameError, Opened, begin, finish, finish_with, open, payload_bytes};
use super::packed::{PackedColumns, PackedLog};
use crate::codec::{DecodeError, Reader, Writer};
use crate::commit::Commit;
use crate::config::CONTROL_BYTES_MAX;
use crate::cost::Budget;
use crate::identity::{AccountId, DeviceCert, ReplicaId, SecretKey, Sig};
use crate::knowledge::Knowledge;

/// Minor version of the protocol: what was added without breaking older devices.
pub const MINOR: u16 = 0;
/// Most heads in one `Ack` or `Announce`.
pub const HEADS_MAX: usize = crate::config::REPLICAS_MAX;
/// Bytes that most small messages take at most, and most commits that are pushed: room that is made at once.
const CONTROL_BYTES: usize = 240;
const OPS_BYTES: usize = 500;
/// Longest text in `Error` and `Bye`, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Tells two commits of one name apart: the first 8 bytes of the hash. A hint, never a proof.
pub type Tag = [u8; 8];

/// The first statement of a session: who speaks, and a first comparison of knowledge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Minor version of the protocol.
    pub minor: u16,
    /// Bits for optional features: [`HAS_ROOT`]. Unknown ones are ignored.
    pub features: u64,
    /// The speaker's certificate; its key must be the one that the transport authenticated.
    pub cert: DeviceCert,
    /// The replica it writes as.
    pub replica: ReplicaId,
    /// The session number in the receiver's last `Hello`; 0 if none has arrived.
    pub echo: u32,
    /// Digest of the speaker's knowledge.
    pub digest: [u8; 16],
    /// Digest of the tags of its heads: equal knowledge of other commits is a fork.
    pub heads_digest: [u8; 16],
}

/// What the speaker has applied durably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// Digest of the speaker's rows: equal on devices of equal knowledge, or something is very wrong.
    pub state: [u8; 16],
    /// The knowledge itself.
    pub knowledge: Knowledge,
    /// Asks the receiver to state its own.
    pub reply: bool,
    /// The tags of the heads of the replicas in `knowledge`, in its order.
    pub tags: Vec<Tag>,
}

/// The same in few bytes, for a receiver that is expected to have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// [`summary`] of the speaker's knowledge and rows.
    pub digest: [u8; 16],
    /// Asks the receiver to state its own.
    pub reply: bool,
}

/// One digest of knowledge and rows: the first 16 bytes of a BLAKE3 hash.
pub fn summary(knowledge: &Knowledge, state: u128) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"ahenk summary 1").update(&knowledge.digest()).update(&state.to_be_bytes());
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

/// Asks for commits. Replaces the speaker's earlier request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Ascends within a session, from 1.
    pub id: u32,
    /// The commits.
    pub ranges: Knowledge,
    /// How many bytes of answer may be sent before an `Ack` allows more.
    pub credit: u64,
}

/// What has arrived and is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The request whose answer is arriving; 0 if none.
    pub want: u32,
    /// Bytes of its answer that may have been sent in all.
    pub credit: u64,
    /// Bytes of unasked-for pushes received in this session, in all.
    pub pushed: u64,
    /// For replicas that grew: the length of the prefix now applied durably.
    pub heads: Vec<(ReplicaId, u64)>,
}

/// New commits that can be had from the speaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// For replicas that grew: the length of the prefix now applied durably.
    pub heads: Vec<(ReplicaId, u64)>,
    /// Their tags, in this order.
    pub tags: Vec<Tag>,
}

/// Asks for a sign of life and the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Comes back in the `Pong`.
    pub nonce: u32,
    /// The speaker's wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// Answers a `Ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// From the `Ping`.
    pub nonce: u32,
    /// The speaker's wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// Asks for digests of the receiver's rows behind a place, in the order of tables and keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Comes back in the answer.
    pub id: u32,
    /// Table and key of a row, which need not be there; `None` for the beginning.
    pub after: Option<(String, String)>,
    /// Asks for the digests of single rows too.
    pub detail: bool,
}

/// Answers an `Audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    /// From the `Audit`.
    pub id: u32,
    /// Digest of the speaker's knowledge.
    pub digest: [u8; 16],
    /// Table and key of the last row that is covered; `None` if all to the end are.
    pub upto: Option<(String, String)>,
    /// The sum of the digests of the rows covered, modulo 2^128, big-endian.
    pub state: [u8; 16],
    /// If asked for: table, key and digest of each row covered, ascending.
    pub rows: Vec<(String, String, [u8; 16])>,
}

/// Why a session ends by a fault.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error,
)]
pub enum Fault {
    /// The other side belongs to another account.
    #[error("the device belongs to another account")]
    ForeignAccount,
    /// The other side is not (or no longer) a device of the account.
    #[error("the device is not certified for this account")]
    Unauthorised,
    /// The major versions differ.
    #[error("the devices speak different versions of the protocol")]
    Version,
    /// A frame was malformed, damaged, too large or against the rules.
    #[error("a frame broke the protocol")]
    Protocol,
    /// A commit's signature does not verify.
    #[error("a commit is not signed by its author")]
    BadSignature,
    /// No valid `Hello` in time.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// Nothing was heard for too long.
    #[error("nothing was heard for too long")]
    Silent,
    /// Too many sessions at one time.
    #[error("too many devices are connected")]
    TooManyPeers,
    /// The receiver's device was revoked.
    #[error("this device was revoked")]
    Revoked,
}

/// The speaker ends the session because of a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorMessage {
    /// The kind of fault.
    pub fault: Fault,
    /// One line for people.
    pub text: String,
}

/// The speaker ends the session in good order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// One line for people.
    pub text: String,
}

/// A run of commits of one replica; the last is signed, and through its hash chain all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run<C> {
    /// Contiguous commits, at least one.
    pub commits: Vec<C>,
    /// The author's signature over the last one's hash.
    pub sig: Sig,
}

/// Commits, asked for or pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ops<C> {
    /// The request that this answers; 0 for a push.
    pub want: u32,
    /// Bytes of the answer (or of pushes in this session) sent so far, this frame's runs included. Counted
    /// in canonical bytes of commits, so that both sides agree whatever the compression.
    pub offset: u64,
    /// The answer ends here.
    pub done: bool,
    /// The runs.
    pub runs: Vec<Run<C>>,
}

/// Any message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Message {
    Hello(Hello),
    Have(Have),
    Summary(Summary),
    Want(Want),
    Ops(Ops<HashedCommit>),
    Ack(Ack),
    Announce(Announce),
    Ping(Ping),
    Pong(Pong),
    Error(ErrorMessage),
    Bye(Bye),
    /// The account's root key, for a device that is certified as an administrator.
    Grant(SecretKey),
    Audit(Audit),
    Audited(Audited),
    /// A kind of a later minor version: to be skipped.
    Unknown(u8),
}

const HELLO: u8 = 1;
const HAVE: u8 = 2;
const WANT: u8 = 3;
const OPS: u8 = 4;
const ACK: u8 = 5;
const ANNOUNCE: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;
const ERROR: u8 = 9;
const BYE: u8 = 10;
const GRANT: u8 = 11;
const SUMMARY: u8 = 12;

/// Feature bit in `Hello`: the speaker holds the account's root key.
pub const HAS_ROOT: u64 = 1;
const AUDIT: u8 = 32;
const AUDITED: u8 = 33;

/// A message to send: all kinds that are small.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Control {
    Hello(Box<Hello>),
    Have(Have),
    Summary(Summary),
    Want(Want),
    Ack(Ack),
    Announce(Announce),
    Ping(Ping),
    Pong(Pong),
    Error(ErrorMessage),
    Bye(Bye),
    Grant(SecretKey),
    Audit(Audit),
    Audited(Audited),
}

/// Packs a small message. `None` if it exceeds the cap for control frames.
pub fn pack_control(session: u32, message: &Control) -> Option<Vec<u8>> {
    let frame = match message {
        Control::Hello(body) => with_kind(HELLO, &**body),
        Control::Have(body) => with_kind(HAVE, body),
        Control::Summary(body) => with_kind(SUMMARY, body),
        Control::Want(body) => with_kind(WANT, body),
        Control::Ack(body) => with_kind(ACK, body),
        Control::Announce(body) => with_kind(ANNOUNCE, body),
        Control::Ping(body) => with_kind(PING, body),
        Control::Pong(body) => with_kind(PONG, body),
        Control::Error(body) => with_kind(ERROR, body),
        Control::Bye(body) => with_kind(BYE, body),
        Control::Grant(body) => with_kind(GRANT, &*body.to_bytes()),
        Control::Audit(body) => with_kind(AUDIT, body),
        Control::Audited(body) => with_kind(AUDITED, body),
    }?;
    let payload = payload_bytes(&frame);
    finish(session, frame, &Places::default()).filter(|frame| frame.len().max(payload) <= CONTROL_BYTES_MAX)
}

/// A frame in the making with a small message.
fn with_kind<T: Serialize>(kind: u8, body: &T) -> Option<Vec<u8>> {
    let mut frame = begin(CONTROL_BYTES);
    frame.push(kind);
    postcard::to_extend(body, frame).ok()
}

/// Packs commits. `None` if they do not fit a frame.
pub fn pack_ops(session: u32, ops: &Ops<Commit>) -> Option<Vec<u8>> {
    let mut writer = Writer::over(begin(OPS_BYTES));
    put_ops_head(&mut writer, ops.want, ops.offset, ops.done);
    let places = encode_runs(&ops.runs, &mut writer);
    finish(session, writer.into_bytes(), &places)
}

/// Packs commits by columns as a store has them, in answer to a request. `None` if they do not fit a frame.
pub(crate) fn pack_stored(
    session: u32,
    want: u32,
    offset: u64,
    done: bool,
    stored: &PackedLog,
) -> Option<Vec<u8>> {
    let mut writer = Writer::over(begin(OPS_BYTES));
    put_ops_head(&mut writer, want, offset, done);
    writer.varint(stored.runs.len() as u64);
    for run in &stored.runs {
        writer.raw(&run.head);
        writer.raw(&run.sig.0);
    }
    finish_with(session, writer.into_bytes(), &stored.columns.deflated)
}

fn put_ops_head(writer: &mut Writer, want: u32, offset: u64, done: bool) {
    writer.u8(OPS);
    writer.varint(u64::from(want));
    writer.varint(offset);
    writer.u8(u8::from(done));
}

/// Reads a frame: the sender's session number and the message. Certificates inside are not verified, those
/// of commits excepted; runs are well-formed and chained, their signatures not verified.
pub fn parse(frame: &[u8], account: &AccountId) -> Result<(u32, Message), FrameError> {
    parse_parts(frame, account).map(|(session, message, _)| (session, message))
}

/// The same, and the columns of all commits of the message, where they were deflated by themselves.
pub(crate) fn parse_parts(
    frame: &[u8],
    account: &AccountId,
) -> Result<(u32, Message, Option<PackedColumns>), FrameError> {
    let Opened { session, payload, parted } = open(frame)?;
    let mut columns = None;
    let mut reader = Reader::new(&payload);
    let kind = reader.u8()?;
    if kind != OPS && frame.len().max(payload.len()) > CONTROL_BYTES_MAX {
        return Err(FrameError::TooLarge);
    }
    let body = &payload[1..];
    let message = match kind {
        HELLO => Message::Hello(control(body)?),
        HAVE => Message::Have(control(body)?),
        SUMMARY => Message::Summary(control(body)?),
        WANT => Message::Want(control(body)?),
        OPS => {
            let mut budget = Budget::default();
            let (ops, place) = read_ops(&mut reader, account, &mut budget)?;
            let begin = place.map(|left| payload.len() - left);
            // What a later version puts behind them would be deflated with them.
            let just = parted.filter(|(front, _)| Some(*front) == begin && reader.remaining() == 0);
            columns = just.map(|(front, bytes)| PackedColumns {
                deflated: Deflated { bytes: bytes.to_vec(), length: payload.len() - front },
                bytes: ops.runs.iter().flat_map(|run| &run.commits).map(|hashed| hashed.bytes).sum(),
                cost: budget.taken(),
            });
            Message::Ops(ops)
        }
        ACK => Message::Ack(control::<Ack>(body).and_then(|ack| heads_ok(&ack.heads).map(|()| ack))?),
        ANNOUNCE => Message::Announce(
            control::<Announce>(body).and_then(|body| heads_ok(&body.heads).map(|()| body))?,
        ),
        PING => Message::Ping(control(body)?),
        PONG => Message::Pong(control(body)?),
        ERROR => {
            let error: ErrorMessage = control(body)?;
            Message::Error(ErrorMessage { text: printable(&error.text), ..error })
        }
        BYE => Message::Bye(Bye { text: printable(&control::<Bye>(body)?.text) }),
        GRANT => Message::Grant(SecretKey::from_bytes(&Zeroizing::new(control(body)?))),
        AUDIT => Message::Audit(control(body)?),
        AUDITED => Message::Audited(control(body)?),
        kind => Message::Unknown(kind),
    };
    Ok((session, message, columns))
}

/// postcard allocates for sequences as elements arrive, so a body takes memory in proportion to its length,
/// which the cap on control frames bounds.
fn control<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    postcard::take_from_bytes(body)
        .map(|(value, _)| value)
        .map_err(|_| DecodeError::Invalid("a message body"))
}

fn heads_ok(heads: &[(ReplicaId, u64)]) -> Result<(), DecodeError> {
    let plausible = heads.iter().all(|(_, seq)| *seq <= i64::MAX as u64);
    if plausible && heads.len() <= HEADS_MAX { Ok(()) } else { Err(DecodeError::Invalid("a list of heads")) }
}

/// What a stranger sent is shown to people: one short line without control characters.
fn printable(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let cut =
        line.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= TEXT_BYTES_MAX).last();
    line.truncate(cut.unwrap_or(0));
    line
}

/// Tells also how many bytes are left where the columns begin, if all runs are by columns.
fn read_ops(
    reader: &mut Reader<'_>,
    account: &AccountId,
    budget: &mut Budget,
) -> Result<(Ops<HashedCommit>, Option<usize>), DecodeError> {
    let want = u32::try_from(reader.varint()?).map_err(|_| DecodeError::BadInteger)?;
    let offset = reader.varint()?;
    let done = match reader.u8()? {
        0 => false,
        1 => true,
        tag => return Err(DecodeError::UnknownTag(tag)),
    };
    let (runs, place) = decode_runs_and_place(reader, account, budget)?;
    Ok((Ops { want, offset, done, runs }, place))
}
