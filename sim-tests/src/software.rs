//! The software of a simulated machine: the driver with an application over it, which writes what the harness asks for,
//! follows all changes, and reports what it sees on a board that outlives it.
//!
//! Invariant: it starts again by itself when its disk failed while it was starting, as a service does; all else that ends
//! it is reported.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahenk::{Cursor, Db, Node, Options, OrderFailed, WriteFailed};
use engine::commit::{OpKind, Stamp};
use engine::config::Config;
use engine::identity::{DeviceCert, DeviceId, Dot, Identity, PeerKey, SecretKey};
use engine::io::{Change, Event, Order, WriteRequest, Written};
use engine::knowledge::Knowledge;
use engine::store::StoreRead;
use engine::testing::EPOCH_MS;
use engine::time::{Clock, Now};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::sleep;
use transport_sim::{FaultyLink, Form, LinkSettings, Roamer, SimTransport, Skew, SkewedClock};

use crate::SYNC_MS_MAX;
use crate::disk::SimDisk;
use crate::intruded::{Intruded, Suspects, Visit};
use crate::recorder::{Recorded, Recording};
use crate::sim_store::SimStore;

/// Readings of a clock at one point of virtual time after which its reader is taken to spin.
const READINGS_MAX: u64 = 200_000;
/// Pause before software whose disk failed starts again.
const START_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two questions for the state of the buffers.
const STATUS_PAUSE: Duration = Duration::from_millis(200);
/// Pause of a slow watcher after each change.
const SLOW_PAUSE: Duration = Duration::from_millis(20);

/// A clock that notices a driver which does nothing for ever without letting time pass.
struct WatchedClock {
    clock: SkewedClock,
    /// Monotonic microseconds of the last reading, and how many there were at that point.
    last: (AtomicU64, AtomicU64),
}

impl Clock for WatchedClock {
    fn now(&self) -> Now {
        let now = self.clock.now();
        let (last, readings) = &self.last;
        if last.swap(now.mono.0, Ordering::Relaxed) != now.mono.0 {
            readings.store(0, Ordering::Relaxed);
        }
        let read = readings.fetch_add(1, Ordering::Relaxed);
        assert!(read < READINGS_MAX, "the driver spins: time stands still at {} us", now.mono.0);
        now
    }
}

/// What the harness asks a machine's application for.
#[derive(Debug)]
pub(crate) enum Ask {
    Write(Vec<Change>),
    Order(Order),
    Leave,
    /// To be in sync, with what other machines have now, by device.
    Sync(BTreeMap<DeviceId, Knowledge>),
}

/// A request to be in sync that was answered with success.
#[derive(Debug)]
pub(crate) struct Synced {
    /// What those had when it was made that it was made to, and that stayed connected.
    pub(crate) due: BTreeMap<DeviceId, Knowledge>,
    /// What this machine had when it was answered.
    pub(crate) knowledge: Knowledge,
    /// Whether that was more than when it asked.
    pub(crate) news: bool,
}

/// A change that a watcher saw: which commit, and what it did to which row.
pub(crate) type Seen = (Stamp, String, Option<OpKind>);

/// What a machine's software tells the harness.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) db: Option<Db<SimStore>>,
    pub(crate) asks: Option<mpsc::UnboundedSender<Ask>>,
    pub(crate) visits: Option<mpsc::UnboundedSender<Visit>>,
    pub(crate) roamer: Option<Roamer>,
    /// Times the software has started.
    pub(crate) boots: u32,
    /// Times it could not, because its disk failed.
    pub(crate) failed_starts: u64,
    pub(crate) stopped: Option<String>,
    pub(crate) unopened: Option<String>,
    /// It was asked to stop.
    pub(crate) leaving: bool,
    /// It has stopped, and let go of its disk.
    pub(crate) shut_down: bool,
    /// Requests to be in sync that were answered with success, since the last look.
    pub(crate) syncs: Vec<Synced>,
    /// Where the machine's watcher is, over its restarts, and what it saw since the last look.
    pub(crate) cursor: Cursor,
    pub(crate) watched: Vec<Seen>,
    /// Most memory of commits that waited for others, since the last look, in bytes.
    pub(crate) waiting_bytes: u64,
    pub(crate) events: Vec<Event>,
    /// Its status has said that it is revoked.
    pub(crate) revoked: bool,
    pub(crate) outcomes: Vec<Result<Written, WriteFailed>>,
    pub(crate) orders: Vec<Result<Dot, OrderFailed>>,
}

/// What a machine starts its software with.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) node: usize,
    pub(crate) config: Config,
    pub(crate) checkpoint_bytes: u64,
    /// See [`crate::plan::Knobs::repeated_writes`].
    pub(crate) repeated_writes: u64,
    /// Who it is; a machine that begins another life may be another.
    pub(crate) identity: Rc<RefCell<Identity>>,
    pub(crate) suspects: Suspects,
    pub(crate) members: Rc<RefCell<Vec<DeviceCert>>>,
    pub(crate) directory: BTreeMap<PeerKey, Vec<String>>,
    pub(crate) form: Form,
    pub(crate) drift_ppm: i64,
    pub(crate) disk: SimDisk,
    pub(crate) skew: Skew,
    pub(crate) link: LinkSettings,
    /// Whether whoever follows the changes takes its time.
    pub(crate) slow_watcher: bool,
    pub(crate) recording: Option<Recording>,
    /// The account's root key, once another administrator gave it to this device. It outlives the software.
    pub(crate) granted: Rc<RefCell<Option<SecretKey>>>,
}

type SimNode = Node<Recorded<Intruded<FaultyLink<SimTransport>>>, SimStore, WatchedClock>;

/// Software that runs, and the ways to it.
struct Started {
    node: SimNode,
    db: Db<SimStore>,
    visits: mpsc::UnboundedSender<Visit>,
    roamer: Roamer,
}

enum StartError {
    Open(String),
    Node(String),
}

impl Setup {
    /// With the root key, if it was given to this device.
    fn identity(&self) -> Identity {
        let mut identity = self.identity.borrow().clone();
        identity.root = identity.root.or_else(|| self.granted.borrow().clone());
        identity
    }

    fn start(&self, boots: u32) -> Result<Started, StartError> {
        let identity = self.identity();
        let store = SimStore::open(self.disk.clone(), identity.account(), self.checkpoint_bytes)
            .map_err(|error| StartError::Open(error.to_string()))?
            .recorded(self.node, self.recording.clone());
        let elapsed_ms = turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_millis() as u64);
        let clock = SkewedClock::new(EPOCH_MS + elapsed_ms, self.drift_ppm, self.skew.clone());
        let clock = WatchedClock { clock, last: Default::default() };
        let own = identity.peer_key();
        let options = transport_sim::Options::new(own, self.form, self.directory.clone(), self.seed);
        let transport = SimTransport::new(options);
        let roamer = transport.roamer();
        let inner = FaultyLink::new(transport, own, self.seed, self.link.clone());
        let (visits, visitors) = mpsc::unbounded_channel();
        let inner = Intruded::new(inner, visitors, self.suspects.clone());
        let transport = Recorded { inner, node: self.node, recording: self.recording.clone() };
        let mut seed = [self.node as u8; 32];
        seed[..8].copy_from_slice(&self.seed.to_be_bytes());
        seed[8..12].copy_from_slice(&boots.to_be_bytes());
        let options = Options {
            config: self.config.clone(),
            members: self.members.borrow().clone(),
            ..Options::new(identity, seed)
        };
        let (node, db) = Node::new(options, transport, store, clock)
            .map_err(|error| StartError::Node(error.to_string()))?;
        // By plan, so that a plan has one course.
        let node = if self.seed.is_multiple_of(2) { node } else { node.reading_ahead() };
        Ok(Started { node, db, visits, roamer })
    }
}

/// From power on to the end.
pub(crate) async fn software(setup: Setup, board: Rc<RefCell<Board>>) {
    let Started { node, db, visits, roamer } = loop {
        let boots = {
            let mut board = board.borrow_mut();
            board.boots += 1;
            board.boots
        };
        let failed = setup.disk.counts().failed;
        match setup.start(boots) {
            Ok(started) => break started,
            Err(_) if setup.disk.counts().failed > failed => {
                board.borrow_mut().failed_starts += 1;
                sleep(START_PAUSE).await;
            }
            Err(StartError::Open(text)) => {
                board.borrow_mut().unopened = Some(text);
                return;
            }
            Err(StartError::Node(text)) => {
                board.borrow_mut().stopped = Some(text);
                return;
            }
        }
    };
    let (sender, asks) = mpsc::unbounded_channel();
    tokio::task::spawn_local(listen(db.events(), Rc::clone(&board)));
    tokio::task::spawn_local(follow(db.clone(), setup.slow_watcher, Rc::clone(&board)));
    tokio::task::spawn_local(keep_root(db.granted(), Rc::clone(&setup.granted)));
    tokio::task::spawn_local(measure(db.clone(), Rc::clone(&board)));
    tokio::task::spawn_local(apply(db.clone(), asks, setup.repeated_writes, Rc::clone(&board)));
    {
        let mut board = board.borrow_mut();
        board.db = Some(db);
        board.asks = Some(sender);
        (board.visits, board.roamer) = (Some(visits), Some(roamer));
        board.leaving = false;
    }
    node.run().await;
    let mut board = board.borrow_mut();
    if !board.leaving {
        // Nobody closed the database: whatever ended it is worth a look.
        board.stopped = Some("it ended by itself".to_owned());
        return;
    }
    (board.asks, board.visits, board.roamer) = (None, None, None);
    if let Some(db) = board.db.take() {
        // As a daemon does that stops: others may still hold the database, and must not use it.
        db.store().close();
        setup.disk.let_go();
        board.shut_down = true;
    }
}

/// Follows the changes from where the machine's last watcher was.
async fn follow(db: Db<SimStore>, slow: bool, board: Rc<RefCell<Board>>) {
    loop {
        let mut watch = db.watch(board.borrow().cursor);
        loop {
            match watch.next().await {
                Ok(Some(change)) => {
                    let mut board = board.borrow_mut();
                    board.cursor = change.cursor;
                    board.watched.push((change.stamp, change.row.to_string(), Some(change.kind)));
                }
                Ok(None) => return,
                // The store failed: a new watch goes on where this one was.
                Err(_) => break,
            }
            if slow {
                sleep(SLOW_PAUSE).await;
            }
        }
        sleep(START_PAUSE).await;
    }
}

async fn listen(mut events: broadcast::Receiver<Event>, board: Rc<RefCell<Board>>) {
    loop {
        match events.recv().await {
            Ok(event) => board.borrow_mut().events.push(event),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Keeps the root key for the next start.
async fn keep_root(mut grants: watch::Receiver<Option<SecretKey>>, granted: Rc<RefCell<Option<SecretKey>>>) {
    while grants.changed().await.is_ok() {
        granted.borrow_mut().clone_from(&grants.borrow_and_update());
    }
}

/// Looks at the status again and again.
async fn measure(db: Db<SimStore>, board: Rc<RefCell<Board>>) {
    while let Some(status) = db.status().await {
        {
            let board = &mut *board.borrow_mut();
            board.waiting_bytes = board.waiting_bytes.max(status.stats.waiting_bytes);
            board.revoked |= status.revoked;
        }
        sleep(STATUS_PAUSE).await;
    }
}

/// Does what the harness asks for, one thing after the other.
async fn apply(
    db: Db<SimStore>,
    mut asks: mpsc::UnboundedReceiver<Ask>,
    repeated_writes: u64,
    board: Rc<RefCell<Board>>,
) {
    while let Some(ask) = asks.recv().await {
        let changes = match ask {
            Ask::Write(changes) => changes,
            Ask::Sync(others) => {
                // Beside everything else: it may take long.
                tokio::task::spawn_local(sync(db.clone(), others, Rc::clone(&board)));
                continue;
            }
            Ask::Order(order) => {
                let outcome = give(&db, order).await;
                board.borrow_mut().orders.push(outcome);
                continue;
            }
            Ask::Leave => {
                board.borrow_mut().leaving = true;
                // It may have ended meanwhile.
                let _ = db.close().await;
                return;
            }
        };
        for _ in 0..repeated_writes {
            tokio::task::spawn_local(write(db.clone(), changes.clone(), Rc::clone(&board)));
        }
        write(db.clone(), changes, Rc::clone(&board)).await;
    }
}

async fn write(db: Db<SimStore>, changes: Vec<Change>, board: Rc<RefCell<Board>>) {
    let outcome = db.write(WriteRequest { changes, ..WriteRequest::default() }).await;
    board.borrow_mut().outcomes.push(outcome);
}

/// Waits to be in sync. Sessions that ended or began meanwhile owe nothing.
async fn sync(db: Db<SimStore>, others: BTreeMap<DeviceId, Knowledge>, board: Rc<RefCell<Board>>) {
    let mut events = db.events();
    let Some(status) = db.status().await else { return };
    let Ok(before) = db.store().recover() else { return };
    if db.sync(Duration::from_millis(SYNC_MS_MAX)).await.is_err() {
        return;
    }
    let Ok(recovered) = db.store().recover() else { return };
    let mut due = others;
    due.retain(|device, _| status.stats.peers.iter().any(|peer| peer.ready && peer.device == *device));
    loop {
        match events.try_recv() {
            Ok(Event::Connected { device } | Event::Disconnected { device, .. }) => drop(due.remove(&device)),
            Ok(_) => {}
            Err(broadcast::error::TryRecvError::Lagged(_)) => due.clear(),
            Err(_) => break,
        }
    }
    let knowledge = recovered.knowledge();
    let news = knowledge != before.knowledge();
    board.borrow_mut().syncs.push(Synced { due, knowledge, news });
}

async fn give(db: &Db<SimStore>, order: Order) -> Result<Dot, OrderFailed> {
    match order {
        Order::Revoke { device, reason } => db.revoke(device, &reason).await,
        Order::Certify { device, name, admin } => db.certify(device, name, admin).await,
    }
}
