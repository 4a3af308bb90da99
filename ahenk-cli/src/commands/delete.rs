//! `delete`: delete a row.

use super::Env;
use crate::backend::Need;
use crate::data::{DataRequest, Wrote};
use crate::error::Result;
use crate::protocol::Request;

/// Arguments of `delete`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ahenk-cli delete tasks t1")]
pub(crate) struct Args {
    /// The table
    #[arg(add = super::complete::tables())]
    table: String,
    /// The row's key
    row: String,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let request = DataRequest::Delete { table: args.table, row: args.row };
    env.with_backend(Need::Store, async |backend| {
        let wrote: Wrote = backend.one(Request::Data(request)).await?;
        if env.out.json() { env.out.document(&wrote) } else { Ok(()) }
    })
    .await
}
