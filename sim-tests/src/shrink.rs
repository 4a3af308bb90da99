//! Shrinking: from a plan that fails to a small one that fails in the same way, by delta debugging (Zeller and
//! Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002): fewer events, fewer devices, a smaller core,
//! simpler events and knobs, rounder times. What makes a plan cheaper to run comes first: devices, whole kinds of events,
//! long transactions.
//!
//! Invariants: a plan is taken only if the same oracle notices it and it is no larger than the one before; every plan
//! tried can be carried out ([`Plan::check`]). This works because taking an event out changes nothing about the others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::plan::{Event, Plan};
use crate::run::run_within;
use crate::{Failure, Harness, Report, run_plan};
use engine::config::Config;

/// Most passes over the whole plan. Each pass that changes nothing ends the search earlier.
const PASSES_MAX: usize = 8;
/// Two events that only together can go (a crash and its restart) are looked for among so many.
const PAIRED_EVENTS_MAX: usize = 24;
/// Virtual time that a candidate has to converge, in milliseconds: a few of the longest waits of a device. A plan that is
/// late is tried a hundred times, so this is less than what a run is given; what comes out must fail with that as well.
const PATIENCE_MS: u64 = 3 * 60 * 1000;
/// Smallest sizes of plans, in bytes: of batches, credit, pushes and the reorder buffer.
const SMALL_BYTES: [usize; 4] = [200, 1_000, 500, 1_000];
/// Round times, in milliseconds.
const ROUND_MS: [u64; 5] = [10_000, 1_000, 100, 10, 1];

/// A small plan that fails, or reaches a mark.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// How it fails; `None` for a plan that reaches a mark.
    pub failure: Option<Failure>,
    /// Plans that were tried.
    pub tries: u64,
    /// Wall time that it took.
    pub took: Duration,
}

/// Shrinks a plan that fails, for at most so long. `None` if it does not fail.
pub fn shrink(plan: &Plan, harness: Harness, time: Duration) -> Option<Shrunk> {
    let start = Instant::now();
    let failure = run_plan(plan, harness, false).1.err()?;
    let search = |patience_ms| Search {
        harness,
        patience_ms,
        aim: Aim::Oracle(failure.violation.oracle),
        deadline: start + time,
        tries: 1,
        plan: plan.clone(),
        failure: Some(failure.clone()),
    };
    let mut quick = search(Some(PATIENCE_MS));
    quick.run();
    let (report, result) = run_plan(&quick.plan, harness, false);
    if quick.aim.is_met(&report, &result) {
        let failure = result.err();
        return Some(Shrunk { plan: quick.plan, failure, tries: quick.tries, took: start.elapsed() });
    }
    // It was only late.
    let mut patient = search(None);
    patient.run();
    let Search { plan, failure, tries, .. } = patient;
    Some(Shrunk { plan, failure, tries: tries + quick.tries, took: start.elapsed() })
}

/// Shrinks a plan that holds and reaches a mark. `None` if it does not.
pub fn shrink_to_mark(plan: &Plan, harness: Harness, mark: &'static str, time: Duration) -> Option<Shrunk> {
    let (start, aim) = (Instant::now(), Aim::Mark(mark));
    let (report, result) = run_plan(plan, harness, false);
    if !aim.is_met(&report, &result) {
        return None;
    }
    let (deadline, plan) = (start + time, plan.clone());
    let mut search = Search { harness, patience_ms: None, aim, deadline, tries: 1, plan, failure: None };
    search.run();
    let Search { plan, tries, .. } = search;
    Some(Shrunk { plan, failure: None, tries, took: start.elapsed() })
}

/// What a smaller plan must still do.
#[derive(Debug, Clone, Copy)]
enum Aim {
    /// This oracle notices it.
    Oracle(&'static str),
    /// It holds, and reaches this mark.
    Mark(&'static str),
}

impl Aim {
    fn is_met(self, report: &Report, result: &Result<(), Failure>) -> bool {
        match (self, result) {
            (Aim::Oracle(oracle), Err(failure)) => failure.violation.oracle == oracle,
            (Aim::Mark(mark), Ok(())) => report.marks.names().any(|name| name == mark),
            _ => false,
        }
    }
}

struct Search {
    harness: Harness,
    /// Virtual time to converge, if not that of a run.
    patience_ms: Option<u64>,
    aim: Aim,
    deadline: Instant,
    tries: u64,
    plan: Plan,
    failure: Option<Failure>,
}

impl Search {
    fn run(&mut self) {
        self.cut_the_end();
        self.smaller_buffers();
        for pass in 0..PASSES_MAX {
            let before = self.plan.clone();
            self.fewer_nodes();
            if pass == 0 {
                self.fewer_kinds();
                self.shorter_writes();
            }
            self.fewer_events();
            self.fewer_nodes();
            self.smaller_core();
            self.fewer_pairs();
            self.simpler_events();
            self.simpler_knobs();
            self.rounder_times();
            if self.plan == before || self.late() {
                break;
            }
        }
    }

    fn late(&self) -> bool {
        Instant::now() > self.deadline
    }

    /// Takes a plan if it fails in the same way.
    fn takes(&mut self, candidate: Plan) -> bool {
        if candidate == self.plan || self.late() || candidate.check().is_err() {
            return false;
        }
        self.tries += 1;
        let (report, result) = run_within(&candidate, self.harness, self.patience_ms);
        let met = self.aim.is_met(&report, &result);
        if met {
            self.plan = candidate;
            self.failure = result.err();
        }
        met
    }

    fn try_change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut candidate = self.plan.clone();
        change(&mut candidate);
        self.takes(candidate)
    }

    /// What comes after the failure has no part in it.
    fn cut_the_end(&mut self) {
        if let Some(event) = self.failure.as_ref().and_then(|failure| failure.event) {
            self.try_change(|plan| plan.events.truncate(event + 1));
        }
    }

    /// What needs a full buffer needs less with a small one. Where it does not matter, the usual size comes back.
    fn smaller_buffers(&mut self) {
        let [batch, credit, push, reorder] = SMALL_BYTES;
        self.try_change(|plan| plan.knobs.reorder_bytes_max = plan.knobs.reorder_bytes_max.min(reorder));
        self.try_change(|plan| plan.knobs.batch_bytes = plan.knobs.batch_bytes.min(batch));
        self.try_change(|plan| plan.knobs.credit_bytes = plan.knobs.credit_bytes.min(credit as u64));
        self.try_change(|plan| plan.knobs.push_bytes_max = plan.knobs.push_bytes_max.min(push as u64));
    }

    /// Takes out all events of one kind.
    fn fewer_kinds(&mut self) {
        let kinds: BTreeSet<&str> = self.plan.events.iter().map(|timed| timed.event.kind()).collect();
        for kind in kinds {
            self.try_change(|plan| plan.events.retain(|timed| timed.event.kind() != kind));
        }
    }

    /// Lets all transactions have so many steps at most.
    fn shorter_writes(&mut self) {
        for steps_max in [1, 3, 10] {
            let shorter = self.try_change(|plan| {
                for timed in &mut plan.events {
                    if let Event::Write { steps, .. } = &mut timed.event {
                        steps.truncate(steps_max);
                    }
                }
            });
            if shorter {
                return;
            }
        }
    }

    /// Takes out stretches of events, long ones first.
    fn fewer_events(&mut self) {
        let mut length = self.plan.events.len().div_ceil(2).max(1);
        loop {
            let mut from = 0;
            while from < self.plan.events.len() && !self.late() {
                let to = (from + length).min(self.plan.events.len());
                let gone = self.try_change(|plan| {
                    plan.events.drain(from..to);
                });
                if !gone {
                    from = to;
                }
            }
            if length == 1 {
                return;
            }
            length = length.div_ceil(2);
        }
    }

    /// Takes out two events at a time that are no neighbours: of many only such as are about the same devices.
    fn fewer_pairs(&mut self) {
        let mut first = 0;
        while first < self.plan.events.len() && !self.late() {
            let events = &self.plan.events;
            let nodes = |at: usize| events[at].event.nodes().into_iter().collect::<BTreeSet<usize>>();
            let of_first = nodes(first);
            let related = |second: &usize| events.len() <= PAIRED_EVENTS_MAX || nodes(*second) == of_first;
            let seconds: Vec<usize> = (first + 2..events.len()).filter(related).collect();
            let gone = seconds.into_iter().any(|second| {
                self.try_change(|plan| {
                    plan.events.remove(second);
                    plan.events.remove(first);
                })
            });
            if !gone {
                first += 1;
            }
        }
    }

    /// Takes devices out, with all that happens to them. Their neighbours in the core are joined.
    fn fewer_nodes(&mut self) {
        let mut node = self.plan.nodes;
        while node > 0 && self.plan.nodes > 2 {
            node -= 1;
            let Some(candidate) = without_node(&self.plan, node) else { continue };
            self.takes(candidate);
        }
    }

    fn smaller_core(&mut self) {
        let mut link = self.plan.core.len();
        while link > 0 && self.plan.core.len() > 1 {
            link -= 1;
            self.try_change(|plan| {
                plan.core.remove(link);
            });
        }
    }

    fn simpler_events(&mut self) {
        let mut at = 0;
        while at < self.plan.events.len() && !self.late() {
            while simpler(&self.plan.events[at].event)
                .into_iter()
                .any(|event| self.try_change(|plan| plan.events[at].event = event))
            {}
            at += 1;
        }
    }

    fn simpler_knobs(&mut self) {
        let usual = Config::default();
        let changes: [fn(&mut Plan, &Config); 11] = [
            |plan, _| plan.knobs.drift_ppm.fill(0),
            |plan, _| plan.knobs.datagrams = false,
            |plan, _| plan.knobs.packed_commits = 0,
            |plan, _| plan.knobs.checkpoint_bytes = 0,
            |plan, _| plan.knobs.repeated_writes = 0,
            |plan, _| plan.knobs.latency_micros = 1_000,
            |plan, usual| plan.knobs.batch_bytes = usual.batch_bytes,
            |plan, usual| plan.knobs.credit_bytes = usual.credit_bytes,
            |plan, usual| plan.knobs.push_bytes_max = usual.push_bytes_max,
            |plan, usual| plan.knobs.reorder_bytes_max = usual.reorder_bytes_max,
            |plan, _| plan.seed = 0,
        ];
        for change in changes {
            self.try_change(|plan| change(plan, &usual));
        }
    }

    /// All times together, then each alone, from the last to the first.
    fn rounder_times(&mut self) {
        for round_ms in ROUND_MS {
            self.try_change(|plan| {
                let mut at_ms = 0;
                for timed in &mut plan.events {
                    timed.at_ms = at_ms;
                    at_ms += round_ms;
                }
            });
        }
        for at in (0..self.plan.events.len()).rev() {
            let now_ms = self.plan.events[at].at_ms;
            let before_ms = at.checked_sub(1).map_or(0, |before| self.plan.events[before].at_ms);
            let rounder = |round_ms: u64| now_ms.is_multiple_of(round_ms);
            for round_ms in ROUND_MS.into_iter().take_while(|round_ms| !rounder(*round_ms)) {
                let down_ms = now_ms - now_ms % round_ms;
                let fits = [down_ms, down_ms + round_ms].into_iter().find(|ms| *ms >= before_ms);
                let Some(at_ms) = fits else { continue };
                let moved = self.try_change(|plan| {
                    // The rest moves along, so that the pauses stay.
                    let by = at_ms.abs_diff(now_ms);
                    for timed in &mut plan.events[at..] {
                        timed.at_ms = if at_ms < now_ms { timed.at_ms - by } else { timed.at_ms + by };
                    }
                });
                if moved {
                    break;
                }
            }
        }
    }
}

/// The plan without one of its devices; the later ones move up. `None` if nothing would be left of the core.
fn without_node(plan: &Plan, node: usize) -> Option<Plan> {
    let renumbered = |other: usize| if other > node { other - 1 } else { other };
    let mut plan = plan.clone();
    let neighbours: Vec<usize> = plan
        .core
        .iter()
        .filter_map(|(a, b)| (*a == node).then_some(*b).or((*b == node).then_some(*a)))
        .collect();
    plan.core.retain(|(a, b)| *a != node && *b != node);
    plan.core.extend(neighbours.windows(2).map(|pair| (pair[0], pair[1])));
    plan.core.iter_mut().for_each(|(a, b)| (*a, *b) = (renumbered(*a), renumbered(*b)));
    plan.events.retain_mut(|timed| {
        let mut stays = true;
        for other in timed.event.nodes_mut() {
            stays &= *other != node;
            *other = renumbered(*other);
        }
        stays
    });
    plan.nodes -= 1;
    plan.knobs.drift_ppm.remove(node);
    (!plan.core.is_empty()).then_some(plan)
}

/// Simpler forms of an event, the simplest first. Each is strictly simpler, so that the search ends.
fn simpler(event: &Event) -> Vec<Event> {
    match event {
        Event::Write { node, steps } => {
            let with = |steps: Vec<crate::Step>| Event::Write { node: *node, steps };
            let halves = [&steps[..steps.len() / 2], &steps[steps.len() / 2..]];
            let mut forms: Vec<Event> = halves
                .into_iter()
                .filter(|half| !half.is_empty() && half.len() < steps.len())
                .map(|half| with(half.to_vec()))
                .collect();
            for at in 0..steps.len() {
                if steps.len() > 1 {
                    let mut fewer = steps.clone();
                    fewer.remove(at);
                    forms.push(with(fewer));
                }
                for field in steps[at].fields.keys().filter(|_| steps[at].fields.len() > 1) {
                    let mut fewer = steps.clone();
                    fewer[at].fields.remove(field);
                    forms.push(with(fewer));
                }
            }
            forms
        }
        Event::Invite { ask, attempts } => (0..attempts.len())
            .map(|at| {
                let mut attempts = attempts.clone();
                attempts.remove(at);
                Event::Invite { ask: *ask, attempts }
            })
            .chain(ask.then(|| Event::Invite { ask: false, attempts: attempts.clone() }))
            .collect(),
        Event::Crash { node, after_writes } => (0..*after_writes)
            .take(3)
            .map(|after_writes| Event::Crash { node: *node, after_writes })
            .collect(),
        Event::FailStorage { node, times } if *times > 1 => {
            vec![Event::FailStorage { node: *node, times: 1 }]
        }
        Event::Clock { node, offset_ms } => [0, 60_000, -60_000, 3_600_000]
            .into_iter()
            .take_while(|simpler| simpler != offset_ms)
            .map(|offset_ms| Event::Clock { node: *node, offset_ms })
            .collect(),
        Event::CutOneWay { from, to } => vec![Event::Cut { a: *from, b: *to }],
        Event::Leave { node } => vec![Event::Crash { node: *node, after_writes: 0 }],
        Event::Latency { micros } if *micros > 1_000 => vec![Event::Latency { micros: 1_000 }],
        Event::Faults { loss_ppm, double_ppm, damage_ppm, jitter_micros } => {
            let faults = [*loss_ppm, *double_ppm, *damage_ppm, *jitter_micros];
            (0..faults.len())
                .filter(|at| faults[*at] > 0)
                .map(|at| {
                    let mut fewer = faults;
                    fewer[at] = 0;
                    let [loss_ppm, double_ppm, damage_ppm, jitter_micros] = fewer;
                    Event::Faults { loss_ppm, double_ppm, damage_ppm, jitter_micros }
                })
                .collect()
        }
        _ => Vec::new(),
    }
}
