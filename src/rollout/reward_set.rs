//! The rewards of a recipe with their weights, which give a trajectory its total.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::registry::{self, RegistryError};
use super::reward::{Needs, Reward, Score, View};
use super::trajectory::Trajectory;
use crate::tasks::Solution;

/// A recipe's choice of rewards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardSettings {
    /// Weights by reward name; a name left out keeps its default (format 0.5, answer 1, consistency 0.5, tool_success 0).
    pub weights: BTreeMap<String, f64>,
}

/// All rewards with their weights.
pub struct RewardSet {
    rewards: Vec<(Box<dyn Reward>, f64)>,
}

/// The scores of one trajectory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Weighted sum after gating; unscored if any part with a weight is.
    pub total: Score,
    /// Each reward's name and unweighted score after gating.
    pub parts: Vec<(&'static str, Score)>,
}

impl Scores {
    /// The part of that name.
    pub fn part(&self, name: &str) -> Option<&Score> {
        self.parts.iter().find(|(part, _)| *part == name).map(|(_, score)| score)
    }
}

impl RewardSet {
    /// The registered rewards with the weights of `settings`.
    ///
    /// # Errors
    /// When `settings` names an unknown reward or a weight is not finite.
    pub fn new(settings: &RewardSettings) -> Result<Self, RegistryError> {
        let rewards = registry::rewards();
        let known: Vec<&str> = rewards.iter().map(|reward| reward.name()).collect();
        for (name, weight) in &settings.weights {
            if !known.contains(&name.as_str()) {
                return Err(RegistryError::unknown("reward", name, &known));
            }
            if !weight.is_finite() {
                return Err(RegistryError::Weight { name: name.clone(), weight: *weight });
            }
        }
        let weigh = |reward: Box<dyn Reward>| {
            let weight = settings.weights.get(reward.name()).copied().unwrap_or(reward.default_weight());
            (reward, weight)
        };
        Ok(Self { rewards: rewards.into_iter().map(weigh).collect() })
    }

    /// The answer reward alone.
    pub fn answer_only() -> Self {
        let answers = registry::rewards().into_iter().filter(|reward| reward.needs() == Needs::Answer);
        Self { rewards: answers.map(|reward| (reward, 1.0)).collect() }
    }

    /// Each reward's name and weight.
    pub fn weights(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.rewards.iter().map(|(reward, weight)| (reward.name(), *weight))
    }

    /// Scores a trajectory of a task with this question and these reference answers.
    pub fn score(&self, trajectory: &Trajectory, question: &str, solution: &Solution) -> Scores {
        self.score_view(&View::new(trajectory, question, solution))
    }

    /// Scores a view. A trajectory that ended because the task or a tool could not work at all says nothing about the model: no part is
    /// scored.
    pub fn score_view(&self, view: &View<'_>) -> Scores {
        let parts = self.score_where(view, |_| view.end.fault());
        Scores { total: self.total(&parts), parts }
    }

    /// Each reward's name and unweighted score after gating; unscored where `missing` says why what it reads is not there.
    pub fn score_where(
        &self,
        view: &View<'_>,
        missing: impl Fn(Needs) -> Option<String>,
    ) -> Vec<(&'static str, Score)> {
        let score = |reward: &dyn Reward| match missing(reward.needs()) {
            Some(reason) => Score::Unscored(reason),
            None => reward.score(view),
        };
        let ungated: Vec<(&'static str, Score)> =
            self.rewards.iter().map(|(reward, _)| (reward.name(), score(&**reward))).collect();
        let gates = self.rewards.iter().map(|(reward, _)| reward.gate());
        gates.zip(&ungated).map(|(gate, (name, score))| (*name, gated(gate, score, &ungated))).collect()
    }

    fn total(&self, parts: &[(&'static str, Score)]) -> Score {
        let mut total = 0.0;
        for ((_, weight), (name, score)) in self.rewards.iter().zip(parts) {
            match score {
                _ if *weight == 0.0 => {}
                Score::Value(value) => total += weight * value,
                Score::Unscored(reason) => return Score::Unscored(format!("{name}: {reason}")),
            }
        }
        Score::Value(total)
    }
}

/// `score`, or 0 where the gate is 0 or less; unscored where the gate is unscored.
fn gated(gate: Option<&str>, score: &Score, all: &[(&'static str, Score)]) -> Score {
    match gate.and_then(|gate| all.iter().find(|(name, _)| *name == gate)) {
        Some((_, Score::Value(value))) if *value <= 0.0 => Score::Value(0.0),
        Some((gate, Score::Unscored(reason))) => Score::Unscored(format!("depends on {gate}: {reason}")),
        _ => score.clone(),
    }
}
