//! `watch`: changes as they come.
//!
//! Without a daemon it opens the database, prints what is new, and closes it again, once a second, so that other
//! commands get their turn; with one it is told at once. The daemon may come and go: nothing is missed.

use std::time::Duration;

use super::{Env, operation_inline};
use crate::backend::{Backend, Need, read_item};
use crate::data::{Changed, DataRequest, Watched, time};
use crate::error::{CliError, Kind, Result};
use crate::output::printable;
use crate::protocol::Request;

/// Time between two looks without a daemon.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `watch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ahenk-cli watch tasks\n  ahenk-cli --json watch --from 0.0    all that ever happened, and what comes\n  ahenk-cli watch tasks -n 1 && make   once something changes"
)]
pub(crate) struct Args {
    /// On this table only
    #[arg(add = super::complete::tables())]
    table: Option<String>,
    /// Go on from here: the `cursor` of a change that was printed with --json, or 0.0 for all that ever happened;
    /// cursors are of this device only [default: begin with what comes next]
    #[arg(long, value_name = "CURSOR")]
    from: Option<String>,
    /// End after so many changes
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

struct Watching<'a> {
    env: &'a Env,
    table: Option<String>,
    cursor: Option<String>,
    left: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let left = args.limit.unwrap_or(u64::MAX);
    let mut watching = Watching { env, table: args.table, cursor: args.from, left };
    let interrupted = tokio::select! {
        result = watching.run() => result.map(|()| false),
        signal = tokio::signal::ctrl_c() => signal.map(|()| true).map_err(CliError::internal),
    }?;
    if let Some(cursor) = watching.cursor.filter(|_| !env.out.json()) {
        env.out.note(&format!(
            "{}To go on from here: watch --from {cursor}",
            if interrupted { "\n" } else { "" }
        ));
    }
    Ok(())
}

impl Watching<'_> {
    async fn run(&mut self) -> Result<()> {
        while self.left > 0 {
            let env = self.env;
            let result = env.with_backend(Need::Store, async |backend| self.look(backend).await).await;
            match result {
                // The daemon stopped; the cursor is where we are.
                Err(error) if error.kind == Kind::NotRunning && self.cursor.is_some() => {}
                other => other?,
            }
            if self.left > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    async fn look(&mut self, backend: &Backend) -> Result<()> {
        let follow = matches!(backend, Backend::Daemon(_));
        if self.cursor.is_none() {
            // Learn where now is, so that a look later on begins here.
            self.ask(backend, false).await?;
        }
        self.ask(backend, follow).await
    }

    async fn ask(&mut self, backend: &Backend, follow: bool) -> Result<()> {
        let (from, table) = (self.cursor.clone(), self.table.clone());
        let mut call = backend.call(Request::Data(DataRequest::Watch { from, table, follow })).await?;
        while let Some(item) = call.next().await? {
            match read_item(item)? {
                Watched::End { end } => self.cursor = Some(end),
                Watched::Change(change) => {
                    self.env.out.show(&change, human)?;
                    self.cursor = Some(change.cursor);
                    self.left -= 1;
                    if self.left == 0 {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

fn human(change: &Changed) -> String {
    format!(
        "{}  {}  {}",
        time::format(change.by.time_ms),
        printable(&change.by.device),
        operation_inline(change.kind, &change.table, &change.row, &change.fields)
    )
}
