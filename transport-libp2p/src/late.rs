//! A connection handler that may come to its connection later: until then no protocol of it is offered.
//!
//! Invariant: a handler that is not there yet hears of nothing, and of what concerned it nothing is left over when it
//! comes.

use std::fmt;
use std::task::{Context, Poll};

use either::Either;
use futures::future;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::swarm::handler::{
    AddressChange, ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
    ListenUpgradeError, SendWrapper,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol};

/// See the module's documentation.
pub(crate) struct Late<H>(pub(crate) Option<H>);

/// What a [`Late`] is told.
pub(crate) enum ToLate<H: ConnectionHandler> {
    /// From now on this handler is there.
    Come(H),
    /// Something for the handler; lost if it is not there.
    For(H::FromBehaviour),
}

impl<H: ConnectionHandler> fmt::Debug for ToLate<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ToLate::Come(_) => f.write_str("Come"),
            ToLate::For(event) => write!(f, "For({event:?})"),
        }
    }
}

type Inbound<H> = Either<SendWrapper<<H as ConnectionHandler>::InboundProtocol>, SendWrapper<DeniedUpgrade>>;
type InboundInfo<H> = Option<<H as ConnectionHandler>::InboundOpenInfo>;

impl<H: ConnectionHandler> ConnectionHandler for Late<H> {
    type FromBehaviour = ToLate<H>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Inbound<H>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = InboundInfo<H>;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Inbound<H>, InboundInfo<H>> {
        match &self.0 {
            Some(handler) => {
                let protocol = handler.listen_protocol();
                protocol.map_upgrade(|upgrade| Either::Left(SendWrapper(upgrade))).map_info(Some)
            }
            None => SubstreamProtocol::new(Either::Right(SendWrapper(DeniedUpgrade)), None),
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.0.as_ref().is_some_and(H::connection_keep_alive)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<H::OutboundProtocol, H::OutboundOpenInfo, H::ToBehaviour>> {
        // No waker is kept: the connection polls again after it was told something.
        self.0.as_mut().map_or(Poll::Pending, |handler| handler.poll(cx))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<H::ToBehaviour>> {
        self.0.as_mut().map_or(Poll::Ready(None), |handler| handler.poll_close(cx))
    }

    fn on_behaviour_event(&mut self, event: ToLate<H>) {
        match (event, &mut self.0) {
            (ToLate::Come(handler), place) => *place = Some(handler),
            (ToLate::For(event), Some(handler)) => handler.on_behaviour_event(event),
            (ToLate::For(_), None) => {}
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Inbound<H>, H::OutboundProtocol, InboundInfo<H>, H::OutboundOpenInfo>,
    ) {
        let Some(handler) = &mut self.0 else { return };
        handler.on_connection_event(match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                // Begun before the handler came: then there is no such information.
                let (future::Either::Left(protocol), Some(info)) = (protocol, info) else { return };
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                let (Some(info), Either::Left(error)) = (info, error) else { return };
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info })
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error })
            }
            ConnectionEvent::AddressChange(AddressChange { new_address }) => {
                ConnectionEvent::AddressChange(AddressChange { new_address })
            }
            ConnectionEvent::LocalProtocolsChange(change) => ConnectionEvent::LocalProtocolsChange(change),
            ConnectionEvent::RemoteProtocolsChange(change) => ConnectionEvent::RemoteProtocolsChange(change),
            // Nothing that is known today; the enum may grow.
            _ => return,
        });
    }
}
