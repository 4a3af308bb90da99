//! A man in the middle of a pairing: this process, between two that are real. And where a code must not appear.

mod support;

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value as Json;
use support::{Device, Running, World};
use transport_libp2p::{Libp2pConfig, Libp2pTransport};

/// Whom the middle answers, and what it makes of the n-th frame.
struct Middle {
    runtime: tokio::runtime::Runtime,
    transport: Libp2pTransport,
}

impl Middle {
    fn new() -> Middle {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let secret = engine::identity::SecretKey::from_bytes(&[66; 32]);
        let mut config = Libp2pConfig::new(secret, "none");
        (config.listen, config.mdns) = (vec![support::LISTEN.to_owned()], false);
        let transport = runtime.block_on(Libp2pTransport::spawn(config)).expect("the network");
        Middle { runtime, transport }
    }

    /// The code with its own address in place of the inviter's.
    fn bait(&self, code: &str) -> (String, String) {
        let (short, addresses) = code.split_once('@').expect("a long code");
        let own = self.runtime.block_on(self.transport.control().listen_addresses()).expect("open");
        let own = own[0].split("/p2p/").next().expect("an address").to_owned();
        let target = addresses.split(',').next().expect("an address").to_owned();
        (format!("{short}@{own}"), target)
    }

    /// Serves one joiner: calls the inviter, and passes frames on in turn, changed by `change` as they go, until either
    /// side has had enough.
    fn sit_between(&self, target: &str, change: impl Fn(usize, &mut Vec<u8>)) -> usize {
        self.runtime.block_on(async {
            let control = self.transport.control();
            let mut listener = control.pair_listen().await.expect("nobody else listens");
            let mut joiner = listener.accept().await.expect("it comes");
            let mut inviter = control.pair_connect(target).await.expect("it waits");
            let mut passed = 0;
            loop {
                let (from, to) =
                    if passed % 2 == 0 { (&mut joiner, &mut inviter) } else { (&mut inviter, &mut joiner) };
                let Ok(mut frame) = from.recv().await else { break };
                change(passed, &mut frame);
                if to.send(frame).await.is_err() {
                    break;
                }
                passed += 1;
            }
            joiner.finish().await;
            inviter.finish().await;
            passed
        })
    }
}

fn attempt(inviting: &mut Running, left: u64) {
    let attempt = inviting.next();
    assert_eq!(
        (&attempt["event"], &attempt["attempts_left"]),
        (&"attempt".into(), &left.into()),
        "{attempt}"
    );
    let reason = attempt["reason"].as_str().expect("a reason");
    assert!(noticed(reason), "{reason}");
}

/// What is said of a message that was changed: half of the numbers are none that a device could have sent.
fn noticed(message: &str) -> bool {
    message.contains("someone is interfering") || message.contains("not a valid pairing message")
}

#[test]
fn a_man_in_the_middle_is_noticed_on_both_sides_and_gets_three_tries() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    let middle = Middle::new();
    let mut inviting = a.spawn(&["--json", "device", "invite", "--yes"]);
    let code = inviting.code();
    let (bait, target) = middle.bait(&code);
    // It passes everything on as it is; it changes what the joiner begins with; it changes the answer.
    for (left, changed) in [(2, None), (1, Some(0)), (0, Some(1))] {
        let message = std::thread::scope(|scope| {
            let joining = scope.spawn(|| b.join(&bait));
            let passed = middle.sit_between(&target, |n, frame| {
                if changed == Some(n) {
                    let last = frame.len() - 1;
                    frame[last] ^= 1;
                }
            });
            assert!(passed >= 2, "it was between them");
            let ran = joining.join().expect("it ends");
            if ran.code == 7 { ran.error(7, "network") } else { ran.error(5, "not-authorised") }
        });
        assert!(noticed(&message), "{message}");
        assert!(changed.is_some() || message.contains("someone is interfering"), "{message}");
        attempt(&mut inviting, left);
    }
    let message = inviting.wait().error(5, "not-authorised");
    assert!(message.contains("too often"), "{message}");
    assert!(!b.home.exists(), "nothing was joined");
    let devices = a.json(&["device", "list"]).json();
    assert_eq!(devices.as_array().map(Vec::len), Some(1), "nobody was admitted: {devices}");
}

/// The command lines and environments of all processes that this user may look at.
fn processes() -> Vec<String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir("/proc").expect("a process list").flatten() {
        for file in ["cmdline", "environ"] {
            // Processes end, and some are others'.
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            texts.push(String::from_utf8_lossy(&bytes).replace('\0', " "));
        }
    }
    texts
}

fn files_under(folder: &std::path::Path, found: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_under(&path, found);
        } else if path.is_file() {
            found.push(fs::read(&path).expect("readable"));
        }
    }
}

/// The secret part of a code: its words, without the number and the addresses.
fn words(code: &str) -> String {
    let short = code.split('@').next().expect("a code");
    short.split_once('-').expect("a number and words").1.to_owned()
}

#[test]
fn a_code_is_in_no_process_list_no_log_and_no_file() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    a.run(&["config", "set", "log.level", "trace"]).ok();
    a.start();
    let mut inviting = a.spawn(&["--json", "device", "invite"]);
    let code = inviting.code();
    let secret = words(&code);
    let seen = |texts: &[String]| texts.iter().any(|text| text.contains(&secret));
    // That this looks where a code would be.
    let mut shown = Command::new("sh");
    let mut shown = shown.args(["-c", "read _", &secret]).stdin(Stdio::piped()).spawn().expect("a shell");
    assert!(seen(&processes()));
    drop(shown.stdin.take());
    shown.wait().expect("it ends");

    let joined = std::thread::scope(|scope| {
        let joining = scope.spawn(|| join_tracing(&b, &code));
        assert_eq!(inviting.next()["event"], "confirm");
        // Both processes are in the middle of it now.
        assert!(!seen(&processes()), "the code is in the process list");
        inviting.say("y");
        joining.join().expect("it ends")
    });
    assert!(!joined.contains(&secret), "the joiner's log has the code");
    let rest = inviting.wait().ok();
    assert!(!rest.stdout.contains(&secret) && !rest.stderr.contains(&secret), "it is shown once");
    a.run(&["stop"]).ok();
    let mut files = Vec::new();
    files_under(world.path(), &mut files);
    let log = fs::read(a.home.join("logs/ahenk.log")).expect("a log");
    assert!(log.len() > 1_000, "it was logged in detail");
    let holds = |bytes: &Vec<u8>| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
    assert!(!files.iter().any(holds), "the code was written down");
}

/// Joins, logging all there is to stderr; what it said there.
fn join_tracing(device: &Device, code: &str) -> String {
    let args = ["--json", "device", "join", "--name", "b", "--listen", support::LISTEN, "--no-mdns"];
    let mut command = device.command(&args);
    command.env("RUST_LOG", "trace").env("AHENK_LOG_LEVEL", "trace");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    {
        use std::io::Write as _;
        writeln!(child.stdin.take().expect("piped"), "{code}").expect("it reads");
    }
    let ran = support::Ran::of(child.wait_with_output().expect("it ends")).ok();
    let last: Json = serde_json::from_str(ran.stdout.lines().last().expect("a result")).expect("JSON");
    assert_eq!(last["synced"], true);
    format!("{}{}", ran.stdout, ran.stderr)
}
