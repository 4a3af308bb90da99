//! The simulator: plans made from seeds, two harnesses that carry them out, and the oracles that judge both.
//! `docs/simulation.md` describes it for people.
//!
//! Architecture invariants: a run depends on its plan and on nothing else (no clock, no randomness of the system, no
//! order of a hash map); a plan is data; the oracles share no code with what they judge.

mod diagram;
mod disk;
mod full;
mod generate;
mod history;
mod intruded;
mod intruder;
mod kept;
mod ledger;
mod marks;
mod mutants;
mod oracle;
mod pairing;
mod plan;
mod pure;
mod recorder;
mod reference;
mod run;
mod shrink;
mod sim_store;
mod software;
mod standing;
mod synced;
mod view;
mod watched;

pub use diagram::{html, shiviz};
pub use disk::{DiskCounts, DiskImage, SimDisk};
pub use full::Full;
pub use generate::{FAULTLESS, plan};
pub use history::Global;
pub use intruder::Intrusion;
pub use kept::{Kept, kept};
pub use marks::{Marks, marks_of};
pub use mutants::{FailsByItself, Kill, Trial, try_bug};
pub use oracle::{Injected, Observer, Violation, check_bounds, check_equal, check_event};
pub use pairing::{Attempt, Typed};
pub use plan::{Event, Knobs, PAIR, Plan, PlanError, Step, TABLE, Timed, letter};
pub use pure::Pure;
pub use reference::{Reference, RowView};
pub use run::{Counts, Failure, Outcome, Report, Seeds, Summary, record, run_plan, run_seeds};
pub use shrink::{Shrunk, shrink, shrink_to_mark};
pub use view::Sabotage;

/// What carries a plan out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harness {
    /// The engines alone, in virtual time, over stores in memory.
    Pure,
    /// The real driver, store and transport, on simulated machines.
    Full,
}

/// How long an application waits to be in sync, in virtual milliseconds.
const SYNC_MS_MAX: u64 = 10_000;
