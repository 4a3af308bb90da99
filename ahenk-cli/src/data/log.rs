//! The log and the stream of changes, with the names of the devices that wrote.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ahenk::Cursor;
use engine::commit::{Op, OpKind, Stamp};
use engine::identity::DeviceId;
use engine::name::{FieldName, TableName};
use engine::store::{StoreRead as _, StoredCommit};
use engine::value::Value;
use serde::{Deserialize, Serialize};

use super::json::{JsonFields, RawFields};
use super::{at_most, rows};
use crate::error::{CliError, Kind, Result, closed};
use crate::service::{Caller, Context};
use crate::suggest::{ambiguous, did_you_mean};

/// Commits or conflicts read from the store at a time.
pub(super) const PAGE: u64 = 64;

/// Where to begin in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Since {
    /// At this position, from 1.
    Position(u64),
    /// With what was written at this time or later, in milliseconds since the Unix epoch, by the writers' clocks.
    TimeMs(u64),
}

/// Who wrote, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Writer {
    /// Milliseconds since the Unix epoch, by the writer's clock.
    pub(crate) time_ms: u64,
    /// The device's name.
    pub(crate) device: String,
    pub(crate) device_id: String,
    /// The commit's name: `device/incarnation:sequence`.
    pub(crate) commit: String,
}

/// One operation of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogEntry {
    /// The place of its commit in the order in which this device applied commits.
    pub(crate) position: u64,
    #[serde(flatten)]
    pub(crate) by: Writer,
    pub(crate) table: String,
    pub(crate) row: String,
    /// `put`, `update`, `delete` or `replace`.
    pub(crate) kind: OpKind,
    pub(crate) fields: JsonFields,
}

/// One change, or the point up to which there are no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Watched {
    Change(Changed),
    End { end: String },
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// The point just after it: watch from here to go on.
    pub(crate) cursor: String,
    #[serde(flatten)]
    pub(crate) by: Writer,
    pub(crate) table: String,
    pub(crate) row: String,
    /// `put`, `update`, `delete` or `replace`.
    pub(crate) kind: OpKind,
    /// What was written.
    pub(crate) fields: JsonFields,
    /// The row as it is now; `null` if it is not there.
    pub(crate) now: Option<JsonFields>,
}

/// The names of the account's devices.
pub(crate) struct Names {
    names: BTreeMap<DeviceId, String>,
    revoked: BTreeSet<DeviceId>,
}

impl Names {
    pub(crate) async fn read(context: &Context) -> Result<Names> {
        let status = context.db.status().await.ok_or_else(closed)?;
        Ok(Names {
            names: status.members.into_iter().map(|cert| (cert.device(), cert.name)).collect(),
            revoked: status.revocations.iter().map(|revocation| revocation.device).collect(),
        })
    }

    /// Ids and names, ascending by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&DeviceId, &String)> {
        self.names.iter()
    }

    /// What a device is called; `?` if it is not known.
    pub(crate) fn name(&self, device: DeviceId) -> String {
        self.names.get(&device).cloned().unwrap_or_else(|| "?".to_owned())
    }

    pub(super) fn writer(&self, stamp: Stamp) -> Writer {
        let device = stamp.dot.replica.device;
        Writer {
            time_ms: stamp.hlc.ms(),
            device: self.name(device),
            device_id: device.to_string(),
            commit: stamp.dot.to_string(),
        }
    }

    /// Like [`Names::writer`], but learns of devices that joined meanwhile.
    async fn writer_of_new(&mut self, context: &Context, stamp: Stamp) -> Result<Writer> {
        if !self.names.contains_key(&stamp.dot.replica.device) {
            *self = Names::read(context).await?;
        }
        Ok(self.writer(stamp))
    }

    /// The devices that are called so, or else the one whose id starts so.
    pub(super) fn matching(&self, text: &str) -> Result<BTreeSet<DeviceId>> {
        let named: BTreeSet<DeviceId> =
            self.names.iter().filter(|(_, name)| *name == text).map(|(id, _)| *id).collect();
        if !named.is_empty() {
            return Ok(named);
        }
        let prefix = text.to_ascii_lowercase();
        let begins = |id: &DeviceId| !prefix.is_empty() && id.to_string().starts_with(&prefix);
        let found: BTreeSet<DeviceId> = self.names.keys().copied().filter(begins).collect();
        match found.len() {
            1 => Ok(found),
            0 => Err(CliError::new(
                Kind::NotFound,
                format!("no device is called {text:?}, nor has such an id"),
            )
            .hint(did_you_mean(
                text,
                self.names.values().map(String::as_str),
                "`ahenk-cli device list` shows the devices",
            ))),
            _ => Err(self.several(text, &found)),
        }
    }

    /// The one device that is called so, or whose id starts so. Among several of one name, the one that is not revoked.
    pub(crate) fn one(&self, text: &str) -> Result<DeviceId> {
        let found = self.matching(text)?;
        let standing = || found.iter().filter(|id| !self.revoked.contains(id));
        match (found.first(), standing().next(), found.len(), standing().count()) {
            (Some(one), _, 1, _) | (_, Some(one), _, 1) => Ok(*one),
            _ => Err(self.several(text, &found)),
        }
    }

    fn several(&self, text: &str, found: &BTreeSet<DeviceId>) -> CliError {
        ambiguous(text, "device", found.iter().map(|id| format!("{} ({id})", self.name(*id))))
    }
}

pub(super) fn raw(fields: impl IntoIterator<Item = (FieldName, Value)>) -> RawFields {
    fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// What of the log is asked for.
struct Filter {
    since_ms: u64,
    devices: Option<BTreeSet<DeviceId>>,
    table: Option<TableName>,
}

impl Filter {
    fn ops(&self, stored: StoredCommit) -> impl DoubleEndedIterator<Item = Op> {
        let by = stored.commit.dot.replica.device;
        let fits = stored.commit.hlc.ms() >= self.since_ms
            && self.devices.as_ref().is_none_or(|devices| devices.contains(&by));
        let table = self.table.clone();
        let ops = stored.commit.ops.into_iter().filter(move |_| fits);
        ops.filter(move |op| table.as_ref().is_none_or(|table| op.table == *table))
    }
}

fn entry(names: &Names, position: u64, stamp: Stamp, op: Op) -> LogEntry {
    LogEntry {
        position,
        by: names.writer(stamp),
        table: op.table.to_string(),
        row: op.row.to_string(),
        kind: op.kind,
        fields: JsonFields(raw(op.fields)),
    }
}

pub(super) async fn operations(
    context: &Context,
    caller: &Caller,
    since: Option<Since>,
    device: Option<&str>,
    table: Option<&str>,
    limit: Option<u64>,
) -> Result<()> {
    let names = Names::read(context).await?;
    let (first, since_ms) = match since {
        None => (1, 0),
        Some(Since::Position(position)) => (position.max(1), 0),
        Some(Since::TimeMs(ms)) => (1, ms),
    };
    let filter = Filter {
        since_ms,
        devices: device.map(|device| names.matching(device)).transpose()?,
        table: table.map(TableName::new).transpose().map_err(ahenk::ReadError::from)?,
    };
    match limit {
        Some(limit) => {
            let entries = newest(context, &names, &filter, first, at_most(Some(limit)))?;
            for entry in entries {
                caller.item(entry).await?;
            }
        }
        None => {
            let mut from = first;
            loop {
                let page = context.db.log(from, PAGE as usize)?;
                let Some(last) = page.last().map(|stored| stored.position) else { break };
                from = last + 1;
                for stored in page {
                    let (position, stamp) = (stored.position, stored.commit.stamp());
                    for op in filter.ops(stored) {
                        caller.item(entry(&names, position, stamp, op)).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The newest operations that fit, oldest first. Reads the log from its end.
fn newest(
    context: &Context,
    names: &Names,
    filter: &Filter,
    first: u64,
    limit: usize,
) -> Result<VecDeque<LogEntry>> {
    let mut entries = VecDeque::new();
    let mut end = context.db.store().recover()?.position;
    while end >= first && entries.len() < limit {
        let from = end.saturating_sub(PAGE - 1).max(first);
        let page = context.db.log(from, (end - from + 1) as usize)?;
        for stored in page.into_iter().filter(|stored| stored.position <= end).rev() {
            let (position, stamp) = (stored.position, stored.commit.stamp());
            let ops = filter.ops(stored).rev().take(limit - entries.len());
            for op in ops.collect::<Vec<_>>() {
                entries.push_front(entry(names, position, stamp, op));
            }
        }
        end = from - 1;
    }
    Ok(entries)
}

pub(super) async fn watch(
    context: &Context,
    caller: &Caller,
    from: Option<&str>,
    table: Option<&str>,
    follow: bool,
) -> Result<()> {
    let mut names = Names::read(context).await?;
    let table = table.map(TableName::new).transpose().map_err(ahenk::ReadError::from)?;
    let cursor = match from {
        None => context.db.cursor(),
        Some(text) => text.parse::<Cursor>().map_err(|error| {
            CliError::usage(format!("{text:?}: {error}")).hint(
                "every change that `watch` prints carries the cursor just after it; `0.0` is the beginning",
            )
        })?,
    };
    let mut watch = context.db.watch(cursor);
    loop {
        let change = if follow { watch.next().await? } else { watch.try_next()? };
        let Some(change) = change else { break };
        if table.as_ref().is_some_and(|table| change.table != *table) {
            continue;
        }
        let changed = Changed {
            cursor: change.cursor.to_string(),
            by: names.writer_of_new(context, change.stamp).await?,
            table: change.table.to_string(),
            row: change.row.to_string(),
            kind: change.kind,
            fields: JsonFields(raw(change.fields)),
            now: change.now.map(|row| JsonFields(rows::raw(row))),
        };
        caller.item(Watched::Change(changed)).await?;
    }
    caller.item(Watched::End { end: watch.cursor().to_string() }).await
}
