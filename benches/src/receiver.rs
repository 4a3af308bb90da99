//! A device that receives a history: the engine and a store, without a network and without a driver.

use engine::Engine;
use engine::config::Config;
use engine::identity::PeerKey;
use engine::io::{Input, Output};
use engine::store::Store;
use engine::testing::{EPOCH_MS, test_identity};
use engine::time::{Instant, Now, WallMs};
use engine::wire::message::{Control, Hello, MINOR, pack_control};

use crate::workload::SESSION;

/// The first test device, in a session with the second.
#[derive(Debug)]
pub struct Receiver<S> {
    engine: Engine,
    /// What it applies to.
    pub store: S,
    peer: PeerKey,
    now: Now,
    /// Batches committed.
    pub batches: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
}

impl<S: Store> Receiver<S> {
    /// Opens a session.
    pub fn new(store: S) -> Receiver<S> {
        let now = Now { mono: Instant(0), wall: WallMs(EPOCH_MS * 2) };
        let recovered = store.recover().expect("a readable store");
        let engine = Engine::new(Config::default(), test_identity(0), [1; 32], recovered, now, &store);
        let sender = test_identity(1);
        let engine = engine.expect("an engine");
        let mut made = Receiver { engine, store, peer: sender.peer_key(), now, batches: 0, sent_bytes: 0 };
        made.drain();
        made.input(Input::PeerUp(sender.peer_key()));
        let hello = Hello {
            minor: MINOR,
            features: 0,
            replica: engine::identity::ReplicaId { device: sender.device(), incarnation: 1 },
            cert: sender.cert,
            echo: 0,
            digest: [0; 16],
            heads_digest: [0; 16],
        };
        made.frame(&pack_control(SESSION, &Control::Hello(Box::new(hello))).expect("a small frame"));
        made
    }

    /// Takes a frame in, and makes durable what it brings.
    pub fn frame(&mut self, bytes: &[u8]) {
        self.input(Input::Frame { peer: self.peer, bytes: bytes.to_owned() });
    }

    /// Takes an input, and performs what comes of it but for sending.
    pub fn input(&mut self, input: Input) {
        self.now.mono = self.now.mono + 1;
        self.engine.handle(self.now, input, &self.store).expect("a readable store");
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Commit(batch) => {
                    self.store.apply(&batch).expect("it is applied");
                    self.batches += 1;
                }
                Output::Send { frame, .. } => self.sent_bytes += frame.len() as u64,
                Output::Disconnect { reason, .. } => panic!("the session ended: {reason}"),
                _ => {}
            }
        }
    }

    /// Commits that it has applied, its own first one included.
    pub fn applied(&self) -> u64 {
        self.engine.knowledge().commits()
    }
}
