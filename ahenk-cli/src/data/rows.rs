//! Reading and writing single rows, and listing them.
//!
//! Invariant: a table is read in pages, so its size does not show in memory. Rows written while a listing is under
//! way may or may not be in it.

use ahenk::{Fields, Row, Scan};
use engine::name::TableName;
use serde::{Deserialize, Serialize};

use super::json::{JsonFields, RawFields};
use super::{Wrote, at_most, no_row};
use crate::error::Result;
use crate::service::{Caller, Context};

/// Rows read from the store at a time.
const PAGE: usize = 256;

/// A row of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) row: String,
    pub(crate) fields: JsonFields,
}

/// A table and how many rows it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TableCount {
    pub(crate) table: String,
    pub(crate) rows: u64,
}

pub(super) fn raw(row: Row) -> RawFields {
    row.fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

pub(super) async fn put(context: &Context, table: &str, row: &str, fields: JsonFields) -> Result<Wrote> {
    let written = context.db.put(table, row, Fields(fields.0)).await?;
    Ok(Wrote { commit: written.stamp.dot.to_string(), position: written.position })
}

pub(super) fn get(context: &Context, table: &str, row: &str) -> Result<JsonFields> {
    let found = context.db.get(table, row)?.ok_or_else(|| no_row(table, row))?;
    Ok(JsonFields(raw(found)))
}

pub(super) async fn delete(context: &Context, table: &str, row: &str) -> Result<Wrote> {
    get(context, table, row)?;
    let written = context.db.delete(table, row).await?;
    Ok(Wrote { commit: written.stamp.dot.to_string(), position: written.position })
}

/// Reads a table page by page, up to `limit` rows whose key starts with `prefix`, behind `after`.
pub(super) struct Pages<'a> {
    pub(super) context: &'a Context,
    pub(super) table: &'a str,
    pub(super) prefix: &'a str,
    pub(super) after: Option<String>,
    pub(super) left: usize,
}

impl Pages<'_> {
    /// The next rows; none at the end.
    pub(super) fn next(&mut self) -> Result<Vec<(String, Row)>> {
        let mut scan = if self.prefix.is_empty() { Scan::all() } else { Scan::prefix(self.prefix) }
            .limit(self.left.min(PAGE));
        // A key before the prefix would begin the scan outside of it.
        if let Some(after) = self.after.as_deref().filter(|after| *after >= self.prefix) {
            scan = scan.after(after);
        }
        let page = self.context.db.scan(self.table, &scan)?;
        self.left -= page.len();
        if let Some((last, _)) = page.last() {
            self.after = Some(last.to_string());
        }
        Ok(page.into_iter().map(|(key, row)| (key.to_string(), row)).collect())
    }
}

pub(super) async fn list(
    context: &Context,
    caller: &Caller,
    table: &str,
    prefix: Option<&str>,
    after: Option<String>,
    limit: Option<u64>,
) -> Result<()> {
    let prefix = prefix.unwrap_or_default();
    let mut pages = Pages { context, table, prefix, after, left: at_most(limit) };
    loop {
        let page = pages.next()?;
        if page.is_empty() {
            return Ok(());
        }
        for (row, found) in page {
            caller.item(Listed { row, fields: JsonFields(raw(found)) }).await?;
        }
    }
}

pub(super) async fn tables(context: &Context, caller: &Caller) -> Result<()> {
    for table in context.db.tables()? {
        let rows = count(context, &table)?;
        caller.item(TableCount { table: table.to_string(), rows }).await?;
    }
    Ok(())
}

fn count(context: &Context, table: &TableName) -> Result<u64> {
    let table = table.as_str();
    let (mut pages, mut rows) = (Pages { context, table, prefix: "", after: None, left: usize::MAX }, 0);
    loop {
        match pages.next()?.len() {
            0 => return Ok(rows),
            page => rows += page as u64,
        }
    }
}
