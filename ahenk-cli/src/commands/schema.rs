//! `schema`: the JSON Schema of what commands print.

use serde_json::Value as Json;

use super::Env;
use crate::error::{CliError, Kind, Result};
use crate::schema;

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The schema is of one document; most commands print one, some a stream of them,
one a line ($comment says which). Within a version of the schema (`json_version`
in `info`), fields are added, and none is renamed or removed.

Examples:
  ahenk-cli schema              of all commands, with what they share
  ahenk-cli schema peer list    of one command, complete in itself
  ahenk-cli schema error        of what a failed command prints on stderr")]
pub(crate) struct Args {
    /// The command, as in `peer list`; or `error`
    command: Vec<String>,
}

pub(crate) fn run(env: &Env, args: &Args) -> Result<()> {
    let command = args.command.join(" ");
    let document = match command.as_str() {
        "" => schema::all(),
        command => schema::of(command).ok_or_else(|| unknown(command))?,
    };
    print(env, &document)
}

/// Indented for people, on one line with `--json`.
fn print(env: &Env, document: &Json) -> Result<()> {
    env.out.show(document, |document| format!("{document:#}"))
}

fn unknown(command: &str) -> CliError {
    let group = schema::commands().into_iter().filter(|known| known.starts_with(command)).collect::<Vec<_>>();
    let hint = match group.as_slice() {
        [] => "`ahenk-cli schema` without a command prints all schemas".to_owned(),
        some => format!("there are: {}", some.join(", ")),
    };
    CliError::new(Kind::NotFound, format!("`{command}` prints no JSON of its own")).hint(hint)
}
