//! When a device asks for what it lacks, seen from the other end: a peer whose frames the test makes by hand, and
//! which sees each frame that the device sends.

use std::collections::BTreeMap;

use engine::Engine;
use engine::commit::Commit;
use engine::config::Config;
use engine::hlc::Hlc;
use engine::identity::{ReplicaId, Sig};
use engine::io::{Input, Output};
use engine::store::{MemStore, Store, StoreRead};
use engine::testing::{Author, EPOCH_MS, test_identity};
use engine::time::{Instant, Now, WallMs};
use engine::wire::message::{
    Announce, Control, Hello, Message, Ops, Run, Want, pack_control, pack_ops, parse,
};

const SESSION: u32 = 77;

/// One device, and its peer: the 9th device of the account, which has said `Hello`.
struct Solo {
    engine: Engine,
    store: MemStore,
    now: Instant,
    author: Author,
    wants: Vec<Want>,
}

impl Solo {
    fn new() -> Solo {
        Solo::with(Config::default())
    }

    fn with(config: Config) -> Solo {
        let (store, author) = (MemStore::new(), Author::new(9));
        let now = Now { mono: Instant(0), wall: WallMs(EPOCH_MS) };
        let recovered = store.recover().unwrap();
        let engine = Engine::new(config, test_identity(0), [1; 32], recovered, now, &store).unwrap();
        let mut solo = Solo { engine, store, now: now.mono, author, wants: Vec::new() };
        solo.perform();
        let key = solo.author.identity.peer_key();
        solo.input(Input::PeerUp(key));
        let (cert, replica) = (solo.author.identity.cert.clone(), solo.author.replica);
        let hello =
            Hello { minor: 0, features: 0, cert, replica, echo: 0, digest: [0; 16], heads_digest: [0; 16] };
        solo.frame(pack_control(SESSION, &Control::Hello(Box::new(hello))).unwrap());
        solo
    }

    fn input(&mut self, input: Input) {
        let now = Now { mono: self.now, wall: WallMs(EPOCH_MS + self.now.0 / 1000) };
        self.engine.handle(now, input, &self.store).unwrap();
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Commit(batch) => self.store.apply(&batch).unwrap(),
                Output::Send { frame, .. } => {
                    let account = test_identity(0).account();
                    if let (_, Message::Want(want)) = parse(&frame, &account).unwrap() {
                        self.wants.push(want);
                    }
                }
                _ => {}
            }
        }
    }

    fn frame(&mut self, bytes: Vec<u8>) {
        let peer = self.author.identity.peer_key();
        self.input(Input::Frame { peer, bytes });
    }

    fn commits(&mut self, count: usize) -> Vec<(Commit, Sig)> {
        (0..count).map(|_| self.author.commit(Hlc::new(EPOCH_MS, 0), BTreeMap::new(), Vec::new())).collect()
    }

    fn announce(&mut self, replica: ReplicaId, seq: u64) {
        let heads = vec![(replica, seq)];
        self.frame(pack_control(SESSION, &Control::Announce(Announce { heads, tags: Vec::new() })).unwrap());
    }

    fn ops(&mut self, want: u32, offset: u64, done: bool, (commit, sig): &(Commit, Sig)) {
        let runs = vec![Run { commits: vec![commit.clone()], sig: *sig }];
        self.frame(pack_ops(SESSION, &Ops { want, offset, done, runs }).unwrap());
    }

    /// Lets time pass, with all the deadlines in it.
    fn run_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some((at, _)) = self.engine.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.input(Input::Timeout);
        }
        self.now = end;
    }
}

#[test]
fn an_answer_that_others_had_brought_already_does_not_hold_up_the_next_request() {
    let mut solo = Solo::new();
    let (commits, replica) = (solo.commits(2), solo.author.replica);
    solo.announce(replica, 1);
    assert_eq!(solo.wants.len(), 1);
    solo.ops(0, 100, true, &commits[0]);
    solo.ops(1, 100, true, &commits[0]);
    solo.announce(replica, 2);
    assert_eq!(solo.wants.len(), 2, "the second commit is asked for at once");
    assert_eq!(solo.wants[1].ranges.iter().next().unwrap().1.ranges(), [(2, 2)]);
}

#[test]
fn an_answer_that_brings_nothing_does_not_make_a_tight_loop() {
    let mut solo = Solo::new();
    let replica = solo.author.replica;
    solo.announce(replica, 1);
    for _ in 0..100 {
        let id = solo.wants.last().unwrap().id;
        let frame = Ops { want: id, offset: 0, done: true, runs: Vec::new() };
        solo.frame(pack_ops(SESSION, &frame).unwrap());
    }
    assert_eq!(solo.wants.len(), 1);
    solo.run_ms(40_000);
    assert!((2..10).contains(&solo.wants.len()), "{} requests", solo.wants.len());
}

#[test]
fn a_request_is_repeated_until_it_is_answered() {
    let mut solo = Solo::new();
    let replica = solo.author.replica;
    solo.announce(replica, 1);
    solo.run_ms(20_000);
    assert!(solo.wants.len() >= 2, "{} requests", solo.wants.len());
    let ascends = |pair: &[Want]| pair[0].id < pair[1].id && pair[0].ranges == pair[1].ranges;
    assert!(solo.wants.windows(2).all(ascends));
}

#[test]
fn what_a_slow_peer_has_under_way_is_not_asked_for_again_and_again() {
    let mut solo = Solo::new();
    let (commits, replica) = (solo.commits(12), solo.author.replica);
    solo.announce(replica, 12);
    // The peer answers the first request to its end, a commit every 2.6 s, before it sees any other.
    for (n, commit) in commits.iter().enumerate() {
        solo.run_ms(2_600);
        solo.ops(1, 100 * (n as u64 + 1), n == 11, commit);
    }
    assert_eq!(solo.engine.knowledge().prefix_len(&replica), 12);
    assert!(solo.wants.len() <= 2, "{} requests", solo.wants.len());
}

#[test]
fn runs_of_one_frame_that_need_each_other_are_applied_however_small_the_buffer() {
    let mut solo = Solo::with(Config { reorder_bytes_max: 1, ..Config::default() });
    let (mut left, mut right) = (Author::new(9), Author::new(8));
    let commit = |author: &mut Author, deps: &[(ReplicaId, u64)]| {
        author.commit(Hlc::new(EPOCH_MS, 0), deps.iter().copied().collect(), Vec::new())
    };
    let (l1, r1) = (commit(&mut left, &[]), commit(&mut right, &[(left.replica, 1)]));
    let (l2, r2) = (commit(&mut left, &[(right.replica, 1)]), commit(&mut right, &[(left.replica, 2)]));
    let run = |first: (Commit, Sig), last: (Commit, Sig)| Run { commits: vec![first.0, last.0], sig: last.1 };
    let runs = vec![run(l1, l2), run(r1, r2)];
    solo.frame(pack_ops(SESSION, &Ops { want: 0, offset: 1, done: true, runs }).unwrap());
    let known = solo.engine.knowledge();
    assert_eq!((known.prefix_len(&left.replica), known.prefix_len(&right.replica)), (2, 2));
}
