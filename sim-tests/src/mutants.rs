//! Planted bugs: shows that the oracles notice when the engine is wrong. Each bug is put in force in turn, and seeds are
//! run until one fails.

use std::ops::Range;
use std::time::{Duration, Instant};

use engine::planted::{Bug, plant};

use crate::{Failure, Harness, Kept, Plan, Shrunk, kept, plan, run_plan, shrink};

/// The first seed that noticed a bug.
#[derive(Debug, Clone)]
pub struct Kill {
    /// The harness.
    pub harness: Harness,
    /// The seed.
    pub seed: u64,
    /// The kept plan that noticed it, if no seed did.
    pub kept: Option<&'static str>,
    /// The property that does not hold.
    pub oracle: &'static str,
    /// What was found, in one sentence.
    pub sentence: String,
    /// The seed's plan made small, if that was asked for.
    pub shrunk: Option<Shrunk>,
}

/// What became of one bug.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The bug.
    pub bug: Bug,
    /// The first seed that noticed it; `None` if it survived.
    pub kill: Option<Kill>,
    /// Seeds of the pure harness that were run.
    pub seeds: u64,
    /// How many of them noticed it.
    pub killers: u64,
}

/// Takes the bug away again, whatever happens.
struct Planted;

impl Drop for Planted {
    fn drop(&mut self) {
        plant(None);
    }
}

/// A seed that fails without any planted bug: a real one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed} fails by itself, with no bug planted: {failure}")]
pub struct FailsByItself {
    /// The seed.
    pub seed: u64,
    /// How it fails.
    pub failure: Failure,
}

/// Plants a bug and runs at least `sample` seeds of the pure harness, for the share that notices it; then more, until one
/// does or they end, and in that case as many `full` seeds of the full harness, and the kept plans. Stops at the deadline. The seed that
/// noticed the bug is run again without it; so is what `shrink_time` makes of it, if that is not zero.
pub fn try_bug(
    bug: Bug,
    seeds: Range<u64>,
    sample: u64,
    full: u64,
    deadline: Instant,
    shrink_time: Duration,
) -> Result<Trial, FailsByItself> {
    plant(Some(bug));
    let _planted = Planted;
    let mut trial = Trial { bug, kill: None, seeds: 0, killers: 0 };
    let both = [(Harness::Pure, seeds.clone()), (Harness::Full, seeds.start..seeds.start + full)];
    for (harness, seeds) in both {
        for seed in seeds {
            let enough = trial.kill.is_some() && (harness == Harness::Full || trial.seeds >= sample);
            if enough || Instant::now() > deadline {
                break;
            }
            let failure = run_plan(&plan(seed, harness), harness, false).1.err();
            if harness == Harness::Pure {
                trial.seeds += 1;
                trial.killers += u64::from(failure.is_some());
            }
            if let (None, Some(failure)) = (&trial.kill, failure) {
                let (oracle, sentence) = (failure.violation.oracle, failure.violation.sentence);
                trial.kill = Some(Kill { harness, seed, kept: None, oracle, sentence, shrunk: None });
            }
        }
    }
    if trial.kill.is_none() {
        trial.kill = kept().into_iter().find_map(|(name, kept)| kill_by_kept(name, &kept));
    }
    if let Some(kill) = &mut trial.kill {
        let (harness, seed) = (kill.harness, kill.seed);
        let by_kept = kept().into_iter().find(|(name, _)| kill.kept == Some(name));
        let whole = by_kept.map_or_else(|| plan(seed, harness), |(_, kept)| kept.plan);
        if shrink_time > Duration::ZERO {
            kill.shrunk = shrink(&whole, harness, shrink_time);
        }
        plant(None);
        let holds =
            |plan: &Plan| run_plan(plan, harness, false).1.map_err(|failure| FailsByItself { seed, failure });
        holds(&whole)?;
        kill.shrunk.as_ref().map_or(Ok(()), |shrunk| holds(&shrunk.plan))?;
    }
    Ok(trial)
}

/// A kept plan is for what few seeds show.
fn kill_by_kept(name: &'static str, kept: &Kept) -> Option<Kill> {
    let violation = run_plan(&kept.plan, Harness::Pure, false).1.err()?.violation;
    let (oracle, sentence) = (violation.oracle, violation.sentence);
    Some(Kill {
        harness: Harness::Pure,
        seed: kept.plan.seed,
        kept: Some(name),
        oracle,
        sentence,
        shrunk: None,
    })
}
