//! What a peer does, step by step as a tape says: valid messages, messages with errors at places that only a device of
//! the account can reach, and plain garbage; all frames with right checksums, for a wrong one ends at the door.

use std::collections::BTreeMap;

use engine::commit::{Commit, Deps, Op, OpKind};
use engine::hlc::Hlc;
use engine::identity::{DeviceCert, ReplicaId, SecretKey, Sig};
use engine::knowledge::Knowledge;
use engine::statement::{Revocation, Statement};
use engine::testing::{Author, EPOCH_MS, op, test_identity, test_root};
use engine::value::Value;
use engine::wire::frame::unpack;
use engine::wire::message::{
    Ack, Announce, Audit, Audited, Bye, Control, Hello, Ops, Ping, Pong, Run, Want, pack_control, pack_ops,
};

use crate::codec::replica;
use crate::device::{Device, put};
use crate::frames::{SESSION, framed};
use crate::tape::Tape;

/// Steps that one input may take.
const STEPS_MAX: usize = 64;

/// Who the peer is, and what it has made so far.
pub(crate) struct Peer {
    /// With these it says `Hello`.
    pub(crate) cert: DeviceCert,
    pub(crate) author: Author,
    /// Writes under the same name as `author`, and something else.
    pub(crate) twin: Author,
    /// Runs that were made, sent or not.
    runs: Vec<Run<Commit>>,
    /// The last frames, to be sent again.
    frames: Vec<Vec<u8>>,
    /// Whether a statement that the root key did sign may be sent.
    pub(crate) root: bool,
    /// Whether one was.
    pub(crate) stated: bool,
}

impl Peer {
    /// A peer that writes as `author`, which was made twice.
    pub(crate) fn new(cert: DeviceCert, author: Author, twin: Author, root: bool) -> Peer {
        Peer { cert, author, twin, runs: Vec::new(), frames: Vec::new(), root, stated: false }
    }

    pub(crate) fn hello(&self) -> Vec<u8> {
        let (cert, replica) = (self.cert.clone(), self.author.replica);
        let hello =
            Hello { minor: 0, features: 0, cert, replica, echo: 0, digest: [0; 16], heads_digest: [0; 16] };
        pack_control(SESSION, &Control::Hello(Box::new(hello))).expect("it fits")
    }

    /// Does all that the tape says. Only a member is worth local writes meanwhile, which change the device's state.
    pub(crate) fn play(&mut self, tape: &mut Tape<'_>, device: &mut Device, member: bool) {
        for _ in 0..STEPS_MAX {
            if tape.is_empty() {
                break;
            }
            match tape.u8() % 16 {
                0 => self.send(device, framed(tape.bytes())),
                1 => device.receive(tape.bytes().to_vec()),
                2 => device.run_ms(100 * u64::from(tape.u8())),
                3 => device.reconnect(),
                4 => self.send(device, self.hello()),
                5 if member => device.write(put(&tape.letter(4), Value::Int(3))),
                6 => device.hint(framed(tape.bytes())),
                7 => self.again(tape, device),
                8 => {
                    let message = control(tape, device);
                    if let Some(frame) = pack_control(SESSION, &message) {
                        self.damaged(tape, device, frame);
                    }
                }
                9 => self.state(tape, device),
                10 => device.restart(),
                _ => self.commits(tape, device),
            }
        }
    }

    fn send(&mut self, device: &mut Device, frame: Vec<u8>) {
        self.frames.push(frame.clone());
        device.receive(frame);
    }

    /// A frame from before, as it was or with an error in it.
    fn again(&mut self, tape: &mut Tape<'_>, device: &mut Device) {
        if !self.frames.is_empty() {
            let frame = self.frames[tape.below(self.frames.len())].clone();
            self.damaged(tape, device, frame);
        }
    }

    /// Sends a frame, half of the times with errors in its payload and a right checksum.
    fn damaged(&mut self, tape: &mut Tape<'_>, device: &mut Device, frame: Vec<u8>) {
        match unpack(&frame) {
            Ok((_, mut payload)) if tape.flag() => {
                tape.damage(&mut payload);
                self.send(device, framed(&payload));
            }
            _ => self.send(device, frame),
        }
    }

    /// Writes commits, and sends some of those written: in order or not, signed well or not, in others' names.
    fn commits(&mut self, tape: &mut Tape<'_>, device: &mut Device) {
        for _ in 0..tape.u8() % 4 {
            let (deps, ops) = (deps(tape, device), ops(tape));
            let author = if tape.u8() % 8 == 0 { &mut self.twin } else { &mut self.author };
            let (commit, sig) = author.commit(hlc(tape), deps, ops);
            // A run goes on as long as it is not cut.
            match self.runs.last_mut() {
                Some(run) if tape.flag() && follows(run, &commit) => {
                    run.commits.push(commit);
                    run.sig = sig;
                }
                _ => self.runs.push(Run { commits: vec![commit], sig }),
            }
        }
        if self.runs.is_empty() {
            return;
        }
        let runs = (0..1 + tape.u8() % 3).map(|_| {
            let mut run = self.runs[self.runs.len() - 1 - tape.below(self.runs.len())].clone();
            spoil(tape, &mut run);
            run
        });
        let runs: Vec<_> = runs.collect();
        let (want, offset) = if tape.flag() { (0, 0) } else { (tape.u8().into(), tape.u64()) };
        if let Some(frame) = pack_ops(SESSION, &Ops { want, offset, done: tape.flag(), runs }) {
            self.damaged(tape, device, frame);
        }
    }

    /// Says something in the name of the account.
    fn state(&mut self, tape: &mut Tape<'_>, device: &mut Device) {
        let whom = [self.author.replica, device.replica, replica(8)][tape.below(3)];
        let statement = if tape.flag() {
            let fences = BTreeMap::new();
            Statement::Revoke(Revocation {
                device: whom.device,
                issued_ms: tape.u64(),
                reason: String::new(),
                fences,
            })
        } else {
            let key = test_identity(tape.u8() % 12).peer_key();
            let cert = DeviceCert::issue(&test_root(), key, &tape.letter(9), tape.u64(), tape.flag());
            Statement::Certify(cert.expect("a valid name"))
        };
        let genuine = self.root && tape.flag();
        let root = if genuine { test_root() } else { SecretKey::from_bytes(&[66; 32]) };
        let (mut commit, sig) = statement.into_commit(&test_root(), hlc(tape));
        let sig = if genuine { sig } else { root.sign(&commit.encode()) };
        if !genuine && tape.flag() {
            commit.hlc = hlc(tape);
        }
        self.stated |= genuine;
        let ops = Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits: vec![commit], sig }] };
        if let Some(frame) = pack_ops(SESSION, &ops) {
            self.damaged(tape, device, frame);
        }
    }
}

fn follows(run: &Run<Commit>, commit: &Commit) -> bool {
    let Some(last) = run.commits.last() else { return false };
    last.dot.replica == commit.dot.replica && last.dot.seq + 1 == commit.dot.seq && commit.prev == last.hash()
}

/// Mostly leaves a run as it is; else signs it badly, shortens it, or puts another's name on it.
fn spoil(tape: &mut Tape<'_>, run: &mut Run<Commit>) {
    match tape.u8() {
        0 => run.sig = Sig([tape.u8(); 64]),
        1 => run.sig.0[tape.below(64)] ^= 1,
        2 => drop(run.commits.pop().filter(|_| run.commits.len() > 1)),
        3 => drop(run.commits.remove(0)),
        4 => run.commits.iter_mut().for_each(|commit| commit.dot.replica = replica(8)),
        5 => run.commits.iter_mut().for_each(|commit| commit.dot.replica.incarnation ^= 1),
        6 => run.commits.iter_mut().for_each(|commit| commit.dot.seq = commit.dot.seq.saturating_add(1)),
        7 => {
            run.commits
                .iter_mut()
                .for_each(|commit| commit.introduces = Some(Box::new(test_identity(8).cert)));
        }
        _ => {}
    }
    if run.commits.is_empty() {
        let mut author = Author::new(8);
        run.commits.push(author.commit(Hlc::new(EPOCH_MS, 0), Deps::new(), Vec::new()).0);
    }
}

fn hlc(tape: &mut Tape<'_>) -> Hlc {
    match tape.u8() {
        0..=199 => Hlc::new(EPOCH_MS + u64::from(tape.u8()), tape.u8().into()),
        200..=229 => Hlc::new(tape.u64() & ((1 << 46) - 1), tape.u16()),
        _ => Hlc(tape.u64()),
    }
}

fn some_replica(tape: &mut Tape<'_>, device: &Device) -> ReplicaId {
    match tape.u8() % 6 {
        0 | 1 => device.replica,
        2 => replica(9),
        3 => replica(tape.u8() % 16),
        4 => ReplicaId { device: device.replica.device, incarnation: tape.u64() },
        _ => ReplicaId { device: replica(9).device, incarnation: tape.u64() },
    }
}

fn deps(tape: &mut Tape<'_>, device: &Device) -> Deps {
    (0..tape.u8() % 3).map(|_| (some_replica(tape, device), tape.u64().clamp(1, i64::MAX as u64))).collect()
}

fn ops(tape: &mut Tape<'_>) -> Vec<Op> {
    let kinds = [OpKind::Put, OpKind::Update, OpKind::Delete, OpKind::Replace];
    let one = |tape: &mut Tape<'_>| {
        let kind = kinds[tape.below(4)];
        let (table, row) = (["t", "u"][tape.below(2)], tape.letter(4));
        let mut fields = BTreeMap::new();
        if kind != OpKind::Delete {
            for _ in 0..tape.u8() % 3 {
                fields.insert(["x", "y", "z"][tape.below(3)].to_owned(), value(tape, 3));
            }
        }
        op(table, &row, kind, fields)
    };
    (0..tape.u8() % 4).map(|_| one(tape)).collect()
}

fn value(tape: &mut Tape<'_>, depth: u8) -> Value {
    match tape.u8() % if depth == 0 { 6 } else { 8 } {
        0 => Value::Null,
        1 => Value::Bool(tape.flag()),
        2 => Value::Int(tape.u64() as i64),
        3 => Value::Float(f64::from_bits(tape.u64())),
        4 => Value::Text(String::from_utf8_lossy(tape.bytes()).into_owned()),
        5 => Value::Bytes(tape.bytes().to_vec()),
        6 => Value::List((0..tape.u8() % 4).map(|_| value(tape, depth - 1)).collect()),
        _ => Value::Map((0..tape.u8() % 4).map(|_| (tape.letter(26), value(tape, depth - 1))).collect()),
    }
}

fn ranges(tape: &mut Tape<'_>, device: &Device) -> Knowledge {
    let mut knowledge = Knowledge::default();
    for _ in 0..tape.u8() % 8 {
        let first = tape.u64().max(1);
        knowledge.insert(some_replica(tape, device), first, first.saturating_add(tape.u64()));
    }
    knowledge
}

fn heads(tape: &mut Tape<'_>, device: &Device) -> Vec<(ReplicaId, u64)> {
    (0..tape.u8() % 4).map(|_| (some_replica(tape, device), tape.u64())).collect()
}

fn digest(tape: &mut Tape<'_>, device: &Device) -> [u8; 16] {
    if tape.flag() { device.knowledge().digest() } else { [tape.u8(); 16] }
}

fn place(tape: &mut Tape<'_>) -> Option<(String, String)> {
    tape.flag().then(|| (tape.letter(26), tape.letter(26)))
}

fn control(tape: &mut Tape<'_>, device: &Device) -> Control {
    match tape.u8() % 10 {
        0 => Control::Have(engine::wire::message::Have {
            state: [tape.u8(); 16],
            knowledge: ranges(tape, device),
            reply: tape.flag(),
            tags: (0..tape.u8() % 4).map(|_| [tape.u8(); 8]).collect(),
        }),
        1 => Control::Summary(engine::wire::message::Summary {
            digest: digest(tape, device),
            reply: tape.flag(),
        }),
        2 | 3 => {
            Control::Want(Want { id: tape.u8().into(), ranges: ranges(tape, device), credit: tape.u64() })
        }
        4 => Control::Ack(Ack {
            want: tape.u8().into(),
            credit: tape.u64(),
            pushed: tape.u64(),
            heads: heads(tape, device),
        }),
        5 => Control::Announce(Announce { heads: heads(tape, device), tags: vec![[tape.u8(); 8]] }),
        6 => Control::Ping(Ping { nonce: tape.u8().into(), wall_ms: tape.u64() }),
        7 => Control::Pong(Pong { nonce: tape.u8().into(), wall_ms: tape.u64() }),
        8 => Control::Audit(Audit { id: tape.u8().into(), after: place(tape), detail: tape.flag() }),
        _ if tape.flag() => Control::Audited(Audited {
            id: tape.u8().into(),
            digest: digest(tape, device),
            upto: place(tape),
            state: [tape.u8(); 16],
            rows: (0..tape.u8() % 3).map(|n| (tape.letter(26), tape.letter(26), [n; 16])).collect(),
        }),
        _ => Control::Bye(Bye { text: tape.letter(26) }),
    }
}
