//! How long repeated work takes.

use std::time::{Duration, Instant};

/// Runs that count, at most.
const RUNS_MAX: usize = 1000;
/// And at least, unless one alone takes longer than the budget.
const RUNS_MIN: usize = 3;

/// The median of what `once` says that it took, in seconds, over as many runs as fit the budget. One goes before them, to warm up.
pub fn median_seconds(budget: Duration, mut once: impl FnMut() -> f64) -> f64 {
    let began = Instant::now();
    once();
    let least = if began.elapsed() > budget { 1 } else { RUNS_MIN };
    let began = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < least || began.elapsed() < budget && seconds.len() < RUNS_MAX {
        seconds.push(once());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
