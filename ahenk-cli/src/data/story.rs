//! What happened to one row: every write that touched it (`history`), and why it shows what it shows, and which
//! devices have that already (`explain`).
//!
//! There is no index by row: both read the log from its beginning, a page at a time.

use std::collections::{BTreeMap, VecDeque};

use engine::commit::{Deps, OpKind, Stamp};
use engine::fields::FieldValues;
use engine::identity::{DeviceId, Dot, ReplicaId};
use engine::name::{FieldName, RowKey, TableName};
use engine::row::RowState;
use engine::store::StoreRead as _;
use engine::value::Value;
use serde::{Deserialize, Serialize};

use super::conflicts::Loss;
use super::json::{Json, JsonFields};
use super::log::{Names, PAGE, Writer, raw};
use super::{at_most, no_row};
use crate::error::{CliError, Kind, Result, closed};
use crate::service::{Caller, Context};

/// Writes of one field that `explain` lists, at most: the newest.
const RIVALS_MAX: usize = 16;

/// One write of a row's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistoryEntry {
    /// The place of its commit in the order in which this device applied commits.
    pub(crate) position: u64,
    #[serde(flatten)]
    pub(crate) by: Writer,
    /// `put`, `update`, `delete` or `replace`.
    pub(crate) kind: OpKind,
    /// What it wrote.
    pub(crate) fields: JsonFields,
    /// The fields that show what this write wrote.
    pub(crate) shown: Vec<String>,
}

/// A write that did not win, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rival {
    #[serde(flatten)]
    pub(crate) by: Writer,
    /// What it wrote; `null` too for a delete.
    pub(crate) value: Json,
    /// Whether it deleted the row.
    pub(crate) deleted: bool,
    /// Whether the winner's author had seen it, and meant to overwrite it.
    pub(crate) seen: bool,
    /// What decided.
    pub(crate) why: Loss,
}

/// Whether a device has a write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) device: String,
    pub(crate) device_id: String,
    /// `null` if nothing that this device has heard tells.
    pub(crate) has: Option<bool>,
}

/// Why a field shows what it shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FieldReason {
    pub(crate) field: String,
    pub(crate) value: Json,
    pub(crate) by: Writer,
    /// The hybrid logical clock of the write, as `milliseconds.counter`.
    pub(crate) stamp: String,
    /// Writes of this field that lost to it, the newest of them, descending.
    pub(crate) rivals: Vec<Rival>,
    /// Who has this write.
    pub(crate) holders: Vec<Holder>,
}

/// Why a row is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) table: String,
    pub(crate) row: String,
    /// Whether the row is there.
    pub(crate) present: bool,
    /// The newest write that creates it or wrote to it by `put`, unless that is deleted.
    pub(crate) inserted: Option<Writer>,
    /// The newest write that deleted it.
    pub(crate) deleted: Option<Writer>,
    /// Who has the delete; empty if the row is there.
    pub(crate) holders: Vec<Holder>,
    /// Its fields, or the one that was asked for.
    pub(crate) fields: Vec<FieldReason>,
}

struct Place {
    table: TableName,
    row: RowKey,
    field: Option<FieldName>,
    state: RowState,
}

impl Place {
    /// The row in question; an error if no device ever wrote to it.
    fn find(context: &Context, table: &str, row: &str, field: Option<&str>) -> Result<Place> {
        let name = |error| CliError::from(ahenk::ReadError::from(error));
        let (table, row) = (TableName::new(table).map_err(name)?, RowKey::new(row).map_err(name)?);
        let field = field.map(FieldName::new).transpose().map_err(name)?;
        let state = context.db.store().row(&table, &row)?;
        let state = state.ok_or_else(|| no_row(context, table.as_str(), row.as_str()))?;
        Ok(Place { table, row, field, state })
    }

    /// The stamp of what a field shows; of the delete, if the row is not there.
    fn shown_by(&self, field: &FieldName) -> Option<Stamp> {
        self.state.cells().get(field.as_str()).filter(|_| self.state.visible()).map(|cell| cell.stamp)
    }
}

/// One write that touched the row.
struct Touch {
    position: u64,
    stamp: Stamp,
    kind: OpKind,
    fields: FieldValues,
}

/// Hands each write of the row to `take`, in the order in which this device applied them, with what is known so far of
/// what each replica had seen.
async fn touches(
    context: &Context,
    place: &Place,
    mut take: impl FnMut(Touch, &BTreeMap<ReplicaId, Deps>) + Send,
) -> Result<()> {
    let (mut from, mut seen) = (1, BTreeMap::<ReplicaId, Deps>::new());
    loop {
        let page = context.db.log(from, PAGE as usize)?;
        let Some(last) = page.last().map(|stored| stored.position) else { return Ok(()) };
        from = last + 1;
        for stored in page {
            let (position, stamp) = (stored.position, stored.commit.stamp());
            let had = seen.entry(stamp.dot.replica).or_default();
            had.extend(stored.commit.deps);
            let op = stored.commit.ops.into_iter().find(|op| op.table == place.table && op.row == place.row);
            if let Some(op) = op {
                take(Touch { position, stamp, kind: op.kind, fields: op.fields }, &seen);
            }
        }
        tokio::task::yield_now().await;
    }
}

pub(super) async fn history(
    context: &Context,
    caller: &Caller,
    (table, row, field): (&str, &str, Option<&str>),
    limit: Option<u64>,
) -> Result<()> {
    let place = Place::find(context, table, row, field)?;
    let names = Names::read(context).await?;
    let limit = at_most(limit);
    let (mut kept, mut any) = (VecDeque::new(), false);
    touches(context, &place, |touch, _| {
        let fits = |field: &FieldName| touch.fields.contains_key(field) || touch.kind.deletes();
        any |= place.field.as_ref().is_none_or(|field| touch.fields.contains_key(field));
        if place.field.as_ref().is_none_or(fits) {
            kept.push_back(touch);
            if kept.len() > limit {
                kept.pop_front();
            }
        }
    })
    .await?;
    if let Some(field) = place.field.as_ref().filter(|_| !any) {
        return Err(no_field(field));
    }
    for touch in kept {
        let shown = touch.fields.keys().filter(|field| place.shown_by(field) == Some(touch.stamp));
        let entry = HistoryEntry {
            position: touch.position,
            by: names.writer(touch.stamp),
            kind: touch.kind,
            shown: shown.map(ToString::to_string).collect(),
            fields: JsonFields(raw(touch.fields)),
        };
        caller.item(entry).await?;
    }
    Ok(())
}

fn no_field(field: &FieldName) -> CliError {
    CliError::new(Kind::NotFound, format!("no device ever wrote the field {field:?} of this row"))
        .hint("leave the field out to see all of them")
}

pub(super) async fn explain(
    context: &Context,
    table: &str,
    row: &str,
    field: Option<&str>,
) -> Result<Explanation> {
    let place = Place::find(context, table, row, field)?;
    let (names, audience) = (Names::read(context).await?, Audience::read(context).await?);
    let visible = place.state.visible();
    let wanted = |name: &FieldName| visible && place.field.as_ref().is_none_or(|field| field == name);
    let cells = place.state.cells().iter().filter(|(name, _)| wanted(name));
    let mut fields: BTreeMap<FieldName, FieldReason> = cells
        .map(|(name, cell)| {
            let reason = FieldReason {
                field: name.to_string(),
                value: Json(cell.value),
                by: names.writer(cell.stamp),
                stamp: format!("{:?}", cell.stamp.hlc),
                rivals: Vec::new(),
                holders: audience.holders(&names, cell.stamp.dot),
            };
            (name, reason)
        })
        .collect();
    if let Some(field) = place.field.as_ref().filter(|field| visible && !fields.contains_key(*field)) {
        return Err(CliError::new(Kind::NotFound, format!("the row has no field {field:?}"))
            .hint("leave the field out to see all of them; `ahenk-cli history` shows what was"));
    }
    let writes = rivals(context, &place, &fields).await?;
    for (name, reason) in &mut fields {
        let winner = place.shown_by(name);
        let mut lost = writes.get(name).cloned().unwrap_or_default();
        lost.sort_by_key(|rival| std::cmp::Reverse(rival.0));
        let rival = |(stamp, value, seen): (Stamp, Option<Value>, bool)| Rival {
            by: names.writer(stamp),
            deleted: value.is_none(),
            value: Json(value.unwrap_or(Value::Null)),
            seen,
            why: winner.map_or(Loss::Later, |winner| Loss::of(winner, stamp)),
        };
        reason.rivals = lost.into_iter().take(RIVALS_MAX).map(rival).collect();
    }
    let deleted = place.state.del();
    let gone = deleted.filter(|_| !visible);
    Ok(Explanation {
        table: table.to_owned(),
        row: row.to_owned(),
        present: visible,
        inserted: place.state.ins().map(|stamp| names.writer(stamp)),
        deleted: deleted.map(|stamp| names.writer(stamp)),
        holders: gone.map(|stamp| audience.holders(&names, stamp.dot)).unwrap_or_default(),
        fields: fields.into_values().collect(),
    })
}

/// The writes of each field that are not what it shows: stamp, value (`None` for a delete), and whether the author of
/// what it shows had seen it.
type Writes = BTreeMap<FieldName, Vec<(Stamp, Option<Value>, bool)>>;

async fn rivals(
    context: &Context,
    place: &Place,
    fields: &BTreeMap<FieldName, FieldReason>,
) -> Result<Writes> {
    let mut writes = Writes::new();
    // What the author of each winner had seen when it wrote it.
    let mut had_seen = BTreeMap::<Dot, Deps>::new();
    touches(context, place, |touch, seen| {
        let had = seen.get(&touch.stamp.dot.replica).cloned().unwrap_or_default();
        had_seen.insert(touch.stamp.dot, had);
        for name in fields.keys().filter(|name| place.shown_by(name) != Some(touch.stamp)) {
            let value = touch.fields.get(name);
            if value.is_some() || touch.kind.deletes() {
                let list = writes.entry(name.clone()).or_default();
                list.push((touch.stamp, value.cloned(), false));
                // Bounded, whatever happened to the row: the newest stay.
                if list.len() > 2 * RIVALS_MAX {
                    list.sort_by_key(|rival| std::cmp::Reverse(rival.0));
                    list.truncate(RIVALS_MAX);
                }
            }
        }
        // Only what some field shows is needed at the end.
        had_seen
            .retain(|dot, _| fields.keys().any(|name| place.shown_by(name).is_some_and(|s| s.dot == *dot)));
    })
    .await?;
    for (name, list) in &mut writes {
        let Some(winner) = place.shown_by(name) else { continue };
        let had = had_seen.get(&winner.dot);
        for (stamp, _, seen) in list {
            let other = stamp.dot;
            *seen = if other.replica == winner.dot.replica {
                other.seq < winner.dot.seq
            } else {
                had.and_then(|deps| deps.get(&other.replica)).is_some_and(|seq| *seq >= other.seq)
            };
        }
    }
    Ok(writes)
}

/// What is known of who has what.
struct Audience {
    own: DeviceId,
    /// What each device is known to have: what its own commits say that it had seen, and what it states while connected.
    heads: BTreeMap<ReplicaId, engine::store::Head>,
    connected: BTreeMap<DeviceId, engine::knowledge::Knowledge>,
}

impl Audience {
    async fn read(context: &Context) -> Result<Audience> {
        let connected = context.db.peer_knowledge().await.ok_or_else(closed)?;
        let heads = context.db.store().recover()?.heads;
        Ok(Audience { own: context.identity.device(), heads, connected: connected.into_iter().collect() })
    }

    fn has(&self, device: DeviceId, dot: Dot) -> Option<bool> {
        if device == self.own || device == dot.replica.device {
            return Some(true);
        }
        let stated = self.connected.get(&device).map(|known| known.contains(&dot));
        let mut lives = self.heads.iter().filter(|(replica, _)| replica.device == device);
        let saw = lives.any(|(_, head)| head.seen.get(&dot.replica).is_some_and(|seq| *seq >= dot.seq));
        if saw { Some(true) } else { stated }
    }

    fn holders(&self, names: &Names, dot: Dot) -> Vec<Holder> {
        let holder = |(id, name): (&DeviceId, &String)| Holder {
            device: name.clone(),
            device_id: id.to_string(),
            has: self.has(*id, dot),
        };
        names.iter().map(holder).collect()
    }
}
