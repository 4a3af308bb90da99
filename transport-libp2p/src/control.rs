//! The control handle: what a command line or an application asks of the running transport. Plain
//! data both ways; the swarm's task answers.

use std::time::Duration;

use engine::identity::PeerKey;
use engine::transport::Path;
use tokio::sync::{mpsc, oneshot};

use crate::addresses::{AddressError, Dialable};
use crate::pairing::{
    ConnectReply, PairCandidate, PairChannel, PairConnectError, PairListenError, PairListener,
};
use crate::reach::ReachDetails;
use crate::relays::RelayDetails;
use crate::telling::{PingError, Pong, PongReply};

/// Candidates that may wait to be looked at; when there are more, the newest are told again later.
pub(crate) const CANDIDATES_MAX: usize = 32;

/// The transport has been closed, so there is nobody to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the transport has been closed")]
pub struct TransportClosed;

/// Why a dial did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The address is not usable.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No connection could be made; the text says why.
    #[error("cannot connect: {0}")]
    Failed(String),
    /// The transport has been closed.
    #[error("the transport has been closed")]
    TransportClosed,
}

/// Why an address was not noted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddAddressError {
    /// The address is not usable.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The transport has been closed.
    #[error("the transport has been closed")]
    TransportClosed,
}

/// A session that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDetails {
    /// The way to the peer.
    pub path: Path,
    /// How long the session has been up.
    pub up_for: Duration,
    /// Latest round-trip time, in microseconds.
    pub rtt_micros: Option<u64>,
}

/// How things stand with a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerDetails {
    /// Its key.
    pub peer: PeerKey,
    /// Whether it is among the members.
    pub member: bool,
    /// The session, if there is one.
    pub session: Option<SessionDetails>,
    /// Connections with it.
    pub connections: usize,
    /// Where it may be found, the most promising first.
    pub addresses: Vec<String>,
    /// When it last said itself where it is found, by its own clock, in milliseconds since the Unix epoch.
    pub said_ms: Option<u64>,
    /// Failed attempts to reach it, since the last success or news.
    pub dial_failures: u32,
    /// Why the latest attempt failed, or the latest connection ended.
    pub last_error: Option<String>,
    /// Time until the next attempt.
    pub next_attempt_in: Option<Duration>,
}

/// Whom to call for pairing.
#[derive(Debug)]
pub(crate) enum Callee {
    At(Dialable),
    Candidate(PairCandidate),
}

#[derive(Debug)]
pub(crate) enum Command {
    ListenAddresses(oneshot::Sender<Vec<String>>),
    KnownAddresses(oneshot::Sender<Vec<(PeerKey, Vec<String>)>>),
    AddressRecords(oneshot::Sender<Vec<Vec<u8>>>),
    Ping(PeerKey, PongReply),
    AddAddress(PeerKey, Dialable),
    Dial(Dialable, oneshot::Sender<Result<PeerKey, DialError>>),
    Peers(oneshot::Sender<Vec<PeerDetails>>),
    Relays(oneshot::Sender<Vec<RelayDetails>>),
    Reach(oneshot::Sender<ReachDetails>),
    NetworkChanged,
    Pause(bool, oneshot::Sender<bool>),
    PairListen(oneshot::Sender<Result<PairListener, PairListenError>>),
    PairConnect(Callee, ConnectReply),
    PairCandidates(mpsc::Sender<PairCandidate>),
}

/// Asks things of a running transport. Cheap to clone; it does not keep the transport alive.
#[derive(Debug, Clone)]
pub struct Libp2pControl {
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Libp2pControl {
    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, TransportClosed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| TransportClosed)?;
        answer.await.map_err(|_| TransportClosed)
    }

    /// Where we listen, as full multiaddrs with our `/p2p/` id.
    pub async fn listen_addresses(&self) -> Result<Vec<String>, TransportClosed> {
        self.ask(Command::ListenAddresses).await
    }

    /// Where peers may be found, to be saved for the next start. At most 16 addresses for each of at
    /// most 256 peers.
    pub async fn known_addresses(&self) -> Result<Vec<(PeerKey, Vec<String>)>, TransportClosed> {
        self.ask(Command::KnownAddresses).await
    }

    /// What this device and the members said of where they are found, each signed by its device: to be saved for the next
    /// start, so that they can be handed on. At most 256, of at most 5 KiB each.
    pub async fn address_records(&self) -> Result<Vec<Vec<u8>>, TransportClosed> {
        self.ask(Command::AddressRecords).await
    }

    /// Measures a round trip to a member on a connection that exists. Takes ten seconds at most.
    pub async fn ping(&self, peer: PeerKey) -> Result<Pong, PingError> {
        self.ask(|reply| Command::Ping(peer, reply)).await.unwrap_or(Err(PingError::TransportClosed))
    }

    /// Notes where a peer may be found. If it is a member and not connected, it is dialed at once.
    pub async fn add_address(&self, peer: PeerKey, address: &str) -> Result<(), AddAddressError> {
        let dialable = Dialable::parse(address)?;
        if dialable.peer.is_some_and(|named| named != peer) {
            return Err(AddressError::OtherPeer { address: address.to_owned() }.into());
        }
        let command = Command::AddAddress(peer, dialable);
        self.commands.send(command).await.map_err(|_| AddAddressError::TransportClosed)
    }

    /// Connects to an address now, whether it is a member's or not, and offers a session. Returns the
    /// key that was found there.
    pub async fn dial(&self, address: &str) -> Result<PeerKey, DialError> {
        let dialable = Dialable::parse(address)?;
        self.ask(|reply| Command::Dial(dialable, reply)).await.unwrap_or(Err(DialError::TransportClosed))
    }

    /// All members, and whoever else is connected.
    pub async fn peers(&self) -> Result<Vec<PeerDetails>, TransportClosed> {
        self.ask(Command::Peers).await
    }

    /// How things stand with the relays of the configuration, in its order.
    pub async fn relays(&self) -> Result<Vec<RelayDetails>, TransportClosed> {
        self.ask(Command::Relays).await
    }

    /// How others see this device: where, through what kind of NAT, and whether it can be dialed.
    pub async fn reach(&self) -> Result<ReachDetails, TransportClosed> {
        self.ask(Command::Reach).await
    }

    /// The network is another one: all members that are not connected are tried again at once.
    pub async fn network_changed(&self) -> Result<(), TransportClosed> {
        self.commands.send(Command::NetworkChanged).await.map_err(|_| TransportClosed)
    }

    /// Pauses the transport, or lets it go on; whether that changed anything. Paused, it has no connection: all are
    /// closed, none is made or accepted, relays included. It still listens. When it goes on, all members are tried
    /// at once.
    pub async fn pause(&self, paused: bool) -> Result<bool, TransportClosed> {
        self.ask(|reply| Command::Pause(paused, reply)).await
    }

    /// Begins to accept pairing channels, and to say so to peers on the local network.
    pub async fn pair_listen(&self) -> Result<PairListener, PairListenError> {
        self.ask(Command::PairListen).await.unwrap_or(Err(PairListenError::TransportClosed))
    }

    /// Opens a pairing channel to an address, with or without `/p2p/` id.
    pub async fn pair_connect(&self, address: &str) -> Result<PairChannel, PairConnectError> {
        self.call(Callee::At(Dialable::parse(address)?)).await
    }

    /// Opens a pairing channel to a peer that may be at any of these addresses. If all name the same peer, they are
    /// dialed together and the first that answers is taken; else one after the other.
    pub async fn pair_connect_any(&self, addresses: &[String]) -> Result<PairChannel, PairConnectError> {
        let dialable = addresses.iter().map(|text| Dialable::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let named = dialable.first().and_then(|first| first.peer);
        if let Some(peer) = named.filter(|_| dialable.iter().all(|each| each.peer == named)) {
            let addresses = dialable.iter().map(|each| each.address.to_string()).collect();
            return self.call(Callee::Candidate(PairCandidate { peer, addresses })).await;
        }
        let mut failure = PairConnectError::Unreachable("no address is known".to_owned());
        for each in dialable {
            match self.call(Callee::At(each)).await {
                Ok(channel) => return Ok(channel),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Opens a pairing channel to a peer that was found on the local network.
    pub async fn pair_connect_peer(&self, candidate: PairCandidate) -> Result<PairChannel, PairConnectError> {
        self.call(Callee::Candidate(candidate)).await
    }

    async fn call(&self, callee: Callee) -> Result<PairChannel, PairConnectError> {
        self.ask(|reply| Command::PairConnect(callee, reply))
            .await
            .unwrap_or(Err(PairConnectError::TransportClosed))
    }

    /// Peers on the local network that wait for a device to join, as they are found. The search ends
    /// when the receiver is dropped, or with the next call. Needs discovery to be on.
    pub async fn pair_candidates(&self) -> Result<mpsc::Receiver<PairCandidate>, TransportClosed> {
        let (found, candidates) = mpsc::channel(CANDIDATES_MAX);
        self.commands.send(Command::PairCandidates(found)).await.map_err(|_| TransportClosed)?;
        Ok(candidates)
    }
}
