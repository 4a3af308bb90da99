//! The pairing channel between devices that do not know each other.

mod common;

use common::*;
use tokio::time::timeout;
use transport_libp2p::{PAIR_FRAME_BYTES_MAX, PairChannelError, PairConnectError, PairListenError};

async fn strangers(listen: &str) -> (Node, Node, String) {
    let inviter = Node::new(1, &[listen], &[]).await;
    let joiner = Node::new(2, &[listen], &[]).await;
    let address = inviter.address("127").await;
    (inviter, joiner, address)
}

#[tokio::test]
async fn strangers_talk_over_a_pairing_channel() {
    for listen in [TCP, QUIC] {
        let (inviter, joiner, address) = strangers(listen).await;
        let anonymous = address.split("/p2p/").next().expect("a prefix");
        let mut listener = inviter.control.pair_listen().await.expect("nobody else listens");
        for target in [anonymous, &address] {
            let (called, calling) = tokio::join!(listener.accept(), joiner.control.pair_connect(target));
            let mut called = called.expect("open");
            let mut calling = calling.expect("accepted");
            assert_eq!((called.remote(), calling.remote()), (joiner.key, inviter.key));
            let longest = vec![5; PAIR_FRAME_BYTES_MAX];
            calling.send(longest.clone()).await.expect("open");
            assert_eq!(called.recv().await.expect("a frame"), longest);
            called.send(b"welcome".to_vec()).await.expect("open");
            let (_, last) = tokio::join!(called.finish(), async {
                let frame = calling.recv().await.expect("a frame");
                assert!(matches!(calling.recv().await, Err(PairChannelError::Closed)));
                calling.finish().await;
                frame
            });
            assert_eq!(last, b"welcome");
        }
    }
}

#[tokio::test]
async fn pairing_is_refused_when_nobody_listens() {
    for listen in [TCP, QUIC] {
        let (inviter, joiner, address) = strangers(listen).await;
        let refused = joiner.control.pair_connect(&address).await.expect_err("nobody listens");
        assert_eq!(refused, PairConnectError::NotListening);
        let listener = inviter.control.pair_listen().await.expect("nobody else listens");
        assert_eq!(
            inviter.control.pair_listen().await.expect_err("one at a time"),
            PairListenError::AlreadyListening
        );
        assert!(joiner.control.pair_connect(&address).await.is_ok());
        drop(listener);
        let refused = joiner.control.pair_connect(&address).await.expect_err("nobody listens any more");
        assert_eq!(refused, PairConnectError::NotListening);
        inviter.control.pair_listen().await.expect("the place is free again");
    }
}

#[tokio::test]
async fn the_number_of_open_channels_is_limited() {
    let (inviter, joiner, address) = strangers(TCP).await;
    let mut listener = inviter.control.pair_listen().await.expect("nobody else listens");
    let mut open = Vec::new();
    for _ in 0..4 {
        let (called, calling) = tokio::join!(listener.accept(), joiner.control.pair_connect(&address));
        open.push((called.expect("open"), calling.expect("accepted")));
    }
    let fifth = joiner.control.pair_connect(&address).await.expect_err("too many");
    assert_eq!(fifth, PairConnectError::Busy);
    open.pop();
    let (called, calling) = tokio::join!(listener.accept(), joiner.control.pair_connect(&address));
    assert!(called.is_some() && calling.is_ok());
}

#[tokio::test]
async fn a_long_frame_is_refused_on_both_sides_of_the_channel() {
    let (inviter, joiner, address) = strangers(TCP).await;
    let mut listener = inviter.control.pair_listen().await.expect("nobody else listens");
    let (called, calling) = tokio::join!(listener.accept(), joiner.control.pair_connect(&address));
    let (_called, mut calling) = (called.expect("open"), calling.expect("accepted"));
    let error = calling.send(vec![0; PAIR_FRAME_BYTES_MAX + 1]).await.expect_err("too long");
    assert!(matches!(error, PairChannelError::TooLong { len } if len == PAIR_FRAME_BYTES_MAX + 1), "{error}");
}

#[tokio::test]
async fn the_connection_of_a_pairing_outlives_the_time_for_admission() {
    let mut inviter = config(1, &[TCP], &[]);
    inviter.timings.admission_ms_max = 200;
    let inviter = Node::spawn(inviter).await;
    let joiner = Node::new(2, &[], &[]).await;
    let mut listener = inviter.control.pair_listen().await.expect("nobody else listens");
    let address = inviter.address("tcp").await;
    let (called, calling) = tokio::join!(listener.accept(), joiner.control.pair_connect(&address));
    let (mut called, mut calling) = (called.expect("open"), calling.expect("accepted"));
    // Nothing comes for longer than a stranger may stay.
    let nothing = timeout(std::time::Duration::from_millis(1500), called.recv()).await;
    assert!(nothing.is_err());
    calling.send(vec![1]).await.expect("still open");
    drop(called);
    drop(calling);
    eventually("the connection is gone", || async { inviter.peer(joiner.key).await.is_none() }).await;
}

#[tokio::test]
async fn after_pairing_both_sides_have_a_session_on_the_same_connection() {
    use engine::transport::Transport;
    let (mut inviter, mut joiner, address) = strangers(QUIC).await;
    let mut listener = inviter.control.pair_listen().await.expect("nobody else listens");
    let (called, calling) = tokio::join!(listener.accept(), joiner.control.pair_connect(&address));
    let (called, calling) = (called.expect("open"), calling.expect("accepted"));
    tokio::join!(called.finish(), calling.finish());
    inviter.transport.set_members(&[joiner.key]);
    joiner.transport.set_members(&[inviter.key]);
    let (key_inviter, key_joiner) = (inviter.key, joiner.key);
    tokio::join!(inviter.up(key_joiner), joiner.up(key_inviter));
    joiner.send(key_inviter, b"hello".to_vec()).await;
    assert_eq!(inviter.frame(key_joiner).await, b"hello");
}

#[tokio::test]
async fn an_unreachable_inviter_is_said_so() {
    let joiner = Node::new(2, &[], &[]).await;
    let error = joiner.control.pair_connect("/ip4/127.0.0.1/tcp/1").await.expect_err("nobody is there");
    assert!(matches!(error, PairConnectError::Unreachable(_)), "{error}");
    let error = joiner.control.pair_connect("nonsense").await.expect_err("not an address");
    assert!(matches!(error, PairConnectError::Address(_)), "{error}");
}
