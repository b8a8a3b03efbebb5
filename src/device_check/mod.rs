//! A device proves itself: its tensor cores' bits, every kernel at small and at real shapes against the definition, row invariance, a tiny
//! policy's sampler against its trainer, memory and graphs. It knows backends as `dyn Backend` only; what a card is held against, and how its
//! launches are recorded, it is given ([`check::Subject`]).
//!
//! New memory of a recorded device is full of NaN, so what no kernel wrote shows as one. A check that fails names the kernel, its shapes,
//! the place, and both values.

pub mod check;
pub mod record;
pub mod tolerance;

mod calls;
mod values;

mod tensor_core;

mod attention;
mod elementwise;
mod head;
mod norms;
mod optimizer;
mod products;

mod invariance;
mod memory;
mod policy;

use std::time::Instant;

use check::{Check, Fault, Outcome, Subject};

/// What came of all checks.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Those that were run, in order.
    pub outcomes: Vec<Outcome>,
    /// Checks that were left out, because a device that stopped says nothing more.
    pub not_run: usize,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// The outcomes that are no good.
    pub fn faults(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.fault.is_some())
    }

    /// Whether the device did all that it was asked.
    pub fn is_passed(&self) -> bool {
        self.faults().next().is_none() && self.not_run == 0
    }
}

/// Everything that a device must do, in the order in which it is tried: the parts before what is made of them.
pub fn checks(subject: &Subject) -> Vec<Check> {
    let sizes = subject.sizes;
    let all = [
        tensor_core::checks(subject),
        products::checks(sizes),
        norms::checks(sizes),
        elementwise::checks(sizes),
        attention::checks(sizes),
        head::checks(sizes),
        optimizer::checks(sizes),
        invariance::checks(sizes),
        memory::checks(subject),
        policy::checks(sizes),
    ];
    all.into_iter().flatten().collect()
}

/// Runs checks one after the other; `watch` sees each outcome when it is there. A device that stopped is asked for nothing more.
pub fn run(subject: &Subject, checks: &[Check], mut watch: impl FnMut(&Outcome)) -> Report {
    let began = Instant::now();
    let mut outcomes = Vec::with_capacity(checks.len());
    for check in checks {
        let outcome = check.run(subject);
        watch(&outcome);
        let is_over = matches!(outcome.fault, Some(Fault::Stopped { .. }));
        outcomes.push(outcome);
        if is_over {
            break;
        }
    }
    let not_run = checks.len() - outcomes.len();
    Report { outcomes, not_run, seconds: began.elapsed().as_secs_f64() }
}
