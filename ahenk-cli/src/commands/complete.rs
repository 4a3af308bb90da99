//! What shells offer when a user asks for completion: names from this program and from the device's own data.
//!
//! Invariant: asking changes nothing, waits for nothing long, and whatever fails offers nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use serde::de::DeserializeOwned;

use crate::backend::{Backend, Need};
use crate::config::KEYS;
use crate::data::DataRequest;
use crate::home::Home;
use crate::protocol::Request;
use crate::report::Device;

/// Longest wait for the device's data.
const WAIT_MAX: Duration = Duration::from_secs(2);

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

/// Asks the daemon, or looks into the database.
fn ask<T: DeserializeOwned>(request: Request) -> Option<T> {
    let home = Home::choose(home()).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let asking = async {
        let backend = Backend::open(&home, Need::Store).await?;
        let answer = backend.one(request).await;
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
