//! A peer that speaks libp2p, and for the rest does what it wants.

use engine::identity::PeerKey;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use tokio::time::timeout;

use super::{PATIENCE, key};

pub(crate) const SYNC: &str = "/ahenk/sync/1";

/// See the module's documentation.
pub(crate) struct Raw {
    pub(crate) key: PeerKey,
    pub(crate) control: libp2p_stream::Control,
    pub(crate) host: PeerId,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn raw_swarm(seed: u8) -> Swarm<libp2p_stream::Behaviour> {
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes([seed; 32]).expect("a seed");
    SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("noise")
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .expect("infallible")
        .build()
}

impl Raw {
    /// Connects to an address with an id; panics if it is turned away.
    pub(crate) async fn connect(seed: u8, address: &str) -> Raw {
        Raw::try_connect(seed, address).await.expect("it lets us in")
    }

    /// The same, and `None` if it is turned away.
    pub(crate) async fn try_connect(seed: u8, address: &str) -> Option<Raw> {
        let mut swarm = raw_swarm(seed);
        let address: Multiaddr = address.parse().expect("an address");
        let Some(libp2p::multiaddr::Protocol::P2p(id)) = address.iter().last() else { panic!("no id") };
        let control = swarm.behaviour().new_control();
        swarm.dial(address).expect("a dial");
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => break,
                SwarmEvent::OutgoingConnectionError { .. } => return None,
                _ => {}
            }
        }
        let task = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Some(Raw { key: key(seed), control, host: id, task })
    }

    pub(crate) async fn open(&mut self, protocol: &'static str) -> Stream {
        let open = self.control.open_stream(self.host, StreamProtocol::new(protocol));
        timeout(PATIENCE, open).await.expect("in time").expect("the protocol is spoken")
    }

    /// Opens the sync stream and greets properly.
    pub(crate) async fn greet(&mut self) -> Stream {
        let mut stream = self.open(SYNC).await;
        stream.write_all(&[8, 1, 2, 3, 4, 5, 6, 7, 8]).await.expect("open");
        stream.flush().await.expect("open");
        let mut greeting = [0; 9];
        stream.read_exact(&mut greeting).await.expect("the greeting");
        assert_eq!(greeting[0], 8);
        stream
    }
}

/// Waits until the other side ends a stream.
pub(crate) async fn ends(stream: &mut Stream) {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the host closes it");
}
