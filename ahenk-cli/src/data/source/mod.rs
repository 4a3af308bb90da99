//! Files with rows, read one record at a time: a JSON array, JSON Lines, or text with delimited columns.
//!
//! Invariants: memory is bounded by [`RECORD_BYTES_MAX`] whatever the file holds; each record of the file comes out
//! exactly once, as fields or as the reason why it cannot be used; reading goes on behind a bad record wherever its
//! end can be told, and where it cannot (the file breaks off, a quote stays open) the error says in which line.

use std::io::{self, BufRead};

use clap::ValueEnum;
use engine::name::NameError;

use super::json::{JsonError, RawFields};

mod array;
mod delimited;
mod lines;
mod text;

pub(crate) use delimited::Layout;
use text::Text;

/// Longest text of one record, in bytes. What fits one transaction has less than 1 MiB, and its text may take several
/// times that; `export` writes a larger row as several records.
pub(crate) const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One JSON array of objects
    Json,
    /// One JSON object a line
    Jsonl,
    /// Columns separated by commas (or --delimiter)
    Csv,
    /// Columns separated by tabs (or --delimiter)
    Tsv,
}

/// One record of a file.
#[derive(Debug)]
pub(crate) struct Record {
    /// The line where it begins, from 1.
    pub(crate) line: u64,
    /// What it holds, or why it cannot be used.
    pub(crate) content: Result<Content, Unusable>,
}

/// What a record holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// JSON that has not been read yet.
    Json(String),
    /// Fields by the names of their columns.
    Fields(RawFields),
}

/// Why a record was skipped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// Not JSON, or JSON that cannot be kept without loss.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// Bytes that are no text.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// Too much text.
    #[error("longer than {} MiB", RECORD_BYTES_MAX / (1024 * 1024))]
    TooLong,
    /// Two commas in a row, or one at the end.
    #[error("an empty place between commas")]
    Nothing,
    /// More cells than columns.
    #[error("{cells} cells, but only {columns} columns have names")]
    TooManyCells {
        /// Cells in the record.
        cells: usize,
        /// Columns with names.
        columns: usize,
    },
    /// No field that names the row.
    #[error("no field {0:?} to name the row")]
    NoKey(String),
    /// A field that cannot name a row.
    #[error("the field {0:?} must hold text or an integer to name the row")]
    KeyKind(String),
    /// Not a line of an export.
    #[error("not of the form {{\"table\":…,\"row\":…,\"fields\":{{…}}}}: {0}")]
    NotExported(String),
    /// A name that is not possible.
    #[error("{0}")]
    Name(#[from] NameError),
    /// A field that no transaction holds.
    #[error("the field {field:?} takes {bytes} bytes, and one transaction holds at most {max}")]
    TooLarge {
        /// Its name.
        field: String,
        /// Its size in bytes.
        bytes: usize,
        /// Most of one transaction, in bytes.
        max: usize,
    },
}

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The system failed to read it.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
    /// It ends where it must not.
    #[error("the file ends within the record that begins in line {line}")]
    Truncated {
        /// The line where the last record begins.
        line: u64,
    },
    /// A quote without its partner.
    #[error("the quote that opens in line {line} is never closed")]
    OpenQuote {
        /// The line of the quote.
        line: u64,
    },
    /// Something follows what should be all.
    #[error("something follows the end of the array in line {line}")]
    AfterEnd {
        /// The line.
        line: u64,
    },
    /// The names of the columns make no sense.
    #[error("the column names cannot be used: {0}")]
    Header(String),
}

/// A file that is being read.
pub(crate) enum Source {
    Array(array::ArrayReader),
    Lines(lines::LineReader),
    Delimited(delimited::DelimitedReader),
}

impl Source {
    /// Begins to read. A byte order mark is passed over.
    pub(crate) fn open(
        reader: Box<dyn BufRead + Send>,
        format: Format,
        layout: Layout,
    ) -> Result<Source, SourceError> {
        let mut text = Text::new(reader);
        text.skip_mark()?;
        Ok(match format {
            Format::Json => Source::Array(array::ArrayReader::new(text)),
            Format::Jsonl => Source::Lines(lines::LineReader::new(text)),
            Format::Csv | Format::Tsv => Source::Delimited(delimited::DelimitedReader::new(text, layout)?),
        })
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, SourceError> {
        match self {
            Source::Array(reader) => reader.next(),
            Source::Lines(reader) => reader.next(),
            Source::Delimited(reader) => reader.next(),
        }
    }
}

/// The format that a file's name and its first byte that is not space suggest. JSON is known by its first byte; the
/// rest by the name; what is left is taken for CSV.
pub(crate) fn detect(name: &str, first: Option<u8>) -> Format {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    match (extension.as_deref(), first) {
        (Some("csv"), _) => Format::Csv,
        (Some("tsv" | "tab"), _) => Format::Tsv,
        (Some("jsonl" | "ndjson"), _) => Format::Jsonl,
        (_, Some(b'[')) => Format::Json,
        (_, Some(b'{')) => Format::Jsonl,
        (Some("json"), _) => Format::Json,
        _ => Format::Csv,
    }
}

fn text_of(bytes: Vec<u8>) -> Result<Content, Unusable> {
    String::from_utf8(bytes).map(Content::Json).map_err(|_| Unusable::NotUtf8)
}

#[cfg(test)]
mod tests;
