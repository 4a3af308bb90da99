//! `get`: read a row, or one field of it.

use serde_json::{Map, Value as Json};

use super::Env;
use crate::backend::Need;
use crate::data::DataRequest;
use crate::error::{CliError, Kind, Result};
use crate::output::printable;
use crate::protocol::Request;

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table
    table: String,
    /// The row's key
    row: String,
    /// One field only
    field: Option<String>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let request = DataRequest::Get { table: args.table, row: args.row };
    env.with_backend(Need::Store, async |backend| {
        let row: Map<String, Json> = backend.one(Request::Data(request)).await?;
        match &args.field {
            None if env.out.json() => env.out.document(&row),
            None => {
                row.iter().try_for_each(|(name, value)| env.out.line(&format!("{name} = {}", human(value))))
            }
            Some(field) => {
                let value = row.get(field).ok_or_else(|| {
                    CliError::new(Kind::NotFound, format!("the row has no field {field:?}"))
                        .hint("leave the field out to see all of them")
                })?;
                env.out.show(value, human)
            }
        }
    })
    .await
}

fn human(value: &Json) -> String {
    match value {
        Json::String(text) => printable(text),
        other => other.to_string(),
    }
}
