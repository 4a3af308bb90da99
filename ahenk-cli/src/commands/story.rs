//! `history` and `explain`: what happened to a row, and why it is as it is.

use super::{Env, fields_inline, inline, kind_name};
use crate::backend::{Need, read_item};
use crate::data::{DataRequest, Explanation, FieldReason, HistoryEntry, Holder, Loss, Rival, Writer, time};
use crate::error::Result;
use crate::output::{printable, span};
use crate::protocol::Request;

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes are listed in the order in which this device came to know them. A star
marks those that the row still shows.

Examples:
  ahenk-cli history tasks t1          all writes of the row
  ahenk-cli history tasks t1 title    those of one field, and deletes of the row")]
pub(crate) struct HistoryArgs {
    /// The table
    #[arg(add = super::complete::tables())]
    table: String,
    /// The row's key
    row: String,
    /// One field only
    field: Option<String>,
    /// Only the newest N
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For each field: the write that it shows, the writes that lost to it and why, and
which devices have it already. Writes to a field are ordered by their stamps
(the writers' clocks), then by device id. `not known` is said of a device that
is not connected now and wrote nothing since that would show that it has it.

Examples:
  ahenk-cli explain tasks t1
  ahenk-cli --json explain tasks t1 title | jq '.fields[0].holders'")]
pub(crate) struct ExplainArgs {
    /// The table
    #[arg(add = super::complete::tables())]
    table: String,
    /// The row's key
    row: String,
    /// One field only
    field: Option<String>,
}

pub(crate) async fn history(env: &Env, args: HistoryArgs) -> Result<()> {
    let HistoryArgs { table, row, field, limit } = args;
    let request = DataRequest::History { table, row, field, limit };
    env.stream(Need::Store, Request::Data(request), |item| {
        let entry: HistoryEntry = read_item(item)?;
        let star = if entry.shown.is_empty() { ' ' } else { '*' };
        let line = format!(
            "{star} {:>6}  {}  {}  {}  {}",
            entry.position,
            time::format(entry.by.time_ms),
            printable(&entry.by.device),
            kind_name(entry.kind),
            fields_inline(&entry.fields)
        );
        env.out.line(line.trim_end())
    })
    .await
}

pub(crate) async fn explain(env: &Env, args: ExplainArgs) -> Result<()> {
    let ExplainArgs { table, row, field } = args;
    let request = DataRequest::Explain { table, row, field };
    env.with_backend(Need::Store, async |backend| {
        let explanation: Explanation = backend.one(Request::Data(request)).await?;
        env.out.show(&explanation, human)
    })
    .await
}

fn by(writer: &Writer) -> String {
    format!("{}, {}", printable(&writer.device), time::format(writer.time_ms))
}

fn human(explanation: &Explanation) -> String {
    let place = format!("{}/{}", printable(&explanation.table), printable(&explanation.row));
    let mut lines = vec![match (&explanation.inserted, &explanation.deleted) {
        (Some(inserted), _) => format!("{place}  is there (last put by {})", by(inserted)),
        (None, Some(deleted)) => format!("{place}  is deleted (by {})", by(deleted)),
        (None, None) => format!("{place}  is not there: it was updated, but no create is known"),
    }];
    if !explanation.present {
        lines.extend(holders(&explanation.holders));
    }
    for field in &explanation.fields {
        lines.push(String::new());
        lines.extend(reason(field));
    }
    lines.join("\n")
}

fn reason(field: &FieldReason) -> Vec<String> {
    let mut lines = vec![
        format!("{} = {}", printable(&field.field), inline(&field.value.0)),
        format!("    written by  {}", by(&field.by)),
        format!("    stamp       {}\n    commit      {}", field.stamp, field.by.commit),
    ];
    lines.extend(field.rivals.iter().map(|lost| rival(field, lost)));
    lines.extend(holders(&field.holders));
    lines
}

fn rival(field: &FieldReason, rival: &Rival) -> String {
    let what = if rival.deleted { "the delete".to_owned() } else { inline(&rival.value.0) };
    let head = if rival.seen { "replaces  " } else { "won against" };
    let why = match rival.why {
        _ if rival.seen => "seen by the writer".to_owned(),
        Loss::Later => match field.by.time_ms.saturating_sub(rival.by.time_ms) {
            0 => "written later, within one millisecond".to_owned(),
            ms => format!("written {} later", span(ms)),
        },
        Loss::HigherDevice => "same moment; the higher device id decides".to_owned(),
        Loss::HigherIncarnation => "same moment; the higher incarnation decides".to_owned(),
    };
    format!("    {head:<11} {what}  ({}): {why}", by(&rival.by))
}

fn holders(holders: &[Holder]) -> Vec<String> {
    let of = |has: Option<bool>| {
        let names = holders.iter().filter(|holder| holder.has == has).map(|holder| printable(&holder.device));
        names.collect::<Vec<_>>().join(", ")
    };
    let groups = [("has it", Some(true)), ("lacks it", Some(false)), ("not known", None)];
    let lines = groups.map(|(label, has)| (label, of(has)));
    lines
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(label, names)| format!("    {label:<11} {names}"))
        .collect()
}
