//! The host's clock.

use std::time::Instant;

/// Seconds that work takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let began = Instant::now();
    std::hint::black_box(work());
    began.elapsed().as_secs_f64()
}
