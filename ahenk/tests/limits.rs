//! The limits that a user may set, each by its effect: bytes a second either way, memory for frames that wait, the size
//! of a transaction, and a store that is full. Time is tokio's, which stands still while anything is left to do, so what
//! is measured is exact and the same on every machine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ahenk::{Db, Fields, MemoryNet, Node, Options, WriteFailed};
use engine::config::Config;
use engine::identity::PeerKey;
use engine::io::WriteError;
use engine::store::{Batch, MemStore, Store, StoreError, StoreRead};
use engine::testing::{Spoil, Spoilt, test_identity};
use engine::time::{Clock, Now, WallMs};
use engine::transport::{Transport, TransportEvent, TrySendError};
use engine::value::Value;
use tokio::time::Instant;

/// Longer than anything here takes, by the clock that stands still.
const LONG: Duration = Duration::from_secs(3600);
/// The rate that is set, in bytes a second.
const RATE: u64 = 20_000;

#[derive(Clone)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Now {
        let mono = engine::time::Instant(self.0.elapsed().as_micros() as u64);
        Now { wall: WallMs(1_700_000_000_000 + mono.0 / 1000), mono }
    }
}

/// Counts the bytes that a device hands to the network, and keeps none from going if it may take them.
struct Counting<T> {
    inner: T,
    sent: Arc<AtomicU64>,
    /// The sizes of all frames.
    frames: Arc<Mutex<Vec<usize>>>,
    /// Whether there is room at all.
    room: Arc<AtomicBool>,
    /// Whether there is none any more from the first commits on that arrive.
    mute: Arc<AtomicBool>,
}

impl<T: Transport> Transport for Counting<T> {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        let event = self.inner.poll_event(cx);
        if let Poll::Ready(Some(TransportEvent::Frame { bytes, .. })) = &event
            && bytes.len() > 5_000
            && self.mute.load(Ordering::SeqCst)
        {
            self.room.store(false, Ordering::SeqCst);
        }
        event
    }
    fn try_send(&mut self, peer: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        if !self.room.load(Ordering::SeqCst) {
            return Err(TrySendError::Full(frame));
        }
        self.sent.fetch_add(frame.len() as u64, Ordering::SeqCst);
        self.frames.lock().unwrap().push(frame.len());
        self.inner.try_send(peer, frame)
    }
    fn broadcast(&mut self, frame: Vec<u8>) {
        self.inner.broadcast(frame);
    }
    fn disconnect(&mut self, peer: PeerKey, reason: &str) {
        self.inner.disconnect(peer, reason);
    }
    fn set_members(&mut self, members: &[PeerKey]) {
        self.inner.set_members(members);
    }
}

struct Device<S> {
    db: Db<S>,
    key: PeerKey,
    sent: Arc<AtomicU64>,
    frames: Arc<Mutex<Vec<usize>>>,
    room: Arc<AtomicBool>,
    mute: Arc<AtomicBool>,
}

fn open<S: Store>(net: &MemoryNet, n: u8, store: S, config: Config) -> Device<S> {
    let identity = test_identity(n);
    let key = identity.peer_key();
    let (sent, room) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let frames = Arc::<Mutex<Vec<usize>>>::default();
    let (inner, counted, mute) = (net.join(key), frames.clone(), Arc::new(AtomicBool::new(false)));
    let transport =
        Counting { inner, sent: sent.clone(), frames: counted, room: room.clone(), mute: mute.clone() };
    let options = Options { config, ..Options::new(identity, [n; 32]) };
    let (node, db) = Node::new(options, transport, store, TokioClock(Instant::now())).unwrap();
    tokio::spawn(node.run());
    Device { db, key, sent, frames, room, mute }
}

/// Bytes that do not become fewer when they are deflated.
fn noise(seed: u64, length: usize) -> Value {
    let mut state = seed;
    let byte = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    Value::Bytes((0..length).map(byte).collect())
}

async fn fill<S: Store>(db: &Db<S>, rows: u64, bytes: usize) {
    for n in 0..rows {
        db.put("t", &format!("r{n}"), Fields::from([("x", noise(n + 1, bytes))])).await.unwrap();
    }
}

fn small_frames() -> Config {
    Config { batch_bytes: 10_000, ..Config::default() }
}

async fn sync_within_rate(sender: Config, receiver: Config) {
    let net = MemoryNet::new();
    let (a, b) = (open(&net, 0, MemStore::new(), sender), open(&net, 1, MemStore::new(), receiver));
    fill(&a.db, 20, 10_000).await;
    let began = Instant::now();
    net.connect(a.key, b.key);
    b.db.sync(LONG).await.unwrap();
    let (took, sent) = (began.elapsed().as_micros() as u64, a.sent.load(Ordering::SeqCst));
    assert_eq!(b.db.tables().unwrap().len(), 1, "everything arrived");
    assert!(sent > 200_000);
    // The first frame passes at once, and what comes after the last is not waited for.
    let frames_bytes = 2 * 25_000;
    assert!(took >= (sent - frames_bytes) * 1_000_000 / RATE, "{sent} bytes in {took} us");
    // And hardly longer than that: the rate is used.
    assert!(took <= (sent + 100_000) * 1_000_000 / RATE, "{sent} bytes in {took} us");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_sent_in_a_second_than_may_be_and_all_arrives() {
    sync_within_rate(Config { send_bytes_per_s_max: Some(RATE), ..small_frames() }, small_frames()).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_is_taken_in_a_second_than_may_be_and_all_arrives() {
    sync_within_rate(small_frames(), Config { receive_bytes_per_s_max: Some(RATE), ..small_frames() }).await;
}

#[tokio::test(start_paused = true)]
async fn writes_do_not_wait_for_the_network_however_slow_it_may_be() {
    let net = MemoryNet::new();
    let slow =
        Config { send_bytes_per_s_max: Some(1000), receive_bytes_per_s_max: Some(1000), ..small_frames() };
    let (a, b) = (open(&net, 0, MemStore::new(), slow), open(&net, 1, MemStore::new(), small_frames()));
    net.connect(a.key, b.key);
    b.db.sync(LONG).await.unwrap();
    let began = Instant::now();
    fill(&a.db, 20, 10_000).await;
    assert!(began.elapsed() < Duration::from_secs(1), "200 kB of writes waited for a wire of 1 kB/s");
    b.db.sync(LONG).await.unwrap();
    assert_eq!(b.db.scan("t", &ahenk::Scan::all()).unwrap().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn when_too_much_waits_for_all_peers_together_the_slowest_is_cut_off_and_comes_back() {
    let net = MemoryNet::new();
    let config = Config { outboxes_bytes_max: 100_000, ..small_frames() };
    let a = open(&net, 0, MemStore::new(), config);
    let b = open(&net, 1, MemStore::new(), small_frames());
    net.connect(a.key, b.key);
    b.db.sync(LONG).await.unwrap();
    a.room.store(false, Ordering::SeqCst);
    fill(&a.db, 30, 10_000).await;
    assert!(a.db.status().await.unwrap().paths.is_empty(), "300 kB waited, and 100 may");
    a.room.store(true, Ordering::SeqCst);
    net.connect(a.key, b.key);
    b.db.sync(LONG).await.unwrap();
    assert_eq!(b.db.scan("t", &ahenk::Scan::all()).unwrap().len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_at_most_as_large_as_was_set_and_larger_ones_of_others_are_taken() {
    let net = MemoryNet::new();
    let a = open(&net, 0, MemStore::new(), Config { commit_bytes_max: 50_000, ..Config::default() });
    let b = open(&net, 1, MemStore::new(), Config::default());
    let large = Fields::from([("x", noise(1, 60_000))]);
    let refused = a.db.put("t", "r", large.clone()).await;
    assert!(
        matches!(refused, Err(WriteFailed::Refused(WriteError::TooLarge { max: 50_000, .. }))),
        "{refused:?}"
    );
    fill(&a.db, 1, 40_000).await;
    b.db.put("t", "large", large).await.unwrap();
    net.connect(a.key, b.key);
    a.db.sync(LONG).await.unwrap();
    assert!(a.db.get("t", "large").unwrap().is_some() && b.db.get("t", "r0").unwrap().is_some());
}

/// The sizes of the frames that bring 42 commits of 1,000 bytes from one device to another.
async fn frames_of(config: Config) -> Vec<usize> {
    let net = MemoryNet::new();
    let (a, b) = (open(&net, 0, MemStore::new(), config), open(&net, 1, MemStore::new(), Config::default()));
    fill(&a.db, 42, 1000).await;
    net.connect(a.key, b.key);
    b.db.sync(LONG).await.unwrap();
    let frames = a.frames.lock().unwrap();
    frames.iter().copied().filter(|bytes| *bytes > 1000).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_of_commits_has_at_most_as_many_and_about_as_many_bytes_as_was_set() {
    assert_eq!(frames_of(Config::default()).await.len(), 1);
    let seven = frames_of(Config { batch_commits_max: 7, ..Config::default() }).await;
    assert!(seven.len() >= 6 && seven.iter().all(|bytes| *bytes < 8 * 1100), "{seven:?}");
    let small = frames_of(Config { batch_bytes: 5_000, ..Config::default() }).await;
    assert!(small.len() >= 5 && small.iter().all(|bytes| *bytes < 2 * 5_000), "{small:?}");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_silent_is_pinged_as_often_as_was_set_and_is_gone_when_it_stays_so() {
    let net = MemoryNet::new();
    let config = |ping_ms| Config { ping_ms, silence_ms_max: 3 * ping_ms, ..Config::default() };
    let (a, b) =
        (open(&net, 0, MemStore::new(), config(1_000)), open(&net, 1, MemStore::new(), config(600_000)));
    net.connect(a.key, b.key);
    a.db.sync(LONG).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = a.frames.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let pings = a.frames.lock().unwrap().len() - before;
    assert!((15..=25).contains(&pings), "{pings} frames in 20 s of silence");
    assert_eq!(a.db.status().await.unwrap().paths.len(), 1);
    b.room.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(
        a.db.status().await.unwrap().paths.is_empty(),
        "it answers nothing for longer than three heartbeats"
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_is_under_way_to_a_device_than_it_gives_credit_for() {
    let net = MemoryNet::new();
    let credit = Config { credit_bytes: 50_000, ..small_frames() };
    let (a, b) = (open(&net, 0, MemStore::new(), small_frames()), open(&net, 1, MemStore::new(), credit));
    fill(&a.db, 40, 10_000).await;
    // From the first commits on it acknowledges nothing.
    b.mute.store(true, Ordering::SeqCst);
    net.connect(a.key, b.key);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(b.db.status().await.unwrap().position > 0);
    let sent = a.sent.load(Ordering::SeqCst);
    assert!(sent < 50_000 + 3 * 25_000, "{sent} bytes went out on a credit of 50,000");
    b.mute.store(false, Ordering::SeqCst);
    b.room.store(true, Ordering::SeqCst);
    net.disconnect(a.key, b.key);
    net.connect(a.key, b.key);
    b.db.sync(LONG).await.unwrap();
    assert_eq!(b.db.scan("t", &ahenk::Scan::all()).unwrap().len(), 40);
}

#[tokio::test(start_paused = true)]
async fn no_more_devices_are_connected_than_may_be() {
    let net = MemoryNet::new();
    let a = open(&net, 0, MemStore::new(), Config { peers_max: 1, ..Config::default() });
    let others: Vec<_> = (1..4).map(|n| open(&net, n, MemStore::new(), Config::default())).collect();
    for other in &others {
        net.connect(a.key, other.key);
    }
    a.db.sync(LONG).await.unwrap();
    let status = a.db.status().await.unwrap();
    assert_eq!((status.stats.peers.len(), status.paths.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_device_for_which_too_much_waits_is_cut_off() {
    let net = MemoryNet::new();
    let config = Config { outbox_bytes_max: 100_000, ..small_frames() };
    let (a, b) = (open(&net, 0, MemStore::new(), config), open(&net, 1, MemStore::new(), small_frames()));
    net.connect(a.key, b.key);
    b.db.sync(LONG).await.unwrap();
    a.room.store(false, Ordering::SeqCst);
    fill(&a.db, 5, 10_000).await;
    assert_eq!(a.db.status().await.unwrap().paths.len(), 1, "50 kB wait, and 100 may");
    fill(&a.db, 15, 10_000).await;
    assert!(a.db.status().await.unwrap().paths.is_empty());
}

/// Makes a store full from so many commits on.
struct FullFrom(Arc<AtomicU64>);

impl Spoil for FullFrom {
    fn room(&self, store: &dyn StoreRead) -> Result<(), StoreError> {
        let full = store.recover()?.position >= self.0.load(Ordering::SeqCst);
        if full { Err(StoreError::Limit { bytes_max: 1 }) } else { Ok(()) }
    }

    fn apply(&self, store: &dyn StoreRead, batch: &Batch) -> Result<(), StoreError> {
        if batch.rows.is_empty() { Ok(()) } else { self.room(store) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_writes_in_words_and_takes_all_it_missed_when_there_is_room() {
    let net = MemoryNet::new();
    let commits_max = Arc::new(AtomicU64::new(u64::MAX));
    let full = Spoilt { store: Arc::<MemStore>::default(), spoil: FullFrom(commits_max.clone()) };
    let (a, b) = (open(&net, 0, MemStore::new(), small_frames()), open(&net, 1, full, small_frames()));
    fill(&b.db, 5, 10).await;
    let position = b.db.status().await.unwrap().position;
    commits_max.store(position, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = b.db.put("t", "more", Fields::from([("x", 1i64)])).await.unwrap_err();
        assert_eq!(refused, WriteFailed::Storage(StoreError::Limit { bytes_max: 1 }));
    }
    fill(&a.db, 40, 1000).await;
    net.connect(a.key, b.key);
    let waited = b.db.sync(Duration::from_secs(60)).await;
    assert!(waited.is_err(), "it cannot have what it has no room for");
    assert_eq!(b.db.status().await.unwrap().position, position);
    assert_eq!(b.db.scan("t", &ahenk::Scan::all()).unwrap().len(), 5, "reads go on");
    commits_max.store(u64::MAX, Ordering::SeqCst);
    b.db.sync(LONG).await.unwrap();
    assert_eq!(b.db.scan("t", &ahenk::Scan::all()).unwrap().len(), 40);
    b.db.put("t", "more", Fields::from([("x", 1i64)])).await.unwrap();
    a.db.sync(LONG).await.unwrap();
    assert!(a.db.get("t", "more").unwrap().is_some());
}
