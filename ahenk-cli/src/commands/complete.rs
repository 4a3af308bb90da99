//! What shells offer when a user asks for completion: names from this program and from the device's own data.
//!
//! Invariant: asking changes nothing, waits for nothing long, and whatever fails offers nothing.

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

use crate::config::KEYS;

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
