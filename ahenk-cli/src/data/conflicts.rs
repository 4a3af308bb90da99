//! Values that lost a true conflict: listing them, showing one, and writing lost ones anew.
//!
//! Invariant: a restored value is an ordinary write, made now by this device; the ledger stays as it is.

use std::collections::VecDeque;

use ahenk::Fields;
use engine::commit::Stamp;
use engine::name::TableName;
use engine::store::{Conflict, StoreRead as _};
use engine::value::Value;
use serde::{Deserialize, Serialize};

use super::at_most;
use super::json::Json;
use super::log::{Names, PAGE, Writer};
use crate::error::{CliError, Kind, Result};
use crate::service::{Caller, Context};

/// Lost values that are restored in one transaction, at most.
const RESTORED_MAX: usize = 1024;

/// Why a value lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Loss {
    /// The winner was written later.
    Later,
    /// Both were written at the same moment; the higher device id decides.
    HigherDevice,
    /// Both were written at the same moment by two lives of one device; the higher one decides.
    HigherIncarnation,
}

impl Loss {
    pub(super) fn of(winner: Stamp, loser: Stamp) -> Loss {
        if winner.hlc != loser.hlc {
            Loss::Later
        } else if winner.dot.replica.device != loser.dot.replica.device {
            Loss::HigherDevice
        } else {
            Loss::HigherIncarnation
        }
    }
}

/// One side of a conflict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Side {
    #[serde(flatten)]
    pub(crate) by: Writer,
    /// What it wrote; `null` too if it deleted the row or the field, see `deleted`.
    pub(crate) value: Json,
    /// Whether it deleted what the other wrote.
    pub(crate) deleted: bool,
}

/// A value that lost a true conflict: whoever wrote the winner had not seen it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConflictEntry {
    /// Ascends with each conflict on this device.
    pub(crate) id: u64,
    pub(crate) table: String,
    pub(crate) row: String,
    pub(crate) field: String,
    pub(crate) lost: Side,
    pub(crate) won: Side,
    pub(crate) why: Loss,
    /// When this device noticed, in milliseconds since the Unix epoch.
    pub(crate) noticed_ms: u64,
}

/// A conflict, and what became of the field since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConflictDetail {
    #[serde(flatten)]
    pub(crate) conflict: ConflictEntry,
    /// What the field shows now; `null` too if there is no such row or field, see `present`.
    pub(crate) now: Json,
    /// Whether the row is there and has the field.
    pub(crate) present: bool,
}

/// What restoring has written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Restored {
    /// The conflicts whose lost value was written anew.
    pub(crate) restored: Vec<u64>,
    /// Those whose lost value the field shows already.
    pub(crate) unchanged: Vec<u64>,
}

pub(super) async fn list(
    context: &Context,
    caller: &Caller,
    table: Option<&str>,
    limit: Option<u64>,
) -> Result<()> {
    let names = Names::read(context).await?;
    let table = table.map(TableName::new).transpose().map_err(ahenk::ReadError::from)?;
    let (mut from, mut kept, limit) = (0, VecDeque::new(), at_most(limit));
    // The ledger is bounded, so it may be read as a whole.
    loop {
        let page = context.db.conflicts(from, PAGE as usize)?;
        let Some(last) = page.last().map(|conflict| conflict.id) else { break };
        from = last + 1;
        for conflict in page {
            if table.as_ref().is_none_or(|table| conflict.table == *table) {
                kept.push_back(conflict);
                if kept.len() > limit {
                    kept.pop_front();
                }
            }
        }
    }
    for conflict in kept {
        caller.item(entry(context, &names, conflict)?).await?;
    }
    Ok(())
}

pub(super) async fn show(context: &Context, id: u64) -> Result<ConflictDetail> {
    let names = Names::read(context).await?;
    let conflict = find(context, id)?;
    let now = shown(context, &conflict)?;
    let present = now.is_some();
    Ok(ConflictDetail {
        conflict: entry(context, &names, conflict)?,
        now: Json(now.unwrap_or(Value::Null)),
        present,
    })
}

/// Writes lost values anew, all of them in one transaction. A row that was deleted comes back with them.
pub(super) async fn restore(context: &Context, ids: &[u64]) -> Result<Restored> {
    if ids.len() > RESTORED_MAX {
        return Err(
            CliError::usage(format!("more than {RESTORED_MAX} conflicts")).hint("restore fewer at a time")
        );
    }
    let lost = ids.iter().map(|id| find(context, *id)).collect::<Result<Vec<_>>>()?;
    for (n, one) in lost.iter().enumerate() {
        let place = |other: &Conflict| (other.table.clone(), other.row.clone(), other.field.clone());
        if let Some(other) = lost[..n].iter().find(|other| place(other) == place(one)) {
            let message = format!("conflicts {} and {} are about the same field", other.id, one.id);
            return Err(CliError::usage(message).hint("restore one of the two"));
        }
    }
    let written = context
        .db
        .transaction(|transaction| {
            let mut result = Restored { restored: Vec::new(), unchanged: Vec::new() };
            for Conflict { id, table, row, field, value, .. } in &lost {
                let (table, row) = (table.as_str(), row.as_str());
                let there = transaction.get(table, row)?;
                if there.as_ref().and_then(|row| row.get(field.as_str())) == Some(value) {
                    result.unchanged.push(*id);
                } else {
                    transaction.put(table, row, Fields::new().set(field.as_str(), value.clone()))?;
                    result.restored.push(*id);
                }
            }
            Ok(result)
        })
        .await?;
    Ok(written)
}

fn find(context: &Context, id: u64) -> Result<Conflict> {
    let found = context.db.conflicts(id, 1)?.into_iter().next().filter(|conflict| conflict.id == id);
    found.ok_or_else(|| {
        CliError::new(Kind::NotFound, format!("there is no conflict {id} on this device")).hint(
            "`ahenk-cli conflicts` lists them; ids are of one device only, and the oldest are forgotten",
        )
    })
}

fn shown(context: &Context, conflict: &Conflict) -> Result<Option<Value>> {
    let row = context.db.get(conflict.table.as_str(), conflict.row.as_str())?;
    Ok(row.and_then(|row| row.get(conflict.field.as_str()).cloned()))
}

fn entry(context: &Context, names: &Names, conflict: Conflict) -> Result<ConflictEntry> {
    let winner = won(context, &conflict)?;
    let (lost, won) = (conflict.loser, conflict.winner);
    Ok(ConflictEntry {
        id: conflict.id,
        table: conflict.table.to_string(),
        row: conflict.row.to_string(),
        field: conflict.field.to_string(),
        lost: Side { by: names.writer(lost), value: Json(conflict.value), deleted: false },
        won: Side {
            by: names.writer(won),
            deleted: winner.is_none(),
            value: Json(winner.unwrap_or(Value::Null)),
        },
        why: Loss::of(won, lost),
        noticed_ms: conflict.noticed_ms,
    })
}

/// The value that the winner wrote; `None` if it deleted the row, or replaced it without this field.
fn won(context: &Context, conflict: &Conflict) -> Result<Option<Value>> {
    let dot = conflict.winner.dot;
    let stored = context.db.store().commits(&dot.replica, dot.seq, 1, usize::MAX)?;
    let ops =
        stored.into_iter().filter(|stored| stored.commit.dot == dot).flat_map(|stored| stored.commit.ops);
    let mut ops = ops.filter(|op| (&op.table, &op.row) == (&conflict.table, &conflict.row));
    Ok(ops.next().and_then(|mut op| op.fields.remove(&conflict.field)))
}
