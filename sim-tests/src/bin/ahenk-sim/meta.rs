//! That a run depends on its plan alone: each seed in two processes.

use std::ops::Range;
use std::process::Command;

use sim_tests::{plan, run_plan};

use crate::arguments::Kind;

pub(crate) fn trace(kind: Kind, seeds: Range<u64>) {
    for seed in seeds {
        let (report, result) = run_plan(&plan(seed, kind.harness()), kind.harness(), false);
        for (number, hash) in report.checkpoints.iter().enumerate() {
            println!("{seed} {number} {hash:016x}");
        }
        println!("{seed} end {}", result.map_or_else(|failure| failure.to_string(), |()| "passed".into()));
    }
}

pub(crate) fn meta(kind: Option<Kind>, seeds: &Range<u64>) -> Result<bool, String> {
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
