//! Floods and dawdlers against a whole device in a process of its own: it keeps within its bounds, and goes on serving
//! a device of the account meanwhile. The device is this test, started once more.

mod common;

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ahenk::{Db, Fields, Node, Options, SystemClock};
use common::TCP;
use common::raw::{Raw, SYNC, ends};
use engine::store::MemStore;
use engine::testing::test_identity;
use engine::wire::message::{Control, pack_control};
use futures::AsyncWriteExt as _;
use tokio::task::JoinSet;
use transport_libp2p::{Libp2pConfig, Libp2pTransport};

const VICTIM: &str = "AHENK_TEST_VICTIM";
/// The seeds of the keys of test devices are their numbers and 100.
const HOSTILE: u8 = 9;

/// A device of the test account, whose members are the first two and the hostile one.
async fn device(n: u8) -> (Db<MemStore>, String) {
    let identity = test_identity(n);
    let mut config = Libp2pConfig::new(identity.secret.clone(), "test topic");
    (config.listen, config.mdns) = (vec![TCP.to_owned()], false);
    config.timings.redial_ms_max = 500;
    let transport = Libp2pTransport::spawn(config).await.expect("the network");
    let address = transport.control().listen_addresses().await.expect("open").remove(0);
    let options = Options::new(identity, [n; 32]);
    let (node, db) = Node::new(options, transport, MemStore::new(), SystemClock::new()).expect("a node");
    tokio::spawn(node.run());
    db.add_members([0, 1, HOSTILE].map(|n| test_identity(n).cert).to_vec()).await;
    (db, address)
}

/// Runs until the parent has gone.
fn be_the_victim() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (db, address) = device(0).await;
        db.put("t", "r", Fields::from([("x", 1)])).await.expect("written");
        writeln!(std::io::stdout(), "\naddress {address}").expect("the parent listens");
        let waiting = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        waiting.await.expect("no panic").expect("readable");
    });
}

struct Victim {
    child: Child,
    address: String,
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It has ended already, or it must.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Victim {
    fn start(test: &str) -> Victim {
        let mut command = Command::new(env::current_exe().expect("this test"));
        command.args(["--exact", test, "--nocapture"]).env(VICTIM, "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut addresses = lines.map_while(Result::ok);
        let address = addresses.find_map(|line| line.strip_prefix("address ").map(str::to_owned));
        Victim { child, address: address.expect("an address") }
    }

    /// How many files and connections it has open, and its memory in KiB.
    fn held(&self) -> (usize, u64) {
        let pid = self.child.id();
        let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        (files, memory.trim().trim_end_matches(" kB").parse().expect("a number"))
    }

    /// A device of the account comes, gets all there is, and is heard.
    async fn assert_serves(&self) {
        let mut config = Libp2pConfig::new(test_identity(1).secret, "test topic");
        (config.listen, config.mdns) = (Vec::new(), false);
        config.timings.redial_ms_max = 500;
        let transport = Libp2pTransport::spawn(config).await.expect("the network");
        let control = transport.control();
        let options = Options::new(test_identity(1), [1; 32]);
        let (node, db) = Node::new(options, transport, MemStore::new(), SystemClock::new()).expect("a node");
        tokio::spawn(node.run());
        db.add_members(vec![test_identity(0).cert]).await;
        control.add_address(test_identity(0).peer_key(), &self.address).await.expect("valid");
        db.put("t", "mine", Fields::from([("x", 2)])).await.expect("written");
        common::eventually("a device of the account is served", || async {
            db.sync(Duration::from_secs(2)).await.is_ok() && db.get("t", "r").expect("it reads").is_some()
        })
        .await;
    }
}

fn framed(frame: &[u8]) -> Vec<u8> {
    let (low, high) = ((frame.len() & 0x7f) as u8 | 0x80, (frame.len() >> 7) as u8);
    assert!(frame.len() < 1 << 14, "two bytes of length");
    [&[low, high], frame].concat()
}

/// What the hostile device of the account says first.
fn hello() -> Vec<u8> {
    let hello = engine::testing::Author::new(HOSTILE).hello();
    framed(&pack_control(77, &Control::Hello(Box::new(hello))).expect("it fits"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_connections_and_streams_are_bounded() {
    if env::var_os(VICTIM).is_some() {
        return tokio::task::block_in_place(|| std::thread::spawn(be_the_victim).join().expect("no panic"));
    }
    let victim = Victim::start("floods_of_connections_and_streams_are_bounded");
    let (files, memory) = victim.held();
    // A device of the account opens streams, of both protocols, and says nothing on them.
    let raw = Raw::connect(100 + HOSTILE, &victim.address).await;
    let mut streams = JoinSet::new();
    for n in 0..300 {
        let (mut control, host) = (raw.control.clone(), raw.host);
        let protocol = libp2p::StreamProtocol::new(if n % 2 == 0 { SYNC } else { "/ahenk/pair/1" });
        streams.spawn(async move { control.open_stream(host, protocol).await });
    }
    // Strangers, as many as like to come; those that are let in stay.
    let mut crowd = JoinSet::new();
    for seed in 0..60 {
        let address = victim.address.clone();
        crowd.spawn(async move { Raw::try_connect(seed, &address).await });
    }
    victim.assert_serves().await;
    let (files_now, memory_now) = victim.held();
    assert!(files_now < files + 80, "{files_now} open files, {files} before");
    assert!(memory_now < memory + 96 * 1024, "{memory_now} KiB, {memory} before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_never_finish_what_they_begin_hold_up_nobody() {
    if env::var_os(VICTIM).is_some() {
        return tokio::task::block_in_place(|| std::thread::spawn(be_the_victim).join().expect("no panic"));
    }
    let victim = Victim::start("those_who_never_finish_what_they_begin_hold_up_nobody");
    // A stranger that greets by half, and one that announces a frame and sends a byte of it.
    let mut half = Raw::connect(200, &victim.address).await;
    let mut half = half.open(SYNC).await;
    half.write_all(&[8, 1, 2]).await.expect("open");
    half.flush().await.expect("open");
    let mut stranger = Raw::connect(201, &victim.address).await;
    let mut slow = stranger.greet().await;
    slow.write_all(&[0xff, 0x7f, 1]).await.expect("open");
    slow.flush().await.expect("open");
    // A device of the account that says who it is, and then sends a frame of a megabyte for ever.
    let mut member = Raw::connect(100 + HOSTILE, &victim.address).await;
    let mut endless = member.greet().await;
    endless.write_all(&hello()).await.expect("open");
    endless.write_all(&[0x80, 0x80, 0x40, 1, 2, 3]).await.expect("open");
    endless.flush().await.expect("open");
    victim.assert_serves().await;
    // The strangers' time is soon over.
    ends(&mut half).await;
    ends(&mut slow).await;
    victim.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversize_frames_and_noise_end_the_session_and_nothing_else() {
    if env::var_os(VICTIM).is_some() {
        return tokio::task::block_in_place(|| std::thread::spawn(be_the_victim).join().expect("no panic"));
    }
    let victim = Victim::start("oversize_frames_and_noise_end_the_session_and_nothing_else");
    let noise: [&[u8]; 4] = [
        // One byte more than a frame may have, as a stranger's first frame may, and lengths that are none.
        &[0x81, 0x80, 0x40],
        &[0x80, 0x80, 0x80, 0x80, 1],
        &[0x80, 0],
        // A frame that is none.
        &[5, 1, 2, 3, 4, 5],
    ];
    for after_hello in [false, true] {
        for bytes in noise {
            let mut raw = Raw::connect(if after_hello { 100 + HOSTILE } else { 202 }, &victim.address).await;
            let mut stream = raw.greet().await;
            if after_hello {
                stream.write_all(&hello()).await.expect("open");
            }
            // It may have been closed on the way.
            let _ = stream.write_all(bytes).await;
            let _ = stream.flush().await;
            ends(&mut stream).await;
        }
    }
    victim.assert_serves().await;
}
