//! Comparing rows with a peer: equal rows are found equal, and each row that differs is named.

use std::collections::BTreeMap;
use std::time::Duration;

use ahenk::{DIFFERENCES_MAX, Db, Fields, MemoryNet, Node, Options, SystemClock, Verdict};
use engine::commit::{OpKind, Stamp};
use engine::hlc::Hlc;
use engine::identity::{Dot, PeerKey, ReplicaId};
use engine::name::{RowKey, TableName};
use engine::row::RowState;
use engine::store::{Batch, MemStore, Store, StoreRead};
use engine::testing::{op, test_identity};

const SECONDS: Duration = Duration::from_secs(20);

fn open(net: &MemoryNet, n: u8) -> (Db<MemStore>, PeerKey) {
    let identity = test_identity(n);
    let key = identity.peer_key();
    let options = Options::new(identity, [n; 32]);
    let (node, db) = Node::new(options, net.join(key), MemStore::new(), SystemClock::new()).unwrap();
    tokio::spawn(node.run());
    (db, key)
}

/// Puts rows into a store behind its engine's back.
fn tamper(db: &Db<MemStore>, rows: &[(&str, &str)]) {
    let recovered = db.store().recover().unwrap();
    let state = |n: usize, table: &str, row: &str| {
        let replica = ReplicaId { device: test_identity(9).device(), incarnation: 1 };
        let stamp = Stamp { hlc: Hlc::new(n as u64 + 1, 0), dot: Dot { replica, seq: 1 } };
        let mut state = RowState::default();
        state.apply(stamp, &op(table, row, OpKind::Put, [].into()), &mut Vec::new());
        (RowKey::new(row).unwrap(), state)
    };
    let mut by_table: BTreeMap<TableName, Vec<(RowKey, RowState)>> = BTreeMap::new();
    for (n, (table, row)) in rows.iter().enumerate() {
        by_table.entry(TableName::new(table).unwrap()).or_default().push(state(n, table, row));
    }
    by_table.values_mut().for_each(|rows| rows.sort_by(|(a, _), (b, _)| a.cmp(b)));
    let batch = Batch {
        position: recovered.position + 1,
        rows: by_table,
        clock: recovered.clock,
        digest: recovered.digest,
        ..Batch::default()
    };
    db.store().apply(&batch).unwrap();
}

async fn pair(rows: usize) -> (Db<MemStore>, Db<MemStore>) {
    let net = MemoryNet::new();
    let ((a, _), (b, _)) = (open(&net, 0), open(&net, 1));
    for chunk in (0..rows).collect::<Vec<_>>().chunks(500) {
        a.transaction(|tx| {
            chunk.iter().try_for_each(|n| {
                tx.put(
                    if n % 2 == 0 { "even" } else { "odd" },
                    &format!("{n:06}"),
                    Fields::from([("n", *n as i64)]),
                )
            })
        })
        .await
        .unwrap();
    }
    net.connect_all();
    b.sync(SECONDS).await.unwrap();
    a.sync(SECONDS).await.unwrap();
    (a, b)
}

#[tokio::test]
async fn equal_rows_are_found_equal_over_many_pages_deleted_ones_included() {
    let (a, b) = pair(5_000).await;
    a.delete("even", "000000").await.unwrap();
    a.sync(SECONDS).await.unwrap();
    for (one, other) in [(&a, &b), (&b, &a)] {
        let found = one.verify(other.device(), SECONDS).await.unwrap();
        assert_eq!((found.verdict, found.rows, found.differences.len()), (Verdict::Equal, 5_000, 0));
    }
}

#[tokio::test]
async fn each_row_that_differs_is_named_with_the_side_that_lacks_it() {
    let (a, b) = pair(3_000).await;
    tamper(&a, &[("even", "000002"), ("zzz", "only here")]);
    tamper(&b, &[("aaa", "only there"), ("odd", "002999")]);
    let found = a.verify(b.device(), SECONDS).await.unwrap();
    assert_eq!(found.verdict, Verdict::Differing);
    let named: Vec<_> = found
        .differences
        .iter()
        .map(|one| (one.table.as_str(), one.row.as_str(), one.ours.is_some(), one.theirs.is_some()))
        .collect();
    assert_eq!(
        named,
        [
            ("aaa", "only there", false, true),
            ("even", "000002", true, true),
            ("odd", "002999", true, true),
            ("zzz", "only here", true, false)
        ]
    );
}

#[tokio::test]
async fn a_list_of_differences_is_bounded_however_many_there_are() {
    let (a, b) = pair(10).await;
    let keys: Vec<String> = (0..5_000).map(|n| format!("{n:06}")).collect();
    let rows: Vec<_> = keys.iter().map(|key| ("mine", key.as_str())).collect();
    tamper(&a, &rows);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let found = one.verify(other.device(), SECONDS).await.unwrap();
        assert_eq!((found.verdict, found.differences.len()), (Verdict::Differing, DIFFERENCES_MAX));
    }
}

#[tokio::test]
async fn rows_are_compared_only_at_equal_knowledge_and_only_with_a_connected_device() {
    let net = MemoryNet::new();
    let ((a, _), (b, _)) = (open(&net, 0), open(&net, 1));
    a.put("t", "r", Fields::from([("n", 1)])).await.unwrap();
    let silent = a.verify(b.device(), Duration::from_millis(50)).await.unwrap();
    assert_eq!(silent.verdict, Verdict::Silent);
    net.connect_all();
    a.sync(SECONDS).await.unwrap();
    net.disconnect_all();
    assert_eq!(a.verify(b.device(), Duration::from_millis(50)).await.unwrap().verdict, Verdict::Silent);
}
