//! What can be asked of the simulator.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sim_tests::{Harness, Kept, Plan, plan};

/// Runs many devices in virtual time, breaks what can break, and checks that nothing is lost.
#[derive(Debug, Parser)]
#[command(name = "ahenk-sim", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Runs seeds and prints a summary; exit code 1 if one fails. A failure is shrunk, and its crash pack written.
    Run(Run),
    /// Runs one seed, or a plan from a file, and prints what happened.
    Replay(Chosen),
    /// Makes a failing plan small: fewer events, fewer devices, simpler settings, rounder times, the same failure. Or one
    /// that reaches a mark.
    Shrink(Shrink),
    /// Prints a seed's plan, or draws what happens in it.
    Show(Show),
    /// Runs each seed in two processes, and compares all that happened; exit code 1 if it differs.
    Meta {
        /// Which harness; both by default.
        #[arg(long, value_enum)]
        harness: Option<Kind>,
        /// The seeds: the first, and the one after the last.
        #[arg(long, default_value = "0..20", value_parser = seeds)]
        seeds: Range<u64>,
    },
    /// Plants bugs in the engine, one after the other, and shows which seeds notice; exit code 1 if one goes unnoticed.
    Mutants(Mutants),
    /// Prints the hashes of what happened in each seed, for `meta`.
    #[command(hide = true)]
    Trace {
        #[arg(long, value_enum)]
        harness: Kind,
        #[arg(long, value_parser = seeds)]
        seeds: Range<u64>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Which harness.
    #[arg(long, value_enum, default_value = "p")]
    pub(crate) harness: Kind,
    /// The seeds: the first, and the one after the last.
    /// By default the first 1000, or with `--minutes` as many as there is time for.
    #[arg(long, value_parser = seeds)]
    pub(crate) seeds: Option<Range<u64>>,
    /// Begin no seed after so many minutes.
    #[arg(long)]
    pub(crate) minutes: Option<f64>,
    /// Threads; by default one for each processor.
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Exit code 1, too, if a mark is not hit: for runs that are large enough to reach each situation.
    #[arg(long)]
    pub(crate) all_marks: bool,
    /// Put a bug of this name in force (`mutants` lists them), to see what a failure looks like.
    #[arg(long)]
    pub(crate) bug: Option<String>,
    /// Seconds to spend on shrinking a failure; 0 for none.
    #[arg(long, default_value_t = 20.0)]
    pub(crate) shrink_seconds: f64,
    /// Where crash packs go.
    #[arg(long, value_name = "FOLDER", default_value = "ahenk-sim-failures")]
    pub(crate) packs: PathBuf,
}

/// A plan, by seed or file.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// A seed, or the name of a file with a plan.
    pub(crate) plan: String,
    /// Which harness.
    #[arg(long, value_enum, default_value = "p")]
    pub(crate) harness: Kind,
    /// With a bug of this name in force (`mutants` lists them).
    #[arg(long)]
    pub(crate) bug: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Shrink {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// The plan holds, and is to be small and still reach the mark of this name.
    #[arg(long)]
    pub(crate) mark: Option<String>,
    /// Seconds to spend on it.
    #[arg(long, default_value_t = 60.0)]
    pub(crate) seconds: f64,
    /// Write the small plan to this file instead of the screen.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// As JSON, which `replay` reads from a file.
    #[arg(long)]
    pub(crate) json: bool,
    /// Run it, and draw a space-time diagram into this file: one page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Draw only what happens up to this time, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub(crate) until_ms: Option<u64>,
    /// Run it, and write a log with vector clocks for ShiViz into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) shiviz: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Seeds of the pure harness to try each bug with, at most.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) seeds: u64,
    /// Seeds to try each bug with even after one has noticed it, for the share that does.
    #[arg(long, default_value_t = 20)]
    pub(crate) sample: u64,
    /// Seeds of the full harness to try a bug with that the pure one does not notice.
    #[arg(long, default_value_t = 20)]
    pub(crate) full: u64,
    /// Time for all of them together.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) minutes: f64,
    /// Only the bug of this name.
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Threads; by default one for each processor.
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Shrink the first failure of each, and print how small it became and the median.
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Seconds to spend on shrinking each.
    #[arg(long, default_value_t = 9.0)]
    pub(crate) shrink_seconds: f64,
    /// Write the small plans to this folder, one file for each bug.
    #[arg(long, value_name = "FOLDER", requires = "shrink")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Pure: engines alone.
    P,
    /// Full: driver, store and transport on turmoil.
    T,
}

impl Kind {
    pub(crate) fn harness(self) -> Harness {
        match self {
            Kind::P => Harness::Pure,
            Kind::T => Harness::Full,
        }
    }

    pub(crate) fn letter(self) -> char {
        if self == Kind::P { 'p' } else { 't' }
    }
}

impl Chosen {
    /// The plan, from its seed or file.
    pub(crate) fn load(&self) -> Result<Plan, String> {
        if let Ok(seed) = self.plan.parse() {
            return Ok(plan(seed, self.harness.harness()));
        }
        let json = std::fs::read_to_string(&self.plan).map_err(|error| format!("{}: {error}", self.plan))?;
        Ok(Kept::from_json(&json).map_err(|error| format!("{}: {error}", self.plan))?.plan)
    }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("'{text}' is not like 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (from, to) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
    if from < to { Ok(from..to) } else { Err(format!("'{text}' holds no seeds")) }
}
