//! `list`, `count` and `tables`: what there is.

use super::{Env, fields_inline, inline};
use crate::backend::{Need, read_item};
use crate::data::filter::{Condition, SortKey};
use crate::data::{DataRequest, Listed, Selection, Shape, TableCount};
use crate::error::Result;
use crate::output::{self, printable};
use crate::protocol::Request;

const CONDITIONS_HELP: &str = "\
Conditions: FIELD=VALUE, and != < <= > >= in place of =; FIELD~TEXT for texts that contain it. Values are
read as by `put`: done=false, age>=18, title='Buy tea'. Several conditions must all be met. Quote those with
< or >, which mean something else to the shell. A row without the field meets only !=.";

/// Which rows.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only rows whose key starts so
    #[arg(long)]
    prefix: Option<String>,
    /// Only rows after this key: the next page
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// Only rows that meet this condition; may be repeated
    #[arg(long = "where", short = 'w', value_name = "CONDITION")]
    conditions: Vec<Condition>,
}

impl Which {
    fn selection(self) -> Selection {
        Selection { prefix: self.prefix, after: self.after, conditions: self.conditions }
    }
}

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
#[command(after_help = CONDITIONS_HELP)]
pub(crate) struct Args {
    /// The table
    table: String,
    #[command(flatten)]
    which: Which,
    /// Ascending by these fields, descending where - stands before one [default: by key]
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',', allow_hyphen_values = true)]
    sort: Vec<SortKey>,
    /// Only these fields, lined up in columns
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Show at most so many rows
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

/// Arguments of `count`.
#[derive(Debug, clap::Args)]
#[command(after_help = CONDITIONS_HELP)]
pub(crate) struct CountArgs {
    /// The table
    table: String,
    #[command(flatten)]
    which: Which,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let Args { table, which, sort, columns, limit } = args;
    let shape = Shape { sort, columns: columns.clone(), limit };
    let request = DataRequest::List { table, selection: which.selection(), shape };
    let mut lines = Vec::new();
    env.stream(Need::Store, Request::Data(request), |item| {
        let Listed { row, fields } = read_item(item)?;
        let Some(columns) = &columns else {
            return env.out.line(&format!("{}  {}", env.out.bold(&printable(&row)), fields_inline(&fields)));
        };
        let cell = |column: &String| fields.0.get(column).map(inline).unwrap_or_default();
        lines.push(std::iter::once(printable(&row)).chain(columns.iter().map(cell)).collect());
        Ok(())
    })
    .await?;
    match &columns {
        // Columns are as wide as what stands in them, so they are printed when all is known.
        Some(columns) if !env.out.json() => {
            let names = columns.iter().map(|name| printable(name).to_uppercase());
            let heading: Vec<String> = std::iter::once("ROW".to_owned()).chain(names).collect();
            let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
            env.out.line(&output::table(&heading, &lines))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn count(env: &Env, args: CountArgs) -> Result<()> {
    let request = DataRequest::Count { table: args.table, selection: args.which.selection() };
    env.with_backend(Need::Store, async |backend| {
        let counted: TableCount = backend.one(Request::Data(request)).await?;
        env.out.show(&counted, |counted| counted.rows.to_string())
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
