//! Many rows in and out: the service's side of `import` and `export`.
//!
//! Invariants: rows of one import request are written in one transaction, and of each row only the fields that
//! differ from what is there, so writing the same rows again writes nothing. How far an import has come is kept on
//! this device only, and only after the rows it claims are durable.

use ahenk::{Fields, Transaction, TransactionError};
use engine::store::Store;
use engine::store::StoreRead as _;
use serde::{Deserialize, Serialize};

use super::json::JsonFields;
use super::record::{PART_BYTES_MAX, parts};
use super::rows::{Pages, raw};
use crate::error::{CliError, Kind, Result};
use crate::service::{Caller, Context};

/// A row with its table: what `export` writes and `import` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exported {
    pub(crate) table: String,
    pub(crate) row: String,
    pub(crate) fields: JsonFields,
}

/// How far an import has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ImportState {
    /// Records of the file that have been dealt with.
    pub(crate) records: u64,
    /// Whether that is all of them.
    pub(crate) done: bool,
    /// When that was, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
}

/// What an import request has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Imported {
    /// Rows that were new or differed.
    pub(crate) written: u64,
    /// Rows that were there already, the same.
    pub(crate) unchanged: u64,
}

fn key(import: &str) -> Result<String> {
    let plain = import.len() == 32 && import.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { Ok(format!("import/{import}")) } else { Err(CliError::internal("not an import's id")) }
}

pub(super) fn state(context: &Context, import: &str) -> Result<ImportState> {
    let stored = context.db.store().local(&key(import)?)?;
    let Some(bytes) = stored else { return Ok(ImportState::default()) };
    serde_json::from_slice(&bytes).map_err(|error| {
        CliError::new(Kind::Storage, format!("what is noted about this import cannot be read: {error}"))
            .hint("--again imports the file from its beginning")
    })
}

pub(super) async fn import(
    context: &Context,
    rows: Vec<Exported>,
    state: Option<(String, ImportState)>,
) -> Result<Imported> {
    let note = match &state {
        Some((import, state)) => Some((key(import)?, serde_json::to_vec(state).map_err(CliError::internal)?)),
        None => None,
    };
    let imported = if rows.is_empty() {
        Imported::default()
    } else {
        context.db.transaction(|transaction| write(transaction, &rows)).await?
    };
    if let Some((key, bytes)) = note {
        context.db.store().set_local(&key, Some(&bytes))?;
    }
    Ok(imported)
}

fn write<S: Store>(
    transaction: &mut Transaction<'_, S>,
    rows: &[Exported],
) -> Result<Imported, TransactionError> {
    // All reads before the first write: a read looks through the transaction's own writes.
    let mut differing = Vec::new();
    for Exported { table, row, fields } in rows {
        let there = transaction.get(table, row)?;
        let differs = |name: &str, value| there.as_ref().and_then(|row| row.get(name)) != Some(value);
        let fields: Fields = fields
            .0
            .iter()
            .filter(|(name, value)| differs(name, value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if there.is_none() || !fields.0.is_empty() {
            differing.push((table, row, fields));
        }
    }
    let written = differing.len() as u64;
    for (table, row, fields) in differing {
        transaction.put(table, row, fields)?;
    }
    Ok(Imported { written, unchanged: rows.len() as u64 - written })
}

pub(super) async fn export(context: &Context, caller: &Caller, only: Option<&str>) -> Result<()> {
    let tables = match only {
        Some(table) => vec![table.to_owned()],
        None => context.db.tables()?.iter().map(ToString::to_string).collect(),
    };
    for table in tables {
        let mut pages = Pages { context, table: &table, prefix: "", after: None, left: usize::MAX };
        loop {
            let page = pages.next()?;
            if page.is_empty() {
                break;
            }
            for (row, found) in page {
                let fields = JsonFields(raw(found));
                // What a line holds can be written back in one transaction.
                let parts = parts(Exported { table: table.clone(), row, fields }, PART_BYTES_MAX);
                for part in parts.map_err(CliError::internal)? {
                    caller.item(part.row).await?;
                }
            }
        }
    }
    Ok(())
}
