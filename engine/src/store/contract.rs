//! The contract of the store traits, as properties that every implementation must show.
//!
//! `open` gives a new empty store, of the account of [`test_root`](crate::testing::test_root), each time
//! it is called. [`run`] shows all properties; each also stands alone.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Batch, Conflict, Quarantined, Recovered, RowRange, Store, StoreError, StoredCommit};
use crate::commit::{Op, OpKind, Stamp};
use crate::hlc::Hlc;
use crate::identity::{Dot, ReplicaId, Sig};
use crate::name::{RowKey, TableName};
use crate::testing::{Author, op, test_identity};
use crate::value::Value;

mod history;
mod packed;
mod random;

pub use history::{History, state_follows_from_log};
pub use packed::{a_batch_with_its_columns_reads_as_one_without, what_is_packed_is_what_the_log_holds};
pub use random::random_histories_read_as_in_memory;

/// Shows every property. `cases` is how many random histories are compared with [`MemStore`](super::MemStore).
pub fn run<S: Store>(cases: u32, open: impl Fn() -> S) {
    an_empty_store_recovers_to_the_beginning(&open());
    a_batch_shows_in_every_read(&open());
    a_later_batch_replaces_what_it_names_and_keeps_the_rest(&open());
    a_batch_without_commits_is_applied(&open());
    commits_are_limited_by_count_and_by_bytes(&open());
    commits_of_a_log_with_gaps_are_those_there_are(&open());
    applied_goes_in_the_order_of_application(&open());
    scans_keep_to_range_limit_and_order(&open());
    deleted_rows_and_their_tables_are_returned(&open());
    conflicts_show_from_an_id_on_and_are_trimmed(&open());
    local_values_are_set_replaced_and_removed(&open());
    a_batch_that_does_not_continue_the_log_changes_nothing(&open());
    a_batch_that_repeats_a_commit_changes_nothing(&open());
    retracted_commits_lie_in_the_quarantine_and_nowhere_else(&open());
    a_row_that_nothing_stands_for_is_gone_and_so_is_its_table(&open());
    released_commits_are_gone_and_others_stay(&open());
    the_quarantine_keeps_different_commits_of_one_name(&open());
    signatures_join_commits_that_the_log_holds(&open());
    large_rows_come_back(&open());
    many_replicas_come_back(&open());
    readers_see_whole_batches(&open());
    what_is_packed_is_what_the_log_holds(&open());
    a_batch_with_its_columns_reads_as_one_without(&open);
    random_histories_read_as_in_memory(cases, &open);
}

fn put(table: &str, row: &str, value: impl Into<Value>) -> Op {
    op(table, row, OpKind::Put, BTreeMap::from([("f".to_owned(), value.into())]))
}

fn table(name: &str) -> TableName {
    TableName::new(name).expect("a table name")
}

fn row(key: &str) -> RowKey {
    RowKey::new(key).expect("a row key")
}

fn stored(batch: &Batch) -> Vec<StoredCommit> {
    let commits = (batch.position..).zip(batch.commits.iter());
    commits
        .map(|(position, (commit, sig))| StoredCommit { position, commit: commit.clone(), sig: *sig })
        .collect()
}

fn conflict(id: u64, author: ReplicaId) -> Conflict {
    let stamp = |n: u64| Stamp { hlc: Hlc(n + 1), dot: Dot { replica: author, seq: n + 1 } };
    Conflict {
        id,
        table: table("things"),
        row: row("ä row"),
        field: crate::name::FieldName::new("f").expect("a field name"),
        value: Value::List(vec![Value::Int(id as i64), Value::Null]),
        loser: stamp(id),
        winner: stamp(id + 1),
        noticed_ms: 1_700_000_000_000 + id,
    }
}

const ALL: RowRange<'static> = (Bound::Unbounded, Bound::Unbounded);

/// A new store recovers to the default, with the first conflict's id 1, and has nothing to read.
pub fn an_empty_store_recovers_to_the_beginning(store: &impl Store) {
    let replica = Author::new(1).replica;
    assert_eq!(store.recover(), Ok(Recovered { conflict_next: 1, ..Recovered::default() }));
    assert_eq!(store.tables(), Ok(vec![]));
    assert_eq!(store.row(&table("t"), &row("r")), Ok(None));
    assert_eq!(store.scan(&table("t"), ALL, 10), Ok(vec![]));
    assert_eq!(store.commits(&replica, 0, 10, usize::MAX), Ok(vec![]));
    assert_eq!(store.applied(0, 10), Ok(vec![]));
    assert_eq!(store.conflicts(0, 10), Ok(vec![]));
    assert_eq!(store.local("key"), Ok(None));
}

/// After a batch every read gives what the batch said.
pub fn a_batch_shows_in_every_read(store: &impl Store) {
    let mut history = History::default();
    let ops = |n: &str| vec![put("things", n, n), put("other", "x", n)];
    let mut batch = history.batch(vec![(1, ops("a")), (2, ops("b")), (1, ops("c"))], |n| n != 0);
    let (first, second) = (history.authors[&1].replica, history.authors[&2].replica);
    batch.replica = Some(first);
    batch.members.push(test_identity(7).cert);
    batch.conflicts = vec![conflict(1, first), conflict(2, second)];
    assert_eq!(store.apply(&batch), Ok(()));

    let recovered = store.recover().expect("recovered");
    assert_eq!(recovered.replica, Some(first));
    assert_eq!(recovered.heads, batch.heads);
    assert_eq!(recovered.heads.len(), 2);
    assert_eq!((recovered.clock, recovered.digest), (batch.clock, batch.digest));
    assert_eq!((recovered.position, recovered.conflict_next), (3, 3));
    let members: Vec<_> = [1, 2, 7].map(|n| test_identity(n).cert).into();
    assert_eq!(recovered.members, members.into_iter().map(|cert| (cert.device(), cert)).collect());
    assert_eq!(store.tables(), Ok(vec![table("other"), table("things")]));
    for (table, row, state) in batch.rows() {
        assert_eq!(store.row(table, row), Ok(Some(state.clone())));
    }
    assert_eq!(store.scan(&table("things"), ALL, 10), Ok(batch.rows[&table("things")].clone()));
    let all = stored(&batch);
    assert_eq!(store.applied(1, 10), Ok(all.clone()));
    assert_eq!(store.commits(&first, 1, 10, usize::MAX), Ok(vec![all[0].clone(), all[2].clone()]));
    assert_eq!(store.commits(&second, 1, 10, usize::MAX), Ok(vec![all[1].clone()]));
    assert_eq!(store.conflicts(0, 10), Ok(batch.conflicts.clone()));
}

/// Rows, heads and members of a later batch replace earlier ones of the same name; no replica keeps the
/// last; clock and digest are always the last batch's.
pub fn a_later_batch_replaces_what_it_names_and_keeps_the_rest(store: &impl Store) {
    let mut history = History::default();
    let mut first = history.batch(vec![(1, vec![put("t", "a", 1), put("t", "b", 1)]), (2, vec![])], |_| true);
    first.replica = Some(history.authors[&1].replica);
    let mut second = history.batch(vec![(1, vec![put("t", "b", 2)])], |_| false);
    second.clock = Hlc(5);
    assert_eq!(store.apply(&first), Ok(()));
    assert_eq!(store.apply(&second), Ok(()));
    let recovered = store.recover().expect("recovered");
    assert_eq!(recovered.replica, first.replica);
    assert_eq!(recovered.heads, history.heads);
    assert_eq!((recovered.clock, recovered.digest), (Hlc(5), history.digest));
    let state = |batch: &Batch, key: &str| {
        batch.rows().find(|(_, row, _)| row.as_str() == key).map(|(_, _, state)| state.clone())
    };
    assert_eq!(store.row(&table("t"), &row("a")), Ok(state(&first, "a")));
    assert_eq!(store.row(&table("t"), &row("b")), Ok(state(&second, "b")));
    assert_eq!(store.row(&table("u"), &row("a")), Ok(None));
    assert_eq!(store.row(&table("t"), &row("c")), Ok(None));
}

/// Membership, clock or replica may change without a commit; the position stays.
pub fn a_batch_without_commits_is_applied(store: &impl Store) {
    let replica = Author::new(3).replica;
    let cert = test_identity(3).cert;
    let batch = Batch {
        position: 1,
        replica: Some(replica),
        members: vec![cert.clone()],
        clock: Hlc(9),
        ..Batch::default()
    };
    assert_eq!(store.apply(&batch), Ok(()));
    assert_eq!(store.apply(&batch), Ok(()));
    let expected = Recovered {
        replica: Some(replica),
        clock: Hlc(9),
        members: BTreeMap::from([(cert.device(), cert)]),
        conflict_next: 1,
        ..Recovered::default()
    };
    assert_eq!(store.recover(), Ok(expected));
}

/// `commits` ends at `commits_max`, and with the first commit that makes the encodings reach `bytes_max`.
pub fn commits_are_limited_by_count_and_by_bytes(store: &impl Store) {
    let mut history = History::default();
    let commits = (0..6u8).map(|n| (1, vec![put("t", "r", "x".repeat(usize::from(n) * 50))])).collect();
    let batch = history.batch(commits, |_| false);
    let replica = history.authors[&1].replica;
    assert_eq!(store.apply(&batch), Ok(()));
    let sizes: Vec<usize> = batch.commits.iter().map(|(commit, _)| commit.encode().len()).collect();
    let seqs = |from, count, bytes| -> Vec<u64> {
        let found = store.commits(&replica, from, count, bytes).expect("commits");
        found.iter().map(|stored| stored.commit.dot.seq).collect()
    };
    assert_eq!(seqs(0, 10, usize::MAX), [1, 2, 3, 4, 5, 6]);
    assert_eq!(seqs(4, 10, usize::MAX), [4, 5, 6]);
    assert_eq!(seqs(7, 10, usize::MAX), []);
    assert_eq!(seqs(u64::MAX, 10, usize::MAX), []);
    assert_eq!(seqs(2, 3, usize::MAX), [2, 3, 4]);
    assert_eq!(seqs(2, 0, usize::MAX), []);
    for count in 1..=sizes.len() {
        let reached: usize = sizes[..count].iter().sum();
        let expected: Vec<u64> = (1..=count as u64).collect();
        assert_eq!(seqs(1, 10, reached), expected, "bytes_max is just reached");
        let expected: Vec<u64> = (1..=(count as u64 + 1).min(6)).collect();
        assert_eq!(seqs(1, 10, reached + 1), expected, "one byte is missing");
    }
    // The first is always given, however small the limit.
    assert_eq!(seqs(3, 10, 1), [3]);
    assert_eq!(seqs(3, 10, 0), [3]);
}

/// A store does not insist on contiguous sequence numbers, and finds what is there.
pub fn commits_of_a_log_with_gaps_are_those_there_are(store: &impl Store) {
    let mut history = History::default();
    let mut batch = history.batch((0..9).map(|n| (1 + n % 2, vec![])).collect(), |_| true);
    batch.commits.retain(|(commit, _)| commit.dot.seq != 3);
    let replica = history.authors[&1].replica;
    assert_eq!(store.apply(&batch), Ok(()));
    let seqs = |from, count| -> Vec<u64> {
        let found = store.commits(&replica, from, count, usize::MAX).expect("commits");
        found.iter().map(|stored| stored.commit.dot.seq).collect()
    };
    assert_eq!(seqs(1, 3), [1, 2, 4]);
    assert_eq!(seqs(3, 9), [4, 5]);
    let unknown = ReplicaId { incarnation: replica.incarnation ^ 1, ..replica };
    assert_eq!(store.commits(&unknown, 1, 9, usize::MAX), Ok(vec![]));
}

/// `applied` numbers commits by application, over batches and replicas.
pub fn applied_goes_in_the_order_of_application(store: &impl Store) {
    let mut history = History::default();
    let mut all = Vec::new();
    for commits in [vec![2, 1, 2], vec![3], vec![1, 1, 2]] {
        let batch = history.batch(commits.into_iter().map(|author| (author, vec![])).collect(), |n| n == 0);
        assert_eq!(store.apply(&batch), Ok(()));
        all.extend(stored(&batch));
    }
    assert_eq!(all.iter().map(|stored| stored.position).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(store.applied(0, 100), Ok(all.clone()));
    assert_eq!(store.applied(1, 100), Ok(all.clone()));
    assert_eq!(store.applied(3, 3), Ok(all[2..5].to_vec()));
    assert_eq!(store.applied(7, 3), Ok(all[6..].to_vec()));
    assert_eq!(store.applied(8, 3), Ok(vec![]));
    assert_eq!(store.applied(u64::MAX, 3), Ok(vec![]));
    assert_eq!(store.applied(1, 0), Ok(vec![]));
}

/// Scans honour every kind of bound, the limit and the order of UTF-8 bytes, and stay in their table.
pub fn scans_keep_to_range_limit_and_order(store: &impl Store) {
    use Bound::{Excluded, Included, Unbounded};
    // Ascending by UTF-8 bytes, which is by code point.
    let keys = ["\0", "A", "a", "a\0", "aa", "b", "z", "\u{7f}", "é", "日本", "\u{ffff}", "\u{10ffff}"];
    let mut history = History::default();
    // Tables interned before and after, so that neighbours would show.
    let mut ops = vec![put("before", "a", 0), put("zafter", "a", 0)];
    ops.extend(keys.iter().rev().map(|key| put("t", key, *key)));
    assert_eq!(store.apply(&history.put("zz", "a", 0)), Ok(()));
    assert_eq!(store.apply(&history.batch(vec![(1, ops)], |_| true)), Ok(()));
    assert_eq!(store.apply(&history.put("another", "a", 0)), Ok(()));
    let scan = |from: Bound<&str>, to: Bound<&str>, limit| -> Vec<String> {
        let found = store.scan(&table("t"), (from, to), limit).expect("a scan");
        for (key, state) in &found {
            assert_eq!(state.field("f"), Some(Value::from(key.as_str())));
        }
        found.into_iter().map(|(key, _)| key.as_str().to_owned()).collect()
    };
    assert_eq!(scan(Unbounded, Unbounded, 100), keys);
    assert_eq!(scan(Unbounded, Unbounded, 5), keys[..5]);
    assert_eq!(scan(Unbounded, Unbounded, 0), [""; 0]);
    assert_eq!(scan(Included("a"), Excluded("b"), 100), ["a", "a\0", "aa"]);
    assert_eq!(scan(Excluded("a"), Included("b"), 100), ["a\0", "aa", "b"]);
    assert_eq!(scan(Excluded("a"), Excluded("b"), 1), ["a\0"]);
    assert_eq!(scan(Included("a"), Included("a"), 100), ["a"]);
    assert_eq!(scan(Included("zz"), Excluded("é"), 100), ["\u{7f}"]);
    assert_eq!(scan(Excluded("日本"), Unbounded, 100), ["\u{ffff}", "\u{10ffff}"]);
    assert_eq!(scan(Unbounded, Excluded("A"), 100), ["\0"]);
    assert_eq!(scan(Included(""), Excluded(""), 100), [""; 0]);
    assert_eq!(scan(Included(""), Unbounded, 2), keys[..2]);
    assert_eq!(scan(Excluded("\u{10ffff}"), Unbounded, 100), [""; 0]);
    // Ranges that hold nothing are no error, inverted ones included.
    for (from, to) in [
        (Included("b"), Excluded("a")),
        (Included("b"), Included("a")),
        (Excluded("a"), Excluded("a")),
        (Included("a"), Excluded("a")),
        (Excluded("a"), Included("a")),
    ] {
        assert_eq!(scan(from, to, 100), [""; 0]);
    }
    assert_eq!(store.scan(&table("nosuch"), ALL, 100), Ok(vec![]));
}

/// Deleted rows come from `row` and `scan`, and their table from `tables`, also if the row was never there.
pub fn deleted_rows_and_their_tables_are_returned(store: &impl Store) {
    let mut history = History::default();
    assert_eq!(store.apply(&history.put("t", "a", 1)), Ok(()));
    let delete = |table: &str, row: &str| op(table, row, OpKind::Delete, BTreeMap::new());
    let batch = history.batch(vec![(2, vec![delete("t", "a"), delete("é", "never")])], |_| true);
    assert_eq!(store.apply(&batch), Ok(()));
    for (name, key) in [("t", "a"), ("é", "never")] {
        let state = store.row(&table(name), &row(key)).expect("a read").expect("a row");
        assert!(!state.visible() && state.del().is_some());
        assert_eq!(store.scan(&table(name), ALL, 10), Ok(vec![(row(key), state)]));
    }
    assert_eq!(store.tables(), Ok(vec![table("t"), table("é")]));
}

/// Conflicts are read from an id on; those below `conflicts_from` go, and their ids are not used again.
pub fn conflicts_show_from_an_id_on_and_are_trimmed(store: &impl Store) {
    let mut history = History::default();
    let author = Author::new(4).replica;
    let mut batch = history.batch(vec![], |_| true);
    let all: Vec<Conflict> = (1..=8).map(|id| conflict(id, author)).collect();
    batch.conflicts = all[..5].to_vec();
    assert_eq!(store.apply(&batch), Ok(()));
    assert_eq!(store.conflicts(0, 10), Ok(all[..5].to_vec()));
    assert_eq!(store.conflicts(2, 2), Ok(all[1..3].to_vec()));
    assert_eq!(store.conflicts(6, 2), Ok(vec![]));
    assert_eq!(store.conflicts(u64::MAX, 2), Ok(vec![]));
    assert_eq!(store.conflicts(1, 0), Ok(vec![]));
    batch.conflicts = all[5..].to_vec();
    batch.conflicts_from = 4;
    assert_eq!(store.apply(&batch), Ok(()));
    assert_eq!(store.conflicts(0, 10), Ok(all[3..].to_vec()));
    batch.conflicts = vec![];
    batch.conflicts_from = 9;
    assert_eq!(store.apply(&batch), Ok(()));
    assert_eq!(store.conflicts(0, 10), Ok(vec![]));
    assert_eq!(store.recover().expect("recovered").conflict_next, 9);
}

/// Local values are this device's alone: no batch touches them, and they touch nothing else.
pub fn local_values_are_set_replaced_and_removed(store: &impl Store) {
    let before = store.recover();
    let long = "k".repeat(256);
    for key in ["a", "b", "é", long.as_str()] {
        assert_eq!(store.set_local(key, Some(key.as_bytes())), Ok(()));
    }
    assert_eq!(store.set_local("b", Some(&[0, 255])), Ok(()));
    assert_eq!(store.set_local("empty", Some(&[])), Ok(()));
    assert_eq!(store.set_local("a", None), Ok(()));
    assert_eq!(store.set_local("never", None), Ok(()));
    assert_eq!(store.apply(&History::default().put("t", "a", 1)), Ok(()));
    assert_eq!(store.local("a"), Ok(None));
    assert_eq!(store.local("b"), Ok(Some(vec![0, 255])));
    assert_eq!(store.local("é"), Ok(Some("é".into())));
    assert_eq!(store.local("empty"), Ok(Some(vec![])));
    assert_eq!(store.local(&long), Ok(Some(long.clone().into_bytes())));
    assert_eq!(before.expect("recovered").position, 0);
}

/// A batch with any position but the next is refused, and nothing of it shows.
pub fn a_batch_that_does_not_continue_the_log_changes_nothing(store: &impl Store) {
    let mut history = History::default();
    assert_eq!(store.apply(&history.put("t", "a", 1)), Ok(()));
    let before = store.recover().expect("recovered");
    for position in [0, 1, 3, u64::MAX] {
        let mut batch =
            history.batch(vec![(1, vec![put("t", "a", 2), put("new", "b", 2)]), (9, vec![])], |_| true);
        history.position = 1;
        batch.position = position;
        batch.replica = Some(history.authors[&9].replica);
        batch.conflicts = vec![conflict(5, history.authors[&9].replica)];
        batch.conflicts_from = 5;
        refused(store, &batch, &before);
    }
    // And the next one that fits is taken.
    let mut history = History::default();
    history.put("t", "a", 1);
    assert_eq!(store.apply(&history.put("t", "a", 3)), Ok(()));
}

/// A batch with a commit that the log has, or with one commit twice, is refused as a whole.
pub fn a_batch_that_repeats_a_commit_changes_nothing(store: &impl Store) {
    let mut history = History::default();
    let first = history.put("t", "a", 1);
    assert_eq!(store.apply(&first), Ok(()));
    let before = store.recover().expect("recovered");
    let next = history.batch(vec![(2, vec![put("new", "b", 2)])], |_| true);
    let repeats = |extra: &Batch| {
        let mut batch = next.clone();
        batch.commits.extend(extra.commits.clone());
        batch
    };
    refused(store, &repeats(&first), &before);
    refused(store, &repeats(&next), &before);
    assert_eq!(store.apply(&next), Ok(()));
}

fn refused(store: &impl Store, batch: &Batch, before: &Recovered) {
    let rows = store.scan(&table("t"), ALL, 10);
    assert!(matches!(store.apply(batch), Err(StoreError::Corrupt(_))));
    assert_eq!(store.recover().as_ref(), Ok(before));
    assert_eq!(store.scan(&table("t"), ALL, 10), rows);
    assert_eq!(store.tables(), Ok(vec![table("t")]));
    assert_eq!(store.applied(0, 10).map(|found| found.len()), Ok(1));
    assert_eq!(store.conflicts(0, 10), Ok(vec![]));
}

/// A retraction takes commits out of every read of the log, and keeps them whole, in order of their dots.
pub fn retracted_commits_lie_in_the_quarantine_and_nowhere_else(store: &impl Store) {
    let mut history = History::default();
    let ops = |n: i64| vec![put("t", "a", n), put("t", "b", n)];
    let mut batch = history.batch((0..6).map(|n| (1 + n % 2, ops(i64::from(n)))).collect(), |n| n > 2);
    let gone = history.authors[&1].replica;
    batch.conflicts = (1..=4).map(|id| conflict(id, gone)).collect();
    assert_eq!(store.apply(&batch), Ok(()));
    let before = store.applied(1, 10).expect("the log");
    let mut retraction = history.retract(2, 1, 2);
    retraction.conflicts_void = vec![2, 9];
    let because = retraction.commits[0].0.dot;
    assert_eq!(store.apply(&retraction), Ok(()));

    let all = store.quarantine(None, 10).expect("the quarantine");
    let expected = [&before[2], &before[4]].map(|stored| Quarantined { stored: stored.clone(), because });
    assert_eq!(all, expected);
    assert_eq!(store.quarantine(None, 1), Ok(expected[..1].to_vec()));
    assert_eq!(store.quarantine(Some(&expected[0].stored.dot()), 10), Ok(expected[1..].to_vec()));
    assert_eq!(store.quarantine(Some(&expected[1].stored.dot()), 10), Ok(vec![]));
    assert_eq!(store.quarantine(None, 0), Ok(vec![]));
    assert_eq!(store.commits(&gone, 1, 10, usize::MAX), Ok(vec![before[0].clone()]));
    let left = store.applied(1, 10).expect("the log");
    assert_eq!(left.iter().map(|stored| stored.position).collect::<Vec<_>>(), [1, 2, 4, 6, 7]);
    assert_eq!(store.applied(3, 1), Ok(vec![before[3].clone()]));
    let recovered = store.recover().expect("recovered");
    assert_eq!((recovered.position, &recovered.heads, recovered.digest), (7, &history.heads, history.digest));
    assert_eq!(recovered.heads[&gone].seq, 1);
    assert_eq!(recovered.conflict_next, 5);
    let ids: Vec<u64> = store.conflicts(0, 10).expect("conflicts").iter().map(|one| one.id).collect();
    assert_eq!(ids, [1, 3, 4]);
    state_follows_from_log(store);
    assert_eq!(store.apply(&history.put("t", "a", 9)), Ok(()));
    state_follows_from_log(store);
}

/// A row whose writes were all retracted is unknown again, its table with it, and its replica has no head.
pub fn a_row_that_nothing_stands_for_is_gone_and_so_is_its_table(store: &impl Store) {
    let mut history = History::default();
    assert_eq!(store.apply(&history.put("t", "a", 1)), Ok(()));
    let batch = history.batch(vec![(2, vec![put("t", "b", 2), put("u", "c", 2)])], |_| true);
    assert_eq!(store.apply(&batch), Ok(()));
    assert_eq!(store.tables(), Ok(vec![table("t"), table("u")]));
    let gone = history.authors[&2].replica;
    assert_eq!(store.apply(&history.retract(1, 2, 1)), Ok(()));
    assert_eq!(store.tables(), Ok(vec![table("t")]));
    assert_eq!(store.row(&table("t"), &row("b")), Ok(None));
    assert_eq!(store.row(&table("u"), &row("c")), Ok(None));
    assert_eq!(store.scan(&table("u"), ALL, 10), Ok(vec![]));
    assert_eq!(store.scan(&table("t"), ALL, 10).map(|rows| rows.len()), Ok(1));
    assert!(!store.recover().expect("recovered").heads.contains_key(&gone));
    state_follows_from_log(store);
    assert_eq!(store.apply(&history.put("u", "d", 3)), Ok(()));
    assert_eq!(store.tables(), Ok(vec![table("t"), table("u")]));
}

/// What is released from the quarantine is gone; what is not in it is not missed.
pub fn released_commits_are_gone_and_others_stay(store: &impl Store) {
    let mut history = History::default();
    let batch = history.batch((0..6).map(|n| (1 + n % 2, vec![put("t", "a", 1)])).collect(), |_| true);
    assert_eq!(store.apply(&batch), Ok(()));
    assert_eq!(store.apply(&history.retract(2, 1, 1)), Ok(()));
    let dots: Vec<Dot> =
        store.quarantine(None, 10).expect("the quarantine").iter().map(|one| one.stored.dot()).collect();
    assert_eq!(dots.len(), 3);
    let mut release = history.batch(vec![], |_| true);
    release.released = vec![dots[1], Dot { seq: 77, ..dots[1] }, batch.commits[1].0.dot];
    assert_eq!(store.apply(&release), Ok(()));
    let left: Vec<Dot> =
        store.quarantine(None, 10).expect("the quarantine").iter().map(|one| one.stored.dot()).collect();
    assert_eq!(left, [dots[0], dots[2]]);
    assert_eq!(store.recover().expect("recovered").position, 7);
    state_follows_from_log(store);
}

/// Two branches of a fork can end in one quarantine, one after the other: both are kept, and come together.
pub fn the_quarantine_keeps_different_commits_of_one_name(store: &impl Store) {
    let mut history = History::default();
    let write = |n: i64| vec![put("t", "a", n)];
    assert_eq!(store.apply(&history.batch(vec![(1, write(1))], |_| true)), Ok(()));
    let twin = history.authors[&1].clone();
    let gone = twin.replica;
    let batch = history.batch(vec![(2, write(2)), (1, write(3))], |_| true);
    assert_eq!(store.apply(&batch), Ok(()));
    assert_eq!(store.apply(&history.retract(2, 1, 2)), Ok(()));
    history.authors.insert(1, twin);
    let again = history.batch(vec![(1, write(4)), (1, write(5))], |_| true);
    assert_eq!(store.apply(&again), Ok(()));
    assert_eq!(store.apply(&history.retract(2, 1, 2)), Ok(()));
    let positions = |after: Option<&Dot>, limit| -> Vec<(u64, u64)> {
        let all = store.quarantine(after, limit).expect("the quarantine");
        all.iter().map(|one| (one.stored.dot().seq, one.stored.position)).collect()
    };
    assert_eq!(positions(None, 10), [(2, 3), (2, 5), (3, 6)]);
    assert_eq!(positions(None, 1), [(2, 3), (2, 5)]);
    let dot = Dot { replica: gone, seq: 2 };
    assert_eq!(positions(Some(&dot), 10), [(3, 6)]);
    let mut release = history.batch(vec![], |_| true);
    release.released = vec![dot];
    assert_eq!(store.apply(&release), Ok(()));
    assert_eq!(positions(None, 10), [(2, 5), (3, 6)]);
    let mut release = history.batch(vec![], |_| true);
    release.released = vec![dot];
    assert_eq!(store.apply(&release), Ok(()));
    assert_eq!(positions(None, 10), [(3, 6)]);
    state_follows_from_log(store);
}

/// A signature may come after its commit; one for a commit that is not there is refused.
pub fn signatures_join_commits_that_the_log_holds(store: &impl Store) {
    let mut history = History::default();
    assert_eq!(store.apply(&history.batch(vec![(1, vec![]), (1, vec![])], |n| n == 1)), Ok(()));
    let replica = history.authors[&1].replica;
    let mut batch = history.put("t", "a", 1);
    batch.signatures = vec![(Dot { replica, seq: 1 }, Sig([7; 64]))];
    assert_eq!(store.apply(&batch), Ok(()));
    let sigs: Vec<bool> = store.applied(1, 9).expect("the log").iter().map(|one| one.sig.is_some()).collect();
    assert_eq!(sigs, [true, true, true]);
    assert_eq!(store.commits(&replica, 1, 1, 1).expect("a commit")[0].sig, Some(Sig([7; 64])));
    let mut bad = history.put("t", "a", 2);
    bad.signatures = vec![(Dot { replica, seq: 9 }, Sig([7; 64]))];
    assert!(matches!(store.apply(&bad), Err(StoreError::Corrupt(_))));
    assert_eq!(store.recover().expect("recovered").position, 3);
}

/// Values near the largest commit come back, and rows with thousands of fields.
pub fn large_rows_come_back(store: &impl Store) {
    let mut history = History::default();
    let text = "ü".repeat(440 * 1024);
    let big = history.put("t", "big", text.as_str());
    let fields = (0..4096).map(|n| (format!("field-{n}"), Value::Int(n))).collect();
    let wide = history.batch(vec![(1, vec![op("t", "wide", OpKind::Put, fields)])], |_| true);
    // The longest names there can be.
    let (longest_table, longest_key) = ("t".repeat(128), "k".repeat(512));
    let long = history.put(&longest_table, &longest_key, 1);
    for batch in [&big, &wide, &long] {
        assert_eq!(store.apply(batch), Ok(()));
        for (table, row, state) in batch.rows() {
            assert_eq!(store.row(table, row), Ok(Some(state.clone())));
        }
    }
    let found = store.applied(1, 3).expect("commits");
    assert!(
        found.iter().map(|stored| &stored.commit).eq([&big, &wide, &long].map(|batch| &batch.commits[0].0))
    );
}

/// Hundreds of replicas, each having seen all others, come back.
pub fn many_replicas_come_back(store: &impl Store) {
    let mut history = History::default();
    let mut batch =
        history.batch((0..190).map(|n| (n, vec![put("t", "a", i64::from(n))])).collect(), |_| true);
    // Several lives of one device differ by incarnation only.
    let template = history.heads.values().next_back().expect("a head").clone();
    let device = Author::new(1).replica.device;
    for incarnation in 1_000..1_300 {
        batch.heads.insert(ReplicaId { device, incarnation }, template.clone());
    }
    assert_eq!(store.apply(&batch), Ok(()));
    let recovered = store.recover().expect("recovered");
    assert_eq!(recovered.heads, batch.heads);
    assert_eq!(recovered.members.len(), 190);
    assert_eq!(store.applied(1, 1000), Ok(stored(&batch)));
}

/// Reads beside a writer see each batch as a whole or not at all, and what was applied before stays seen.
pub fn readers_see_whole_batches(store: &impl Store) {
    const BATCHES: i64 = 40;
    let mut history = History::default();
    let batches: Vec<Batch> = (1..=BATCHES)
        .map(|n| {
            let ops = vec![put("t", "a", n), put("t", "b", n), put(&format!("new-{n}"), "c", n)];
            history.batch(vec![((n % 7) as u8, ops)], |_| true)
        })
        .collect();
    let read = |least: i64| -> i64 {
        let rows = store.scan(&table("t"), ALL, 10).expect("a scan");
        let values: Vec<_> = rows.iter().map(|(_, state)| state.field("f")).collect();
        let seen = match values.as_slice() {
            [] => 0,
            [Some(Value::Int(a)), Some(Value::Int(b))] if a == b => *a,
            torn => panic!("half a batch: {torn:?}"),
        };
        assert!(seen >= least, "a read went back from {least} to {seen}");
        let position = store.recover().expect("recovered").position as i64;
        assert!(position >= seen, "rows are ahead of the log");
        let tables = store.tables().expect("tables").len() as i64;
        assert!(tables > position || position == 0, "the log is ahead of the rows");
        seen
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0;
                while seen < BATCHES {
                    seen = read(seen);
                }
            });
        }
        for batch in &batches {
            assert_eq!(store.apply(batch), Ok(()));
        }
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_store_in_memory_keeps_the_contract() {
        super::run(64, crate::store::MemStore::new);
        super::run(8, || crate::store::MemStore::new().packing(8));
    }
}
