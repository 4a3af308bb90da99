//! The log in chunks: columns for many commits, gathered where they came one by one, and rewritten where they change.

mod common;

use std::path::Path;

use common::{create, open, put};
use engine::store::contract::{History, state_follows_from_log};
use engine::store::{Batch, Store, StoreRead, StoredCommit};
use engine::value::Value;
use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};
use store::RedbStore;

fn entries(path: &Path, table: &'static str) -> (u64, u64) {
    let db = redb::Database::open(path).expect("a redb file");
    let txn = db.begin_read().expect("a transaction");
    let table = txn.open_table(TableDefinition::<&[u8], &[u8]>::new(table)).expect("a table");
    (table.len().expect("a count"), table.stats().expect("statistics").stored_bytes())
}

/// A commit of the n-th author with one operation.
fn commit(n: usize) -> (u8, Vec<engine::commit::Op>) {
    let author = if n % 50 < 40 { 1 } else { 2 };
    (author, vec![put("things", &format!("row-{}", n % 20), Value::Text(format!("value {n}")))])
}

fn everything(store: &RedbStore) -> (Vec<StoredCommit>, Vec<Vec<StoredCommit>>) {
    let log = store.applied(1, usize::MAX).expect("the log");
    let heads = store.recover().expect("recovered").heads;
    let of = |replica| store.commits(replica, 1, usize::MAX, usize::MAX).expect("commits");
    (log, heads.keys().map(of).collect())
}

fn held(batches: &[Batch]) -> Vec<StoredCommit> {
    let commits = batches.iter().flat_map(|batch| &batch.commits);
    (1..)
        .zip(commits)
        .map(|(position, (commit, sig))| StoredCommit { position, commit: commit.clone(), sig: *sig })
        .collect()
}

#[test]
fn commits_that_came_one_by_one_lie_in_few_chunks_after_a_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = create(&path);
    let mut history = History::default();
    let batches: Vec<Batch> = (0..300).map(|n| history.batch(vec![commit(n)], |_| n % 3 == 0)).collect();
    batches.iter().for_each(|batch| assert_eq!(store.apply(batch), Ok(())));
    drop(store);
    let (chunks, bytes) = entries(&path, "log");
    assert_eq!(chunks, 300, "as few commits as these are no reason for a checkpoint");
    let store = open(&path).expect("it opens").with_checkpoint_at(0, 0);
    let before = everything(&store);
    let more = history.batch(vec![commit(300)], |_| true);
    assert_eq!(store.apply(&more), Ok(()));
    let (mut log, mut of) = everything(&store);
    assert_eq!(log.pop().map(|stored| stored.commit), more.commits.first().map(|(commit, _)| commit.clone()));
    of[0].retain(|stored| stored.position <= 300);
    of[1].retain(|stored| stored.position <= 300);
    assert_eq!((log, of), before, "nobody can tell");
    assert_eq!(before.0, held(&batches));
    state_follows_from_log(&store);
    drop(store);
    let (parts, gathered) = entries(&path, "log");
    assert!(parts < 10 && gathered * 2 < bytes, "{parts} parts, {gathered} bytes instead of {bytes}");
    // All commits of a replica in one chunk are one stretch.
    assert_eq!(entries(&path, "index").0, 2);
}

#[test]
fn a_signature_or_a_retraction_shows_although_the_chunk_was_read_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = create(&folder.path().join("db"));
    let mut history = History::default();
    let batch = history.batch((0..300).map(commit).collect(), |n| n == 299);
    assert_eq!(store.apply(&batch), Ok(()));
    assert_eq!(everything(&store).0, held(std::slice::from_ref(&batch)));

    let (author, sig) = (batch.commits[0].0.dot.replica, batch.commits[299].1.expect("a signature"));
    let dot = batch.commits[17].0.dot;
    let mut signs = history.batch(vec![], |_| false);
    signs.signatures = vec![(dot, sig)];
    assert_eq!(store.apply(&signs), Ok(()));
    let found = store.commits(&author, dot.seq, 1, usize::MAX).expect("a commit");
    assert_eq!((found[0].dot(), found[0].sig), (dot, Some(sig)));

    let retraction = history.retract(2, 1, 100);
    assert_eq!(store.apply(&retraction), Ok(()));
    state_follows_from_log(&store);
    let left = store.commits(&author, 1, usize::MAX, usize::MAX).expect("commits");
    assert_eq!(left.len(), 99);
    let log = store.applied(1, usize::MAX).expect("the log");
    // 240 commits of the author's were there, and one says that 141 of them do not count.
    assert_eq!(log.len(), 300 - 141 + 1);
    assert!(log.windows(2).all(|pair| pair[0].position < pair[1].position));
    assert_eq!(store.quarantine(None, usize::MAX).expect("the quarantine").len(), 141);
}
