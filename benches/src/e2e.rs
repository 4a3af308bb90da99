//! Two real devices that sync: driver, redb and a transport, in one process.

use std::path::Path;
use std::time::Duration;

use ahenk::{Db, Fields, MemoryNet, Node, Options, SystemClock};
use engine::io::Event;
use engine::store::StoreRead;
use engine::testing::{identity_of, test_identity, test_root};
use engine::transport::Transport;
use store::RedbStore;
use transport_libp2p::{Libp2pConfig, Libp2pTransport};

use crate::measure::{Spent, Stopwatch};
use crate::receiver::Receiver;
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
    /// From a write on the first device until the second has applied it, once both are in sync: the median and what one
    /// in a hundred exceeds, in nanoseconds.
    pub live_ns: [f64; 2],
}

/// Writes whose way is timed.
const LIVE_WRITES: usize = 200;

/// Writes on one device, and waits for the other to apply it, again and again.
async fn live(dbs: &[Db<RedbStore>; 2]) -> [f64; 2] {
    let mut events = dbs[1].events();
    let mut times = Vec::new();
    for n in 0..LIVE_WRITES {
        let begun = std::time::Instant::now();
        let fields = Fields::new().set("title", "a value of some length");
        dbs[0].put("live", &format!("row-{n}"), fields).await.expect("a write");
        loop {
            match events.recv().await {
                Ok(Event::Applied { remote: true, .. }) => break,
                Ok(_) => {}
                Err(error) => panic!("an event was missed: {error}"),
            }
        }
        times.push(begun.elapsed().as_nanos() as f64);
    }
    times.sort_by(f64::total_cmp);
    [times[LIVE_WRITES / 2], times[LIVE_WRITES - 1 - LIVE_WRITES / 100]]
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

fn node<T>(folder: &Path, device: u8, transport: T) -> Db<RedbStore>
where
    T: Transport + Send + 'static,
{
    let members = DEVICES.map(|device| identity_of(&test_root(), device).cert).to_vec();
    let options = Options { members, ..Options::new(test_identity(device), [device; 32]) };
    let store = store_of(folder, device);
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
    let live_ns = live(&dbs).await;
    for db in &dbs {
        db.close().await.expect("it closes");
    }
    let disk_bytes = std::fs::metadata(folder.join(format!("device-{}.redb", DEVICES[1])));
    let disk_bytes = disk_bytes.map_or(0, |metadata| metadata.len());
    Synced { spent, memory_bytes, received_bytes, disk_bytes, live_ns }
}
