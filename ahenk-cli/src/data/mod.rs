//! Requests about rows, the log and conflicts: what they are ([`DataRequest`]) and how they are
//! carried out ([`call`]).

pub(crate) mod admin;
mod backup;
mod batch;
mod conflicts;
pub(crate) mod filter;
pub(crate) mod json;
mod log;
pub(crate) mod record;
mod rows;
pub(crate) mod source;
mod story;
pub(crate) mod time;
mod transfer;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use engine::name::TableName;
use serde::{Deserialize, Serialize};

pub(crate) use backup::BackedUp;
pub(crate) use batch::{Applied, Operation};
pub(crate) use conflicts::{ConflictDetail, ConflictEntry, Loss, Restored, Side};
use json::JsonFields;
pub(crate) use log::{Changed, LogEntry, Names, Since, Watched, Writer};
pub(crate) use rows::{Listed, Selection, Shape, TableCount};
pub(crate) use story::{Explanation, FieldReason, HistoryEntry, Holder, Rival};
pub(crate) use transfer::{Exported, ImportState, Imported};
pub(crate) use verify::{Compared, Outcome, Verified};

use crate::error::{CliError, Kind, Result};
use crate::service::{Caller, Context};
use crate::suggest::did_you_mean;

/// A request about data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", content = "with", rename_all = "kebab-case")]
pub(crate) enum DataRequest {
    /// Write fields of a row, and create it if it is not there. One [`Wrote`].
    Put {
        /// The table.
        table: String,
        /// The row's key.
        row: String,
        /// The fields.
        fields: JsonFields,
    },
    /// Read a row. One JSON object of its fields.
    Get {
        /// The table.
        table: String,
        /// The row's key.
        row: String,
    },
    /// Delete a row that is there. One [`Wrote`].
    Delete {
        /// The table.
        table: String,
        /// The row's key.
        row: String,
    },
    /// Rows of a table. A stream of [`Listed`].
    List {
        /// The table.
        table: String,
        /// Which rows.
        selection: Selection,
        /// In which form.
        shape: Shape,
    },
    /// How many rows of a table there are. One [`TableCount`].
    Count {
        /// The table.
        table: String,
        /// Which rows.
        selection: Selection,
    },
    /// The tables that have rows. A stream of [`TableCount`].
    Tables,
    /// The names of the tables that have rows. One list.
    TableNames,
    /// All rows. A stream of [`Exported`].
    Export {
        /// Of this table only.
        table: Option<String>,
    },
    /// How far an import has come. One [`ImportState`].
    ImportState {
        /// The import's id.
        import: String,
    },
    /// Write rows where they differ from what is there, in one transaction. One [`Imported`].
    Import {
        /// The rows, each at most once.
        rows: Vec<Exported>,
        /// The import's id and how far it has come with these rows.
        state: Option<(String, ImportState)>,
    },
    /// Operations in the order in which this device applied them. A stream of [`LogEntry`].
    Log {
        /// From here on.
        since: Option<Since>,
        /// By devices of this name, or the one whose id starts so.
        device: Option<String>,
        /// On this table.
        table: Option<String>,
        /// Only the newest.
        limit: Option<u64>,
    },
    /// Several operations in one transaction. One [`Applied`].
    Batch {
        /// What to do, in order.
        operations: Vec<Operation>,
    },
    /// Devices and retracted commits.
    Admin(admin::AdminRequest),
    /// A copy of the whole database, of one moment. One [`BackedUp`].
    Backup {
        /// The file to write, which must not be there; an absolute path.
        path: PathBuf,
    },
    /// Whether rows are what they should be, and the same elsewhere. One [`Verified`].
    Verify {
        /// The device of this name, or whose id starts so; all that can be reached, if there is none.
        peer: Option<String>,
        /// How long to try to reach other devices, in milliseconds; 0 to look at this device only.
        within_ms: u64,
    },
    /// The writes that touched a row, in the order in which this device applied them. A stream of [`HistoryEntry`].
    History {
        /// The table.
        table: String,
        /// The row's key.
        row: String,
        /// Only those that touched this field.
        field: Option<String>,
        /// Only the newest.
        limit: Option<u64>,
    },
    /// Why a row is as it is, and who has that. One [`Explanation`].
    Explain {
        /// The table.
        table: String,
        /// The row's key.
        row: String,
        /// This field only.
        field: Option<String>,
    },
    /// One conflict. One [`ConflictDetail`].
    Conflict {
        /// Its id.
        id: u64,
    },
    /// Write the values that lost conflicts anew. One [`Restored`].
    RestoreConflicts {
        /// Their ids.
        ids: Vec<u64>,
    },
    /// Values that lost a true conflict. A stream of [`ConflictEntry`].
    Conflicts {
        /// On this table.
        table: Option<String>,
        /// Only the newest.
        limit: Option<u64>,
    },
    /// Changes from a point on. A stream of [`Watched`].
    Watch {
        /// The cursor to go on from; now, if there is none.
        from: Option<String>,
        /// On this table.
        table: Option<String>,
        /// Wait for more, until cancelled.
        follow: bool,
    },
}

/// A write that is durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wrote {
    /// The commit's name: `device/incarnation:sequence`.
    pub(crate) commit: String,
    /// Its place in the order in which this device applied commits.
    pub(crate) position: u64,
}

/// Carries out a request.
pub(crate) async fn call(context: &Context, request: DataRequest, caller: &mut Caller) -> Result<()> {
    match request {
        DataRequest::Put { table, row, fields } => {
            caller.item(rows::put(context, &table, &row, fields).await?).await
        }
        DataRequest::Get { table, row } => caller.item(rows::get(context, &table, &row)?).await,
        DataRequest::Delete { table, row } => caller.item(rows::delete(context, &table, &row).await?).await,
        DataRequest::List { table, selection, shape } => {
            rows::list(context, caller, &table, selection, shape).await
        }
        DataRequest::Count { table, selection } => {
            caller.item(rows::count(context, &table, &selection).await?).await
        }
        DataRequest::Tables => rows::tables(context, caller).await,
        DataRequest::TableNames => {
            let names = context.db.tables()?;
            caller.item(names.iter().map(TableName::as_str).collect::<Vec<_>>()).await
        }
        DataRequest::Export { table } => transfer::export(context, caller, table.as_deref()).await,
        DataRequest::ImportState { import } => caller.item(transfer::state(context, &import)?).await,
        DataRequest::Import { rows, state } => {
            caller.item(transfer::import(context, rows, state).await?).await
        }
        DataRequest::Log { since, device, table, limit } => {
            log::operations(context, caller, since, device.as_deref(), table.as_deref(), limit).await
        }
        DataRequest::Conflicts { table, limit } => {
            conflicts::list(context, caller, table.as_deref(), limit).await
        }
        DataRequest::Conflict { id } => caller.item(conflicts::show(context, id).await?).await,
        DataRequest::RestoreConflicts { ids } => caller.item(conflicts::restore(context, &ids).await?).await,
        DataRequest::Batch { operations } => caller.item(batch::apply(context, &operations).await?).await,
        DataRequest::Admin(request) => admin::call(context, request, caller).await,
        DataRequest::Backup { path } => caller.item(backup::backup(context, path).await?).await,
        DataRequest::Verify { peer, within_ms } => {
            let within = Duration::from_millis(within_ms);
            caller.item(verify::verify(context, peer.as_deref(), within).await?).await
        }
        DataRequest::History { table, row, field, limit } => {
            story::history(context, caller, (&table, &row, field.as_deref()), limit).await
        }
        DataRequest::Explain { table, row, field } => {
            caller.item(story::explain(context, &table, &row, field.as_deref()).await?).await
        }
        DataRequest::Watch { from, table, follow } => {
            log::watch(context, caller, from.as_deref(), table.as_deref(), follow).await
        }
    }
}

fn no_row(context: &Context, table: &str, row: &str) -> CliError {
    let missing = CliError::new(Kind::NotFound, format!("there is no row {row:?} in table {table:?}"));
    let tables = context.db.tables().unwrap_or_default();
    if tables.iter().any(|name| name.as_str() == table) {
        return missing.hint(format!("`ahenk-cli list {table}` shows the rows there are"));
    }
    let names = tables.iter().map(TableName::as_str);
    missing.hint(did_you_mean(
        table,
        names,
        "no table of that name has rows; `ahenk-cli tables` shows those that have",
    ))
}

/// A count or limit from the wire as one of this machine.
fn at_most(limit: Option<u64>) -> usize {
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
