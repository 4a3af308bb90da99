//! The driver and the application's handle, over the in-process transport: what `Db` promises, and what happens
//! when the store fails.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ahenk::{
    Cursor, Db, Fields, MemoryNet, Node, Offline, Options, Scan, SyncError, SystemClock, TransactionError,
    Watch, WriteFailed,
};
use engine::identity::PeerKey;
use engine::io::{Event, WriteError};
use engine::store::{Batch, MemStore, Store, StoreError, StoreRead};
use engine::testing::{Spoil, Spoilt, test_identity};
use engine::time::{Clock, Instant, Now, WallMs};
use engine::transport::{Transport, TransportEvent, TrySendError};
use engine::value::Value;

const SECONDS: Duration = Duration::from_secs(20);

fn open<S: Store>(net: &MemoryNet, n: u8, store: S) -> (Db<S>, PeerKey) {
    let identity = test_identity(n);
    let key = identity.peer_key();
    let options = Options::new(identity, [n; 32]);
    let (node, db) = Node::new(options, net.join(key), store, SystemClock::new()).unwrap();
    tokio::spawn(node.run());
    (db, key)
}

fn offline() -> Db<MemStore> {
    let options = Options::new(test_identity(0), [1; 32]);
    let (node, db) = Node::new(options, Offline, MemStore::new(), SystemClock::new()).unwrap();
    tokio::spawn(node.run());
    db
}

fn text(value: &str) -> Fields {
    Fields::from([("x", value)])
}

/// Lets the next writes to a store fail on demand, and its next reopenings. Counts batches.
#[derive(Clone, Default)]
struct Failures {
    failures: Arc<AtomicU32>,
    reopens_refused: Arc<AtomicU32>,
    batches: Arc<AtomicU32>,
}

type Failing = Spoilt<Arc<MemStore>, Failures>;

fn take_one(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Spoil for Failures {
    fn apply(&self, _: &dyn StoreRead, _: &Batch) -> Result<(), StoreError> {
        self.batches.fetch_add(1, Ordering::SeqCst);
        if take_one(&self.failures) { Err(StoreError::Full) } else { Ok(()) }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        if take_one(&self.reopens_refused) { Err(StoreError::Io("not yet".into())) } else { Ok(()) }
    }
}

#[tokio::test]
async fn what_was_answered_is_read_at_once_and_by_every_device_after_sync() {
    let net = MemoryNet::new();
    let (a, _) = open(&net, 0, MemStore::new());
    let (b, _) = open(&net, 1, MemStore::new());
    a.put("t", "r", text("1")).await.unwrap();
    assert_eq!(a.get("t", "r").unwrap().unwrap().get("x"), Some(&Value::from("1")));
    net.connect_all();
    assert_eq!(b.sync(SECONDS).await.unwrap().peers, 1);
    assert_eq!(b.get("t", "r").unwrap().unwrap().get("x"), Some(&Value::from("1")));
    let (a, b) = (a.status().await.unwrap(), b.status().await.unwrap());
    assert_eq!(a.digest, b.digest);
    assert_eq!(a.members.len(), 2);
}

#[tokio::test]
async fn a_live_write_reaches_a_watcher_on_the_other_device() {
    let net = MemoryNet::new();
    let (a, _) = open(&net, 0, MemStore::new());
    let (b, _) = open(&net, 1, MemStore::new());
    net.connect_all();
    b.sync(SECONDS).await.unwrap();
    let mut watch = b.watch(b.cursor());
    a.put("t", "r", text("live")).await.unwrap();
    let change = tokio::time::timeout(SECONDS, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((change.row.as_str(), change.stamp.dot.replica.device), ("r", a.device()));
    assert_eq!(change.now.unwrap().get("x"), Some(&Value::from("live")));
}

#[tokio::test]
async fn a_watch_resumes_in_the_middle_of_a_transaction_and_sees_each_change_once() {
    let db = offline();
    for n in 0..100 {
        db.transaction(|tx| {
            tx.put("t", &format!("a{n:03}"), text("1"))?;
            tx.put("t", &format!("b{n:03}"), text("2"))?;
            tx.put("u", &format!("c{n:03}"), text("3"))
        })
        .await
        .unwrap();
    }
    let mut whole = Vec::new();
    let mut watch = db.watch(Cursor::default());
    while let Some(change) = watch.try_next().unwrap() {
        whole.push((change.table.to_string(), change.row.to_string()));
    }
    assert_eq!(whole.len(), 300);
    let (mut cursor, mut pieces) = (Cursor::default(), Vec::new());
    for n in (1..).map(|n| n % 7 + 1) {
        let mut watch = db.watch(cursor.to_string().parse().unwrap());
        for _ in 0..n {
            let Some(change) = watch.try_next().unwrap() else { break };
            pieces.push((change.table.to_string(), change.row.to_string()));
        }
        if watch.cursor() == cursor {
            break;
        }
        cursor = watch.cursor();
    }
    assert_eq!(pieces, whole);
    assert!(db.watch("999.0".parse().unwrap()).try_next().is_err());
}

#[tokio::test]
async fn a_transaction_reads_its_own_writes_and_is_run_again_when_what_it_read_changed() {
    let db = offline();
    db.put("t", "counter", Fields::from([("n", 0i64)])).await.unwrap();
    let add = |db: Db<MemStore>| async move {
        for _ in 0..20 {
            db.transaction(|tx| {
                let row = tx.get("t", "counter")?.unwrap();
                let Some(Value::Int(n)) = row.get("n") else { panic!("an integer") };
                tx.update("t", "counter", Fields::from([("n", n + 1)]))?;
                let again = tx.get("t", "counter")?.unwrap();
                assert_eq!(again.get("n"), Some(&Value::Int(n + 1)));
                Ok(())
            })
            .await
            .unwrap();
        }
    };
    let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(add(db.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(db.get("t", "counter").unwrap().unwrap().get("n"), Some(&Value::Int(80)));
}

#[tokio::test]
async fn a_transaction_that_gives_up_or_is_refused_leaves_nothing() {
    let db = offline();
    let aborted = db
        .transaction(|tx| {
            tx.put("t", "a", text("1"))?;
            Err::<(), _>(TransactionError::Aborted("no".into()))
        })
        .await;
    assert_eq!(aborted, Err(TransactionError::Aborted("no".into())));
    let refused = db
        .transaction(|tx| {
            tx.put("t", "a", text("1"))?;
            tx.update("t", "missing", text("2"))
        })
        .await;
    assert!(matches!(
        refused,
        Err(TransactionError::Write(WriteFailed::Refused(WriteError::NoSuchRow { .. })))
    ));
    let large = db.put("t", "a", text(&"x".repeat(2_000_000))).await;
    assert!(matches!(large, Err(WriteFailed::Refused(WriteError::TooLarge { bytes, max })) if bytes > max));
    assert_eq!(db.get("t", "a").unwrap(), None);
    assert!(db.put("", "a", text("1")).await.is_err());
    assert_eq!(db.tables().unwrap(), Vec::new());
}

#[tokio::test]
async fn scans_follow_prefix_range_limit_and_pages_and_skip_deleted_rows() {
    let db = offline();
    for n in 0..600 {
        db.put("t", &format!("k{n:04}"), Fields::from([("n", n)])).await.unwrap();
    }
    db.delete("t", "k0003").await.unwrap();
    assert_eq!(db.scan("t", &Scan::all()).unwrap().len(), 599);
    assert_eq!(db.scan("t", &Scan::prefix("k000")).unwrap().len(), 9);
    assert_eq!(db.scan("t", &Scan::range("k0002", "k0005")).unwrap().len(), 2);
    let page = db.scan("t", &Scan::prefix("k").limit(300)).unwrap();
    let next = db.scan("t", &Scan::prefix("k").after(page.last().unwrap().0.as_str())).unwrap();
    assert_eq!((page.len(), next.len()), (300, 299));
    assert_eq!(db.scan("none", &Scan::all()).unwrap(), Vec::new());
}

#[tokio::test]
async fn writes_that_wait_together_become_durable_together() {
    let store = Failing::default();
    let batches = Arc::clone(&store.spoil.batches);
    let (db, _) = open(&MemoryNet::new(), 0, store);
    let before = batches.load(Ordering::SeqCst);
    let write = |n: u32| {
        let db = db.clone();
        tokio::spawn(async move { db.put("t", &format!("{n}"), text("1")).await.unwrap() })
    };
    let writes: Vec<_> = (0..64).map(write).collect();
    for write in writes {
        write.await.unwrap();
    }
    assert!(batches.load(Ordering::SeqCst) - before < 10, "64 writers were not grouped");
}

#[tokio::test]
async fn a_full_disk_refuses_the_write_loses_nothing_and_heals() {
    let net = MemoryNet::new();
    let store = Failing::default();
    let failures = Arc::clone(&store.spoil.failures);
    let (a, _) = open(&net, 0, store);
    let (b, _) = open(&net, 1, MemStore::new());
    net.connect_all();
    a.put("t", "kept", text("1")).await.unwrap();
    b.sync(SECONDS).await.unwrap();
    failures.store(1, Ordering::SeqCst);
    let refused = a.put("t", "lost", text("1")).await;
    assert_eq!(refused.unwrap_err(), WriteFailed::Storage(StoreError::Full));
    assert_eq!(a.get("t", "lost").unwrap(), None);
    a.put("t", "after", text("1")).await.unwrap();
    // What comes in from others while the disk is full is not claimed, and comes again.
    failures.store(1, Ordering::SeqCst);
    b.put("t", "remote", text("1")).await.unwrap();
    let arrived = async {
        let mut watch = (a.watch(Cursor::default()), b.watch(Cursor::default()));
        while watch.0.next().await.unwrap().unwrap().row.as_str() != "remote" {}
        while watch.1.next().await.unwrap().unwrap().row.as_str() != "after" {}
    };
    tokio::time::timeout(SECONDS, arrived).await.unwrap();
    assert_eq!(b.get("t", "lost").unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_broken_refuses_writes_until_it_can_be_reopened() {
    let store = Failing::default();
    store.spoil.failures.store(1, Ordering::SeqCst);
    store.spoil.reopens_refused.store(2, Ordering::SeqCst);
    let options = Options::new(test_identity(0), [1; 32]);
    let failures = Arc::clone(&store.spoil.failures);
    failures.store(0, Ordering::SeqCst);
    let clock = Virtual(tokio::time::Instant::now());
    let (node, db) = Node::new(options, Offline, store, clock).unwrap();
    tokio::spawn(node.run());
    failures.store(1, Ordering::SeqCst);
    assert!(db.put("t", "a", text("1")).await.is_err());
    assert!(db.put("t", "a", text("1")).await.is_err(), "still broken");
    tokio::time::sleep(Duration::from_secs(60)).await;
    db.put("t", "a", text("1")).await.unwrap();
}

/// A clock that follows the runtime's virtual time.
#[derive(Debug)]
struct Virtual(tokio::time::Instant);

impl Clock for Virtual {
    fn now(&self) -> Now {
        let micros = self.0.elapsed().as_micros() as u64;
        let wall = WallMs(1_700_000_000_000 + micros / 1000);
        Now { mono: Instant(micros), wall }
    }
}

#[tokio::test]
async fn sync_says_when_nobody_is_there() {
    let db = offline();
    assert_eq!(db.sync(Duration::from_millis(50)).await, Err(SyncError::NoPeer));
}

#[tokio::test]
async fn a_closed_database_says_so_and_its_watchers_end() {
    let db = offline();
    db.put("t", "a", text("1")).await.unwrap();
    let mut watch = db.watch(Cursor::default());
    assert!(watch.next().await.unwrap().is_some());
    let end = tokio::spawn(async move { watch.next().await });
    db.close().await.unwrap();
    assert_eq!(end.await.unwrap(), Ok(None));
    assert_eq!(db.put("t", "b", text("1")).await.unwrap_err(), WriteFailed::Closed);
    assert!(db.close().await.is_err() && db.status().await.is_none());
    assert!(db.get("t", "a").unwrap().is_some(), "reads go on");
}

#[tokio::test]
async fn listeners_hear_of_connections_and_sync() {
    let net = MemoryNet::new();
    let (a, _) = open(&net, 0, MemStore::new());
    let (b, _) = open(&net, 1, MemStore::new());
    let mut events = a.events();
    net.connect_all();
    let synced = async {
        let mut connected = false;
        loop {
            match events.recv().await.unwrap() {
                Event::Connected { device } => connected = device == b.device(),
                Event::Synced { device } => return connected && device == b.device(),
                _ => {}
            }
        }
    };
    assert!(tokio::time::timeout(SECONDS, synced).await.unwrap());
}

/// A clock that counts how often it is read.
#[derive(Debug)]
struct Counting(SystemClock, Arc<AtomicU32>);

impl Clock for Counting {
    fn now(&self) -> Now {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.now()
    }
}

#[tokio::test]
async fn a_node_whose_store_is_broken_waits_without_spinning() {
    let (net, store, reads) = (MemoryNet::new(), Failing::default(), Arc::new(AtomicU32::new(0)));
    let (failures, reopens) = (Arc::clone(&store.spoil.failures), Arc::clone(&store.spoil.reopens_refused));
    let identity = test_identity(0);
    let transport = net.join(identity.peer_key());
    let mut options = Options::new(identity, [1; 32]);
    // Deadlines of the engine that pass while it is not used.
    options.config.ping_ms = 10;
    let clock = Counting(SystemClock::new(), Arc::clone(&reads));
    let (node, a) = Node::new(options, transport, store, clock).unwrap();
    tokio::spawn(node.run());
    let (b, _) = open(&net, 1, MemStore::new());
    net.connect_all();
    b.sync(SECONDS).await.unwrap();
    reopens.store(1, Ordering::SeqCst);
    failures.store(1, Ordering::SeqCst);
    assert!(a.put("t", "a", text("1")).await.is_err());
    let before = reads.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let turns = reads.load(Ordering::SeqCst) - before;
    assert!(turns < 200, "{turns} turns in half a second");
}

/// A transport that always has something to say.
#[derive(Debug)]
struct Flood(PeerKey);

impl Transport for Flood {
    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        Poll::Ready(Some(TransportEvent::RoundTrip { peer: self.0, micros: 1 }))
    }
    fn try_send(&mut self, _: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        Err(TrySendError::Gone(frame))
    }
    fn broadcast(&mut self, _: Vec<u8>) {}
    fn disconnect(&mut self, _: PeerKey, _: &str) {}
    fn set_members(&mut self, _: &[PeerKey]) {}
}

#[tokio::test]
async fn a_flood_from_the_network_starves_neither_writers_nor_deadlines() {
    let options = Options::new(test_identity(0), [1; 32]);
    let flood = Flood(test_identity(1).peer_key());
    let (node, db) = Node::new(options, flood, MemStore::new(), SystemClock::new()).unwrap();
    let node = tokio::spawn(node.run());
    let work = async {
        db.put("t", "a", text("1")).await.unwrap();
        assert_eq!(db.sync(Duration::from_millis(50)).await, Err(SyncError::NoPeer));
        db.close().await.unwrap();
    };
    tokio::time::timeout(SECONDS, work).await.unwrap();
    node.await.unwrap();
}

/// Reads on between the moment a batch is durable and the moment the node says so.
struct Between(Arc<Mutex<Option<Watch<Watched>>>>, Arc<Mutex<Vec<String>>>);

type Watched = Spoilt<Arc<MemStore>, Between>;

impl Spoil for Between {
    fn took(&self, _: &Batch) {
        if let Some(watch) = self.0.lock().unwrap().as_mut() {
            while let Some(change) = watch.try_next().expect("the watch goes on") {
                self.1.lock().unwrap().push(change.row.to_string());
            }
        }
    }
}

#[tokio::test]
async fn a_watcher_that_is_quicker_than_the_news_of_a_commit_goes_on() {
    let (slot, seen) = (Arc::default(), Arc::default());
    let store = Spoilt { store: Arc::default(), spoil: Between(Arc::clone(&slot), Arc::clone(&seen)) };
    let (db, _) = open(&MemoryNet::new(), 0, store);
    db.put("t", "a", text("1")).await.unwrap();
    // It is one commit behind, so it reads a page of the log, and the page has the newest commit too.
    *slot.lock().unwrap() = Some(db.watch(Cursor::default()));
    db.put("t", "b", text("1")).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["a", "b"]);
    let mut watch = slot.lock().unwrap().take().unwrap();
    db.put("t", "c", text("1")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().row.as_str(), "c");
}

#[tokio::test]
async fn a_page_never_starts_before_the_rows_that_were_asked_for() {
    let db = offline();
    for row in ["a", "b", "ka", "kb", "z"] {
        db.put("t", row, text("1")).await.unwrap();
    }
    assert_eq!(db.scan("t", &Scan::prefix("k").after("a")).unwrap().len(), 2);
    assert_eq!(db.scan("t", &Scan::range("k", "z").after("a")).unwrap().len(), 2);
    assert_eq!(db.scan("t", &Scan::range("k", "z").after("ka")).unwrap().len(), 1);
}

/// How many threads of this process read frames.
#[cfg(target_os = "linux")]
fn readers() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).ok();
    threads.filter_map(name).filter(|name| name.trim() == "ahenk-read").count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_its_own_threads_gets_all_of_a_long_log_and_leaves_none_of_them_behind() {
    let net = MemoryNet::new();
    let mut nodes = Vec::new();
    for n in 0..2 {
        let identity = test_identity(n);
        let transport = net.join(identity.peer_key());
        let options = Options::new(identity, [n; 32]);
        let (node, db) = Node::new(options, transport, MemStore::new(), SystemClock::new()).unwrap();
        nodes.push((node.spawn().unwrap(), db));
    }
    // Text that does not deflate to nothing, or no frame would be long enough to be handed to another thread.
    let mut state = 1u64;
    for n in 0..1500 {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{state:016x}")
        };
        let value: String = (0..60).map(|_| next()).collect();
        nodes[0].1.put("t", &format!("row-{n}"), text(&value)).await.unwrap();
    }
    net.connect_all();
    for (_, db) in &nodes {
        db.sync(SECONDS).await.unwrap();
    }
    let (a, b) = (nodes[0].1.status().await.unwrap(), nodes[1].1.status().await.unwrap());
    assert_eq!((a.digest, a.position), (b.digest, b.position));
    assert!(b.stats.total.bytes_received > 500_000, "long frames: {:?}", b.stats.total);
    assert_eq!(readers(), 2);
    for (node, db) in nodes {
        db.close().await.unwrap();
        node.await.unwrap();
    }
    assert_eq!(readers(), 0);
}
