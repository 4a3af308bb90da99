//! Revocation through the driver: orders, the quarantine, and what a watch sees of it.

use std::time::Duration;

use ahenk::{Cursor, Db, Fields, MemoryNet, Node, Options, OrderFailed, RestoreError, SystemClock};
use engine::commit::OpKind;
use engine::identity::PeerKey;
use engine::io::{AdminError, Event};
use engine::store::MemStore;
use engine::testing::test_identity;
use engine::value::Value;

const SECONDS: Duration = Duration::from_secs(20);

fn open(net: &MemoryNet, n: u8) -> (Db<MemStore>, PeerKey) {
    open_over(net, n, MemStore::new())
}

fn open_over(net: &MemoryNet, n: u8, store: MemStore) -> (Db<MemStore>, PeerKey) {
    let identity = test_identity(n);
    let key = identity.peer_key();
    let options = Options::new(identity, [n; 32]);
    let (node, db) = Node::new(options, net.join(key), store, SystemClock::new()).unwrap();
    tokio::spawn(node.run());
    (db, key)
}

fn text(value: &str) -> Fields {
    Fields::from([("x", value)])
}

fn read(db: &Db<MemStore>, row: &str) -> Option<Value> {
    db.get("t", row).unwrap().and_then(|row| row.get("x").cloned())
}

/// An administrator, another device that has what a thief wrote after the administrator last met it, and the thief.
async fn a_theft(net: &MemoryNet) -> [(Db<MemStore>, PeerKey); 3] {
    let all = [open(net, 0), open(net, 1), open(net, 2)];
    let [(admin, a), (other, b), (thief, c)] = &all;
    thief.put("t", "shared", text("before")).await.unwrap();
    net.connect(*a, *c);
    admin.sync(SECONDS).await.unwrap();
    net.disconnect(*a, *c);
    thief.put("t", "shared", text("after")).await.unwrap();
    thief.put("t", "new", text("after")).await.unwrap();
    net.connect(*b, *c);
    other.sync(SECONDS).await.unwrap();
    net.disconnect(*b, *c);
    all
}

#[tokio::test]
async fn what_a_revocation_takes_back_is_seen_by_watches_listed_restored_and_dropped() {
    let net = MemoryNet::new();
    let [(admin, a), (other, b), (thief, _)] = a_theft(&net).await;
    assert_eq!(read(&other, "new"), Some("after".into()));
    let mut watch = other.watch(other.cursor());
    admin.revoke(thief.device(), "stolen").await.unwrap();
    net.connect(a, b);
    other.sync(SECONDS).await.unwrap();

    assert_eq!((read(&other, "shared"), read(&other, "new")), (Some("before".into()), None));
    let (mut seen, mut cursor) = (Vec::new(), Cursor::default());
    while let Some(change) = watch.try_next().unwrap() {
        cursor = change.cursor;
        if change.table.as_str() == "t" {
            seen.push((
                change.row.to_string(),
                change.kind,
                change.now.and_then(|row| row.get("x").cloned()),
            ));
        }
    }
    let expected = [
        ("new".to_owned(), OpKind::Delete, None),
        ("shared".to_owned(), OpKind::Replace, Some("before".into())),
    ];
    assert_eq!(seen, expected);
    assert_eq!(cursor, other.cursor());

    let status = other.status().await.unwrap();
    assert_eq!(status.revocations.len(), 1);
    assert_eq!(
        (status.revocations[0].device, status.revocations[0].reason.as_str()),
        (thief.device(), "stolen")
    );
    assert!(!status.revoked && !status.administers && admin.status().await.unwrap().administers);

    let kept = other.quarantine(None, 10).unwrap();
    assert_eq!(kept.len(), 2);
    let (first, second) = (kept[0].stored.dot(), kept[1].stored.dot());
    assert_eq!(other.quarantine(Some(&first), 10).unwrap(), kept[1..]);
    other.restore(second).await.unwrap();
    assert_eq!(read(&other, "new"), Some("after".into()));
    assert_eq!(other.restore(second).await, Err(RestoreError::NotThere(second)));
    other.drop_quarantined(vec![first, second]).await.unwrap();
    assert_eq!(other.quarantine(None, 10).unwrap(), []);
    admin.sync(SECONDS).await.unwrap();
    assert_eq!(read(&admin, "new"), Some("after".into()), "what was restored is written by who restored it");
}

#[tokio::test]
async fn only_an_administrator_gives_orders_and_a_promoted_device_is_given_the_key() {
    let net = MemoryNet::new();
    let [(admin, a), (other, b)] = [open(&net, 0), open(&net, 1)];
    net.connect(a, b);
    other.sync(SECONDS).await.unwrap();
    let refused = other.revoke(admin.device(), "").await;
    assert_eq!(refused, Err(OrderFailed::Refused(AdminError::NotAdministrator)));
    let mut grants = other.granted();
    admin.certify(other.device(), Some("desk".into()), Some(true)).await.unwrap();
    let granted =
        tokio::time::timeout(SECONDS, grants.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert_eq!(granted.unwrap().public(), admin.account().0);
    other.revoke(admin.device(), "").await.unwrap();
    let own = other.status().await.unwrap();
    assert!(own.administers && own.members.iter().any(|cert| cert.name == "desk" && cert.admin));
}

#[tokio::test]
async fn a_database_that_ran_twice_is_told_of_everywhere_and_both_of_its_histories_are_kept() {
    let net = MemoryNet::new();
    let [(one, a), (other, b), (first, c)] = [open(&net, 0), open(&net, 1), open(&net, 2)];
    first.put("t", "r", text("before")).await.unwrap();
    net.connect_all();
    one.sync(SECONDS).await.unwrap();
    other.sync(SECONDS).await.unwrap();
    net.disconnect(a, b);
    net.disconnect(b, c);
    let copy = MemStore::clone(first.store());
    first.put("t", "r", text("here")).await.unwrap();
    one.sync(SECONDS).await.unwrap();
    net.disconnect(a, c);
    first.close().await.unwrap();
    let (second, _) = open_over(&net, 2, copy);
    second.put("t", "r", text("there")).await.unwrap();
    net.connect(b, c);
    other.sync(SECONDS).await.unwrap();
    assert_eq!((read(&one, "r"), read(&other, "r")), (Some("here".into()), Some("there".into())));

    let (mut told, mut other_told) = (one.events(), other.events());
    net.connect(a, b);
    for events in [&mut told, &mut other_told] {
        let forked =
            async { while !matches!(events.recv().await.unwrap(), Event::Forked { retracted: 1, .. }) {} };
        tokio::time::timeout(SECONDS, forked).await.unwrap();
    }
    one.sync(SECONDS).await.unwrap();
    for (db, value) in [(&one, "here"), (&other, "there")] {
        assert_eq!(read(db, "r"), Some("before".into()));
        let kept = db.quarantine(None, 10).unwrap();
        assert_eq!(kept.len(), 1);
        let fields = &kept[0].stored.commit.ops[0].fields;
        assert!(fields.values().any(|kept| *kept == Value::from(value)));
        let forks = db.status().await.unwrap().forks;
        assert_eq!(forks.len(), 1);
        assert_eq!(forks[0].replica.device, second.device());
    }
}

#[tokio::test]
async fn a_watch_that_stood_in_the_middle_of_what_is_taken_back_misses_nothing_after_it() {
    let net = MemoryNet::new();
    let [(admin, a), (other, b), (thief, c)] = a_theft(&net).await;
    net.connect(a, b);
    other.sync(SECONDS).await.unwrap();
    net.disconnect(a, b);
    thief
        .transaction(|tx| {
            tx.put("t", "one", text("after"))?;
            tx.put("t", "two", text("after"))
        })
        .await
        .unwrap();
    let before = other.cursor();
    net.connect(b, c);
    other.sync(SECONDS).await.unwrap();
    net.disconnect(b, c);
    let half = other.watch(before).try_next().unwrap().expect("the first of two rows").cursor;
    assert_ne!(half, other.cursor());
    admin.revoke(thief.device(), "stolen").await.unwrap();
    net.connect(a, b);
    other.sync(SECONDS).await.unwrap();
    let (mut watch, mut rows) = (other.watch(half), Vec::new());
    while let Some(change) = watch.try_next().unwrap() {
        rows.push((change.row.to_string(), change.kind));
    }
    assert_eq!(rows, [("one".to_owned(), OpKind::Delete), ("two".to_owned(), OpKind::Delete)]);
}
