//! The copy of the data in which a query runs.
//!
//! Only tables whose name occurs somewhere in the statement are copied, which errs on the safe side. The rows of a
//! table have whatever fields they like, so its columns come to be as rows with them arrive.

use std::collections::BTreeMap;

use engine::value::Value;
use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, params_from_iter};
use tracing::debug;

use crate::backend::{Backend, read_item};
use crate::data::json::{self, JsonFields};
use crate::data::{ConflictEntry, DataRequest, Exported, LogEntry};
use crate::error::{CliError, Kind, Result};
use crate::progress::Progress;
use crate::protocol::Request;
use crate::report::{Peer, Status};

/// Times the copy is made again because something was written meanwhile.
const ATTEMPTS_MAX: usize = 3;

const OPLOG: &[&str] =
    &["position", "time_ms", "device", "device_id", "commit", "table", "row", "kind", "fields"];
const CONFLICTS: &[&str] = &[
    "id",
    "table",
    "row",
    "field",
    "lost_value",
    "lost_device",
    "lost_time_ms",
    "won_value",
    "won_device",
    "won_time_ms",
    "won_deleted",
    "why",
    "noticed_ms",
];
const PEERS: &[&str] = &[
    "name",
    "id",
    "connected",
    "path",
    "address",
    "in_sync",
    "peer_lacks",
    "we_lack",
    "ops_sent",
    "ops_received",
    "bytes_sent",
    "bytes_received",
];

/// See the module's documentation.
pub(super) struct Snapshot<'a> {
    connection: &'a Connection,
    backend: &'a Backend,
    /// The statement, in lower case.
    sql: String,
    progress: &'a Progress,
}

impl Snapshot<'_> {
    /// Copies what the statement may mention. False if the copy mixes two states.
    pub(super) async fn fill(
        connection: &mut Connection,
        backend: &Backend,
        sql: &str,
        progress: &Progress,
    ) -> Result<bool> {
        let position = async || Ok::<u64, CliError>(backend.one::<Status>(Request::Status).await?.position);
        for attempt in 1..=ATTEMPTS_MAX {
            clear(connection)?;
            let before = position().await?;
            let transaction = connection.transaction().map_err(|error| failed(&error))?;
            let snapshot = Snapshot { connection: &transaction, backend, sql: sql.to_lowercase(), progress };
            snapshot.copy().await?;
            transaction.commit().map_err(|error| failed(&error))?;
            if position().await? == before {
                return Ok(true);
            }
            debug!(attempt, "the data changed while it was copied");
        }
        Ok(false)
    }

    fn mentions(&self, name: &str) -> bool {
        self.sql.contains(&name.to_lowercase())
    }

    async fn copy(&self) -> Result<()> {
        let names: Vec<String> = self.backend.one(Request::Data(DataRequest::TableNames)).await?;
        let mut taken: Vec<String> = Vec::new();
        for name in names.iter().filter(|name| self.mentions(name)) {
            let called = unique(name, |other| taken.iter().any(|taken| taken.eq_ignore_ascii_case(other)));
            self.rows(name, &called).await?;
            taken.push(called);
        }
        self.oplog().await?;
        self.conflicts().await?;
        self.peers().await
    }

    async fn rows(&self, name: &str, called: &str) -> Result<()> {
        let mut table = Table::create(self.connection, "main", called, &["row"])?;
        let request = DataRequest::Export { table: Some(name.to_owned()) };
        let mut call = self.backend.call(Request::Data(request)).await?;
        while let Some(item) = call.next().await? {
            let Exported { row, fields, .. } = read_item(item)?;
            let mut values = vec![SqlValue::Text(row)];
            for (field, value) in fields.0 {
                let at = table.column_of(&field)?;
                values.resize(values.len().max(at + 1), SqlValue::Null);
                values[at] = sql_value(value);
            }
            table.insert(values)?;
            self.progress.one_more();
        }
        Ok(())
    }

    async fn oplog(&self) -> Result<()> {
        let mut table = Table::create(self.connection, "ahenk", "oplog", OPLOG)?;
        if !self.mentions("oplog") {
            return Ok(());
        }
        let request = DataRequest::Log { since: None, device: None, table: None, limit: None };
        let mut call = self.backend.call(Request::Data(request)).await?;
        while let Some(item) = call.next().await? {
            let entry: LogEntry = read_item(item)?;
            let fields = fields_text(&entry.fields)?;
            table.insert(vec![
                number(entry.position),
                number(entry.by.time_ms),
                entry.by.device.into(),
                entry.by.device_id.into(),
                entry.by.commit.into(),
                entry.table.into(),
                entry.row.into(),
                crate::commands::kind_name(entry.kind).to_owned().into(),
                fields.into(),
            ])?;
            self.progress.one_more();
        }
        Ok(())
    }

    async fn conflicts(&self) -> Result<()> {
        let mut table = Table::create(self.connection, "ahenk", "conflicts", CONFLICTS)?;
        if !self.mentions("conflicts") {
            return Ok(());
        }
        let request = DataRequest::Conflicts { table: None, limit: None };
        let mut call = self.backend.call(Request::Data(request)).await?;
        while let Some(item) = call.next().await? {
            let entry: ConflictEntry = read_item(item)?;
            let why = serde_json::to_value(entry.why).map_err(CliError::internal)?;
            table.insert(vec![
                number(entry.id),
                entry.table.into(),
                entry.row.into(),
                entry.field.into(),
                sql_value(entry.lost.value.0),
                entry.lost.by.device.into(),
                number(entry.lost.by.time_ms),
                sql_value(entry.won.value.0),
                entry.won.by.device.into(),
                number(entry.won.by.time_ms),
                i64::from(entry.won.deleted).into(),
                why.as_str().map(str::to_owned).into(),
                number(entry.noticed_ms),
            ])?;
        }
        Ok(())
    }

    async fn peers(&self) -> Result<()> {
        let mut table = Table::create(self.connection, "ahenk", "peers", PEERS)?;
        if !self.mentions("peers") {
            return Ok(());
        }
        let peers: Vec<Peer> = self.backend.one(Request::Peers).await?;
        for peer in peers {
            table.insert(vec![
                peer.name.into(),
                peer.id.into(),
                i64::from(peer.connected).into(),
                peer.path.into(),
                peer.address.into(),
                peer.in_sync.map(i64::from).into(),
                peer.peer_lacks.map_or(SqlValue::Null, number),
                peer.we_lack.map_or(SqlValue::Null, number),
                number(peer.ops_sent),
                number(peer.ops_received),
                number(peer.bytes_sent),
                number(peer.bytes_received),
            ])?;
        }
        Ok(())
    }
}

/// A table of the copy that is being filled.
struct Table<'a> {
    connection: &'a Connection,
    /// Its name, quoted, with its schema.
    name: String,
    columns: Vec<String>,
    /// The column of each field.
    fields: BTreeMap<String, usize>,
    insert: String,
}

impl<'a> Table<'a> {
    fn create(connection: &'a Connection, schema: &str, name: &str, columns: &[&str]) -> Result<Table<'a>> {
        let name = format!("{schema}.{}", quoted(name));
        let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        connection
            .execute_batch(&format!("CREATE TABLE {name} ({})", list.join(",")))
            .map_err(|error| failed(&error))?;
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        let mut table = Table { connection, name, columns, fields: BTreeMap::new(), insert: String::new() };
        table.prepare();
        Ok(table)
    }

    fn prepare(&mut self) {
        let places = vec!["?"; self.columns.len()].join(",");
        self.insert = format!("INSERT INTO {} VALUES ({places})", self.name);
    }

    /// The column of a field, which is added if it is the first of that name.
    fn column_of(&mut self, field: &str) -> Result<usize> {
        if let Some(at) = self.fields.get(field) {
            return Ok(*at);
        }
        let column =
            unique(field, |other| self.columns.iter().any(|taken| taken.eq_ignore_ascii_case(other)));
        let add = format!("ALTER TABLE {} ADD COLUMN {}", self.name, quoted(&column));
        self.connection.execute_batch(&add).map_err(|error| failed(&error))?;
        let at = self.columns.len();
        self.columns.push(column);
        self.fields.insert(field.to_owned(), at);
        self.prepare();
        Ok(at)
    }

    fn insert(&mut self, mut values: Vec<SqlValue>) -> Result<()> {
        values.resize(self.columns.len(), SqlValue::Null);
        let mut statement = self.connection.prepare_cached(&self.insert).map_err(|error| failed(&error))?;
        statement.execute(params_from_iter(values)).map(|_| ()).map_err(|error| failed(&error))
    }
}

/// Removes all tables of a copy that is out of date.
fn clear(connection: &Connection) -> Result<()> {
    for schema in ["main", "ahenk"] {
        let list = format!("SELECT name FROM {schema}.sqlite_schema WHERE type = 'table'");
        let mut statement = connection.prepare(&list).map_err(|error| failed(&error))?;
        let names = statement.query_map([], |row| row.get::<_, String>(0)).map_err(|error| failed(&error))?;
        let names = names.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))?;
        for name in names {
            connection
                .execute_batch(&format!("DROP TABLE {schema}.{}", quoted(&name)))
                .map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

/// The copy could not be made: a name that SQLite keeps for itself, too many columns, or no room for it.
fn failed(error: &rusqlite::Error) -> CliError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure) => {
            CliError::new(Kind::Storage, format!("the copy for the query cannot be written: {error}"))
                .hint("make room in the folder for temporary files, or name another one in TMPDIR")
        }
        _ => CliError::usage(format!("SQLite cannot hold what the query mentions: {error}"))
            .hint("a table has at most 1999 fields here, and its name may not begin with sqlite_; try `list --where`"),
    }
}

/// The name, or the first of `NAME_2`, `NAME_3` and so on that is not taken.
pub(super) fn unique(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|n: u32| format!("{name}_{n}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !taken(name)).unwrap_or_default()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Positions, counts and times stay far below the limit of SQLite's integers.
fn number(value: u64) -> SqlValue {
    SqlValue::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn fields_text(fields: &JsonFields) -> Result<String> {
    serde_json::to_string(fields).map_err(CliError::internal)
}

fn sql_value(value: Value) -> SqlValue {
    match value {
        Value::Null => SqlValue::Null,
        Value::Bool(value) => SqlValue::Integer(value.into()),
        Value::Int(value) => SqlValue::Integer(value),
        Value::Float(value) => SqlValue::Real(value),
        Value::Text(text) => SqlValue::Text(text),
        Value::Bytes(bytes) => SqlValue::Blob(bytes),
        nested @ (Value::List(_) | Value::Map(_)) => SqlValue::Text(json::to_text(&nested)),
    }
}
