//! Looking at one plan: replaying, shrinking, drawing.

use std::path::Path;
use std::time::Duration;

use sim_tests::run_plan;

use crate::arguments::{Chosen, Show, Shrink};
use crate::plant_chosen;

pub(crate) fn replay(chosen: &Chosen) -> Result<bool, String> {
    let plan = chosen.load()?;
    plant_chosen(chosen)?;
    println!("{plan}\n");
    let (report, result) = run_plan(&plan, chosen.harness.harness(), true);
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

pub(crate) fn shrink(ask: &Shrink) -> Result<bool, String> {
    let plan = ask.chosen.load()?;
    plant_chosen(&ask.chosen)?;
    let time = Duration::try_from_secs_f64(ask.seconds).map_err(|error| error.to_string())?;
    let Some(shrunk) = sim_tests::shrink(&plan, ask.chosen.harness.harness(), time) else {
        return Err("this plan does not fail".into());
    };
    eprintln!(
        "from {} events on {} devices to {} on {}, by {} tries in {:.1} s",
        plan.events.len(),
        plan.nodes,
        shrunk.plan.events.len(),
        shrunk.plan.nodes,
        shrunk.tries,
        shrunk.took.as_secs_f64()
    );
    eprintln!("{}\nFAILED {}", shrunk.plan, shrunk.failure);
    match &ask.out {
        Some(file) => write(file, &(shrunk.plan.to_json() + "\n"))?,
        None => println!("{}", shrunk.plan.to_json()),
    }
    Ok(true)
}

pub(crate) fn show(ask: &Show) -> Result<bool, String> {
    let plan = ask.chosen.load()?;
    plant_chosen(&ask.chosen)?;
    if ask.json {
        println!("{}", plan.to_json());
    } else {
        println!("{plan}");
    }
    Ok(true)
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
