//! What can be done to a [`Mesh`] besides connecting and writing: faults of links and devices, copies, frames that come
//! again, and rounds.

use std::collections::VecDeque;

use super::super::rounds::Rounds;
use super::{Cut, Instant, KEPT_MAX, LinkFaults, Mesh, pair, way};
use crate::identity::Identity;
use crate::io::Input;
use crate::store::MemStore;

impl Mesh {
    /// Makes all links datagram links with these faults.
    pub fn set_faults(&mut self, faults: LinkFaults) {
        self.faults = faults;
    }

    /// Sets the one-way delay of all links, in microseconds.
    pub fn set_latency(&mut self, micros: u64) {
        self.latency_micros = micros;
    }

    /// Has frames read before they are handed in, by what engines gave for it up to so many frames earlier; 0 for not at all.
    pub fn set_read_ahead(&mut self, frames: u64) {
        self.read_ahead = frames;
    }

    /// Sets how far a device's wall clock is off, in milliseconds.
    pub fn set_wall_offset(&mut self, node: usize, ms: i64) {
        self.nodes[node].wall_offset_ms = ms;
    }

    /// Lets the next `times` commits of a device's store fail.
    pub fn fail_commits(&mut self, node: usize, times: u32) {
        self.nodes[node].fail_commits = times;
    }

    /// Frames between two devices vanish until [`Mesh::connect`], and nobody is told: a pulled cable.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.links.entry(pair(a, b)).or_default().silent = true;
    }

    /// Puts another store under a stopped device: a restored backup.
    pub fn replace_store(&mut self, node: usize, store: MemStore) {
        assert!(self.nodes[node].engine.is_none(), "the node is stopped");
        self.nodes[node].store = store;
    }

    /// Sets how fast a device's wall clock runs, in parts per million beside true time.
    pub fn set_drift(&mut self, node: usize, ppm: i64) {
        self.nodes[node].drift_ppm = ppm;
    }

    /// Lets all stores show so many commits packed together; 0 for none.
    pub fn set_packing(&mut self, commits: u64) {
        self.packs = commits;
        for node in &mut self.nodes {
            node.store = std::mem::take(&mut node.store).packing(commits);
        }
    }

    /// Sets how many bytes pass each way of each link in a second; 0 for any number.
    pub fn set_bandwidth(&mut self, bytes_per_second: u64) {
        self.bytes_per_second = bytes_per_second;
        self.links.values_mut().for_each(|link| link.busy = [Instant(0); 2]);
    }

    /// Keeps the last frames that arrive, for [`Mesh::redeliver`].
    pub fn keep_frames(&mut self) {
        self.kept = Some(VecDeque::new());
    }

    /// Delivers all frames between some devices that were kept once more.
    pub fn redeliver(&mut self, between: &[usize]) {
        for (from, to, frame) in self.kept.take().unwrap_or_default() {
            if between.contains(&from) && between.contains(&to) {
                let peer = self.key(from);
                self.inject(to, peer, frame);
            }
        }
    }

    /// The session number that one device used last towards another.
    pub fn session(&self, from: usize, to: usize) -> Option<u32> {
        self.sessions.get(&(from, to)).copied()
    }

    /// Frames from one device to another vanish until [`Mesh::connect`], and nobody is told.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.links.entry(pair(from, to)).or_default().deaf[way(from, to)] = true;
    }

    /// Frames between two devices are held back until [`Mesh::connect`].
    pub fn hold(&mut self, a: usize, b: usize) {
        self.links.entry(pair(a, b)).or_default().held.get_or_insert_default();
    }

    /// Stops a device in good order: it says goodbye first.
    pub fn leave(&mut self, node: usize) {
        self.input(node, Input::Shutdown);
        self.crash(node);
    }

    /// Stops a device at the n-th batch from now, between two of its outputs: nothing that follows the batch is done,
    /// and the batch itself is in the store if `n` is odd. 0 takes back a cut that has not happened yet.
    pub fn crash_at_batch(&mut self, node: usize, n: u64) {
        self.nodes[node].cut = (n > 0).then_some(Cut { batches: n, keeps_last: n % 2 == 1 });
    }

    /// Starts to count rounds: in each, every one of these links carries at least one frame each way.
    pub fn count_rounds(&mut self, links: &[(usize, usize)]) {
        self.rounds = Rounds::over(links);
    }

    /// Rounds that are complete since [`Mesh::count_rounds`].
    pub fn rounds(&self) -> u64 {
        self.rounds.complete()
    }

    /// Microseconds until the last byte of a frame has passed, behind those that were sent before.
    pub(super) fn passage(&mut self, from: usize, to: usize, bytes: usize) -> u64 {
        let Some(micros) = (bytes as u64 * 1_000_000).checked_div(self.bytes_per_second) else { return 0 };
        let Some(link) = self.links.get_mut(&pair(from, to)) else { return 0 };
        let busy = &mut link.busy[way(from, to)];
        *busy = (*busy).max(self.now) + micros;
        busy.0 - self.now.0
    }

    pub(super) fn keep(&mut self, from: usize, to: usize, frame: &[u8]) {
        if let Some(session) = frame.get(6..10).and_then(|bytes| bytes.try_into().ok()) {
            self.sessions.insert((from, to), u32::from_be_bytes(session));
        }
        let Some(kept) = &mut self.kept else { return };
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((from, to, frame.to_vec()));
    }

    /// Makes a stopped device a copy of another: the same key, and a copy of its database, which knows that it is one,
    /// unless the copy is not noticed.
    /// The two are never connected to each other, nor to one peer at one time: the last to connect takes the session
    /// over.
    pub fn become_copy(&mut self, node: usize, of: usize, noticed: bool) {
        assert!(self.nodes[node].engine.is_none(), "the node is stopped");
        let store: MemStore = self.nodes[of].store.clone();
        let store = if noticed { store.without_replica() } else { store };
        self.nodes[node].identity = self.nodes[of].identity.clone();
        self.nodes[node].store = store;
        // What its former self said and heard would come from another now.
        if let Some(kept) = &mut self.kept {
            kept.retain(|(from, to, _)| *from != node && *to != node);
        }
    }

    /// Makes a stopped device another one, with an empty database: it was paired anew.
    pub fn become_device(&mut self, node: usize, identity: Identity) {
        assert!(self.nodes[node].engine.is_none(), "the node is stopped");
        self.nodes[node].identity = identity;
        self.nodes[node].store = MemStore::new().packing(self.packs);
        if let Some(kept) = &mut self.kept {
            kept.retain(|(from, to, _)| *from != node && *to != node);
        }
    }

    /// Two connected devices get another connection while the last one still seems open; what is under way is lost.
    pub fn roam(&mut self, a: usize, b: usize) {
        let Some(link) = self.links.get_mut(&pair(a, b)).filter(|link| link.up) else { return };
        link.epoch += 1;
        let (key_a, key_b) = (self.key(a), self.key(b));
        self.input(a, Input::PeerUp(key_b));
        self.input(b, Input::PeerUp(key_a));
    }

    /// Whether two nodes are one device, and its copy.
    pub fn same_device(&self, a: usize, b: usize) -> bool {
        a != b && self.key(a) == self.key(b)
    }
}
