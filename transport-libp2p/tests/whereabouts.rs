//! Devices tell each other where the account's devices are found.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, TCP, config, key};
use engine::transport::{PathKind, Transport as _};
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

#[tokio::test]
async fn who_is_admitted_while_connected_is_told_at_once_and_tells() {
    let mut second = Node::new(2, &[TCP], &[1, 3]).await;
    let mut first = Node::spawn(knowing_only(&second, 1, 2, &[TCP]).await).await;
    first.control.add_address(second.key, &second.address("tcp").await).await.unwrap();
    first.up(second.key).await;
    // The third is a stranger to the first, which thus does not listen to what it says of itself.
    let (key_1, key_2, key_3) = (first.key, second.key, key(3));
    first.transport.set_members(&[key_2]);
    let mut third = Node::new(3, &[TCP], &[1, 2]).await;
    third.control.add_address(key_1, &first.address("tcp").await).await.unwrap();
    third.up(key_1).await;
    first.up(key_3).await;
    assert_eq!(first.control.ping(key_3).await, Err(PingError::NotConnected));
    assert!(third.peer(key_2).await.unwrap().addresses.is_empty());

    first.transport.set_members(&[key_2, key_3]);
    third.up(key_2).await;
    second.up(key_3).await;
    // What the third says of itself arrives as well, on the connection that there was.
    common::eventually("the first is told", async || {
        first.peer(key_3).await.is_some_and(|third| third.said_ms.is_some())
    })
    .await;
    assert!(first.control.ping(key_3).await.is_ok());
    assert_eq!((third.count(key_1), first.count(key_3)), ((1, 0, 0), (1, 0, 0)));
}
