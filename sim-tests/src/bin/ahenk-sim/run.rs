//! Running many seeds.

use sim_tests::run_seeds;

use crate::arguments::Run;
use crate::processors;

pub(crate) fn run(ask: &Run) -> Result<bool, String> {
    let summary = run_seeds(ask.seeds.clone(), ask.jobs.unwrap_or_else(processors), ask.harness.harness());
    println!("{summary}");
    for (seed, failure) in &summary.failures {
        println!("FAILED seed {seed} {failure}");
        println!("  replay with: ahenk-sim replay {seed} --harness {}", ask.harness.letter());
    }
    Ok(summary.failures.is_empty())
}
