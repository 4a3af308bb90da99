//! The oracle of those who waited to be in sync.
//!
//! It is asked only where frames arrive in order: else what a device said before it was asked may arrive last.

use engine::identity::Dot;
use engine::knowledge::Knowledge;

use crate::oracle::{Observer, Violation, violation};
use crate::plan::letter;

/// Whoever waited to be in sync has all that a peer had when it began to wait, but what no longer counts.
pub(crate) fn check_synced(
    observer: &Observer,
    peer: usize,
    due: &Knowledge,
    knowledge: &Knowledge,
) -> Result<(), Violation> {
    for (replica, set) in due.minus(knowledge).iter() {
        let seqs = set.ranges().iter().flat_map(|(first, last)| *first..=*last);
        let mut dots = seqs.map(|seq| Dot { replica: *replica, seq });
        if let Some(dot) = dots.find(|dot| !observer.beyond_fence(dot)) {
            let (name, peer) = (letter(observer.node), letter(peer));
            return violation(
                "whoever was in sync has all that a peer had when it asked",
                format!("{name} lacks {dot:?}, which {peer} had"),
            );
        }
    }
    Ok(())
}
