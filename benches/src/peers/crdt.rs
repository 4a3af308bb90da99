//! Libraries of conflict-free replicated data. Each field is an entry of one flat map, the cheapest form that they have
//! for this workload; a delete removes one entry. What is measured is the merge of updates that are there as bytes.

use engine::commit::{Op, Stamp};
use engine::value::Value;

/// Operations in one update: what a device sends after some time offline.
const UPDATE_OPS: usize = 100;

/// What one of these libraries makes of a workload.
#[derive(Debug)]
pub struct Crdt {
    /// The updates of all devices, to be merged in this order.
    pub updates: Vec<Vec<u8>>,
    /// Bytes for a device that has nothing.
    pub whole_bytes: usize,
}

/// The writes of one device, in pieces of [`UPDATE_OPS`]: key and value, `None` to remove it.
fn pieces(writes: &[(Stamp, &Op)], device: u64) -> Vec<Vec<(String, Option<String>)>> {
    let own = writes.iter().filter(|(stamp, _)| stamp.dot.replica.incarnation == device);
    let entries: Vec<_> = own
        .map(|(_, op)| match op.fields.iter().next() {
            Some((field, Value::Text(text))) => (format!("{}/{field}", op.row), Some(text.clone())),
            _ => (format!("{}/field-0", op.row), None),
        })
        .collect();
    entries.chunks(UPDATE_OPS).map(<[_]>::to_vec).collect()
}

/// Takes the updates of several devices in turns.
fn in_turns(mut by_device: Vec<std::vec::IntoIter<Vec<u8>>>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(by_device.iter_mut().filter_map(Iterator::next));
        if all.len() == before {
            return all;
        }
    }
}

/// automerge.
pub mod automerge {
    use super::*;
    use ::automerge::transaction::Transactable;
    use ::automerge::{ActorId, AutoCommit, ROOT};

    /// Makes updates.
    pub fn make(writes: &[(Stamp, &Op)], devices: u64) -> Crdt {
        let by_device = (1..=devices).map(|device| {
            let mut doc = AutoCommit::new().with_actor(ActorId::from([device as u8; 16]));
            let updates = pieces(writes, device).into_iter().map(|piece| {
                for (key, value) in piece {
                    match value {
                        Some(value) => doc.put(ROOT, key, value).expect("a put"),
                        None => drop(doc.delete(ROOT, key)),
                    }
                }
                doc.save_incremental()
            });
            updates.collect::<Vec<_>>().into_iter()
        });
        let updates = in_turns(by_device.collect());
        let whole_bytes = merge(&updates).save().len();
        Crdt { updates, whole_bytes }
    }

    /// Merges them.
    pub fn merge(updates: &[Vec<u8>]) -> AutoCommit {
        let mut doc = AutoCommit::new();
        for update in updates {
            doc.load_incremental(update).expect("an update");
        }
        doc
    }
}

/// loro.
pub mod loro {
    use super::*;
    use ::loro::{ExportMode, LoroDoc};

    /// Makes updates.
    pub fn make(writes: &[(Stamp, &Op)], devices: u64) -> Crdt {
        let by_device = (1..=devices).map(|device| {
            let doc = LoroDoc::new();
            doc.set_peer_id(device).expect("a peer");
            let map = doc.get_map("rows");
            let updates = pieces(writes, device).into_iter().map(|piece| {
                let before = doc.oplog_vv();
                for (key, value) in piece {
                    match value {
                        Some(value) => map.insert(&key, value).expect("an insert"),
                        None => map.delete(&key).expect("a removal"),
                    }
                }
                doc.commit();
                doc.export(ExportMode::updates(&before)).expect("an update")
            });
            updates.collect::<Vec<_>>().into_iter()
        });
        let updates = in_turns(by_device.collect());
        let whole_bytes = merge(&updates).export(ExportMode::Snapshot).expect("a snapshot").len();
        Crdt { updates, whole_bytes }
    }

    /// Merges them.
    pub fn merge(updates: &[Vec<u8>]) -> LoroDoc {
        let doc = LoroDoc::new();
        doc.import_batch(updates).expect("updates");
        doc
    }
}

/// yrs.
pub mod yrs {
    use super::*;
    use ::yrs::updates::decoder::Decode;
    use ::yrs::{Doc, Map, ReadTxn, StateVector, Transact, Update};

    /// Makes updates.
    pub fn make(writes: &[(Stamp, &Op)], devices: u64) -> Crdt {
        let by_device = (1..=devices).map(|device| {
            let doc = Doc::with_client_id(device);
            let map = doc.get_or_insert_map("rows");
            let updates = pieces(writes, device).into_iter().map(|piece| {
                let mut txn = doc.transact_mut();
                for (key, value) in piece {
                    match value {
                        Some(value) => drop(map.insert(&mut txn, key, value)),
                        None => drop(map.remove(&mut txn, &key)),
                    }
                }
                txn.encode_update_v1()
            });
            updates.collect::<Vec<_>>().into_iter()
        });
        let updates = in_turns(by_device.collect());
        let whole_bytes = merge(&updates).transact().encode_state_as_update_v1(&StateVector::default()).len();
        Crdt { updates, whole_bytes }
    }

    /// Merges them.
    pub fn merge(updates: &[Vec<u8>]) -> Doc {
        let doc = Doc::with_client_id(99);
        let _map = doc.get_or_insert_map("rows");
        for update in updates {
            let update = Update::decode_v1(update).expect("an update");
            doc.transact_mut().apply_update(update).expect("it applies");
        }
        doc
    }
}
