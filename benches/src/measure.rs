//! Clocks and the table. Processor time is what counts where work is measured: other programs on the machine do not
//! disturb it. Ratios are taken within one run.

use std::hint::black_box;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// Time that some work took, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Spent {
    /// Of the processor, over all threads of this process, in the kernel too.
    pub cpu_ns: f64,
    /// By the clock on the wall.
    pub wall_ns: f64,
}

impl Spent {
    /// The share of one of `n` pieces of work.
    #[must_use]
    pub fn per(self, n: u64) -> Spent {
        Spent { cpu_ns: self.cpu_ns / n as f64, wall_ns: self.wall_ns / n as f64 }
    }
}

fn cpu_ns() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Measures from a moment on.
#[derive(Debug)]
pub struct Stopwatch {
    wall: Instant,
    cpu_ns: f64,
}

impl Stopwatch {
    /// From now on.
    #[must_use]
    pub fn start() -> Stopwatch {
        Stopwatch { wall: Instant::now(), cpu_ns: cpu_ns() }
    }

    /// Until now.
    pub fn spent(&self) -> Spent {
        Spent { cpu_ns: cpu_ns() - self.cpu_ns, wall_ns: self.wall.elapsed().as_secs_f64() * 1e9 }
    }
}

/// Measures one piece of work.
pub fn once<R>(work: impl FnOnce() -> R) -> (R, Spent) {
    let stopwatch = Stopwatch::start();
    let result = black_box(work());
    (result, stopwatch.spent())
}

/// The least of several rounds: what the work takes when nothing disturbs it.
pub fn best<S, R>(rounds: usize, mut setup: impl FnMut() -> S, mut work: impl FnMut(S) -> R) -> Spent {
    let mut least = Spent { cpu_ns: f64::INFINITY, wall_ns: f64::INFINITY };
    for _ in 0..rounds {
        let input = setup();
        let (result, spent) = once(|| work(input));
        drop(result);
        least.cpu_ns = least.cpu_ns.min(spent.cpu_ns);
        least.wall_ns = least.wall_ns.min(spent.wall_ns);
    }
    least
}

/// What a figure is to reach.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// There is none: it is there to compare with.
    None,
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

/// The table for people.
#[derive(Debug, Default)]
pub struct Table {
    /// (goals reached, goals missed)
    pub goals: (u32, u32),
}

impl Table {
    /// A heading.
    #[allow(clippy::print_stdout, reason = "this is the table")]
    pub fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// A figure, beside what it is to reach.
    #[allow(clippy::print_stdout, reason = "this is the table")]
    pub fn row(&mut self, what: &str, value: f64, unit: &str, goal: Goal) {
        let (text, reached) = match goal {
            Goal::None => (String::new(), None),
            Goal::AtMost(most) => (format!("at most {}", figure(most)), Some(value <= most)),
            Goal::AtLeast(least) => (format!("at least {}", figure(least)), Some(value >= least)),
        };
        let verdict = match reached {
            None => "",
            Some(true) => {
                self.goals.0 += 1;
                "reached"
            }
            Some(false) => {
                self.goals.1 += 1;
                "MISSED"
            }
        };
        let line = format!("  {what:<58} {:>10} {unit:<9} {text:<18} {verdict}", figure(value));
        println!("{}", line.trim_end());
    }
}

/// A number with three digits that mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
