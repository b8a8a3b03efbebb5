//! What the trajectories of some tasks amount to: shares and means, beside how much of it was scored.

use std::fmt;

use super::figures::{figure, mean, spread, standard_deviation};
use super::tool_report::ToolReport;
use crate::rollout::reward_set::Scores;
use crate::rollout::tool::CallStatus;
use crate::rollout::trajectory::Trajectory;

/// The reward whose score says whether an answer is right.
pub const ANSWER: &str = "answer";

/// What the trajectories of some tasks amount to. A mean over nothing is NaN, in JSON null.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// Trajectories in all, scored or not.
    pub count: usize,
    /// Those with a total reward.
    pub scored: usize,
    /// Those without a total reward.
    pub unscored: usize,
    /// Mean total reward of the scored.
    pub reward: f64,
    /// Its unbiased standard deviation.
    pub reward_std: f64,
    /// Mean of each reward's unweighted score over what it scored, by name.
    pub parts: Vec<(&'static str, f64)>,
    /// How many trajectories each reward scored, by name.
    pub scored_parts: Vec<(&'static str, usize)>,
    /// Share of right answers among those that were scored.
    pub accuracy: f64,
    /// Share of right answers among all: an unscored one is not right.
    pub accuracy_of_all: f64,
    /// Trajectories whose answer was scored.
    pub answers_scored: usize,
    /// Those whose answer was not.
    pub answers_unscored: usize,
    /// Share of the trajectories that ran which called a tool.
    pub tool_use: f64,
    /// Share of calls that ran without an error; NaN when there was none.
    pub tool_success: f64,
    /// Mean tokens after the prompt, of the trajectories that ran.
    pub tokens: f64,
    /// The fewest tokens after the prompt, of the trajectories that ran.
    pub tokens_min: f64,
    /// The most tokens after the prompt, of the trajectories that ran.
    pub tokens_max: f64,
    /// Mean number of the model's turns: stretches of its own tokens between observations.
    pub turns: f64,
    /// The fewest turns of the model, of the trajectories that ran.
    pub turns_min: f64,
    /// The most turns of the model, of the trajectories that ran.
    pub turns_max: f64,
    /// Mean number of calls of a trajectory that ran, whatever became of them.
    pub calls: f64,
    /// The fewest calls, of the trajectories that ran.
    pub calls_min: f64,
    /// The most calls, of the trajectories that ran.
    pub calls_max: f64,
    /// Mean number of images that tools made and the model was shown, of a trajectory that ran.
    pub images: f64,
    /// The fewest such images, of the trajectories that ran.
    pub images_min: f64,
    /// The most such images, of the trajectories that ran.
    pub images_max: f64,
    /// What became of the calls of each tool that was called, by name.
    pub tools: Vec<ToolReport>,
    /// How often each end came, by name.
    pub ends: Vec<(&'static str, usize)>,
}

impl Report {
    /// Adds up trajectories and their scores.
    pub fn new<'a>(scored: impl Iterator<Item = (&'a Trajectory, &'a Scores)> + Clone) -> Report {
        let mut report = Report { count: scored.clone().count(), ..Report::default() };
        let totals: Vec<f64> = scored.clone().filter_map(|(_, scores)| scores.total.value()).collect();
        report.scored = totals.len();
        report.unscored = report.count - totals.len();
        report.reward = mean(&totals);
        report.reward_std = standard_deviation(&totals);
        let names = scored.clone().next().map(|(_, scores)| scores.parts.iter().map(|part| part.0).collect::<Vec<_>>());
        for name in names.unwrap_or_default() {
            let values: Vec<f64> =
                scored.clone().filter_map(|(_, scores)| scores.part(name).and_then(|score| score.value())).collect();
            report.parts.push((name, mean(&values)));
            report.scored_parts.push((name, values.len()));
        }
        report.accuracy = report.part(ANSWER);
        report.accuracy_of_all = report.part_of_all(ANSWER);
        report.answers_scored = report.scored_part(ANSWER);
        report.answers_unscored = report.count - report.answers_scored;
        let (mut calls, mut worked, mut callers) = (0, 0, 0);
        for (trajectory, _) in scored.clone() {
            let ran = trajectory.calls.iter().filter(|call| call.output.status != CallStatus::OverLimit);
            let statuses: Vec<bool> = ran.map(|call| call.output.status.is_ok()).collect();
            calls += statuses.len();
            worked += statuses.iter().filter(|&&ok| ok).count();
            callers += usize::from(!statuses.is_empty());
            let name = trajectory.end.name();
            match report.ends.iter_mut().find(|(end, _)| *end == name) {
                Some((_, count)) => *count += 1,
                None => report.ends.push((name, 1)),
            }
        }
        report.tools = ToolReport::of_calls(scored.clone().flat_map(|(trajectory, _)| &trajectory.calls));
        // What could not be run at all says nothing of the model.
        let ran = scored.map(|(trajectory, _)| trajectory).filter(|trajectory| !trajectory.end.is_fault());
        report.tool_use = callers as f64 / ran.clone().count() as f64;
        report.tool_success = worked as f64 / calls as f64;
        let spread_of =
            |count: fn(&Trajectory) -> usize| spread(&ran.clone().map(|t| count(t) as f64).collect::<Vec<_>>());
        [report.tokens_min, report.tokens, report.tokens_max] = spread_of(Trajectory::completion_tokens);
        [report.turns_min, report.turns, report.turns_max] = spread_of(Trajectory::own_turns);
        [report.calls_min, report.calls, report.calls_max] = spread_of(|trajectory| trajectory.calls.len());
        [report.images_min, report.images, report.images_max] =
            spread_of(|trajectory| trajectory.calls.iter().map(|call| call.images_shown).sum());
        report.ends.sort_unstable();
        report
    }

    /// The mean of a reward's unweighted score over what it scored; NaN for an unknown name.
    pub fn part(&self, name: &str) -> f64 {
        self.parts.iter().find(|(part, _)| *part == name).map_or(f64::NAN, |(_, value)| *value)
    }

    /// The same over all trajectories, 0 for those that it did not score.
    pub fn part_of_all(&self, name: &str) -> f64 {
        match self.scored_part(name) {
            0 => 0.0,
            scored => self.part(name) * scored as f64 / self.count as f64,
        }
    }

    /// How many trajectories a reward scored.
    pub fn scored_part(&self, name: &str) -> usize {
        self.scored_parts.iter().find(|(part, _)| *part == name).map_or(0, |(_, count)| *count)
    }

    /// The accuracy as a line says it: `0.996 of 256`, or with what was not scored,
    /// `1.000 of 1 scored, 0.125 of all 8 (7 unscored)`.
    pub fn accuracy_line(&self) -> String {
        let Report { count, accuracy, accuracy_of_all, answers_scored, answers_unscored, .. } = self;
        match answers_unscored {
            0 => format!("{accuracy:.3} of {count}"),
            _ => format!(
                "{} of {answers_scored} scored, {} of all {count} ({answers_unscored} unscored)",
                figure(*accuracy),
                figure(*accuracy_of_all)
            ),
        }
    }
}

/// The table that a person reads.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16}{:>8}", "tasks", self.count)?;
        writeln!(f, "{:<16}{:>8}{:>8}{:>10}{:>8}", "", "mean", "scored", "unscored", "of all")?;
        for &(name, mean) in &self.parts {
            let (scored, of_all) = (self.scored_part(name), figure(self.part_of_all(name)));
            writeln!(f, "{name:<16}{:>8}{scored:>8}{:>10}{of_all:>8}", figure(mean), self.count - scored)?;
        }
        writeln!(f, "{:<16}{:>8}{:>8}{:>10}", "reward", figure(self.reward), self.scored, self.unscored)?;
        writeln!(f, "{:<16}{:>8}", "tool use", figure(self.tool_use))?;
        writeln!(f, "{:<16}{:>8}", "tool ok", figure(self.tool_success))?;
        writeln!(f, "{:<16}{:>8}{:>8}{:>10}", "", "mean", "least", "most")?;
        for (name, [mean, least, most]) in [
            ("tokens", [self.tokens, self.tokens_min, self.tokens_max]),
            ("turns", [self.turns, self.turns_min, self.turns_max]),
            ("calls", [self.calls, self.calls_min, self.calls_max]),
            ("images made", [self.images, self.images_min, self.images_max]),
        ] {
            writeln!(f, "{name:<16}{mean:>8.1}{least:>8.0}{most:>10.0}")?;
        }
        if !self.tools.is_empty() {
            writeln!(f, "{:<16}{:>8}{:>8}{:>10}{:>8}", "", "calls", "ok", "mean s", "most s")?;
        }
        for tool in &self.tools {
            writeln!(f, "{tool}")?;
        }
        for (name, count) in &self.ends {
            writeln!(f, "{:<16}{count:>8}", format!("end {name}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Prompt;
    use crate::rollout::reward::Score;
    use crate::rollout::tool::ToolOutput;
    use crate::rollout::trajectory::{Call, End};

    fn report(answers: &[Option<f64>]) -> Report {
        let prompt = Prompt { token_ids: vec![1, 2], ..Prompt::default() };
        let score = |answer: &Option<f64>| match answer {
            Some(value) => Score::Value(*value),
            None => Score::Unscored("nothing to read".to_owned()),
        };
        let scores: Vec<Scores> = answers
            .iter()
            .map(|answer| Scores {
                total: score(answer),
                parts: vec![("format", Score::Value(0.5)), (ANSWER, score(answer))],
            })
            .collect();
        let trajectories: Vec<Trajectory> =
            (0..answers.len()).map(|i| Trajectory::of_prompt(&prompt, i, 0, 0, End::Answered)).collect();
        Report::new(trajectories.iter().zip(&scores))
    }

    #[test]
    fn what_could_not_run_counts_in_no_length_and_no_share_of_calls() {
        let prompt = Prompt { token_ids: vec![1, 2], ..Prompt::default() };
        let mut ran = Trajectory::of_prompt(&prompt, 0, 0, 0, End::Answered);
        ran.token_ids.extend([3, 4, 5]);
        let failed = Trajectory::of_prompt(&prompt, 1, 0, 0, End::TaskFailed("no picture".to_owned()));
        let scores = Scores { total: Score::Value(1.0), parts: Vec::new() };
        let found = Report::new([(&ran, &scores), (&failed, &scores)].into_iter());
        assert_eq!((found.tokens_min, found.tokens, found.tokens_max, found.tool_use), (3.0, 3.0, 3.0, 0.0));
        assert!(found.tool_success.is_nan(), "there was no call");
    }

    #[test]
    fn calls_and_images_are_counted_for_each_trajectory_and_calls_for_each_tool() {
        let prompt = Prompt { token_ids: vec![1, 2], ..Prompt::default() };
        let call = |tool: &str, status, images_shown| Call {
            tool: tool.to_owned(),
            request: String::new(),
            output: ToolOutput { seconds: 0.5, ..ToolOutput::text(status, "") },
            images_shown,
        };
        let with = |calls: &[Call], end| {
            let mut trajectory = Trajectory::of_prompt(&prompt, 0, 0, 0, end);
            trajectory.calls = calls.to_vec();
            trajectory
        };
        let zoom = call("zoom", CallStatus::Ok, 2);
        let trajectories = [
            with(&[zoom.clone(), call("zoom", CallStatus::Error, 0), call("rotate", CallStatus::Ok, 1)], End::Answered),
            with(&[], End::Answered),
            with(&[zoom], End::ToolFailed("out of memory".to_owned())),
        ];
        let scores = Scores { total: Score::Value(1.0), parts: Vec::new() };
        let found = Report::new(trajectories.iter().map(|trajectory| (trajectory, &scores)));
        assert_eq!((found.calls_min, found.calls, found.calls_max), (0.0, 1.5, 3.0), "of those that ran");
        assert_eq!((found.images_min, found.images, found.images_max), (0.0, 1.5, 3.0));
        assert_eq!(
            found.tools.iter().map(|tool| (&*tool.tool, tool.calls)).collect::<Vec<_>>(),
            [("rotate", 1), ("zoom", 3)]
        );
        let table = found.to_string();
        let row = |name: &str| table.lines().find(|line| line.starts_with(name)).expect("a row").to_owned();
        assert_eq!(row("calls").split_whitespace().collect::<Vec<_>>(), ["calls", "1.5", "0", "3"]);
        assert!(row("tool zoom").ends_with("  error 1"), "{table}");
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["tools"][1]["statuses"], serde_json::json!({"ok": 2, "error": 1}));
    }

    #[test]
    fn what_is_unscored_is_shown_beside_the_accuracy_and_counts_among_all() {
        let mut answers = vec![None; 8];
        answers[3] = Some(1.0);
        let found = report(&answers);
        assert_eq!((found.accuracy, found.accuracy_of_all), (1.0, 0.125));
        assert_eq!((found.answers_scored, found.answers_unscored, found.scored, found.unscored), (1, 7, 1, 7));
        assert_eq!(found.accuracy_line(), "1.000 of 1 scored, 0.125 of all 8 (7 unscored)");
        let table = found.to_string();
        let row = |name: &str| -> Vec<&str> {
            table.lines().find(|line| line.starts_with(name)).expect("a row").split_whitespace().collect()
        };
        assert_eq!(row("answer"), ["answer", "1.000", "1", "7", "0.125"]);
        assert_eq!(row("format"), ["format", "0.500", "8", "0", "0.500"]);
        assert_eq!(row("reward"), ["reward", "1.000", "1", "7"]);
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["answers_unscored"], 7);
        assert_eq!((json["accuracy"].as_f64(), json["accuracy_of_all"].as_f64()), (Some(1.0), Some(0.125)));
    }

    #[test]
    fn a_share_of_nothing_is_no_number() {
        let found = report(&[None, None]);
        assert_eq!(found.accuracy_line(), "- of 0 scored, 0.000 of all 2 (2 unscored)");
        let json = serde_json::to_value(&found).unwrap();
        assert!(json["accuracy"].is_null() && json["reward"].is_null() && json["reward_std"].is_null(), "{json}");
        assert_eq!(report(&[Some(1.0), Some(0.0)]).accuracy_line(), "0.500 of 2");
        assert_eq!(report(&[Some(1.0), Some(0.0)]).reward_std, 0.5f64.sqrt());
    }
}
