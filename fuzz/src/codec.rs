//! Everything that is decoded from bytes: frames, messages, commits, certificates, knowledge.

use std::collections::BTreeSet;

use engine::commit::Commit;
use engine::config::INFLATED_BYTES_MAX;
use engine::identity::{AccountId, DeviceCert, DeviceId, Dot, PeerKey, ReplicaId, device_name_ok};
use engine::knowledge::Knowledge;
use engine::testing::{test_identity, test_root};
use engine::wire::frame::{pack, unpack};
use engine::wire::message::{Control, Message, Ops, Run, pack_control, pack_ops, parse};

use crate::frames::{SESSION, framed, sealed};
use crate::tape::Tape;

pub(crate) fn account() -> AccountId {
    AccountId(test_root().public())
}

fn check_unpacked(frame: &[u8]) {
    if let Ok((session, payload)) = unpack(frame) {
        assert!(payload.len() <= INFLATED_BYTES_MAX);
        if let Some(packed) = pack(session, &payload).filter(|_| !payload.is_empty()) {
            assert_eq!(unpack(&packed), Ok((session, payload)));
        }
    }
}

/// Any bytes as a frame, as they are and with a right checksum.
pub fn frame(data: &[u8]) {
    check_unpacked(data);
    if let Some((flags, body)) = data.split_first() {
        check_unpacked(&sealed(*flags, body));
    }
}

/// Any bytes as a DEFLATE stream behind the length that it claims to have, in a frame that is right but for that; and
/// as a payload to be deflated.
pub fn inflate(data: &[u8]) {
    let body = [&SESSION.to_be_bytes(), data].concat();
    check_unpacked(&sealed(1, &body));
    if let Some(packed) = pack(SESSION, data).filter(|_| !data.is_empty()) {
        assert_eq!(unpack(&packed), Ok((SESSION, data.to_vec())));
    }
}

/// Any payload as a message: what was read is read again from what is written for it.
pub fn message(data: &[u8]) {
    let Ok((session, message)) = parse(&framed(data), &account()) else { return };
    assert_eq!(session, SESSION);
    let again = match &message {
        Message::Hello(body) => control(Control::Hello(Box::new(body.clone()))),
        Message::Have(body) => control(Control::Have(body.clone())),
        Message::Summary(body) => control(Control::Summary(body.clone())),
        Message::Want(body) => control(Control::Want(body.clone())),
        Message::Ack(body) => control(Control::Ack(body.clone())),
        Message::Announce(body) => control(Control::Announce(body.clone())),
        Message::Ping(body) => control(Control::Ping(*body)),
        Message::Pong(body) => control(Control::Pong(*body)),
        Message::Error(body) => control(Control::Error(body.clone())),
        Message::Bye(body) => control(Control::Bye(body.clone())),
        Message::Grant(body) => control(Control::Grant(body.clone())),
        Message::Audit(body) => control(Control::Audit(body.clone())),
        Message::Audited(body) => control(Control::Audited(body.clone())),
        Message::Ops(ops) => {
            let run = |run: &Run<_>| Run { commits: run.commits.iter().map(checked).collect(), sig: run.sig };
            let runs = ops.runs.iter().map(run).collect();
            // What takes more when it is written by us may not fit.
            let ops = Ops { want: ops.want, offset: ops.offset, done: ops.done, runs };
            let Some(frame) = pack_ops(SESSION, &ops) else { return };
            frame
        }
        Message::Unknown(kind) => return assert_eq!(data[0], *kind),
    };
    assert_eq!(parse(&again, &account()), Ok((SESSION, message)));
}

fn control(message: Control) -> Vec<u8> {
    pack_control(SESSION, &message).expect("it takes no more than what it was read from")
}

/// A commit of a run is one, and has the hash of its canonical form.
fn checked(hashed: &engine::wire::columns::HashedCommit) -> Commit {
    let canonical = hashed.commit.encode();
    assert_eq!((hashed.commit.hash(), canonical.len()), (hashed.hash, hashed.bytes));
    assert_eq!(Commit::decode(&canonical, &account()).as_ref(), Ok(&hashed.commit));
    hashed.commit.clone()
}

/// Any bytes as the canonical form of a commit, statements of the account among them: what is read is written as the
/// same bytes, for they are hashed and signed.
pub fn commit(data: &[u8]) {
    if let Ok(commit) = Commit::decode(data, &account()) {
        assert_eq!(commit.check(), Ok(()));
        assert_eq!(commit.encode(), data);
    }
}

/// Any bytes as a certificate, which may be signed properly whatever stands in it: it is valid if, and only if, the
/// account issues the same for these fields.
pub fn certificate(data: &[u8]) {
    // As a relay is shown it.
    if let Ok(cert) = DeviceCert::from_bytes(data) {
        assert_eq!(cert.to_bytes(), data);
    }
    let Some((sign, data)) = data.split_first() else { return };
    let Ok((mut cert, _)) = postcard::take_from_bytes::<DeviceCert>(data) else { return };
    let bytes = postcard::to_stdvec(&cert).expect("plain data");
    assert_eq!(postcard::from_bytes(&bytes).as_ref(), Ok(&cert));
    let issued = |cert: &DeviceCert| {
        DeviceCert::issue(&test_root(), cert.key, &cert.name, cert.issued_ms, cert.admin).ok()
    };
    if sign & 1 == 1
        && let Some(issued) = issued(&cert)
    {
        cert.sig = issued.sig;
    }
    let valid = issued(&cert).is_some_and(|issued| issued == cert) && cert.key.0 != account().0;
    assert_eq!(cert.check(&account()).is_ok(), valid);
    assert!(!valid || device_name_ok(&cert.name));
    if valid {
        assert_eq!(DeviceCert::from_bytes(&cert.to_bytes()).as_ref(), Ok(&cert));
    }
    assert!(cert.check(&AccountId([7; 32])).is_err());
}

/// Two sets of commits by any steps, compared with plain sets; and any bytes as one.
pub fn knowledge(data: &[u8]) {
    let mut tape = Tape::new(data);
    let steps = usize::from(tape.u8());
    let (mut sets, mut models) =
        ([Knowledge::default(), Knowledge::default()], [BTreeSet::new(), BTreeSet::new()]);
    for _ in 0..steps {
        let [step, first, len] = [tape.u8(), tape.u8(), tape.u8()];
        let which = usize::from(step & 1);
        let replica = replica(step >> 2 & 3);
        let (first, last) = (u64::from(first % 64) + 1, u64::from(first % 64) + u64::from(len % 16));
        let dots = (first..=last).map(|seq| Dot { replica, seq });
        if step & 2 == 0 {
            sets[which].insert(replica, first, last);
            models[which].extend(dots);
        } else {
            sets[which].remove(&replica, first, last);
            models[which].retain(|dot| dot.replica != replica || !(first..=last).contains(&dot.seq));
        }
    }
    let [one, other] = &sets;
    let mut union = one.clone();
    union.union(other);
    same(one, &models[0]);
    same(other, &models[1]);
    same(&union, &models[0].union(&models[1]).copied().collect());
    same(&one.minus(other), &models[0].difference(&models[1]).copied().collect());
    assert_eq!(one == other, one.digest() == other.digest());
    received(tape.rest());
}

fn received(bytes: &[u8]) {
    let Ok((knowledge, _)) = postcard::take_from_bytes::<Knowledge>(bytes) else { return };
    let bytes = postcard::to_stdvec(&knowledge).expect("plain data");
    assert_eq!(postcard::from_bytes(&bytes).as_ref(), Ok(&knowledge));
    assert!(knowledge.minus(&knowledge).is_empty());
    let mut doubled = knowledge.clone();
    doubled.union(&knowledge);
    assert_eq!((&doubled, doubled.commits()), (&knowledge, knowledge.commits()));
    let mut cut = knowledge.clone();
    cut.truncate(5);
    assert!(cut.minus(&knowledge).is_empty());
    let mut whole = cut.clone();
    whole.union(&knowledge.minus(&cut));
    assert_eq!(whole, knowledge);
}

pub(crate) fn replica(n: u8) -> ReplicaId {
    ReplicaId {
        device: DeviceId::of_key(&PeerKey(test_identity(n).secret.public())),
        incarnation: u64::from(n) + 1,
    }
}

fn same(set: &Knowledge, model: &BTreeSet<Dot>) {
    assert_eq!(set.commits(), model.len() as u64);
    for n in 0..4 {
        let replica = replica(n);
        for seq in 1..84 {
            let dot = Dot { replica, seq };
            assert_eq!(set.contains(&dot), model.contains(&dot));
        }
        let prefix = (1..).take_while(|seq| model.contains(&Dot { replica, seq: *seq })).count() as u64;
        assert_eq!(set.prefix_len(&replica), prefix);
    }
}
