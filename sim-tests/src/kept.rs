//! Plans kept in the repository: small ones, each with a sentence that says what it shows. They must hold, and where a
//! bug is named, fail with it in force, and reach the mark that is named: so they stay both true and sharp. Variations of
//! them are among the plans of seeds.

use engine::planted::Bug;
use serde::{Deserialize, Serialize};

use crate::plan::{Plan, PlanError};

/// A plan in a file of the folder `plans`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// What it shows, in one sentence.
    pub about: String,
    /// The name of the bug with which it fails, if one can be planted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bug: Option<String>,
    /// The name of the mark that it reaches, if few plans do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// The plan.
    pub plan: Plan,
}

macro_rules! kept {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../plans/", $name, ".json")))),*]
    };
}

/// The files of the folder `plans`, by name.
const FILES: &[(&str, &str)] = kept! {
    "asked-in-turn"
    "earlier-branch"
    "lost-push"
    "old-request"
    "old-word"
    "revoked-while-waiting"
    "scalar-cursor"
    "small-buffer"
    "third-branch"
};

/// All of them, each with the name of its file.
pub fn kept() -> Vec<(&'static str, Kept)> {
    let read = |text| Kept::from_json(text).expect("a kept plan is a plan");
    FILES.iter().map(|(name, text)| (*name, read(text))).collect()
}

impl Kept {
    /// Reads a kept plan, or a plan alone.
    pub fn from_json(text: &str) -> Result<Kept, PlanError> {
        let kept = serde_json::from_str(text).or_else(|_| {
            Ok::<Kept, PlanError>(Kept {
                about: String::new(),
                bug: None,
                mark: None,
                plan: Plan::from_json(text)?,
            })
        })?;
        kept.plan.check()?;
        Ok(kept)
    }

    /// The bug with which it fails.
    pub fn planted(&self) -> Option<Bug> {
        let name = self.bug.as_deref()?;
        Bug::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}
