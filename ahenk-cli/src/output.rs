//! What commands print: results on stdout, for people or as JSON; remarks and errors on stderr.
//!
//! Invariants: with `--json` stdout holds JSON and nothing else, one document a line; a reader that
//! closes the pipe ends the command quietly; text from other devices cannot control the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::error::{CliError, Kind, Result};

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Output {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output { json, quiet, colour: !json && !plain && io::stdout().is_terminal() }
    }

    /// Whether results are to be JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether colours are wanted: on a terminal, unless `NO_COLOR` is set.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// Prints a JSON document on a line of its own.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(CliError::internal)?;
        self.line(&text)
    }

    /// Prints the document with `--json`, else what `human` makes of it.
    pub(crate) fn show<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        if self.json { self.document(value) } else { self.line(&human(value)) }
    }

    /// Prints a line of a result.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::new(Kind::OutputClosed, "nobody reads the output"),
            _ => CliError::new(Kind::Storage, format!("cannot write the output: {error}"))
                .hint("check where the output is sent to"),
        })
    }

    /// Whether remarks are wanted.
    pub(crate) fn remarks(&self) -> bool {
        !self.quiet
    }

    /// A remark for people, beside the result. Not with `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            // If nobody reads remarks, so be it.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// A question, with the cursor left after it.
    pub(crate) fn prompt(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        // Without a place for questions, the answer decides alone.
        let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
    }

    /// Text in bold, where the terminal can.
    pub(crate) fn bold(&self, text: &str) -> String {
        if self.colour { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Prints an error the way the user asked for.
pub(crate) fn error(json: bool, error: &CliError) {
    let mut stderr = io::stderr().lock();
    let text = if json {
        serde_json::json!({ "error": error }).to_string()
    } else {
        match &error.hint {
            Some(hint) => {
                format!("error: {}\nhint: {}", printable_lines(&error.message), printable_lines(hint))
            }
            None => format!("error: {}", printable_lines(&error.message)),
        }
    };
    // There is nowhere left to complain.
    let _ = writeln!(stderr, "{text}");
}

/// A table with a heading, columns as wide as their contents.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|&text| text.to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&heading).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(&heading).chain(rows).map(line).collect::<Vec<_>>().join("\n")
}

/// Text with control characters made visible.
pub(crate) fn printable(text: &str) -> String {
    let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(visible).collect()
}

fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// A span of time as people say it.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_show() {
        let rows = vec![vec!["a".to_owned(), "bcd".to_owned()], vec!["longer".to_owned(), "e".to_owned()]];
        assert_eq!(table(&["X", "Y"], &rows), "X       Y\na       bcd\nlonger  e");
        assert_eq!(printable("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
    }
}
