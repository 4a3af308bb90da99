//! Frames on the byte stream of `/ahenk/sync/1`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::AsyncRead;
use futures::executor::block_on;

use crate::stream_frames::{FrameError, read_frame, write_frame};

/// Bytes that arrive in pieces of a few.
struct Pieces<'a> {
    left: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let len = self.piece.min(buf.len()).min(self.left.len());
        let (now, left) = self.left.split_at(len);
        buf[..len].copy_from_slice(now);
        self.left = left;
        Poll::Ready(Ok(len))
    }
}

/// Any bytes as the stream: frames come out whole and within the limit, and are written as what they were read from.
pub fn sync_stream(data: &[u8]) {
    let [max, piece, data @ ..] = data else { return };
    let max = [64, 64 * 1024, 1024 * 1024, usize::from(*max)][usize::from(*max % 4)];
    let mut pieces = Pieces { left: data, piece: usize::from(*piece) + 1 };
    let mut written = Vec::new();
    let end = loop {
        match block_on(read_frame(&mut pieces, max)) {
            Ok(Some(frame)) => {
                assert!(frame.len() <= max);
                block_on(write_frame(&mut written, &frame)).expect("a vector takes everything");
                assert_eq!(written, data[..data.len() - pieces.left.len()]);
            }
            end => break end,
        }
    };
    match end {
        Ok(_) => assert_eq!(written, data),
        // Nothing is read behind the length.
        Err(FrameError::TooLong { len, .. }) => {
            assert!(len > max && written.len() + 4 >= data.len() - pieces.left.len())
        }
        Err(FrameError::BadLength) => assert!(written.len() + 4 >= data.len() - pieces.left.len()),
        Err(FrameError::Truncated) => assert!(pieces.left.is_empty()),
        Err(FrameError::Io(error)) => panic!("memory does not fail: {error}"),
    }
}
