//! Packets on a stream: an unsigned LEB128 length, then a kind and a body. The length is checked before allocation.

use engine::config::{BROADCAST_BYTES_MAX, FRAME_BYTES_MAX};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest packet, in bytes: a frame and its kind.
pub(crate) const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 1;

/// What two transports tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Still here.
    Alive,
    /// A frame of the engine.
    Frame(Vec<u8>),
    /// A frame that was published.
    Broadcast(Vec<u8>),
    /// The session ends. Datagrams only: a stream just closes.
    Bye,
}

impl Packet {
    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Packet::Alive => (0, &[]),
            Packet::Frame(bytes) => (1, bytes),
            Packet::Broadcast(bytes) => (2, bytes),
            Packet::Bye => (3, &[]),
        }
    }

    /// Appends kind and body.
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        let (kind, body) = self.parts();
        to.push(kind);
        to.extend_from_slice(body);
    }

    /// Reads kind and body; `None` if they are not what this side sends.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Packet> {
        let (kind, body) = bytes.split_first()?;
        match (kind, body.len()) {
            (0, 0) => Some(Packet::Alive),
            (1, 0..=FRAME_BYTES_MAX) => Some(Packet::Frame(body.to_vec())),
            (2, 0..=BROADCAST_BYTES_MAX) => Some(Packet::Broadcast(body.to_vec())),
            (3, 0) => Some(Packet::Bye),
            _ => None,
        }
    }
}

/// Writes bytes with their length.
pub(crate) async fn write_bytes(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    let mut out = Vec::with_capacity(bytes.len() + 4);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
    to.write_all(&out).await
}

/// Reads bytes with their length; `None` at the end of the stream, or if it breaks the rules.
pub(crate) async fn read_bytes(from: &mut (impl AsyncRead + Unpin), max: usize) -> Option<Vec<u8>> {
    let mut len = 0usize;
    for shift in [0, 7, 14, 21] {
        let byte = from.read_u8().await.ok()?;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if len > max {
                return None;
            }
            let mut bytes = vec![0; len];
            from.read_exact(&mut bytes).await.ok()?;
            return Some(bytes);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_too_long_or_endless_lengths_are_refused() {
        for len in [0, 1, 127, 128, 16_384, PACKET_BYTES_MAX] {
            let mut out = Vec::new();
            write_bytes(&mut out, &vec![7; len]).await.unwrap();
            assert_eq!(
                read_bytes(&mut out.as_slice(), PACKET_BYTES_MAX).await.map(|bytes| bytes.len()),
                Some(len)
            );
            assert_eq!(read_bytes(&mut &out[..out.len() - 1], PACKET_BYTES_MAX).await, None);
            assert_eq!(
                read_bytes(&mut out.as_slice(), len.wrapping_sub(1).min(len)).await.is_some(),
                len == 0
            );
        }
        assert_eq!(read_bytes(&mut [0xff; 8].as_slice(), usize::MAX).await, None);
    }

    #[test]
    fn packets_of_unknown_kinds_and_sizes_are_refused() {
        for packet in [Packet::Alive, Packet::Frame(vec![1]), Packet::Broadcast(vec![2]), Packet::Bye] {
            let mut bytes = Vec::new();
            packet.put(&mut bytes);
            assert_eq!(Packet::parse(&bytes), Some(packet));
        }
        for bad in
            [vec![], vec![4], vec![0, 1], vec![2; BROADCAST_BYTES_MAX + 2], vec![1; PACKET_BYTES_MAX + 1]]
        {
            assert_eq!(Packet::parse(&bad), None);
        }
    }
}
