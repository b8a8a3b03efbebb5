//! The rewards of a recipe with their weights, which give a trajectory its total.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use serde::{Deserialize, Serialize};

use super::Group;
use super::judge::{Judge, JudgeCounts};
use super::judges::openai::OpenAiJudge;
use super::judges::settings::JudgeSettings;
use super::judges::unloaded::Unloaded;
use super::panics::message_of;
use super::python_file::{is_python_file, static_name};
use super::registry::{self, Registry, RegistryError};
use super::reward::{Needs, Reward, Score, View};
use super::rewards::python_file::PythonFileReward;
use super::task::Task;
use super::trajectory::Trajectory;

/// A recipe's choice of rewards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardSettings {
    /// Weights by reward name; a name left out keeps its default (format 0.5, answer 1, consistency 0.5, tool_success 0; 1 for a file of
    /// a user's own).
    pub weights: BTreeMap<String, f64>,
    /// A table of keys of its own for each reward that has some. A name that no reward has, with a `file`, is a reward in that file.
    pub settings: BTreeMap<String, toml::Table>,
    /// The model that rewards may ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSettings>,
}

/// All rewards with their weights.
pub struct RewardSet {
    rewards: Vec<Weighted>,
    judge: Option<Arc<dyn Judge>>,
}

/// A reward of the set.
struct Weighted {
    name: &'static str,
    weight: f64,
    reward: Box<dyn Reward>,
}

/// Each reward's name and unweighted score after gating.
pub type Parts = Vec<(&'static str, Score)>;

/// The scores of one trajectory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Weighted sum after gating; unscored if any part with a weight is.
    pub total: Score,
    /// Each reward's name and unweighted score after gating.
    pub parts: Parts,
}

impl Scores {
    /// The part of that name.
    pub fn part(&self, name: &str) -> Option<&Score> {
        self.parts.iter().find(|(part, _)| *part == name).map(|(_, score)| score)
    }
}

impl RewardSet {
    /// The rewards of `registry` with the weights and settings of `settings`. Nothing is asked of the judge yet.
    ///
    /// # Errors
    /// When `settings` or a gate names an unknown reward, a weight is not finite, or a table of settings does not read.
    pub fn new(settings: &RewardSettings, registry: &Registry) -> Result<Self, RegistryError> {
        let judge = settings.judge.as_ref().map(judge_of).transpose()?;
        Self::with_judge(settings, registry, judge)
    }

    /// The same with a judge that is there, whatever the settings say of one.
    ///
    /// # Errors
    /// As [`RewardSet::new`].
    pub fn with_judge(
        settings: &RewardSettings,
        registry: &Registry,
        judge: Option<Arc<dyn Judge>>,
    ) -> Result<Self, RegistryError> {
        let known: Vec<&str> = registry.rewards().map(|entry| entry.name).collect();
        for name in settings.weights.keys().chain(settings.settings.keys()) {
            if !known.contains(&name.as_str()) && !is_python_file(settings.settings.get(name)) {
                return Err(RegistryError::unknown("reward", name, &known));
            }
        }
        let mut rewards = Vec::new();
        for entry in registry.rewards() {
            let weight = settings.weights.get(entry.name).copied().unwrap_or(entry.default_weight);
            if !weight.is_finite() {
                return Err(RegistryError::Weight { name: entry.name.to_owned(), weight });
            }
            let table = settings.settings.get(entry.name).cloned().unwrap_or_default();
            rewards.push(Weighted { name: entry.name, weight, reward: (entry.build)(table, judge.clone())? });
        }
        for (name, table) in settings.settings.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let weight = settings.weights.get(name).copied().unwrap_or(1.0);
            if !weight.is_finite() {
                return Err(RegistryError::Weight { name: name.clone(), weight });
            }
            let unusable = |reason| RegistryError::Reward { name: name.clone(), reason };
            let (name, settings) = (static_name(name), registry::settings("reward", name, table.clone())?);
            let reward = PythonFileReward::new(name, settings).map_err(unusable)?;
            rewards.push(Weighted { name, weight, reward: Box::new(reward) });
        }
        for gate in rewards.iter().filter_map(|weighted| weighted.reward.gate()) {
            if !known.contains(&gate) {
                return Err(RegistryError::unknown("reward", gate, &known));
            }
        }
        Ok(Self { rewards, judge })
    }

    /// Gets the rewards ready: files of a user's own are loaded.
    ///
    /// # Errors
    /// When one cannot score at all.
    pub fn start(&self) -> Result<(), RegistryError> {
        for Weighted { name, reward, .. } in &self.rewards {
            reward.start().map_err(|reason| RegistryError::Reward { name: (*name).to_owned(), reason })?;
        }
        Ok(())
    }

    /// What their scores depend on, as [`Reward::versions`].
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.rewards.iter().flat_map(|weighted| weighted.reward.versions()).collect()
    }

    /// The rewards of `registry` that need the answer alone, with their default settings.
    ///
    /// # Errors
    /// As [`RewardSet::new`].
    pub fn answer_only(registry: &Registry) -> Result<Self, RegistryError> {
        let mut set = Self::new(&RewardSettings::default(), registry)?;
        set.rewards.retain(|weighted| weighted.reward.needs() == Needs::Answer);
        Ok(set)
    }

    /// Each reward's name and weight.
    pub fn weights(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.rewards.iter().map(|weighted| (weighted.name, weighted.weight))
    }

    /// What the judge was asked since the last call; `None` where there is no judge.
    pub fn take_judge_counts(&self) -> Option<JudgeCounts> {
        self.judge.as_ref().map(|judge| judge.take_counts())
    }

    /// What is scored at a time: one trajectory or group for each core, or as many as the judge takes questions.
    pub(super) fn threads(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        cores.max(self.judge.as_ref().map_or(0, |judge| judge.parallel_requests()))
    }

    /// The scores of a trajectory by the rewards that are scored early, before gating; none of one that the task or a tool failed.
    pub(super) fn score_early(&self, trajectory: &Trajectory, task: &Task) -> Parts {
        let early = self.rewards.iter().filter(|weighted| weighted.reward.is_scored_early());
        let early: Vec<&Weighted> = early.filter(|_| !trajectory.end.is_fault()).collect();
        if early.is_empty() {
            return Parts::new();
        }
        let view = view_of(trajectory, task);
        early.iter().map(|weighted| (weighted.name, scores_of(&*weighted.reward, &[&view]).remove(0))).collect()
    }

    /// The scores of a task's trajectories, of which `early` has what was scored early; none where nothing was.
    pub(super) fn score_rollouts(&self, group: &Group, task: &Task, early: &[Parts]) -> Vec<Scores> {
        let views: Vec<View<'_>> = group.trajectories.iter().map(|trajectory| view_of(trajectory, task)).collect();
        self.totalled(self.score_with(&views, early, |view, _| view.end.fault()))
    }

    /// The scores of every trajectory, group by group; `tasks[group.task]` is a group's task. Groups are scored on worker threads: one for
    /// each core, or as many as the judge takes questions at a time.
    pub fn score_groups(&self, groups: &[Group], tasks: &[Task]) -> Vec<Vec<Scores>> {
        let (next, scored) = (AtomicUsize::new(0), groups.iter().map(|_| OnceLock::new()).collect::<Vec<_>>());
        thread::scope(|scope| {
            for _ in 0..self.threads().min(groups.len()) {
                scope.spawn(|| {
                    while let Some((group, place)) = {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        groups.get(number).zip(scored.get(number))
                    } {
                        place.get_or_init(|| self.score_rollouts(group, &tasks[group.task], &[]));
                    }
                });
            }
        });
        scored.into_iter().map(|scores| scores.into_inner().expect("every group was scored")).collect()
    }

    /// Scores the trajectories of one task. One that ended because the task or a tool could not work at all says nothing about the model: no
    /// part is scored.
    pub fn score_group(&self, group: &[View<'_>]) -> Vec<Scores> {
        self.totalled(self.score_where(group, |view, _| view.end.fault()))
    }

    /// Each trajectory's parts; unscored where `missing` says why what a reward reads is not there.
    pub fn score_where(&self, group: &[View<'_>], missing: impl Fn(&View<'_>, Needs) -> Option<String>) -> Vec<Parts> {
        self.score_with(group, &[], missing)
    }

    /// The same, where `early` has what was scored before, by trajectory; none where nothing was.
    fn score_with(
        &self,
        group: &[View<'_>],
        early: &[Parts],
        missing: impl Fn(&View<'_>, Needs) -> Option<String>,
    ) -> Vec<Parts> {
        let mut ungated = vec![Parts::new(); group.len()];
        for Weighted { name, reward, .. } in &self.rewards {
            let reasons: Vec<Option<String>> = group.iter().map(|view| missing(view, reward.needs())).collect();
            let present = (0..group.len()).filter(|&member| reasons[member].is_none());
            let known =
                present.clone().map(|member| known_score(early.get(member)?, name)).collect::<Option<Vec<Score>>>();
            let ask = || scores_of(&**reward, &present.map(|member| &group[member]).collect::<Vec<_>>());
            let mut scores = known.unwrap_or_else(ask).into_iter();
            for (parts, reason) in ungated.iter_mut().zip(reasons) {
                let score = reason.map(Score::Unscored).or_else(|| scores.next());
                parts.push((*name, score.expect("a score for each trajectory")));
            }
        }
        ungated.iter().map(|parts| self.gated(parts)).collect()
    }

    /// The parts after gating.
    fn gated(&self, ungated: &Parts) -> Parts {
        let gates = self.rewards.iter().map(|weighted| weighted.reward.gate());
        gates.zip(ungated).map(|(gate, (name, score))| (*name, gated(gate, score, ungated))).collect()
    }

    fn totalled(&self, parts: Vec<Parts>) -> Vec<Scores> {
        parts.into_iter().map(|parts| Scores { total: self.total(&parts), parts }).collect()
    }

    fn total(&self, parts: &Parts) -> Score {
        let mut total = 0.0;
        for (Weighted { weight, .. }, (name, score)) in self.rewards.iter().zip(parts) {
            match score {
                _ if *weight == 0.0 => {}
                Score::Value(value) => total += weight * value,
                Score::Unscored(reason) => return Score::Unscored(format!("{name}: {reason}")),
            }
        }
        Score::Value(total)
    }
}

/// The judge of these settings; one in this process is not loaded.
fn judge_of(settings: &JudgeSettings) -> Result<Arc<dyn Judge>, RegistryError> {
    let Some(model_path) = settings.model_path.clone() else { return Ok(Arc::new(OpenAiJudge::new(settings)?)) };
    settings.check().map_err(RegistryError::Judge)?;
    Ok(Arc::new(Unloaded { model_path, parallel_requests: settings.parallel_requests }))
}

fn view_of<'a>(trajectory: &'a Trajectory, task: &'a Task) -> View<'a> {
    View::new(trajectory, &task.question, &task.solution).with_columns(&task.columns)
}

/// The score of that name.
fn known_score(parts: &Parts, name: &str) -> Option<Score> {
    parts.iter().find(|(part, _)| *part == name).map(|(_, score)| score.clone())
}

/// A score for each view. A reward that panics, or has another number of scores, scores none; what is no finite number is no score.
fn scores_of(reward: &dyn Reward, group: &[&View<'_>]) -> Vec<Score> {
    let unscored = |reason: String| vec![Score::Unscored(reason); group.len()];
    match catch_unwind(AssertUnwindSafe(|| reward.score_group(group))) {
        Ok(scores) if scores.len() == group.len() => scores.into_iter().map(finite).collect(),
        Ok(scores) => unscored(format!("the reward gave {} scores for {} trajectories", scores.len(), group.len())),
        Err(panic) => unscored(format!("the reward panicked: {}", message_of(&*panic))),
    }
}

fn finite(score: Score) -> Score {
    match score {
        Score::Value(value) if !value.is_finite() => Score::Unscored(format!("the reward gave {value}")),
        score => score,
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
