//! The transport contract, shown on the hub without any network.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use engine::config::{CONTROL_BYTES_MAX, FRAME_BYTES_MAX};
use engine::identity::PeerKey;
use engine::transport::{Path, PathKind, TransportEvent, TrySendError};
use futures::FutureExt;

use crate::hub::{Greeting, Hub, Lease, Refused};
use crate::slot::{INBOUND_BYTES_MAX, Next, OUTBOUND_BYTES_MAX};

const SMALL: PeerKey = PeerKey([1; 32]);
const LARGE: PeerKey = PeerKey([2; 32]);

fn path(kind: PathKind) -> Path {
    Path { kind, address: "somewhere".into() }
}

fn hub(local: PeerKey, members: &[PeerKey]) -> Arc<Hub> {
    Hub::new(local, members.iter().copied().collect())
}

fn attach(greeting: Greeting, remote_nonce: u64, kind: PathKind, dialed_by_us: bool) -> Lease {
    greeting.attach(remote_nonce, path(kind), dialed_by_us, Instant::now()).expect("attached")
}

fn events(hub: &Hub) -> Vec<TransportEvent> {
    let mut cx = Context::from_waker(Waker::noop());
    std::iter::from_fn(|| match hub.poll_event(&mut cx) {
        Poll::Ready(event) => event,
        Poll::Pending => None,
    })
    .collect()
}

fn names(events: &[TransportEvent]) -> Vec<&'static str> {
    let name = |event: &TransportEvent| match event {
        TransportEvent::PeerUp { .. } => "up",
        TransportEvent::PathChanged { .. } => "path",
        TransportEvent::PeerDown { .. } => "down",
        TransportEvent::Frame { .. } => "frame",
        TransportEvent::Broadcast { .. } => "hint",
        TransportEvent::Writable { .. } => "writable",
        TransportEvent::RoundTrip { .. } => "rtt",
    };
    events.iter().map(name).collect()
}

/// Reads a frame from the network, if there is room for it now.
fn receive(lease: &Lease, frame: Vec<u8>) -> Result<bool, Refused> {
    match lease.room(frame.len()).now_or_never() {
        None => Ok(false),
        Some(room) => {
            room?.fill(frame);
            Ok(true)
        }
    }
}

#[test]
fn frames_come_only_between_up_and_down() {
    let hub = hub(SMALL, &[LARGE]);
    let lease = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, true);
    assert_eq!(receive(&lease, vec![1]), Ok(true));
    lease.detach("over");
    assert_eq!(receive(&lease, vec![2]), Err(Refused::Gone));
    assert_eq!(hub.try_send(LARGE, vec![]), Err(TrySendError::Gone(vec![])), "never heard of");
    assert_eq!(names(&events(&hub)), ["up", "frame", "down"]);
}

#[test]
fn inbound_memory_is_bounded_and_room_comes_back() {
    let hub = hub(SMALL, &[LARGE]);
    let lease = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, true);
    let mut taken = 0;
    while receive(&lease, vec![0; 1000]) == Ok(true) {
        taken += 1;
        assert!(taken * 1000 <= INBOUND_BYTES_MAX);
    }
    assert!(taken * 1000 > INBOUND_BYTES_MAX / 2);
    assert_eq!(names(&events(&hub)).len(), taken + 1);
    assert_eq!(receive(&lease, vec![0; FRAME_BYTES_MAX]), Ok(true));
    // Empty frames cost something too.
    let mut empty = 0;
    while receive(&lease, vec![]) == Ok(true) {
        empty += 1;
        assert!(empty < 100_000);
    }
}

#[test]
fn a_room_that_is_not_used_is_given_back() {
    let hub = hub(SMALL, &[LARGE]);
    let lease = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, true);
    for _ in 0..1000 {
        let room = lease.room(FRAME_BYTES_MAX).now_or_never().expect("room").expect("admitted");
        drop(room);
    }
    assert_eq!(receive(&lease, vec![0; FRAME_BYTES_MAX]), Ok(true));
}

#[test]
fn a_full_outbound_queue_gives_the_frame_back_and_says_when_to_try_again() {
    let hub = hub(SMALL, &[LARGE]);
    let lease = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, true);
    events(&hub);
    let mut queued = 0;
    let back = loop {
        match hub.try_send(LARGE, vec![7; 10_000]) {
            Ok(()) => queued += 1,
            Err(TrySendError::Full(back)) => break back,
            Err(TrySendError::Gone(_)) => panic!("gone"),
        }
        assert!(queued * 10_000 <= OUTBOUND_BYTES_MAX);
    };
    assert_eq!(back, vec![7; 10_000]);
    assert!(events(&hub).is_empty(), "not yet");
    for _ in 0..queued {
        assert!(matches!(lease.poll_next(), Next::Frame(_)));
    }
    assert_eq!(names(&events(&hub)), ["writable"]);
    assert_eq!(lease.poll_next(), Next::Wait);
}

#[test]
fn a_stranger_delivers_one_short_frame_until_it_is_admitted() {
    let hub = hub(SMALL, &[]);
    let lease = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, false);
    assert_eq!(receive(&lease, vec![0; CONTROL_BYTES_MAX + 1]), Err(Refused::TooLong));
    assert_eq!(receive(&lease, vec![0; CONTROL_BYTES_MAX]), Ok(true));
    assert_eq!(receive(&lease, vec![]), Ok(false));
    hub.set_members([LARGE].into());
    assert_eq!(receive(&lease, vec![0; FRAME_BYTES_MAX]), Ok(true));
    hub.set_members([].into());
    assert_eq!(lease.poll_next(), Next::Finish);
}

#[test]
fn both_sides_of_a_double_dial_keep_the_same_connection() {
    for (smaller_dialed_first, kinds) in [
        (true, [PathKind::DirectTcp, PathKind::DirectTcp]),
        (false, [PathKind::DirectTcp, PathKind::DirectTcp]),
        (true, [PathKind::DirectTcp, PathKind::DirectQuic]),
        (true, [PathKind::DirectQuic, PathKind::DirectTcp]),
    ] {
        let (small, large) = (hub(SMALL, &[LARGE]), hub(LARGE, &[SMALL]));
        // Each side meets the two connections in its own order.
        let of_small =
            [0, 1].map(|i| attach(small.greet(LARGE), 2, kinds[i], (i == 0) == smaller_dialed_first));
        let of_large =
            [1, 0].map(|i| attach(large.greet(SMALL), 1, kinds[i], (i == 0) != smaller_dialed_first));
        events(&small);
        events(&large);
        small.try_send(LARGE, vec![1]).expect("up");
        large.try_send(SMALL, vec![1]).expect("up");
        let uses = |lease: &Lease| matches!(lease.poll_next(), Next::Frame(_));
        let small_uses = of_small.iter().position(uses).expect("one of them");
        let large_uses = 1 - of_large.iter().position(uses).expect("one of them");
        assert_eq!(small_uses, large_uses);
        // Only the smaller key ends the other.
        assert_eq!(of_small[1 - small_uses].poll_next(), Next::Finish);
        assert_eq!(of_large[small_uses].poll_next(), Next::Wait);
    }
}

#[test]
fn a_session_outlives_a_carrier_that_moves_while_the_next_is_greeted() {
    let hub = hub(LARGE, &[SMALL]);
    let first = attach(hub.greet(SMALL), 1, PathKind::DirectTcp, true);
    let greeting = hub.greet(SMALL);
    first.remote_finished();
    assert_eq!(first.poll_next(), Next::Wait, "the other side has moved already");
    let second = attach(greeting, 1, PathKind::DirectQuic, true);
    assert_eq!(first.poll_next(), Next::Finish);
    first.detach("moved");
    assert_eq!(second.poll_next(), Next::Wait);
    assert_eq!(names(&events(&hub)), ["up", "path"]);
}

#[test]
fn a_peer_that_began_anew_is_taken_down_and_up() {
    let hub = hub(SMALL, &[LARGE]);
    let old = attach(hub.greet(LARGE), 1, PathKind::DirectQuic, true);
    events(&hub);
    let _new = attach(hub.greet(LARGE), 2, PathKind::DirectTcp, false);
    assert_eq!(old.poll_next(), Next::Finish);
    assert_eq!(receive(&old, vec![1]), Err(Refused::Gone));
    assert_eq!(hub.try_send(LARGE, vec![1]), Err(TrySendError::Gone(vec![1])), "meant for the old session");
    assert_eq!(names(&events(&hub)), ["down", "up"]);
    assert_eq!(hub.try_send(LARGE, vec![1]), Ok(()));
}

#[test]
fn a_greeting_of_a_session_that_ended_is_refused() {
    let hub = hub(SMALL, &[LARGE]);
    let first = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, true);
    let late = hub.greet(LARGE);
    first.detach("over");
    assert!(late.attach(1, path(PathKind::DirectTcp), true, Instant::now()).is_err());
}

#[test]
fn lives_that_nobody_saw_do_not_pile_up() {
    let hub = hub(SMALL, &[LARGE]);
    for _ in 0..1000 {
        let lease = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, true);
        assert_eq!(receive(&lease, vec![0; FRAME_BYTES_MAX]), Ok(true));
        lease.detach("over");
    }
    assert_eq!(names(&events(&hub)), ["up", "frame", "down"]);
}

#[test]
fn a_disconnect_sends_what_is_queued_and_hears_no_more() {
    let hub = hub(SMALL, &[LARGE]);
    let lease = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, true);
    events(&hub);
    hub.try_send(LARGE, vec![1]).expect("up");
    hub.disconnect(LARGE, "enough");
    assert_eq!(hub.try_send(LARGE, vec![2]), Err(TrySendError::Gone(vec![2])));
    assert_eq!(receive(&lease, vec![3]), Ok(true), "read, so that the peer can finish");
    assert_eq!(lease.poll_next(), Next::Frame(vec![1]));
    assert_eq!(lease.poll_next(), Next::Finish);
    lease.detach("closed");
    let events = events(&hub);
    assert_eq!(events, [TransportEvent::PeerDown { peer: LARGE, reason: "enough".into() }]);
}

#[test]
fn peers_are_served_in_turn() {
    let others: Vec<PeerKey> = (10..13).map(|n| PeerKey([n; 32])).collect();
    let hub = hub(SMALL, &others);
    let leases: Vec<Lease> =
        others.iter().map(|&peer| attach(hub.greet(peer), 1, PathKind::DirectTcp, true)).collect();
    events(&hub);
    for lease in &leases {
        for n in 0..5 {
            assert_eq!(receive(lease, vec![n]), Ok(true));
        }
    }
    let order: Vec<u8> = events(&hub)
        .into_iter()
        .map(|event| match event {
            TransportEvent::Frame { bytes, .. } => bytes[0],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
}

#[test]
fn the_end_of_the_transport_is_told_after_the_end_of_the_sessions() {
    let hub = hub(SMALL, &[LARGE]);
    let _lease = attach(hub.greet(LARGE), 1, PathKind::DirectTcp, true);
    events(&hub);
    hub.leave();
    hub.shut();
    assert_eq!(names(&events(&hub)), ["down"]);
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(hub.poll_event(&mut cx), Poll::Ready(None));
    let late = hub.greet(LARGE).attach(1, path(PathKind::DirectTcp), true, Instant::now());
    assert!(late.is_err());
}
