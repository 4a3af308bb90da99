//! The simulator's command line.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod look;
mod meta;
mod mutants;
mod run;

use std::process::ExitCode;

use clap::Parser;
use engine::planted::{Bug, plant};

use arguments::{Arguments, Chosen, Task};

/// A fifth of a run is allocation with that of the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Run(run) => run::run(&run),
        Task::Replay(chosen) => look::replay(&chosen),
        Task::Shrink(shrink) => look::shrink(&shrink),
        Task::Show(show) => look::show(&show),
        Task::Meta { harness, seeds } => meta::meta(harness, &seeds),
        Task::Mutants(mutants) => mutants::mutants(&mutants),
        Task::Trace { harness, seeds } => {
            meta::trace(harness, seeds);
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

fn bug(name: &str) -> Result<Bug, String> {
    let names = || Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
    let found = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
    found.ok_or_else(|| format!("no bug is called '{name}'; there are: {}", names()))
}

/// Puts the chosen bug in force on this thread, for the rest of the program.
fn plant_chosen(chosen: &Chosen) -> Result<(), String> {
    plant(chosen.bug.as_deref().map(bug).transpose()?);
    Ok(())
}
