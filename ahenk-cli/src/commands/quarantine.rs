//! `quarantine`: commits of revoked devices that had been applied here and were retracted.

use super::{Env, confirm, kind_name, operation_inline};
use crate::backend::{Need, read_item};
use crate::data::admin::{AdminRequest, Moved, NO_RETRACTED, RETRACTED, Retracted};
use crate::data::{DataRequest, time};
use crate::error::{CliError, Result};
use crate::output::printable;
use crate::protocol::Request;
use crate::suggest::by_prefix;

const AFTER_HELP: &str = "\
What a revoked device wrote after it was revoked (or what came through a copied
database) counts no longer. Where it had been applied before that was known, it
is kept here, on this device only.

Examples:
  ahenk-cli quarantine list
  ahenk-cli quarantine restore COMMIT   write it anew, now, as this device
  ahenk-cli quarantine restore --all
  ahenk-cli quarantine drop COMMIT      forget it, after a question";

/// Subcommands of `quarantine`.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum Command {
    /// List retracted commits
    #[command(after_help = "Example:\n  ahenk-cli quarantine list")]
    List,
    /// Show all that a retracted commit did
    #[command(after_help = "Example:\n  ahenk-cli quarantine show 4f")]
    Show {
        /// Its name, as `quarantine list` shows it, or how that begins
        #[arg(add = super::complete::retracted())]
        commit: String,
    },
    /// Write retracted commits anew, as writes of this device and of now
    #[command(after_help = "Example:\n  ahenk-cli quarantine restore --all")]
    Restore(Which),
    /// Forget retracted commits
    #[command(after_help = "Example:\n  ahenk-cli quarantine drop 4f")]
    Drop {
        #[command(flatten)]
        which: Which,
        /// Do it without asking
        #[arg(long, short)]
        yes: bool,
    },
}

/// Which commits.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Their names, as `quarantine list` shows them, or how those begin
    #[arg(required_unless_present = "all", add = super::complete::retracted())]
    commits: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "commits")]
    all: bool,
}

fn request(request: AdminRequest) -> Request {
    Request::Data(DataRequest::Admin(request))
}

pub(crate) async fn run(env: &Env, command: Command) -> Result<()> {
    match command {
        Command::List => list(env).await,
        Command::Show { commit } => show(env, &commit).await,
        // With --all there are no names, which means all.
        Command::Restore(which) => {
            move_out(env, AdminRequest::Restore { commits: which.commits }, "written anew").await
        }
        Command::Drop { which, yes } => {
            if !yes {
                let what = if which.all { "all retracted commits".into() } else { which.commits.join(", ") };
                confirm(env, &format!("Forget {}? It cannot be undone. [y/N] ", printable(&what))).await?;
            }
            move_out(env, AdminRequest::Drop { commits: which.commits }, "forgotten").await
        }
    }
}

async fn list(env: &Env) -> Result<()> {
    let mut none = true;
    env.stream(Need::Store, request(AdminRequest::Quarantine), |item| {
        none = false;
        env.out.line(&line(&read_item(item)?))
    })
    .await?;
    if none && !env.out.json() {
        env.out.note("Nothing was retracted on this device.");
    }
    Ok(())
}

fn line(retracted: &Retracted) -> String {
    let what = match retracted.operations.as_slice() {
        [] => "nothing".to_owned(),
        [one] => format!("{} {}/{}", kind_name(one.kind), printable(&one.table), printable(&one.row)),
        [one, rest @ ..] => format!(
            "{} {}/{} and {} more",
            kind_name(one.kind),
            printable(&one.table),
            printable(&one.row),
            rest.len()
        ),
    };
    let by = format!("{}, {}", printable(&retracted.by.device), time::format(retracted.by.time_ms));
    format!("{}  {what}  ({by})", retracted.by.commit)
}

async fn show(env: &Env, commit: &str) -> Result<()> {
    let mut all: Vec<Retracted> = Vec::new();
    env.with_backend(Need::Store, async |backend| {
        let mut call = backend.call(request(AdminRequest::Quarantine)).await?;
        while let Some(item) = call.next().await? {
            let retracted: Retracted = read_item(item)?;
            if retracted.by.commit.starts_with(commit) {
                all.push(retracted);
            }
        }
        Ok(())
    })
    .await?;
    let ids: Vec<String> = all.iter().map(|one| one.by.commit.clone()).collect();
    let id = by_prefix(commit, &ids, RETRACTED, NO_RETRACTED)?;
    let found = all.iter().find(|one| one.by.commit == id);
    let found = found.ok_or_else(|| CliError::internal("an id is among those that it is of"))?;
    env.out.show(found, |found| {
        let mut lines = vec![line(found), format!("  retracted by {}", found.because)];
        lines.extend(
            found
                .operations
                .iter()
                .map(|op| format!("  {}", operation_inline(op.kind, &op.table, &op.row, &op.fields))),
        );
        lines.join("\n")
    })
}

async fn move_out(env: &Env, asked: AdminRequest, done: &str) -> Result<()> {
    env.with_backend(Need::Store, async |backend| {
        let moved: Moved = backend.one(request(asked)).await?;
        env.out.show(&moved, |moved| match moved.commits.len() {
            1 => format!("1 commit {done}."),
            count => format!("{count} commits {done}."),
        })
    })
    .await
}
