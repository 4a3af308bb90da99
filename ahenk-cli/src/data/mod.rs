//! Requests about rows, the log and conflicts: what they are ([`DataRequest`]) and how they are
//! carried out ([`call`]).

mod value;

use std::collections::BTreeMap;

use ahenk::Fields;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub(crate) use value::{from_json, row_json};

use crate::error::{CliError, Kind, Result};
use crate::service::{Caller, Context};

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
        /// Values as JSON.
        fields: BTreeMap<String, Json>,
    },
    /// Read a row. One JSON object of its fields.
    Get {
        /// The table.
        table: String,
        /// The row's key.
        row: String,
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
            let fields: Fields = fields
                .into_iter()
                .map(|(name, value)| Ok((name, from_json(value)?)))
                .collect::<Result<_>>()?;
            let written = context.db.put(&table, &row, fields).await?;
            let wrote = Wrote { commit: written.stamp.dot.to_string(), position: written.position };
            caller.item(wrote).await
        }
        DataRequest::Get { table, row } => match context.db.get(&table, &row)? {
            Some(found) => caller.item(row_json(&found)).await,
            None => Err(CliError::new(Kind::NotFound, format!("there is no row {row:?} in table {table:?}"))
                .hint(format!("`ahenk-cli list {table}` shows the rows there are"))),
        },
    }
}
