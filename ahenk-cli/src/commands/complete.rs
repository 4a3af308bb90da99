//! What shells offer when a user asks for completion: names from this program and from the device's own data.
//!
//! Invariant: asking changes nothing, waits for nothing long, and whatever fails offers nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use serde::de::DeserializeOwned;

use crate::backend::{Backend, Need, read_item};
use crate::config::KEYS;
use crate::data::admin::{AdminRequest, Retracted};
use crate::data::{ConflictEntry, DataRequest};
use crate::error::Result;
use crate::home::Home;
use crate::output::printable;
use crate::protocol::Request;
use crate::report::Device;

/// Longest wait for the device's data.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Most conflicts that are offered, the newest.
const CONFLICTS_MAX: u64 = 100;

/// The keys of the configuration.
pub(crate) fn keys() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        KEYS.iter().map(|key| CompletionCandidate::new(key.name).help(Some(key.about.into()))).collect()
    })
}

/// The values that keys of few values may have.
pub(crate) fn values() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let values: std::collections::BTreeSet<_> = KEYS.iter().flat_map(|key| key.choices()).collect();
        values.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// The tables that have rows.
pub(crate) fn tables() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let names: Vec<String> = ask(Request::Data(DataRequest::TableNames)).unwrap_or_default();
        names.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// The account's devices, by name.
pub(crate) fn devices() -> ArgValueCandidates {
    ArgValueCandidates::new(|| named(|_| true))
}

/// The account's other devices, by name.
pub(crate) fn peers() -> ArgValueCandidates {
    ArgValueCandidates::new(|| named(|device| !device.this && !device.revoked))
}

fn named(which: impl Fn(&Device) -> bool) -> Vec<CompletionCandidate> {
    let devices: Vec<Device> = ask(Request::Devices).unwrap_or_default();
    let candidate = |device: Device| CompletionCandidate::new(device.name).help(Some(device.id.into()));
    devices.into_iter().filter(which).map(candidate).collect()
}

/// Retracted commits.
pub(crate) fn retracted() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let found: Vec<Retracted> = ask_all(Request::Data(DataRequest::Admin(AdminRequest::Quarantine)));
        let candidate =
            |one: Retracted| CompletionCandidate::new(one.by.commit).help(Some(one.by.device.into()));
        found.into_iter().map(candidate).collect()
    })
}

/// Conflicts.
pub(crate) fn conflicts() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let request = DataRequest::Conflicts { table: None, limit: Some(CONFLICTS_MAX) };
        let found: Vec<ConflictEntry> = ask_all(Request::Data(request));
        let candidate = |one: ConflictEntry| {
            let what = printable(&format!("{}/{} {}", one.table, one.row, one.field));
            CompletionCandidate::new(one.id.to_string()).help(Some(what.into()))
        };
        found.into_iter().map(candidate).collect()
    })
}

/// Asks for a stream of items.
fn ask_all<T: DeserializeOwned>(request: Request) -> Vec<T> {
    with_backend(async |backend| {
        let (mut call, mut items) = (backend.call(request).await?, Vec::new());
        while let Some(item) = call.next().await? {
            items.push(read_item(item)?);
        }
        Ok(items)
    })
    .unwrap_or_default()
}

/// Asks for one item.
fn ask<T: DeserializeOwned>(request: Request) -> Option<T> {
    with_backend(async |backend| backend.one(request).await)
}

/// Asks the daemon, or looks into the database.
fn with_backend<T>(asking: impl AsyncFnOnce(&Backend) -> Result<T>) -> Option<T> {
    let home = Home::choose(home()).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let asking = async {
        let backend = Backend::open(&home, Need::Store).await?;
        let answer = asking(&backend).await;
        backend.close().await?;
        answer
    };
    let answer = runtime.block_on(async { tokio::time::timeout(WAIT_MAX, asking).await });
    answer.ok()?.ok()
}

/// The home of the command line that is being completed. The shell has not yet put the user's folder for a `~`.
fn home() -> Option<PathBuf> {
    let words: Vec<String> = std::env::args().collect();
    let given = words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix("--home=") {
        Some(value) => Some(value.to_owned()),
        None if word == "--home" => words.get(at + 1).cloned(),
        None => None,
    });
    let given = given.or_else(|| std::env::var("AHENK_HOME").ok()).filter(|home| !home.is_empty())?;
    match (given.strip_prefix("~/"), std::env::var("HOME")) {
        (Some(rest), Ok(user)) => Some(PathBuf::from(user).join(rest)),
        _ => Some(PathBuf::from(given)),
    }
}
