//! Commits in the form in which they travel: what a store hands out packed is its log, and what it takes packed as well.

use super::history::History;
use super::put;
use crate::commit::{Commit, Op};
use crate::config::DECODED_BYTES_MAX;
use crate::identity::AccountId;
use crate::store::{Batch, Store, StoredCommit};
use crate::testing::test_root;
use crate::wire::message::{Message, Ops, Run, pack_ops, pack_stored, parse, parse_parts};
use crate::wire::packed::stretches;

fn account() -> AccountId {
    AccountId(test_root().public())
}

/// Operations that deflate, of two authors, whose commits are in stretches of this length, each signed at its end.
fn commits(history: &mut History, count: u64, stretch: u64) -> Batch {
    let text = |n: u64| {
        vec![put("things", &format!("row-{:03}", n % 40), format!("a value, and its number is {n}"))]
    };
    let commits: Vec<(u8, Vec<Op>)> = (0..count).map(|n| ((n / stretch % 2) as u8 + 1, text(n))).collect();
    history.batch(commits, |n| (n as u64 + 1).is_multiple_of(stretch) || n as u64 + 1 == count)
}

/// The runs of a batch, each of which ends in a signature.
fn runs(batch: &Batch) -> Vec<Run<Commit>> {
    let mut sigs = batch.commits.iter().map(|(_, sig)| *sig);
    let runs = stretches(batch.commits.iter().map(|(commit, _)| commit)).into_iter().map(|stretch| {
        let sig = sigs.by_ref().take(stretch.len()).last().flatten().expect("a signature");
        Run { commits: stretch.into_iter().cloned().collect(), sig }
    });
    runs.collect()
}

/// What is handed out packed is what the log holds there, with the signatures at the ends of its runs; and every position that
/// is said to be among the commits is.
pub fn what_is_packed_is_what_the_log_holds(store: &impl Store) {
    let mut history = History::default();
    for (count, stretch) in [(3, 1), (120, 4), (1, 1), (400, 2), (2, 2), (64, 64)] {
        assert_eq!(store.apply(&commits(&mut history, count, stretch)), Ok(()));
    }
    let (mut at, mut packed_commits) = (1, 0);
    while at <= history.position {
        let Some(packed) = store.packed(at).expect("it can be read") else {
            at += 1;
            continue;
        };
        assert!(packed.first <= at && at < packed.end, "{at} in {}..{}", packed.first, packed.end);
        assert_eq!(store.packed(packed.end - 1), Ok(Some(packed.clone())));
        let frame = pack_stored(7, 5, 9, true, &packed).expect("it fits");
        let Ok((7, Message::Ops(ops))) = parse(&frame, &account()) else { panic!("not a frame of commits") };
        assert_eq!((ops.want, ops.offset, ops.done), (5, 9, true));
        let count = usize::try_from(packed.end - packed.first).expect("few");
        let logged: Vec<StoredCommit> = store.applied(packed.first, count).expect("it can be read");
        let hashed: Vec<_> = ops.runs.iter().flat_map(|run| &run.commits).collect();
        assert!(hashed.iter().map(|hashed| &hashed.commit).eq(logged.iter().map(|stored| &stored.commit)));
        assert_eq!(hashed.iter().map(|hashed| hashed.bytes).sum::<usize>(), packed.columns.bytes);
        assert_eq!(packed.ops, hashed.iter().map(|hashed| hashed.commit.ops.len() as u64).sum::<u64>());
        assert!(packed.columns.hold(logged.iter().map(|stored| &stored.commit), &account()));
        let mut ends = 0;
        for (run, told) in ops.runs.iter().zip(&packed.runs) {
            ends += run.commits.len();
            assert_eq!((told.first, told.commits), (run.commits[0].commit.dot, run.commits.len() as u64));
            assert_eq!(Some(run.sig), logged[ends - 1].sig);
        }
        packed_commits += packed.commits();
        at = packed.end;
    }
    // Not each store has something to gain; those that have anything have most.
    assert!(packed_commits == 0 || packed_commits > history.position / 2, "{packed_commits}");
    assert_eq!(store.packed(history.position + 1), Ok(None));
}

/// A batch whose columns came in a frame is kept as one whose columns did not.
pub fn a_batch_with_its_columns_reads_as_one_without<S: Store>(open: impl Fn() -> S) {
    let mut history = History::default();
    let first = commits(&mut history, 600, 300);
    let second = commits(&mut history, 600, 200);
    let (with, without) = (open(), open());
    for batch in [first, second] {
        let ops = Ops { want: 1, offset: 1, done: true, runs: runs(&batch) };
        let frame = pack_ops(3, &ops).expect("it fits");
        let (_, _, columns) = parse_parts(&frame, &account()).expect("a frame of commits");
        let columns = columns.expect("they were deflated by themselves");
        assert!(columns.hold(batch.commits.iter().map(|(commit, _)| commit), &account()));
        assert!(columns.cost < DECODED_BYTES_MAX);
        assert_eq!(without.apply(&batch), Ok(()));
        assert_eq!(with.apply(&Batch { columns: Some(columns), ..batch }), Ok(()));
    }
    assert_eq!(with.applied(1, 2_000), without.applied(1, 2_000));
    for author in history.authors.values() {
        for from in [1, 9, 350] {
            let of = |store: &S| store.commits(&author.replica, from, 50, usize::MAX);
            assert_eq!(of(&with), of(&without));
        }
    }
}
