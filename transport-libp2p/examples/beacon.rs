//! A node that prints what happens to it, for trying things out between real or virtual networks.
//!
//! `beacon SEED [--member SEED]... [--listen MULTIADDR]... [--pair listen|find]` makes its key of one byte,
//! treats those of the other seeds as members, and looks for them on the local network. It sends
//! every member that appears one frame. Ends when its standard input does.

use std::io::Write;

use engine::identity::{PeerKey, SecretKey, hex};
use engine::transport::{Transport, TransportEvent};
use tokio::io::AsyncReadExt;
use transport_libp2p::{Libp2pConfig, Libp2pControl, Libp2pTransport};

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    // If nobody reads what we say there is nobody to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn secret(seed: &str) -> Result<SecretKey, std::num::ParseIntError> {
    Ok(SecretKey::from_bytes(&[seed.parse()?; 32]))
}

fn short(peer: PeerKey) -> String {
    hex(&peer.0[..4])
}

async fn find(control: Libp2pControl) -> Result<(), Box<dyn std::error::Error>> {
    let mut candidates = control.pair_candidates().await?;
    while let Some(candidate) = candidates.recv().await {
        say(format_args!("candidate {}", short(candidate.peer)));
        let mut channel = control.pair_connect_peer(candidate).await?;
        channel.send(b"hello".to_vec()).await?;
        say(format_args!("paired {}", String::from_utf8_lossy(&channel.recv().await?)));
    }
    Ok(())
}

async fn offer(control: Libp2pControl) -> Result<(), Box<dyn std::error::Error>> {
    let mut listener = control.pair_listen().await?;
    while let Some(mut channel) = listener.accept().await {
        let hello = channel.recv().await?;
        say(format_args!("paired {}", String::from_utf8_lossy(&hello)));
        channel.send(b"welcome".to_vec()).await?;
        channel.finish().await;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut config = Libp2pConfig::new(secret(&arguments.next().ok_or("beacon SEED …")?)?, "beacon");
    let mut listen = Vec::new();
    let mut pair = None;
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or("a value is missing")?;
        match option.as_str() {
            "--member" => config.members.push(PeerKey(secret(&value)?.public())),
            "--listen" => listen.push(value),
            "--pair" => pair = Some(value),
            _ => return Err(format!("unknown option {option}").into()),
        }
    }
    if !listen.is_empty() {
        config.listen = listen;
    }
    let mut transport = Libp2pTransport::spawn(config).await?;
    say(format_args!("ready {}", short(transport.local())));
    match pair.as_deref() {
        Some("listen") => drop(tokio::spawn({
            let control = transport.control();
            async move { offer(control).await.map_err(|error| say(format_args!("error {error}"))) }
        })),
        Some("find") => drop(tokio::spawn({
            let control = transport.control();
            async move { find(control).await.map_err(|error| say(format_args!("error {error}"))) }
        })),
        _ => {}
    }
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 256];
    loop {
        let event = tokio::select! {
            read = stdin.read(&mut ignored) => match read? {
                0 => break,
                _ => continue,
            },
            event = transport.next_event() => event,
        };
        match event {
            None => break,
            Some(TransportEvent::PeerUp { peer, path }) => {
                say(format_args!("up {} {} {}", short(peer), path.kind, path.address));
                let _ = transport.try_send(peer, b"hello".to_vec());
            }
            Some(TransportEvent::PeerDown { peer, reason }) => {
                say(format_args!("down {} {reason}", short(peer)));
            }
            Some(TransportEvent::PathChanged { peer, path }) => {
                say(format_args!("path {} {} {}", short(peer), path.kind, path.address));
            }
            Some(TransportEvent::Frame { peer, bytes }) => {
                say(format_args!("frame {} {}", short(peer), String::from_utf8_lossy(&bytes)));
            }
            Some(TransportEvent::RoundTrip { .. } | TransportEvent::Writable { .. }) => {}
            Some(TransportEvent::Broadcast { from, .. }) => say(format_args!("hint {}", short(from))),
        }
    }
    transport.close().await;
    Ok(())
}
