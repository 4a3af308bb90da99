//! Text with columns between delimiters (RFC 4180 and its relatives). Our own small reader rather than a crate's,
//! because a record must have a largest size, and a quote that is never closed must not swallow the rest of the file
//! in silence. Where both read something, it is the same; a test compares them.

use std::collections::BTreeSet;

use engine::name::FieldName;
use engine::value::Value;

use super::text::{Gathered, Text};
use super::{Content, Record, SourceError, Unusable};
use crate::data::json::RawFields;

/// Most cells in one record; a row has far fewer fields.
const CELLS_MAX: usize = 64 * 1024;

/// How the columns lie in the text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    /// The byte between cells.
    pub(crate) delimiter: u8,
    /// Whether cells may stand in double quotes.
    pub(crate) quotes: bool,
    /// The byte that begins a line to be ignored.
    pub(crate) comment: Option<u8>,
    /// Names of the columns; if `None`, the first record holds them.
    pub(crate) columns: Option<Vec<String>>,
    /// Without names: call the columns `column1`, `column2` and so on.
    pub(crate) no_header: bool,
    /// Whether cells that look like numbers or truth values become such.
    pub(crate) typed: bool,
}

pub(crate) struct DelimitedReader {
    text: Text,
    layout: Layout,
    /// `None`: numbered.
    columns: Option<Vec<String>>,
}

/// One record's cells and the line where it begins.
struct Cells {
    line: u64,
    cells: Option<Vec<Vec<u8>>>,
}

impl DelimitedReader {
    pub(super) fn new(text: Text, mut layout: Layout) -> Result<DelimitedReader, SourceError> {
        let given = layout.columns.take();
        let mut reader = DelimitedReader { text, layout, columns: None };
        reader.columns = match given {
            Some(columns) => Some(columns),
            None if reader.layout.no_header => None,
            None => Some(reader.header()?),
        };
        if let Some(columns) = &reader.columns {
            check_columns(columns)?;
        }
        Ok(reader)
    }

    fn header(&mut self) -> Result<Vec<String>, SourceError> {
        let Some(Cells { line, cells }) = self.cells()? else { return Ok(Vec::new()) };
        let cells = cells.ok_or_else(|| SourceError::Header(format!("line {line} is too long")))?;
        let name = |cell: Vec<u8>| String::from_utf8(cell).map(|name| name.trim().to_owned());
        let names: Result<Vec<String>, _> = cells.into_iter().map(name).collect();
        names.map_err(|_| SourceError::Header(format!("line {line} is not valid UTF-8")))
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SourceError> {
        let Some(Cells { line, cells }) = self.cells()? else { return Ok(None) };
        let content =
            cells.ok_or(Unusable::TooLong).and_then(|cells| self.fields(cells)).map(Content::Fields);
        Ok(Some(Record { line, content }))
    }

    /// Cells that a short record lacks are left out.
    fn fields(&self, cells: Vec<Vec<u8>>) -> Result<RawFields, Unusable> {
        let count = cells.len();
        if let Some(columns) = self.columns.as_ref().map(Vec::len).filter(|columns| count > *columns) {
            return Err(Unusable::TooManyCells { cells: count, columns });
        }
        let mut fields = RawFields::new();
        for (index, cell) in cells.into_iter().enumerate() {
            let text = String::from_utf8(cell).map_err(|_| Unusable::NotUtf8)?;
            let value = if self.layout.typed { typed(text) } else { Value::Text(text) };
            let name = match &self.columns {
                Some(columns) => columns[index].clone(),
                None => format!("column{}", index + 1),
            };
            fields.insert(name, value);
        }
        Ok(fields)
    }

    /// The next record that is neither an empty line nor a comment.
    fn cells(&mut self) -> Result<Option<Cells>, SourceError> {
        loop {
            match self.text.peek()? {
                None => return Ok(None),
                Some(b'\r' | b'\n') => {
                    self.text.byte()?;
                }
                Some(byte) if Some(byte) == self.layout.comment => {
                    while self.text.byte()?.is_some_and(|byte| byte != b'\n') {}
                }
                Some(_) => return self.record().map(Some),
            }
        }
    }

    fn record(&mut self) -> Result<Cells, SourceError> {
        let line = self.text.line();
        // One buffer for the record, so that its limit holds over all cells; `ends` are the ends of the cells in it.
        let (mut gathered, mut ends) = (Gathered::default(), Vec::new());
        loop {
            if self.layout.quotes && self.text.peek()? == Some(b'"') {
                self.quoted(&mut gathered)?;
            }
            let last = self.plain(&mut gathered)?;
            if ends.len() == CELLS_MAX {
                gathered.give_up();
            } else {
                ends.push(gathered.len());
            }
            if last {
                break;
            }
        }
        let cells = gathered.take().map(|bytes| {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            starts.zip(&ends).map(|(start, end)| bytes[start..*end].to_vec()).collect()
        });
        Ok(Cells { line, cells })
    }

    /// Reads to the end of a cell; true if the record ends with it.
    fn plain(&mut self, gathered: &mut Gathered) -> Result<bool, SourceError> {
        loop {
            match self.text.byte()? {
                Some(byte) if byte == self.layout.delimiter => return Ok(false),
                None | Some(b'\n') => return Ok(true),
                Some(b'\r') => {
                    if self.text.peek()? == Some(b'\n') {
                        self.text.byte()?;
                    }
                    return Ok(true);
                }
                Some(byte) => gathered.push(byte),
            }
        }
    }

    /// Reads from an opening quote to the closing one; a doubled quote means one.
    fn quoted(&mut self, gathered: &mut Gathered) -> Result<(), SourceError> {
        let line = self.text.line();
        self.text.byte()?;
        loop {
            match self.text.byte()? {
                None => return Err(SourceError::OpenQuote { line }),
                Some(b'"') if self.text.peek()? == Some(b'"') => {
                    self.text.byte()?;
                    gathered.push(b'"');
                }
                Some(b'"') => return Ok(()),
                Some(byte) => gathered.push(byte),
            }
        }
    }
}

fn check_columns(columns: &[String]) -> Result<(), SourceError> {
    let mut seen = BTreeSet::new();
    for (index, name) in columns.iter().enumerate() {
        FieldName::new(name)
            .map_err(|error| SourceError::Header(format!("column {}: {error}", index + 1)))?;
        if !seen.insert(name) {
            return Err(SourceError::Header(format!("two columns are called {name:?}")));
        }
    }
    Ok(())
}

/// Numbers and truth values in their plain spelling; everything else stays text, so `007`, `1e5` and `+1` do.
fn typed(text: String) -> Value {
    match text.as_str() {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    if let Some(int) = text.parse::<i64>().ok().filter(|int| int.to_string() == text) {
        return Value::Int(int);
    }
    let digits = text.strip_prefix('-').unwrap_or(&text);
    let decimal = digits.split_once('.').is_some_and(|(whole, part)| {
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        all_digits(whole) && all_digits(part) && (whole == "0" || !whole.starts_with('0'))
    });
    match text.parse::<f64>() {
        Ok(float) if decimal && float.is_finite() => Value::Float(float),
        _ => Value::Text(text),
    }
}
