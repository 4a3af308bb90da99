//! The pairing channel: a bounded exchange of small frames with a peer that need not be a member.
//! What is said on it (a PAKE, certificates) belongs to the caller; the connection below it is
//! already encrypted and has authenticated the peer's key.
//!
//! Invariants: a channel lives for at most [`TIME_MAX`]; frames are at most [`FRAME_BYTES_MAX`]; at
//! most [`INBOUND_MAX`] channels are open to us at a time, and none while nobody listens.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use engine::identity::PeerKey;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use libp2p::swarm::ConnectionId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use crate::addresses::AddressError;
use crate::carrier::FLUSH;
use crate::frames::{self, FrameError};

/// Longest frame on a pairing channel, in bytes.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Most pairing channels that others may have open to us.
pub(crate) const INBOUND_MAX: usize = 4;
/// Longest life of a pairing channel.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest wait for the other side to accept.
const ACCEPT_TIME_MAX: Duration = Duration::from_secs(10);
/// Refusals that may be under way at a time; beyond them streams are dropped without a word.
const REFUSALS_MAX: usize = 16;

/// First frame of the side that was called: the channel is open.
const ACCEPTED: u8 = 0;
/// Nobody listens.
const NOT_LISTENING: u8 = 1;
/// Too many channels are open.
const BUSY: u8 = 2;

/// Why a pairing channel could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairConnectError {
    /// The address is not usable.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No connection could be made.
    #[error("cannot reach the other device: {0}")]
    Unreachable(String),
    /// The other device is there, but nobody on it is waiting to pair.
    #[error("the other device is not waiting for a device to join")]
    NotListening,
    /// The other device has too many attempts open.
    #[error("the other device is busy with other attempts to pair")]
    Busy,
    /// No answer in time.
    #[error("the other device did not answer in time")]
    TimedOut,
    /// The transport has been closed.
    #[error("the transport has been closed")]
    TransportClosed,
}

/// Why nobody can listen for pairing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairListenError {
    /// There is a listener already.
    #[error("somebody is already waiting for a device to join")]
    AlreadyListening,
    /// The transport has been closed.
    #[error("the transport has been closed")]
    TransportClosed,
}

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum PairChannelError {
    /// The other side closed the channel.
    #[error("the other device closed the channel")]
    Closed,
    /// The channel's time is over.
    #[error("pairing took longer than five minutes")]
    TimedOut,
    /// A frame is longer than allowed.
    #[error("a frame of {len} bytes where at most {FRAME_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The other side sent something that is not a frame.
    #[error("the other device sent a malformed frame")]
    Malformed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

impl From<FrameError> for PairChannelError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLong { len, .. } => PairChannelError::TooLong { len },
            FrameError::BadLength => PairChannelError::Malformed,
            FrameError::Truncated => PairChannelError::Closed,
            FrameError::Io(error) => PairChannelError::Io(error),
        }
    }
}

/// A peer on the local network that waits for a device to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairCandidate {
    /// Its key.
    pub peer: PeerKey,
    /// Where it was found.
    pub addresses: Vec<String>,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// An open pairing channel. Dropping it closes it.
pub struct PairChannel {
    remote: PeerKey,
    stream: BufReader<Box<dyn Duplex>>,
    deadline: tokio::time::Instant,
    /// Tells the transport that the channel is in use.
    _guard: Arc<()>,
}

impl std::fmt::Debug for PairChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PairChannel({:?})", self.remote)
    }
}

impl PairChannel {
    fn new<S>(remote: PeerKey, stream: S, guard: Arc<()>) -> PairChannel
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream: Box<dyn Duplex> = Box::new(stream);
        let deadline = tokio::time::Instant::now() + TIME_MAX;
        PairChannel { remote, stream: BufReader::new(stream), deadline, _guard: guard }
    }

    /// The other side's key, which it has proven to hold.
    pub fn remote(&self) -> PeerKey {
        self.remote
    }

    /// Sends a frame of at most [`FRAME_BYTES_MAX`] bytes. If the future is dropped before it ends,
    /// the channel is of no more use.
    pub async fn send(&mut self, frame: Vec<u8>) -> Result<(), PairChannelError> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(PairChannelError::TooLong { len: frame.len() });
        }
        let stream = self.stream.get_mut();
        let sending = async {
            frames::write_frame(stream, &frame).await?;
            stream.flush().await
        };
        match timeout_at(self.deadline, sending).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(PairChannelError::TimedOut),
        }
    }

    /// Receives the next frame. If the future is dropped before it ends, the channel is of no more use.
    pub async fn recv(&mut self) -> Result<Vec<u8>, PairChannelError> {
        match timeout_at(self.deadline, frames::read_frame(&mut self.stream, FRAME_BYTES_MAX)).await {
            Ok(frame) => frame?.ok_or(PairChannelError::Closed),
            Err(_) => Err(PairChannelError::TimedOut),
        }
    }

    /// Closes the channel after making sure, for at most two seconds, that the other side has read
    /// what was sent.
    pub async fn finish(mut self) {
        let finishing = async {
            if self.stream.close().await.is_ok() {
                // The other side's end, or anything else that it may still say, ends the wait.
                let _ = frames::read_length(&mut self.stream, FRAME_BYTES_MAX).await;
            }
        };
        let _ = timeout(FLUSH, finishing).await;
    }
}

/// Waits for devices that want to pair. Dropping it makes the transport refuse them.
#[derive(Debug)]
pub struct PairListener {
    pub(crate) channels: mpsc::Receiver<PairChannel>,
}

impl PairListener {
    /// The next channel that another device opened; `None` when the transport has been closed.
    pub async fn accept(&mut self) -> Option<PairChannel> {
        self.channels.recv().await
    }
}

/// Where the result of a call goes.
pub(crate) type ConnectReply = oneshot::Sender<Result<PairChannel, PairConnectError>>;

#[derive(Debug)]
struct Open {
    connection: ConnectionId,
    inbound: bool,
    in_use: Weak<()>,
    until: Instant,
}

/// The transport's side of pairing: who listens, and which channels are open.
#[derive(Debug)]
pub(crate) struct Desk {
    listener: Option<mpsc::Sender<PairChannel>>,
    open: Vec<Open>,
    refusals: Arc<()>,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk { listener: None, open: Vec::new(), refusals: Arc::new(()) }
    }

    pub(crate) fn listening(&self) -> bool {
        self.listener.as_ref().is_some_and(|listener| !listener.is_closed())
    }

    /// Resolves when the present listener has been dropped; never, if there is none.
    pub(crate) fn listener_dropped(&self) -> impl Future<Output = ()> + use<> {
        let listener = self.listener.clone();
        async move {
            match listener {
                Some(listener) => listener.closed().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Forgets a listener that has been dropped.
    pub(crate) fn tidy(&mut self) {
        if !self.listening() {
            self.listener = None;
        }
        let now = Instant::now();
        self.open.retain(|open| open.in_use.strong_count() > 0 && open.until > now);
    }

    pub(crate) fn listen(&mut self) -> Result<PairListener, PairListenError> {
        if self.listening() {
            return Err(PairListenError::AlreadyListening);
        }
        let (sender, channels) = mpsc::channel(INBOUND_MAX);
        self.listener = Some(sender);
        Ok(PairListener { channels })
    }

    /// True while the connection serves a pairing.
    pub(crate) fn uses(&self, connection: ConnectionId) -> bool {
        let now = Instant::now();
        self.open.iter().any(|o| o.connection == connection && o.in_use.strong_count() > 0 && o.until > now)
    }

    fn guard(&mut self, connection: ConnectionId, inbound: bool) -> Arc<()> {
        let guard = Arc::new(());
        let in_use = Arc::downgrade(&guard);
        self.open.push(Open { connection, inbound, in_use, until: Instant::now() + TIME_MAX });
        guard
    }

    /// Somebody opened a stream to us.
    pub(crate) fn called<S>(&mut self, remote: PeerKey, connection: ConnectionId, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.tidy();
        let inbound = self.open.iter().filter(|open| open.inbound).count();
        let refusal = match &self.listener {
            None => NOT_LISTENING,
            Some(_) if inbound >= INBOUND_MAX => BUSY,
            Some(listener) => {
                let listener = listener.clone();
                let guard = self.guard(connection, true);
                tokio::spawn(async move {
                    let answered = timeout(ACCEPT_TIME_MAX, answer(&mut stream, ACCEPTED)).await;
                    if matches!(answered, Ok(Ok(()))) {
                        let _ = listener.send(PairChannel::new(remote, stream, guard)).await;
                    }
                });
                return;
            }
        };
        if Arc::strong_count(&self.refusals) <= REFUSALS_MAX {
            let under_way = Arc::clone(&self.refusals);
            tokio::spawn(async move {
                let refusing = async {
                    answer(&mut stream, refusal).await?;
                    stream.close().await
                };
                let _ = timeout(FLUSH, refusing).await;
                drop(under_way);
            });
        }
    }

    /// A stream that we asked for is open: wait for the other side to accept.
    pub(crate) fn calling<S>(
        &mut self,
        remote: PeerKey,
        connection: ConnectionId,
        stream: S,
        reply: ConnectReply,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.tidy();
        let mut channel = PairChannel::new(remote, stream, self.guard(connection, false));
        tokio::spawn(async move {
            let accepting = async {
                // The stream is negotiated lazily: this is what sends the request.
                channel.stream.flush().await.map_err(|error| refused(&error))?;
                match frames::read_frame(&mut channel.stream, FRAME_BYTES_MAX).await {
                    Ok(Some(status)) if status.first() == Some(&ACCEPTED) => Ok(()),
                    Ok(Some(status)) if status.first() == Some(&BUSY) => Err(PairConnectError::Busy),
                    Ok(_) => Err(PairConnectError::NotListening),
                    Err(FrameError::Io(error)) => Err(refused(&error)),
                    Err(error) => Err(PairConnectError::Unreachable(error.to_string())),
                }
            };
            let result = match timeout(ACCEPT_TIME_MAX, accepting).await {
                Ok(result) => result,
                Err(_) => Err(PairConnectError::TimedOut),
            };
            let _ = reply.send(result.map(|()| channel));
        });
    }
}

/// A peer on which nobody listens does not offer the protocol at all, which a lazy negotiation
/// tells as an error of the stream.
fn refused(error: &io::Error) -> PairConnectError {
    let negotiation =
        error.get_ref().is_some_and(|inner| inner.is::<libp2p::core::upgrade::NegotiationError>());
    if negotiation || error.kind() == io::ErrorKind::InvalidData {
        PairConnectError::NotListening
    } else {
        PairConnectError::Unreachable(error.to_string())
    }
}

async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, status: u8) -> io::Result<()> {
    frames::write_frame(stream, &[status]).await?;
    stream.flush().await
}
