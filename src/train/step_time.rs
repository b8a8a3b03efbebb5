//! Where the time of a step goes.

use std::time::Duration;

use crate::telemetry::window::Metric;

/// The time between the ends of two steps, cut into parts that do not overlap. What none of them is, such as writing pages of rollouts, is the
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
        let known: Duration = parts.iter().map(|(_, time)| *time).sum();
        let rest = ("other_seconds", self.whole.saturating_sub(known));
        let whole = self.whole.as_secs_f64();
        let mut metrics = vec![Metric::mean("step_seconds", whole)];
        for (name, time) in parts.into_iter().chain([rest]) {
            let seconds = time.as_secs_f64();
            metrics.push(Metric::mean(name, seconds));
            metrics.push(Metric::mean(format!("{name}/share"), seconds / whole));
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::window::Window;

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
