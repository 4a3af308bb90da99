//! Telling each other where devices may be found: `/ahenk/addresses/1`, and what the swarm's task does with it.
//!
//! When two devices connect, each sends the other all records that it has ([`crate::whereabouts`]); what changes later is
//! sent to whoever is connected. So a record reaches every device that is connected to any other, and one that was away
//! hears of it when it meets the first. The answer is empty, which makes an empty message a way to measure a round trip.
//!
//! Invariants: records are taken from members only; a message is bounded before it is read; what others make us send
//! to others is sent at most every [`TELL_EVERY`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::codec::DecodeError;
use engine::identity::PeerKey;
use engine::transport::{Path, PathKind};
use futures::{AsyncRead, AsyncWrite};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, Message, OutboundRequestId, ProtocolSupport};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::oneshot;

use crate::addresses::{Dialable, Source, is_loopback, is_useless, path_kind};
use crate::driver::Driver;
use crate::frames::{self, FrameError};
use crate::keys;
use crate::whereabouts::{MESSAGE_BYTES_MAX, pack, unpack};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/ahenk/addresses/1");
/// Longest answer that is read, in bytes. It is empty; more is allowed for later versions, and skipped.
const ANSWER_BYTES_MAX: usize = 64;
/// Messages under way on one connection, both ways together.
const STREAMS_MAX: usize = 8;
/// An answer that takes longer will not come.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Least time between two rounds of telling the others what has changed.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Addresses come and go several at a time: a change is stated after this time.
const GATHER: Duration = Duration::from_millis(300);
/// Round trips that may be measured at a time.
const PROBES_MAX: usize = 16;

/// The protocol's messages on a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Codec;

pub(crate) type Behaviour = request_response::Behaviour<Codec>;

pub(crate) fn behaviour() -> Behaviour {
    let config = request_response::Config::default()
        .with_request_timeout(ANSWER_TIME_MAX)
        .with_max_concurrent_streams(STREAMS_MAX);
    Behaviour::new([(PROTOCOL, ProtocolSupport::Full)], config)
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, max: usize) -> io::Result<Vec<u8>> {
    let invalid = |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
    frames::read_frame(io, max).await.map_err(invalid)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = ();

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, MESSAGE_BYTES_MAX).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, ANSWER_BYTES_MAX).await.map(drop)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, message: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        frames::write_frame(io, &message).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, (): ()) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        frames::write_frame(io, &[]).await
    }
}

/// A round trip that was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pong {
    /// The way it took.
    pub path: Path,
    /// Its time.
    pub round_trip: Duration,
}

/// Why there was no answer to a ping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// There is no connection with that device.
    #[error("it is not connected")]
    NotConnected,
    /// No answer came.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// Too many are measured already.
    #[error("too many pings at once")]
    TooMany,
    /// The transport has been closed.
    #[error("the transport has been closed")]
    TransportClosed,
}

pub(crate) type PongReply = oneshot::Sender<Result<Pong, PingError>>;

/// What this module keeps from one event to the next.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// When to state anew where this device is found.
    restate: Option<Instant>,
    /// When the others may be told again.
    next: Option<Instant>,
    probes: BTreeMap<OutboundRequestId, (Instant, PongReply)>,
    /// Members who could not be told anything, perhaps because they do not yet know that we are of their account.
    untold: BTreeSet<PeerKey>,
}

impl Telling {
    /// Where this device is found has changed, perhaps.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.restate.get_or_insert(now + GATHER);
    }
}

impl Driver {
    /// When [`Driver::tell_news`] will have something to do.
    pub(crate) fn next_telling(&self, now: Instant) -> Option<Instant> {
        let news = self.whereabouts.has_news().then(|| self.telling.next.unwrap_or(now));
        self.telling.restate.into_iter().chain(news).min()
    }

    /// Says what has changed to whoever is connected.
    pub(crate) fn tell_news(&mut self, now: Instant) {
        if self.whereabouts.outdated() {
            self.telling.moved(now);
        }
        if self.telling.restate.is_some_and(|at| at <= now) {
            self.telling.restate = None;
            let own = self.own_addresses();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.whereabouts.state(&self.secret, &own, u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        }
        if !self.whereabouts.has_news() || self.telling.next.is_some_and(|at| at > now) {
            return;
        }
        self.telling.next = Some(now + TELL_EVERY);
        let members = self.hub.members();
        let message = pack(&self.whereabouts.take_news(|key| members.contains(key)));
        for member in members {
            self.tell(&member, message.clone());
        }
    }

    /// Sends a message to a member that is connected; `None` if it is not.
    fn tell(&mut self, peer: &PeerKey, message: Vec<u8>) -> Option<OutboundRequestId> {
        let id = keys::peer_of(peer)?;
        let telling = &mut self.swarm.behaviour_mut().telling.inner;
        telling.is_connected(&id).then(|| telling.send_request(&id, message))
    }

    /// A first connection with a member was made: it may have been away.
    pub(crate) fn tell_all(&mut self, peer: &PeerKey) {
        let members = self.hub.members();
        let records = self.whereabouts.all(|key| members.contains(key));
        if !records.is_empty() {
            self.tell(peer, pack(&records));
        }
    }

    /// A member says that it speaks this protocol (now).
    pub(crate) fn tell_untold(&mut self, peer: &PeerKey, protocols: &[StreamProtocol]) {
        if protocols.contains(&PROTOCOL) && self.telling.untold.remove(peer) {
            self.tell_all(peer);
        }
    }

    /// Members were added: what was heard of them before is of use now.
    pub(crate) fn use_records(&mut self, now: Instant) {
        for member in self.hub.members() {
            self.use_record(member, false, false, now);
        }
    }

    /// Notes in the address book where a member says that it is; if that is `fresh`, what was heard before is forgotten.
    /// Addresses of one machine are of use on it only.
    fn use_record(&mut self, key: PeerKey, here: bool, fresh: bool, now: Instant) {
        let Some(record) = self.whereabouts.of(&key).filter(|_| self.hub.is_member(&key)) else { return };
        let usable = |text: &String| {
            let dialable = Dialable::parse(text).ok()?;
            let other = dialable.peer.is_some_and(|named| named != key);
            (!other && !is_useless(&dialable.address)).then_some(dialable.address)
        };
        let addresses: Vec<Multiaddr> = record.addresses.iter().filter_map(usable).collect();
        if fresh {
            self.book.forget_hearsay(&key, &addresses);
        }
        let mut news = false;
        for address in addresses.into_iter().filter(|address| here || !is_loopback(address)) {
            news |= self.remember(key, address, Source::Told, now);
        }
        if news {
            self.dialer.discovered(&key, now);
        }
    }

    pub(crate) fn on_telling(&mut self, event: request_response::Event<Vec<u8>, ()>, now: Instant) {
        use request_response::Event;
        match event {
            Event::Message { peer, connection_id, message: Message::Request { request, channel, .. } } => {
                // Whoever does not wait for the answer loses nothing.
                let _ = self.swarm.behaviour_mut().telling.inner.send_response(channel, ());
                let path = self.connections.table.get(&connection_id).map(|c| c.path.address.clone());
                let here = path.and_then(|path| path.parse().ok()).is_some_and(|path| is_loopback(&path));
                if let Err(error) = self.on_records(&peer, &request, here, now) {
                    tracing::warn!(%peer, %error, "it sent addresses that nobody can have meant");
                }
            }
            Event::Message { connection_id, message: Message::Response { request_id, .. }, .. } => {
                let Some((asked, reply)) = self.telling.probes.remove(&request_id) else { return };
                let path = self.connections.table.get(&connection_id).map(|c| c.path.clone());
                let round_trip = now.saturating_duration_since(asked);
                let _ = reply.send(path.map(|path| Pong { path, round_trip }).ok_or(PingError::NotConnected));
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                let member = keys::key_of(&peer).filter(|key| self.hub.is_member(key));
                self.telling.untold.extend(member);
                if let Some((_, reply)) = self.telling.probes.remove(&request_id) {
                    let _ = reply.send(Err(PingError::NoAnswer(error.to_string())));
                }
            }
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    /// A peer's records. What follows a bad one is not looked at.
    fn on_records(
        &mut self,
        from: &PeerId,
        message: &[u8],
        here: bool,
        now: Instant,
    ) -> Result<(), DecodeError> {
        let Some(from) = keys::key_of(from).filter(|from| self.hub.is_member(from)) else { return Ok(()) };
        let members = self.hub.members();
        for bytes in unpack(message)? {
            let taken = self.whereabouts.take(&bytes, |key| members.contains(key))?;
            if let Some(key) = taken.map(|record| record.key) {
                tracing::debug!(?from, device = ?key, "where a device says that it is");
                self.use_record(key, here, true, now);
            }
        }
        Ok(())
    }

    /// Measures a round trip.
    pub(crate) fn ping(&mut self, peer: PeerKey, reply: PongReply, now: Instant) {
        self.telling.probes.retain(|_, (_, reply)| !reply.is_closed());
        if self.telling.probes.len() >= PROBES_MAX {
            return drop(reply.send(Err(PingError::TooMany)));
        }
        match self.tell(&peer, pack(&[])) {
            Some(id) => drop(self.telling.probes.insert(id, (now, reply))),
            None => drop(reply.send(Err(PingError::NotConnected))),
        }
    }

    /// Where this device is found, the most promising first: what others confirmed, at relays, where it listens.
    fn own_addresses(&self) -> Vec<String> {
        let confirmed = self.swarm.external_addresses().map(|address| (0, address));
        let listening = self.swarm.listeners().map(|address| match path_kind_of(address) {
            Some(PathKind::Relayed) => (1, address),
            _ if is_loopback(address) => (3, address),
            _ => (2, address),
        });
        let mut addresses: Vec<(u8, String)> = confirmed
            .chain(listening)
            .filter(|(_, address)| !is_useless(address))
            .filter_map(|(rank, address)| Some((rank, Dialable::of(address.clone()).ok()?.address)))
            .filter(|(_, address)| self.book.allow(address).is_ok())
            .map(|(rank, address)| (rank, address.to_string()))
            .collect();
        // In an order of their own, so that the same addresses make the same record.
        addresses.sort();
        let mut unique: Vec<String> = Vec::new();
        for (_, address) in addresses {
            if !unique.contains(&address) {
                unique.push(address);
            }
        }
        unique
    }
}

/// The kind of path of an address of ours, which may end in our own id.
fn path_kind_of(address: &Multiaddr) -> Option<PathKind> {
    let mut address = address.clone();
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    path_kind(&address)
}
