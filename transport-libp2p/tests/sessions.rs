//! Sessions between members: frames, backpressure, moves between connections, ends and returns.

mod common;

use common::*;
use engine::config::FRAME_BYTES_MAX;
use engine::transport::{PathKind, Transport, TransportEvent, TrySendError};
use tokio::time::{Duration, timeout};
use transport_libp2p::{AddressError, DialError, Libp2pTransport, SpawnError};

async fn frames_pass_both_ways(listen: &str, kind: PathKind) {
    let (mut a, mut b) = pair(listen).await;
    for node in [&a, &b] {
        let up = node.log.iter().find(|event| matches!(event, TransportEvent::PeerUp { .. }));
        assert!(matches!(up, Some(TransportEvent::PeerUp { path, .. }) if path.kind == kind), "{up:?}");
    }
    for n in 0..100u8 {
        a.send(b.key, vec![n; 500 * usize::from(n)]).await;
        b.send(a.key, vec![n]).await;
        // Half of them pile up, which one queue can hold.
        if n < 50 {
            continue;
        }
        let n = n - 50;
        assert_eq!(b.frame(a.key).await, vec![n; 500 * usize::from(n)]);
        assert_eq!(a.frame(b.key).await, vec![n]);
    }
    for n in 50..100u8 {
        assert_eq!(b.frame(a.key).await, vec![n; 500 * usize::from(n)]);
        assert_eq!(a.frame(b.key).await, vec![n]);
    }
}

#[tokio::test]
async fn frames_pass_both_ways_in_order_over_tcp() {
    frames_pass_both_ways(TCP, PathKind::DirectTcp).await;
}

#[tokio::test]
async fn frames_pass_both_ways_in_order_over_quic() {
    frames_pass_both_ways(QUIC, PathKind::DirectQuic).await;
}

#[tokio::test]
async fn the_longest_and_the_empty_frame_pass() {
    for listen in [TCP, QUIC] {
        let (mut a, mut b) = pair(listen).await;
        let longest: Vec<u8> = (0..FRAME_BYTES_MAX).map(|n| n as u8).collect();
        for _ in 0..5 {
            a.send(b.key, longest.clone()).await;
            a.send(b.key, Vec::new()).await;
            assert!(b.frame(a.key).await == longest);
            assert!(b.frame(a.key).await.is_empty());
        }
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_sender_and_nothing_is_lost() {
    for listen in [TCP, QUIC] {
        let (mut a, mut b) = pair(listen).await;
        let frame = |n: u32| [&n.to_be_bytes()[..], &[0; 64 * 1024 - 4]].concat();
        let mut sent = 0u32;
        // Until the queue is full and stays full: everything between the two is filled up.
        let mut pending = loop {
            match a.transport.try_send(b.key, frame(sent)) {
                Ok(()) => sent += 1,
                Err(TrySendError::Full(back)) => {
                    let writable = a.until(|event| matches!(event, TransportEvent::Writable { .. }));
                    if timeout(Duration::from_millis(1500), writable).await.is_err() {
                        break Some(back);
                    }
                }
                Err(TrySendError::Gone(_)) => panic!("the peer is gone"),
            }
            assert!(sent < 512, "32 MiB are under way and nothing stops");
        };
        // As soon as the reader reads, the sender hears of it, and all arrives in order.
        for n in 0..=sent {
            if n == sent {
                a.send(b.key, pending.take().expect("sent once")).await;
            }
            assert_eq!(b.frame(a.key).await[..4], n.to_be_bytes(), "of {sent}");
        }
        assert_eq!((a.count(b.key).2, b.count(a.key).2), (0, 0));
    }
}

#[tokio::test]
async fn a_simultaneous_dial_ends_with_one_session_on_one_connection() {
    for listen in [TCP, QUIC] {
        let mut a = Node::new(1, &[listen], &[2]).await;
        let mut b = Node::new(2, &[listen], &[1]).await;
        let (address_a, address_b) = (a.address("127").await, b.address("127").await);
        let (from_a, from_b) = tokio::join!(a.control.dial(&address_b), b.control.dial(&address_a));
        assert_eq!((from_a, from_b), (Ok(b.key), Ok(a.key)));
        let (key_a, key_b) = (a.key, b.key);
        tokio::join!(a.up(key_b), b.up(key_a));
        one_connection_is_left(&a, &b).await;
        a.send(b.key, vec![1]).await;
        b.send(a.key, vec![2]).await;
        assert_eq!((b.frame(a.key).await, a.frame(b.key).await), (vec![1], vec![2]));
        assert_eq!((a.count(b.key).0, a.count(b.key).2), (1, 0), "{:?}", a.log);
        assert_eq!((b.count(a.key).0, b.count(a.key).2), (1, 0), "{:?}", b.log);
    }
}

async fn one_connection_is_left(a: &Node, b: &Node) {
    eventually("one connection", || async {
        let (of_a, of_b) = (a.peer(b.key).await, b.peer(a.key).await);
        let [of_a, of_b] = [of_a, of_b].map(|details| details.expect("a member"));
        let (Some(path_a), Some(path_b)) = (of_a.session, of_b.session) else { return false };
        of_a.connections == 1 && of_b.connections == 1 && path_a.path.kind == path_b.path.kind
    })
    .await;
}

/// `dialer` is the one that finds the better way; the session must move whichever side that is.
async fn the_session_moves_to_quic(dialer: u8) {
    let mut a = Node::new(1, &[TCP, QUIC], &[2]).await;
    let mut b = Node::new(2, &[TCP, QUIC], &[1]).await;
    a.control.dial(&b.address("tcp").await).await.expect("it is there");
    let (key_a, key_b) = (a.key, b.key);
    tokio::join!(a.up(key_b), b.up(key_a));
    a.send(b.key, b"over TCP".to_vec()).await;
    assert_eq!(b.frame(a.key).await, b"over TCP");
    let (from, to) = if dialer == 1 { (&a, &b) } else { (&b, &a) };
    from.control.dial(&to.address("quic").await).await.expect("it is there");
    for (node, other) in [(&mut a, key_b), (&mut b, key_a)] {
        let moved = |event: &TransportEvent| matches!(event, TransportEvent::PathChanged { peer, path } if *peer == other && path.kind == PathKind::DirectQuic);
        node.until(moved).await;
    }
    one_connection_is_left(&a, &b).await;
    a.send(b.key, b"over QUIC".to_vec()).await;
    b.send(a.key, b"and back".to_vec()).await;
    assert_eq!(b.frame(a.key).await, b"over QUIC");
    assert_eq!(a.frame(b.key).await, b"and back");
    assert_eq!((a.count(b.key), b.count(a.key)), ((1, 1, 0), (1, 1, 0)));
}

#[tokio::test]
async fn the_session_moves_to_quic_when_the_smaller_key_finds_it() {
    the_session_moves_to_quic(if key(1) < key(2) { 1 } else { 2 }).await;
}

#[tokio::test]
async fn the_session_moves_to_quic_when_the_larger_key_finds_it() {
    the_session_moves_to_quic(if key(1) < key(2) { 2 } else { 1 }).await;
}

#[tokio::test]
async fn a_session_over_tcp_finds_the_way_to_quic_by_itself() {
    let mut hasty = config(1, &[TCP, QUIC], &[2]);
    hasty.timings.upgrade_ms = 100;
    let mut a = Node::spawn(hasty).await;
    let mut b = Node::new(2, &[TCP, QUIC], &[1]).await;
    // It knows the TCP address only; the other one it learns from the peer.
    a.control.dial(&b.address("tcp").await).await.expect("it is there");
    let (key_a, key_b) = (a.key, b.key);
    tokio::join!(a.up(key_b), b.up(key_a));
    let moved = |event: &TransportEvent| matches!(event, TransportEvent::PathChanged { path, .. } if path.kind == PathKind::DirectQuic);
    tokio::join!(a.until(moved), b.until(moved));
    one_connection_is_left(&a, &b).await;
    assert_eq!((a.count(key_b), b.count(key_a)), ((1, 1, 0), (1, 1, 0)));
}

#[tokio::test]
async fn a_move_under_load_loses_nothing() {
    let mut a = Node::new(1, &[TCP, QUIC], &[2]).await;
    let mut b = Node::new(2, &[TCP, QUIC], &[1]).await;
    a.control.dial(&b.address("tcp").await).await.expect("it is there");
    let (key_a, key_b) = (a.key, b.key);
    tokio::join!(a.up(key_b), b.up(key_a));
    let quic = b.address("quic").await;
    let control = a.control.clone();
    let sending = async {
        for n in 0..2000u32 {
            if n == 200 {
                control.dial(&quic).await.expect("it is there");
            }
            a.send(key_b, [&n.to_be_bytes()[..], &[0; 8 * 1024]].concat()).await;
        }
        a
    };
    let receiving = async {
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2000 {
            let frame = b.frame(key_a).await;
            assert!(seen.insert(frame[..4].to_vec()), "a frame arrived twice");
        }
        b
    };
    let (a, b) = tokio::join!(sending, receiving);
    one_connection_is_left(&a, &b).await;
    assert_eq!((b.count(key_a).1, b.count(key_a).2), (1, 0));
}

#[tokio::test]
async fn a_peer_that_restarts_on_its_address_is_found_again() {
    for listen in [TCP, QUIC] {
        let (mut a, mut b) = pair(listen).await;
        let address = b.address("127").await;
        let address = address.split("/p2p/").next().expect("a prefix").to_owned();
        let key_b = b.key;
        b.transport.close().await;
        a.down(key_b).await;
        b = Node::new(2, &[&address], &[1]).await;
        let key_a = a.key;
        tokio::join!(a.up(key_b), b.up(key_a));
        a.send(key_b, vec![7]).await;
        assert_eq!(b.frame(key_a).await, vec![7]);
        assert_eq!(a.count(key_b).0, 2);
    }
}

#[tokio::test]
async fn what_is_queued_is_sent_before_a_disconnect_and_before_a_close() {
    for listen in [TCP, QUIC] {
        for close in [false, true] {
            let (mut a, mut b) = pair(listen).await;
            let (key_a, key_b) = (a.key, b.key);
            for n in 0..20u8 {
                a.transport.try_send(key_b, vec![n; 50_000]).expect("room for a megabyte");
            }
            if close {
                let (_, ()) = tokio::join!(b.down(key_a), a.transport.close());
            } else {
                a.transport.disconnect(key_b, "enough for today");
                let gone = a.transport.try_send(key_b, vec![0]);
                assert_eq!(gone, Err(TrySendError::Gone(vec![0])));
                let (_, reason) = tokio::join!(b.down(key_a), a.down(key_b));
                assert_eq!(reason, "enough for today");
            }
            let frames = b.log.iter().filter(|event| matches!(event, TransportEvent::Frame { .. }));
            assert_eq!(frames.count(), 20);
        }
    }
}

#[tokio::test]
async fn a_removed_member_is_cut_off_and_not_dialed_again() {
    let (mut a, mut b) = pair(TCP).await;
    let (key_a, key_b) = (a.key, b.key);
    b.transport.set_members(&[]);
    a.transport.set_members(&[]);
    let (reason, _) = tokio::join!(a.down(key_b), b.down(key_a));
    assert!(reason.contains("no longer a device"), "{reason}");
    eventually("no connection", || async { a.peer(key_b).await.is_none() }).await;
}

#[tokio::test]
async fn round_trips_are_reported() {
    let (mut a, b) = pair(QUIC).await;
    a.until(
        |event| matches!(event, TransportEvent::RoundTrip { peer, micros } if *peer == b.key && *micros > 0),
    )
    .await;
    let details = a.peer(b.key).await.expect("a member");
    let session = details.session.expect("a session");
    assert!(session.rtt_micros.is_some());
    assert_eq!(session.path.kind, PathKind::DirectQuic);
}

#[tokio::test]
async fn known_addresses_can_be_saved_and_used_again() {
    let (a, b) = pair(TCP).await;
    let known = a.control.known_addresses().await.expect("open");
    let (peer, addresses) = known.first().expect("the other one");
    assert_eq!(*peer, b.key);
    assert!(b.address("tcp").await.starts_with(&addresses[0]), "{addresses:?}");
    a.transport.close().await;
    let mut again = config(1, &[TCP], &[2]);
    again.addresses = known;
    let mut a = Node::spawn(again).await;
    a.up(b.key).await;
}

#[tokio::test]
async fn an_address_in_use_is_said_so() {
    let a = Node::new(1, &[TCP, QUIC], &[]).await;
    for address in a.control.listen_addresses().await.expect("open") {
        let address = address.split("/p2p/").next().expect("a prefix");
        let error = Libp2pTransport::spawn(config(2, &[address], &[])).await.expect_err("in use");
        assert!(matches!(&error, SpawnError::AddressInUse { address: a } if a == address), "{error:?}");
    }
    for bad in ["nonsense", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1"] {
        let error = Libp2pTransport::spawn(config(2, &[bad], &[])).await.expect_err(bad);
        assert!(matches!(error, SpawnError::Address(_)), "{error:?}");
    }
    let elsewhere = Libp2pTransport::spawn(config(2, &["/ip4/192.0.2.1/tcp/4001"], &[])).await;
    assert!(matches!(elsewhere, Err(SpawnError::AddressNotAvailable { .. })), "{elsewhere:?}");
}

#[tokio::test]
async fn a_dial_that_fails_says_why_and_who_is_elsewhere_is_not_mistaken() {
    let (a, b) = pair(TCP).await;
    let error = a.control.dial("/ip4/127.0.0.1/tcp/1").await.expect_err("nobody is there");
    assert!(matches!(&error, DialError::Failed(reason) if reason.contains("refused")), "{error}");
    let own = a.address("tcp").await;
    let error = a.control.dial(&own).await.expect_err("oneself");
    assert!(error.to_string().contains("this device itself"), "{error}");
    let wrong = b.address("tcp").await;
    let wrong = format!(
        "{}/p2p/{}",
        wrong.split("/p2p/").next().expect("a prefix"),
        "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    );
    let error = a.control.dial(&wrong).await.expect_err("another device");
    assert!(error.to_string().contains("another device"), "{error}");
    let control = a.control.clone();
    a.transport.close().await;
    assert_eq!(control.dial(&own).await, Err(DialError::TransportClosed));
}

#[tokio::test]
async fn dropping_the_transport_ends_the_sessions_of_the_others() {
    let (a, mut b) = pair(QUIC).await;
    let Node { key, transport, .. } = a;
    drop(transport);
    b.down(key).await;
}

#[tokio::test]
async fn a_paused_transport_has_no_connection_and_comes_back_when_it_goes_on() {
    for listen in [TCP, QUIC] {
        let (mut a, mut b) = pair(listen).await;
        a.send(b.key, b"under way".to_vec()).await;
        assert!(a.control.pause(true).await.expect("runs"));
        assert!(!a.control.pause(true).await.expect("runs"), "it was paused already");
        assert_eq!(b.frame(a.key).await, b"under way");
        a.down(b.key).await;
        b.down(a.key).await;
        eventually("no connection is left", || async {
            let (one, other) = (a.peer(b.key).await, b.peer(a.key).await);
            one.is_none_or(|peer| peer.connections == 0) && other.is_none_or(|peer| peer.connections == 0)
        })
        .await;
        // Neither side gets through, and asking for it says why.
        let refused = a.control.dial(&b.address("127.0.0.1").await).await;
        assert!(matches!(&refused, Err(DialError::Failed(why)) if why.contains("paused")), "{refused:?}");
        // It may seem to the caller that it was let in, for a moment; a session there is none.
        let _ = b.control.dial(&a.address("127.0.0.1").await).await;
        eventually("the door is shut", || async {
            b.peer(a.key).await.is_none_or(|peer| peer.connections == 0)
        })
        .await;
        assert_eq!(a.peer(b.key).await.map_or(0, |peer| peer.connections), 0);
        assert_eq!(a.count(b.key).0, 1);
        assert!(a.control.pause(false).await.expect("runs"));
        a.up(b.key).await;
        b.up(a.key).await;
        a.send(b.key, b"again".to_vec()).await;
        assert_eq!(b.frame(a.key).await, b"again");
    }
}

#[tokio::test]
async fn a_kind_of_path_that_is_ruled_out_is_neither_listened_on_nor_dialed_nor_taken() {
    let mut only_tcp = config(1, &[TCP, QUIC], &[2]);
    only_tcp.paths = [PathKind::DirectTcp].into();
    let mut a = Node::spawn(only_tcp).await;
    let listening = a.control.listen_addresses().await.expect("the transport is open");
    assert!(
        listening.iter().all(|address| address.contains("/tcp/")) && !listening.is_empty(),
        "{listening:?}"
    );
    let b = Node::new(2, &[TCP, QUIC], &[1]).await;
    let refused = a.control.dial(&b.address("/quic-v1").await).await;
    assert!(matches!(refused, Err(DialError::Address(AddressError::RuledOut { .. }))), "{refused:?}");
    a.control.add_address(b.key, &b.address("/quic-v1").await).await.expect("a right address");
    assert!(a.peer(b.key).await.expect("a member").addresses.is_empty(), "it is not kept");
    assert_eq!(a.control.dial(&b.address("/tcp/").await).await, Ok(b.key));
    let up = a.up(b.key).await;
    assert!(matches!(up, TransportEvent::PeerUp { path, .. } if path.kind == PathKind::DirectTcp));
}
