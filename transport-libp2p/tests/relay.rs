//! Devices that cannot reach each other meet at a relay: real nodes and a real relay on loopback.
//! The nodes listen nowhere, as devices behind a NAT that lets nothing in.

mod common;

use std::num::NonZeroU32;

use common::{Node, PATIENCE, QUIC, TCP, config, eventually, key, secret};
use engine::identity::{AccountId, DeviceCert};
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
        ask: Vec::new(),
        allow: Vec::new(),
        allow_accounts: Vec::new(),
        deny: Vec::new(),
        test_private: false,
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

/// Waits until the relay does not serve the node, and says why.
async fn refused(node: &Node) -> String {
    let error = || async { node.control.relays().await.expect("open").remove(0).last_error };
    eventually("the refusal", || async { error().await.is_some() }).await;
    error().await.expect("still refused")
}

fn account(root: u8) -> AccountId {
    AccountId(secret(root).public())
}

/// A node of an account, behind a relay.
async fn of_account(root: u8, seed: u8, other: u8, relay: &RelayServer) -> Node {
    let mut config = behind(seed, other, &[], relay);
    config.certificate =
        Some(DeviceCert::issue(&secret(root), key(seed), "laptop", 1, false).expect("a name"));
    Node::spawn(config).await
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
    config.allow = vec![key(1)];
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

#[tokio::test]
async fn a_relay_for_an_account_serves_the_devices_that_show_its_certificate_and_no_others() {
    let mut config = relay_config();
    config.allow_accounts = vec![account(50)];
    config.allow = vec![key(7)];
    config.deny = vec![key(8)];
    let relay = relay(&config).await;
    let mut a = of_account(50, 1, 2, &relay).await;
    let mut b = of_account(50, 2, 1, &relay).await;
    tokio::join!(a.up(key(2)), b.up(key(1)));
    let foreign = of_account(51, 3, 2, &relay).await;
    assert!(refused(&foreign).await.contains("does not serve this account"));
    // A certificate of the account, but of another device.
    let mut stolen = behind(4, 2, &[], &relay);
    stolen.certificate = Some(DeviceCert::issue(&secret(50), key(1), "laptop", 1, false).expect("a name"));
    let stolen = Node::spawn(stolen).await;
    assert!(refused(&stolen).await.contains("certificate"));
    let silent = Node::spawn(behind(5, 2, &[], &relay)).await;
    assert!(refused(&silent).await.contains("resource limit"));
    let named = Node::spawn(behind(7, 2, &[], &relay)).await;
    reserved(&named, true).await;
    let revoked = of_account(50, 8, 2, &relay).await;
    assert!(refused(&revoked).await.contains("the connection with the relay ended"));
    let counters = relay.counters();
    assert_eq!(counters.reservations, 3, "{counters:?}");
    assert!(counters.admitted >= 2 && counters.not_admitted >= 2, "{counters:?}");
}

#[tokio::test]
async fn a_device_that_is_not_yet_of_the_account_can_call_one_that_is() {
    let mut config = relay_config();
    config.allow_accounts = vec![account(50)];
    let relay = relay(&config).await;
    let a = of_account(50, 1, 2, &relay).await;
    reserved(&a, true).await;
    let mut listener = a.control.pair_listen().await.expect("listening");
    let joiner = Node::new(2, &[], &[]).await;
    let mut channel = joiner.control.pair_connect(&a.address("p2p-circuit").await).await.expect("a channel");
    channel.send(vec![1, 2, 3]).await.expect("sent");
    let mut accepted = listener.accept().await.expect("a channel");
    assert_eq!(accepted.recv().await.expect("received"), [1, 2, 3]);
}

#[tokio::test]
async fn a_certificate_is_shown_to_a_relay_that_asks_for_it_and_after_its_restart_again() {
    let open = relay(&relay_config()).await;
    let a = of_account(50, 1, 2, &open).await;
    reserved(&a, true).await;
    assert_eq!(open.counters().admitted + open.counters().not_admitted, 0, "an open relay sees none");
    let mut config = relay_config();
    config.allow_accounts = vec![account(50)];
    let first = relay(&config).await;
    let b = of_account(50, 2, 1, &first).await;
    reserved(&b, true).await;
    first.close().await;
    reserved(&b, false).await;
    let second = relay(&config).await;
    reserved(&b, true).await;
    assert_eq!(second.counters().admitted, 1);
}

#[tokio::test]
async fn a_reservation_is_renewed_before_its_time_is_over_by_a_full_relay_too() {
    let mut config = relay_config();
    config.limits.reservation_seconds = 4;
    config.limits.reservations_max = 1;
    let relay = relay(&config).await;
    let a = Node::spawn(behind(1, 2, &[], &relay)).await;
    reserved(&a, true).await;
    let late = Node::spawn(behind(2, 1, &[], &relay)).await;
    assert!(refused(&late).await.contains("resource limit"));
    eventually("two renewals", || async { relay.counters().reservations_accepted >= 3 }).await;
    let details = a.control.relays().await.expect("open").remove(0);
    assert!(details.reserved && details.failures == 0, "{details:?}");
    assert_eq!(relay.counters().reservations, 1);
}

#[tokio::test]
async fn so_many_reservations_a_minute_are_given_to_a_device_and_to_an_ip_address() {
    let one = NonZeroU32::MIN;
    let mut config = relay_config();
    config.limits.reservation_rate_max = one;
    let by_device = relay(&config).await;
    let first = Node::spawn(behind(1, 9, &[], &by_device)).await;
    reserved(&first, true).await;
    first.transport.close().await;
    let again = Node::spawn(behind(1, 9, &[], &by_device)).await;
    assert!(refused(&again).await.contains("resource limit"));
    let other = Node::spawn(behind(2, 9, &[], &by_device)).await;
    reserved(&other, true).await;

    let mut config = relay_config();
    config.limits.reservation_rate_ip_max = one;
    let by_ip = relay(&config).await;
    let first = Node::spawn(behind(3, 9, &[], &by_ip)).await;
    reserved(&first, true).await;
    let other = Node::spawn(behind(4, 9, &[], &by_ip)).await;
    assert!(refused(&other).await.contains("resource limit"));
}

#[tokio::test]
async fn so_many_circuits_a_minute_are_opened_for_a_device_and_for_an_ip_address() {
    for by_ip in [false, true] {
        let mut config = relay_config();
        let rate =
            if by_ip { &mut config.limits.circuit_rate_ip_max } else { &mut config.limits.circuit_rate_max };
        *rate = NonZeroU32::MIN;
        let relay = relay(&config).await;
        // It has nobody to call, so it uses up nothing itself.
        let mut called = common::config(1, &[], &[]);
        called.relays = relay.addresses().to_vec();
        let called = Node::spawn(called).await;
        reserved(&called, true).await;
        let address = called.address("p2p-circuit").await;
        let callers = [Node::new(2, &[], &[]).await, Node::new(if by_ip { 3 } else { 2 }, &[], &[]).await];
        assert_eq!(callers[0].control.dial(&address).await, Ok(key(1)));
        let second = callers[1].control.dial(&address).await;
        assert!(second.is_err(), "by IP address: {by_ip}, {second:?}");
        let counters = relay.counters();
        assert!(counters.circuits_accepted == 1 && counters.circuits_denied >= 1, "{counters:?}");
    }
}

#[tokio::test]
async fn so_many_circuits_are_open_at_a_time_in_all_and_for_a_device() {
    for (in_all, for_one, same) in [(1, 9, false), (9, 1, true)] {
        let mut config = relay_config();
        config.limits.circuits_max = in_all;
        config.limits.circuits_per_peer_max = for_one;
        let relay = relay(&config).await;
        let called =
            [Node::spawn(behind(1, 9, &[], &relay)).await, Node::spawn(behind(2, 9, &[], &relay)).await];
        reserved(&called[0], true).await;
        reserved(&called[1], true).await;
        let one = Node::new(3, &[], &[]).await;
        let other = Node::new(4, &[], &[]).await;
        assert_eq!(one.control.dial(&called[0].address("p2p-circuit").await).await, Ok(key(1)));
        let address = called[1].address("p2p-circuit").await;
        assert!((if same { &one } else { &other }).control.dial(&address).await.is_err());
        assert!(relay.counters().circuits_denied >= 1);
        if same {
            assert_eq!(other.control.dial(&address).await, Ok(key(2)));
        }
    }
}

#[tokio::test]
async fn a_circuit_is_cut_after_its_bytes_or_its_time_and_the_session_goes_on_in_another() {
    for by_time in [false, true] {
        let mut config = relay_config();
        if by_time {
            config.limits.circuit_seconds_max = 2;
        } else {
            config.limits.circuit_bytes_max = 512 * 1024;
        }
        let relay = relay(&config).await;
        let mut a = Node::spawn(behind(1, 2, &[], &relay)).await;
        let mut b = Node::spawn(behind(2, 1, &[], &relay)).await;
        tokio::join!(a.up(key(2)), b.up(key(1)));
        if !by_time {
            a.send(key(2), vec![1; 700 * 1024]).await;
        }
        tokio::join!(a.down(key(2)), b.down(key(1)));
        tokio::join!(a.up(key(2)), b.up(key(1)));
        assert!(relay.counters().circuits_accepted >= 2, "by time: {by_time}");
    }
}

#[tokio::test]
async fn a_relay_learns_from_another_where_it_can_be_dialed_and_starts_only_if_it_was() {
    let mut helpful = relay_config();
    helpful.test_private = true;
    let helpful = relay(&helpful).await;
    let port = |config: &RelayConfig| config.listen[0].clone();
    let mut asking = RelayConfig { external: Vec::new(), secret: secret(98), ..relay_config() };
    asking.ask = helpful.addresses().to_vec();
    asking.listen.push(QUIC.to_owned());
    let started = relay(&asking).await;
    let found = started.addresses();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().any(|address| address.starts_with(&port(&asking))), "{found:?}");

    // One that is not for a private network tests no private address.
    let public = relay(&RelayConfig { secret: secret(97), ..relay_config() }).await;
    let mut asking = RelayConfig { external: Vec::new(), secret: secret(96), ..relay_config() };
    asking.ask = public.addresses().to_vec();
    let failed = RelayServer::spawn(asking.clone()).await.expect_err("not confirmed");
    let SpawnError::NotConfirmed { tried } = failed else { panic!("{failed}") };
    assert!(tried.contains("cannot be dialed"), "{tried}");
    assert!(public.counters().tests_refused >= 1);

    public.close().await;
    let failed = RelayServer::spawn(asking).await.expect_err("nobody is there");
    assert!(matches!(failed, SpawnError::NotConfirmed { .. }), "{failed}");
}

#[tokio::test]
async fn a_device_sends_no_more_in_a_second_than_the_relay_lets_it_and_stays_connected() {
    const FRAME: usize = 64 * 1024;
    const FRAMES: u8 = 8;
    for kind in ["tcp", "udp"] {
        let mut config = relay_config();
        let at_most = 128 * 1024;
        config.limits.peer_bytes_per_s_max = at_most;
        if kind == "udp" {
            let address = config.listen[0].replace("/tcp/", "/udp/") + "/quic-v1";
            (config.listen, config.external) = (vec![address.clone()], vec![address]);
        }
        let relay = relay(&config).await;
        let mut a = Node::spawn(behind(1, 2, &[], &relay)).await;
        let mut b = Node::spawn(behind(2, 1, &[], &relay)).await;
        tokio::join!(a.up(key(2)), b.up(key(1)));
        let begun = std::time::Instant::now();
        for at in 0..FRAMES {
            a.send(key(2), vec![at; FRAME]).await;
        }
        for at in 0..FRAMES {
            assert_eq!(b.frame(key(1)).await, vec![at; FRAME]);
        }
        let bytes = FRAME as f64 * f64::from(FRAMES);
        // What is free at first: a tenth of a second's worth and a read on each stream.
        let least = (bytes - 64.0 * 1024.0) / at_most as f64;
        let took = begun.elapsed().as_secs_f64();
        assert!(took >= least, "{kind}: {bytes} bytes took {took} s");
        // The other way it is another device's rate, and pings pass meanwhile.
        b.send(key(1), vec![7; 3]).await;
        assert_eq!(a.frame(key(2)).await, vec![7; 3]);
        assert_eq!((a.count(key(2)), b.count(key(1))), ((1, 0, 0), (1, 0, 0)), "{kind}");
    }
}
