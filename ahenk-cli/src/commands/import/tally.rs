//! What an import has done so far: counts, the progress bar, and the report on what was skipped.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::json;

use crate::commands::Env;
use crate::data::source::Unusable;
use crate::data::{Exported, ImportState, Imported, time};
use crate::error::Result;
use crate::output::printable;
use crate::progress::Progress;

/// Skipped records that are shown to people one by one.
const SHOWN_MAX: usize = 10;
/// Keys that are remembered (by 8 bytes each) to count those that occur again.
const KEYS_MAX: usize = 4 * 1024 * 1024;
/// Records between two looks at the bar.
const PROGRESS_EVERY: u64 = 64;

/// The numbers. Field names are stable: `--json` prints them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    /// Records in the file, as far as it was read.
    pub(super) records: u64,
    /// Those that are rows.
    pub(super) rows: u64,
    /// Rows that were new or differed.
    pub(super) written: u64,
    /// Rows that were there already, the same.
    pub(super) unchanged: u64,
    /// Rows that an earlier run had dealt with.
    pub(super) resumed: u64,
    /// Rows whose key had occurred before in the file.
    pub(super) duplicates: u64,
    /// Rows of tables that were not asked for.
    pub(super) other_tables: u64,
    /// Records that could not be used.
    pub(super) skipped: u64,
}

pub(super) struct Tally<'a> {
    env: &'a Env,
    counts: Counts,
    found: ImportState,
    shown: Vec<String>,
    keys: HashSet<[u8; 8]>,
    /// The bar; none if the file's length is not known.
    bar: Option<Progress>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(env: &'a Env, bytes: Option<u64>) -> Tally<'a> {
        Tally {
            env,
            counts: Counts::default(),
            found: ImportState::default(),
            shown: Vec::new(),
            keys: HashSet::new(),
            bar: bytes.map(|bytes| Progress::of_bytes(&env.out, bytes)),
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn records(&self) -> u64 {
        self.counts.records
    }

    /// What is noted about an earlier run.
    pub(super) fn found(&mut self, state: &ImportState) {
        self.found = *state;
        if state.records > 0 && !state.done {
            self.env.out.note(&format!("Going on behind record {}.", state.records));
        }
    }

    pub(super) fn already(&self) -> bool {
        self.found.done
    }

    /// A record that cannot be used. With `--json` each is told at once.
    pub(super) fn skip(&mut self, line: u64, reason: &Unusable) -> Result<()> {
        self.counts.records += 1;
        self.counts.skipped += 1;
        if self.env.out.json() {
            return self
                .env
                .out
                .document(&json!({ "skipped": { "line": line, "reason": reason.to_string() } }));
        }
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(format!("  line {line}: {}", printable(&reason.to_string())));
        }
        Ok(())
    }

    pub(super) fn other_table(&mut self) {
        self.counts.records += 1;
        self.counts.other_tables += 1;
    }

    pub(super) fn usable(&mut self, row: &Exported) {
        self.counts.records += 1;
        self.counts.rows += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(row.table.as_bytes()).update(&[0]).update(row.row.as_bytes());
        let mut key = [0; 8];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        if self.keys.contains(&key) {
            self.counts.duplicates += 1;
        } else if self.keys.len() < KEYS_MAX {
            self.keys.insert(key);
        }
    }

    pub(super) fn resumed(&mut self) {
        self.counts.resumed += 1;
    }

    pub(super) fn imported(&mut self, imported: Imported) {
        self.counts.written += imported.written;
        self.counts.unchanged += imported.unchanged;
    }

    pub(super) fn progress(&mut self, read: u64) {
        // A record takes microseconds; looking at the clock and the screen for each would be most of the work.
        let due = self.counts.records.is_multiple_of(PROGRESS_EVERY);
        if let Some(bar) = self.bar.as_ref().filter(|_| due) {
            bar.at(read);
            bar.say(|| format!("{} rows", self.counts.rows));
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&mut self) {
        self.bar = None;
        // A failure that follows should not hide what was skipped.
        if !self.shown.is_empty() {
            self.env.out.note(&format!("Skipped {}:", plural(self.counts.skipped, "record")));
            self.shown.iter().for_each(|line| self.env.out.note(line));
            let more = self.counts.skipped - self.shown.len() as u64;
            if more > 0 {
                self.env.out.note(&format!("  and {more} more (--json lists all)"));
            }
            self.shown.clear();
        }
    }

    /// The summary for people.
    pub(super) fn human(&self, file: &str) -> String {
        if self.already() {
            let when = time::format(self.found.at_ms);
            return format!(
                "{file} was imported already, on {when} UTC; nothing was written (--again does)."
            );
        }
        let Counts { written, unchanged, resumed, duplicates, other_tables, skipped, .. } = self.counts;
        let mut text = format!("{} written", plural(written, "row"));
        let more = [
            (unchanged, "there already"),
            (resumed, "imported by an earlier run"),
            (duplicates, "with a key that had occurred before (the last wins)"),
            (other_tables, "of other tables"),
            (skipped, "skipped"),
        ];
        for (count, what) in more {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text.push('.');
        text
    }
}

fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
