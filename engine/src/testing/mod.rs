//! Generators and harnesses for tests of this crate and of those above it. Not part of release builds.

mod costly;
mod link;
mod mesh;
mod moment;
mod rounds;
mod spoilt;
mod trace;
mod transcript;

pub use costly::{costly_frames, frame_of, nested_maps, nests, row, rows};
pub use link::{LinkFaults, MeshCounts};
pub use mesh::{EPOCH_MS, Mesh};
pub use moment::{Happened, Moment, describe_batch};
pub use spoilt::{Spoil, Spoilt};
pub use transcript::describe_frame;

#[cfg(feature = "planted")]
pub use crate::remembered::{StandIns, stand_ins};

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;

use crate::commit::{Commit, CommitHash, Deps, Op, OpKind, sign_commit};
use crate::hlc::Hlc;
use crate::identity::{DeviceCert, Dot, Identity, PeerKey, ReplicaId, SecretKey, Sig};
use crate::name::{FieldName, RowKey, TableName};
use crate::remembered::standing_in;
use crate::value::Value;
use crate::wire::message::Hello;

/// Any value, nested a little.
pub fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        "[a-zé]{0,12}".prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            proptest::collection::btree_map("[a-z]{0,3}", inner, 0..4).prop_map(Value::Map),
        ]
    })
}

/// An operation on one of a few rows.
pub fn any_op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![3 => Just(OpKind::Put), 3 => Just(OpKind::Update), 2 => Just(OpKind::Delete), 1 => Just(OpKind::Replace)];
    let fields = proptest::collection::btree_map("[a-d]", any_value(), 0..4);
    ("[tu]", "[r-t]{1,2}", kind, fields).prop_map(|(table, row, kind, fields)| {
        let fields = if kind == OpKind::Delete { BTreeMap::new() } else { fields };
        op(&table, &row, kind, fields)
    })
}

/// An operation from plain text; panics if a name is not valid.
pub fn op(table: &str, row: &str, kind: OpKind, fields: BTreeMap<String, Value>) -> Op {
    Op {
        table: TableName::new(table).expect("a table name"),
        row: RowKey::new(row).expect("a row key"),
        kind,
        fields: fields
            .into_iter()
            .map(|(name, value)| (FieldName::new(&name).expect("a field name"), value))
            .collect(),
    }
}

/// The root key of the account that tests use.
pub fn test_root() -> SecretKey {
    SecretKey::from_bytes(&[42; 32])
}

/// The n-th device of the test account.
pub fn test_identity(n: u8) -> Identity {
    // Simulations ask for the same few identities thousands of times a second.
    static MADE: Mutex<BTreeMap<(u8, bool), Identity>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((n, standing_in())).or_insert_with(|| identity_of(&test_root(), n)).clone()
}

/// The n-th device of the account of a root key. The first administers it.
pub fn identity_of(root: &SecretKey, n: u8) -> Identity {
    let secret = SecretKey::from_bytes(&[n.wrapping_add(100); 32]);
    let name = format!("device-{n}");
    let cert = DeviceCert::issue(root, PeerKey(secret.public()), &name, 1_700_000_000_000, n == 0)
        .expect("a valid name");
    let identity = Identity::new(secret, cert).expect("a matching certificate");
    if n == 0 { identity.with_root(root.clone()).expect("the root key") } else { identity }
}

/// Writes commits of one replica without an engine. Clones write other commits of the same names.
#[derive(Debug, Clone)]
pub struct Author {
    /// The device.
    pub identity: Identity,
    /// The replica.
    pub replica: ReplicaId,
    /// Its newest commit.
    pub seq: u64,
    prev: CommitHash,
}

impl Author {
    /// The first life of the n-th test device.
    pub fn new(n: u8) -> Author {
        Author::of(test_identity(n), u64::from(n) + 1)
    }

    /// A life of any device.
    pub fn of(identity: Identity, incarnation: u64) -> Author {
        let replica = ReplicaId { device: identity.device(), incarnation };
        Author { identity, replica, seq: 0, prev: CommitHash::default() }
    }

    /// What it says first to a device of which it knows nothing.
    pub fn hello(&self) -> Hello {
        Hello {
            minor: 0,
            features: 0,
            cert: self.identity.cert.clone(),
            replica: self.replica,
            echo: 0,
            digest: [0; 16],
            heads_digest: [0; 16],
        }
    }

    /// The next commit.
    pub fn commit(&mut self, hlc: Hlc, deps: Deps, ops: Vec<Op>) -> (Commit, Sig) {
        self.seq += 1;
        let ops: BTreeMap<_, _> =
            ops.into_iter().map(|op| ((op.table.clone(), op.row.clone()), op)).collect();
        let commit = Commit {
            dot: Dot { replica: self.replica, seq: self.seq },
            prev: self.prev,
            hlc,
            deps,
            introduces: (self.seq == 1).then(|| Box::new(self.identity.cert.clone())),
            statement: None,
            ops: ops.into_values().collect(),
        };
        self.prev = commit.hash();
        let sig = sign_commit(&self.identity, &self.prev);
        (commit, sig)
    }
}
