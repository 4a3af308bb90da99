//! One file a command: its arguments, the request that it makes, and what it prints.

pub(crate) mod account;
pub(crate) mod backup;
pub(crate) mod batch;
pub(crate) mod bugreport;
pub(crate) mod complete;
pub(crate) mod config;
pub(crate) mod conflicts;
pub(crate) mod delete;
pub(crate) mod demo;
pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod logs;
pub(crate) mod meeting;
pub(crate) mod netcheck;
pub(crate) mod oplog;
pub(crate) mod pause;
pub(crate) mod peer;
pub(crate) mod ping;
pub(crate) mod put;
pub(crate) mod quarantine;
#[cfg(feature = "query")]
pub(crate) mod query;
pub(crate) mod relay;
pub(crate) mod schema;
pub(crate) mod service;
pub(crate) mod shell;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod story;
pub(crate) mod sync;
pub(crate) mod tui;
pub(crate) mod vault;
pub(crate) mod verify;
pub(crate) mod wait;
pub(crate) mod watch;

use engine::commit::OpKind;
use engine::value::Value;
use serde_json::Value as Json;

use crate::backend::{Backend, Need};
use crate::data::json::{self, JsonFields};
use crate::error::Result;
use crate::home::Home;
use crate::output::{Output, printable};
use crate::protocol::Request;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) home: Home,
    pub(crate) out: Output,
}

impl Env {
    /// Sends what libraries warn of to stderr; with `--json` only if `RUST_LOG` asks for it, since scripts read errors
    /// there.
    pub(crate) fn init_logging(&self) {
        init_logging(if self.out.json() { "off" } else { "warn" });
    }

    /// Reaches the service, has `body` use it, and closes what was opened, whatever `body` returned.
    pub(crate) async fn with_backend<R>(
        &self,
        need: Need,
        body: impl AsyncFnOnce(&Backend) -> Result<R>,
    ) -> Result<R> {
        self.init_logging();
        let backend = Backend::open(&self.home, need).await?;
        let result = body(&backend).await;
        let closed = backend.close().await;
        let value = result?;
        closed.map(|()| value)
    }
}

impl Env {
    /// Makes a call that returns any number of items, and prints each: as it is with `--json`, else as `human` does.
    pub(crate) async fn stream(
        &self,
        need: Need,
        request: Request,
        mut human: impl FnMut(Json) -> Result<()>,
    ) -> Result<()> {
        self.with_backend(need, async |backend| {
            let mut call = backend.call(request).await?;
            while let Some(item) = call.next().await? {
                if self.out.json() { self.out.document(&item)? } else { human(item)? }
            }
            Ok(())
        })
        .await
    }
}

/// A value on one line, for people: text as it is, the rest as JSON.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::Text(text) => printable(text),
        other => printable(&json::to_text(other)),
    }
}

/// Fields on one line, for people.
pub(crate) fn fields_inline(fields: &JsonFields) -> String {
    let field = |(name, value): (&String, &Value)| {
        let value = match value {
            // Quoted where it could be mistaken.
            Value::Text(text) if text.is_empty() || text.contains(char::is_whitespace) => {
                json::to_text(value)
            }
            value => inline(value),
        };
        format!("{}={}", printable(name), printable(&value))
    };
    fields.0.iter().map(field).collect::<Vec<_>>().join(" ")
}

/// An operation on one line, for people: what it does, to which row, and the fields that it writes.
pub(crate) fn operation_inline(kind: OpKind, table: &str, row: &str, fields: &JsonFields) -> String {
    format!("{} {}/{}  {}", kind_name(kind), printable(table), printable(row), fields_inline(fields))
}

/// What an operation does, in one word.
pub(crate) fn kind_name(kind: OpKind) -> &'static str {
    match kind {
        OpKind::Put => "put",
        OpKind::Update => "update",
        OpKind::Delete => "delete",
        OpKind::Replace => "replace",
    }
}

/// Sends logs to stderr: what `RUST_LOG` says, or else `default`.
pub(crate) fn init_logging(default: &str) {
    use std::io::IsTerminal as _;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // A second call changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .try_init();
}

/// How long ago a time was, in milliseconds since the Unix epoch.
pub(crate) fn ago(then_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    crate::output::span(now.map_or(0, |since| since.as_millis() as u64).saturating_sub(then_ms))
}

/// Longest line that is read as an answer, in bytes.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Reads a line from stdin; `None` at its end. It may be a secret.
pub(crate) async fn read_line() -> Result<Option<zeroize::Zeroizing<String>>> {
    use std::io::{BufRead as _, Read as _};
    let read = || {
        let mut line = zeroize::Zeroizing::new(String::new());
        let count = std::io::stdin().lock().take(LINE_BYTES_MAX).read_line(&mut line);
        count.map(|count| (count > 0).then_some(line))
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(crate::error::CliError::internal)?;
    read.map_err(|error| crate::error::CliError::usage(format!("the input cannot be read: {error}")))
}

/// Reads the answer to a question; anything but yes is no.
pub(crate) async fn read_yes() -> Result<bool> {
    let line = read_line().await?;
    Ok(line.is_some_and(|line| matches!(line.trim().to_lowercase().as_str(), "y" | "yes")))
}

/// Asks a question; an error unless the answer is yes.
pub(crate) async fn confirm(env: &Env, question: &str) -> Result<()> {
    if !env.out.json() {
        env.out.prompt(question);
    }
    if read_yes().await? {
        return Ok(());
    }
    Err(crate::error::CliError::new(crate::error::Kind::Conflict, "it was not confirmed")
        .hint("nothing was changed; --yes does it without asking"))
}
