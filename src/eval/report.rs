//! What the trajectories of some tasks amount to: shares and means, beside how much of it was scored.

use std::fmt;

use super::figures::{Spread, figure, standard_deviation};
use super::judge_report::JudgeReport;
use super::sources::{ANSWER, SourceReport};
use super::tool_report::{ToolReport, diversity};
use crate::rollout::reward_set::Scores;
use crate::rollout::tool::CallStatus;
use crate::rollout::trajectory::Trajectory;

/// What the trajectories of some tasks amount to. A mean over nothing is NaN, in JSON null. Lengths, turns, calls and images are of the
/// trajectories that ran: what could not be run at all says nothing of the model.
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
    /// The least total reward.
    pub reward_min: f64,
    /// The greatest total reward.
    pub reward_max: f64,
    /// Each reward's unweighted scores.
    pub parts: Vec<PartReport>,
    /// Share of right answers among those that were scored.
    pub accuracy: f64,
    /// Share of right answers among all: an unscored one is not right.
    pub accuracy_of_all: f64,
    /// Trajectories whose answer was scored.
    pub answers_scored: usize,
    /// Those whose answer was not.
    pub answers_unscored: usize,
    /// Accuracy and reward of each source, where the tasks' rows name some.
    pub sources: Vec<SourceReport>,
    /// What the judge was asked, where an evaluation has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeReport>,
    /// Share of the trajectories that ran which gave an answer and were not cut off.
    pub validity: f64,
    /// Share of the trajectories that ran which were cut off by a limit of tokens.
    pub clipped_ratio: f64,
    /// Share of the trajectories that ran which called a tool.
    pub tool_use: f64,
    /// Share of calls that ran without an error; NaN when there was none.
    pub tool_success: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: Spread,
    /// Tokens after the prompt, own and observed.
    pub tokens: Spread,
    /// The model's own tokens.
    pub own_tokens: Spread,
    /// The model's own tokens, of trajectories that were not cut off.
    pub terminated_tokens: Spread,
    /// Tokens of observations.
    pub observation_tokens: Spread,
    /// The model's turns: stretches of its own tokens between observations.
    pub turns: Spread,
    /// Calls, whatever became of them.
    pub calls: Spread,
    /// Images that tools made and the model was shown.
    pub images: Spread,
    /// What became of the calls of each tool that was called, by name.
    pub tools: Vec<ToolReport>,
    /// How many tools were called.
    pub tools_distinct: usize,
    /// Entropy of the calls' distribution over tools, in nats; NaN without a call.
    pub tools_entropy: f64,
    /// How often each end came, by name.
    pub ends: Vec<(&'static str, usize)>,
}

/// The unweighted scores of one reward.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct PartReport {
    /// The reward's name.
    pub name: &'static str,
    /// How many trajectories it scored.
    pub scored: usize,
    /// Mean, least and greatest of these scores.
    #[serde(flatten)]
    pub scores: Spread,
    /// Their unbiased standard deviation.
    pub std: f64,
}

impl PartReport {
    fn new(name: &'static str, scores: &[f64]) -> PartReport {
        PartReport { name, scored: scores.len(), scores: Spread::of(scores), std: standard_deviation(scores) }
    }
}

impl Report {
    /// Adds up trajectories and their scores.
    pub fn new<'a>(scored: impl Iterator<Item = (&'a Trajectory, &'a Scores)> + Clone) -> Report {
        let mut report = Report { count: scored.clone().count(), ..Report::default() };
        report.add_scores(scored.clone().map(|(_, scores)| scores));
        report.add_calls(scored.clone().map(|(trajectory, _)| trajectory));
        let ran: Vec<&Trajectory> = scored.map(|(trajectory, _)| trajectory).filter(|t| !t.end.is_fault()).collect();
        report.add_lengths(&ran);
        report
    }

    fn add_scores<'a>(&mut self, scores: impl Iterator<Item = &'a Scores> + Clone) {
        let totals: Vec<f64> = scores.clone().filter_map(|scores| scores.total.value()).collect();
        self.scored = totals.len();
        self.unscored = self.count - totals.len();
        Spread { mean: self.reward, min: self.reward_min, max: self.reward_max } = Spread::of(&totals);
        self.reward_std = standard_deviation(&totals);
        let names = scores.clone().next().map(|scores| scores.parts.iter().map(|part| part.0).collect::<Vec<_>>());
        for name in names.unwrap_or_default() {
            let of_part = scores.clone().filter_map(|scores| scores.part(name).and_then(|score| score.value()));
            self.parts.push(PartReport::new(name, &of_part.collect::<Vec<_>>()));
        }
        self.accuracy = self.part(ANSWER);
        self.accuracy_of_all = self.part_of_all(ANSWER);
        self.answers_scored = self.scored_part(ANSWER);
        self.answers_unscored = self.count - self.answers_scored;
    }

    fn add_calls<'a>(&mut self, trajectories: impl Iterator<Item = &'a Trajectory> + Clone) {
        let [mut calls, mut worked, mut callers, mut ran] = [0; 4];
        for trajectory in trajectories.clone() {
            let in_limit = trajectory.calls.iter().filter(|call| call.output.status != CallStatus::OverLimit);
            let statuses: Vec<bool> = in_limit.map(|call| call.output.status.is_ok()).collect();
            calls += statuses.len();
            worked += statuses.iter().filter(|&&ok| ok).count();
            callers += usize::from(!statuses.is_empty());
            ran += usize::from(!trajectory.end.is_fault());
            let name = trajectory.end.name();
            match self.ends.iter_mut().find(|(end, _)| *end == name) {
                Some((_, count)) => *count += 1,
                None => self.ends.push((name, 1)),
            }
        }
        self.ends.sort_unstable();
        self.tools = ToolReport::of_calls(trajectories.flat_map(|trajectory| &trajectory.calls));
        (self.tools_distinct, self.tools_entropy) = diversity(&self.tools);
        self.tool_use = callers as f64 / ran as f64;
        self.tool_success = worked as f64 / calls as f64;
    }

    fn add_lengths(&mut self, ran: &[&Trajectory]) {
        let spread_of = |count: fn(&Trajectory) -> usize| {
            Spread::of(&ran.iter().map(|trajectory| count(trajectory) as f64).collect::<Vec<_>>())
        };
        self.prompt_tokens = spread_of(|trajectory| trajectory.prompt_tokens);
        self.tokens = spread_of(Trajectory::completion_tokens);
        self.own_tokens = spread_of(Trajectory::own_tokens);
        self.observation_tokens = spread_of(|trajectory| trajectory.completion_tokens() - trajectory.own_tokens());
        self.turns = spread_of(Trajectory::own_turns);
        self.calls = spread_of(|trajectory| trajectory.calls.len());
        self.images = spread_of(|trajectory| trajectory.calls.iter().map(|call| call.images_shown).sum());
        let terminated = ran.iter().filter(|trajectory| !trajectory.end.is_truncated());
        let lengths: Vec<f64> = terminated.clone().map(|trajectory| trajectory.own_tokens() as f64).collect();
        self.terminated_tokens = Spread::of(&lengths);
        let share = |count: usize| count as f64 / ran.len() as f64;
        self.clipped_ratio = share(ran.len() - lengths.len());
        self.validity = share(terminated.filter(|trajectory| trajectory.answer.is_some()).count());
    }

    /// The mean of a reward's unweighted score over what it scored; NaN for an unknown name.
    pub fn part(&self, name: &str) -> f64 {
        self.parts.iter().find(|part| part.name == name).map_or(f64::NAN, |part| part.scores.mean)
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
        self.parts.iter().find(|part| part.name == name).map_or(0, |part| part.scored)
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
        for PartReport { name, scored, scores, .. } in &self.parts {
            let (unscored, of_all) = (self.count - scored, figure(self.part_of_all(name)));
            writeln!(f, "{name:<16}{:>8}{scored:>8}{unscored:>10}{of_all:>8}", figure(scores.mean))?;
        }
        writeln!(f, "{:<16}{:>8}{:>8}{:>10}", "reward", figure(self.reward), self.scored, self.unscored)?;
        writeln!(f, "{:<16}{:>8}", "tool use", figure(self.tool_use))?;
        writeln!(f, "{:<16}{:>8}", "tool ok", figure(self.tool_success))?;
        writeln!(f, "{:<16}{:>8}{:>8}{:>10}", "", "mean", "least", "most")?;
        for (name, Spread { mean, min, max }) in [
            ("tokens", self.tokens),
            ("own tokens", self.own_tokens),
            ("turns", self.turns),
            ("calls", self.calls),
            ("images made", self.images),
        ] {
            writeln!(f, "{name:<16}{mean:>8.1}{min:>8.0}{max:>10.0}")?;
        }
        if !self.tools.is_empty() {
            writeln!(f, "{:<16}{:>8}{:>8}{:>10}{:>8}", "", "calls", "ok", "mean s", "most s")?;
        }
        for tool in &self.tools {
            writeln!(f, "{tool}")?;
        }
        if !self.sources.is_empty() {
            writeln!(f, "{:<16}{:>8}{:>8}{:>10}", "", "tasks", "right", "reward")?;
        }
        for SourceReport { source, count, accuracy, reward } in &self.sources {
            writeln!(f, "{:<16} {count:>7}{:>8}{:>10}", format!("from {source}"), figure(*accuracy), figure(*reward))?;
        }
        for (name, count) in &self.ends {
            writeln!(f, "{:<16}{count:>8}", format!("end {name}"))?;
        }
        if let Some(judge) = &self.judge {
            writeln!(f, "{judge}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::Sampled;
    use crate::prompt::Prompt;
    use crate::rollout::answer::AnswerRange;
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
        assert_eq!((found.tokens, found.tool_use), (Spread { mean: 3.0, min: 3.0, max: 3.0 }, 0.0));
        assert!(found.tool_success.is_nan(), "there was no call");
    }

    #[test]
    fn own_and_observed_tokens_are_apart_and_so_is_what_was_cut_off() {
        let prompt = Prompt { token_ids: vec![1, 2], ..Prompt::default() };
        let token = Sampled {
            id: 5,
            logprob: 0.0,
            logprob_at_temperature: 0.0,
            temperature: 1.0,
            processed_logprob: 0.0,
            kept_mass: 1.0,
            entropy: 0.0,
        };
        let trajectory = |own: usize, observed: usize, end: End, has_answer: bool| {
            let mut trajectory = Trajectory::of_prompt(&prompt, 0, 0, 0, end);
            trajectory.token_ids.extend(vec![5; own + observed]);
            trajectory.sampled.extend((0..own + observed).map(|i| (i < own).then_some(token)));
            trajectory.answer = has_answer.then_some(AnswerRange { inside: 0..0, with_tags: 0..0 });
            trajectory
        };
        let trajectories = [
            trajectory(4, 10, End::Answered, true),
            trajectory(6, 0, End::EndOfTurn, false),
            trajectory(20, 4, End::TotalTokens, true),
            trajectory(10, 2, End::TurnLimit, false),
        ];
        let scores = Scores { total: Score::Value(1.0), parts: Vec::new() };
        let found = Report::new(trajectories.iter().map(|trajectory| (trajectory, &scores)));
        assert_eq!(found.own_tokens, Spread { mean: 10.0, min: 4.0, max: 20.0 });
        assert_eq!(found.observation_tokens, Spread { mean: 4.0, min: 0.0, max: 10.0 });
        assert_eq!(found.tokens, Spread { mean: 14.0, min: 6.0, max: 24.0 });
        assert_eq!(found.terminated_tokens, Spread { mean: 20.0 / 3.0, min: 4.0, max: 10.0 });
        assert_eq!(found.prompt_tokens, Spread { mean: 2.0, min: 2.0, max: 2.0 });
        assert_eq!((found.clipped_ratio, found.validity), (0.25, 0.25), "an answer that was cut off is none");
        assert_eq!((found.reward_min, found.reward_max), (1.0, 1.0));
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
        let wanted = Spread { mean: 1.5, min: 0.0, max: 3.0 };
        assert_eq!([found.calls, found.images], [wanted; 2], "of those that ran");
        assert_eq!(found.tools_distinct, 2);
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
