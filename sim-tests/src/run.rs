//! Running plans: one with its report, or many seeds side by side with a summary.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::planted::{Bug, plant};
use engine::testing::{Happened, Moment};
use rustix::time::{ClockId, clock_gettime};

use crate::full::Full;
use crate::marks::{Marks, marks_of};
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::pure::Pure;
use crate::{Harness, plan};

/// Of a mark that fewer seeds hit than this the summary names one.
const RARE: u64 = 10;

/// Numbers of devices whose cost is told together, too: a pair is no group.
const SEVERAL: RangeInclusive<usize> = 3..=6;

/// How often things happened, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    /// Counts something.
    pub fn add(&mut self, name: &'static str, times: u64) {
        if times > 0 {
            *self.0.entry(name).or_default() += times;
        }
    }

    fn join(&mut self, other: &Counts) {
        other.0.iter().for_each(|(name, times)| self.add(name, *times));
    }
}

/// What happened in a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How often what happened.
    pub counts: Counts,
    /// Faults that were injected, by kind.
    pub faults: Counts,
    /// Situations that were reached.
    pub marks: Marks,
    /// Commits in the longest log.
    pub commits: u64,
    /// From the end of the faults to convergence, in virtual milliseconds.
    pub convergence_ms: u64,
    /// The same in rounds, in each of which every link of the core carries a frame each way. (Pure harness.)
    pub convergence_rounds: u64,
    /// Virtual milliseconds in all.
    pub simulated_ms: u64,
    /// A hash of all that happened so far, at each event and at the end.
    pub checkpoints: Vec<u64>,
    /// The conversation, if it was asked for.
    pub transcript: Vec<String>,
    /// All that happened, if it was asked for.
    pub moments: Vec<Moment>,
}

/// How a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// At which event of the plan; `None` after the last.
    pub event: Option<usize>,
    /// What does not hold.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            Some(event) => write!(f, "at {} ms, event {event}: {}", self.at_ms, self.violation),
            None => write!(f, "at {} ms, after the last event: {}", self.at_ms, self.violation),
        }
    }
}

/// A run's report and how it ended.
pub type Outcome = (Report, Result<(), Failure>);

/// Carries a plan out. A panic anywhere in it is a failure too.
pub fn run_plan(plan: &Plan, harness: Harness, transcript: bool) -> Outcome {
    let run = || match harness {
        Harness::Pure if transcript => Pure::new(plan).with_transcript().run(),
        Harness::Pure => Pure::new(plan).run(),
        Harness::Full => Full::new(plan).run(transcript),
    };
    guarded(run)
}

/// The same, with less virtual time to converge, for who runs many variants of one plan. (Pure harness.)
pub(crate) fn run_within(plan: &Plan, harness: Harness, patience_ms: Option<u64>) -> Outcome {
    match (harness, patience_ms) {
        (Harness::Pure, Some(ms)) => guarded(|| Pure::new(plan).with_patience(ms).run()),
        _ => run_plan(plan, harness, false),
    }
}

fn guarded(run: impl FnOnce() -> Outcome) -> Outcome {
    panics::watch();
    Marks::begin();
    let (mut report, result) = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let text = panics::take().unwrap_or_default();
        let violation = Violation { oracle: "nothing panics", sentence: text };
        (Report::default(), Err(Failure { at_ms: 0, event: None, violation }))
    });
    report.marks.take_in();
    (report, result)
}

/// Carries a plan out and records all that happens, for a diagram. The failure is in it.
pub fn record(plan: &Plan, harness: Harness) -> Outcome {
    let run = || match harness {
        Harness::Pure => Pure::new(plan).with_moments().run(),
        Harness::Full => Full::recorded(plan).run(false),
    };
    let (mut report, result) = guarded(run);
    if let Err(failure) = &result {
        let what = Happened::Planned(format!("FAILED {failure}"));
        report.moments.push(Moment { at_micros: failure.at_ms * 1000, what });
    }
    (report, result)
}

/// Panics of the thread that runs a plan, those in tasks included, whose results nobody looks at.
pub(crate) mod panics {
    use std::cell::RefCell;
    use std::sync::Once;

    thread_local! {
        static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    /// Notes panics from now on, besides what was done about them before.
    pub(crate) fn watch() {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                let text = info.to_string();
                // A thread that is ending has no place for it any more.
                let _ = LAST.try_with(|last| *last.borrow_mut() = Some(text));
                before(info);
            }));
        });
    }

    /// The last panic since the last call.
    pub(crate) fn take() -> Option<String> {
        LAST.with(|last| last.borrow_mut().take())
    }
}

/// What runs cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Runs.
    pub runs: u64,
    /// Virtual milliseconds in all.
    pub simulated_ms: u64,
    /// Processor time that they took: of one core, however many worked at a time, and whatever else those did.
    pub cpu: Duration,
}

impl Cost {
    /// What as many runs of each kind cost, if there were two kinds at least.
    fn alike<'a>(kinds: impl Iterator<Item = &'a Cost>) -> Option<Cost> {
        let kinds: Vec<&Cost> = kinds.filter(|cost| cost.runs > 0).collect();
        let runs = kinds.iter().map(|cost| cost.runs).max()?;
        let mut all = Cost::default();
        for cost in &kinds {
            let times = runs as f64 / cost.runs as f64;
            let simulated_ms = (cost.simulated_ms as f64 * times) as u64;
            all.join(Cost { runs, simulated_ms, cpu: cost.cpu.mul_f64(times) });
        }
        (kinds.len() > 1).then_some(all)
    }

    fn join(&mut self, other: Cost) {
        self.runs += other.runs;
        self.simulated_ms += other.simulated_ms;
        self.cpu += other.cpu;
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.cpu.as_secs_f64().max(1e-9);
        let simulated = self.simulated_ms as f64 / 1000.0;
        write!(
            f,
            "{:.0} seeds/s and {:.0} simulated s per s, a seed having {:.0} simulated s",
            self.runs as f64 / seconds,
            simulated / seconds,
            simulated / self.runs.max(1) as f64
        )
    }
}

/// Processor time of this thread so far.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// What happened in many runs.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Runs that ended well.
    pub passed: u64,
    /// How often what happened, over all of them.
    pub counts: Counts,
    /// Faults that were injected, by kind.
    pub faults: Counts,
    /// In how many runs each mark was hit that this harness must hit, and the lowest seed; none for those that were not.
    pub marks: BTreeMap<&'static str, (u64, Option<u64>)>,
    /// Commits written.
    pub commits: u64,
    /// The longest convergence in virtual milliseconds, and its seed.
    pub slowest: (u64, u64),
    /// The convergence of most rounds, and its seed. (Pure harness.)
    pub most_rounds: (u64, u64),
    /// What runs cost, by how many devices they have.
    pub costs: BTreeMap<usize, Cost>,
    /// Wall time that it took.
    pub took: Duration,
    /// Seeds that failed, ascending.
    pub failures: BTreeMap<u64, Failure>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64().max(1e-9);
        let runs = self.passed + self.failures.len() as u64;
        let mut all = Cost::default();
        self.costs.values().for_each(|cost| all.join(*cost));
        writeln!(
            f,
            "{runs} seeds in {seconds:.1} s ({:.0} seeds/s, {:.0} simulated s per s), {} commits",
            runs as f64 / seconds,
            all.simulated_ms as f64 / 1000.0 / seconds,
            self.commits
        )?;
        writeln!(f, "on one core: {all}")?;
        self.costs.iter().try_for_each(|(devices, cost)| writeln!(f, "  {devices} devices: {cost}"))?;
        let several = || self.costs.range(SEVERAL);
        if let (Some((least, _)), Some((most, _))) = (several().next(), several().next_back())
            && let Some(alike) = Cost::alike(several().map(|(_, cost)| cost))
        {
            writeln!(f, "  {least} to {most} devices, as many of each: {alike}")?;
        }
        for (title, counts) in [("what happened", &self.counts), ("faults injected", &self.faults)] {
            writeln!(f, "{title}:")?;
            for (name, times) in &counts.0 {
                writeln!(f, "  {times:>10}  {name}")?;
            }
        }
        let unhit = self.unhit();
        writeln!(
            f,
            "marks: {} of {} hit, each with the seeds that do",
            self.marks.len() - unhit.len(),
            self.marks.len()
        )?;
        let rare = |seeds: u64, first: Option<u64>| {
            let first = first.filter(|_| seeds < RARE);
            first.map_or(String::new(), |seed| format!(" (from seed {seed})"))
        };
        let hit = self.marks.iter().filter(|(_, (seeds, _))| *seeds > 0);
        let hit = hit.map(|(name, (seeds, first))| format!("{name} {seeds}{}", rare(*seeds, *first)));
        let hit: Vec<String> = hit.collect();
        hit.chunks(5).try_for_each(|line| writeln!(f, "  {}", line.join(", ")))?;
        unhit.iter().try_for_each(|name| writeln!(f, "  NOT HIT: {name}"))?;
        write!(f, "slowest convergence: {} ms (seed {})", self.slowest.0, self.slowest.1)?;
        if self.most_rounds.0 > 0 {
            write!(f, "; in rounds: {} (seed {})", self.most_rounds.0, self.most_rounds.1)?;
        }
        Ok(())
    }
}

impl Summary {
    fn new(harness: Harness) -> Summary {
        let marks = marks_of(harness).into_iter().map(|(name, _)| (name, (0, None))).collect();
        Summary { marks, ..Summary::default() }
    }

    /// The marks that no run has hit.
    pub fn unhit(&self) -> Vec<&'static str> {
        self.marks.iter().filter(|(_, (seeds, _))| *seeds == 0).map(|(name, _)| *name).collect()
    }

    fn join(&mut self, seed: u64, devices: usize, cpu: Duration, (report, result): Outcome) {
        self.counts.join(&report.counts);
        self.faults.join(&report.faults);
        for name in report.marks.names() {
            if let Some((seeds, first)) = self.marks.get_mut(name) {
                *seeds += 1;
                *first = Some(first.map_or(seed, |first| first.min(seed)));
            }
        }
        let cost = Cost { runs: 1, simulated_ms: report.simulated_ms, cpu };
        self.costs.entry(devices).or_default().join(cost);
        self.commits += report.commits;
        self.slowest = self.slowest.max((report.convergence_ms, seed));
        self.most_rounds = self.most_rounds.max((report.convergence_rounds, seed));
        match result {
            Ok(()) => self.passed += 1,
            Err(failure) => drop(self.failures.insert(seed, failure)),
        }
    }
}

/// Which seeds to run, and how.
#[derive(Debug, Clone)]
pub struct Seeds {
    /// The seeds.
    pub seeds: Range<u64>,
    /// What carries them out.
    pub harness: Harness,
    /// Threads.
    pub jobs: usize,
    /// No seed begins after this.
    pub deadline: Option<Instant>,
    /// A bug to put in force.
    pub bug: Option<Bug>,
}

/// Runs seeds. Stops at the first failures. `progress` is told how many are done.
pub fn run_seeds(ask: &Seeds, progress: &(dyn Fn(u64) + Sync)) -> Summary {
    let Seeds { seeds, harness, jobs, deadline, bug } = ask.clone();
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let (summary, start) = (Mutex::new(Summary::new(harness)), Instant::now());
    let work = || {
        plant(bug);
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
            let start = cpu_time();
            let plan = plan(seed, harness);
            let outcome = run_plan(&plan, harness, false);
            let cpu = cpu_time().saturating_sub(start);
            stop.fetch_or(outcome.1.is_err(), Ordering::Relaxed);
            let mut summary = summary.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            summary.join(seed, plan.nodes, cpu, outcome);
            progress(summary.passed + summary.failures.len() as u64);
        }
    };
    std::thread::scope(|scope| {
        (0..jobs.max(1)).for_each(|_| {
            scope.spawn(work);
        });
    });
    let mut summary = summary.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    summary.took = start.elapsed();
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_over_several_kinds_does_not_depend_on_how_many_runs_each_had() {
        let cost = |runs: u64, ms_each: u64| Cost {
            runs,
            simulated_ms: runs * 60_000,
            cpu: Duration::from_millis(runs * ms_each),
        };
        let few = Cost::alike([cost(10, 1), cost(40, 3)].iter()).map(|cost| cost.to_string());
        let many = Cost::alike([cost(1_000, 1), cost(40, 3)].iter()).map(|cost| cost.to_string());
        assert_eq!(few, many);
        assert_eq!(
            few.as_deref(),
            Some("500 seeds/s and 30000 simulated s per s, a seed having 60 simulated s")
        );
        assert_eq!(Cost::alike([cost(10, 1)].iter()), None, "of one kind nothing is joined");
    }
}
