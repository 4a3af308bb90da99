//! `list` and `tables`: what there is.

use super::{Env, fields_inline};
use crate::backend::{Need, read_item};
use crate::data::{DataRequest, Listed, TableCount};
use crate::error::Result;
use crate::output::printable;
use crate::protocol::Request;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The table
    table: String,
    /// Only rows whose key starts so
    #[arg(long)]
    prefix: Option<String>,
    /// Only rows after this key: the next page
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// Show at most so many rows
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let Args { table, prefix, after, limit } = args;
    let request = DataRequest::List { table, prefix, after, limit };
    env.stream(Need::Store, Request::Data(request), |item| {
        let Listed { row, fields } = read_item(item)?;
        env.out.line(&format!("{}  {}", env.out.bold(&printable(&row)), fields_inline(&fields)))
    })
    .await
}

pub(crate) async fn tables(env: &Env) -> Result<()> {
    env.stream(Need::Store, Request::Data(DataRequest::Tables), |item| {
        let TableCount { table, rows } = read_item(item)?;
        env.out.line(&format!("{rows:>9}  {}", printable(&table)))
    })
    .await
}
