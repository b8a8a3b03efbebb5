//! The reward `brevity`: right answers score more the shorter their thought is beside the longest of the group.

use serde::Deserialize;
use thyme_engine::rollout::registry::{RewardEntry, settings};
use thyme_engine::rollout::reward::{Reward, Score, View};

/// What the registry needs to know.
pub const ENTRY: RewardEntry = RewardEntry {
    name: "brevity",
    default_weight: 0.0,
    scored_without_weight: false,
    build: |table, _| Ok(Box::new(settings::<Brevity>("reward", "brevity", table)?)),
};

/// The reward, which is its settings.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Brevity {
    /// Characters of a thought that cost nothing.
    pub free_characters: usize,
}

impl Reward for Brevity {
    /// It is 0 where the answer is wrong.
    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    /// 1 for a thought that costs nothing, 0 for the longest of the group.
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let cost = |view: &&View<'_>| view.thought.chars().count().saturating_sub(self.free_characters) as f64;
        let costs: Vec<f64> = group.iter().map(cost).collect();
        let longest = costs.iter().copied().fold(0.0, f64::max);
        costs.into_iter().map(|cost| Score::Value(if longest == 0.0 { 1.0 } else { 1.0 - cost / longest })).collect()
    }
}

#[cfg(test)]
mod tests {
    use thyme_engine::rollout::images::TrajectoryImages;
    use thyme_engine::rollout::registry::Registry;
    use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings};
    use thyme_engine::rollout::trajectory::End;

    use super::*;

    #[test]
    fn the_shortest_right_answer_scores_most() {
        let settings: RewardSettings =
            toml::from_str("weights.brevity = 1.0\nsettings.brevity.free_characters = 4").expect("settings");
        let rewards = RewardSet::new(&settings, &Registry::default().with_reward(ENTRY)).expect("known names");
        let (images, solution) = (TrajectoryImages::default(), "7".into());
        let view = |thought: &str, answer: &str| View {
            text: format!("<think>{thought}</think>\n<answer>{answer}</answer>"),
            thought: thought.to_owned(),
            answer: Some(answer.to_owned()),
            turns: &[],
            calls: &[],
            own_tokens: 0,
            images: &images,
            end: &End::Answered,
            question: "What is there?",
            solution: &solution,
            columns: None,
        };
        let group = [view("It is 7.", "7"), view("Let me see. It is 7.", "7"), view("8", "8")];
        let scores = rewards.score_group(&group);
        let brevity: Vec<_> = scores.iter().map(|scores| scores.part("brevity").and_then(Score::value)).collect();
        assert_eq!(brevity, [Some(0.75), Some(0.0), Some(0.0)]);
    }
}
