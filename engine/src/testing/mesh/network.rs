//! The network of a [`Mesh`]: what becomes of frames between leaving one device and reaching another, and the record of it.

use super::super::link::LinkFaults;
use super::super::moment::{Happened, Moment, describe_batch};
use super::super::transcript::describe_frame;
use super::{DOUBLINGS_MAX, HELD_MAX, Happening, Mesh, RECONNECT_MICROS, STEADY_MICROS, pair};
use crate::identity::{DeviceId, PeerKey};
use crate::io::Input;
use crate::prng::Prng;
use crate::store::Batch;

impl Mesh {
    pub(super) fn transmit(&mut self, from: usize, peer: PeerKey, frame: Vec<u8>) {
        let Some(to) = self.node_of(from, peer) else { return };
        let Some(link) = self.links.get_mut(&pair(from, to)).filter(|link| link.up) else { return };
        link.frames += 1;
        if self.faults == LinkFaults::default() {
            return self.launch(from, to, frame, 0);
        }
        let frames = link.frames;
        let mut fate = self.fate(from, to, frames);
        if fate.chance_ppm(self.faults.loss_ppm) {
            let number = self.sent(from, to, &frame);
            self.moment(|| Happened::Vanished { frame: number });
            self.counts.lost += 1;
            return;
        }
        let copies = if fate.chance_ppm(self.faults.double_ppm) { 2 } else { 1 };
        self.counts.doubled += copies - 1;
        for _ in 0..copies {
            let mut frame = frame.clone();
            if fate.chance_ppm(self.faults.damage_ppm) && !frame.is_empty() {
                let bit = fate.below(frame.len() as u64 * 8);
                frame[(bit / 8) as usize] ^= 1 << (bit % 8);
                self.counts.damaged += 1;
            }
            let jitter = fate.below(self.faults.jitter_micros + 1);
            self.launch(from, to, frame, jitter);
        }
    }

    /// Sends a frame on its way; it takes `jitter` microseconds more than it must.
    fn launch(&mut self, from: usize, to: usize, frame: Vec<u8>, jitter: u64) {
        let wait = self.passage(from, to, frame.len());
        let number = self.sent(from, to, &frame);
        let delay = wait + self.latency_micros + jitter;
        let Some(link) = self.links.get_mut(&pair(from, to)) else { return };
        let arrival = Happening::Arrival { from, to, epoch: link.epoch, number, frame };
        match &mut link.held {
            Some(held) if held.len() < HELD_MAX => held.push(arrival),
            Some(_) => {
                self.moment(|| Happened::Vanished { frame: number });
                self.counts.lost += 1;
            }
            None => self.schedule(delay, arrival),
        }
    }

    pub(super) fn gossip(&mut self, from: usize, frame: &[u8]) {
        self.counts.published += 1;
        for to in 0..self.nodes.len() {
            if to != from && self.connected(from, to) {
                let frame = frame.to_vec();
                self.schedule(self.latency_micros * 2, Happening::Gossip { from, to, frame });
            }
        }
    }

    /// An engine closed a connection: the other side notices, and the transports will try again.
    pub(super) fn hang_up(&mut self, node: usize, peer: PeerKey) {
        let Some(other) = self.node_of(node, peer) else { return };
        let Some(link) = self.links.get_mut(&pair(node, other)).filter(|link| link.up) else { return };
        link.up = false;
        // The transport flushes before it closes.
        self.flush(node, other);
        let key = self.key(node);
        let mut wait = RECONNECT_MICROS;
        if let Some(link) = self.links.get_mut(&pair(node, other)) {
            link.epoch += 1;
            link.cuts = if self.now.0 - link.since.0 < STEADY_MICROS { link.cuts + 1 } else { 1 };
            wait <<= (link.cuts - 1).min(DOUBLINGS_MAX);
        }
        self.input(other, Input::PeerDown(key));
        self.input(node, Input::PeerDown(peer));
        self.schedule(wait, Happening::Reconnect { a: node, b: other });
    }

    /// What was sent before on this connection arrives at once.
    pub(super) fn flush(&mut self, node: usize, other: usize) {
        let key = self.key(node);
        let Some(current) = self.links.get(&pair(node, other)).map(|link| link.epoch) else { return };
        let way = (node, other, current);
        let mut pending = Vec::new();
        for (at, happening) in std::mem::take(&mut self.queue) {
            match happening {
                Happening::Arrival { from, to, epoch, frame, number } if (from, to, epoch) == way => {
                    pending.push((frame, number));
                }
                other => self.queue.push_back((at, other)),
            }
        }
        for (frame, number) in pending {
            self.moment(|| Happened::Arrived { frame: number });
            self.record(node, other, &frame);
            self.input(other, Input::Frame { peer: key, bytes: frame });
        }
    }

    pub(super) fn fate(&self, from: usize, to: usize, number: u64) -> Prng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_be_bytes());
        seed[8..16].copy_from_slice(&number.to_be_bytes());
        seed[16] = from as u8;
        seed[17] = to as u8;
        seed[18] = 1;
        Prng::new(seed)
    }

    pub(super) fn schedule(&mut self, delay_micros: u64, happening: Happening) {
        let at = self.now + delay_micros;
        let place = self.queue.partition_point(|(other, _)| *other <= at);
        self.queue.insert(place, (at, happening));
    }

    /// Whom a device means by a key: of a device and its copy the one that it is connected to.
    pub(super) fn node_of(&self, from: usize, key: PeerKey) -> Option<usize> {
        let mut found = (0..self.nodes.len()).filter(|node| self.nodes[*node].identity.peer_key() == key);
        let first = found.next()?;
        Some(found.find(|copy| self.connected(from, *copy)).unwrap_or(first))
    }

    pub(super) fn stop(&mut self, node: usize) {
        if self.nodes[node].engine.take().is_some() {
            self.moment(|| Happened::Stopped { node });
        }
    }

    pub(super) fn batch_moment(&mut self, node: usize, batch: &Batch, taken: bool) {
        if self.moments.is_none() {
            return;
        }
        let author = |device: &DeviceId| {
            let node = self.nodes.iter().position(|node| node.identity.device() == *device);
            node.map_or('?', |node| char::from(b'A' + node as u8))
        };
        let commits = describe_batch(batch, author);
        let text = if taken { commits } else { format!("not taken: {commits}") };
        self.moment(|| Happened::Applied { node, text });
    }

    pub(super) fn moment(&mut self, what: impl FnOnce() -> Happened) {
        if let Some(moments) = &mut self.moments {
            moments.push(Moment { at_micros: self.now.0, what: what() });
        }
    }

    /// Numbers a copy of a frame, and notes that it left.
    pub(super) fn sent(&mut self, from: usize, to: usize, frame: &[u8]) -> u64 {
        self.copies += 1;
        let number = self.copies;
        if self.moments.is_some() {
            let text = self.read(to, frame);
            self.moment(|| Happened::Sent { frame: number, from, to, text });
        }
        number
    }

    pub(super) fn read(&self, to: usize, frame: &[u8]) -> String {
        describe_frame(frame, &self.nodes[to].identity.account())
    }

    pub(super) fn record(&mut self, from: usize, to: usize, frame: &[u8]) {
        if self.transcript.is_none() {
            return;
        }
        let name = |node: usize| char::from(b'A' + node as u8);
        let text = self.read(to, frame);
        let line = format!("{:>7} ms  {} -> {}  {text}", self.now.0 / 1000, name(from), name(to));
        self.transcript.get_or_insert_default().push(line);
    }
}
