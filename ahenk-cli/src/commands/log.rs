//! `oplog` and `conflicts`: who wrote what when, and which writes lost.

use super::{Env, fields_inline, inline};
use crate::backend::{Need, read_item};
use crate::data::time::{self, now_ms};
use crate::data::{ConflictEntry, DataRequest, LogEntry, Loss, Since};
use crate::error::{CliError, Result};
use crate::output::{printable, span};
use crate::protocol::Request;

/// What is shown unless more is asked for.
const LIMIT_DEFAULT: u64 = 100;

/// Arguments of `oplog`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// From here on: a position (a number; 1 is the first), a time in UTC (2026-01-31 or 2026-01-31T13:05), or a
    /// span until now (15m, 2h, 3d); times are those of the writers' clocks
    #[arg(long, value_name = "TIME|POSITION")]
    since: Option<String>,
    /// Only what the device of this name, or with an id that starts so, has written
    #[arg(long, value_name = "NAME|ID")]
    device: Option<String>,
    /// Only on this table
    #[arg(long)]
    table: Option<String>,
    /// Only the newest N operations [default: 100, or all with --since]
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

/// Arguments of `conflicts`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConflictArgs {
    /// Only on this table
    #[arg(long)]
    table: Option<String>,
    /// Only the newest N
    #[arg(long, short = 'n', value_name = "N", default_value_t = LIMIT_DEFAULT)]
    limit: u64,
}

pub(crate) async fn oplog(env: &Env, args: Args) -> Result<()> {
    let since = args.since.as_deref().map(parse_since).transpose()?;
    let limit = args.limit.or(since.is_none().then_some(LIMIT_DEFAULT));
    let request = DataRequest::Log { since, device: args.device, table: args.table, limit };
    env.stream(Need::Store, Request::Data(request), |item| {
        let entry: LogEntry = read_item(item)?;
        env.out.line(&format!(
            "{:>6}  {}  {}  {} {}/{}  {}",
            entry.position,
            time::format(entry.by.time_ms),
            printable(&entry.by.device),
            super::kind_name(entry.kind),
            printable(&entry.table),
            printable(&entry.row),
            fields_inline(&entry.fields)
        ))
    })
    .await
}

fn parse_since(text: &str) -> Result<Since> {
    if let Ok(position) = text.parse() {
        return Ok(Since::Position(position));
    }
    time::parse(text, now_ms()).map(Since::TimeMs).ok_or_else(|| {
        CliError::usage(format!("{text:?} is neither a position nor a time"))
            .hint("as in: --since 120, --since 2h, --since 2026-01-31, --since 2026-01-31T13:05")
    })
}

pub(crate) async fn conflicts(env: &Env, args: ConflictArgs) -> Result<()> {
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
    let what = |side: &crate::data::Side| {
        if side.deleted { "deleted".to_owned() } else { inline(&side.value.0) }
    };
    let by = |side: &crate::data::Side| {
        format!("{}, {}", printable(&side.by.device), time::format(side.by.time_ms))
    };
    format!(
        "{}/{}  {}\n    lost  {}  ({})\n    won   {}  ({}): {}",
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
