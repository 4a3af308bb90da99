//! What goes into the engine and what comes out of it, as plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::commit::{CommitHash, OpKind, Stamp};
use crate::identity::{AccountId, CertError, DeviceCert, DeviceId, Dot, PeerKey, ReplicaId, SecretKey};
use crate::name::{FieldName, RowKey, TableName};
use crate::reading::ReadFrame;
use crate::store::Batch;
use crate::value::Value;
use crate::wire::message::Fault;

/// One step of a local transaction: what to do with one row. Steps on the same row fold into one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The table.
    pub table: TableName,
    /// The row.
    pub row: RowKey,
    /// What to do.
    pub kind: OpKind,
    /// The fields to write; none for a delete.
    pub fields: BTreeMap<FieldName, Value>,
}

/// A local transaction. All of it becomes one commit, or none of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteRequest {
    /// Comes back in [`Output::Wrote`].
    pub id: u64,
    /// What to do, in order.
    pub changes: Vec<Change>,
    /// Rows that must still be in the state in which they were read: their digest then, `None` if the row
    /// was unknown. If one is not, the transaction is refused with [`WriteError::Conflict`].
    pub expect: Vec<(TableName, RowKey, Option<u128>)>,
    /// Retracted commits that this transaction restores: they leave the quarantine with it.
    pub release: Vec<Dot>,
}

/// What an administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// The device is one of the account's no longer. What this device has applied of its commits counts, the rest does not,
    /// here and elsewhere.
    Revoke {
        /// The device.
        device: DeviceId,
        /// Why, in words for people; may be empty.
        reason: String,
    },
    /// A new certificate for a device.
    Certify {
        /// The device.
        device: DeviceId,
        /// Its new name, if it gets one.
        name: Option<String>,
        /// Whether it administers, if that changes. It is given the root key when it connects; it cannot be taken away.
        admin: Option<bool>,
    },
}

/// Why an administrator's order was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The device does not hold the root key.
    #[error("this device does not administer the account")]
    NotAdministrator,
    /// There is no such device.
    #[error("the account has no device {0}")]
    UnknownDevice(DeviceId),
    /// It is revoked already.
    #[error("the device {0} is revoked")]
    Revoked(DeviceId),
    /// It is this one.
    #[error("a device cannot revoke itself: use another administrator")]
    Oneself,
    /// The reason is too long or not printable.
    #[error("a reason has at most {} bytes and no control characters", crate::config::REASON_BYTES_MAX)]
    BadReason,
    /// The certificate would not be valid.
    #[error(transparent)]
    Certificate(CertError),
    /// The account is at its limit of replicas and statements.
    #[error("the account has too many replicas and statements")]
    Full,
}

/// A local transaction that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Written {
    /// The commit's stamp, its name included.
    pub stamp: Stamp,
    /// Its place in the order in which this store applied commits.
    pub position: u64,
}

/// Why a local transaction was refused. Nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The transaction does nothing.
    #[error("the transaction writes nothing")]
    Empty,
    /// Too many bytes for one commit.
    #[error("the transaction takes {bytes} bytes, and one commit at most {max}: split it")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Too many small things for one commit: what counts is the memory that it takes where it is received.
    #[error(
        "the transaction takes {bytes} bytes of memory, and one commit at most {max}: split it, or write nested maps as text"
    )]
    TooCostly {
        /// What it takes, in bytes as [`crate::cost`] counts them.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Too many rows for one commit, or too many fields for one row.
    #[error("the transaction writes {count} {what}, and the limit is {max}: split it")]
    TooMany {
        /// How many.
        count: usize,
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A value is nested too deeply.
    #[error("a value of field {field} of row {row} is nested more than {max} levels deep")]
    TooDeep {
        /// The row.
        row: RowKey,
        /// The field.
        field: FieldName,
        /// The limit.
        max: usize,
    },
    /// An update of a row that is not there.
    #[error("there is no row {row} in table {table} to update")]
    NoSuchRow {
        /// The table.
        table: TableName,
        /// The row.
        row: RowKey,
    },
    /// A row that the transaction had read has changed since.
    #[error("row {row} of table {table} changed while the transaction was under way")]
    Conflict {
        /// The table.
        table: TableName,
        /// The row.
        row: RowKey,
    },
    /// A field carries a stamp so close to the year 4199 that none comes after it.
    #[error("a field carries the last possible time stamp and cannot be written any more")]
    StampsExhausted,
}

/// What the engine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A deadline given by `poll_timeout` has passed. A spurious one does no harm.
    Timeout,
    /// A transport reached a peer and authenticated its key.
    PeerUp(PeerKey),
    /// A transport lost a peer.
    PeerDown(PeerKey),
    /// A frame from a peer that is up. One from any other is dropped.
    Frame {
        /// The peer.
        peer: PeerKey,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// The same, read already by what [`Engine::reader`](crate::engine::Engine::reader) gave.
    Read {
        /// The peer.
        peer: PeerKey,
        /// What was read.
        frame: ReadFrame,
    },
    /// A frame that came by gossip.
    Broadcast {
        /// Its authenticated origin.
        from: PeerKey,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Local transactions, to become durable together.
    Write(Vec<WriteRequest>),
    /// What an administrator asks for. Answered by [`Output::Administered`].
    Administer {
        /// Comes back in the answer.
        id: u64,
        /// What to do.
        order: Order,
    },
    /// Drops retracted commits from the quarantine. Answered by [`Output::Released`].
    Release {
        /// Comes back in the answer.
        id: u64,
        /// The commits. What is not there is not missed.
        dots: Vec<Dot>,
    },
    /// Certificates learnt outside of a session, by pairing.
    Members(Vec<DeviceCert>),
    /// Compare with all connected peers now, whatever the timers say.
    SyncNow,
    /// Ask a peer for the digests of its rows behind a place. See [`crate::audit`].
    Audit {
        /// Comes back in [`Output::Audited`].
        id: u32,
        /// The peer.
        device: DeviceId,
        /// Behind this row, in the order of tables and keys; from the first, if `None`.
        after: Option<(TableName, RowKey)>,
        /// Whether the digests of single rows are wanted.
        detail: bool,
    },
    /// The device is about to stop: say goodbye to all peers.
    Shutdown,
}

/// What the engine wants done. Outputs are performed in order; [`Output::Commit`] is a barrier: nothing
/// after it may be performed before the batch is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Apply this to the store, durably. If that fails, drop the engine and make it anew from the store.
    Commit(Box<Batch>),
    /// Answers a [`WriteRequest`].
    Wrote {
        /// The request's id.
        id: u64,
        /// What became of it.
        result: Result<Written, WriteError>,
    },
    /// Answers [`Input::Administer`]: the commit of the statement, durable.
    Administered {
        /// The id in the question.
        id: u64,
        /// What became of it.
        result: Result<Dot, AdminError>,
    },
    /// Answers [`Input::Release`].
    Released {
        /// The id in the question.
        id: u64,
    },
    /// This device was made an administrator: keep the account's root key, and give it to the identity next time.
    Granted(SecretKey),
    /// Send a frame to a peer.
    Send {
        /// The peer.
        peer: PeerKey,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Publish a frame by gossip.
    Broadcast(Vec<u8>),
    /// End the connection to a peer.
    Disconnect {
        /// The peer.
        peer: PeerKey,
        /// One line for logs.
        reason: String,
    },
    /// A peer's answer to [`Input::Audit`].
    Audited {
        /// The question's id.
        id: u32,
        /// The answer; `None` if the peer is not connected.
        page: Option<Box<PeerPage>>,
    },
    /// The keys of the account's other devices, whenever they change.
    Members(Vec<PeerKey>),
    /// Something that people or programs may want to know.
    Event(Event),
}

/// The digest of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDigest {
    /// Its table.
    pub table: TableName,
    /// Its key.
    pub row: RowKey,
    /// Its share in the state digest.
    pub digest: u128,
}

/// Digests of our own rows from some place on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPage {
    /// The rows, ascending.
    pub rows: Vec<RowDigest>,
    /// The sum of their digests, modulo 2^128.
    pub digest: u128,
    /// Whether there are no more.
    pub ended: bool,
}

impl Default for AuditPage {
    fn default() -> Self {
        AuditPage { rows: Vec::new(), digest: 0, ended: true }
    }
}

/// What a peer says of its rows from some place on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPage {
    /// Who says it.
    pub device: DeviceId,
    /// Whether the peer knows the same commits as we do: only then must rows be equal.
    pub comparable: bool,
    /// The last row of the page; `None` if it goes to the end.
    pub upto: Option<(TableName, RowKey)>,
    /// The sum of the digests of the page's rows, modulo 2^128.
    pub digest: u128,
    /// The single rows, if they were asked for.
    pub rows: Vec<RowDigest>,
}

/// Something that people or programs may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A session with a device of the account began.
    Connected {
        /// The device.
        device: DeviceId,
    },
    /// A session ended.
    Disconnected {
        /// The device, as far as it is known.
        device: DeviceId,
        /// The fault that ended it, if one did.
        fault: Option<Fault>,
        /// One line for people.
        reason: String,
    },
    /// This device and a peer know the same commits.
    Synced {
        /// The peer.
        device: DeviceId,
    },
    /// New commits were applied.
    Applied {
        /// The position of the last.
        position: u64,
        /// How many.
        commits: u64,
        /// Whether they came from another device.
        remote: bool,
    },
    /// A value lost a true conflict; it is in the ledger.
    Conflict {
        /// Its id there.
        id: u64,
        /// The table.
        table: TableName,
        /// The row.
        row: RowKey,
        /// The field.
        field: FieldName,
    },
    /// This device's clock differs from the median of its peers' clocks.
    ClockSkew {
        /// Peers' median minus our clock, in milliseconds.
        offset_ms: i64,
        /// How many peers that is the median of.
        peers: usize,
    },
    /// A device of the account was heard of for the first time.
    Member {
        /// The device.
        device: DeviceId,
    },
    /// A peer did something that it should not have done.
    PeerFault {
        /// The peer.
        device: DeviceId,
        /// What.
        fault: Fault,
        /// One line for people.
        text: String,
    },
    /// A device is one of the account's no longer; if it is this one, this device syncs no more.
    Revoked {
        /// The device.
        device: DeviceId,
        /// Why, in the issuer's words.
        reason: String,
        /// The commit of the statement.
        because: Dot,
        /// How many commits were retracted here.
        retracted: u64,
    },
    /// A replica is proven to have forked: what is beyond `seq` no longer counts, on either branch.
    Forked {
        /// The replica.
        replica: ReplicaId,
        /// The last of its commits that counts.
        seq: u64,
        /// The commit of the statement.
        because: Dot,
        /// How many commits were retracted here.
        retracted: u64,
    },
    /// Two different commits carry one name: the author's database was copied or rewound, or its key stolen.
    Fork {
        /// The name.
        dot: Dot,
        /// The hash of the commit that this device has.
        ours: CommitHash,
        /// The hash of the other.
        theirs: CommitHash,
    },
    /// Peers know commits of this replica that this database does not have: it is an old copy. It goes on as
    /// a new incarnation, and the lost commits come back from the peers.
    Rewound {
        /// The replica that was.
        from: ReplicaId,
        /// The replica that is.
        to: ReplicaId,
    },
    /// Devices of equal knowledge have different rows. This should never happen.
    Diverged {
        /// The peer.
        device: DeviceId,
    },
}

/// Counters of one peer's session, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Operations sent.
    pub ops_sent: u64,
    /// New operations received and applied.
    pub ops_received: u64,
    /// Commits sent.
    pub commits_sent: u64,
    /// New commits received and applied.
    pub commits_received: u64,
    /// Commits received that were known already.
    pub commits_doubled: u64,
    /// Commits received that lie beyond a fence.
    #[serde(default)]
    pub commits_refused: u64,
    /// Bytes of frames sent.
    pub bytes_sent: u64,
    /// Bytes of frames received.
    pub bytes_received: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Frames dropped because they were damaged, of an old session, or of an unknown kind.
    pub frames_dropped: u64,
}

impl Traffic {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Traffic) {
        self.ops_sent += other.ops_sent;
        self.ops_received += other.ops_received;
        self.commits_sent += other.commits_sent;
        self.commits_received += other.commits_received;
        self.commits_doubled += other.commits_doubled;
        self.commits_refused += other.commits_refused;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.frames_sent += other.frames_sent;
        self.frames_received += other.frames_received;
        self.frames_dropped += other.frames_dropped;
    }
}

/// How the sync with one connected peer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStats {
    /// The peer's key.
    pub peer: PeerKey,
    /// The device.
    pub device: DeviceId,
    /// Whether its `Hello` has been accepted.
    pub ready: bool,
    /// Whether both know the same.
    pub synced: bool,
    /// Commits that we have and the peer is not known to have.
    pub behind: u64,
    /// Commits that the peer has and we do not.
    pub ahead: u64,
    /// When both last knew the same, in milliseconds since the Unix epoch; 0 for never in this session.
    pub last_sync_ms: u64,
    /// The peer's clock minus ours, in milliseconds, once measured.
    pub clock_offset_ms: Option<i64>,
    /// Whether the peer's rows are ours, as last stated at equal knowledge in this session.
    pub rows_equal: Option<bool>,
    /// Counters of this session.
    pub traffic: Traffic,
}

/// How sync stands as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStats {
    /// The account.
    pub account: AccountId,
    /// The replica this database writes as.
    pub replica: ReplicaId,
    /// Peers with a session.
    pub peers: Vec<PeerStats>,
    /// Counters since the engine started, ended sessions included.
    pub total: Traffic,
    /// When this device last knew the same as some peer, in milliseconds since the Unix epoch; 0 for never.
    pub last_sync_ms: u64,
    /// Commits that wait for what they depend on.
    pub waiting_commits: u64,
    /// Memory that those take, in bytes of their encoding.
    pub waiting_bytes: u64,
}

impl SyncStats {
    /// By how much the connected peers' clocks lead ours, in milliseconds: the median; `None` before the first
    /// measurement.
    pub fn clock_offset_ms(&self) -> Option<i64> {
        median_offset(self.peers.iter().filter_map(|peer| peer.clock_offset_ms).collect())
    }
}

/// The median. Of two middle ones the closer to 0 counts, which is our own clock: one clock that is wrong among three
/// must not accuse the others.
pub(crate) fn median_offset(mut offsets: Vec<i64>) -> Option<i64> {
    offsets.sort_unstable();
    let (upper, lower) = (offsets.get(offsets.len() / 2), offsets.get(offsets.len().saturating_sub(1) / 2));
    upper.into_iter().chain(lower).copied().min_by_key(|ms| ms.unsigned_abs())
}
