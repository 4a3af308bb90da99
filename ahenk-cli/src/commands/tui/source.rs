//! What the dashboard knows, read from the daemon again and again, and what it asks the daemon to do.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::model::Action;
use crate::backend::{Backend, read_item};
use crate::data::admin::{AdminRequest, Administered};
use crate::data::{ConflictEntry, DataRequest, LogEntry, Restored};
use crate::error::Result;
use crate::home::Home;
use crate::protocol::Request;
use crate::report::{Paused, Stats, Status, Synced};

/// Changes and conflicts that are kept to be looked at.
const LINES_MAX: u64 = 100;
/// What is read of the log's end, in bytes.
const LOG_BYTES_MAX: u64 = 32 * 1024;
/// How long `sync` may take, in milliseconds.
const SYNC_MS: u64 = 15_000;

/// How things stand at one moment.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) stats: Stats,
    /// The newest operations, the newest last.
    pub(super) changes: Vec<LogEntry>,
    /// The newest conflicts, the newest last.
    pub(super) conflicts: Vec<ConflictEntry>,
    /// The end of the daemon's log.
    pub(super) log: Vec<String>,
}

/// Something that the dashboard should know.
#[derive(Debug)]
pub(super) enum News {
    Look(Box<Look>),
    /// The daemon cannot be asked; why.
    Gone(String),
    /// What was asked for is done, or why not.
    Done(Result<String, String>),
}

/// Looks every so often, and when asked to, until nobody wants to know.
pub(super) async fn read(
    home: Home,
    every: Duration,
    news: mpsc::Sender<News>,
    mut wanted: mpsc::Receiver<()>,
) {
    loop {
        let one = match look(&home).await {
            Ok(look) => News::Look(Box::new(look)),
            Err(error) => News::Gone(error.message),
        };
        if news.send(one).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            Some(()) = wanted.recv() => {}
        }
    }
}

async fn look(home: &Home) -> Result<Look> {
    let daemon = Backend::daemon(home).await?;
    let log = DataRequest::Log { since: None, device: None, table: None, limit: Some(LINES_MAX) };
    let conflicts = DataRequest::Conflicts { table: None, limit: Some(LINES_MAX) };
    Ok(Look {
        at: Instant::now(),
        status: daemon.one(Request::Status).await?,
        stats: daemon.one(Request::Stats).await?,
        changes: all(&daemon, log).await?,
        conflicts: all(&daemon, conflicts).await?,
        log: tail(&home.log_path()),
    })
}

async fn all<T: DeserializeOwned>(daemon: &Backend, request: DataRequest) -> Result<Vec<T>> {
    let (mut call, mut items) = (daemon.call(Request::Data(request)).await?, Vec::new());
    while let Some(item) = call.next().await? {
        items.push(read_item(item)?);
    }
    Ok(items)
}

/// The last lines of the log; none if there is no log, as with a daemon that runs in a terminal.
fn tail(path: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(LOG_BYTES_MAX);
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.take(LOG_BYTES_MAX).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// Has the daemon do something, and tells how that ended.
pub(super) async fn perform(home: Home, action: Action, news: mpsc::Sender<News>) {
    let done = carry_out(&home, action).await.map_err(|error| error.message);
    // Nobody is there any more to be told.
    let _ = news.send(News::Done(done)).await;
}

async fn carry_out(home: &Home, action: Action) -> Result<String> {
    let daemon = Backend::daemon(home).await?;
    Ok(match action {
        Action::Quit => String::new(),
        Action::Sync => {
            let done: Synced = daemon.one(Request::Sync { within_ms: SYNC_MS }).await?;
            format!("in sync with {} of {} devices", done.peers, done.devices)
        }
        Action::Pause(paused) => {
            let now: Paused = daemon.one(Request::Pause { paused }).await?;
            if now.paused { "sync is paused" } else { "sync goes on" }.to_owned()
        }
        Action::Revoke { id, .. } => {
            let order = AdminRequest::Revoke { device: id, reason: String::new() };
            let done: Administered = daemon.one(Request::Data(DataRequest::Admin(order))).await?;
            format!("{} is revoked", done.name)
        }
        Action::Restore { id, .. } => {
            let done: Restored =
                daemon.one(Request::Data(DataRequest::RestoreConflicts { ids: vec![id] })).await?;
            if done.restored.is_empty() { "the field shows that value already" } else { "written anew" }
                .to_owned()
        }
    })
}
