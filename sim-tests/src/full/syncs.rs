//! Applications of the full harness that wait to be in sync, and what they must have when they are.

use std::collections::BTreeMap;

use engine::identity::DeviceId;
use engine::knowledge::Knowledge;
use engine::store::StoreRead;

use super::Full;
use crate::Harness;
use crate::marks::Situation;
use crate::oracle::Violation;
use crate::software::Ask;
use crate::synced::check_synced;

impl Full<'_> {
    /// A machine's application begins to wait.
    pub(super) fn sync(&mut self, node: usize) {
        let due = if self.plan.in_order(Harness::Full) { self.known_beside(node) } else { BTreeMap::new() };
        self.ask(node, Ask::Sync(due));
    }

    /// What other machines have, by device. A device that two machines are has no one answer.
    fn known_beside(&self, node: usize) -> BTreeMap<DeviceId, Knowledge> {
        let machines_of = |device| self.machines.iter().filter(|machine| machine.device == device).count();
        let others = self.machines.iter().enumerate().filter(|(other, _)| *other != node);
        let known = others.filter_map(|(_, machine)| {
            let db = machine.board.borrow().db.clone()?;
            Some((machine.device, db.store().recover().ok()?.knowledge()))
        });
        known.filter(|(device, _)| machines_of(*device) == 1).collect()
    }

    /// Judges the answers of a machine.
    pub(super) fn hear_synced(&mut self, node: usize) -> Result<(), Violation> {
        let syncs = std::mem::take(&mut self.machines[node].board.borrow_mut().syncs);
        for synced in syncs {
            self.report.marks.note(Situation::InSync, true);
            self.report.marks.note(Situation::InSyncOnNews, synced.news);
            let db = self.machines[node].board.borrow().db.clone();
            let Some(db) = db.filter(|_| self.global.forked.is_empty()) else { continue };
            if !synced.due.is_empty() && db.store().recover().is_ok() {
                // What no longer counts is not due.
                self.look_at_clock(node);
                self.machines[node].observer.observe(&mut self.global, &**db.store())?;
            }
            for (device, due) in &synced.due {
                // Somebody else may be that device by now.
                let peer = self.machines.iter().position(|machine| machine.device == *device);
                if let Some(peer) = peer {
                    check_synced(&self.machines[node].observer, peer, due, &synced.knowledge)?;
                }
            }
        }
        Ok(())
    }
}
