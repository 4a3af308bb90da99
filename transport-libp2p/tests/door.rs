//! Who gets in: strangers, gossip, and peers that do not keep to the protocol.

mod common;

use common::raw::{Raw, ends};
use common::*;
use engine::config::{CONTROL_BYTES_MAX, FRAME_BYTES_MAX};
use engine::identity::PeerKey;
use engine::transport::{Transport, TransportEvent};
use futures::AsyncWriteExt;
use tokio::time::timeout;

fn frames(node: &Node) -> usize {
    node.log.iter().filter(|event| matches!(event, TransportEvent::Frame { .. })).count()
}

/// A stranger to `host`, which knows the host as a member and so offers it a session.
async fn stranger(host: &Node) -> Node {
    let mut stranger = Node::new(9, &[TCP], &[1]).await;
    let address = host.address("tcp").await;
    stranger.control.add_address(host.key, &address).await.expect("valid");
    stranger.up(host.key).await;
    stranger
}

#[tokio::test]
async fn a_stranger_gets_one_frame_in_and_the_rest_when_it_is_admitted() {
    let mut host = Node::new(1, &[TCP], &[]).await;
    let mut guest = stranger(&host).await;
    for n in 1..=3u8 {
        guest.send(host.key, vec![n; CONTROL_BYTES_MAX]).await;
    }
    host.up(guest.key).await;
    assert_eq!(host.frame(guest.key).await, vec![1; CONTROL_BYTES_MAX]);
    // The host can answer meanwhile.
    host.send(guest.key, b"who are you?".to_vec()).await;
    assert_eq!(guest.frame(host.key).await, b"who are you?");
    assert_eq!(frames(&host), 1);
    host.transport.set_members(&[guest.key]);
    assert_eq!(host.frame(guest.key).await, vec![2; CONTROL_BYTES_MAX]);
    assert_eq!(host.frame(guest.key).await, vec![3; CONTROL_BYTES_MAX]);
    guest.send(host.key, vec![4; FRAME_BYTES_MAX]).await;
    assert_eq!(host.frame(guest.key).await.len(), FRAME_BYTES_MAX);
}

#[tokio::test]
async fn a_stranger_that_is_not_admitted_in_time_is_dropped() {
    let mut config = config(1, &[TCP], &[]);
    config.timings.admission_ms_max = 700;
    let mut host = Node::spawn(config).await;
    let mut guest = stranger(&host).await;
    for n in 1..=3u8 {
        guest.send(host.key, vec![n]).await;
    }
    let (key_host, key_guest) = (host.key, guest.key);
    let (reason, _) = tokio::join!(host.down(key_guest), guest.down(key_host));
    assert!(reason.contains("not admitted"), "{reason}");
    assert_eq!(frames(&host), 1);
}

#[tokio::test]
async fn a_stranger_with_a_long_first_frame_is_dropped() {
    let mut host = Node::new(1, &[TCP], &[]).await;
    let mut guest = stranger(&host).await;
    guest.send(host.key, vec![0; CONTROL_BYTES_MAX + 1]).await;
    let reason = host.down(guest.key).await;
    assert!(reason.contains("before it is admitted"), "{reason}");
    assert_eq!(frames(&host), 0);
}

#[tokio::test]
async fn a_members_hint_arrives_and_a_strangers_does_not() {
    // The host knows the middle; the middle knows both; the stranger knows the middle.
    let mut host = Node::new(1, &[TCP], &[2]).await;
    let mut middle = Node::new(2, &[TCP], &[1, 9]).await;
    let mut stranger = Node::new(9, &[TCP], &[2, 1]).await;
    let address = middle.address("tcp").await;
    host.control.add_address(middle.key, &address).await.expect("valid");
    stranger.control.add_address(middle.key, &address).await.expect("valid");
    stranger.control.dial(&host.address("tcp").await).await.expect("it is there");
    let (key_host, key_middle, key_stranger) = (host.key, middle.key, stranger.key);
    tokio::join!(host.up(key_middle), async {
        middle.up(key_host).await;
        middle.log.clear();
    });
    // Subscriptions take a moment to be known, and hints may be lost: so they are repeated.
    let heard = |from: PeerKey| move |event: &TransportEvent| matches!(event, TransportEvent::Broadcast { from: f, .. } if *f == from);
    let repeat = async |node: &mut Node, mark: u8| {
        for n in 0u16.. {
            node.transport.broadcast([&[mark], &n.to_be_bytes()[..]].concat());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = repeat(&mut stranger, 9) => {}
        _ = timeout(PATIENCE, async {
            loop {
                if heard(key_stranger)(&middle.next().await) { break }
            }
        }) => {}
    }
    assert!(middle.log.iter().any(heard(key_stranger)), "a member's hint reaches the one that knows it");
    tokio::select! {
        () = repeat(&mut middle, 2) => {}
        _ = host.until(heard(key_middle)) => {}
    }
    let broadcasts = host.log.iter().filter(|event| matches!(event, TransportEvent::Broadcast { .. }));
    for event in broadcasts {
        assert!(matches!(event, TransportEvent::Broadcast { from, .. } if *from == key_middle), "{event:?}");
    }
}

#[tokio::test]
async fn an_oversize_frame_ends_the_session_before_it_is_read() {
    let mut host = Node::new(1, &[TCP], &[9]).await;
    let mut raw = Raw::connect(9, &host.address("tcp").await).await;
    let mut stream = raw.greet().await;
    stream.write_all(&[1, 42, 0x81, 0x80, 0x40]).await.expect("open");
    stream.flush().await.expect("open");
    assert_eq!(host.frame(raw.key).await, vec![42]);
    let reason = host.down(raw.key).await;
    assert!(reason.contains("1048577 bytes where at most 1048576"), "{reason}");
    ends(&mut stream).await;
}

#[tokio::test]
async fn garbage_does_no_harm_and_a_good_peer_is_still_served() {
    let mut host = Node::new(1, &[TCP], &[2, 9]).await;
    let garbage: [&[u8]; 6] = [
        &[0xff; 64],
        &[0],
        &[3, 1, 2, 3],
        &[8, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[8, 1, 2, 3, 4, 5, 6, 7, 8, 0x80, 0x00],
        &[65, 0],
    ];
    for bytes in garbage {
        let mut raw = Raw::connect(9, &host.address("tcp").await).await;
        let mut stream = raw.open("/ahenk/sync/1").await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        ends(&mut stream).await;
    }
    // A half frame and an end: the session ends, and nothing of the frame is delivered.
    let mut raw = Raw::connect(9, &host.address("tcp").await).await;
    let mut stream = raw.greet().await;
    stream.write_all(&[10, 1, 2, 3]).await.expect("open");
    stream.close().await.expect("open");
    ends(&mut stream).await;
    let mut good = Node::new(2, &[TCP], &[1]).await;
    good.control.dial(&host.address("tcp").await).await.expect("it is there");
    good.up(host.key).await;
    good.send(host.key, b"hello".to_vec()).await;
    assert_eq!(host.frame(good.key).await, b"hello");
    assert_eq!(frames(&host), 1);
}

#[tokio::test]
async fn a_second_sync_stream_on_a_connection_is_reset_and_the_first_goes_on() {
    let mut host = Node::new(1, &[TCP], &[9]).await;
    let mut raw = Raw::connect(9, &host.address("tcp").await).await;
    let mut first = raw.greet().await;
    let mut second = raw.open("/ahenk/sync/1").await;
    ends(&mut second).await;
    first.write_all(&[1, 42]).await.expect("open");
    first.flush().await.expect("open");
    assert_eq!(host.frame(raw.key).await, vec![42]);
    assert_eq!(host.count(raw.key), (1, 0, 0));
}

#[tokio::test]
async fn strangers_are_limited_in_number_and_members_still_get_in() {
    let host = Node::new(1, &[TCP], &[2]).await;
    let mut crowd = Vec::new();
    for seed in 100..120 {
        crowd.push(Raw::connect(seed, &host.address("tcp").await).await);
    }
    let peers = host.control.peers().await.expect("open");
    let strangers = peers.iter().filter(|peer| !peer.member).count();
    assert!((1..=16).contains(&strangers), "{strangers}");
    let mut member = Node::new(2, &[TCP], &[1]).await;
    member.control.dial(&host.address("tcp").await).await.expect("it is there");
    member.up(host.key).await;
}

#[tokio::test]
async fn a_connection_that_does_nothing_is_closed() {
    let mut config = config(1, &[TCP], &[9]);
    config.timings.admission_ms_max = 300;
    let host = Node::spawn(config).await;
    let raw = Raw::connect(9, &host.address("tcp").await).await;
    eventually("the connection is gone", || async {
        host.peer(raw.key).await.is_some_and(|peer| peer.connections == 0)
    })
    .await;
}
