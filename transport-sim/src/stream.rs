//! The stream form: a listener, a dialler for each member without a session, and a task for each connection. The larger
//! key of a pair waits a little before it dials, so that a pair seldom has two connections; if it does, both sides keep
//! the one that the smaller key dialled. Either side must dial: a device that was revoked and does not know it finds
//! nobody who dials it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use engine::identity::PeerKey;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use turmoil::net::{TcpListener, TcpStream};

use crate::framing::{PACKET_BYTES_MAX, Packet, read_bytes, write_bytes};
use crate::transport::{Gate, SessionEnd, Shared, Signal};

/// Begins every connection, before the key of whoever speaks.
const GREETING: &[u8] = b"ahenk sim 1";

/// Runs until the transport is dropped; the connections end with it.
pub(crate) async fn run(shared: Shared, mut roams: mpsc::UnboundedReceiver<PeerKey>) -> io::Result<()> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let listener = TcpListener::bind((any, shared.options.port)).await?;
    let mut members = shared.members.clone();
    let (mut tasks, mut dialled) = (JoinSet::new(), BTreeSet::new());
    loop {
        let known: Vec<PeerKey> = members.borrow_and_update().iter().copied().collect();
        for peer in known {
            if shared.options.directory.contains_key(&peer) && dialled.insert(peer) {
                tasks.spawn(dial(shared.clone(), peer));
            }
        }
        tokio::select! {
            biased;
            changed = members.changed() => if changed.is_err() {
                return Ok(());
            },
            Some(peer) = roams.recv() => {
                let shared = shared.clone();
                tasks.spawn(async move {
                    connect(&shared, peer, 0).await;
                });
            }
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let shared = shared.clone();
                tasks.spawn(async move {
                    connection(&shared, stream, None).await;
                });
            }
        }
    }
}

async fn dial(shared: Shared, peer: PeerKey) {
    let options = &shared.options;
    let (mut prng, mut wait_ms, mut turn) = (shared.prng(&peer), options.redial_ms, 0);
    let (mut members, mut connected) = (shared.members.clone(), shared.connected.subscribe());
    while members.wait_for(|members| members.contains(&peer)).await.is_ok() {
        let alone = |connected: &BTreeMap<PeerKey, u32>| !connected.contains_key(&peer);
        if options.own > peer {
            sleep(Duration::from_millis(options.redial_ms)).await;
        }
        if !alone(&connected.borrow_and_update()) {
            // It ends with the transport, which ends this task.
            let _ = connected.wait_for(alone).await;
            continue;
        }
        wait_ms = (wait_ms * 2).min(options.redial_ms_max);
        if connect(&shared, peer, turn).await {
            wait_ms = options.redial_ms;
        } else {
            turn += 1;
        }
        sleep(Duration::from_millis(wait_ms + prng.below(wait_ms / 2 + 1))).await;
    }
}

/// Dials a peer, at one of its hosts in turn. Says whether there was a session.
async fn connect(shared: &Shared, peer: PeerKey, turn: usize) -> bool {
    let options = &shared.options;
    let hosts = options.directory.get(&peer).map_or(&[][..], Vec::as_slice);
    let Some(host) = hosts.get(turn % hosts.len().max(1)) else { return false };
    let within = Duration::from_millis(options.handshake_ms_max);
    match timeout(within, TcpStream::connect((host.as_str(), options.port))).await {
        Ok(Ok(stream)) => connection(shared, stream, Some(peer)).await,
        _ => false,
    }
}

/// One connection, from the greeting to its end. Says whether there was a session.
async fn connection(shared: &Shared, stream: TcpStream, expected: Option<PeerKey>) -> bool {
    let address = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    let (mut reader, mut writer) = stream.into_split();
    let greeting = [GREETING, &shared.options.own.0].concat();
    let within = Duration::from_millis(shared.options.handshake_ms_max);
    let greeted = timeout(within, async {
        write_bytes(&mut writer, &greeting).await.ok()?;
        let theirs = read_bytes(&mut reader, greeting.len()).await?;
        let key = <[u8; 32]>::try_from(theirs.strip_prefix(GREETING)?).ok()?;
        Some(PeerKey(key))
    });
    let Ok(Some(peer)) = greeted.await else { return false };
    if peer == shared.options.own || expected.is_some_and(|expected| expected != peer) {
        return false;
    }
    let by_smaller = expected.is_some() == (shared.options.own < peer);
    let Ok(mut end) = shared.up(peer, address, by_smaller).await else { return false };
    let (id, signals) = (end.id, shared.signals.clone());
    let _connected = shared.connect(peer);
    let reason = tokio::select! {
        biased;
        reason = receive(shared, peer, id, &mut reader) => reason,
        reason = transmit(&mut end, &mut writer) => reason,
    };
    // A transport that is gone needs no word.
    let _ = signals.send(Signal::Down { peer, id, reason }).await;
    true
}

async fn receive(shared: &Shared, peer: PeerKey, id: u64, reader: &mut OwnedReadHalf) -> &'static str {
    let silence = Duration::from_millis(shared.options.silence_ms_max);
    let admission = Duration::from_millis(shared.options.handshake_ms_max);
    let (mut members, mut gate) = (shared.members.clone(), Gate::default());
    loop {
        let Ok(bytes) = timeout(silence, read_bytes(reader, PACKET_BYTES_MAX)).await else {
            return "nothing came for too long";
        };
        let Some(bytes) = bytes else { return "the connection ended" };
        let Some(packet) = Packet::parse(&bytes) else { return "a packet broke the rules" };
        if packet == Packet::Alive {
            continue;
        }
        let member = members.borrow().contains(&peer);
        if !gate.admits(member, &packet) {
            // What comes next waits until the peer is admitted, which its first frame is for.
            let admitted = timeout(admission, members.wait_for(|members| members.contains(&peer))).await;
            if !matches!(admitted, Ok(Ok(_))) {
                return "it was not admitted";
            }
        }
        if let Err(SendError(_)) = shared.signals.send(Signal::Packet { peer, id, packet }).await {
            return "the transport is gone";
        }
    }
}

async fn transmit(end: &mut SessionEnd, writer: &mut OwnedWriteHalf) -> &'static str {
    let alive = Duration::from_millis(end.shared.options.alive_ms);
    let silence = Duration::from_millis(end.shared.options.silence_ms_max);
    let mut bytes = Vec::new();
    loop {
        let packet = tokio::select! {
            biased;
            packet = end.outgoing.recv() => match packet {
                Some(packet) => packet,
                None => return "closed here",
            },
            () = sleep(alive) => Packet::Alive,
        };
        end.took_one().await;
        bytes.clear();
        packet.put(&mut bytes);
        match timeout(silence, write_bytes(writer, &bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return "the connection broke",
            Err(_) => return "it takes nothing any more",
        }
    }
}
