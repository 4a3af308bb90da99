//! What a relay can read of what it passes on: this test is the relay, and looks at everything behind its own
//! encryption with each device, which is all that a relay that means ill can get at.

mod common;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ahenk::{Db, Fields, Node, Options, SystemClock};
use common::eventually;
use common::raw::Raw;
use engine::store::MemStore;
use engine::testing::test_identity;
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identify, noise, relay, tcp, yamux};
use transport_libp2p::{Libp2pConfig, Libp2pTransport};

const TABLE: &str = "letters-of-the-committee";
const ROW: &str = "row-4711-nobody-else-has";
const FIELD: &str = "field-of-grain";
const VALUE: &str = "the crow flies at midnight";
const PLAIN: &str = "/test/plain/1";

/// All that was read, by anybody's connection.
type Seen = Arc<Mutex<Vec<u8>>>;

fn holds(seen: &Seen, what: &str) -> bool {
    let seen = seen.lock().expect("no panic");
    seen.windows(what.len()).any(|window| window == what.as_bytes())
}

/// Noise, and a look at what it decrypts.
#[derive(Clone)]
struct Opened {
    noise: noise::Config,
    seen: Seen,
}

struct Tap<S> {
    inner: S,
    seen: Seen,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.seen.lock().expect("no panic").extend_from_slice(&buf[..read]);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

impl UpgradeInfo for Opened {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.noise.protocol_info()
    }
}

type Upgraded<S> =
    Pin<Box<dyn Future<Output = Result<(PeerId, Tap<noise::Output<S>>), noise::Error>> + Send>>;

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<S> for Opened {
    type Output = (PeerId, Tap<noise::Output<S>>);
    type Error = noise::Error;
    type Future = Upgraded<S>;

    fn upgrade_inbound(self, socket: S, info: Self::Info) -> Self::Future {
        Box::pin(async move {
            let (peer, inner) = self.noise.upgrade_inbound(socket, info).await?;
            Ok((peer, Tap { inner, seen: self.seen }))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<S> for Opened {
    type Output = (PeerId, Tap<noise::Output<S>>);
    type Error = noise::Error;
    type Future = Upgraded<S>;

    fn upgrade_outbound(self, socket: S, info: Self::Info) -> Self::Future {
        Box::pin(async move {
            let (peer, inner) = self.noise.upgrade_outbound(socket, info).await?;
            Ok((peer, Tap { inner, seen: self.seen }))
        })
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    plain: libp2p_stream::Behaviour,
}

/// Starts the relay; its address, and what it sees.
async fn curious_relay() -> (String, Seen) {
    let seen = Seen::default();
    let keypair = Keypair::ed25519_from_bytes([99; 32]).expect("a seed");
    let look = Arc::clone(&seen);
    let opened = move |key: &Keypair| noise::Config::new(key).map(|noise| Opened { noise, seen: look });
    let mut swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), opened, yamux::Config::default)
        .expect("noise")
        .with_behaviour(|key| Behaviour {
            relay: relay::Behaviour::new(key.public().to_peer_id(), relay::Config::default()),
            identify: identify::Behaviour::new(identify::Config::new("ahenk/1".to_owned(), key.public())),
            plain: libp2p_stream::Behaviour::new(),
        })
        .expect("infallible")
        .build();
    let listen: Multiaddr = common::TCP.parse().expect("an address");
    swarm.listen_on(listen).expect("a listener");
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    swarm.add_external_address(address.clone());
    let mut plain = swarm.behaviour().plain.new_control();
    let mut incoming = plain.accept(StreamProtocol::new(PLAIN)).expect("one acceptor");
    let id = *swarm.local_peer_id();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            tokio::select! {
                _ = swarm.select_next_some() => {}
                Some((_, stream)) = incoming.next() => kept.push(stream),
            }
        }
    });
    (format!("{address}/p2p/{id}"), seen)
}

/// A device of the test account that nobody can dial, and that knows one other.
async fn device(n: u8, other: u8, relay: &str) -> Db<MemStore> {
    let mut config = Libp2pConfig::new(test_identity(n).secret, "test topic");
    (config.listen, config.mdns, config.relays) = (Vec::new(), false, vec![relay.to_owned()]);
    config.timings.redial_ms_max = 500;
    let transport = Libp2pTransport::spawn(config).await.expect("the network");
    let options = Options::new(test_identity(n), [n; 32]);
    let (node, db) = Node::new(options, transport, MemStore::new(), SystemClock::new()).expect("a node");
    tokio::spawn(node.run());
    db.add_members(vec![test_identity(other).cert]).await;
    db
}

#[tokio::test]
async fn a_relay_reads_nothing_of_what_it_passes_on() {
    let (address, seen) = curious_relay().await;
    let (one, other) = (device(0, 1, &address).await, device(1, 0, &address).await);
    one.put(TABLE, ROW, Fields::from([(FIELD, VALUE)])).await.expect("written");
    eventually("the row is on the other device", || async {
        let _ = other.sync(Duration::from_secs(1)).await;
        other.get(TABLE, ROW).expect("it reads").is_some()
    })
    .await;
    // It saw the outside of the conversation: who asked for a circuit, and how the two begin their own encryption in it.
    assert!(holds(&seen, "/libp2p/circuit/relay/0.2.0/hop"));
    assert!(holds(&seen, "/noise"), "the devices' own encryption goes through the relay");
    let names = [test_identity(0).cert.name, test_identity(1).cert.name];
    for secret in [TABLE, ROW, FIELD, VALUE, &names[0], &names[1]] {
        assert!(!holds(&seen, secret), "the relay could read {secret:?}");
    }

    // That it would have seen it: the same words, said to the relay itself.
    let mut raw = Raw::connect(5, &address).await;
    let mut stream = raw.open(PLAIN).await;
    let said = [TABLE, ROW, FIELD, VALUE].join(" ");
    stream.write_all(said.as_bytes()).await.expect("open");
    stream.flush().await.expect("open");
    eventually("the relay sees what is not encrypted", || async { holds(&seen, &said) }).await;
}
