//! The metrics of a step of GRPO, and the line that the terminal shows of them.

use super::batch::Batch;
use super::policy::{Learned, Measured};
use crate::eval::Report;
use crate::eval::figures::{Spread, figure, standard_deviation};
use crate::eval::group_report::GroupReport;
use crate::eval::tool_report::ToolReport;
use crate::telemetry::window::{Aggregation, Averages, Metric};

/// What the rollouts of a step amount to.
pub fn report_metrics(report: &Report, groups: &GroupReport, batch: &Batch) -> Vec<Metric> {
    let mut metrics = vec![
        Metric::mean("reward", report.reward),
        Metric::mean("reward_std", report.reward_std),
        Metric::new("reward_min", report.reward_min, Aggregation::Min),
        Metric::new("reward_max", report.reward_max, Aggregation::Max),
        Metric::mean("frac_reward_zero_std", batch.groups_without_signal as f64 / batch.groups as f64),
        Metric::mean("accuracy", report.accuracy),
        Metric::mean("accuracy_of_all", report.accuracy_of_all),
        Metric::count("answers_scored", report.answers_scored),
        Metric::count("answers_unscored", report.answers_unscored),
        Metric::count("scored", report.scored),
        Metric::count("unscored", report.unscored),
        Metric::count("groups_left_out", batch.groups_left_out),
        Metric::count("masked_completions", batch.masked),
        Metric::count("replayed_completions", batch.replayed),
        Metric::mean("validity", report.validity),
        Metric::mean("tool_use", report.tool_use),
        Metric::mean("tool_success", report.tool_success),
        Metric::count("tools_distinct", report.tools_distinct),
        Metric::mean("tools_entropy", report.tools_entropy),
        Metric::mean("completions/clipped_ratio", report.clipped_ratio),
        Metric::mean("advantage/std", standard_deviation(&batch.advantages)),
    ];
    let advantages = Spread::of(&batch.advantages);
    add_spread(["advantage/mean", "advantage/min", "advantage/max"], advantages, &mut metrics);
    for (kind, spread) in [("length", report.own_tokens), ("terminated_length", report.terminated_tokens)] {
        let names = ["mean", "min", "max"].map(|value| format!("completions/{value}_{kind}"));
        add_spread(names, spread, &mut metrics);
    }
    for (name, spread) in [
        ("completion_tokens", report.tokens),
        ("prompt_length", report.prompt_tokens),
        ("observation_length", report.observation_tokens),
        ("num_turns", report.turns),
        ("tool_call_counts", report.calls),
        ("tool_images", report.images),
    ] {
        add_spread([name.to_owned(), format!("{name}/min"), format!("{name}/max")], spread, &mut metrics);
    }
    add_parts(report, groups, &mut metrics);
    for source in &report.sources {
        metrics.push(Metric::mean(format!("accuracy/{}", source.source), source.accuracy));
        metrics.push(Metric::mean(format!("reward/{}", source.source), source.reward));
    }
    metrics.extend(report.ends.iter().map(|(name, count)| Metric::count(format!("end/{name}"), *count)));
    report.tools.iter().for_each(|tool| add_tool(tool, &mut metrics));
    metrics
}

/// Mean, least and greatest under these names.
fn add_spread<Name: Into<String>>([mean, min, max]: [Name; 3], spread: Spread, metrics: &mut Vec<Metric>) {
    metrics.push(Metric::mean(mean, spread.mean));
    metrics.push(Metric::new(min, spread.min, Aggregation::Min));
    metrics.push(Metric::new(max, spread.max, Aggregation::Max));
}

/// Each reward's scores, whether they tell a group's members apart, and how hard the tasks are.
fn add_parts(report: &Report, groups: &GroupReport, metrics: &mut Vec<Metric>) {
    for part in &report.parts {
        let name = |rest: &str| format!("rewards/{}/{rest}", part.name);
        add_spread(["mean", "min", "max"].map(name), part.scores, metrics);
        metrics.push(Metric::mean(name("std"), part.std));
    }
    let zero_std = groups.parts_zero_std.iter();
    metrics.extend(zero_std.map(|(name, share)| Metric::mean(format!("rewards/{name}/frac_zero_std"), *share)));
    metrics.extend([
        Metric::mean("difficulty/easy", groups.easy),
        Metric::mean("difficulty/medium", groups.medium),
        Metric::mean("difficulty/hard", groups.hard),
        Metric::mean("solve_all", groups.solve_all),
        Metric::mean("solve_none", groups.solve_none),
        Metric::mean("initial_saturation", groups.initial_saturation),
    ]);
}

/// The calls of one tool: how many, how each ended, what was repaired, and the time of those that ran.
fn add_tool(report: &ToolReport, metrics: &mut Vec<Metric>) {
    let name = |rest: &str| format!("tool/{}/{rest}", report.tool);
    metrics.push(Metric::count(name("calls"), report.calls));
    metrics.push(Metric::new(name("share"), report.share, Aggregation::Count));
    metrics.extend(report.statuses.iter().map(|(status, count)| Metric::count(name(status), *count)));
    metrics
        .extend(report.repairs.iter().map(|(repair, count)| Metric::count(name(&format!("repair/{repair}")), *count)));
    if !report.seconds.is_nan() {
        metrics.push(Metric::mean(name("seconds"), report.seconds));
        metrics.push(Metric::new(name("seconds/max"), report.seconds_max, Aggregation::Max));
    }
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
        Metric::new("ratio/min", of_loss(|update| update.ratio_min), Aggregation::Min),
        Metric::new("ratio/max", of_loss(|update| update.ratio_max), Aggregation::Max),
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::telemetry::window::Window;
    use crate::train::learner;

    fn measured(kl: f64, grad_norm: f64) -> Measured {
        let update = learner::Update { grad_norm, applied: grad_norm.is_finite() };
        Measured {
            loss: 2.0 * kl,
            kl,
            entropy: 1.0,
            clip_low: 0.25,
            clip_high: kl / 4.0,
            ratio_min: 1.0,
            ratio_max: 1.0,
            update,
        }
    }

    fn averages(metrics: Vec<Metric>) -> Averages {
        let mut window = Window::default();
        window.add_step(metrics);
        window.averages()
    }

    #[test]
    fn every_iteration_of_a_step_is_counted() {
        let updates = vec![measured(0.0, 3.0), measured(0.5, f64::NAN), measured(1.0, 4.0)];
        let found = averages(update_metrics(&Learned { updates, tokens: 7, ..Learned::default() }, true));
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
        let mut metrics = report_metrics(&report, &GroupReport::default(), &Batch::default());
        metrics.push(Metric::mean("kl", f64::NAN));
        let line = line_of(&averages(metrics));
        assert!(line.contains("accuracy 1.000 (0.125 of all, 7 of 8 unscored)  tool use"), "{line}");
        assert!(line.contains("entropy -  grad norm -") && !line.contains("kl"), "{line}");
        let report = Report { answers_scored: 8, answers_unscored: 0, ..report };
        let line = line_of(&averages(report_metrics(&report, &GroupReport::default(), &Batch::default())));
        assert!(line.contains("accuracy 1.000  tool use"), "{line}");
    }

    #[test]
    fn each_tool_has_its_metrics_and_a_window_counts_what_a_step_did_not_name_as_none() {
        let tool = |seconds: f64| ToolReport {
            tool: "zoom".to_owned(),
            calls: 3,
            share: 0.75,
            statuses: BTreeMap::from([("ok", 2), ("error", 1)]),
            seconds,
            seconds_max: 2.0 * seconds,
            repairs: BTreeMap::from([("fence".to_owned(), 1)]),
        };
        let none = ToolReport { tool: "none".to_owned(), seconds: f64::NAN, seconds_max: f64::NAN, ..tool(0.0) };
        let step = |calls, tools| Report {
            calls: Spread { mean: calls, min: calls - 1.0, max: calls + 1.0 },
            images: Spread { mean: calls, min: 0.0, max: calls },
            tools,
            ..Report::default()
        };
        let mut window = Window::default();
        for report in [step(2.0, vec![none, tool(0.5)]), step(1.0, vec![tool(1.5)]), step(3.0, Vec::new())] {
            window.add_step(report_metrics(&report, &GroupReport::default(), &Batch::default()));
        }
        let found = window.averages();
        for (name, wanted) in [
            ("tool_call_counts", 2.0),
            ("tool_call_counts/min", 0.0),
            ("tool_call_counts/max", 4.0),
            ("tool_images", 2.0),
            ("tool_images/min", 0.0),
            ("tool_images/max", 3.0),
            ("tool/zoom/calls", 2.0),
            ("tool/zoom/share", 0.5),
            ("tool/zoom/ok", 4.0 / 3.0),
            ("tool/zoom/error", 2.0 / 3.0),
            ("tool/zoom/repair/fence", 2.0 / 3.0),
            ("tool/zoom/seconds", 1.0),
            ("tool/zoom/seconds/max", 3.0),
            ("tool/none/calls", 1.0),
        ] {
            assert_eq!(found.get(name), wanted, "{name}");
        }
        assert!(
            found.iter().all(|(name, _)| name != "tool/none/seconds"),
            "nothing was measured, so nothing is logged"
        );
    }
}
