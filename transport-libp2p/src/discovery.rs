//! Peers seen on the local network, and the search among them for one that waits for a device to
//! join. Pure, but for the channel to whoever searches.
//!
//! Invariants: at most [`SEEN_MAX`] peers are remembered, with a few addresses each; unknown peers
//! are connected to only while somebody searches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engine::identity::PeerKey;
use libp2p::Multiaddr;
use tokio::sync::mpsc;

use crate::control::CANDIDATES_MAX;
use crate::pairing::PairCandidate;

/// Most peers of the local network that are remembered.
const SEEN_MAX: usize = 64;
/// Most addresses remembered for each.
const ADDRESSES_MAX: usize = 8;
/// A peer that may begin to listen is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Seen {
    addresses: Vec<Multiaddr>,
    asked: Option<Instant>,
    offers: bool,
    told: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    seen: BTreeMap<PeerKey, Seen>,
    search: Option<mpsc::Sender<PairCandidate>>,
}

impl Discovery {
    pub(crate) fn found(&mut self, peer: PeerKey, address: Multiaddr) {
        if !self.seen.contains_key(&peer) && self.seen.len() >= SEEN_MAX {
            return;
        }
        let seen = self.seen.entry(peer).or_default();
        if !seen.addresses.contains(&address) && seen.addresses.len() < ADDRESSES_MAX {
            seen.addresses.push(address);
            seen.asked = None;
        }
    }

    /// How many peers are seen now.
    pub(crate) fn seen(&self) -> usize {
        self.seen.len()
    }

    pub(crate) fn expired(&mut self, peer: PeerKey, address: &Multiaddr) {
        if let Some(seen) = self.seen.get_mut(&peer) {
            seen.addresses.retain(|known| known != address);
            if seen.addresses.is_empty() {
                self.seen.remove(&peer);
            }
        }
    }

    /// Begins a search; it ends an earlier one.
    pub(crate) fn search(&mut self, found: mpsc::Sender<PairCandidate>) {
        self.search = Some(found);
        for seen in self.seen.values_mut() {
            seen.told = false;
            seen.asked = None;
        }
        for (peer, offers) in self.seen.iter().map(|(peer, seen)| (*peer, seen.offers)).collect::<Vec<_>>() {
            self.offers_pairing(peer, offers);
        }
    }

    fn searching(&self) -> bool {
        self.search.as_ref().is_some_and(|search| !search.is_closed())
    }

    /// When [`Discovery::due_probes`] will have somebody.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        if !self.searching() {
            return None;
        }
        let due =
            |seen: &Seen| (!seen.told).then(|| seen.asked.map_or_else(Instant::now, |at| at + ASK_AGAIN));
        self.seen.values().filter_map(due).min()
    }

    /// Peers to connect to, to see what they offer.
    pub(crate) fn due_probes(&mut self, now: Instant) -> Vec<(PeerKey, Vec<Multiaddr>)> {
        if !self.searching() {
            self.search = None;
            return Vec::new();
        }
        let due = |seen: &Seen| !seen.told && seen.asked.is_none_or(|at| at + ASK_AGAIN <= now);
        let mut probes = Vec::new();
        for (peer, seen) in self.seen.iter_mut().filter(|(_, seen)| due(seen)).take(CANDIDATES_MAX / 4) {
            seen.asked = Some(now);
            probes.push((*peer, seen.addresses.clone()));
        }
        probes
    }

    /// A peer said whether it waits for a device to join.
    pub(crate) fn offers_pairing(&mut self, peer: PeerKey, offers: bool) {
        let Some(seen) = self.seen.get_mut(&peer) else { return };
        seen.offers = offers;
        seen.told &= offers;
        if let Some(search) = &self.search
            && offers
            && !seen.told
        {
            let addresses = seen.addresses.iter().map(Multiaddr::to_string).collect();
            seen.told = search.try_send(PairCandidate { peer, addresses }).is_ok();
        }
    }
}
