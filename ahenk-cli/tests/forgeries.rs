//! Attacks on a running daemon by a device of the account that turned hostile: another process, this one, which has its
//! key, and speaks the real protocol over libp2p. It makes up what it may not say, leaves signatures out, and sends what
//! costs much. What must hold: the daemon's data and devices stay as they are, it stays within its memory, and it goes on
//! serving others.

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::collections::BTreeMap;
use std::fs;

use engine::commit::{Commit, CommitHash, Op, sign_commit, verify_commit};
use engine::config::{REPLICAS_FOR_STATEMENTS, REPLICAS_MAX, RUN_COMMITS_MAX};
use engine::hlc::Hlc;
use engine::identity::{DeviceCert, DeviceId, Identity, PeerKey, ReplicaId, SecretKey, Sig};
use engine::knowledge::Knowledge;
use engine::statement::{Branch, ForkProof, Revocation, Statement, fork_commit};
use engine::testing::{Author, costly_frames, row, test_identity};
use engine::value::Value;
use engine::wire::columns::HashedCommit;
use engine::wire::message::{
    Announce, Control, Fault, Have, Message, Ops, Run, Want, pack_control, pack_ops,
};
use hostile::{Attacker, SESSION, cert, hello, identity, key, push, push_run, put, state, stolen};
use support::{Device, World, until, until_status};

const SPAN: u64 = RUN_COMMITS_MAX as u64;
const NO_SIG: Sig = Sig([0; 64]);
/// A replica that nobody has.
const NOBODY: u64 = 4_711;

/// Three devices of an account: `a`, whose daemon runs; `b`, which is honest; and `c`, whose key the attacker has.
struct Scene {
    a: Device,
    b: Device,
    c: Device,
    /// The process of the daemon.
    pid: u64,
    _world: World,
}

impl Scene {
    fn new() -> Scene {
        let world = World::new();
        let (a, b, c) = (world.founder("a"), world.device("b"), world.device("c"));
        a.run(&["put", "t", "own", "x=1"]).ok();
        a.admit(&b);
        a.admit(&c);
        let pid = a.start();
        Scene { a, b, c, pid, _world: world }
    }

    /// A life of `c` that has written nothing.
    fn author(&self, life: u64) -> Author {
        Author::of(identity(&self.c), life)
    }

    /// How the daemon ends a session in which `c` sends these frames.
    async fn refused(&self, frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<Fault> {
        let mut attacker = Attacker::member(&self.author(1), &self.a).await;
        attacker.send_all(frames).await;
        attacker.end().await.0
    }

    fn has(&self, row: &str) -> bool {
        self.a.run(&["get", "t", row]).code == 0
    }

    /// What `b` writes now reaches the daemon, and `b` ends in its state.
    fn assert_b_is_served(&self) {
        self.b.run(&["put", "t", "of b", "x=1"]).ok();
        assert_eq!(self.b.json(&["sync"]).json()["peers"], 1, "others are served");
        assert!(self.has("of b"));
        assert_eq!(self.b.status()["digest"], self.a.status()["digest"]);
    }

    /// The most memory that the daemon has had, in MiB.
    fn memory_peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a size");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }
}

/// A second branch of an author's log: the same names, other commits.
fn twin(author: &Author) -> Author {
    author.clone()
}

fn branch((commit, sig): &(Commit, Sig)) -> Branch {
    Branch { contents: vec![commit.content()], sig: *sig }
}

/// A proof of two branches of one commit each, which part after `last`.
fn proof(author: &Author, last: &Commit, branches: [&(Commit, Sig); 2]) -> ForkProof {
    let end = (last.dot.seq, last.hash());
    ForkProof::new(author.identity.cert.clone(), author.replica.incarnation, end, branches.map(branch))
}

/// Proofs of a fork of a device's own making, none of which holds, and what is wrong with each.
fn made_up_proofs(of: &Identity, other: &Identity) -> Vec<(&'static str, ForkProof)> {
    let mut one = Author::of(of.clone(), 9);
    let first = put(&mut one, "first");
    let mut two = twin(&one);
    let (second, forked, third) = (put(&mut one, "second"), put(&mut two, "forked"), put(&mut one, "third"));
    let good = proof(&one, &first.0, [&second, &forked]);
    assert!(good.holds(&of.account()));
    let with = |change: &dyn Fn(&mut ForkProof)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let sorted = |proof: &mut ForkProof| {
        proof.branches.sort_by(|one, other| one.contents.cmp(&other.contents));
    };
    let swapped = |branch: usize| {
        with(&|proof| {
            proof.branches[branch].contents = vec![third.0.content()];
            sorted(proof);
        })
    };
    let signed_by = |identity: &Identity| {
        with(&|proof| {
            proof.branches = [&second, &forked].map(|(commit, _)| {
                let sig = sign_commit(identity, &commit.hash());
                Branch { contents: vec![commit.content()], sig }
            });
            sorted(proof);
        })
    };
    vec![
        ("another commit before", with(&|proof| proof.hash = CommitHash([9; 32]))),
        ("another number", with(&|proof| proof.seq = 2)),
        ("another life", with(&|proof| proof.incarnation ^= 1)),
        ("one branch twice", with(&|proof| proof.branches[1] = proof.branches[0].clone())),
        ("the first says something else", swapped(0)),
        ("the second says something else", swapped(1)),
        ("a branch that goes on", with(&|proof| proof.branches[0].contents.push(third.0.content()))),
        ("signed by nobody", with(&|proof| proof.branches[0].sig = Sig([0; 64]))),
        ("signed by another device, which it accuses", with(&|proof| proof.author = other.cert.clone())),
        ("signed by another device than it says", signed_by(other)),
        ("signed for another account", signed_by(&test_identity(3))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_a_fork_that_a_member_makes_up_is_refused_and_accuses_nobody() {
    let scene = Scene::new();
    let before = state(&scene.a);
    for (name, proof) in made_up_proofs(&identity(&scene.c), &identity(&scene.b)) {
        let commit = fork_commit(&cert(&scene.a).account, proof);
        let faults = scene.refused([push_run(vec![commit], NO_SIG)]).await;
        assert_eq!(faults, [Fault::BadSignature], "{name}");
    }
    assert_eq!(state(&scene.a), before);
    scene.assert_b_is_served();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_the_root_key_did_not_sign_and_a_certificate_for_that_key_are_refused() {
    let scene = Scene::new();
    let before = state(&scene.a);
    let hostile = identity(&scene.c);
    let root = SecretKey::from_bytes(&stolen(&scene.a, "account.key").try_into().expect("32 bytes"));
    let revoke = |device: &Device| {
        let device = cert(device).device();
        Statement::Revoke(Revocation { device, issued_ms: 1, reason: String::new(), fences: BTreeMap::new() })
    };
    // That it administers the account: signed by itself, within a statement that it signed itself.
    let own = DeviceCert::issue(&hostile.secret, hostile.peer_key(), "c", 2, true).expect("a valid name");
    let promoted = DeviceCert { account: hostile.account(), ..own };
    let of_root = DeviceCert::issue(&root, PeerKey(root.public()), "root", 2, true).expect("a valid name");
    let told = |name, statement: Statement, signer: &SecretKey, fault| {
        let (commit, sig) = statement.into_commit(&root, Hlc::new(1_700_000_000_000, 0));
        // The root key serves to name the statement only.
        let by = Identity { secret: signer.clone(), cert: hostile.cert.clone(), root: None };
        let sig = if signer.public() == root.public() { sig } else { sign_commit(&by, &commit.hash()) };
        (name, push_run(vec![commit], sig), fault)
    };
    let cases = [
        told("the administrator is revoked", revoke(&scene.a), &hostile.secret, Fault::BadSignature),
        told("another device is revoked", revoke(&scene.b), &hostile.secret, Fault::BadSignature),
        told("signed by nobody", revoke(&scene.b), &key(9), Fault::BadSignature),
        // A certificate that does not hold cannot even be read.
        told("it administers", Statement::Certify(promoted), &hostile.secret, Fault::Protocol),
        // Signed by the root key, which is stolen: it certifies itself.
        told("the root key is a device", Statement::Certify(of_root.clone()), &root, Fault::Protocol),
    ];
    for (name, frame, fault) in cases {
        assert_eq!(scene.refused([frame]).await, [fault], "{name}");
    }
    // The root key comes itself, as a device with that certificate.
    let itself = Author::of(Identity { secret: root.clone(), cert: of_root.clone(), root: None }, 1);
    let mut attacker = Attacker::call(root, &scene.a).await;
    attacker.send(hello(&itself, of_root));
    assert_eq!(attacker.end().await.0, [Fault::Unauthorised]);
    attacker.assert_nothing_told();
    assert_eq!(state(&scene.a), before);
    scene.assert_b_is_served();
}

#[test]
fn orders_of_a_device_that_is_no_administrator_are_refused_by_itself() {
    let scene = Scene::new();
    let before = state(&scene.a);
    scene.c.start();
    let orders = [
        &["device", "revoke", "b", "--yes"][..],
        &["device", "promote", "c", "--yes"],
        &["device", "rename", "b", "c"],
        &["device", "invite"],
    ];
    for order in orders {
        scene.c.json(order).error(5, "not-authorised");
    }
    assert_eq!(state(&scene.a), before);
    scene.assert_b_is_served();
}

/// What the daemon says that it has of a device: a replica, and how much of it.
async fn known(attacker: &mut Attacker, device: DeviceId) -> (ReplicaId, u64) {
    let ask = Have { state: [0; 16], knowledge: Knowledge::default(), reply: true, tags: Vec::new() };
    attacker.send(pack_control(SESSION, &Control::Have(ask)).expect("it fits"));
    let of_device = |message: &Message| match message {
        Message::Have(have) => {
            let mut all = have.knowledge.iter().map(|(replica, set)| (*replica, set.prefix_len()));
            all.find(|(replica, _)| replica.device == device)
        }
        _ => None,
    };
    attacker.hear(of_device).await
}

/// Asks the daemon for the first commits of a replica; the first run of it that comes.
async fn fetch(attacker: &mut Attacker, replica: ReplicaId, commits: u64) -> Run<HashedCommit> {
    let mut ranges = Knowledge::default();
    ranges.insert(replica, 1, commits);
    let want = Want { id: 1, ranges, credit: 1 << 20 };
    attacker.send(pack_control(SESSION, &Control::Want(want)).expect("it fits"));
    let of_replica = |run: &&Run<HashedCommit>| run.commits[0].commit.dot.replica == replica;
    let answer = |message: &Message| match message {
        Message::Ops(ops) => ops.runs.iter().find(of_replica).cloned(),
        _ => None,
    };
    attacker.hear(answer).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_second_commits_that_a_member_makes_up_raise_no_alarm() {
    let scene = Scene::new();
    let before = state(&scene.a);
    let mut attacker = Attacker::member(&scene.author(1), &scene.a).await;
    let own = attacker.victim.device();
    let (replica, seq) = known(&mut attacker, own).await;
    // Another head than the daemon itself has: it asks to see the branch.
    let lie = Announce { heads: vec![(replica, seq)], tags: vec![[9; 8]] };
    attacker.send(pack_control(SESSION, &Control::Announce(lie)).expect("it fits"));
    let want = attacker
        .hear(|message| match message {
            Message::Want(want) if want.ranges.get(&replica).is_some() => Some(want.id),
            _ => None,
        })
        .await;
    assert_eq!(state(&scene.a), before, "a tag accuses nobody");
    // There is none to be shown: another commit under the name of the daemon's own, which its key did not sign.
    let mut fake = scene.author(1);
    (fake.replica, fake.seq) = (replica, seq - 1);
    let (mut commit, _) = put(&mut fake, "own");
    commit.prev = CommitHash([7; 32]);
    let sig = sign_commit(&fake.identity, &commit.hash());
    let runs = vec![Run { commits: vec![commit], sig }];
    attacker.send(pack_ops(SESSION, &Ops { want, offset: 1, done: true, runs }).expect("it fits"));
    assert_eq!(attacker.end().await.0, [Fault::BadSignature]);
    assert_eq!(state(&scene.a), before);
    let doctor = scene.a.run(&["doctor"]).stdout;
    assert!(!doctor.contains("ran twice"), "{doctor}");
    let log = fs::read_to_string(scene.a.home.join("logs/ahenk.log")).expect("a log");
    assert!(log.contains("BadSignature") && !log.contains("needs attention"), "{log}");
    scene.assert_b_is_served();
}

/// So many commits that put nothing but their number.
fn many(author: &mut Author, count: u64) -> Vec<(Commit, Sig)> {
    (0..count).map(|_| put(author, &format!("many {}", author.seq + 1))).collect()
}

/// A run that is signed at its end.
fn run_of(log: &[(Commit, Sig)]) -> Vec<u8> {
    let sig = log.last().expect("commits").1;
    push_run(log.iter().map(|(commit, _)| commit.clone()).collect(), sig)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_beyond_a_span_and_runs_without_a_signature_are_not_taken() {
    let scene = Scene::new();
    let position = || scene.a.status()["position"].as_u64().expect("a number");
    let start = position();
    let mut author = scene.author(7);
    let mut log = many(&mut author, SPAN);
    let mut copy = twin(&author);
    log.extend(many(&mut author, 1));
    let (before, last) = log.split_at(SPAN as usize - 1);
    assert_eq!(scene.refused([run_of(before), run_of(last)]).await, [Fault::Protocol]);
    assert_eq!(position(), start + SPAN - 1, "all before, and nothing of the run that goes beyond");

    // Passed by: the last commit of a span, and any other, without a signature. What comes behind is taken.
    let mut attacker = Attacker::member(&scene.author(1), &scene.a).await;
    let unsigned = |commit: &Commit| push_run(vec![commit.clone()], NO_SIG);
    let other = put(&mut scene.author(8), "unsigned").0;
    attacker.send_all([unsigned(&last[0].0), unsigned(&other)]).await;
    attacker.send(push(vec![put(&mut scene.author(9), "behind")]));
    until("what comes behind is there", || scene.has("behind"));
    assert_eq!(position(), start + SPAN);
    assert!(!scene.has("unsigned") && !scene.has(&format!("many {SPAN}")));

    // A proof that the replica ends there does not vouch for it: everybody who has the end of a span has its signature.
    let proof = proof(&author, &last[0].0, [&last[1], &put(&mut copy, "another")]);
    let proof = fork_commit(&cert(&scene.a).account, proof);
    attacker.send_all([push_run(vec![proof], NO_SIG), unsigned(&last[0].0)]).await;
    attacker.send(push(vec![put(&mut scene.author(10), "behind that")]));
    until("what comes behind is there", || scene.has("behind that"));
    assert_eq!(scene.a.status()["forks"][0]["seq"], SPAN);
    assert!(!scene.has(&format!("many {SPAN}")));
    attacker.send(run_of(&last[..1]));
    until("it is there with its signature", || scene.has(&format!("many {SPAN}")));
    scene.assert_b_is_served();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_proof_of_a_fork_ends_the_life_that_forked_and_its_device_stays() {
    let scene = Scene::new();
    let mut one = scene.author(7);
    let first = put(&mut one, "first");
    let mut two = twin(&one);
    let (second, forked) = (put(&mut one, "second"), put(&mut two, "second of the copy"));
    let mut attacker = Attacker::member(&scene.author(1), &scene.a).await;
    attacker.send(push(vec![first.clone(), second.clone()]));
    until("both are there", || scene.has("second"));
    let proof = fork_commit(&cert(&scene.a).account, proof(&one, &first.0, [&second, &forked]));
    attacker.send(push_run(vec![proof], NO_SIG));
    until_status(&scene.a, "the fork is told of", |status| status["forks"][0]["device"] == "c");
    assert_eq!(scene.a.status()["forks"][0]["seq"], 1);
    assert!(scene.has("first") && !scene.has("second"));
    let kept = scene.a.json(&["quarantine", "list"]).ok().stdout;
    assert!(kept.contains("\"second\"") && kept.lines().count() == 1, "{kept}");
    // Neither of the two branches is taken any more. Its device stays, and goes on in another life, in this session.
    attacker.send(push(vec![second, forked, put(&mut scene.author(8), "in another life")]));
    until("it writes on", || scene.has("in another life"));
    assert!(!scene.has("second") && !scene.has("second of the copy"));
    let devices = scene.a.json(&["device", "list"]).json();
    assert!(devices.as_array().expect("a list").iter().all(|device| device["revoked"] == false));
    scene.assert_b_is_served();
    assert_eq!(scene.b.status()["forks"], scene.a.status()["forks"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_crosses_a_fence_is_cut_there_and_handed_on_up_to_the_fence() {
    let scene = Scene::new();
    let relay = scene._world.device("d");
    scene.a.admit(&relay);
    scene.b.json(&["sync"]).json();
    let mut thief = scene.author(7);
    let log = many(&mut thief, 4);
    let mut session = Attacker::member(&thief, &scene.a).await;
    session.send(push(log[..2].to_vec()));
    until("two are there", || scene.has("many 2"));
    scene.a.json(&["device", "revoke", "c", "--yes"]).json();
    session.end().await;
    let mut relaying = Author::of(identity(&relay), 7);
    let mut session = Attacker::member(&relaying, &scene.a).await;
    let account = relaying.identity.account().device();
    let statement = known(&mut session, account).await.0;
    let Run { commits, sig } = fetch(&mut session, statement, 1).await;
    let revocation = push_run(commits.into_iter().map(|hashed| hashed.commit).collect(), sig);
    scene.a.run(&["stop"]).ok();

    // A device that has met neither the author nor whoever revoked it is told of the fence, and given all in one run.
    scene.b.start();
    let mut session = Attacker::member(&relaying, &scene.b).await;
    session.send(revocation);
    session.send(run_of(&log));
    session.send(push(vec![put(&mut relaying, "behind")]));
    let has = |row: &str| scene.b.run(&["get", "t", row]).code == 0;
    until("what comes behind is there", || has("behind"));
    assert_eq!([1, 2, 3, 4].map(|n| has(&format!("many {n}"))), [true, true, false, false]);
    // It hands on what counts, with a signature at the end.
    let run = fetch(&mut session, thief.replica, 4).await;
    let last = run.commits.last().expect("commits");
    assert_eq!(last.commit.dot.seq, 2);
    let author = thief.identity.peer_key();
    assert!(verify_commit(&thief.identity.account(), &author, &last.hash, &run.sig));
}

/// Above what the daemon had before: what decoding may take, of dictionaries and what they inflate from, and the
/// allocator's share.
const FRAMES_MIB_MAX: u64 = 112;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_which_a_few_kilobytes_become_hundreds_of_megabytes_end_the_session_within_bounds() {
    let scene = Scene::new();
    let (before, peak) = (state(&scene.a), scene.memory_peak_mib());
    for (name, frame) in costly_frames(SESSION, &scene.author(7)) {
        assert_eq!(scene.refused([frame]).await, [Fault::Protocol], "{name}");
        let more = scene.memory_peak_mib() - peak;
        assert!(more <= FRAMES_MIB_MAX, "{name}: {more} MiB more than before");
    }
    assert_eq!(state(&scene.a), before);
    scene.assert_b_is_served();
}

/// What waits may take 64 MiB, counted from above; beside it a frame is decoded.
const WAITING_MIB_MAX: u64 = 112;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_what_never_comes_stays_within_its_memory_and_others_are_served() {
    const FRAMES: usize = 300;
    let scene = Scene::new();
    let peak = scene.memory_peak_mib();
    let missing = ReplicaId { device: cert(&scene.b).device(), incarnation: NOBODY };
    let mut author = scene.author(7);
    let mut waiting = |n: usize| {
        // 30 kB, which take a megabyte.
        let ops: Vec<Op> = row(Value::List(vec![Value::Null; 30_000]));
        let at = Hlc::new(1_700_000_000_000, n as u16);
        author.commit(at, BTreeMap::from([(missing, n as u64 + 1)]), ops)
    };
    let frames: Vec<_> = (0..FRAMES).map(|n| push(vec![waiting(n)])).collect();
    let mut attacker = Attacker::member(&scene.author(1), &scene.a).await;
    attacker.send_all(frames).await;
    attacker.send_all([push(vec![put(&mut scene.author(8), "behind")])]).await;
    until("what comes behind is there", || scene.has("behind"));
    let more = scene.memory_peak_mib() - peak;
    assert!(more <= WAITING_MIB_MAX, "{more} MiB more than before");
    assert_eq!(scene.a.run(&["get", "t", "row"]).code, 3, "nothing of it is applied");
    scene.assert_b_is_served();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_fills_all_replicas_can_still_be_revoked_and_then_there_is_room_again() {
    const LIVES: u64 = (REPLICAS_MAX - REPLICAS_FOR_STATEMENTS) as u64;
    let scene = Scene::new();
    let life = |n: u64| put(&mut scene.author(1_000 + n), &format!("life {n}"));
    let lives: Vec<_> = (0..LIVES).map(life).collect();
    let frames: Vec<_> = lives.chunks(64).map(|lives| push(lives.to_vec())).collect();
    assert_eq!(scene.refused(frames).await, [Fault::Protocol], "it is stopped");
    assert!(scene.has("life 0") && !scene.has(&format!("life {}", LIVES - 1)));
    // There is room for no life of anybody.
    let honest = || Author::of(identity(&scene.b), 7);
    let new_life = || push(vec![put(&mut honest(), "new life")]);
    let mut session = Attacker::member(&honest(), &scene.a).await;
    session.send(new_life());
    assert_eq!(session.end().await.0, [Fault::Protocol]);
    // But for the statement.
    scene.a.json(&["device", "revoke", "c", "--yes", "--reason", "hostile"]).json();
    let late = format!("life {}", LIVES / 2);
    until("what its later lives wrote is retracted", || !scene.has(&late));
    assert!(scene.has("life 0"), "a few lives count, as of any device");
    let kept = scene.a.json(&["quarantine", "list"]).ok().stdout;
    assert!(kept.contains(&format!("\"{late}\"")), "and the others are kept aside");
    let mut session = Attacker::member(&honest(), &scene.a).await;
    session.send(new_life());
    until("there is room again", || scene.has("new life"));
    scene.assert_b_is_served();
}
