//! Looking at one plan: replaying, shrinking, drawing.

use std::path::Path;
use std::time::Duration;

use sim_tests::{Plan, html, record, run_plan, shiviz};

use crate::arguments::{Chosen, Show, Shrink};
use crate::plant_chosen;

pub(crate) fn replay(chosen: &Chosen) -> Result<bool, String> {
    let plan = chosen.load()?;
    plant_chosen(chosen)?;
    println!("{plan}\n");
    let (report, result) = run_plan(&plan, chosen.harness.harness(), true);
    report.transcript.iter().for_each(|line| println!("{line}"));
    println!();
    for (name, times) in report.counts.0.iter().chain(&report.faults.0) {
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
    let harness = ask.chosen.harness.harness();
    let shrunk = match &ask.mark {
        None => sim_tests::shrink(&plan, harness, time).ok_or("this plan does not fail")?,
        Some(name) => {
            let marks = sim_tests::marks_of(harness);
            let known = marks.iter().find(|(mark, _)| mark == name).map(|(mark, _)| *mark);
            let mark = known.ok_or_else(|| format!("no mark is called '{name}'"))?;
            sim_tests::shrink_to_mark(&plan, harness, mark, time)
                .ok_or("this plan does not reach it, or fails")?
        }
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
    let end = shrunk.failure.as_ref().map_or("passed".into(), |failure| format!("FAILED {failure}"));
    eprintln!("{}\n{end}", shrunk.plan);
    match &ask.out {
        Some(file) => write(file, &(shrunk.plan.to_json() + "\n"))?,
        None => println!("{}", shrunk.plan.to_json()),
    }
    Ok(true)
}

pub(crate) fn show(ask: &Show) -> Result<bool, String> {
    let plan = ask.chosen.load()?;
    plant_chosen(&ask.chosen)?;
    if ask.html.is_some() || ask.shiviz.is_some() {
        return draw(ask, &plan);
    }
    if ask.json {
        println!("{}", plan.to_json());
    } else {
        println!("{plan}");
    }
    Ok(true)
}

fn draw(ask: &Show, plan: &Plan) -> Result<bool, String> {
    let (mut report, result) = record(plan, ask.chosen.harness.harness());
    let until_micros = ask.until_ms.map_or(u64::MAX, |ms| ms.saturating_mul(1000));
    report.moments.retain(|moment| moment.at_micros <= until_micros);
    if let Some(file) = &ask.html {
        let bug = ask.chosen.bug.as_ref().map_or(String::new(), |bug| format!(" with the planted bug {bug}"));
        let end = result.map_or_else(|failure| format!("FAILED {failure}"), |()| "passed".into());
        let name = Path::new(&ask.chosen.plan)
            .file_name()
            .map_or_else(String::new, |it| it.to_string_lossy().into());
        let title = format!("{name}{bug}: {end}");
        write(file, &html(&title, plan.nodes, &report.moments))?;
    }
    if let Some(file) = &ask.shiviz {
        write(file, &shiviz(plan.nodes, &report.moments))?;
    }
    Ok(true)
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
