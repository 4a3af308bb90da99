//! Two real devices that sync: driver, redb and a transport, in one process.

use std::path::Path;
use std::time::{Duration, Instant};

use ahenk::{Db, Fields, MemoryNet, Node, Options, SystemClock};
use engine::io::Event;
use engine::store::StoreRead;
use engine::testing::{identity_of, test_identity, test_root};
use engine::transport::Transport;
use store::RedbStore;
use transport_libp2p::{Libp2pConfig, Libp2pTransport};

use crate::measure::{Spent, Stopwatch};
use crate::receiver::Receiver;
use crate::timed::{Timed, timed};
use crate::workload::{Choice, Workload};

/// Longest time that a sync may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// The device that has everything, and the one that has nothing.
const DEVICES: [u8; 2] = [0, 20];

/// Which way the devices talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// libp2p with TCP over loopback.
    Tcp,
    /// Queues in memory.
    Memory,
}

/// What a sync took.
#[derive(Debug, Clone, Copy)]
pub struct Synced {
    /// Both devices together, from the moment they can reach each other until both know the same.
    pub spent: Spent,
    /// Most memory that the process had, both devices included, less what it had before, in bytes.
    pub memory_bytes: u64,
    /// Bytes of frames to the device that had nothing.
    pub received_bytes: u64,
    /// Size of its database, in bytes.
    pub disk_bytes: u64,
    /// Writes on the first device until the second has applied them, once both are in sync.
    pub live: Live,
}

/// What a write takes from one device to another, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Live {
    /// The median.
    pub median_ns: f64,
    /// What one in a hundred exceeds.
    pub late_ns: f64,
    /// The medians of its stages, which end as [`STAGES`] says.
    pub stages_ns: [f64; 5],
}

/// The stages of a write: what has happened at the end of each.
pub const STAGES: [&str; 5] = [
    "until the writer's store has the batch",
    "until it is durable there",
    "until the other store has it",
    "until it is durable there, too",
    "until the application has been told",
];

/// Writes whose way is timed.
const LIVE_WRITES: usize = 200;

/// Writes on one device, and waits for the other to apply it, again and again.
async fn live(dbs: &[Db<Timed<RedbStore>>; 2]) -> Live {
    let mut events = dbs[1].events();
    let (mut times, mut stages) = (Vec::new(), [const { Vec::new() }; STAGES.len()]);
    for n in 0..LIVE_WRITES {
        dbs.iter().for_each(|db| drop(db.store().spoil.take()));
        let begun = Instant::now();
        let fields = Fields::new().set("title", "a value of some length");
        dbs[0].put("live", &format!("row-{n}"), fields).await.expect("a write");
        loop {
            match events.recv().await {
                Ok(Event::Applied { remote: true, .. }) => break,
                Ok(_) => {}
                Err(error) => panic!("an event was missed: {error}"),
            }
        }
        let told = Instant::now();
        let [ours, theirs] = [0, 1].map(|device: usize| dbs[device].store().spoil.take()[0]);
        let moments = [begun, ours.begun, ours.durable, theirs.begun, theirs.durable, told];
        for (stage, pair) in stages.iter_mut().zip(moments.windows(2)) {
            stage.push((pair[1] - pair[0]).as_nanos() as f64);
        }
        times.push((told - begun).as_nanos() as f64);
    }
    let at = |times: &mut Vec<f64>, place: usize| {
        times.sort_by(f64::total_cmp);
        times[place]
    };
    Live {
        late_ns: at(&mut times, LIVE_WRITES - 1 - LIVE_WRITES / 100),
        median_ns: at(&mut times, LIVE_WRITES / 2),
        stages_ns: stages.map(|mut stage| at(&mut stage, LIVE_WRITES / 2)),
    }
}

/// A figure in kibibytes that the kernel keeps of this process (`VmHWM`, `VmRSS`), in bytes.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

fn store_of(folder: &Path, device: u8) -> RedbStore {
    let path = folder.join(format!("device-{device}.redb"));
    let account = test_identity(0).account();
    RedbStore::open_or_create(&path, account, rand_nonce()).expect("a database")
}

fn rand_nonce() -> [u8; 16] {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos()).to_be_bytes()
}

/// Fills the database of the first device with a history.
pub fn prepare(folder: &Path, operations: u64) {
    let workload = Workload::new(8, operations, Choice::Uniform);
    let mut receiver = Receiver::new(store_of(folder, DEVICES[0]));
    workload.frames(10_000).iter().for_each(|frame| receiver.frame(frame));
    assert_eq!(receiver.applied(), operations + 1);
}

fn node<T>(folder: &Path, device: u8, transport: T) -> Db<Timed<RedbStore>>
where
    T: Transport + Send + 'static,
{
    let members = DEVICES.map(|device| identity_of(&test_root(), device).cert).to_vec();
    let options = Options { members, ..Options::new(test_identity(device), [device; 32]) };
    let store = timed(store_of(folder, device));
    let (node, db) = Node::new(options, transport, store, SystemClock::new()).expect("a node");
    node.spawn().expect("a thread");
    db
}

/// Lets the second device fetch all that [`prepare`] gave the first.
pub async fn initial_sync(folder: &Path, way: Way) -> Synced {
    let keys = DEVICES.map(|device| test_identity(device).peer_key());
    // Most memory is counted anew from here on.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let before = memory("VmRSS");
    let net = MemoryNet::new();
    let (dbs, controls) = match way {
        Way::Memory => {
            (DEVICES.map(|device| node(folder, device, net.join(test_identity(device).peer_key()))), vec![])
        }
        Way::Tcp => {
            let (mut dbs, mut controls) = (Vec::new(), Vec::new());
            for device in DEVICES {
                let mut config = Libp2pConfig::new(test_identity(device).secret, "bench");
                config.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
                config.mdns = false;
                config.members = keys.to_vec();
                let transport = Libp2pTransport::spawn(config).await.expect("a transport");
                controls.push(transport.control());
                dbs.push(node(folder, device, transport));
            }
            (dbs.try_into().expect("two"), controls)
        }
    };
    let target = dbs[0].store().recover().expect("readable").position;
    let stopwatch = Stopwatch::start();
    let mut events = dbs[1].events();
    match way {
        Way::Memory => net.connect_all(),
        Way::Tcp => {
            let address = controls[0].listen_addresses().await.expect("it runs").remove(0);
            controls[1].dial(&address).await.expect("a connection");
        }
    }
    // Its own first commit comes on top of what the other has.
    let arrived = async {
        let mut position = 0;
        while position < target + 1 {
            match events.recv().await {
                Ok(Event::Applied { position: now, .. }) => position = now,
                Ok(_) => {}
                // Missed some.
                Err(_) => position = dbs[1].store().recover().expect("readable").position,
            }
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("they converge");
    let spent = stopwatch.spent();
    let received_bytes = dbs[1].status().await.map_or(0, |status| status.stats.total.bytes_received);
    let memory_bytes = memory("VmHWM").saturating_sub(before);
    let live = live(&dbs).await;
    for db in &dbs {
        db.close().await.expect("it closes");
    }
    let disk_bytes = std::fs::metadata(folder.join(format!("device-{}.redb", DEVICES[1])));
    let disk_bytes = disk_bytes.map_or(0, |metadata| metadata.len());
    Synced { spent, memory_bytes, received_bytes, disk_bytes, live }
}

/// What it takes that so many writers write, each one transaction after the other, to one device that nobody else is connected to.
#[derive(Debug, Clone, Copy)]
pub struct Together {
    /// All of them.
    pub spent: Spent,
    /// Batches in which they became durable.
    pub batches: u64,
}

async fn put(db: &Db<Timed<RedbStore>>, n: u64) {
    let fields = Fields::new().set("title", "a value of some length");
    db.put("tasks", &format!("row-{n}"), fields).await.expect("a write");
}

/// Has writers commit `transactions` of one field each, in all.
pub async fn write_together(folder: &Path, writers: u64, transactions: u64) -> Together {
    let net = MemoryNet::new();
    let db = node(folder, DEVICES[0], net.join(test_identity(DEVICES[0]).peer_key()));
    // So that neither file nor thread is new.
    for n in 0..64 {
        put(&db, n).await;
    }
    drop(db.store().spoil.take());
    let stopwatch = Stopwatch::start();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let db = db.clone();
        tasks.spawn(async move {
            for n in 0..transactions / writers {
                put(&db, n * writers + writer).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no panic");
    }
    let spent = stopwatch.spent();
    let batches = db.store().spoil.take().len() as u64;
    db.close().await.expect("it closes");
    Together { spent, batches }
}
