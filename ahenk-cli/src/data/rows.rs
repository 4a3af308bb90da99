//! Reading and writing single rows, and listing them.
//!
//! Invariant: a table is read in pages, so its size does not show in memory. Rows written while a listing is under
//! way may or may not be in it.

use ahenk::{Fields, Row, Scan};
use serde::{Deserialize, Serialize};

use super::filter::{self, CONDITIONS_MAX, Condition, SortKey};
use super::json::{JsonFields, RawFields};
use super::{Wrote, at_most, no_row};
use crate::error::{CliError, Result};
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
    let found = context.db.get(table, row)?.ok_or_else(|| no_row(context, table, row))?;
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

/// What of a table is asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Selection {
    /// Only rows whose key starts so.
    pub(crate) prefix: Option<String>,
    /// Only rows after this key.
    pub(crate) after: Option<String>,
    /// Only rows that meet all of these.
    pub(crate) conditions: Vec<Condition>,
}

/// The form in which selected rows are given back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Shape {
    /// Ascending by key, if there are none.
    pub(crate) sort: Vec<SortKey>,
    /// Only these fields, where a row has them.
    pub(crate) columns: Option<Vec<String>>,
    /// Most rows.
    pub(crate) limit: Option<u64>,
}

impl Selection {
    fn check(&self, sort: &[SortKey]) -> Result<()> {
        if self.conditions.len().max(sort.len()) <= CONDITIONS_MAX {
            return Ok(());
        }
        Err(CliError::usage(format!("more than {CONDITIONS_MAX} conditions")).hint("ask for less at a time"))
    }

    fn takes(&self, fields: &RawFields) -> bool {
        self.conditions.iter().all(|condition| condition.met_by(fields))
    }

    /// Hands each selected row to `take`.
    async fn each(
        &self,
        context: &Context,
        table: &str,
        mut take: impl FnMut(String, RawFields) + Send,
    ) -> Result<()> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let mut pages = Pages { context, table, prefix, after: self.after.clone(), left: usize::MAX };
        loop {
            let page = pages.next()?;
            if page.is_empty() {
                return Ok(());
            }
            for (row, found) in page {
                let fields = raw(found);
                if self.takes(&fields) {
                    take(row, fields);
                }
            }
            // Long tables leave room for others, and a caller that goes away ends the work.
            tokio::task::yield_now().await;
        }
    }
}

pub(super) async fn list(
    context: &Context,
    caller: &Caller,
    table: &str,
    selection: Selection,
    shape: Shape,
) -> Result<()> {
    selection.check(&shape.sort)?;
    let limit = at_most(shape.limit);
    let listed = |row: String, mut fields: RawFields| {
        if let Some(columns) = &shape.columns {
            fields.retain(|name, _| columns.contains(name));
        }
        Listed { row, fields: JsonFields(fields) }
    };
    if !shape.sort.is_empty() {
        for (row, fields) in sorted(context, table, &selection, &shape.sort, limit).await? {
            caller.item(listed(row, fields)).await?;
        }
        return Ok(());
    }
    let prefix = selection.prefix.as_deref().unwrap_or_default();
    let (mut left, unfiltered) = (limit, selection.conditions.is_empty());
    let read = if unfiltered { limit } else { usize::MAX };
    let mut pages = Pages { context, table, prefix, after: selection.after.clone(), left: read };
    while left > 0 {
        let page = pages.next()?;
        if page.is_empty() {
            return Ok(());
        }
        let rows = page.into_iter().map(|(row, found)| (row, raw(found)));
        for (row, fields) in rows.filter(|(_, fields)| selection.takes(fields)).take(left) {
            left -= 1;
            caller.item(listed(row, fields)).await?;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The first `limit` selected rows in an order. Keeps no more than twice as many in memory.
async fn sorted(
    context: &Context,
    table: &str,
    selection: &Selection,
    sort: &[SortKey],
    limit: usize,
) -> Result<Vec<(String, RawFields)>> {
    let mut rows: Vec<(String, RawFields)> = Vec::new();
    // A stable sort of what came in key order: equal rows stay in that order.
    let arrange = |rows: &mut Vec<(String, RawFields)>| {
        rows.sort_by(|(_, a), (_, b)| filter::order(sort, a, b));
        rows.truncate(limit);
    };
    selection
        .each(context, table, |row, fields| {
            rows.push((row, fields));
            if rows.len() > limit.saturating_mul(2).max(PAGE) {
                arrange(&mut rows);
            }
        })
        .await?;
    arrange(&mut rows);
    Ok(rows)
}

pub(super) async fn count(context: &Context, table: &str, selection: &Selection) -> Result<TableCount> {
    selection.check(&[])?;
    let mut rows = 0;
    selection.each(context, table, |_, _| rows += 1).await?;
    Ok(TableCount { table: table.to_owned(), rows })
}

pub(super) async fn tables(context: &Context, caller: &Caller) -> Result<()> {
    for table in context.db.tables()? {
        caller.item(count(context, table.as_str(), &Selection::default()).await?).await?;
    }
    Ok(())
}
