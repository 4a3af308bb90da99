//! Devices tell each other where the account's devices are found.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, TCP, config, key};
use engine::transport::PathKind;
use transport_libp2p::{Libp2pConfig, PingError};

/// A device that is told where the third one is, and nothing else. It listens on `listen`.
async fn knowing_only(third: &Node, seed: u8, other: u8, listen: &[&str]) -> Libp2pConfig {
    let mut config = config(seed, listen, &[3, other]);
    config.addresses = vec![(third.key, vec![third.address("tcp").await])];
    config
}

#[tokio::test]
async fn a_device_that_moved_while_the_other_was_away_is_found_through_a_third_one() {
    let third = Node::new(3, &[TCP], &[1, 2]).await;
    // The first does not listen: only it can dial.
    let mut first = Node::spawn(knowing_only(&third, 1, 2, &[]).await).await;
    let mut second = Node::spawn(knowing_only(&third, 2, 1, &[TCP]).await).await;
    first.up(second.key).await;
    second.up(third.key).await;
    let before = second.address("tcp").await;
    let known = first.control.known_addresses().await.unwrap();
    first.transport.close().await;

    second.transport.close().await;
    let mut second = Node::spawn(knowing_only(&third, 2, 1, &[TCP]).await).await;
    assert_ne!(second.address("tcp").await, before);
    second.up(third.key).await;

    let mut config = config(1, &[], &[2, 3]);
    config.addresses = known;
    let mut first = Node::spawn(config).await;
    first.up(second.key).await;
    assert!(third.peer(second.key).await.unwrap().session.is_some());
}

#[tokio::test]
async fn what_was_said_is_handed_on_by_a_device_that_was_started_again() {
    let (mut third, secret) = (Node::new(3, &[TCP], &[1, 2]).await, 2);
    let mut second = Node::spawn(knowing_only(&third, secret, 1, &[TCP]).await).await;
    third.up(second.key).await;
    let mut records = third.control.address_records().await.unwrap();
    while records.len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        records = third.control.address_records().await.unwrap();
    }
    third.transport.close().await;
    second.down(key(3)).await;
    // The second is not connected to the third any more, which has what it needs of it from the disk.
    let mut again = config(3, &[TCP], &[1]);
    again.members = vec![key(1), key(2)];
    again.records = records;
    again.timings.redial_ms_max = 3_600_000;
    let again = Node::spawn(again).await;
    let mut first = Node::spawn(knowing_only(&again, 1, 2, &[]).await).await;
    first.up(second.key).await;
}

#[tokio::test]
async fn a_ping_takes_the_path_of_the_session_and_says_when_there_is_none() {
    let (first, second) = common::pair(TCP).await;
    let pong = first.control.ping(second.key).await.unwrap();
    assert_eq!(pong.path.kind, PathKind::DirectTcp);
    assert!(pong.round_trip < common::PATIENCE);
    assert_eq!(first.control.ping(key(9)).await, Err(PingError::NotConnected));
}
