//! Attacks on a running daemon by another process, this one, which speaks the real protocols over libp2p with keys,
//! certificates and messages of its own making. What must hold: the attacker gets a word at most, the daemon's data and
//! devices stay as they are, and it goes on serving others. What members make up is in `forgeries.rs`.

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use engine::identity::{DeviceCert, Identity, PeerKey};
use engine::testing::Author;
use engine::wire::message::{Fault, Message};
use hostile::{Attacker, SESSION, cert, hello, identity, key, push, put, state};
use support::{WAIT_MAX, World, until, until_status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_nothing_out_of_a_daemon_and_nothing_into_it() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.run(&["put", "t", "own", "x=1"]).ok();
    a.admit(&b);
    a.start();
    let before = state(&a);
    let account = cert(&a).account;

    // Who it says it is, and how it is told that it is not.
    let own =
        |n: u8| DeviceCert::issue(&key(n), PeerKey(key(n).public()), "x", 1, true).expect("a valid name");
    let forged = |n: u8| DeviceCert { account, ..own(n) };
    let improved = DeviceCert { admin: true, ..cert(&b) };
    let cases = [
        ("of another account", 51, own(51), Fault::ForeignAccount),
        ("with a certificate that it made for this account", 52, forged(52), Fault::Unauthorised),
        ("with the hello of a device of the account", 53, cert(&b), Fault::Unauthorised),
        ("with that certificate, changed", 54, improved, Fault::Unauthorised),
    ];
    for (who, n, cert, expected) in cases {
        let mut attacker = Attacker::call(key(n), &a).await;
        let mut author = Author::of(Identity { secret: key(n), cert: cert.clone(), root: None }, 1);
        attacker.send(hello(&author, cert));
        // It does not wait for an answer, which may be there first.
        attacker.send_all([push(vec![put(&mut author, "smuggled")])]).await;
        let (faults, reason) = attacker.end().await;
        assert_eq!(faults, [expected], "a stranger {who}: {reason}");
        attacker.assert_nothing_told();
    }

    // No hello at all: commits at once, noise, and nothing.
    let mut author = Author::of(Identity { secret: key(55), cert: forged(55), root: None }, 1);
    let first_frames = [Some(push(vec![put(&mut author, "smuggled")])), Some(vec![0xff; 3_000]), None];
    for first in first_frames {
        let mut attacker = Attacker::call(key(55), &a).await;
        attacker.send_all(first).await;
        attacker.end().await;
        attacker.assert_nothing_told();
    }
    assert_eq!(state(&a), before);
    assert_eq!(a.run(&["get", "t", "smuggled"]).code, 3);
    assert!(b.json(&["sync"]).json()["peers"] == 1, "others are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_revoked_device_writes_is_taken_from_nobody() {
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
    a.admit(&b);
    a.admit(&c);
    a.start();
    // A thief plays b, whose key it has; a friend of the thief plays c, and hands on what it is given.
    let mut thief = Author::of(identity(&b), 7);
    let mut friend = Author::of(identity(&c), 7);
    let mut relay = Attacker::member(&friend, &a).await;
    relay.send(push(vec![put(&mut thief, "before")]));
    until("what it wrote before it was revoked is there", || a.run(&["get", "t", "before"]).code == 0);
    a.json(&["device", "revoke", "b", "--reason", "stolen", "--yes"]).json();

    let new_life = put(&mut Author::of(identity(&b), 8), "new-life");
    relay.send(push(vec![put(&mut thief, "after"), new_life, put(&mut friend, "own")]));
    until("what comes after it in the same frame is there", || a.run(&["get", "t", "own"]).code == 0);
    for row in ["after", "new-life"] {
        assert_eq!(a.run(&["get", "t", row]).code, 3, "{row}");
    }
    assert_eq!(a.run(&["get", "t", "before"]).code, 0, "what was there before counts");

    // It comes itself.
    let mut revoked = Attacker::member(&thief, &a).await;
    let (faults, reason) = revoked.end().await;
    assert_eq!(faults, [Fault::Revoked], "{reason}");
    // It is shown the proof, and nothing that others wrote.
    for message in &revoked.said {
        match message {
            Message::Hello(_) | Message::Error(_) => {}
            Message::Ops(ops) => {
                let commits = ops.runs.iter().flat_map(|run| &run.commits);
                assert!(commits.into_iter().all(|hashed| hashed.commit.statement.is_some()), "{ops:?}");
            }
            other => panic!("it was told {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_member_is_cut_off_and_writes_in_nobody_elses_name() {
    let world = World::new();
    let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
    a.admit(&b);
    a.admit(&c);
    a.start();
    let as_member = async |frames: Vec<Vec<u8>>| {
        let mut attacker = Attacker::member(&Author::of(identity(&c), 7), &a).await;
        attacker.send_all(frames).await;
        attacker.end().await
    };
    let before = state(&a);
    // In b's name, and with its own signature.
    let mut fake = Author::of(Identity { secret: identity(&c).secret, cert: cert(&b), root: None }, 9);
    assert_eq!(as_member(vec![push(vec![put(&mut fake, "fake")])]).await.0, [Fault::BadSignature]);
    // Noise: with a wrong checksum it counts as damaged on the way, and is dropped; with a right one it is a fault.
    let noise = engine::wire::frame::pack(SESSION, &[4, 0xff, 0xff, 0xff, 0xff, 0xff]).expect("it fits");
    assert_eq!(as_member(vec![vec![0x5a; 1024 * 1024], noise]).await.0, [Fault::Protocol]);
    assert_eq!(state(&a), before);
    assert_eq!(b.json(&["sync"]).json()["peers"], 1, "others are served");
}

/// How many files and connections a process has open, and its memory in KiB.
fn held(pid: u64) -> (usize, u64) {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    (files, memory.trim().trim_end_matches(" kB").parse().expect("a number"))
}

#[test]
fn connections_that_never_finish_are_few_and_closed_and_others_are_served() {
    const CALLERS: usize = 300;
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    let pid = a.start();
    let (files, memory) = held(pid);
    let address = a.status()["listening"][0].as_str().expect("an address").to_owned();
    let port = address.split('/').nth(4).expect("a port").to_owned();
    // Some say nothing, some begin and stop, some speak nonsense.
    let openings: [&[u8]; 4] = [b"", b"\x13/multistream/1.0.0\n", b"\x13/multi", b"GET / HTTP/1.1\r\n\r\n"];
    let call = |n: usize| {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("the system takes it");
        // It may be closed at once.
        let _ = stream.write_all(openings[n % openings.len()]);
        stream
    };
    let callers: Vec<TcpStream> = (0..CALLERS).map(call).collect();
    a.run(&["put", "t", "meanwhile", "x=1"]).ok();
    let (files_now, memory_now) = held(pid);
    assert!(files_now < files + 64, "{files_now} open files, {files} before");
    assert!(memory_now < memory + 64 * 1024, "{memory_now} KiB, {memory} before");
    // All callers still hold on; a device of the account gets through.
    until("a device of the account is served", || {
        b.run(&["get", "t", "meanwhile"]).code == 0 || {
            b.run(&["sync", "--timeout", "5"]);
            false
        }
    });
    for mut stream in callers {
        stream.set_read_timeout(Some(WAIT_MAX)).expect("a time");
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let waiting = matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!waiting, "the daemon never closed a connection that nobody finished");
    }
    until_status(&a, "nobody is left", |status| status["peers"].is_array());
}

#[test]
fn whatever_comes_to_the_daemons_socket_is_bounded_and_answered_in_words() {
    let world = World::new();
    let a = world.founder("a");
    let pid = a.start();
    let (_, memory) = held(pid);
    let before = state(&a);
    let say = |bytes: &[u8]| {
        let mut socket = UnixStream::connect(a.home.join("daemon.sock")).expect("it listens");
        socket.set_read_timeout(Some(WAIT_MAX)).expect("a time");
        // It may stop reading on the way.
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // What was not read when it closed resets the connection; what it said before still counts.
        let ended = socket.read_to_end(&mut answer);
        let waiting = matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!waiting, "the daemon never closed it");
        String::from_utf8(answer).expect("text")
    };
    let deep = format!("{{\"v\":2,\"body\":{}", "[".repeat(100_000));
    let lines = [
        "\n".to_owned(),
        "\0\u{1}\u{2}\n".to_owned(),
        "{\"v\":2,\"body\":{\"request\":{\"do\":\"nothing\"}}}\n".to_owned(),
        "{\"v\":2,\"body\":{\"request\":{\"do\":\"sync\",\"with\":{\"within_ms\":-1}}}}\n".to_owned(),
        "{\"v\":1,\"body\":{}}\n".to_owned(),
        deep + "\n",
        "{\"v\":2,\"bo".to_owned(),
    ];
    for line in &lines {
        let answer = say(line.as_bytes());
        assert!(
            answer.starts_with("{\"v\":2,\"body\":\"welcome\"}\n") && answer.contains("\"error\""),
            "{answer}"
        );
    }
    // A line that never ends is cut at 16 MiB.
    say(&vec![b' '; 40 * 1024 * 1024]);
    let (_, memory_now) = held(pid);
    assert!(memory_now < memory + 96 * 1024, "{memory_now} KiB, {memory} before");
    // An answer before any question, a client that only looks, and one that goes in the middle of its call.
    say(b"{\"v\":2,\"body\":{\"answer\":true}}\n");
    say(b"");
    say(b"{\"v\":2,\"body\":{\"request\":{\"do\":\"sync\",\"with\":{\"within_ms\":60000}}}}\n");
    assert_eq!(state(&a), before);
    a.run(&["put", "t", "r", "x=1"]).ok();
}
