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
use super::registry::{Registry, RegistryError};
use super::reward::{Needs, Reward, Score, View};
use super::task::Task;
use super::trajectory::Trajectory;
use super::weighted::{RewardTables, Weighted, Weights, depth};

/// A recipe's choice of rewards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardSettings {
    /// Weights by reward name; a name left out keeps its default (format 0.5, answer 1, consistency 0.5, any other 0; 1 for a file of
    /// a user's own). A reward that has no weight anywhere is scored if it is named here or in `settings`, or if it is tool_success; one that
    /// asks the judge only if it is named in `settings`.
    pub weights: Weights,
    /// Weights that take the place of `weights` for rows whose column `data_source` is this name. A reward left out keeps its default.
    pub weights_by_source: BTreeMap<String, Weights>,
    /// A table of keys of its own for each reward that has some, and for any reward `gate`, the name of another: this one is 0 where that one
    /// is 0 or less, and unscored where that one is; `""` for no gate. A name that no reward has, with a `file`, is a reward in that file.
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
    /// When `settings` or a gate names an unknown reward, a weight is not finite, a table of settings does not read, gates go round in a circle,
    /// or a reward asks a judge that is not given.
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
        let RewardSettings { weights, weights_by_source, settings: tables, .. } = settings;
        let rewards = RewardTables { weights, weights_by_source, tables }.rewards(registry, judge.as_ref())?;
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

    /// The name of each reward that is scored, and its weight for rows of no other source.
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

    /// The scores of a trajectory by the rewards that are scored early, before gating; none of one that the task or a tool failed. What has a gate waits
    /// for it.
    pub(super) fn score_early(&self, trajectory: &Trajectory, task: &Task) -> Parts {
        let view = view_of(trajectory, task);
        let is_early = |weighted: &&Weighted| {
            let Weighted { reward, gate, .. } = weighted;
            reward.asks_judge() && !reward.compares_group() && gate.is_none() && weighted.is_asked(view.source())
        };
        let early = self.rewards.iter().filter(|_| !trajectory.end.is_fault()).filter(is_early);
        early.map(|weighted| (weighted.name, scores_of(&*weighted.reward, &[&view]).remove(0))).collect()
    }

    /// The scores of a task's trajectories, of which `early` has what was scored early; none where nothing was.
    pub(super) fn score_rollouts(&self, group: &Group, task: &Task, early: &[Parts]) -> Vec<Scores> {
        let views: Vec<View<'_>> = group.trajectories.iter().map(|trajectory| view_of(trajectory, task)).collect();
        self.totalled(&views, self.score_with(&views, early, |view, _| view.end.fault()))
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
        self.totalled(group, self.score_where(group, |view, _| view.end.fault()))
    }

    fn totalled(&self, group: &[View<'_>], parts: Vec<Parts>) -> Vec<Scores> {
        group.iter().zip(parts).map(|(view, parts)| Scores { total: self.total(view, &parts), parts }).collect()
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
        // Of each trajectory, the ungated score of each reward that has scored.
        let mut ungated: Vec<Vec<Option<Score>>> = vec![vec![None; self.rewards.len()]; group.len()];
        for index in self.order() {
            let scored = group.iter().zip(&ungated);
            let unseen: Vec<Option<Score>> =
                scored.map(|(view, scores)| self.unseen(index, view, scores, &missing)).collect();
            let Weighted { name, reward, .. } = &self.rewards[index];
            let seen = (0..group.len()).filter(|&member| unseen[member].is_none());
            let known = seen.clone().map(|member| known_score(early.get(member)?, name)).collect::<Option<Vec<_>>>();
            let ask = || scores_of(&**reward, &seen.map(|member| &group[member]).collect::<Vec<_>>());
            let mut scores = known.unwrap_or_else(ask).into_iter();
            for (ungated, unseen) in ungated.iter_mut().zip(unseen) {
                ungated[index] = unseen.or_else(|| scores.next());
            }
        }
        let part = |index: usize, scores: &[Option<Score>]| self.gated(index, scores).expect("every reward has scored");
        let parts = |scores: &Vec<Option<Score>>| {
            self.rewards.iter().enumerate().map(|(index, weighted)| (weighted.name, part(index, scores))).collect()
        };
        ungated.iter().map(parts).collect()
    }

    /// The rewards in the order in which they score: gates before what they open, those that ask the judge behind the others, and those that
    /// compare a group last.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rewards.len()).collect();
        order.sort_by_key(|&index| {
            let weighted = &self.rewards[index];
            (weighted.reward.compares_group(), weighted.reward.asks_judge(), depth(&self.rewards, weighted))
        });
        order
    }

    /// The score of a trajectory that a reward does not see; `None` where it does. `scores` has those of the rewards before it.
    fn unseen(
        &self,
        index: usize,
        view: &View<'_>,
        scores: &[Option<Score>],
        missing: &impl Fn(&View<'_>, Needs) -> Option<String>,
    ) -> Option<Score> {
        let weighted = &self.rewards[index];
        if let Some(reason) = missing(view, weighted.reward.needs()) {
            return Some(Score::Unscored(reason));
        }
        if weighted.reward.asks_judge() {
            if !weighted.is_asked(view.source()) {
                return Some(Score::Unscored(
                    "it has no weight for this row's data_source, and is not asked".to_owned(),
                ));
            }
            if let Some(closed) = self.closed(index, scores) {
                return Some(closed);
            }
        }
        let missing_part = || {
            let parts =
                (0..scores.len()).filter_map(|index| Some((self.rewards[index].name, self.gated(index, scores)?)));
            self.unscored_part(view, &parts.collect::<Parts>())
        };
        let reason = weighted.reward.compares_group().then(missing_part).flatten()?;
        Some(Score::Unscored(format!("it is not compared with its group: {reason}")))
    }

    /// A trajectory's score after gating; `None` where the reward has not scored.
    fn gated(&self, index: usize, scores: &[Option<Score>]) -> Option<Score> {
        let score = scores[index].as_ref()?;
        Some(self.closed(index, scores).unwrap_or_else(|| score.clone()))
    }

    /// What a reward's gate makes of it: 0 where the gate is 0 or less, unscored where the gate is; `None` where the gate leaves it.
    fn closed(&self, index: usize, scores: &[Option<Score>]) -> Option<Score> {
        let name = self.rewards[index].gate?;
        let gate = self.rewards.iter().position(|weighted| weighted.name == name)?;
        match self.gated(gate, scores)? {
            Score::Value(value) if value <= 0.0 => Some(Score::Value(0.0)),
            Score::Unscored(reason) => Some(Score::Unscored(format!("depends on {name}: {reason}"))),
            Score::Value(_) => None,
        }
    }

    /// The first part with a weight that has no score, and why.
    fn unscored_part(&self, view: &View<'_>, parts: &Parts) -> Option<String> {
        self.weighted_parts(view, parts).find_map(|(name, weight, score)| match score {
            Score::Unscored(reason) if weight != 0.0 => Some(format!("{name}: {reason}")),
            _ => None,
        })
    }

    fn total(&self, view: &View<'_>, parts: &Parts) -> Score {
        if let Some(reason) = self.unscored_part(view, parts) {
            return Score::Unscored(reason);
        }
        let mut total = 0.0;
        for (_, weight, score) in self.weighted_parts(view, parts) {
            total += score.value().filter(|_| weight != 0.0).map_or(0.0, |value| weight * value);
        }
        Score::Value(total)
    }

    /// Name, weight for this row, and score of each of `parts`.
    fn weighted_parts<'a>(
        &'a self,
        view: &View<'a>,
        parts: &'a Parts,
    ) -> impl Iterator<Item = (&'static str, f64, &'a Score)> {
        let source = view.source();
        self.rewards.iter().filter_map(move |weighted| {
            let (name, score) = parts.iter().find(|(name, _)| *name == weighted.name)?;
            Some((*name, weighted.weight_for(source), score))
        })
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
