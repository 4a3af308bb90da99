//! The simulator's command line.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use engine::planted::Bug;
use sim_tests::{Harness, Plan, Trial, plan, run_plan, run_seeds, try_bug};

/// Runs many devices in virtual time, breaks what can break, and checks that nothing is lost.
#[derive(Debug, Parser)]
#[command(name = "ahenk-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs seeds and prints a summary; exit code 1 if one fails.
    Run {
        /// Which harness.
        #[arg(long, value_enum, default_value = "p")]
        harness: Kind,
        /// The seeds: the first, and the one after the last.
        #[arg(long, default_value = "0..1000", value_parser = seeds)]
        seeds: Range<u64>,
        /// Threads; by default one for each processor.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Runs one seed, or a plan from a file, and prints what happened.
    Replay {
        /// A seed, or the name of a file with a plan.
        plan: String,
        /// Which harness.
        #[arg(long, value_enum, default_value = "p")]
        harness: Kind,
    },
    /// Prints a seed's plan.
    Show {
        /// A seed, or the name of a file with a plan.
        plan: String,
        /// Which harness it is made for.
        #[arg(long, value_enum, default_value = "p")]
        harness: Kind,
        /// As JSON, which `replay` reads from a file.
        #[arg(long)]
        json: bool,
    },
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
    Mutants {
        /// Seeds of the pure harness to try each bug with, at most.
        #[arg(long, default_value_t = 20_000)]
        seeds: u64,
        /// Seeds to try each bug with even after one has noticed it, for the share that does.
        #[arg(long, default_value_t = 20)]
        sample: u64,
        /// Seeds of the full harness to try a bug with that the pure one does not notice.
        #[arg(long, default_value_t = 20)]
        full: u64,
        /// Time for all of them together.
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Only the bug of this name.
        #[arg(long)]
        only: Option<String>,
        /// Threads; by default one for each processor.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Prints the hashes of what happened in each seed, for `meta`.
    #[command(hide = true)]
    Trace {
        #[arg(long, value_enum)]
        harness: Kind,
        #[arg(long, value_parser = seeds)]
        seeds: Range<u64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Pure: engines alone.
    P,
    /// Full: driver, store and transport on turmoil.
    T,
}

impl Kind {
    fn harness(self) -> Harness {
        match self {
            Kind::P => Harness::Pure,
            Kind::T => Harness::Full,
        }
    }

    fn letter(self) -> char {
        if self == Kind::P { 'p' } else { 't' }
    }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("'{text}' is not like 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (from, to) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
    if from < to { Ok(from..to) } else { Err(format!("'{text}' holds no seeds")) }
}

fn load(text: &str, harness: Harness) -> Result<Plan, String> {
    if let Ok(seed) = text.parse() {
        return Ok(plan(seed, harness));
    }
    let json = std::fs::read_to_string(text).map_err(|error| format!("{text}: {error}"))?;
    Plan::from_json(&json).map_err(|error| format!("{text}: {error}"))
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Run { harness, seeds, jobs } => Ok(run(harness, seeds, jobs)),
        Task::Replay { plan, harness } => replay(&plan, harness),
        Task::Show { plan, harness, json } => show(&plan, harness, json),
        Task::Meta { harness, seeds } => meta(harness, &seeds),
        Task::Mutants { seeds, sample, full, minutes, only, jobs } => {
            let time = Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string());
            time.and_then(|time| mutants(seeds, sample, full, time, only.as_deref(), jobs))
        }
        Task::Trace { harness, seeds } => {
            trace(harness, seeds);
            Ok(true)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("error: {text}");
            ExitCode::from(2)
        }
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn run(kind: Kind, seeds: Range<u64>, jobs: Option<usize>) -> bool {
    let summary = run_seeds(seeds, jobs.unwrap_or_else(processors), kind.harness());
    println!("{summary}");
    for (seed, failure) in &summary.failures {
        println!("FAILED seed {seed} {failure}");
        println!("  replay with: ahenk-sim replay {seed} --harness {}", kind.letter());
    }
    summary.failures.is_empty()
}

fn replay(text: &str, kind: Kind) -> Result<bool, String> {
    let plan = load(text, kind.harness())?;
    println!("{plan}\n");
    let (report, result) = run_plan(&plan, kind.harness(), true);
    report.transcript.iter().for_each(|line| println!("{line}"));
    println!();
    for (name, times) in &report.counts.0 {
        println!("  {times:>10}  {name}");
    }
    match result {
        Ok(()) => {
            println!("passed: {} commits, converged in {} ms", report.commits, report.convergence_ms);
            Ok(true)
        }
        Err(failure) => {
            println!("FAILED {failure}");
            Ok(false)
        }
    }
}

fn show(text: &str, kind: Kind, json: bool) -> Result<bool, String> {
    let plan = load(text, kind.harness())?;
    if json {
        println!("{}", plan.to_json());
    } else {
        println!("{plan}");
    }
    Ok(true)
}

fn mutants(
    seeds: u64,
    sample: u64,
    full: u64,
    time: Duration,
    only: Option<&str>,
    jobs: Option<usize>,
) -> Result<bool, String> {
    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|bug| only.is_none_or(|only| only == bug.name())).collect();
    if bugs.is_empty() {
        let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        return Err(format!("no bug has this name; there are: {}", names.join(", ")));
    }
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let (deadline, width) = (start + time, bugs.iter().map(|bug| bug.name().len()).max().unwrap_or(0));
    let work = || {
        let mut survivors = 0;
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let trial = try_bug(*bug, 0..seeds, sample, full, deadline);
            survivors += usize::from(!trial.as_ref().is_ok_and(|trial| trial.kill.is_some()));
            println!(
                "{:width$}  {}",
                bug.name(),
                trial.map_or_else(|real| real.to_string(), |trial| verdict(&trial))
            );
        }
        survivors
    };
    let survivors: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..jobs.unwrap_or_else(processors).max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(1)).sum()
    });
    println!("{} bugs, {survivors} unnoticed, {:.1} s", bugs.len(), start.elapsed().as_secs_f64());
    Ok(survivors == 0)
}

fn verdict(trial: &Trial) -> String {
    let Some(kill) = &trial.kill else {
        return format!("UNNOTICED by {} seeds: {}", trial.seeds, trial.bug.about());
    };
    let harness = if kill.harness == Harness::Pure { 'p' } else { 't' };
    let share = format!("{} of {}", trial.killers, trial.seeds);
    format!("{harness} seed {:<5}  {share:>10} seeds  {}", kill.seed, kill.oracle)
}

fn trace(kind: Kind, seeds: Range<u64>) {
    for seed in seeds {
        let (report, result) = run_plan(&plan(seed, kind.harness()), kind.harness(), false);
        for (number, hash) in report.checkpoints.iter().enumerate() {
            println!("{seed} {number} {hash:016x}");
        }
        println!("{seed} end {}", result.map_or_else(|failure| failure.to_string(), |()| "passed".into()));
    }
}

fn meta(kind: Option<Kind>, seeds: &Range<u64>) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let traced = |kind: Kind| {
        let seeds = format!("{}..{}", seeds.start, seeds.end);
        let letter = kind.letter().to_string();
        let output = Command::new(&program).args(["trace", "--harness", &letter, "--seeds", &seeds]).output();
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("a traced run ended with {}", output.status));
        }
        String::from_utf8(output.stdout).map_err(|error| error.to_string())
    };
    for kind in kind.map_or(vec![Kind::P, Kind::T], |kind| vec![kind]) {
        let (first, second) = (traced(kind)?, traced(kind)?);
        if first != second {
            let difference = first.lines().zip(second.lines()).find(|(a, b)| a != b);
            let (a, b) = difference.unwrap_or(("(one of the two ends early)", ""));
            let event = a.split(' ').nth(1).and_then(|number| number.parse::<usize>().ok());
            println!("NOT DETERMINISTIC (harness {}): '{a}' beside '{b}'", kind.letter());
            if let (Some(seed), Some(event)) = (a.split(' ').next().and_then(|seed| seed.parse().ok()), event)
            {
                let plan = plan(seed, kind.harness());
                let before = plan.events.get(event).map_or("the end".into(), |timed| timed.event.to_string());
                println!("  seed {seed} first differs at or before event {event}: {before}");
            }
            return Ok(false);
        }
        println!("harness {}: {} checkpoints twice the same", kind.letter(), first.lines().count());
    }
    Ok(true)
}
