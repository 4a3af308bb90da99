//! That bugs in revocation are noticed: each planted one fails a scenario which passes without it.

use std::collections::BTreeMap;

use engine::commit::{Commit, OpKind};
use engine::config::Config;
use engine::hlc::Hlc;
use engine::identity::Sig;
use engine::io::{Change, Input, Order};
use engine::name::{FieldName, RowKey, TableName};
use engine::planted::{Bug, plant};
use engine::store::StoreRead;
use engine::testing::{Author, Mesh, op, test_identity, test_root};
use engine::value::Value;
use engine::wire::message::{Control, Hello, Ops, Run, pack_control, pack_ops};

const SESSION: u32 = 77;
/// Bugs that show only where devices are revoked.
const OF_TRUST: [Bug; 8] = [
    Bug::FenceIgnored,
    Bug::FenceSparesBuffer,
    Bug::LargerFenceWins,
    Bug::NoRollback,
    Bug::FencedDepsBlock,
    Bug::RevokedMayConnect,
    Bug::ForkUnproven,
    Bug::ForkUnnoticed,
];

fn put(mesh: &mut Mesh, node: usize, row: &str, value: i64) {
    let change = Change {
        table: TableName::new("t").expect("a name"),
        row: RowKey::new(row).expect("a key"),
        kind: OpKind::Put,
        fields: [(FieldName::new("f").expect("a name"), Value::Int(value))].into(),
    };
    mesh.write(node, vec![change]);
}

fn read(mesh: &Mesh, node: usize, row: &str) -> Option<Value> {
    let state =
        mesh.store(node).row(&TableName::new("t").expect("a name"), &RowKey::new(row).expect("a key"));
    state.expect("a read")?.field("f")
}

fn meet(mesh: &mut Mesh, a: usize, b: usize) {
    mesh.connect(a, b);
    mesh.run_ms(5_000);
    mesh.disconnect(a, b);
}

fn revoke(mesh: &mut Mesh, by: usize, device: engine::identity::DeviceId) {
    mesh.administer(by, Order::Revoke { device, reason: String::new() });
}

/// What a thief wrote after the administrator last met it is taken back, what others built on it stays, and it may not
/// connect.
fn a_theft() -> bool {
    let mut mesh = Mesh::new(3, 1, Config::default());
    put(&mut mesh, 2, "r", 1);
    meet(&mut mesh, 0, 2);
    put(&mut mesh, 2, "r", 2);
    meet(&mut mesh, 1, 2);
    put(&mut mesh, 1, "mine", 3);
    let thief = mesh.key(2).device();
    revoke(&mut mesh, 0, thief);
    meet(&mut mesh, 0, 1);
    let rolled_back = [0, 1].iter().all(|node| read(&mesh, *node, "r") == Some(Value::Int(1)));
    let kept = [0, 1].iter().all(|node| read(&mesh, *node, "mine") == Some(Value::Int(3)));
    let quarantined = mesh.store(1).quarantine(None, 9).expect("a read").len() == 1;
    let equal = mesh.engine(0).knowledge() == mesh.engine(1).knowledge();
    put(&mut mesh, 0, "secret", 4);
    meet(&mut mesh, 0, 2);
    let told_nothing = mesh.engine(2).revoked() && read(&mesh, 2, "secret").is_none();
    rolled_back && kept && quarantined && equal && told_nothing
}

/// Two administrators, two fences.
fn two_fences() -> bool {
    let identity = |n| test_identity(n).with_root(test_root()).expect("the root key");
    let identities = vec![identity(0), identity(1), test_identity(2)];
    let mut mesh = Mesh::with_identities(identities, 2, Config::default());
    put(&mut mesh, 2, "r", 1);
    meet(&mut mesh, 0, 2);
    put(&mut mesh, 2, "r", 2);
    meet(&mut mesh, 1, 2);
    let thief = mesh.key(2).device();
    revoke(&mut mesh, 0, thief);
    revoke(&mut mesh, 1, thief);
    meet(&mut mesh, 0, 1);
    [0, 1].iter().all(|node| read(&mesh, *node, "r") == Some(Value::Int(1)))
}

/// A relay, whose frames are made by hand, brings commits of a thief that lie beyond the fence: one waits when the fence
/// comes, one comes after it.
fn a_relay() -> bool {
    let mut mesh = Mesh::new(1, 3, Config::default());
    let (relay, mut thief) = (Author::new(9), Author::new(8));
    let log: Vec<(Commit, Sig)> = (0..4)
        .map(|n| {
            let fields = BTreeMap::from([("f".to_owned(), Value::Int(n))]);
            thief.commit(
                Hlc::new(1_700_000_000_000, n as u16),
                BTreeMap::new(),
                vec![op("t", "r", OpKind::Put, fields)],
            )
        })
        .collect();
    let peer = relay.identity.peer_key();
    mesh.input(0, Input::PeerUp(peer));
    let (cert, replica) = (relay.identity.cert.clone(), relay.replica);
    let hello =
        Hello { minor: 0, features: 0, cert, replica, echo: 0, digest: [0; 16], heads_digest: [0; 16] };
    let hello = pack_control(SESSION, &Control::Hello(Box::new(hello))).expect("a frame");
    mesh.inject(0, peer, hello);
    let bring = |mesh: &mut Mesh, n: usize| {
        let runs = vec![Run { commits: vec![log[n].0.clone()], sig: log[n].1 }];
        let ops = Ops { want: 0, offset: 0, done: true, runs };
        mesh.inject(0, peer, pack_ops(SESSION, &ops).expect("a frame"));
    };
    bring(&mut mesh, 0);
    bring(&mut mesh, 1);
    bring(&mut mesh, 3);
    let waited = mesh.engine(0).stats().waiting_commits == 1;
    revoke(&mut mesh, 0, thief.identity.device());
    let purged = mesh.engine(0).stats().waiting_commits == 0;
    bring(&mut mesh, 2);
    waited && purged && read(&mesh, 0, "r") == Some(Value::Int(1))
}

/// A database that runs twice: two devices get one branch each, equally long, and are connected for a while, with and
/// without the numbers telling that something is amiss.
fn a_fork(longer: bool) -> bool {
    let identities = [0, 1, 2, 2].map(test_identity).to_vec();
    let mut mesh = Mesh::with_identities(identities, 4, Config::default());
    mesh.crash(3);
    put(&mut mesh, 2, "r", 1);
    // So that a signature of it is held by those who prove the fork.
    meet(&mut mesh, 0, 2);
    meet(&mut mesh, 1, 2);
    mesh.replace_store(3, mesh.store(2).clone());
    mesh.restart(3);
    put(&mut mesh, 2, "r", 2);
    put(&mut mesh, 3, "r", 3);
    if longer {
        put(&mut mesh, 3, "r", 4);
    }
    meet(&mut mesh, 0, 2);
    meet(&mut mesh, 1, 3);
    meet(&mut mesh, 0, 1);
    [0, 1].iter().all(|node| {
        read(&mesh, *node, "r") == Some(Value::Int(1))
            && !mesh.store(*node).quarantine(None, 9).expect("a read").is_empty()
            && mesh.engine(*node).forks().count() == 1
    })
}

#[test]
fn each_planted_bug_in_revocation_is_noticed() {
    let sound = || a_theft() && two_fences() && a_relay() && a_fork(false) && a_fork(true);
    assert!(sound());
    for bug in OF_TRUST {
        plant(Some(bug));
        let noticed = !sound();
        plant(None);
        assert!(noticed, "{} survives", bug.name());
    }
}
