//! `oplog`: who wrote what when.

use super::{Env, operation_inline};
use crate::backend::{Need, read_item};
use crate::data::time::{self, now_ms};
use crate::data::{DataRequest, LogEntry, Since};
use crate::error::{CliError, Result};
use crate::output::printable;
use crate::protocol::Request;

/// What is shown unless more is asked for.
const LIMIT_DEFAULT: u64 = 100;

/// Arguments of `oplog`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ahenk-cli oplog -n 20\n  ahenk-cli oplog --since 2h --device phone --table tasks\n  ahenk-cli --json oplog --since 1 > log.jsonl"
)]
pub(crate) struct Args {
    /// From here on: a position (a number; 1 is the first), a time in UTC (2026-01-31 or 2026-01-31T13:05), or a
    /// span until now (15m, 2h, 3d); times are those of the writers' clocks
    #[arg(long, value_name = "TIME|POSITION")]
    since: Option<String>,
    /// Only what the device of this name, or with an id that starts so, has written
    #[arg(long, value_name = "NAME|ID", add = super::complete::devices())]
    device: Option<String>,
    /// Only on this table
    #[arg(long, add = super::complete::tables())]
    table: Option<String>,
    /// Only the newest N operations [default: 100, or all with --since]
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

pub(crate) async fn oplog(env: &Env, args: Args) -> Result<()> {
    let since = args.since.as_deref().map(parse_since).transpose()?;
    let limit = args.limit.or(since.is_none().then_some(LIMIT_DEFAULT));
    let request = DataRequest::Log { since, device: args.device, table: args.table, limit };
    env.stream(Need::Store, Request::Data(request), |item| {
        let entry: LogEntry = read_item(item)?;
        let line = format!(
            "{:>6}  {}  {}  {}",
            entry.position,
            time::format(entry.by.time_ms),
            printable(&entry.by.device),
            operation_inline(entry.kind, &entry.table, &entry.row, &entry.fields)
        );
        env.out.line(line.trim_end())
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
