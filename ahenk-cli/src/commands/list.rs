//! `list`, `count` and `tables`: what there is.

use super::{Env, fields_inline, inline};
use crate::backend::{Backend, Need, read_item};
use crate::data::filter::{Condition, SortKey};
use crate::data::{DataRequest, Listed, Selection, Shape, TableCount};
use crate::error::Result;
use crate::output::{self, printable};
use crate::protocol::Request;
use crate::suggest::nearest;

const CONDITIONS_HELP: &str = "\
Conditions: FIELD=VALUE, and != < <= > >= in place of =; FIELD~TEXT for texts
that contain it. Values are read as by `put`: done=false, age>=18, title='Buy
tea'. Several conditions must all be met. Quote those with < or >, which mean
something else to the shell. A row without the field meets only !=.

Examples:
  ahenk-cli list tasks --where done=false --sort due --columns title,due -n 20
  ahenk-cli count tasks --where 'due<2026-02-01'";

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
    #[arg(add = super::complete::tables())]
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
    #[arg(add = super::complete::tables())]
    table: String,
    #[command(flatten)]
    which: Which,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let Args { table, which, sort, columns, limit } = args;
    let shape = Shape { sort, columns: columns.clone(), limit };
    let request = DataRequest::List { table: table.clone(), selection: which.selection(), shape };
    let (mut lines, mut none) = (Vec::new(), true);
    env.with_backend(Need::Store, async |backend| {
        let mut call = backend.call(Request::Data(request)).await?;
        while let Some(item) = call.next().await? {
            none = false;
            if env.out.json() {
                env.out.document(&item)?;
                continue;
            }
            let Listed { row, fields } = read_item(item)?;
            let Some(columns) = &columns else {
                env.out.line(&format!("{}  {}", env.out.bold(&printable(&row)), fields_inline(&fields)))?;
                continue;
            };
            let cell = |column: &String| fields.0.get(column).map(inline).unwrap_or_default();
            lines.push(std::iter::once(printable(&row)).chain(columns.iter().map(cell)).collect());
        }
        if none { perhaps_another(env, backend, &table).await } else { Ok(()) }
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
    let request = DataRequest::Count { table: args.table.clone(), selection: args.which.selection() };
    env.with_backend(Need::Store, async |backend| {
        let counted: TableCount = backend.one(Request::Data(request)).await?;
        if counted.rows == 0 {
            perhaps_another(env, backend, &args.table).await?;
        }
        env.out.show(&counted, |counted| counted.rows.to_string())
    })
    .await
}

/// A remark where no table of that name has rows and one of a name like it has.
async fn perhaps_another(env: &Env, backend: &Backend, table: &str) -> Result<()> {
    let names: Vec<String> = backend.one(Request::Data(DataRequest::TableNames)).await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if !names.contains(&table)
        && let Some(name) = nearest(table, names)
    {
        env.out.note(&format!("There is no table {table:?}; did you mean `{name}`?"));
    }
    Ok(())
}

pub(crate) async fn tables(env: &Env) -> Result<()> {
    env.stream(Need::Store, Request::Data(DataRequest::Tables), |item| {
        let TableCount { table, rows } = read_item(item)?;
        env.out.line(&format!("{rows:>9}  {}", printable(&table)))
    })
    .await
}
