//! One sync stream on one connection: the greeting, then frames both ways until either side ends it.
//!
//! Each side first states a nonce that names its present session with the other; a session goes on
//! over another connection only if both still mean the same one.
//!
//! Invariants: a stream is not read while the owner has no room; a stream that is to end is flushed
//! and read to its end, for at most [`FLUSH`]; an end that the peer begins is answered likewise, so
//! that nothing under way is cut off by the closing of the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::config::FRAME_BYTES_MAX;
use engine::identity::PeerKey;
use engine::transport::Path;
use futures::io::{BufReader, BufWriter};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::frames::{self, FrameError};
use crate::hub::{Hub, Lease, Refused};
use crate::slot::{AttachError, Next};

/// Longest time that the end of a stream may take.
pub(crate) const FLUSH: Duration = Duration::from_secs(2);
/// Longest time that a greeting may take.
const GREETING: Duration = Duration::from_secs(10);
/// A greeting holds the nonce; more is allowed for later versions, and skipped. In bytes.
const GREETING_BYTES_MAX: usize = 64;
/// Size of the read and the write buffer of a stream, in bytes.
const BUFFER_BYTES: usize = 32 * 1024;

/// Why a carrier ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarrierEnd {
    #[error("closed by the peer")]
    ByPeer,
    #[error("closed")]
    ByUs,
    #[error("the peer did not finish in time")]
    TimedOut,
    #[error("the greeting took too long")]
    GreetingTimedOut,
    #[error("the peer did not greet as it should")]
    BadGreeting,
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl CarrierEnd {
    /// Whether the stream failed under both sides, rather than one of them having ended it.
    pub(crate) fn broken(&self) -> bool {
        matches!(self, CarrierEnd::Io(_) | CarrierEnd::Frame(FrameError::Io(_) | FrameError::Truncated))
    }
}

/// Runs a carrier from its greeting to its end.
pub(crate) async fn run<S>(
    hub: Arc<Hub>,
    peer: PeerKey,
    stream: S,
    path: Path,
    dialed_by_us: bool,
) -> CarrierEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = stream.split();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
    let greeting = hub.greet(peer);
    let theirs = match timeout(GREETING, exchange(&mut reader, &mut writer, greeting.nonce())).await {
        Ok(Ok(theirs)) => theirs,
        Ok(Err(end)) => return end,
        Err(_) => return CarrierEnd::GreetingTimedOut,
    };
    match greeting.attach(theirs, path, dialed_by_us, Instant::now()) {
        Ok(lease) => {
            let end = converse(&lease, reader, writer).await;
            lease.detach(&end.to_string());
            end
        }
        Err(error) => error.into(),
    }
}

async fn exchange<R, W>(reader: &mut R, writer: &mut W, ours: u64) -> Result<u64, CarrierEnd>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    frames::write_frame(writer, &ours.to_be_bytes()).await?;
    writer.flush().await?;
    let Some(theirs) = frames::read_frame(reader, GREETING_BYTES_MAX).await? else {
        return Err(CarrierEnd::ByPeer);
    };
    let nonce = theirs.first_chunk::<8>().ok_or(CarrierEnd::BadGreeting)?;
    Ok(u64::from_be_bytes(*nonce))
}

async fn converse<R, W>(lease: &Lease, reader: R, writer: W) -> CarrierEnd
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let reading = read_all(lease, reader);
    let writing = write_all(lease, writer);
    let overdue = async {
        lease.stopping().await;
        sleep(FLUSH).await;
    };
    tokio::pin!(reading, writing, overdue);
    let (mut read_to_end, mut written, mut ended_by_us) = (false, false, false);
    loop {
        tokio::select! {
            result = &mut reading, if !read_to_end => match result {
                Ok(()) => {
                    read_to_end = true;
                    lease.remote_finished();
                }
                Err(end) => return end,
            },
            result = &mut writing, if !written => {
                written = true;
                // Whoever has nothing more to read and finishes writing ended second.
                ended_by_us = !read_to_end;
                if let Err(error) = result {
                    if read_to_end {
                        return error.into();
                    }
                    // What the peer said last may still be readable, such as why it closed.
                    lease.retire();
                }
            }
            () = &mut overdue => return CarrierEnd::TimedOut,
        }
        if read_to_end && written {
            return if ended_by_us { CarrierEnd::ByUs } else { CarrierEnd::ByPeer };
        }
    }
}

/// Reads frames until the peer finishes.
async fn read_all<R: AsyncRead + Unpin>(lease: &Lease, mut reader: R) -> Result<(), CarrierEnd> {
    while let Some(len) = frames::read_length(&mut reader, FRAME_BYTES_MAX).await? {
        let room = lease.room(len).await?;
        room.fill(frames::read_body(&mut reader, len).await?);
    }
    Ok(())
}

/// Writes frames until nothing more will come, then finishes.
async fn write_all<W: AsyncWrite + Unpin>(lease: &Lease, mut writer: W) -> std::io::Result<()> {
    loop {
        let next = match lease.poll_next() {
            Next::Wait => {
                writer.flush().await?;
                lease.next().await
            }
            next => next,
        };
        match next {
            Next::Frame(frame) => frames::write_frame(&mut writer, &frame).await?,
            Next::Wait => {}
            Next::Finish => return writer.close().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_failed_is_told_apart_from_one_that_somebody_ended() {
        let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(CarrierEnd::Io(reset()).broken());
        assert!(CarrierEnd::Frame(FrameError::Io(reset())).broken());
        assert!(CarrierEnd::Frame(FrameError::Truncated).broken());
        for end in [CarrierEnd::ByPeer, CarrierEnd::ByUs, CarrierEnd::Attach(AttachError::Closing)] {
            assert!(!end.broken(), "{end}");
        }
        assert!(!CarrierEnd::Frame(FrameError::TooLong { len: 2, max: 1 }).broken());
    }
}
