//! The datagram form: one packet in one UDP datagram, each with the key of its sender. A peer is up from its first
//! datagram until it says goodbye or falls silent.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::identity::PeerKey;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use turmoil::net::UdpSocket;

use crate::framing::{PACKET_BYTES_MAX, Packet};
use crate::transport::{Gate, SessionEnd, Shared, Signal};

struct Peer {
    id: u64,
    /// Where it speaks from.
    from: SocketAddr,
    heard: Instant,
    gate: Gate,
    since: Instant,
    /// Cleared by the sending task when this side closed the session.
    open: Arc<AtomicBool>,
}

struct Hub {
    shared: Shared,
    socket: Arc<UdpSocket>,
    peers: BTreeMap<PeerKey, Peer>,
    /// Until when datagrams of a peer begin no new session.
    shunned: BTreeMap<PeerKey, Instant>,
    tasks: JoinSet<()>,
}

/// Runs until the transport is dropped.
pub(crate) async fn run(shared: Shared) -> io::Result<()> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let socket = Arc::new(UdpSocket::bind((any, shared.options.port)).await?);
    let mut ticks = interval(Duration::from_millis(shared.options.alive_ms));
    let mut hub = Hub {
        shared,
        socket: Arc::clone(&socket),
        peers: BTreeMap::new(),
        shunned: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    let mut buffer = vec![0; 32 + PACKET_BYTES_MAX + 1];
    loop {
        tokio::select! {
            biased;
            received = socket.recv_from(&mut buffer) => {
                let (len, from) = received?;
                hub.received(&buffer[..len], from).await;
            }
            _ = ticks.tick() => hub.tick().await,
        }
    }
}

fn encode(own: &PeerKey, packet: &Packet) -> Vec<u8> {
    let mut bytes = own.0.to_vec();
    packet.put(&mut bytes);
    bytes
}

impl Hub {
    async fn received(&mut self, bytes: &[u8], from: SocketAddr) {
        let Some((key, rest)) = bytes.split_first_chunk::<32>() else { return };
        let (peer, now) = (PeerKey(*key), Instant::now());
        let Some(packet) = Packet::parse(rest) else { return };
        if peer == self.shared.options.own || !self.shared.options.directory.contains_key(&peer) {
            return;
        }
        let known = self.peers.get(&peer);
        if packet == Packet::Bye {
            // A copy of a peer, with the peer's key, ends its own session only.
            if known.is_some_and(|known| known.from == from) {
                self.end(peer, "it said goodbye").await;
            }
            return;
        }
        if known.is_some_and(|known| known.from != from) {
            return self.end(peer, "it speaks from elsewhere").await;
        }
        self.sweep();
        if !self.peers.contains_key(&peer) {
            if self.shunned.get(&peer).is_some_and(|until| *until > now) {
                return;
            }
            let Ok(end) = self.shared.up(peer, from.to_string(), true).await else { return };
            let open = Arc::new(AtomicBool::new(true));
            let (id, gate) = (end.id, Gate::default());
            self.tasks.spawn(transmit(end, Arc::clone(&self.socket), from, Arc::clone(&open)));
            self.peers.insert(peer, Peer { id, from, heard: now, gate, since: now, open });
        }
        let member = self.shared.members.borrow().contains(&peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.heard = now;
        if packet != Packet::Alive && state.gate.admits(member, &packet) {
            let id = state.id;
            // A full queue loses datagrams, as queues of datagrams do.
            let _ = self.shared.signals.try_send(Signal::Packet { peer, id, packet });
        }
    }

    /// Forgets sessions that this side closed.
    fn sweep(&mut self) {
        let until = Instant::now() + Duration::from_millis(self.shared.options.redial_ms);
        let closed = self.peers.extract_if(.., |_, peer| !peer.open.load(Ordering::Relaxed));
        self.shunned.extend(closed.map(|(peer, _)| (peer, until)));
    }

    async fn end(&mut self, peer: PeerKey, reason: &'static str) {
        if let Some(state) = self.peers.remove(&peer) {
            let until = Instant::now() + Duration::from_millis(self.shared.options.redial_ms);
            self.shunned.insert(peer, until);
            // A transport that is gone needs no word.
            let _ = self.shared.signals.send(Signal::Down { peer, id: state.id, reason }).await;
        }
    }

    async fn tick(&mut self) {
        self.sweep();
        let (options, now) = (Arc::clone(&self.shared.options), Instant::now());
        let silence = Duration::from_millis(options.silence_ms_max);
        let admission = Duration::from_millis(options.handshake_ms_max);
        let members = self.shared.members.borrow().clone();
        let quiet: Vec<PeerKey> =
            self.peers.iter().filter(|(_, peer)| now - peer.heard >= silence).map(|(key, _)| *key).collect();
        for peer in quiet {
            self.end(peer, "nothing came for too long").await;
        }
        let strangers =
            self.peers.iter().filter(|(key, peer)| !members.contains(key) && now - peer.since >= admission);
        for peer in strangers.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.end(peer, "it was not admitted").await;
        }
        let alive = encode(&options.own, &Packet::Alive);
        let hosts: Vec<&String> =
            members.iter().filter_map(|peer| options.directory.get(peer)).flatten().collect();
        for host in hosts {
            // A host that cannot be reached is tried again at the next tick.
            let _ = self.socket.send_to(&alive, (host.as_str(), options.port)).await;
        }
    }
}

async fn transmit(mut end: SessionEnd, socket: Arc<UdpSocket>, to: SocketAddr, open: Arc<AtomicBool>) {
    let own = end.shared.options.own;
    while let Some(packet) = end.outgoing.recv().await {
        end.took_one().await;
        // What cannot be sent is lost, as datagrams are.
        let _ = socket.send_to(&encode(&own, &packet), to).await;
    }
    // The hub dropped the session before, or this side closed it now: saying so twice does no harm.
    let _ = socket.send_to(&encode(&own, &Packet::Bye), to).await;
    open.store(false, Ordering::Relaxed);
    let signal = Signal::Down { peer: end.peer, id: end.id, reason: "closed here" };
    let _ = end.shared.signals.send(signal).await;
}
