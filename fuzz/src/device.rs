//! One real engine with data, in virtual time, and a peer whose frames the fuzzer makes.

use std::collections::BTreeMap;

use engine::commit::OpKind;
use engine::config::Config;
use engine::identity::{PeerKey, ReplicaId};
use engine::io::{Change, Input, Order};
use engine::knowledge::Knowledge;
use engine::name::{FieldName, RowKey, TableName};
use engine::store::{Conflict, Recovered, StoreRead as _};
use engine::testing::{Mesh, test_identity};
use engine::value::Value;

/// All that must not change for what a stranger says.
#[derive(Debug, PartialEq)]
pub(crate) struct State {
    recovered: Recovered,
    conflicts: Vec<Conflict>,
    quarantined: usize,
    knowledge: Knowledge,
    digest: u128,
    members: usize,
    revocations: usize,
    waiting_bytes: u64,
    peers_known: usize,
}

pub(crate) struct Device {
    mesh: Mesh,
    pub(crate) peer: PeerKey,
    pub(crate) replica: ReplicaId,
}

pub(crate) fn put(row: &str, value: Value) -> Vec<Change> {
    let fields = BTreeMap::from([(FieldName::new("x").expect("a name"), value)]);
    let (table, row) = (TableName::new("t").expect("a name"), RowKey::new(row).expect("a key"));
    vec![Change { table, row, kind: OpKind::Put, fields }]
}

impl Device {
    /// An administrator's device with one commit, to which the peer has just connected. If told so, it has revoked the
    /// tenth device of the account before.
    pub(crate) fn new(peer: PeerKey, revoking: bool) -> Device {
        let mut mesh = Mesh::new(1, 5, Config::default());
        mesh.write(0, put("a", Value::Int(1)));
        if revoking {
            let revoked = test_identity(9);
            mesh.input(0, Input::Members(vec![revoked.cert.clone()]));
            let id = mesh.administer(0, Order::Revoke { device: revoked.device(), reason: "lost".into() });
            assert!(mesh.administered[&id].is_ok());
        }
        mesh.input(0, Input::PeerUp(peer));
        let replica = mesh.engine(0).replica();
        Device { mesh, peer, replica }
    }

    pub(crate) fn ready(&self) -> bool {
        self.mesh.engine(0).stats().peers.first().is_some_and(|peer| peer.ready)
    }

    pub(crate) fn receive(&mut self, frame: Vec<u8>) {
        self.mesh.inject(0, self.peer, frame);
    }

    pub(crate) fn hint(&mut self, frame: Vec<u8>) {
        self.mesh.input(0, Input::Broadcast { from: self.peer, bytes: frame });
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        self.mesh.run_ms(ms);
    }

    pub(crate) fn reconnect(&mut self) {
        self.mesh.input(0, Input::PeerDown(self.peer));
        self.mesh.input(0, Input::PeerUp(self.peer));
    }

    pub(crate) fn restart(&mut self) {
        self.mesh.crash(0);
        self.mesh.restart(0);
        self.mesh.input(0, Input::PeerUp(self.peer));
    }

    pub(crate) fn write(&mut self, changes: Vec<Change>) {
        self.mesh.write(0, changes);
    }

    pub(crate) fn knowledge(&self) -> &Knowledge {
        self.mesh.engine(0).knowledge()
    }

    pub(crate) fn revoked(&self) -> bool {
        self.mesh.engine(0).revoked()
    }

    pub(crate) fn state(&self) -> State {
        let (engine, store) = (self.mesh.engine(0), self.mesh.store(0));
        State {
            recovered: store.recover().expect("it reads"),
            conflicts: store.conflicts(0, usize::MAX).expect("it reads"),
            quarantined: store.quarantine(None, usize::MAX).expect("it reads").len(),
            knowledge: engine.knowledge().clone(),
            digest: engine.digest(),
            members: engine.members().count(),
            revocations: engine.revocations().count(),
            waiting_bytes: engine.waiting_bytes(),
            peers_known: engine.peer_knowledge().count(),
        }
    }

    /// It runs, holds what its log amounts to, stays within its bounds, and can still write.
    pub(crate) fn assert_well(&mut self) {
        assert!(self.mesh.running(0));
        assert_eq!(self.mesh.counts.store_refusals, 0, "the engine gave its store what that refuses");
        assert!(self.mesh.engine(0).waiting_bytes() <= Config::default().reorder_bytes_max as u64);
        engine::store::contract::state_follows_from_log(self.mesh.store(0));
        let id = self.mesh.write(0, put("b", Value::Int(2)));
        assert!(self.mesh.results[&id].is_ok(), "{:?}", self.mesh.results[&id]);
    }
}
