//! `query`: read-only SQL over the tables, the log, the conflicts and the peers.
//!
//! What the statement may mention is copied into a private database of SQLite's own (`snapshot`), which spills to a
//! temporary file when it is large and is gone at the end; there the statement runs. (Virtual tables would save the
//! copy, but need `unsafe` code.)
//! Invariants: nothing that a statement does reaches the database, the disk or the network: SQLite is asked for each
//! action while it prepares the statement, and only reading is granted; the copy is of one moment, or it is said that
//! it is not.

mod snapshot;

use engine::value::Value;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Statement};

use super::{Env, inline};
use crate::backend::Need;
use crate::data::json::{JsonFields, RawFields};
use crate::error::{CliError, Result};
use crate::output::{self, printable};
use crate::progress::Progress;
use snapshot::{Snapshot, unique};

const AFTER_HELP: &str = "\
Tables:
  Each table of the database, with the columns `row` (the key) and one for each
  field. Booleans are 1 and 0, lists and maps JSON texts, bytes blobs. A field
  whose name is taken already (names differ in more than case in SQL) has _2
  behind its name.
  ahenk.oplog      position, time_ms, device, device_id, commit, table, row,
                   kind, fields (JSON)
  ahenk.conflicts  id, table, row, field, lost_value, lost_device,
                   lost_time_ms, won_value, won_device, won_time_ms,
                   won_deleted, why, noticed_ms
  ahenk.peers      name, id, connected, path, address, in_sync, peer_lacks,
                   we_lack, ops_sent, ops_received, bytes_sent, bytes_received
  `ahenk.` may be left out where no table of yours is called so. Column names
  that are words of SQL are quoted: \"table\", \"commit\".

Examples:
  ahenk-cli query 'SELECT city, count(*) FROM people GROUP BY city'
  ahenk-cli query 'SELECT device, count(*) FROM oplog GROUP BY device'
  ahenk-cli --json query 'SELECT row, title FROM tasks WHERE NOT done'";

/// Memory for pages of the copy, in KiB; beyond that they go to a temporary file.
const CACHE_KIB_MAX: u32 = 64 * 1024;

/// Arguments of `query`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// One SELECT statement, in SQLite's dialect
    sql: String,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let sql = args.sql;
    // Nothing is copied for a statement that cannot be run whatever the tables hold.
    let mut connection = open()?;
    env.with_backend(Need::Store, async |backend| {
        let progress = Progress::counting(&env.out, "Rows copied for the query");
        let whole = Snapshot::fill(&mut connection, backend, &sql, &progress).await?;
        drop(progress);
        if !whole {
            env.out.note("The data changed while it was read; the result may mix two states.");
        }
        Ok(())
    })
    .await?;
    connection.authorizer(Some(only_reading)).map_err(|error| internal(&error))?;
    let mut statement = connection.prepare(&sql).map_err(|error| refused(&error))?;
    print(env, &mut statement)
}

fn open() -> Result<Connection> {
    // The empty name means a private database that lies in memory until it is too large for it.
    let connection = Connection::open("").map_err(|error| internal(&error))?;
    let settings =
        format!("PRAGMA cache_size=-{CACHE_KIB_MAX}; PRAGMA journal_mode=OFF; ATTACH '' AS ahenk;");
    connection.execute_batch(&settings).map_err(|error| internal(&error))?;
    connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0).map_err(|error| internal(&error))?;
    Ok(connection)
}

/// What a statement may do.
fn only_reading(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } => Authorization::Allow,
        AuthAction::Function { function_name } if function_name != "load_extension" => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

fn internal(error: &rusqlite::Error) -> CliError {
    CliError::internal(format!("SQLite: {error}"))
}

/// What SQLite says of the statement.
fn refused(error: &rusqlite::Error) -> CliError {
    let denied = error.sqlite_error_code() == Some(rusqlite::ErrorCode::AuthorizationForStatementDenied);
    if denied {
        return CliError::usage("a query can only read").hint("`put`, `batch` and `delete` write");
    }
    let hint = match error {
        rusqlite::Error::MultipleStatement => "give one statement; several can be joined with UNION or WITH",
        other if other.to_string().contains("no such table") => {
            "`ahenk-cli tables` lists the tables; a name with special characters stands in double quotes"
        }
        _ => "`ahenk-cli help query` lists the columns and has examples",
    };
    let message = match error {
        // Without the statement, which the user has just typed.
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    };
    CliError::usage(message).hint(hint)
}

fn print(env: &Env, statement: &mut Statement<'_>) -> Result<()> {
    let mut names = Vec::new();
    for name in statement.column_names() {
        names.push(unique(name, |taken| names.iter().any(|name: &String| name.eq_ignore_ascii_case(taken))));
    }
    let (mut lines, mut rows) = (Vec::new(), statement.query([]).map_err(|error| refused(&error))?);
    while let Some(row) = rows.next().map_err(|error| refused(&error))? {
        let values =
            (0..names.len()).map(|column| row.get_ref(column).map(value_of).map_err(|error| refused(&error)));
        let values = values.collect::<Result<Vec<_>>>()?;
        if env.out.json() {
            let fields: RawFields = names.iter().cloned().zip(values).collect();
            env.out.document(&JsonFields(fields))?;
        } else {
            lines.push(values.iter().map(inline).collect());
        }
    }
    if env.out.json() {
        return Ok(());
    }
    let heading: Vec<String> = names.iter().map(|name| printable(name)).collect();
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    env.out.line(&output::table(&heading, &lines))
}

fn value_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Int(value),
        ValueRef::Real(value) => Value::Float(value),
        // A cast can make a text that is not UTF-8.
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}
