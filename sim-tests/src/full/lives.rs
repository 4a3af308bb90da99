//! What happens to machines of the full harness from outside: another life for one (a restored database, a copy of another
//! machine, a new device), and hostile visitors.

use std::collections::BTreeMap;

use engine::identity::{Identity, PeerKey};
use engine::prng::Prng;
use engine::store::StoreRead;
use engine::testing::test_identity;

use super::{Full, Machine};
use crate::disk::{DiskImage, SimDisk};
use crate::intruded::Visit;
use crate::intruder::Intrusion;
use crate::marks::Situation;
use crate::oracle::{Observer, Violation, violation};
use crate::plan::{Event, Plan, letter};
use crate::pure::{NODES_MAX, READMISSIONS_MAX};
use crate::sim_store::SimStore;

impl Full<'_> {
    /// Puts the last backup in place of a machine's database. Its guard tells the software that this is a copy, if it is
    /// to be noticed.
    pub(super) fn restore(&mut self, node: usize, noticed: bool) -> Result<(), Violation> {
        let Some(image) = self.machines[node].backup.clone() else { return Ok(()) };
        if !noticed {
            self.global.forked.insert(self.machines[node].device);
        }
        self.change_life(node, &image, noticed)
    }

    /// A machine becomes a copy of another, key and database.
    pub(super) fn become_copy(&mut self, node: usize, of: usize, noticed: bool) -> Result<(), Violation> {
        if !noticed {
            self.global.forked.insert(self.machines[of].device);
        }
        let original = &self.machines[of];
        let (image, identity, device) =
            (original.disk.image(), original.identity.borrow().clone(), original.device);
        let (holds_root, granted) = (original.holds_root, original.granted.borrow().clone());
        let members = original.members.borrow().clone();
        let machine = &mut self.machines[node];
        *machine.identity.borrow_mut() = identity;
        *machine.granted.borrow_mut() = granted;
        *machine.members.borrow_mut() = members;
        (machine.device, machine.holds_root, machine.told) = (device, holds_root, false);
        machine.backup = None;
        self.change_life(node, &image, noticed)
    }

    /// A machine is paired anew: another device, an empty database.
    pub(super) fn readmit(&mut self, node: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[node];
        if machine.readmissions == READMISSIONS_MAX {
            return Ok(());
        }
        machine.readmissions += 1;
        let identity = readmitted(machine.readmissions, node);
        // Whoever admits a device tells it of all others, and is the only one who knows of it at once.
        let members = self.machines.iter().map(|machine| machine.identity.borrow().cert.clone()).collect();
        let machine = &mut self.machines[node];
        *machine.members.borrow_mut() = members;
        (machine.device, machine.holds_root, machine.told) = (identity.device(), false, false);
        machine.backup = None;
        *machine.granted.borrow_mut() = None;
        let (account, device) = (identity.account(), identity.device());
        *machine.identity.borrow_mut() = identity;
        self.global.admit(device);
        let blank = SimDisk::new(self.plan.seed);
        drop(SimStore::open(blank.clone(), account, 0).expect("an empty disk takes a database"));
        blank.power_on();
        self.change_life(node, &blank.image(), true)
    }

    fn change_life(&mut self, node: usize, image: &DiskImage, noticed: bool) -> Result<(), Violation> {
        self.power_off(node);
        let disk = &self.machines[node].disk;
        disk.replace(image, noticed);
        disk.disarm();
        disk.power_on();
        let account = test_identity(node as u8).account();
        let opened =
            SimStore::open(self.machines[node].disk.clone(), account, 0).map_err(|error| error.to_string());
        let recovered = opened.and_then(|store| store.recover().map_err(|error| error.to_string()));
        let Ok(recovered) = recovered else {
            return violation("a backup can be opened", format!("{}: {recovered:?}", letter(node)));
        };
        let observers: Vec<&Observer> = self.machines.iter().map(|machine| &machine.observer).collect();
        let (kept, lost) = self.global.restored(node, &recovered.heads, &observers);
        self.report.marks.note(Situation::WriteReturned, kept);
        self.report.marks.note(Situation::WriteInBackupOnly, lost);
        let machine = &mut self.machines[node];
        machine.observer = Observer::new(node, machine.device, &self.config);
        machine.observer.clock_set(recovered.clock);
        machine.watch_at = (1, 0);
        {
            let mut board = machine.board.borrow_mut();
            (board.cursor, board.watched) = Default::default();
            board.revoked = false;
            board.syncs.clear();
        }
        self.look_at_clock(node);
        self.restart(node);
        Ok(())
    }

    /// Whether a revoked machine of the core meets somebody who can tell it so. Nobody dials a device that is known to be
    /// revoked, so it must find the other: as a member that it knows.
    pub(super) fn can_be_told(&self, node: usize) -> bool {
        let Machine { observer, members, .. } = &self.machines[node];
        self.plan.standing().into_iter().filter(|other| self.plan.in_core(node, *other)).any(|other| {
            let device = self.machines[other].device;
            let told_of = members.borrow().iter().any(|cert| cert.device() == device);
            told_of || !observer.applied_of(&device).is_empty()
        })
    }

    /// Has somebody hostile speak to a machine. What that may not change is what the other oracles look at.
    pub(super) fn intrude(&mut self, node: usize, by: Intrusion) {
        self.intrusions += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.plan.seed.to_be_bytes());
        seed[8..16].copy_from_slice(&self.intrusions.to_be_bytes());
        // Whoever it is that speaks, it knows these.
        let mut heads = self.machines[node].observer.heads().clone();
        heads.retain(|replica, head| {
            self.machines.iter().all(|machine| machine.observer.heads().get(replica) == Some(head))
        });
        let visit = Visit { by, number: self.intrusions, fate: Prng::new(seed), heads };
        let visited = self.machines[node].board.borrow().visits.as_ref().map(|visits| visits.send(visit));
        self.report.marks.note(Situation::ActedWhileDown, visited.is_none());
    }

    /// Two machines get another connection while the last one seems open.
    pub(super) fn roam(&self, a: usize, b: usize) {
        let key = |node: usize| self.machines[node].identity.borrow().peer_key();
        // The larger key's would not be taken beside one of the smaller's.
        let (from, to) = if key(a) < key(b) { (a, b) } else { (b, a) };
        if let Some(roamer) = &self.machines[from].board.borrow().roamer {
            roamer.connect_anew(key(to));
        }
    }
}

/// Who a machine is when it was paired anew so many times.
fn readmitted(times: u8, node: usize) -> Identity {
    test_identity(times * NODES_MAX + node as u8)
}

/// The name of a machine.
pub(super) fn host(node: usize) -> String {
    format!("machine-{node}")
}

/// The hosts at which each key may be found: a machine's own, and those of machines that become copies of it.
pub(super) fn directory(plan: &Plan) -> BTreeMap<PeerKey, Vec<String>> {
    let copies = |of: usize| {
        plan.events.iter().filter_map(move |timed| match timed.event {
            Event::Clone { node, of: original, .. } if original == of => Some(host(node)),
            _ => None,
        })
    };
    let keys = machines_by_key(plan.nodes).into_iter();
    keys.map(|(key, node)| (key, std::iter::once(host(node)).chain(copies(node)).collect())).collect()
}

/// The machine of each key that one may have in its lives.
pub(super) fn machines_by_key(machines: usize) -> BTreeMap<PeerKey, usize> {
    let lives = |node: usize| {
        let again = (1..=READMISSIONS_MAX).map(move |times| readmitted(times, node));
        std::iter::once(test_identity(node as u8)).chain(again)
    };
    (0..machines).flat_map(|node| lives(node).map(move |identity| (identity.peer_key(), node))).collect()
}
