//! Where the time of a step goes.

use std::time::{Duration, Instant};

use crate::telemetry::window::Metric;

/// Measures steps, from the end of one to the end of the next.
#[derive(Clone, Debug)]
pub struct StepClock {
    /// When the last step ended, or the run began.
    began: Instant,
    /// What the learner had computed then.
    flops: f64,
    /// The most FLOP/s of the device, where that is known.
    peak_flops: Option<f64>,
}

impl StepClock {
    /// That of a run which begins now.
    pub fn new(peak_flops: Option<f64>) -> StepClock {
        StepClock { began: Instant::now(), flops: 0.0, peak_flops }
    }

    /// Ends a step: the time since the last one ended, and the FLOP that were computed in it. `flops` is what the learner has computed since the run began.
    pub fn end_step(&mut self, flops: f64) -> (Duration, f64) {
        let (now, computed) = (Instant::now(), flops - self.flops);
        let whole = now - std::mem::replace(&mut self.began, now);
        self.flops = flops;
        (whole, computed)
    }

    /// Model FLOPs utilisation (Chowdhery et al. 2022): the share of the device's peak at which an update of this length computed so many FLOP. None where
    /// the peak is not known, or nothing was computed.
    pub fn mfu(&self, computed: f64, update: Duration) -> Option<Metric> {
        let peak = self.peak_flops.filter(|_| computed > 0.0)?;
        Some(Metric::mean("mfu", computed / update.as_secs_f64() / peak))
    }
}

/// `step_seconds`, the seconds of each part of a step, and its share of the whole. What none of the parts is, is `other_seconds`.
pub fn split(whole: Duration, parts: &[(&str, Duration)]) -> Vec<Metric> {
    let known: Duration = parts.iter().map(|(_, time)| *time).sum();
    let rest = ("other_seconds", whole.saturating_sub(known));
    let whole = whole.as_secs_f64();
    let mut metrics = vec![Metric::mean("step_seconds", whole)];
    for (name, time) in parts.iter().chain([&rest]) {
        let seconds = time.as_secs_f64();
        metrics.push(Metric::mean(*name, seconds));
        metrics.push(Metric::mean(format!("{name}/share"), seconds / whole));
    }
    metrics
}

/// The time between the ends of two steps of GRPO, cut into parts that do not overlap. What none of them is, such as writing pages of rollouts, is the
/// rest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTime {
    /// All of it.
    pub whole: Duration,
    /// Rolling out; tools that ran while others decoded are hidden in it, and so is scoring.
    pub rollout: Duration,
    /// Waiting for rewards when every sequence had ended.
    pub scoring: Duration,
    /// Log-probabilities of the reference.
    pub reference: Duration,
    /// Advantages, forward, backward and optimizer.
    pub update: Duration,
    /// The evaluation before the step.
    pub evaluation: Duration,
    /// Writing the checkpoint before the step.
    pub checkpoint: Duration,
}

impl StepTime {
    /// Seconds of each part, and its share of the whole.
    pub fn metrics(&self) -> Vec<Metric> {
        let parts = [
            ("rollout_seconds", self.rollout),
            ("scoring_open_seconds", self.scoring),
            ("reference_seconds", self.reference),
            ("update_seconds", self.update),
            ("evaluation_seconds", self.evaluation),
            ("checkpoint_seconds", self.checkpoint),
        ];
        split(self.whole, &parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::window::Window;

    #[test]
    fn mfu_is_the_share_of_the_peak_that_an_update_reaches() {
        let mut clock = StepClock::new(Some(989.4e12));
        assert_eq!(clock.end_step(3e15).1, 3e15);
        let (_, computed) = clock.end_step(3e15 + 989.4e12);
        let mut window = Window::default();
        window.add_step(clock.mfu(computed, Duration::from_secs(4)).into_iter().collect());
        assert!((window.averages().get("mfu") - 0.25).abs() < 1e-12);
        assert_eq!(clock.mfu(0.0, Duration::from_secs(4)), None, "of an update without a gradient");
        assert_eq!(StepClock::new(None).mfu(1e15, Duration::from_secs(4)), None, "of a device without a known peak");
    }

    #[test]
    fn the_shares_of_a_step_are_the_whole_of_it() {
        let seconds = Duration::from_secs;
        let time = StepTime {
            whole: seconds(20),
            rollout: seconds(8),
            scoring: seconds(1),
            reference: seconds(2),
            update: seconds(4),
            evaluation: seconds(3),
            checkpoint: seconds(0),
        };
        let mut window = Window::default();
        window.add_step(time.metrics());
        let found = window.averages();
        let shares: Vec<f64> = found.iter().filter(|(name, _)| name.ends_with("/share")).map(|(_, v)| v).collect();
        assert_eq!(shares.len(), 7);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{shares:?}");
        for (name, wanted) in
            [("step_seconds", 20.0), ("other_seconds", 2.0), ("update_seconds/share", 0.2), ("rollout_seconds", 8.0)]
        {
            assert_eq!(found.get(name), wanted, "{name}");
        }
    }
}
