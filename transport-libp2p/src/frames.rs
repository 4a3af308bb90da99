//! Frames on a byte stream: an unsigned LEB128 length, then that many bytes.
//!
//! Invariants: a length over the limit is refused before anything is allocated for it; memory for
//! a frame grows only with the bytes that have really arrived; a length has one encoding only.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest encoded length, in bytes. Enough for 256 MiB, far over every limit in use.
const LENGTH_BYTES_MAX: usize = 4;
/// Memory set aside for a frame before its first byte has arrived, in bytes.
const FIRST_ALLOCATION_BYTES_MAX: usize = 16 * 1024;

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The peer announced more than may be sent.
    #[error("a frame of {len} bytes where at most {max} are allowed")]
    TooLong { len: usize, max: usize },
    /// The length is not a minimal LEB128 number of at most four bytes.
    #[error("a malformed frame length")]
    BadLength,
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The stream failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads the length of the next frame; `None` if the peer closed the stream between two frames.
pub(crate) async fn read_length<R: AsyncRead + Unpin>(
    reader: &mut R,
    max: usize,
) -> Result<Option<usize>, FrameError> {
    let mut len = 0usize;
    for index in 0..LENGTH_BYTES_MAX {
        let mut byte = [0];
        if reader.read(&mut byte).await? == 0 {
            return if index == 0 { Ok(None) } else { Err(FrameError::Truncated) };
        }
        len |= usize::from(byte[0] & 0x7f) << (7 * index);
        if byte[0] & 0x80 == 0 {
            if byte[0] == 0 && index > 0 {
                return Err(FrameError::BadLength);
            }
            return if len > max { Err(FrameError::TooLong { len, max }) } else { Ok(Some(len)) };
        }
    }
    Err(FrameError::BadLength)
}

/// Reads a frame's bytes, once its length has been read and allowed.
pub(crate) async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    len: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut body = Vec::with_capacity(len.min(FIRST_ALLOCATION_BYTES_MAX));
    reader.take(len as u64).read_to_end(&mut body).await?;
    if body.len() == len { Ok(body) } else { Err(FrameError::Truncated) }
}

/// Reads a whole frame; `None` if the peer closed the stream between two frames.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    max: usize,
) -> Result<Option<Vec<u8>>, FrameError> {
    match read_length(reader, max).await? {
        Some(len) => Ok(Some(read_body(reader, len).await?)),
        None => Ok(None),
    }
}

/// Writes a frame. Does not flush.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, frame: &[u8]) -> io::Result<()> {
    let mut length = [0; 10];
    let mut used = 0;
    let mut rest = frame.len();
    loop {
        length[used] = (rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 };
        used += 1;
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    writer.write_all(&length[..used]).await?;
    writer.write_all(frame).await
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    fn read(bytes: &[u8], max: usize) -> Result<Option<Vec<u8>>, FrameError> {
        block_on(read_frame(&mut Cursor::new(bytes), max))
    }

    #[test]
    fn frames_of_every_length_class_come_back_whole() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 1024 * 1024] {
            let frame = vec![7; len];
            let mut wire = Vec::new();
            block_on(write_frame(&mut wire, &frame)).expect("a vector takes everything");
            assert_eq!(read(&wire, 1024 * 1024).expect("valid"), Some(frame));
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_without_reading_on() {
        let error = read(&[0x81, 0x80, 0x40], 1024 * 1024).expect_err("one byte over 1 MiB");
        assert!(matches!(error, FrameError::TooLong { len: 1_048_577, max: 1_048_576 }), "{error}");
    }

    #[test]
    fn malformed_and_truncated_input_is_refused() {
        assert!(matches!(read(&[0xff; 8], usize::MAX), Err(FrameError::BadLength)));
        assert!(matches!(read(&[0x80, 0x00], 10), Err(FrameError::BadLength)), "two encodings of zero");
        assert!(matches!(read(&[0x80], 10), Err(FrameError::Truncated)));
        assert!(matches!(read(&[5, 1, 2], 10), Err(FrameError::Truncated)));
        assert!(matches!(read(&[], 10), Ok(None)));
    }
}
