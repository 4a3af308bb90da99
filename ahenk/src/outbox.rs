//! Frames that wait to be sent: because the transport has no room for them, or because so many bytes a second may not go.
//!
//! Invariants: frames to one peer keep their order; a peer whose transport has no room is not tried again until it says
//! that it has; peers take turns. How much may wait is for the driver to say: [`Outboxes::excess`].

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use engine::identity::PeerKey;

#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The transport gave a frame back, and has not said since that there is room.
    blocked: bool,
}

/// The frames for all peers. See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Outboxes {
    /// Only those in which something waits.
    boxes: BTreeMap<PeerKey, Outbox>,
    bytes: usize,
    /// Whose turn was last.
    last: Option<PeerKey>,
}

impl Outboxes {
    /// Puts a frame at the end.
    pub(crate) fn push(&mut self, peer: PeerKey, frame: Vec<u8>) {
        let outbox = self.boxes.entry(peer).or_default();
        outbox.bytes += frame.len();
        self.bytes += frame.len();
        outbox.frames.push_back(frame);
    }

    /// The next frame to send, of the peer whose turn it is.
    pub(crate) fn next(&mut self) -> Option<(PeerKey, Vec<u8>)> {
        let ready = |(peer, outbox): (&PeerKey, &Outbox)| (!outbox.blocked).then_some(*peer);
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut turns = self.boxes.range((after, Bound::Unbounded)).chain(self.boxes.iter());
        let peer = turns.find_map(ready)?;
        self.last = Some(peer);
        self.take(peer, VecDeque::pop_front).map(|frame| (peer, frame))
    }

    /// The last frame for a peer, whether or not it is blocked.
    pub(crate) fn last_of(&mut self, peer: PeerKey) -> Option<Vec<u8>> {
        self.take(peer, VecDeque::pop_back)
    }

    fn take(
        &mut self,
        peer: PeerKey,
        which: impl FnOnce(&mut VecDeque<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let outbox = self.boxes.get_mut(&peer)?;
        let frame = which(&mut outbox.frames)?;
        outbox.bytes -= frame.len();
        self.bytes -= frame.len();
        if outbox.frames.is_empty() {
            self.boxes.remove(&peer);
        }
        Some(frame)
    }

    /// The transport had no room for a frame that was taken out: it is the next one when there is.
    pub(crate) fn give_back(&mut self, peer: PeerKey, frame: Vec<u8>) {
        let outbox = self.boxes.entry(peer).or_default();
        outbox.bytes += frame.len();
        self.bytes += frame.len();
        outbox.frames.push_front(frame);
        outbox.blocked = true;
    }

    /// The transport has room for a peer's frames.
    pub(crate) fn unblock(&mut self, peer: PeerKey) {
        if let Some(outbox) = self.boxes.get_mut(&peer) {
            outbox.blocked = false;
        }
    }

    /// Whether some frame waits for nothing but its turn.
    pub(crate) fn sendable(&self) -> bool {
        self.boxes.values().any(|outbox| !outbox.blocked)
    }

    /// A peer for which more waits than may, or which has most when all together are too many; and how many bytes.
    pub(crate) fn excess(&self, each_max: usize, all_max: usize) -> Option<(PeerKey, usize)> {
        let (peer, outbox) = self.boxes.iter().max_by_key(|(_, outbox)| outbox.bytes)?;
        (outbox.bytes > each_max || self.bytes > all_max).then_some((*peer, outbox.bytes))
    }

    /// Drops what waits for a peer.
    pub(crate) fn remove(&mut self, peer: PeerKey) {
        if let Some(outbox) = self.boxes.remove(&peer) {
            self.bytes -= outbox.bytes;
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        (self.boxes, self.bytes) = (BTreeMap::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerKey = PeerKey([1; 32]);
    const B: PeerKey = PeerKey([2; 32]);

    fn drained(outboxes: &mut Outboxes) -> Vec<(PeerKey, Vec<u8>)> {
        std::iter::from_fn(|| outboxes.next()).collect()
    }

    #[test]
    fn peers_take_turns_and_each_gets_its_frames_in_order() {
        let mut outboxes = Outboxes::default();
        for n in 0..3 {
            outboxes.push(A, vec![n]);
        }
        outboxes.push(B, vec![9]);
        let order = drained(&mut outboxes);
        assert_eq!(order, [(A, vec![0]), (B, vec![9]), (A, vec![1]), (A, vec![2])]);
        assert!(!outboxes.sendable() && outboxes.excess(0, 0).is_none());
    }

    #[test]
    fn a_peer_without_room_waits_for_it_and_holds_up_no_other() {
        let mut outboxes = Outboxes::default();
        outboxes.push(A, vec![1]);
        outboxes.push(A, vec![2]);
        outboxes.push(B, vec![3]);
        let (peer, frame) = outboxes.next().expect("a frame");
        outboxes.give_back(peer, frame);
        assert_eq!(drained(&mut outboxes), [(B, vec![3])]);
        assert!(!outboxes.sendable());
        outboxes.unblock(A);
        assert_eq!(drained(&mut outboxes), [(A, vec![1]), (A, vec![2])]);
    }

    #[test]
    fn whoever_takes_most_is_the_one_in_excess() {
        let mut outboxes = Outboxes::default();
        outboxes.push(A, vec![0; 60]);
        outboxes.push(B, vec![0; 50]);
        assert_eq!(outboxes.excess(60, 110), None);
        assert_eq!(outboxes.excess(59, 1000), Some((A, 60)));
        assert_eq!(outboxes.excess(1000, 109), Some((A, 60)));
        outboxes.remove(A);
        assert_eq!(outboxes.excess(50, 50), None);
        assert_eq!(outboxes.last_of(B), Some(vec![0; 50]));
        assert_eq!(outboxes.last_of(B), None);
    }
}
