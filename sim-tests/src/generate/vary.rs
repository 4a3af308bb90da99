//! Variations of kept plans: what was hard to find once is looked for again where it was, and near there.
//!
//! Invariant: a variation can be carried out ([`Plan::check`]), and depends on its seed alone.

use std::sync::OnceLock;

use engine::prng::Prng;

use super::drawn;
use crate::kept::kept;
use crate::plan::{Event, Plan, Timed};

/// How many plans of the pure harness are variations of kept ones, in millionths.
const VARIED_PPM: u64 = 40_000;
/// Most changes to a kept plan.
const CHANGES_MAX: u64 = 3;

static KEPT: OnceLock<Vec<Plan>> = OnceLock::new();

/// The variation of a seed, if it has one: a kept plan, in half of them with another fate of frames, and a few changes. `ordinary` makes
/// plans whose events may be added.
pub(super) fn variation(seed: u64, ordinary: impl FnOnce() -> Plan) -> Option<Plan> {
    let mut prng = drawn(seed, b"vary");
    if !prng.chance_ppm(VARIED_PPM) {
        return None;
    }
    let kept = KEPT.get_or_init(|| kept().into_iter().map(|(_, kept)| kept.plan).collect());
    let kept = &kept[prng.below(kept.len() as u64) as usize];
    let fate = if prng.chance_ppm(500_000) { seed } else { kept.seed };
    let mut plan = Plan { seed: fate, ..kept.clone() };
    let others = ordinary().events;
    for _ in 0..prng.below(CHANGES_MAX + 1) {
        let mut changed = plan.clone();
        change(&mut changed, &others, &mut prng);
        if changed.check().is_ok() {
            plan = changed;
        }
    }
    // The core could not even greet over links that stay as slow as some plans have them for a while.
    let (last_ms, event) =
        (plan.events.last().map_or(0, |last| last.at_ms), Event::Latency { micros: 1_000 });
    plan.events.push(Timed { at_ms: last_ms, event });
    Some(plan)
}

fn change(plan: &mut Plan, others: &[Timed], prng: &mut Prng) {
    let events = &mut plan.events;
    let at = prng.below(events.len() as u64 + 1) as usize;
    match prng.below(5) {
        0 if at < events.len() => drop(events.remove(at)),
        // A longer pause.
        1 => {
            let by_ms = prng.below(5_000);
            events[at..].iter_mut().for_each(|timed| timed.at_ms += by_ms);
        }
        2 => plan.knobs.latency_micros = [200, 5_000, 40_000][prng.below(3) as usize],
        // Something else happens as well.
        _ => {
            let mut timed = others[prng.below(others.len() as u64) as usize].clone();
            timed.at_ms = at.checked_sub(1).map_or(0, |before| events[before].at_ms);
            events.insert(at, timed);
        }
    }
}
