//! `get`: read a row, or one field of it.

use super::{Env, inline};
use crate::backend::Need;
use crate::data::DataRequest;
use crate::data::json::{Json, JsonFields};
use crate::error::{CliError, Kind, Result};
use crate::output::printable;
use crate::protocol::Request;

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ahenk-cli get tasks t1\n  ahenk-cli get tasks t1 title\n  ahenk-cli --json get tasks t1 | jq .title"
)]
pub(crate) struct Args {
    /// The table
    #[arg(add = super::complete::tables())]
    table: String,
    /// The row's key
    row: String,
    /// One field only
    field: Option<String>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let request = DataRequest::Get { table: args.table, row: args.row };
    env.with_backend(Need::Store, async |backend| {
        let mut row: JsonFields = backend.one(Request::Data(request)).await?;
        let Some(field) = &args.field else {
            if env.out.json() {
                return env.out.document(&row);
            }
            for (name, value) in &row.0 {
                env.out.line(&format!("{} = {}", printable(name), inline(value)))?;
            }
            return Ok(());
        };
        let value = row.0.remove(field).ok_or_else(|| {
            CliError::new(Kind::NotFound, format!("the row has no field {field:?}"))
                .hint("leave the field out to see all of them")
        })?;
        env.out.show(&Json(value), |value| inline(&value.0))
    })
    .await
}
