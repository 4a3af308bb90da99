//! Running many seeds. A failure is shrunk, and its crash pack written: the plan, small and whole, the hashes of what
//! happened, a diagram, and the one command that replays it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sim_tests::{Failure, Harness, html, plan, record, run_plan, run_seeds, shrink};

use crate::arguments::Run;
use crate::processors;

pub(crate) fn run(ask: &Run) -> Result<bool, String> {
    let time = Duration::try_from_secs_f64(ask.shrink_seconds).map_err(|error| error.to_string())?;
    let summary = run_seeds(ask.seeds.clone(), ask.jobs.unwrap_or_else(processors), ask.harness.harness());
    println!("{summary}");
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
    Ok(summary.failures.is_empty())
}

/// Writes a crash pack. Gives the command that replays it.
fn pack(ask: &Run, seed: u64, failure: &Failure, time: Duration) -> Result<String, String> {
    let (letter, harness) = (ask.harness.letter(), ask.harness.harness());
    let folder: PathBuf = ask.packs.join(format!("{letter}-{seed}"));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let whole = plan(seed, harness);
    write(&folder, "whole.json", &whole.to_json())?;
    let shrunk = (time > Duration::ZERO).then(|| shrink(&whole, harness, time)).flatten();
    let (small, failure) = shrunk.map_or((whole, failure.clone()), |shrunk| (shrunk.plan, shrunk.failure));
    println!("  {small}");
    write(&folder, "plan.json", &small.to_json())?;
    let file = folder.join("plan.json");
    let command = format!("ahenk-sim replay {} --harness {letter}", file.display());
    let hashes = run_plan(&small, harness, false).0.checkpoints;
    let hashes: Vec<String> = hashes.iter().map(|hash| format!("{hash:016x}")).collect();
    let text =
        format!("seed {seed}: {failure}\n{command}\n\nhashes after each event:\n{}\n", hashes.join("\n"));
    write(&folder, "failure.txt", &text)?;
    if harness == Harness::Pure {
        let (report, _) = record(&small);
        write(
            &folder,
            "diagram.html",
            &html(&format!("seed {seed}: {failure}"), small.nodes, &report.moments),
        )?;
    }
    Ok(command)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    let file = folder.join(name);
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
}
