//! Running many seeds. A failure is shrunk, and its crash pack written: the plan, small and whole, the hashes of what
//! happened, a diagram, and the one command that replays it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::planted::plant;
use indicatif::{ProgressBar, ProgressStyle};
use sim_tests::{Failure, Seeds, Summary, html, plan, record, run_plan, run_seeds, shrink};

use crate::arguments::Run;
use crate::{bug, processors};

/// Seeds without `--seeds` and `--minutes`.
const SEEDS: u64 = 1000;

pub(crate) fn run(ask: &Run) -> Result<bool, String> {
    let time = Duration::try_from_secs_f64(ask.shrink_seconds).map_err(|error| error.to_string())?;
    let minutes = ask.minutes.map(|minutes| Duration::try_from_secs_f64(minutes * 60.0)).transpose();
    let minutes = minutes.map_err(|error| error.to_string())?;
    let end = if minutes.is_some() { u64::MAX } else { SEEDS };
    let seeds = Seeds {
        seeds: ask.seeds.clone().unwrap_or(0..end),
        harness: ask.harness.harness(),
        jobs: ask.jobs.unwrap_or_else(processors),
        deadline: minutes.map(|time| Instant::now() + time),
        bug: ask.bug.as_deref().map(bug).transpose()?,
    };
    let summary = watched(&seeds);
    println!("{summary}");
    plant(seeds.bug);
    for (seed, failure) in &summary.failures {
        println!("FAILED seed {seed} {failure}");
        match pack(ask, *seed, failure, time) {
            Ok(command) => println!("  replay with: {command}"),
            Err(error) => {
                println!("  replay with: ahenk-sim replay {seed} --harness {}", ask.harness.letter());
                eprintln!("no crash pack: {error}");
            }
        }
    }
    let unhit = summary.unhit();
    if ask.all_marks && !unhit.is_empty() {
        println!("FAILED {} marks were not hit: {}", unhit.len(), unhit.join(", "));
        return Ok(false);
    }
    Ok(summary.failures.is_empty())
}

/// Runs the seeds, with a bar where somebody watches.
fn watched(seeds: &Seeds) -> Summary {
    let bar = match std::io::stderr().is_terminal() {
        false => ProgressBar::hidden(),
        true if seeds.seeds.end == u64::MAX => ProgressBar::new_spinner(),
        true => ProgressBar::new(seeds.seeds.end - seeds.seeds.start),
    };
    let template = match bar.length() {
        None => "{spinner} {pos} seeds  {per_sec}  {elapsed}",
        Some(_) => "{bar:40} {pos}/{len} seeds  {per_sec}  {eta} left",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let summary = run_seeds(seeds, &|done| bar.set_position(done));
    bar.finish_and_clear();
    summary
}

/// Writes a crash pack. Gives the command that replays it.
fn pack(ask: &Run, seed: u64, failure: &Failure, time: Duration) -> Result<String, String> {
    let (letter, harness) = (ask.harness.letter(), ask.harness.harness());
    let folder: PathBuf = ask.packs.join(format!("{letter}-{seed}"));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let whole = plan(seed, harness);
    write(&folder, "whole.json", &whole.to_json())?;
    let shrunk = (time > Duration::ZERO).then(|| shrink(&whole, harness, time)).flatten();
    let (small, failure) =
        shrunk.and_then(|shrunk| Some((shrunk.plan, shrunk.failure?))).unwrap_or((whole, failure.clone()));
    println!("  {small}");
    write(&folder, "plan.json", &small.to_json())?;
    let bug = ask.bug.as_ref().map_or(String::new(), |name| format!(" --bug {name}"));
    let file = folder.join("plan.json");
    let command = format!("ahenk-sim replay {} --harness {letter}{bug}", file.display());
    let hashes = run_plan(&small, harness, false).0.checkpoints;
    let hashes: Vec<String> = hashes.iter().map(|hash| format!("{hash:016x}")).collect();
    let text =
        format!("seed {seed}: {failure}\n{command}\n\nhashes after each event:\n{}\n", hashes.join("\n"));
    write(&folder, "failure.txt", &text)?;
    let (report, _) = record(&small, harness);
    let title = format!("seed {seed}: {failure}");
    write(&folder, "diagram.html", &html(&title, small.nodes, &report.moments))?;
    Ok(command)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    let file = folder.join(name);
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
}
