//! The oracle of watchers: what one was shown, beside the log and the quarantine.

use std::collections::BTreeSet;

use engine::commit::OpKind;
use engine::store::{StoreError, StoreRead};

use crate::oracle::{Violation, violation};
use crate::plan::letter;
use crate::sim_store::SimStore;
use crate::software::Seen;

/// What a watcher saw is what the log holds from where it was, each operation once and in order. It may have seen what
/// was retracted since, too, before it was; and of a statement it sees the rows that were derived anew because of it.
pub(crate) fn check_watched(
    node: usize,
    store: &SimStore,
    at: &mut (u64, usize),
    watched: Vec<Seen>,
) -> Result<(), Violation> {
    let oracle = "a watcher sees each change once and in order";
    if watched.is_empty() {
        return Ok(());
    }
    let unread = |error: StoreError| Violation { oracle: "a store can be read", sentence: error.to_string() };
    let retracted = store.quarantine(None, usize::MAX).map_err(unread)?;
    for seen in watched {
        let due = loop {
            let logged = store.applied(at.0, 1).map_err(unread)?.into_iter().next();
            let end = logged.as_ref().map_or(u64::MAX, |stored| stored.position);
            let gone = retracted.iter().filter(|one| (at.0..end).contains(&one.stored.position));
            if let Some(gone) = gone.min_by_key(|one| one.stored.position) {
                let (position, commit) = (gone.stored.position, &gone.stored.commit);
                let op = commit.ops.get(if position == at.0 { at.1 } else { 0 });
                if op.is_some_and(|op| seen == (commit.stamp(), op.row.to_string(), Some(op.kind))) {
                    let index = if position == at.0 { at.1 } else { 0 };
                    *at = (position, index + 1);
                    break None;
                }
                *at = (position + 1, 0);
                continue;
            }
            let Some(stored) = logged else { break Some(None) };
            if stored.position > at.0 {
                *at = (stored.position, 0);
            }
            let dot = stored.commit.dot;
            let ops: Vec<(String, Option<OpKind>)> = match stored.commit.statement {
                Some(_) => {
                    let because = retracted.iter().filter(|one| one.because == dot);
                    let rows = because.flat_map(|one| &one.stored.commit.ops);
                    let rows: BTreeSet<_> = rows.map(|op| (&op.table, &op.row)).collect();
                    rows.into_iter().map(|(_, row)| (row.to_string(), None)).collect()
                }
                None => stored.commit.ops.iter().map(|op| (op.row.to_string(), Some(op.kind))).collect(),
            };
            match ops.into_iter().nth(at.1) {
                Some((row, kind)) => {
                    *at = (stored.position, at.1 + 1);
                    // What was done to a row that is derived anew depends on when the watcher looked.
                    break Some(Some((stored.commit.stamp(), row, kind.or(seen.2))));
                }
                None => *at = (stored.position + 1, 0),
            }
        };
        if let Some(due) = due
            && due.as_ref() != Some(&seen)
        {
            return violation(oracle, format!("{} was shown {seen:?} where {due:?} was due", letter(node)));
        }
    }
    Ok(())
}
