//! What somebody sees who records all that passes between two devices and their relay: the real programs, with a
//! recorder in front of the relay. (What the relay itself sees is in `transport-libp2p/tests/confidential.rs`.)

mod support;

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use support::{World, until, until_status};

const TABLE: &str = "letters-of-the-committee";
const ROW: &str = "row-4711-nobody-else-has";
const FIELD: &str = "field-of-grain";
const VALUE: &str = "the crow flies at midnight";

/// Passes connections on to a port, and keeps what goes through, both ways.
#[derive(Clone)]
struct Recorder {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn new(target: u16) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let recorder = Recorder { port, seen: Arc::default() };
        let own = recorder.clone();
        // Threads end with their connections, and with the test.
        thread::spawn(move || {
            for calling in listener.incoming().flatten() {
                // The relay may not be there yet, or not any more.
                let Ok(called) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                for (from, to) in [(&calling, &called), (&called, &calling)] {
                    let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                    let own = own.clone();
                    thread::spawn(move || own.pass(from, to));
                }
            }
        });
        recorder
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            self.seen.lock().expect("no panic").extend_from_slice(&buffer[..read]);
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // It may have gone already.
        let _ = to.shutdown(Shutdown::Write);
    }

    fn holds(&self, what: &str) -> bool {
        let seen = self.seen.lock().expect("no panic");
        seen.windows(what.len()).any(|window| window == what.as_bytes())
    }

    fn bytes(&self) -> usize {
        self.seen.lock().expect("no panic").len()
    }
}

#[test]
fn what_passes_through_a_relay_shows_no_value_no_table_and_no_row() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.device("b"));
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let recorder = Recorder::new(port);
    let key = world.path().join("relay.key").display().to_string();
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    let outside = format!("/ip4/127.0.0.1/tcp/{}", recorder.port);
    let mut relay = world.device("relay").spawn(&[
        "--json",
        "relay",
        "--key",
        &key,
        "--listen",
        &listen,
        "--external",
        &outside,
    ]);
    let address = relay.next()["addresses"][0].as_str().expect("an address").to_owned();
    a.start();
    a.admit(&b);
    a.run(&["stop"]).ok();
    [&a, &b].into_iter().for_each(|device| device.start_behind(&address));
    until_status(&a, "they meet", |status| status["peers"][0]["path"] == "relayed");
    let before = recorder.bytes();
    let field = format!("{FIELD}={VALUE}");
    a.run(&["put", TABLE, ROW, &field]).ok();
    until("the row arrives", || b.run(&["get", TABLE, ROW, FIELD]).stdout.contains(VALUE));
    assert!(recorder.bytes() > before + VALUE.len(), "it went through the recorder");
    for secret in [TABLE, ROW, FIELD, VALUE] {
        assert!(!recorder.holds(secret), "{secret:?} could be read on the way");
    }
    // It sees what is not encrypted: how connections begin, and the same words when nobody encrypts them.
    assert!(recorder.holds("/multistream/1.0.0") && recorder.holds("/noise"));
    let said = [TABLE, ROW, FIELD, VALUE].join(" ");
    TcpStream::connect(("127.0.0.1", recorder.port))
        .expect("it listens")
        .write_all(said.as_bytes())
        .expect("open");
    until("plain text is seen", || recorder.holds(&said));
}
