//! The metrics of a step of GRPO, and the line that the terminal shows of them.

use super::batch::Batch;
use super::policy::{Learned, Measured};
use crate::eval::Report;
use crate::eval::report::{figure, spread};
use crate::telemetry::window::{Aggregation, Averages, Metric};

/// What the rollouts of a step amount to.
pub fn report_metrics(report: &Report, batch: &Batch) -> Vec<Metric> {
    let [advantage_min, advantage, advantage_max] = spread(&batch.advantages);
    let mut metrics = vec![
        Metric::mean("reward", report.reward),
        Metric::mean("reward_std", report.reward_std),
        Metric::mean("frac_reward_zero_std", batch.groups_without_signal as f64 / batch.groups as f64),
        Metric::new("advantage/min", advantage_min, Aggregation::Min),
        Metric::mean("advantage/mean", advantage),
        Metric::new("advantage/max", advantage_max, Aggregation::Max),
        Metric::mean("accuracy", report.accuracy),
        Metric::mean("accuracy_of_all", report.accuracy_of_all),
        Metric::count("answers_scored", report.answers_scored),
        Metric::count("answers_unscored", report.answers_unscored),
        Metric::count("scored", report.scored),
        Metric::count("unscored", report.unscored),
        Metric::count("groups_left_out", batch.groups_left_out),
        Metric::count("masked_completions", batch.masked),
        Metric::mean("tool_use", report.tool_use),
        Metric::mean("tool_success", report.tool_success),
        Metric::mean("completion_tokens", report.tokens),
        Metric::new("completion_tokens/min", report.tokens_min, Aggregation::Min),
        Metric::new("completion_tokens/max", report.tokens_max, Aggregation::Max),
        Metric::mean("num_turns", report.turns),
        Metric::new("num_turns/min", report.turns_min, Aggregation::Min),
        Metric::new("num_turns/max", report.turns_max, Aggregation::Max),
    ];
    metrics.extend(report.parts.iter().map(|(name, value)| Metric::mean(format!("reward/{name}"), *value)));
    metrics.extend(report.ends.iter().map(|(name, count)| Metric::count(format!("end/{name}"), *count)));
    metrics
}

/// What the updates of a step measured: means over them. NaN where there was nothing to compute. Loss, clip shares and gradient norm are NaN
/// also where there was nothing to learn: a loss without a gradient says nothing of the policy.
pub fn update_metrics(learned: &Learned, has_signal: bool) -> Vec<Metric> {
    let of_loss = |value: fn(&Measured) -> f64| if has_signal { learned.mean(value) } else { f64::NAN };
    let [low, high] = [of_loss(|update| update.clip_low), of_loss(|update| update.clip_high)];
    vec![
        Metric::mean("loss", of_loss(|update| update.loss)),
        Metric::mean("kl", learned.mean(|update| update.kl)),
        Metric::mean("entropy", learned.mean(|update| update.entropy)),
        Metric::mean("clip_ratio", low + high),
        Metric::mean("clip_ratio/low_mean", low),
        Metric::mean("clip_ratio/high_mean", high),
        Metric::mean("grad_norm", of_loss(|update| update.update.grad_norm)),
        Metric::count("trained_tokens", learned.tokens),
        Metric::count("mismatched_tokens", learned.mismatched),
    ]
}

/// The line of a window of steps; a dash for what nothing was measured of, and no `kl` without a reference.
pub fn line_of(averages: &Averages) -> String {
    let get = |name| averages.get(name);
    let shown = |name| figure(averages.get(name));
    let calls_ok = get("tool_success");
    let [scored, unscored] = ["answers_scored", "answers_unscored"].map(get);
    let of_all = match unscored > 0.0 {
        true => format!(" ({} of all, {unscored:.0} of {:.0} unscored)", shown("accuracy_of_all"), scored + unscored),
        false => String::new(),
    };
    let kl = if get("kl").is_nan() { String::new() } else { format!("  kl {:.4}", get("kl")) };
    format!(
        "reward {}  accuracy {}{of_all}  tool use {:.2} ok {}  tokens {:.0}{kl}  entropy {}  grad norm {}  rollout {:.1} s  \
         update {:.1} s",
        shown("reward"),
        shown("accuracy"),
        get("tool_use"),
        if calls_ok.is_nan() { "-".to_owned() } else { format!("{calls_ok:.2}") },
        get("completion_tokens"),
        shown("entropy"),
        shown("grad_norm"),
        get("rollout_seconds"),
        get("update_seconds"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::window::Window;
    use crate::train::learner;

    fn measured(kl: f64, grad_norm: f64) -> Measured {
        let update = learner::Update { grad_norm, applied: grad_norm.is_finite() };
        Measured { loss: 2.0 * kl, kl, entropy: 1.0, clip_low: 0.25, clip_high: kl / 4.0, update }
    }

    fn averages(metrics: Vec<Metric>) -> Averages {
        let mut window = Window::default();
        window.add_step(metrics);
        window.averages()
    }

    #[test]
    fn every_iteration_of_a_step_is_counted() {
        let updates = vec![measured(0.0, 3.0), measured(0.5, f64::NAN), measured(1.0, 4.0)];
        let found = averages(update_metrics(&Learned { updates, tokens: 7, mismatched: 0 }, true));
        for (name, wanted) in [
            ("loss", 1.0),
            ("kl", 0.5),
            ("clip_ratio", 0.375),
            ("clip_ratio/low_mean", 0.25),
            ("clip_ratio/high_mean", 0.125),
            ("grad_norm", 3.5),
            ("trained_tokens", 7.0),
        ] {
            assert_eq!(found.get(name), wanted, "{name}");
        }
        assert!(averages(update_metrics(&Learned::default(), true)).get("loss").is_nan());
    }

    #[test]
    fn the_line_of_a_step_says_how_many_answers_are_unscored() {
        let report = Report {
            count: 8,
            accuracy: 1.0,
            accuracy_of_all: 0.125,
            answers_scored: 1,
            answers_unscored: 7,
            ..Report::default()
        };
        let mut metrics = report_metrics(&report, &Batch::default());
        metrics.push(Metric::mean("kl", f64::NAN));
        let line = line_of(&averages(metrics));
        assert!(line.contains("accuracy 1.000 (0.125 of all, 7 of 8 unscored)  tool use"), "{line}");
        assert!(line.contains("entropy -  grad norm -") && !line.contains("kl"), "{line}");
        let report = Report { answers_scored: 8, answers_unscored: 0, ..report };
        let line = line_of(&averages(report_metrics(&report, &Batch::default())));
        assert!(line.contains("accuracy 1.000  tool use"), "{line}");
    }
}
