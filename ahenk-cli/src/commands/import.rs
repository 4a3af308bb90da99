//! `import`: rows from a file, in transactions of bounded size, so that an interrupted import goes on where it
//! stopped.
//!
//! Invariants: a chunk of rows is written as a whole or not at all (a row that no transaction holds, in parts); how far the import has come is noted after the
//! chunk is durable, so after an interruption at most one chunk is looked at again, and rows that are as the file
//! has them are never written again; each record that is not imported is reported with its line and the reason.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use engine::config::ROW_FIELDS_MAX;
use engine::name::{FieldName, TableName};
use serde::Serialize;

use super::Env;
use crate::backend::{Backend, Need};
use crate::data::record::{Shape, Sized, part_bytes_max};
use crate::data::source::{Format, Layout, Record, Source, SourceError};
use crate::data::time::now_ms;
use crate::data::{DataRequest, Exported, ImportState, Imported};
use crate::error::{CliError, Result};
use crate::output::printable;
use crate::protocol::Request;

mod input;
mod tally;

use input::Input;
use tally::Tally;

/// A chunk is written when it has so many bytes, however few rows that are.
const CHUNK_BYTES: usize = 256 * 1024;

const AFTER_HELP: &str = "\
Formats:
  A JSON array of objects, JSON Lines (one object a line), or columns separated
  by commas, tabs or --delimiter. It is told by the first character ([ or {) and
  the file's name; --format says it outright. - reads stdin. A file that
  `export` wrote is read back without --table and --key.

What is written:
  The row's key is the value of the field --key, which stays a field too. Of a
  row that is there already, only fields that differ are written; fields that
  the file does not have stay. If a key occurs again in the file, the later
  record wins. Cells stay text unless --typed is given.

Interrupted or repeated:
  Rows are written in transactions of --chunk rows, and it is noted on this
  device how far the import has come. The same file with the same options goes
  on from there (files are known by content, not by name). Once it is done,
  importing it again writes nothing unless --again is given. Stdin always begins
  at the beginning.

What cannot be used is skipped and reported with its line. The exit code is 2 if
nothing at all could be used, if the file breaks off, or, with --strict or in a
file that `export` wrote, if anything was skipped. A row that takes more than
one transaction holds (983040 bytes, 4096 fields) is written in several.

Examples:
  ahenk-cli import people.csv --table people --key email
  ahenk-cli import everything.jsonl
  curl -s https://example.org/a.json | ahenk-cli import - --table a --key id";

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The file; - for stdin
    file: PathBuf,
    /// The table to write to; of an exported file, the only table to read
    #[arg(long, add = super::complete::tables())]
    table: Option<String>,
    /// The field whose value is the row's key
    #[arg(long, value_name = "FIELD", requires = "table")]
    key: Option<String>,
    /// What the file holds [default: by its content and name]
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    columns: Columns,
    /// Rows in one transaction
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chunk: u32,
    /// Begin anew, even if this file was imported before
    #[arg(long)]
    again: bool,
    /// Fail if anything was skipped
    #[arg(long)]
    strict: bool,
}

/// How columns are laid out, if the file has any.
#[derive(Debug, clap::Args)]
struct Columns {
    /// What stands between columns [default: a comma, or a tab with --format tsv]
    #[arg(long, value_name = "CHAR")]
    delimiter: Option<String>,
    /// The names of the columns; the file has no header then
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// The file has no header; columns are called column1, column2 and so on
    #[arg(long, conflicts_with = "columns")]
    no_header: bool,
    /// Lines that begin so are ignored
    #[arg(long, value_name = "CHAR")]
    comment: Option<String>,
    /// Double quotes are part of the text
    #[arg(long)]
    no_quotes: bool,
    /// Cells that are plainly numbers, true or false become such; others, like 007 and 1e5, stay text
    #[arg(long)]
    typed: bool,
}

impl Columns {
    fn layout(&self, format: Format) -> Result<Layout> {
        let one = |name: &str, text: &Option<String>| match text.as_deref().map(str::as_bytes) {
            None => Ok(None),
            Some(b"\\t") => Ok(Some(b'\t')),
            Some([byte]) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | b'"') => Ok(Some(*byte)),
            Some(_) => Err(CliError::usage(format!("--{name} takes one ASCII character"))
                .hint("as in: --delimiter ';' or --delimiter '\\t'")),
        };
        let usual = if format == Format::Tsv { b'\t' } else { b',' };
        Ok(Layout {
            delimiter: one("delimiter", &self.delimiter)?.unwrap_or(usual),
            quotes: !self.no_quotes,
            comment: one("comment", &self.comment)?,
            columns: self.columns.clone(),
            no_header: self.no_header,
            typed: self.typed,
        })
    }
}

impl Args {
    fn shape(&self) -> Result<Shape> {
        let names = || -> Result<Shape, engine::name::NameError> {
            let table = self.table.as_deref().map(TableName::new).transpose()?;
            let key = self.key.as_deref().map(FieldName::new).transpose()?;
            Ok(match (table, key) {
                (Some(table), Some(key)) => Shape::Rows { table, key },
                (only, _) => Shape::Exported { only },
            })
        };
        names().map_err(CliError::usage)
    }
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let shape = args.shape()?;
    let input = Input::open(&args.file, args.format)?;
    let layout = args.columns.layout(input.format)?;
    if matches!((&shape, input.format), (Shape::Exported { .. }, Format::Csv | Format::Tsv)) {
        return Err(CliError::usage("a file with columns needs --table and --key")
            .hint("as in: import zones.csv --table zones --key name"));
    }
    // Everything that decides which rows come out: the same file with other options is another import.
    let import = input.id(&(format!("{shape:?}"), format!("{layout:?}"), format!("{:?}", input.format)));
    let source = input.source(layout)?;
    // A setting that is wrong keeps nobody from the data.
    let config = env.home.config().unwrap_or_default();
    env.with_backend(Need::Store, async |backend| {
        let mut importing = Importing {
            env,
            backend,
            shape,
            import,
            chunk_rows: args.chunk as usize,
            part_bytes_max: part_bytes_max(config.engine().commit_bytes_max),
            chunk: BTreeMap::new(),
            chunk_bytes: 0,
            from: 0,
            tally: Tally::new(env, input.bytes()),
        };
        importing.run(source, &input, args.again).await?;
        importing.conclude(&input, args.strict)
    })
    .await
}

struct Importing<'a> {
    env: &'a Env,
    backend: &'a Backend,
    shape: Shape,
    /// The import's id, if it can be resumed.
    import: Option<String>,
    chunk_rows: usize,
    /// Most of one transaction, in bytes.
    part_bytes_max: usize,
    /// Rows by table and key, so that each occurs once.
    chunk: BTreeMap<(String, String), Exported>,
    chunk_bytes: usize,
    /// Records that an earlier run has dealt with.
    from: u64,
    tally: Tally<'a>,
}

/// What the command says at the end, with `--json`.
#[derive(Serialize)]
struct Summary<'a> {
    file: String,
    /// Whether it had been imported completely before, so that nothing was done.
    already: bool,
    #[serde(flatten)]
    counts: &'a tally::Counts,
}

impl Importing<'_> {
    async fn run(&mut self, source: Result<Source, SourceError>, input: &Input, again: bool) -> Result<()> {
        if let Some(import) = self.import.clone().filter(|_| !again) {
            let state: ImportState =
                self.backend.one(Request::Data(DataRequest::ImportState { import })).await?;
            self.from = state.records;
            self.tally.found(&state);
            if state.done {
                return Ok(());
            }
        }
        let mut source = source.map_err(|error| self.unreadable(&error))?;
        loop {
            match source.next() {
                Ok(Some(record)) => self.record(record).await?,
                Ok(None) => break,
                Err(error) => {
                    self.flush(false).await?;
                    self.tally.finish();
                    return Err(self.unreadable(&error));
                }
            }
            self.tally.progress(input.read());
        }
        if let Some(error) = input.changed() {
            self.flush(false).await?;
            return Err(error);
        }
        self.flush(true).await
    }

    async fn record(&mut self, record: Record) -> Result<()> {
        let Record { line, content } = record;
        let row = match content.and_then(|content| self.shape.row(content, self.part_bytes_max)) {
            Ok(row) => row,
            Err(reason) => return self.tally.skip(line, &reason),
        };
        let Some(mut parts) = row else {
            self.tally.other_table();
            return Ok(());
        };
        let Some(last) = parts.pop() else { return Ok(()) };
        self.tally.usable(&last.row);
        if self.tally.records() <= self.from {
            self.tally.resumed();
            return Ok(());
        }
        if parts.is_empty() { self.take(last).await } else { self.large(parts, last).await }
    }

    /// Adds a row to the chunk; writes what was there before if it is enough.
    async fn take(&mut self, Sized { row, bytes }: Sized) -> Result<()> {
        let key = (row.table.clone(), row.row.clone());
        // The same row again in one transaction: together they must be within the limits of one row.
        let again = self.chunk.get(&key).map_or(0, |held| held.fields.0.len());
        let full = self.chunk.len() >= self.chunk_rows
            || self.chunk_bytes + bytes > CHUNK_BYTES.min(self.part_bytes_max)
            || again + row.fields.0.len() > ROW_FIELDS_MAX;
        if full && !self.chunk.is_empty() {
            self.write(self.tally.records() - 1, false).await?;
        }
        self.chunk_bytes += bytes;
        match self.chunk.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(row);
            }
            Entry::Occupied(mut entry) => entry.get_mut().fields.0.extend(row.fields.0),
        }
        Ok(())
    }

    /// Writes a row that no transaction holds, part by part. It counts as dealt with when the last is written.
    async fn large(&mut self, parts: Vec<Sized>, last: Sized) -> Result<()> {
        let before = self.tally.records() - 1;
        if !self.chunk.is_empty() {
            self.write(before, false).await?;
        }
        let mut written = 0;
        for part in parts {
            written += self.send(vec![part.row], before, false).await?.written;
        }
        written += self.send(vec![last.row], before + 1, false).await?.written;
        let one = u64::from(written > 0);
        self.tally.imported(Imported { written: one, unchanged: 1 - one });
        Ok(())
    }

    async fn flush(&mut self, done: bool) -> Result<()> {
        self.write(self.tally.records(), done).await
    }

    /// Writes the chunk; `records` of the file are dealt with then.
    async fn write(&mut self, records: u64, done: bool) -> Result<()> {
        let rows: Vec<Exported> = std::mem::take(&mut self.chunk).into_values().collect();
        self.chunk_bytes = 0;
        let imported = self.send(rows, records, done).await?;
        self.tally.imported(imported);
        Ok(())
    }

    async fn send(&self, rows: Vec<Exported>, records: u64, done: bool) -> Result<Imported> {
        let state = self.import.clone().map(|import| {
            let state = ImportState { records: records.max(self.from), done, at_ms: now_ms() };
            (import, state)
        });
        self.backend.one(Request::Data(DataRequest::Import { rows, state })).await
    }

    fn unreadable(&self, error: &SourceError) -> CliError {
        let counts = self.tally.counts();
        let kept = counts.written + counts.unchanged + counts.resumed;
        let hint = match error {
            SourceError::OpenQuote { .. } => {
                "mend the file, or use --no-quotes if quotes are part of its text"
            }
            SourceError::Header(_) => "name the columns with --columns A,B,C, or mend the first line",
            _ => "mend the file and import it again",
        };
        CliError::usage(format!("{error}; {kept} rows before that were imported")).hint(hint)
    }

    fn conclude(&mut self, input: &Input, strict: bool) -> Result<()> {
        self.tally.finish();
        let already = self.tally.already();
        let counts = self.tally.counts();
        let summary = Summary { file: input.name().to_owned(), already, counts };
        self.env.out.show(&summary, |summary| self.tally.human(&printable(&summary.file)))?;
        if counts.records > 0 && counts.rows == 0 && counts.other_tables == 0 {
            let hint = match self.shape {
                Shape::Exported { .. } => "other files than exports need --table T and --key FIELD",
                Shape::Rows { .. } => "is --key one of the fields, and --format right?",
            };
            return Err(CliError::usage("no record of the file could be used").hint(hint));
        }
        // Whoever reads an export back takes it for complete: there a skipped record is a loss.
        let exported = matches!(self.shape, Shape::Exported { .. });
        if (strict || exported) && counts.skipped > 0 {
            let hint = if exported {
                "the others were imported; what was skipped, and why, is said above"
            } else {
                "the others were imported; without --strict this is no error"
            };
            return Err(CliError::usage(format!("{} records were skipped", counts.skipped)).hint(hint));
        }
        Ok(())
    }
}
