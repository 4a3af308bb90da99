//! The seam between the engine's driver and a network. Owns the [`Transport`] trait and the plain
//! data that crosses it. The engine itself never calls a transport; the driver (`ahenk::Node`) does.
//!
//! Architecture invariant: nothing here names a network library. A peer is its Ed25519 public key,
//! a path is plain data, a frame is bytes.

use std::fmt;
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};

use crate::identity::PeerKey;

/// How the bytes between two devices travel. Ordered from worst to best, so that `max` is the path to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Through a relay that sees ciphertext only.
    Relayed,
    /// A direct TCP connection.
    DirectTcp,
    /// A direct QUIC connection.
    DirectQuic,
    /// Inside one process or a simulation.
    InProcess,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathKind::Relayed => "relayed",
            PathKind::DirectTcp => "direct TCP",
            PathKind::DirectQuic => "direct QUIC",
            PathKind::InProcess => "in-process",
        })
    }
}

/// The way to a connected peer, for people and for statistics. The engine takes no decision from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// Kind of the path.
    pub kind: PathKind,
    /// The remote address in the transport's own notation (a multiaddr for libp2p).
    pub address: String,
}

/// What a transport tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportEvent {
    /// A peer is reachable and frames can be sent. The transport has authenticated that the other
    /// side holds the private key of `peer`; whether it may take part is for the engine to say.
    PeerUp {
        /// The peer's authenticated key.
        peer: PeerKey,
        /// The way to it.
        path: Path,
    },
    /// The running session moved to another connection. No frame is lost or doubled by the move
    /// on a stream transport beyond what the engine repairs by itself.
    PathChanged {
        /// The peer's authenticated key.
        peer: PeerKey,
        /// The new way to it.
        path: Path,
    },
    /// The peer is gone. Frames given to `try_send` may or may not have arrived.
    PeerDown {
        /// The peer's key.
        peer: PeerKey,
        /// One line for logs and people.
        reason: String,
    },
    /// A whole frame from a peer, exactly as that peer sent it. Never longer than
    /// [`crate::config::FRAME_BYTES_MAX`].
    Frame {
        /// The peer that sent it.
        peer: PeerKey,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// A hint that reached us by gossip, perhaps through others. `from` is its authenticated origin.
    Broadcast {
        /// The member that published it.
        from: PeerKey,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// A `try_send` to this peer that gave its frame back may be tried again.
    Writable {
        /// The peer with room again.
        peer: PeerKey,
    },
    /// Round-trip time to the peer, measured by the transport, in microseconds.
    RoundTrip {
        /// The peer.
        peer: PeerKey,
        /// Microseconds.
        micros: u64,
    },
}

/// Why [`Transport::try_send`] did not take a frame. The frame comes back unharmed.
#[derive(Debug, PartialEq, Eq)]
pub enum TrySendError {
    /// The queue to this peer is full; a [`TransportEvent::Writable`] follows.
    Full(Vec<u8>),
    /// The peer is not connected; a [`TransportEvent::PeerDown`] was or will be delivered.
    Gone(Vec<u8>),
}

/// Moves frames between devices. Implementations: `transport-libp2p` for real networks and
/// `transport-sim` for the simulator.
///
/// Contract:
/// - at most one `PeerUp` per peer until its `PeerDown`; frames only between the two;
/// - frames of one peer arrive whole; a stream transport keeps their order, a datagram transport may
///   lose, double and reorder them: the engine is correct over both;
/// - all queues are bounded; when one is full `try_send` returns [`TrySendError::Full`];
/// - until a peer is among the members (see [`Transport::set_members`]) the transport delivers no
///   more from it than one frame of at most [`crate::config::CONTROL_BYTES_MAX`] bytes, its `Hello`;
///   further frames wait, and the peer is dropped when it is not admitted in time;
/// - dropping the transport closes everything.
pub trait Transport: Send {
    /// Polls for the next event. `Poll::Ready(None)` means that the transport has closed for good.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>>;

    /// Queues a frame for a peer, or gives it back.
    fn try_send(&mut self, peer: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError>;

    /// Publishes a small frame (at most [`crate::config::BROADCAST_BYTES_MAX`] bytes) to whichever
    /// members can be reached by gossip. Best effort; correctness never depends on it.
    fn broadcast(&mut self, frame: Vec<u8>);

    /// Ends the session with a peer after what is queued has been sent, or after a short time-out.
    fn disconnect(&mut self, peer: PeerKey, reason: &str);

    /// The keys of all devices of the account, without our own: those to look for, to dial and to
    /// admit. Replaces the earlier set; sessions with keys that are no longer in it are closed.
    fn set_members(&mut self, members: &[PeerKey]);
}
