//! Applications of the pure harness that wait to be in sync, and what they must have when they are.

use std::collections::BTreeSet;

use engine::identity::PeerKey;
use engine::io::Input;
use engine::knowledge::Knowledge;
use engine::testing::Mesh;

use super::Pure;
use crate::marks::Situation;
use crate::oracle::Violation;
use crate::synced::check_synced;
use crate::{Harness, SYNC_MS_MAX};

/// An application that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    node: usize,
    until_ms: u64,
    due: Vec<Due>,
    /// What its device knew when it began to wait.
    knowledge: Knowledge,
}

/// What a device with a session had when somebody began to wait. It is due as long as the connection lasts.
#[derive(Debug)]
struct Due {
    peer: usize,
    connection: u64,
    knowledge: Knowledge,
}

impl Waiting {
    /// What a driver answers it by.
    fn is_over(&self, mesh: &Mesh) -> bool {
        mesh.running(self.node) && mesh.engine(self.node).in_sync()
    }
}

impl Pure<'_> {
    /// Somebody begins to wait.
    pub(super) fn sync(&mut self, node: usize) {
        let mesh = &self.mesh;
        if !mesh.running(node) {
            return;
        }
        let stats = mesh.engine(node).stats();
        let ready: BTreeSet<PeerKey> =
            stats.peers.iter().filter(|peer| peer.ready).map(|peer| peer.peer).collect();
        let due = |peer: usize| {
            let known = mesh.running(peer) && ready.contains(&mesh.key(peer));
            let connection = mesh.connection(node, peer).filter(|_| known)?;
            Some(Due { peer, connection, knowledge: mesh.engine(peer).knowledge().clone() })
        };
        // What overtakes may have been said before.
        let due = match self.plan.in_order(Harness::Pure) {
            true => (0..self.plan.nodes).filter(|peer| *peer != node).filter_map(due).collect(),
            false => Vec::new(),
        };
        let until_ms = mesh.now_ms() + SYNC_MS_MAX;
        let knowledge = mesh.engine(node).knowledge().clone();
        self.mesh.input(node, Input::SyncNow);
        self.waiting.push(Waiting { node, until_ms, due, knowledge });
    }

    /// Runs to a point of time. Whoever waits is answered as soon as that is possible.
    pub(super) fn run_to(&mut self, ms: u64) -> Result<(), Violation> {
        while let Some(until_ms) = self.waiting.iter().map(|waiting| waiting.until_ms).min() {
            let waiting = &self.waiting;
            let over = |mesh: &Mesh| waiting.iter().any(|waiting| waiting.is_over(mesh));
            if !self.mesh.run_to_ms(until_ms.min(ms), over) {
                if until_ms >= ms {
                    return Ok(());
                }
                self.waiting.retain(|waiting| waiting.until_ms > until_ms);
                continue;
            }
            self.check()?;
            let mesh = &self.mesh;
            for waiting in self.waiting.extract_if(.., |waiting| waiting.is_over(mesh)) {
                let knowledge = mesh.engine(waiting.node).knowledge();
                self.report.marks.note(Situation::InSync, true);
                self.report.marks.note(Situation::InSyncOnNews, *knowledge != waiting.knowledge);
                let forks = !self.global.forked.is_empty();
                for Due { peer, connection, knowledge: due } in waiting.due {
                    if !forks && mesh.connection(waiting.node, peer) == Some(connection) {
                        check_synced(&self.observers[waiting.node], peer, &due, knowledge)?;
                    }
                }
            }
        }
        self.mesh.run_to_ms(ms, |_| false);
        Ok(())
    }
}
