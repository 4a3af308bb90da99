//! Scenes: arranged sequences of events that are known to be hard, each around a time that a plan is given.

use std::collections::{BTreeMap, BTreeSet};

use engine::commit::OpKind;

use super::Maker;
use crate::Harness;
use crate::plan::{Event, Step, Timed, doomed};

/// How many plans have databases that go back or run twice unnoticed, in millionths.
const FORKS_PPM: u64 = 80_000;
/// How many writes are soon followed by a request to be in sync, in millionths; in the full harness four times as many.
const SYNC_PPM: u64 = 60_000;
/// How many plans have a request to be in sync while older statements are under way, in millionths.
const OLD_WORD_PPM: u64 = 30_000;

impl Maker {
    /// A machine becomes a copy of a device. Both write on, and the others meet now the one, now the other.
    pub(super) fn clone_device(&mut self, a: usize, b: usize, at_ms: u64, unguarded: bool) {
        if self.copy.is_some() || self.nodes < 3 {
            return;
        }
        self.copy = Some((a, b));
        self.add(at_ms, Event::Clone { node: b, of: a, unguarded });
        for turn in 0..4 + self.prng.below(6) {
            let (at_ms, node) = (at_ms + 1 + turn * 500, self.pick(&[a, b]));
            let other = self.node();
            if other != a && other != b {
                self.add(at_ms, Event::Connect { a: node, b: other });
            }
            let steps = vec![self.step(turn, false)];
            let later_ms = self.prng.below(500);
            self.add(at_ms + later_ms, Event::Write { node, steps });
        }
    }

    /// In some plans databases go back or run twice unnoticed.
    pub(super) fn forks(&mut self) {
        if !self.prng.chance_ppm(FORKS_PPM) {
            return;
        }
        for at in 0..self.events.len() {
            let unnoticed = self.prng.chance_ppm(700_000);
            if let Event::Restore { unguarded, .. } | Event::Clone { unguarded, .. } =
                &mut self.events[at].event
            {
                *unguarded = unnoticed;
            }
        }
        for _ in 0..=self.prng.below(3) {
            let (at_ms, (a, b)) = (self.time(), self.two_nodes());
            match self.prng.below(2) {
                0 if self.copy.is_none() && self.nodes > 2 => self.clone_device(a, b, at_ms, true),
                _ => self.set_back(at_ms, a),
            }
        }
    }

    /// Somebody waits to be in sync soon after something was written elsewhere.
    pub(super) fn syncs(&mut self, latency_micros: u64) {
        let often = if self.harness == Harness::Full { 4 } else { 1 };
        let ppm = often * SYNC_PPM;
        let wrote = |timed: &Timed| match timed.event {
            Event::Write { node, .. } | Event::Pair { node, .. } => Some((timed.at_ms, node)),
            _ => None,
        };
        for (at_ms, author) in self.events.iter().filter_map(wrote).collect::<Vec<_>>() {
            let node = self.node();
            if node != author && self.prng.chance_ppm(ppm) {
                let later_ms = self.prng.below(60);
                self.add(at_ms + later_ms, Event::Sync { node });
            }
        }
        if self.nodes > 2 && self.prng.chance_ppm(often * OLD_WORD_PPM) {
            self.old_word(latency_micros / 1000);
        }
    }

    /// Of three devices that are connected one has just told the second of the third's commit, and written, when the second
    /// waits to be in sync with it alone: what it told before is still under way.
    fn old_word(&mut self, latency_ms: u64) {
        let (at_ms, order) = (self.time(), self.shuffled());
        let [one, two, three] = [order[0], order[1], order[2]];
        for (a, b) in [(one, two), (two, three), (three, one)] {
            self.add(at_ms.saturating_sub(2_000), Event::Connect { a, b });
        }
        let told_ms = at_ms + latency_ms + 1;
        for (at_ms, node) in [(at_ms, three), (told_ms, one)] {
            let fields = BTreeMap::from([("x".to_owned(), node as i64)]);
            let step = Step { kind: OpKind::Put, row: "hot-0".into(), fields };
            self.add(at_ms, Event::Write { node, steps: vec![step] });
        }
        self.add(told_ms + 1, Event::Disconnect { a: two, b: three });
        let later_ms = self.prng.below(latency_ms.max(1));
        self.add(told_ms + 1 + later_ms, Event::Sync { node: two });
    }

    /// A device tells somebody what it writes, is set back to before that, and writes on before it hears of it.
    fn set_back(&mut self, at_ms: u64, node: usize) {
        let others: Vec<usize> = (0..self.nodes).filter(|other| *other != node).collect();
        let (one, other) = (self.pick(&others), self.pick(&others));
        let alone = |maker: &mut Maker, at_ms| {
            others.iter().for_each(|other| maker.add(at_ms, Event::Disconnect { a: node, b: *other }));
        };
        let writes = |maker: &mut Maker, at_ms| {
            for turn in 0..1 + maker.prng.below(4) {
                let steps = vec![maker.step(turn, false)];
                maker.add(at_ms + turn * 40, Event::Write { node, steps });
            }
        };
        self.add(at_ms, Event::Backup { node });
        if self.prng.chance_ppm(500_000) {
            alone(self, at_ms);
        }
        writes(self, at_ms + 100);
        self.add(at_ms + 300, Event::Connect { a: node, b: one });
        alone(self, at_ms + 2_000);
        for turn in 0..=self.prng.below(2) {
            let at_ms = at_ms + 2_100 + turn * 2_000;
            self.add(at_ms, Event::Restore { node, unguarded: true });
            writes(self, at_ms + 100);
            self.add(at_ms + 300, Event::Connect { a: node, b: other });
            alone(self, at_ms + 1_900);
        }
        let again_ms = at_ms + 4_100 + self.prng.below(5_000);
        self.add(again_ms, Event::Connect { a: node, b: one });
    }

    /// Somebody is revoked, in one of the ways that are known to be hard. Each takes some seconds from `at_ms` on.
    pub(super) fn revocation(&mut self, at_ms: u64) {
        let doomed = self.doomed();
        let left: Vec<usize> = (0..self.nodes).filter(|node| !doomed.contains(node)).collect();
        if left.len() < 2 {
            return;
        }
        let (by, victim) = (self.pick(&self.admins.clone()), self.pick(&left));
        let third = self.pick(&left);
        let (mut by, mut issued_ms) = (by, at_ms + 2_000 + self.prng.below(4_000));
        match self.prng.below(9) {
            // Another becomes an administrator and gives the order; perhaps the first is lost, or revoked by it.
            0 if victim != by => {
                self.promotion(at_ms, by, victim);
                if self.prng.chance_ppm(500_000) {
                    self.add(issued_ms - 500, Event::Leave { node: by });
                }
                return self.order(issued_ms, victim, by);
            }
            // Two administrators revoke each other.
            1 if victim != by && left.len() > 2 => {
                self.promotion(at_ms, by, victim);
                self.add(issued_ms - 500, Event::Disconnect { a: by, b: victim });
                self.order(issued_ms, by, victim);
                return self.order(issued_ms, victim, by);
            }
            // Two administrators revoke a third device, of which they know different things.
            2 if victim != by && third != by && third != victim && left.len() > 2 => {
                self.promotion(at_ms, by, third);
                self.goes_on(at_ms, by, victim, third);
                self.order(issued_ms, third, victim);
            }
            // Somebody who may not.
            3 => {
                if victim != by {
                    self.add(at_ms, Event::Promote { by: victim, node: by });
                }
                return;
            }
            // A newcomer hears of it from the revoked device alone, and then gets its commits from one who has not.
            5 if victim != by && left.len() > 3 => {
                return self.hearsay(at_ms, by, victim, &left);
            }
            // An administrator that nobody has heard of yet is cut off.
            4 if third != by && third != victim && victim != by => {
                self.promotion(at_ms, by, third);
                by = third;
            }
            _ => {}
        }
        if victim == by {
            return;
        }
        self.goes_on(at_ms, by, victim, third);
        self.order(issued_ms, by, victim);
        if self.prng.chance_ppm(300_000) {
            issued_ms += self.prng.below(5_000);
            self.add(issued_ms, Event::Readmit { node: victim });
            for other in (0..self.nodes).filter(|other| *other != victim) {
                if self.prng.chance_ppm(500_000) {
                    self.add(issued_ms + 1, Event::Connect { a: victim, b: other });
                }
            }
        }
    }

    /// The devices that are revoked in the end, as far as the plan is made.
    pub(super) fn doomed(&self) -> BTreeSet<usize> {
        let mut events = self.events.clone();
        events.sort_by_key(|timed| timed.at_ms);
        doomed(self.nodes, &events)
    }

    fn hearsay(&mut self, at_ms: u64, by: usize, victim: usize, left: &[usize]) {
        let others: Vec<usize> = left.iter().copied().filter(|node| ![by, victim].contains(node)).collect();
        let (relay, newcomer) = (others[0], others[1]);
        let connect = |a, b| Event::Connect { a, b };
        self.add(at_ms, connect(by, victim));
        self.add(at_ms + 1_000, Event::Disconnect { a: by, b: victim });
        for turn in 0..6 {
            let steps = vec![self.step(turn, false)];
            self.add(at_ms + turn * 300, Event::Write { node: victim, steps });
        }
        self.add(at_ms + 2_000, Event::Readmit { node: relay });
        self.add(at_ms + 2_001, connect(relay, victim));
        self.add(at_ms + 3_000, Event::Disconnect { a: relay, b: victim });
        self.add(at_ms + 3_001, Event::Revoke { by, node: victim });
        self.add(at_ms + 3_002, connect(by, victim));
        self.add(at_ms + 4_000, Event::Readmit { node: newcomer });
        self.add(at_ms + 4_001, connect(newcomer, victim));
        self.add(at_ms + 5_000, connect(newcomer, relay));
    }

    fn promotion(&mut self, at_ms: u64, by: usize, node: usize) {
        self.add(at_ms, Event::Connect { a: by, b: node });
        self.add(at_ms + 100, Event::Promote { by, node });
        self.admins.push(node);
    }

    /// The order, and soon somebody who hears of it.
    fn order(&mut self, at_ms: u64, by: usize, node: usize) {
        self.add(at_ms, Event::Revoke { by, node });
        let other = self.node();
        if other != by && self.prng.chance_ppm(700_000) {
            let later_ms = self.prng.below(4_000);
            self.add(at_ms + later_ms, Event::Connect { a: by, b: other });
        }
    }

    /// A device is cut off from an administrator, writes on, and tells somebody else, who builds on it.
    fn goes_on(&mut self, at_ms: u64, admin: usize, node: usize, other: usize) {
        self.add(at_ms + 200, Event::Connect { a: admin, b: node });
        self.add(at_ms + 1_000, Event::Disconnect { a: admin, b: node });
        if other != node && other != admin {
            self.add(at_ms + 1_000, Event::Disconnect { a: admin, b: other });
            self.add(at_ms + 1_001, Event::Connect { a: node, b: other });
        }
        for turn in 0..2 + self.prng.below(6) {
            let steps = vec![self.step(turn, false)];
            let later_ms = self.prng.below(3_000);
            let author = if self.prng.chance_ppm(700_000) { node } else { other };
            self.add(at_ms + 1_002 + later_ms, Event::Write { node: author, steps });
        }
    }

    /// Several devices write to one field in the same millisecond.
    pub(super) fn tie(&mut self, at_ms: u64, a: usize, b: usize) {
        let row = format!("hot-{}", self.prng.below(4));
        for node in 0..self.nodes {
            if node == a || node == b || self.prng.chance_ppm(300_000) {
                let fields = BTreeMap::from([("x".to_owned(), node as i64)]);
                let step = Step { kind: OpKind::Put, row: row.clone(), fields };
                self.add(at_ms, Event::Write { node, steps: vec![step] });
            }
        }
    }

    /// Two devices answer each other quickly, so that their commits depend on one another in turn.
    pub(super) fn duet(&mut self, at_ms: u64, a: usize, b: usize) {
        self.add(at_ms, Event::Connect { a, b });
        let (pause_ms, row) = (self.pick(&[1, 20, 100]), format!("hot-{}", self.prng.below(4)));
        for turn in 0..4 + self.prng.below(8) {
            let node = if self.prng.chance_ppm(500_000) { a } else { b };
            let step = Step {
                kind: OpKind::Put,
                row: row.clone(),
                fields: BTreeMap::from([("y".to_owned(), turn as i64)]),
            };
            self.add(at_ms + turn * pause_ms, Event::Write { node, steps: vec![step] });
        }
    }
}
