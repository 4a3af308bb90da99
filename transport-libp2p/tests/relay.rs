//! Devices that cannot reach each other meet at a relay: real nodes and a real relay on loopback.
//! The nodes listen nowhere, as devices behind a NAT that lets nothing in.

mod common;

use common::{Node, PATIENCE, QUIC, TCP, config, eventually, key, secret};
use engine::transport::{PathKind, TransportEvent};
use transport_libp2p::{Libp2pConfig, PortMapping, RelayConfig, RelayLimits, RelayServer, SpawnError};

/// A relay's configuration, at a port that was free a moment ago.
fn relay_config() -> RelayConfig {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    RelayConfig {
        secret: secret(99),
        listen: vec![address.clone()],
        external: vec![address],
        allow: None,
        limits: RelayLimits::default(),
    }
}

async fn relay(config: &RelayConfig) -> RelayServer {
    RelayServer::spawn(config.clone()).await.expect("the relay starts")
}

fn behind(seed: u8, other: u8, listen: &[&str], relay: &RelayServer) -> Libp2pConfig {
    let mut config = config(seed, listen, &[other]);
    config.relays = relay.addresses().to_vec();
    config
}

async fn reserved(node: &Node, wanted: bool) {
    eventually("the reservation", || async {
        node.control.relays().await.expect("open")[0].reserved == wanted
    })
    .await;
}

fn path(event: &TransportEvent) -> PathKind {
    match event {
        TransportEvent::PeerUp { path, .. } | TransportEvent::PathChanged { path, .. } => path.kind,
        other => panic!("no path in {other:?}"),
    }
}

#[tokio::test]
async fn two_devices_that_nobody_can_dial_meet_at_their_relay_without_any_address() {
    let relay = relay(&relay_config()).await;
    let mut a = Node::spawn(behind(1, 2, &[], &relay)).await;
    let mut b = Node::spawn(behind(2, 1, &[], &relay)).await;
    let (up_a, up_b) = tokio::join!(a.up(key(2)), b.up(key(1)));
    assert_eq!((path(&up_a), path(&up_b)), (PathKind::Relayed, PathKind::Relayed));
    // More than the 128 KiB that circuits have by default.
    for at in 0..8 {
        a.send(key(2), vec![at; 512 * 1024]).await;
        assert_eq!(b.frame(key(1)).await, vec![at; 512 * 1024]);
    }
    b.send(key(1), vec![7; 3]).await;
    assert_eq!(a.frame(key(2)).await, vec![7; 3]);
    let counters = relay.counters();
    assert!(counters.circuits >= 1 && counters.reservations == 2, "{counters:?}");
    let address = a.address("p2p-circuit").await;
    assert_eq!(address.matches("/p2p/").count(), 2, "the relay's id and ours: {address}");
}

#[tokio::test]
async fn a_relay_that_is_started_again_is_asked_again_and_the_session_resumes() {
    let config = relay_config();
    let first = relay(&config).await;
    let mut a = Node::spawn(behind(1, 2, &[], &first)).await;
    let mut b = Node::spawn(behind(2, 1, &[], &first)).await;
    tokio::join!(a.up(key(2)), b.up(key(1)));
    first.close().await;
    tokio::join!(a.down(key(2)), b.down(key(1)));
    reserved(&a, false).await;
    let second = relay(&config).await;
    tokio::join!(a.up(key(2)), b.up(key(1)));
    reserved(&a, true).await;
    reserved(&b, true).await;
    assert_eq!(second.counters().reservations, 2);
}

#[tokio::test]
async fn a_relay_that_is_not_for_us_says_so_and_keeps_no_connection() {
    let mut config = relay_config();
    config.allow = Some(vec![key(1)]);
    let relay = relay(&config).await;
    let friend = Node::spawn(behind(1, 2, &[], &relay)).await;
    let stranger = Node::spawn(behind(3, 2, &[], &relay)).await;
    reserved(&friend, true).await;
    eventually("the refusal", || async {
        let details = stranger.control.relays().await.expect("open").remove(0);
        !details.reserved && details.failures > 0 && details.last_error.is_some()
    })
    .await;
    assert_eq!(relay.counters().reservations, 1);
}

#[tokio::test]
async fn a_full_relay_denies_the_reservation_and_the_device_knows_why() {
    let mut config = relay_config();
    config.limits.reservations_max = 1;
    let relay = relay(&config).await;
    let first = Node::spawn(behind(1, 9, &[], &relay)).await;
    reserved(&first, true).await;
    let second = Node::spawn(behind(2, 9, &[], &relay)).await;
    eventually("the refusal", || async {
        let details = second.control.relays().await.expect("open").remove(0);
        details.last_error.is_some_and(|error| error.contains("resource limit"))
    })
    .await;
    assert!(relay.counters().reservations_denied >= 1);
}

#[tokio::test]
async fn a_session_through_a_relay_moves_to_the_direct_way_when_there_is_one() {
    let relay = relay(&relay_config()).await;
    let mut config_a = behind(1, 2, &[TCP], &relay);
    let mut config_b = behind(2, 1, &[QUIC], &relay);
    config_a.timings.upgrade_ms = 200;
    config_b.timings.upgrade_ms = 200;
    let mut a = Node::spawn(config_a).await;
    let mut b = Node::spawn(config_b).await;
    tokio::join!(a.up(key(2)), b.up(key(1)));
    eventually("a direct path", || async {
        let session = a.peer(key(2)).await.and_then(|peer| peer.session);
        session.is_some_and(|session| session.path.kind == PathKind::DirectQuic)
    })
    .await;
    a.send(key(2), vec![1]).await;
    assert_eq!(b.frame(key(1)).await, [1]);
    assert_eq!((a.count(key(2)).0, a.count(key(2)).2), (1, 0), "one session all along");
    eventually("the circuit's end", || async { relay.counters().circuits == 0 }).await;
}

#[tokio::test]
async fn a_relay_without_an_external_address_does_not_start() {
    for external in [vec![], vec!["/ip4/0.0.0.0/tcp/4001".to_owned()]] {
        let config = RelayConfig { external, ..relay_config() };
        let started = tokio::time::timeout(PATIENCE, RelayServer::spawn(config)).await.expect("in time");
        assert!(matches!(started, Err(SpawnError::NoExternalAddress)));
    }
}

#[tokio::test]
async fn the_router_is_asked_for_ports_only_if_that_is_set() {
    for upnp in [false, true] {
        let mut config = config(1, &[TCP], &[]);
        config.upnp = upnp;
        let node = Node::spawn(config).await;
        let mapping = node.control.reach().await.expect("open").mapping;
        assert_eq!(mapping == PortMapping::Off, !upnp, "{mapping:?}");
    }
}
