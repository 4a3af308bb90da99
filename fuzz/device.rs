//! One real engine with data, in virtual time, and a peer whose frames the fuzzer makes.

use std::collections::BTreeMap;

use engine::commit::OpKind;
use engine::config::Config;
use engine::identity::{DeviceCert, PeerKey, ReplicaId};
use engine::io::{Change, Input};
use engine::name::{FieldName, RowKey, TableName};
use engine::store::StoreRead;
use engine::testing::Mesh;
use engine::value::Value;
use engine::wire::frame::pack;
use engine::wire::message::{Control, Hello, pack_control};

const SESSION: u32 = 77;

pub(crate) struct Device {
    mesh: Mesh,
    peer: PeerKey,
}

fn put(row: &str) -> Vec<Change> {
    let fields = BTreeMap::from([(FieldName::new("x").expect("a name"), Value::Int(1))]);
    let (table, row) = (TableName::new("t").expect("a name"), RowKey::new(row).expect("a key"));
    vec![Change { table, row, kind: OpKind::Put, fields }]
}

impl Device {
    /// A device with one commit, to which the peer has just connected.
    pub(crate) fn new(peer: PeerKey) -> Device {
        let mut mesh = Mesh::new(1, 5, Config::default());
        mesh.write(0, put("a"));
        mesh.input(0, Input::PeerUp(peer));
        Device { mesh, peer }
    }

    /// The peer says who it is, as a device of the account does.
    #[allow(dead_code, reason = "a stranger has nothing to show")]
    pub(crate) fn hello(&mut self, cert: DeviceCert, replica: ReplicaId) {
        let hello = Hello { minor: 0, features: 0, cert, replica, echo: 0, digest: [0; 16] };
        let frame = pack_control(SESSION, &Control::Hello(Box::new(hello))).expect("it fits");
        self.mesh.inject(0, self.peer, frame);
        assert!(self.mesh.engine(0).stats().peers[0].ready);
    }

    /// Gives the engine frames: each a length in two bytes, then so much of the input as payload. An odd first byte
    /// of a payload lets a second pass before it.
    pub(crate) fn frames(&mut self, mut data: &[u8]) {
        while let [low, high, rest @ ..] = data {
            let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
            let (payload, next) = rest.split_at(len);
            data = next;
            if let Some(frame) = pack(SESSION, payload) {
                self.mesh.inject(0, self.peer, frame);
            }
            if high % 2 == 1 {
                self.mesh.run_ms(1_000);
            }
        }
    }

    #[allow(dead_code, reason = "a member may add replicas")]
    pub(crate) fn assert_knows_only_itself(&self) {
        assert_eq!(self.mesh.engine(0).knowledge().replicas(), 1);
        assert_eq!(self.mesh.engine(0).members().count(), 1);
        assert_eq!(self.mesh.engine(0).waiting_bytes(), 0);
    }

    /// Its own row is there, and it can still write.
    pub(crate) fn assert_unharmed(&mut self) {
        assert!(self.mesh.running(0));
        assert!(self.mesh.store(0).recover().expect("it reads").position >= 1);
        let id = self.mesh.write(0, put("b"));
        assert!(self.mesh.results[&id].is_ok());
    }
}
