//! `conflicts`: values that lost against another device's; listing them, showing one, writing them anew.

use super::{Env, inline};
use crate::backend::{Need, read_item};
use crate::data::{ConflictDetail, ConflictEntry, DataRequest, Loss, Restored, Side, time};
use crate::error::Result;
use crate::output::{printable, span};
use crate::protocol::Request;

/// What is shown unless more is asked for.
const LIMIT_DEFAULT: u64 = 100;

/// Arguments of `conflicts`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
A value is listed when whoever wrote the winning one had not seen it: nothing is
lost without a word. Ids are of this device only; the oldest conflicts are
forgotten when there are very many.

Examples:
  ahenk-cli conflicts                 the newest
  ahenk-cli conflicts show 12         one of them, and what the field shows now
  ahenk-cli conflicts restore 12      write anew the value that lost"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List them, oldest first (also without `list`)
    #[command(after_help = "Example:\n  ahenk-cli conflicts list --table tasks -n 10")]
    List(ListArgs),
    /// Show one, and what the field shows now
    #[command(after_help = "Example:\n  ahenk-cli conflicts show 12")]
    Show {
        /// Its id
        id: u64,
    },
    /// Write values that lost anew, in one transaction
    #[command(after_help = "Example:\n  ahenk-cli conflicts restore 12 13")]
    Restore {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
    },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only on this table
    #[arg(long, add = super::complete::tables())]
    table: Option<String>,
    /// Only the newest N
    #[arg(long, short = 'n', value_name = "N", default_value_t = LIMIT_DEFAULT)]
    limit: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    match args.command.unwrap_or(Command::List(args.list)) {
        Command::List(args) => list(env, args).await,
        Command::Show { id } => {
            env.with_backend(Need::Store, async |backend| {
                let request = Request::Data(DataRequest::Conflict { id });
                let detail: ConflictDetail = backend.one(request).await?;
                env.out.show(&detail, |detail| {
                    let now = if detail.present { inline(&detail.now.0) } else { "not there".to_owned() };
                    format!("{}\n    now   {now}", human(&detail.conflict))
                })
            })
            .await
        }
        Command::Restore { ids } => {
            env.with_backend(Need::Store, async |backend| {
                let request = Request::Data(DataRequest::RestoreConflicts { ids });
                let restored: Restored = backend.one(request).await?;
                env.out.show(&restored, |done| match done.unchanged.len() {
                    0 => format!("{} values written anew.", done.restored.len()),
                    same => {
                        format!("{} values written anew, {same} were there already.", done.restored.len())
                    }
                })
            })
            .await
        }
    }
}

async fn list(env: &Env, args: ListArgs) -> Result<()> {
    let request = DataRequest::Conflicts { table: args.table, limit: Some(args.limit) };
    let mut none = true;
    env.stream(Need::Store, Request::Data(request), |item| {
        none = false;
        env.out.line(&human(&read_item(item)?))
    })
    .await?;
    if none && !env.out.json() {
        env.out.note("No value has lost a conflict.");
    }
    Ok(())
}

fn human(conflict: &ConflictEntry) -> String {
    let ConflictEntry { lost, won, .. } = conflict;
    let what = |side: &Side| if side.deleted { "deleted".to_owned() } else { inline(&side.value.0) };
    let by = |side: &Side| format!("{}, {}", printable(&side.by.device), time::format(side.by.time_ms));
    format!(
        "{}  {}/{}  {}\n    lost  {}  ({})\n    won   {}  ({}): {}",
        conflict.id,
        printable(&conflict.table),
        printable(&conflict.row),
        printable(&conflict.field),
        what(lost),
        by(lost),
        what(won),
        by(won),
        why(conflict)
    )
}

/// Why the winner won, for people.
pub(crate) fn why(conflict: &ConflictEntry) -> String {
    match conflict.why {
        Loss::Later => match conflict.won.by.time_ms.saturating_sub(conflict.lost.by.time_ms) {
            0 => "written later, within one millisecond".to_owned(),
            ms => format!("written {} later", span(ms)),
        },
        Loss::HigherDevice => "written at the same moment; the higher device id decides".to_owned(),
        Loss::HigherIncarnation => {
            "written at the same moment by one device; the higher incarnation decides".to_owned()
        }
    }
}
