//! What the tests of this crate share: a node that remembers what happened to it.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) mod raw;

use std::time::Duration;

use engine::identity::{PeerKey, SecretKey};
use engine::transport::{Transport, TransportEvent, TrySendError};
use tokio::time::timeout;
use transport_libp2p::{Libp2pConfig, Libp2pControl, Libp2pTransport, PeerDetails};

/// Nothing here takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

pub(crate) fn secret(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

pub(crate) fn key(seed: u8) -> PeerKey {
    PeerKey(secret(seed).public())
}

/// A quiet configuration on loopback: no discovery, quick timings.
pub(crate) fn config(seed: u8, listen: &[&str], members: &[u8]) -> Libp2pConfig {
    let mut config = Libp2pConfig::new(secret(seed), "test topic");
    config.listen = listen.iter().map(|&address| address.to_owned()).collect();
    config.mdns = false;
    config.members = members.iter().map(|&seed| key(seed)).collect();
    config.timings.redial_ms_max = 500;
    // Tests say themselves which way is taken.
    config.timings.upgrade_ms = 3_600_000;
    config
}

pub(crate) struct Node {
    pub(crate) key: PeerKey,
    pub(crate) transport: Libp2pTransport,
    pub(crate) control: Libp2pControl,
    /// Everything that happened, in order.
    pub(crate) log: Vec<TransportEvent>,
    seen: usize,
}

impl Node {
    pub(crate) async fn spawn(config: Libp2pConfig) -> Node {
        let key = PeerKey(config.secret.public());
        let transport = Libp2pTransport::spawn(config).await.expect("the transport starts");
        let control = transport.control();
        Node { key, transport, control, log: Vec::new(), seen: 0 }
    }

    pub(crate) async fn new(seed: u8, listen: &[&str], members: &[u8]) -> Node {
        Node::spawn(config(seed, listen, members)).await
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> TransportEvent {
        let event = timeout(PATIENCE, self.transport.next_event()).await;
        let event = event.expect("an event in time").expect("the transport is open");
        self.log.push(event.clone());
        event
    }

    /// Waits for an event, also among those that came while something else was awaited.
    pub(crate) async fn until(&mut self, what: impl Fn(&TransportEvent) -> bool) -> TransportEvent {
        loop {
            while self.seen < self.log.len() {
                self.seen += 1;
                if what(&self.log[self.seen - 1]) {
                    return self.log[self.seen - 1].clone();
                }
            }
            self.next().await;
        }
    }

    pub(crate) async fn up(&mut self, peer: PeerKey) -> TransportEvent {
        self.until(|event| matches!(event, TransportEvent::PeerUp { peer: p, .. } if *p == peer)).await
    }

    /// Waits for the end of a session and returns why it ended.
    pub(crate) async fn down(&mut self, peer: PeerKey) -> String {
        let down =
            |event: &TransportEvent| matches!(event, TransportEvent::PeerDown { peer: p, .. } if *p == peer);
        match self.until(down).await {
            TransportEvent::PeerDown { reason, .. } => reason,
            _ => unreachable!(),
        }
    }

    pub(crate) async fn frame(&mut self, from: PeerKey) -> Vec<u8> {
        let frame =
            |event: &TransportEvent| matches!(event, TransportEvent::Frame { peer, .. } if *peer == from);
        match self.until(frame).await {
            TransportEvent::Frame { bytes, .. } => bytes,
            _ => unreachable!(),
        }
    }

    /// Sends a frame, waiting for room as a driver would.
    pub(crate) async fn send(&mut self, peer: PeerKey, frame: Vec<u8>) {
        let mut frame = frame;
        loop {
            match self.transport.try_send(peer, frame) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) => frame = back,
                Err(TrySendError::Gone(_)) => panic!("the peer is gone: {:?}", self.log.last()),
            }
            loop {
                if self.next().await == (TransportEvent::Writable { peer }) {
                    break;
                }
            }
        }
    }

    /// An address of ours that contains the text.
    pub(crate) async fn address(&self, containing: &str) -> String {
        let addresses = self.control.listen_addresses().await.expect("the transport is open");
        addresses.into_iter().find(|a| a.contains(containing)).expect("such an address")
    }

    pub(crate) async fn peer(&self, peer: PeerKey) -> Option<PeerDetails> {
        let peers = self.control.peers().await.expect("the transport is open");
        peers.into_iter().find(|details| details.peer == peer)
    }

    /// How often each of these happened: up, path changed, down.
    pub(crate) fn count(&self, peer: PeerKey) -> (usize, usize, usize) {
        let mut count = (0, 0, 0);
        for event in &self.log {
            match event {
                TransportEvent::PeerUp { peer: p, .. } if *p == peer => count.0 += 1,
                TransportEvent::PathChanged { peer: p, .. } if *p == peer => count.1 += 1,
                TransportEvent::PeerDown { peer: p, .. } if *p == peer => count.2 += 1,
                _ => {}
            }
        }
        count
    }
}

/// Two nodes that know each other as members and have a session. The first dialed.
pub(crate) async fn pair(listen: &str) -> (Node, Node) {
    let mut a = Node::new(1, &[listen], &[2]).await;
    let mut b = Node::new(2, &[listen], &[1]).await;
    let address = b.address("127.0.0.1").await;
    a.control.add_address(b.key, &address).await.expect("a valid address");
    let (key_a, key_b) = (a.key, b.key);
    tokio::join!(a.up(key_b), b.up(key_a));
    (a, b)
}

/// Repeats a look at something that announces itself by no event, until it is as wanted.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let looking = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what} in time"));
}
