//! Every limit and interval in one place, each with its unit last in the name. Wire and format
//! limits are constants, because two devices must agree on them; the rest is [`Config`].

/// Longest frame on the wire, in bytes, its own header included. Checked before allocation.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Longest control frame (everything but `Ops`), in bytes.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Longest gossip frame, in bytes.
pub const BROADCAST_BYTES_MAX: usize = 4 * 1024;
/// Longest payload after inflation, in bytes.
pub const INFLATED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Frames shorter than this, in bytes, are never deflated.
pub const DEFLATE_BYTES_MIN: usize = 1024;
/// Longest canonical encoding of one commit, in bytes. 64 KiB under the frame's cap, so that a
/// commit always fits a frame of its own.
pub const COMMIT_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;
/// What the commits of one frame may cost in memory once decoded, in bytes as [`crate::cost`] counts them. A commit has to
/// fit a frame of its own.
pub const DECODED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most commits in one run on the wire, and commits in a span of a replica's log ([`crate::commit::span`]).
pub const RUN_COMMITS_MAX: usize = 4 * 1024;
/// Most row writes in one commit.
pub const COMMIT_OPS_MAX: usize = 64 * 1024;
/// Most fields written to one row by one commit.
pub const ROW_FIELDS_MAX: usize = 4 * 1024;
/// Longest table name, in bytes of UTF-8.
pub const TABLE_BYTES_MAX: usize = 128;
/// Longest row key, in bytes of UTF-8.
pub const ROW_KEY_BYTES_MAX: usize = 512;
/// Longest field name, in bytes of UTF-8.
pub const FIELD_BYTES_MAX: usize = 128;
/// Longest device name, in bytes of UTF-8.
pub const DEVICE_NAME_BYTES_MAX: usize = 64;
/// Longest reason of a revocation, in bytes of UTF-8.
pub const REASON_BYTES_MAX: usize = 256;
/// Deepest nesting of lists and maps in a value.
pub const VALUE_DEPTH_MAX: usize = 32;
/// Most replicas (lives of database files) that one account may have.
pub const REPLICAS_MAX: usize = 1024;
/// Of those, how many are kept free for statements of the account, so that no device can keep itself from being revoked
/// by filling the rest.
pub const REPLICAS_FOR_STATEMENTS: usize = 256;
/// Of a revoked device's replicas so many count at most, those that its administrator met first: so a device that made
/// itself hundreds of them leaves room for others. An honest one has a handful.
pub const REVOKED_REPLICAS_MAX: usize = 64;
/// Most ranges that one replica's entry in a knowledge statement may have.
pub const RANGES_MAX: usize = 64;
/// Largest physical part of a stamp, in milliseconds since the Unix epoch: the year 4199. The same
/// for every device for ever, so that all refuse the same commits.
pub const STAMP_MS_MAX: u64 = (1 << 46) - 1;
/// A device's own wall clock is cut off this far below [`STAMP_MS_MAX`], in milliseconds, which
/// leaves room for successors of every stamp that a clock can give.
pub const STAMP_HEADROOM_MS: u64 = 24 * 60 * 60 * 1000;

/// What commits that wait may cost for each byte of [`Config::reorder_bytes_max`], in bytes as [`crate::cost`] counts them.
/// Long values cost little more than they travel as, many small operations some ten times, the worst some 270 times.
pub const REORDER_COST_PER_BYTE: usize = 4;

/// What may differ from device to device. All defaults are those of [`Config::default`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How far a stamp may lead our wall clock and still move our clock, in milliseconds.
    pub drift_ms_max: u64,
    /// Aim for the canonical bytes in one `Ops` frame, before compression.
    pub batch_bytes: usize,
    /// Most commits in one `Ops` frame.
    pub batch_commits_max: usize,
    /// Bytes a peer may have under way to us before it must wait for our acknowledgement.
    pub credit_bytes: u64,
    /// Bytes of unasked-for pushes under way to one peer before we only announce.
    pub push_bytes_max: u64,
    /// Runs that wait for what they depend on, over all peers, in canonical bytes; in memory they may take
    /// [`REORDER_COST_PER_BYTE`] times as much.
    pub reorder_bytes_max: usize,
    /// Time from connecting to a valid `Hello`, in milliseconds.
    pub handshake_ms_max: u64,
    /// First wait before a statement is repeated, in milliseconds; doubles up to [`Config::retry_ms_max`].
    pub retry_ms: u64,
    /// Longest wait before a statement is repeated, in milliseconds.
    pub retry_ms_max: u64,
    /// Wait for the next part of an answer before it is asked for again, in milliseconds; doubles with each time
    /// up to [`Config::want_ms_max`]. Long enough for one `Ops` frame over a slow link.
    pub want_ms: u64,
    /// Longest wait for the next part of an answer, in milliseconds.
    pub want_ms_max: u64,
    /// Silence after which we ping, in milliseconds.
    pub ping_ms: u64,
    /// Silence after which a peer counts as lost, in milliseconds.
    pub silence_ms_max: u64,
    /// Most peers with a session at one time.
    pub peers_max: usize,
    /// Difference to the median of the peers' clocks from which we warn, in milliseconds.
    pub skew_warn_ms: u64,
    /// Most entries in the conflict ledger; the oldest go first.
    pub conflicts_max: u64,
    /// Longest canonical encoding of a commit that this device makes, in bytes; at most [`COMMIT_BYTES_MAX`], which is
    /// what it takes from others.
    pub commit_bytes_max: usize,
    /// Bytes of frames for one peer that may wait in the driver before it is cut off as too slow.
    pub outbox_bytes_max: usize,
    /// Bytes of frames for all peers that may wait in the driver before the one that has most of them is cut off.
    pub outboxes_bytes_max: usize,
    /// Bytes of frames that the driver sends in a second, to all peers together; `None` for as many as possible.
    pub send_bytes_per_s_max: Option<u64>,
    /// Bytes of frames that the driver takes in a second, from all peers together; `None` for as many as possible.
    pub receive_bytes_per_s_max: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            drift_ms_max: 60_000,
            batch_bytes: 256 * 1024,
            batch_commits_max: 4096,
            credit_bytes: 4 * 1024 * 1024,
            push_bytes_max: 1024 * 1024,
            reorder_bytes_max: 16 * 1024 * 1024,
            handshake_ms_max: 10_000,
            retry_ms: 1_000,
            retry_ms_max: 30_000,
            want_ms: 10_000,
            want_ms_max: 60_000,
            ping_ms: 15_000,
            silence_ms_max: 45_000,
            peers_max: 64,
            skew_warn_ms: 60_000,
            conflicts_max: 10_000,
            commit_bytes_max: COMMIT_BYTES_MAX,
            outbox_bytes_max: 8 * 1024 * 1024,
            outboxes_bytes_max: 128 * 1024 * 1024,
            send_bytes_per_s_max: None,
            receive_bytes_per_s_max: None,
        }
    }
}

impl Config {
    /// The same with what cannot work made to work: intervals of at least 1 ms, and frames that fit the wire.
    #[must_use]
    pub fn sane(mut self) -> Config {
        for interval in [
            &mut self.retry_ms,
            &mut self.retry_ms_max,
            &mut self.want_ms,
            &mut self.want_ms_max,
            &mut self.ping_ms,
        ] {
            *interval = (*interval).max(1);
        }
        self.batch_bytes = self.batch_bytes.clamp(1, FRAME_BYTES_MAX / 4);
        self.batch_commits_max = self.batch_commits_max.clamp(1, RUN_COMMITS_MAX);
        self.credit_bytes = self.credit_bytes.max(1);
        self.commit_bytes_max = self.commit_bytes_max.min(COMMIT_BYTES_MAX);
        self
    }
}
