//! One connection's part in opening streams: negotiates `/ahenk/sync/1` and `/ahenk/pair/1` and hands
//! the negotiated streams over. What is said on them is none of its business.
//!
//! Invariants: the queues are bounded, and streams that do not fit are dropped, which resets them;
//! pairing is offered only while somebody listens for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol,
};

/// Streams and requests of one connection that may wait for the swarm's task.
const QUEUE_MAX: usize = 8;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Sync,
    Pair,
}

impl Purpose {
    pub(crate) const fn protocol(self) -> StreamProtocol {
        match self {
            Purpose::Sync => StreamProtocol::new("/ahenk/sync/1"),
            Purpose::Pair => StreamProtocol::new("/ahenk/pair/1"),
        }
    }
}

/// What the handler is told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ToHandler {
    /// Open a stream.
    Open(Purpose),
    /// Offer pairing, or do not.
    OfferPairing(bool),
}

/// What the handler tells.
pub(crate) enum FromHandler {
    /// A stream is open.
    Opened { purpose: Purpose, dialed_by_us: bool, stream: Stream },
    /// A stream that we asked for could not be opened.
    Failed { purpose: Purpose, error: String },
}

impl fmt::Debug for FromHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FromHandler::Opened { purpose, dialed_by_us, .. } => {
                write!(f, "Opened({purpose:?}, dialed by us: {dialed_by_us})")
            }
            FromHandler::Failed { purpose, error } => write!(f, "Failed({purpose:?}, {error})"),
        }
    }
}

/// Offers the protocols of some purposes and yields the stream as it is.
#[derive(Debug, Clone)]
pub(crate) struct Offer(Vec<Purpose>);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().map(|purpose| purpose.protocol()).collect::<Vec<_>>().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Handler {
    offer_pairing: bool,
    to_open: VecDeque<Purpose>,
    to_tell: VecDeque<FromHandler>,
}

impl Handler {
    pub(crate) fn new(offer_pairing: bool) -> Handler {
        Handler { offer_pairing, to_open: VecDeque::new(), to_tell: VecDeque::new() }
    }

    fn tell(&mut self, news: FromHandler) {
        if self.to_tell.len() < QUEUE_MAX {
            self.to_tell.push_back(news);
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ToHandler;
    type ToBehaviour = FromHandler;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Purpose;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        let mut purposes = vec![Purpose::Sync];
        if self.offer_pairing {
            purposes.push(Purpose::Pair);
        }
        SubstreamProtocol::new(Offer(purposes), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, Purpose, FromHandler>> {
        // No waker is kept: the connection polls again after each of the calls below.
        if let Some(news) = self.to_tell.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(news));
        }
        if let Some(purpose) = self.to_open.pop_front() {
            let protocol = SubstreamProtocol::new(Offer(vec![purpose]), purpose);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: ToHandler) {
        match event {
            ToHandler::OfferPairing(offer) => self.offer_pairing = offer,
            ToHandler::Open(purpose) if self.to_open.len() < QUEUE_MAX => self.to_open.push_back(purpose),
            ToHandler::Open(purpose) => {
                self.tell(FromHandler::Failed { purpose, error: "too many streams at once".into() });
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), Purpose>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => {
                let purpose =
                    if protocol == Purpose::Sync.protocol() { Purpose::Sync } else { Purpose::Pair };
                self.tell(FromHandler::Opened { purpose, dialed_by_us: false, stream });
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: purpose,
            }) => self.tell(FromHandler::Opened { purpose, dialed_by_us: true, stream }),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: purpose, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => "the peer did not answer in time".to_owned(),
                    StreamUpgradeError::NegotiationFailed => {
                        format!("the peer does not speak {}", purpose.protocol())
                    }
                    StreamUpgradeError::Io(error) => error.to_string(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.tell(FromHandler::Failed { purpose, error });
            }
            _ => {}
        }
    }
}
