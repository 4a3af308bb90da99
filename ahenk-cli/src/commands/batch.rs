//! `batch`: many operations from stdin or a file, as JSON Lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use super::Env;
use crate::backend::{Backend, Need};
use crate::data::json;
use crate::data::{Applied, DataRequest, Operation};
use crate::error::{CliError, Kind, Result};
use crate::progress::Progress;
use crate::protocol::{LINE_BYTES_MAX, Request};

const AFTER_HELP: &str = "\
Each line is one operation:
  {\"kind\":\"put\",\"table\":\"tasks\",\"row\":\"t1\",\"fields\":{\"title\":\"Buy tea\"}}
  {\"kind\":\"update\",…}   writes fields of a row that must be there
  {\"kind\":\"replace\",…}  writes a row so that it has these fields and no others
  {\"kind\":\"delete\",\"table\":\"tasks\",\"row\":\"t1\"}  of a row that must be there

All lines are one transaction: on this device and on every other, all of it is
there or none of it. One transaction takes at most 983040 bytes; with --chunk
there may be any number of lines, in transactions of N operations each, and what
came before a failing one stays.

Example:
  printf '%s\\n' '{\"kind\":\"put\",\"table\":\"t\",\"row\":\"r\",\"fields\":{\"n\":1}}' |
  ahenk-cli batch";

/// Arguments of `batch`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The file with the operations
    #[arg(default_value = "-", value_name = "FILE")]
    file: PathBuf,
    /// Operations in one transaction [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    chunk: Option<u32>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let chunk = args.chunk.map_or(usize::MAX, |chunk| chunk as usize);
    let mut lines = Lines::open(&args.file)?;
    env.with_backend(Need::Store, async |backend| {
        let mut total = Applied::default();
        // Who types the operations sees how far they are.
        let progress = (!lines.typed).then(|| Progress::counting(&env.out, "Operations written"));
        loop {
            let first = lines.number + 1;
            // A chunk that no transaction can hold is refused before it fills the memory.
            let operations = tokio::task::block_in_place(|| lines.operations(chunk));
            let applied = match operations {
                Ok(operations) if operations.is_empty() => break,
                Ok(operations) => apply(backend, operations).await,
                Err(error) => Err(error),
            };
            match applied {
                Ok(applied) => {
                    total.operations += applied.operations;
                    total.transactions += applied.transactions;
                    progress.iter().for_each(|progress| progress.at(total.operations));
                }
                Err(error) => return Err(in_context(error, &lines, first, total)),
            }
        }
        drop(progress);
        env.out.show(&total, |total| {
            let transactions = if total.transactions == 1 { "transaction" } else { "transactions" };
            format!("{} operations in {} {transactions}.", total.operations, total.transactions)
        })
    })
    .await
}

async fn apply(backend: &Backend, operations: Vec<Operation>) -> Result<Applied> {
    backend.one(Request::Data(DataRequest::Batch { operations })).await
}

/// Says where it happened, and what stays.
fn in_context(error: CliError, lines: &Lines, first: u64, total: Applied) -> CliError {
    let place = match lines.number.saturating_sub(first) {
        0 => format!("line {first}"),
        _ => format!("lines {first} to {}", lines.number),
    };
    let message = format!("{}, {place}: {}", lines.name, error.message);
    let stays = match total.operations {
        0 => "nothing was written".to_owned(),
        count => format!("the {count} operations before line {first} were written, the rest was not"),
    };
    let hint = error.hint.filter(|hint| *hint != "nothing was written");
    CliError {
        kind: error.kind,
        message,
        hint: Some(hint.map_or(stays.clone(), |hint| format!("{stays}; {hint}"))),
    }
}

/// A file of operations, read line by line.
struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    /// The line that was read last, from 1.
    number: u64,
    /// It comes from a terminal.
    typed: bool,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines> {
        let (name, reader): (_, Box<dyn BufRead + Send>) = if path == Path::new("-") {
            ("stdin".to_owned(), Box::new(BufReader::new(io::stdin())))
        } else {
            let file = File::open(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    CliError::new(Kind::NotFound, format!("there is no file {}", path.display()))
                        .hint("check the name and the folder")
                }
                _ => CliError::io("read", path, &error),
            })?;
            (path.display().to_string(), Box::new(BufReader::new(file)))
        };
        let typed = name == "stdin" && io::stdin().is_terminal();
        Ok(Lines { name, reader, number: 0, typed })
    }

    /// Up to `count` operations; none at the end.
    fn operations(&mut self, count: usize) -> Result<Vec<Operation>> {
        let (mut operations, mut bytes) = (Vec::new(), 0);
        while operations.len() < count {
            let mut line = Vec::new();
            let limit = (LINE_BYTES_MAX - bytes) as u64;
            let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut line);
            let read = read.map_err(|error| CliError::io("read", Path::new(&self.name), &error))?;
            bytes += read;
            if bytes == LINE_BYTES_MAX {
                return Err(CliError::usage("this is too much for one transaction")
                    .hint("split it, or let --chunk N split it"));
            }
            if read == 0 {
                break;
            }
            self.number += 1;
            let text = std::str::from_utf8(&line).map_err(|_| bad_line(&"it is not UTF-8"))?.trim();
            if !text.is_empty() {
                operations.push(json::parse(text).map_err(|error| bad_line(&error))?);
            }
        }
        Ok(operations)
    }
}

fn bad_line(why: &dyn std::fmt::Display) -> CliError {
    CliError::usage(format!("the last line is no operation: {why}"))
        .hint("`ahenk-cli help batch` shows what a line looks like")
}
