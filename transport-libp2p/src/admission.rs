//! `/ahenk/relay/1`: a device shows a relay its certificate, so that the relay knows of which account it is.
//!
//! The device asks with one frame, [`DeviceCert::to_bytes`]; the relay answers with one frame of one byte, a
//! [`Verdict`]. A relay offers the protocol only if it serves some accounts and not others, so a device shows its
//! certificate to nobody who has no use for it.
//!
//! Invariants: a request is at most [`DeviceCert::BYTES_MAX`] bytes and an answer one; a certificate counts only for
//! the key that the connection has proven.

use std::io;

use engine::identity::{AccountId, DeviceCert, PeerKey};
use futures::{AsyncRead, AsyncWrite};
use libp2p::StreamProtocol;
use libp2p::request_response::{self, ProtocolSupport};

use crate::frames;

/// The name of the protocol.
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/ahenk/relay/1");
/// Requests that one connection may have under way.
const STREAMS_MAX: usize = 4;

/// What a relay says to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The relay serves this device.
    Served,
    /// The certificate is genuine, of an account that the relay does not serve.
    OtherAccount,
    /// It is not a certificate, or not of the device that shows it.
    NotGenuine,
    /// An answer that this version does not know.
    Unknown(u8),
}

impl Verdict {
    fn byte(self) -> u8 {
        match self {
            Verdict::Served => 0,
            Verdict::OtherAccount => 1,
            Verdict::NotGenuine => 2,
            Verdict::Unknown(byte) => byte,
        }
    }

    fn of(byte: u8) -> Verdict {
        match byte {
            0 => Verdict::Served,
            1 => Verdict::OtherAccount,
            2 => Verdict::NotGenuine,
            byte => Verdict::Unknown(byte),
        }
    }

    /// Why the relay does not serve us, if it does not.
    pub(crate) fn refusal(self) -> Option<String> {
        match self {
            Verdict::Served => None,
            Verdict::OtherAccount => Some("the relay does not serve this account".to_owned()),
            Verdict::NotGenuine => Some("the relay does not accept this device's certificate".to_owned()),
            Verdict::Unknown(byte) => Some(format!("the relay refused this device (reason {byte})")),
        }
    }
}

/// What a relay thinks of a certificate that the holder of this key shows.
pub(crate) fn judge(
    request: &[u8],
    shown_by: Option<PeerKey>,
    served: impl Fn(&AccountId) -> bool,
) -> Verdict {
    match DeviceCert::from_bytes(request) {
        Ok(cert) if Some(cert.key) != shown_by => Verdict::NotGenuine,
        Ok(cert) if served(&cert.account) => Verdict::Served,
        Ok(_) => Verdict::OtherAccount,
        Err(_) => Verdict::NotGenuine,
    }
}

/// Requests and answers as frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Codec;

/// Shows certificates, or has them shown.
pub(crate) type Behaviour = request_response::Behaviour<Codec>;
/// What comes of it.
pub(crate) type Event = request_response::Event<Vec<u8>, Verdict>;

/// A device's side (`Outbound`), or a relay's (`Inbound`).
pub(crate) fn behaviour(support: ProtocolSupport) -> Behaviour {
    let config = request_response::Config::default().with_max_concurrent_streams(STREAMS_MAX);
    Behaviour::new([(PROTOCOL, support)], config)
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Verdict;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, DeviceCert::BYTES_MAX).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Verdict>
    where
        T: AsyncRead + Unpin + Send,
    {
        match read(io, 1).await?[..] {
            [byte] => Ok(Verdict::of(byte)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer has one byte")),
        }
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        frames::write_frame(io, &request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, verdict: Verdict) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        frames::write_frame(io, &[verdict.byte()]).await
    }
}

async fn read<T: AsyncRead + Unpin>(io: &mut T, bytes_max: usize) -> io::Result<Vec<u8>> {
    let frame = frames::read_frame(io, bytes_max).await;
    let frame = frame.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    frame.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use engine::identity::SecretKey;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use libp2p::request_response::Codec as _;

    use super::*;

    fn cert(root: u8, device: u8) -> DeviceCert {
        let key = PeerKey(SecretKey::from_bytes(&[device; 32]).public());
        DeviceCert::issue(&SecretKey::from_bytes(&[root; 32]), key, "laptop", 7, false).expect("a name")
    }

    #[test]
    fn a_certificate_counts_for_its_own_device_and_for_the_accounts_that_are_served() {
        let (own, other) = (cert(1, 10), cert(2, 10));
        let served = |account: &AccountId| *account == own.account;
        let shown_by = |cert: &DeviceCert, key| judge(&cert.to_bytes(), key, served);
        assert_eq!(shown_by(&own, Some(own.key)), Verdict::Served);
        assert_eq!(shown_by(&other, Some(own.key)), Verdict::OtherAccount);
        assert_eq!(shown_by(&own, Some(cert(1, 11).key)), Verdict::NotGenuine, "somebody else's");
        assert_eq!(shown_by(&own, None), Verdict::NotGenuine);
    }

    #[test]
    fn no_byte_of_a_certificate_can_be_changed_left_out_or_added() {
        let own = cert(1, 10);
        let bytes = own.to_bytes();
        let verdict = |bytes: &[u8]| judge(bytes, Some(own.key), |_| true);
        assert_eq!(verdict(&bytes), Verdict::Served);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(verdict(&changed), Verdict::NotGenuine, "byte {at}");
            assert_eq!(verdict(&bytes[..at]), Verdict::NotGenuine, "cut at {at}");
        }
        assert_eq!(verdict(&[&bytes[..], &[0]].concat()), Verdict::NotGenuine);
    }

    #[test]
    fn the_longest_certificate_fits_and_nothing_longer_is_read() {
        let name = "n".repeat(engine::config::DEVICE_NAME_BYTES_MAX);
        let key = PeerKey(SecretKey::from_bytes(&[9; 32]).public());
        let longest = DeviceCert::issue(&SecretKey::from_bytes(&[1; 32]), key, &name, u64::MAX, true);
        let longest = longest.expect("a name").to_bytes();
        assert_eq!(longest.len(), DeviceCert::BYTES_MAX);
        let read = |bytes: &[u8]| {
            let mut wire = Vec::new();
            block_on(frames::write_frame(&mut wire, bytes)).expect("a vector takes everything");
            block_on(Codec.read_request(&PROTOCOL, &mut Cursor::new(wire)))
        };
        assert_eq!(read(&longest).expect("valid"), longest);
        assert!(read(&[&longest[..], &[0]].concat()).is_err());
    }

    #[test]
    fn answers_come_back_as_they_were_given() {
        for verdict in [Verdict::Served, Verdict::OtherAccount, Verdict::NotGenuine, Verdict::Unknown(77)] {
            let mut wire = Vec::new();
            block_on(Codec.write_response(&PROTOCOL, &mut wire, verdict)).expect("written");
            let read = block_on(Codec.read_response(&PROTOCOL, &mut Cursor::new(&wire)));
            assert_eq!(read.expect("valid"), verdict);
            assert_eq!(verdict.refusal().is_none(), verdict == Verdict::Served);
        }
        for bad in [&[0u8][..], &[2, 0, 0], &[]] {
            assert!(block_on(Codec.read_response(&PROTOCOL, &mut Cursor::new(bad))).is_err(), "{bad:?}");
        }
    }
}
