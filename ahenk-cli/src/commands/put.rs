//! `put`: write fields of a row.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::Env;
use crate::backend::Need;
use crate::data::{DataRequest, Wrote};
use crate::error::{CliError, Result};
use crate::protocol::Request;

/// Arguments of `put`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table
    table: String,
    /// The row's key
    row: String,
    /// Fields as name=value; a value that reads as JSON is taken as such, any other as text
    #[arg(value_name = "FIELD=VALUE", required = true)]
    fields: Vec<String>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let fields = args.fields.iter().map(|field| parse(field)).collect::<Result<BTreeMap<_, _>>>()?;
    let request = DataRequest::Put { table: args.table, row: args.row, fields };
    env.with_backend(Need::Store, async |backend| {
        let wrote: Wrote = backend.one(Request::Data(request)).await?;
        if env.out.json() { env.out.document(&wrote) } else { Ok(()) }
    })
    .await
}

fn parse(field: &str) -> Result<(String, Json)> {
    let (name, value) = field.split_once('=').ok_or_else(|| {
        CliError::usage(format!("{field:?} is not FIELD=VALUE"))
            .hint("as in: put tasks t1 title='Buy tea' done=false")
    })?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()));
    Ok((name.to_owned(), value))
}
