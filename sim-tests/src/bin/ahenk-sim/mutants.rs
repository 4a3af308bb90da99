//! Planted bugs: that each is noticed, and how small the plans become that show them.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::planted::Bug;
use sim_tests::{Harness, Trial, try_bug};

use crate::arguments::Mutants;
use crate::{bug, processors};

pub(crate) fn mutants(ask: &Mutants) -> Result<bool, String> {
    let bugs: Vec<Bug> = match &ask.only {
        Some(name) => vec![bug(name)?],
        None => Bug::ALL.to_vec(),
    };
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let deadline = start + seconds(ask.minutes * 60.0)?;
    let shrink_time = if ask.shrink { seconds(ask.shrink_seconds)? } else { Duration::ZERO };
    let width = bugs.iter().map(|bug| bug.name().len()).max().unwrap_or(0);
    let sizes = Mutex::new(Vec::new());
    let work = || {
        let mut survivors = 0;
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let trial = try_bug(*bug, 0..ask.seeds, ask.sample, ask.full, deadline, shrink_time);
            survivors += usize::from(!trial.as_ref().is_ok_and(|trial| trial.kill.is_some()));
            if let Ok(trial) = &trial {
                sizes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(size(trial));
                if let Some(Err(error)) = ask.keep.as_ref().map(|folder| keep(trial, folder)) {
                    eprintln!("{}: {error}", bug.name());
                    survivors += 1;
                }
            }
            let text = trial.map_or_else(|real| real.to_string(), |trial| verdict(&trial));
            println!("{:width$}  {text}", bug.name());
        }
        survivors
    };
    let survivors: usize = std::thread::scope(|scope| {
        let jobs = ask.jobs.unwrap_or_else(processors).max(1);
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(1)).sum()
    });
    println!("{} bugs, {survivors} unnoticed, {:.1} s", bugs.len(), start.elapsed().as_secs_f64());
    let mut sizes = sizes.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    sizes.sort_unstable();
    if let (Some(median), Some(most)) = (sizes.get(sizes.len() / 2), sizes.last()) {
        println!("shrunk plans: {} events in the median, {} at most", median.0, most.0);
        let slowest = sizes.iter().map(|(_, took)| took.as_secs_f64()).fold(0.0, f64::max);
        println!("slowest to shrink: {slowest:.1} s");
    }
    Ok(survivors == 0)
}

/// Events of the shrunk plan, and how long that took.
fn size(trial: &Trial) -> Option<(usize, Duration)> {
    let shrunk = trial.kill.as_ref()?.shrunk.as_ref()?;
    Some((shrunk.plan.events.len(), shrunk.took))
}

fn keep(trial: &Trial, folder: &Path) -> std::io::Result<()> {
    let Some(shrunk) = trial.kill.as_ref().and_then(|kill| kill.shrunk.as_ref()) else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{}.json", trial.bug.name())), shrunk.plan.to_json() + "\n")
}

fn verdict(trial: &Trial) -> String {
    let Some(kill) = &trial.kill else {
        return format!("UNNOTICED by {} seeds: {}", trial.seeds, trial.bug.about());
    };
    let harness = if kill.harness == Harness::Pure { 'p' } else { 't' };
    let share = format!("{} of {}", trial.killers, trial.seeds);
    let small = kill.shrunk.as_ref().map_or(String::new(), |shrunk| {
        let (events, nodes) = (shrunk.plan.events.len(), shrunk.plan.nodes);
        format!("{events:>3} events, {nodes} devices, {:>4.1} s  ", shrunk.took.as_secs_f64())
    });
    let seed = kill.kept.map_or_else(|| format!("seed {}", kill.seed), |name| format!("plan {name}"));
    format!("{harness} {seed:<12}  {share:>10} seeds  {small}{}", kill.oracle)
}
