//! Random histories, compared with the store in memory.

use std::ops::Bound;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{ALL, History, conflict, state_follows_from_log, table};
use crate::commit::Op;
use crate::identity::Sig;
use crate::store::{MemStore, Store, StoreRead};
use crate::testing::{Author, any_op};

/// One step of a random history.
#[derive(Debug, Clone)]
struct Step {
    commits: Vec<(u8, Vec<Op>)>,
    signed: u8,
    replica: bool,
    conflicts: u64,
    forget: u64,
    local: Option<(u8, Option<u8>)>,
    retract: Option<(u8, u8, u64)>,
    release: bool,
}

fn any_step() -> impl Strategy<Value = Step> {
    let ops = proptest::collection::vec(any_op(), 0..5);
    let commits = proptest::collection::vec((0u8..4, ops), 0..5);
    let retract = proptest::option::weighted(0.3, (0u8..4, 0u8..4, 1u64..4));
    let local = any::<Option<(u8, Option<u8>)>>();
    (commits, any::<u8>(), any::<bool>(), 0u64..4, 0u64..4, local, retract, any::<bool>()).prop_map(
        |(commits, signed, replica, conflicts, forget, local, retract, release)| Step {
            commits,
            signed,
            replica,
            conflicts,
            forget,
            local,
            retract,
            release,
        },
    )
}

/// Random batches give the same reads as in [`MemStore`].
pub fn random_histories_read_as_in_memory<S: Store>(cases: u32, open: impl Fn() -> S) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let steps = proptest::collection::vec(any_step(), 1..12);
    let limits = (0u64..8, 0usize..8, 0usize..2_000, "[r-t]{0,2}", "[r-t]{0,2}");
    let outcome = TestRunner::new(config).run(&(steps, limits), |(steps, limits)| {
        let (store, model) = (open(), MemStore::new());
        let mut history = History::default();
        let (mut conflict_next, mut conflicts_from) = (1, 0);
        for step in steps {
            let mut batch = history.batch(step.commits, |n| step.signed >> (n % 8) & 1 != 0);
            let author = Author::new(step.signed % 4).replica;
            batch.replica = step.replica.then_some(author);
            batch.conflicts =
                (conflict_next..conflict_next + step.conflicts).map(|id| conflict(id, author)).collect();
            conflict_next += step.conflicts;
            conflicts_from = (conflicts_from + step.forget).min(conflict_next);
            batch.conflicts_from = conflicts_from;
            prop_assert_eq!(store.apply(&batch), Ok(()));
            prop_assert_eq!(model.apply(&batch), Ok(()));
            if let Some((by, author, from_seq)) = step.retract.filter(|(by, author, _)| by != author) {
                let mut batch = history.retract(by, author, from_seq);
                batch.conflicts_void = vec![conflicts_from, conflicts_from + 2];
                batch.conflicts_from = conflicts_from;
                let quarantine = model.quarantine(None, 1_000).expect("a read in memory");
                if step.release {
                    batch.released = quarantine.iter().step_by(2).map(|one| one.stored.dot()).collect();
                }
                let log = model.applied(0, 1_000).expect("a read in memory").into_iter();
                let kept = log.filter(|stored| stored.dot().seq < from_seq).take(3);
                batch.signatures = kept.map(|stored| (stored.dot(), Sig([7; 64]))).collect();
                prop_assert_eq!(store.apply(&batch), Ok(()));
                prop_assert_eq!(model.apply(&batch), Ok(()));
            }
            if let Some((key, value)) = step.local {
                let (key, value) = ((key % 3).to_string(), value.map(|value| vec![value]));
                prop_assert_eq!(store.set_local(&key, value.as_deref()), Ok(()));
                prop_assert_eq!(model.set_local(&key, value.as_deref()), Ok(()));
            }
            reads_agree(&store, &model, &limits)?;
        }
        prop_assert_eq!(model.recover().map(|recovered| recovered.heads), Ok(history.heads));
        state_follows_from_log(&store);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

fn reads_agree(
    store: &impl Store,
    model: &MemStore,
    (from, count, bytes, low, high): &(u64, usize, usize, String, String),
) -> Result<(), TestCaseError> {
    prop_assert_eq!(store.recover(), model.recover());
    prop_assert_eq!(store.tables(), model.tables());
    for name in ["t", "u"].map(table) {
        prop_assert_eq!(store.scan(&name, ALL, 100), model.scan(&name, ALL, 100));
        let (low, high) = (low.as_str(), high.as_str());
        let range = (Bound::Excluded(low), Bound::Included(high));
        prop_assert_eq!(store.scan(&name, range, *count), model.scan(&name, range, *count));
        for (key, state) in model.scan(&name, ALL, 100).expect("a scan in memory") {
            prop_assert_eq!(store.row(&name, &key), Ok(Some(state)));
        }
    }
    for replica in (0..5).map(|n| Author::new(n).replica) {
        prop_assert_eq!(
            store.commits(&replica, *from, *count, *bytes),
            model.commits(&replica, *from, *count, *bytes)
        );
    }
    prop_assert_eq!(store.applied(*from, *count), model.applied(*from, *count));
    prop_assert_eq!(store.applied(0, 1_000), model.applied(0, 1_000));
    prop_assert_eq!(store.conflicts(*from, *count), model.conflicts(*from, *count));
    let quarantine = model.quarantine(None, 1_000);
    prop_assert_eq!(&store.quarantine(None, 1_000), &quarantine);
    for one in quarantine.expect("a read in memory") {
        let dot = one.stored.dot();
        prop_assert_eq!(store.quarantine(Some(&dot), *count), model.quarantine(Some(&dot), *count));
    }
    for key in ["0", "1", "2"] {
        prop_assert_eq!(store.local(key), model.local(key));
    }
    Ok(())
}
