//! GRPO's updates against TRL's on the same completions, and among themselves. What the golden file holds, and how it was made:
//! `tests/golden/grpo/README.md`.

use serde::Deserialize;
use thyme_engine::engine::request::Sampled;
use thyme_engine::prompt::Prompt;
use thyme_engine::recipe::{AdvantageEstimator, GrpoSettings, KlEstimator, KlIn, LossType, ScaleRewards};
use thyme_engine::rollout::Group;
use thyme_engine::rollout::reward::Score;
use thyme_engine::rollout::reward_set::Scores;
use thyme_engine::rollout::trajectory::{End, Trajectory};
use thyme_engine::train::batch::{Batch, BatchSettings, ScoredGroup};
use thyme_engine::train::policy::{Measured, Policy, PolicySettings};
use thyme_engine::train::reference_model::ReferenceModel;

use crate::support::golden_learner::{Adam, golden_learner, golden_model};

/// Of a loss, a divergence and a share, absolute; of a gradient norm, relative. Float32 takes 4e-7 of it.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    checkpoint: String,
    settings: Settings,
    groups: Vec<GoldenGroup>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Settings {
    epsilon: f64,
    epsilon_high: f64,
    cispo_epsilon_high: f64,
    sapo_temperature_pos: f64,
    sapo_temperature_neg: f64,
    temperature: f32,
    max_completion_length: usize,
    learning_rates: Vec<f64>,
    #[serde(flatten)]
    adam: Adam,
}

#[derive(Deserialize)]
struct GoldenGroup {
    prompt: Vec<u32>,
    completions: Vec<Completion>,
}

#[derive(Deserialize)]
struct Completion {
    token_ids: Vec<u32>,
    own: Vec<u8>,
    zero_temperature: Vec<u8>,
    truncated: bool,
    reward: Option<f64>,
    old_logprobs: Vec<f32>,
    entropies: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    loss_type: LossType,
    beta: f64,
    scale_rewards: ScaleRewards,
    kl_zero_temperature_tokens: bool,
    delta: Option<f64>,
    #[serde(default)]
    entropy_coef: f64,
    #[serde(default = "all")]
    top_entropy_quantile: f64,
    updates: Vec<GoldenUpdate>,
}

fn all() -> f64 {
    1.0
}

#[derive(Deserialize)]
struct GoldenUpdate {
    loss: f64,
    kl: Option<f64>,
    clip_low: Option<f64>,
    clip_high: Option<f64>,
    grad_norm: f64,
}

impl Golden {
    fn open() -> Golden {
        serde_json::from_str(include_str!("../golden/grpo/updates.json")).unwrap()
    }

    fn groups(&self) -> (Vec<Group>, Vec<Vec<Scores>>) {
        let trajectory = |(i, group): (usize, &GoldenGroup), completion: &Completion| {
            let prompt = Prompt { token_ids: group.prompt.clone(), images: Vec::new() };
            let end = if completion.truncated { End::TotalTokens } else { End::Answered };
            let mut trajectory = Trajectory::of_prompt(&prompt, i, 0, 0, end);
            trajectory.token_ids.extend(&completion.token_ids);
            let token = |k: usize| Sampled {
                id: completion.token_ids[k],
                logprob: f32::NAN,
                logprob_at_temperature: completion.old_logprobs[k],
                temperature: if completion.zero_temperature[k] == 1 { 0.0 } else { self.settings.temperature },
                processed_logprob: f32::NAN,
                kept_mass: 1.0,
                entropy: completion.entropies[k],
            };
            trajectory.sampled.extend((0..completion.own.len()).map(|k| (completion.own[k] == 1).then(|| token(k))));
            trajectory
        };
        let scores = |completion: &Completion| Scores {
            total: completion.reward.map_or(Score::Unscored("nobody can tell".to_owned()), Score::Value),
            parts: Vec::new(),
        };
        let groups = self.groups.iter().enumerate().map(|group| Group {
            task: group.0,
            trajectories: group.1.completions.iter().map(|completion| trajectory(group, completion)).collect(),
        });
        (groups.collect(), self.groups.iter().map(|group| group.completions.iter().map(scores).collect()).collect())
    }

    /// A policy with the weights of the checkpoint, and a reference where it has a weight.
    fn policy(&self, grpo: GrpoSettings, micro_batch_tokens: usize) -> Policy {
        let (learner, layout) = golden_learner(&self.checkpoint, &self.settings.adam);
        let reference = (grpo.beta > 0.0).then(|| {
            let (model, weights) = golden_model(&self.checkpoint);
            ReferenceModel { model, weights, has_policy_tower: true }
        });
        let completion_tokens_max = self.settings.max_completion_length;
        let settings = PolicySettings { grpo, completion_tokens_max, micro_batch_tokens, layout };
        Policy { learner, reference, settings }
    }
}

impl Case {
    fn settings(&self, golden: &Settings, filter_zero_advantage: bool) -> GrpoSettings {
        GrpoSettings {
            beta: self.beta,
            epsilon: golden.epsilon,
            epsilon_high: Some(match self.loss_type {
                LossType::Cispo => golden.cispo_epsilon_high,
                _ => golden.epsilon_high,
            }),
            sapo_temperature_pos: golden.sapo_temperature_pos,
            sapo_temperature_neg: golden.sapo_temperature_neg,
            delta: self.delta,
            entropy_coef: self.entropy_coef,
            top_entropy_quantile: self.top_entropy_quantile,
            loss_type: self.loss_type,
            scale_rewards: Some(self.scale_rewards),
            filter_zero_advantage,
            mask_truncated_completions: true,
            kl_zero_temperature_tokens: self.kl_zero_temperature_tokens,
            ..GrpoSettings::default()
        }
    }
}

#[track_caller]
fn assert_near(found: &Measured, wanted: &GoldenUpdate, what: &str) {
    let pairs = [
        ("loss", found.loss, wanted.loss),
        ("clip low", found.clip_low, wanted.clip_low.unwrap_or(found.clip_low)),
        ("clip high", found.clip_high, wanted.clip_high.unwrap_or(found.clip_high)),
        ("gradient norm", found.update.grad_norm / wanted.grad_norm, 1.0),
    ];
    for (name, found, wanted) in pairs {
        assert!((found - wanted).abs() <= TOLERANCE, "{what}: {name} is {found}, not {wanted}");
    }
    match wanted.kl {
        Some(kl) => assert!((found.kl - kl).abs() <= TOLERANCE, "{what}: KL is {}, not {kl}", found.kl),
        None => assert!(found.kl.is_nan(), "{what}: there is no KL"),
    }
}

/// A step of two updates for every loss type: with groups of equal rewards, unscored and truncated completions, observations, and
/// tokens at temperature 0.
#[test]
fn updates_are_those_of_trl_whatever_the_filters_leave_out() {
    let golden = Golden::open();
    let (groups, scores) = golden.groups();
    assert_eq!(golden.cases.len(), 24);
    for case in &golden.cases {
        for filter in [true, false] {
            let settings = case.settings(&golden.settings, filter);
            let zero = case.kl_zero_temperature_tokens;
            let what = format!("{:?} beta {} KL at temperature 0 {zero} filter {filter}", case.loss_type, case.beta);
            let mut batch = Batch::new(
                &ScoredGroup::of(&groups, &scores),
                None,
                BatchSettings { grpo: &settings, features: &|_| None, placeholders: &[] },
            );
            assert_eq!((batch.groups_without_signal, batch.groups_left_out), (2, 2 * usize::from(filter)), "{what}");
            // Several packs a batch.
            let mut policy = golden.policy(settings, 64);
            let rates = &golden.settings.learning_rates[..case.updates.len()];
            let learned = policy.learn(&mut batch, rates, |learner| assert!(learner.gradients().is_some()));
            assert_eq!([learned.updates.len(), case.updates.len()], [rates.len(); 2], "each iteration is measured");
            for (found, wanted) in learned.updates.iter().zip(&case.updates) {
                assert_near(found, wanted, &what);
            }
            let mean = learned.updates.iter().map(|update| update.loss).sum::<f64>() / rates.len() as f64;
            assert_eq!(learned.mean(|update| update.loss), mean);
        }
    }
}

/// Updates on the golden groups.
fn learned(golden: &Golden, grpo: &GrpoSettings, micro_batch_tokens: usize) -> Vec<Measured> {
    let (groups, scores) = golden.groups();
    let mut policy = golden.policy(grpo.clone(), micro_batch_tokens);
    let settings = BatchSettings { grpo, features: &|_| None, placeholders: &[] };
    let kl = (grpo.kl_in == KlIn::Reward)
        .then(|| policy.kl_of_rollouts(&ScoredGroup::of(&groups, &scores), settings))
        .flatten();
    let mut batch = Batch::new(&ScoredGroup::of(&groups, &scores), kl.as_ref(), settings);
    let rates = golden.settings.learning_rates[0];
    policy.learn(&mut batch, &vec![rates; grpo.updates_per_step()], |_| {}).updates
}

#[test]
fn loss_and_gradient_are_the_same_for_any_cut_into_micro_batches() {
    use LossType::{Cispo, Dapo, DrGrpo, Grpo, Gspo, Sapo};
    let golden = Golden::open();
    for loss_type in [Grpo, Dapo, DrGrpo, Gspo, Cispo, Sapo] {
        let grpo = GrpoSettings {
            loss_type,
            beta: 0.1,
            entropy_coef: 0.02,
            top_entropy_quantile: 0.6,
            num_mini_batches: 2,
            num_iterations: 2,
            epsilon_high: Some(1.1),
            loss_clamp: Some(1.2),
            ..GrpoSettings::default()
        };
        let whole = learned(&golden, &grpo, 1 << 20);
        assert_eq!(whole.len(), 4);
        for micro_batch_tokens in [1, 40, 130] {
            let cut = learned(&golden, &grpo, micro_batch_tokens);
            for (found, wanted) in cut.iter().zip(&whole) {
                let what = format!("{loss_type:?} in parts of {micro_batch_tokens}: {found:?}, not {wanted:?}");
                assert!((found.loss - wanted.loss).abs() < 1e-5, "{what}");
                assert!((found.update.grad_norm / wanted.update.grad_norm - 1.0).abs() < 1e-4, "{what}");
                assert!((found.entropy - wanted.entropy).abs() < 1e-5 && (found.kl - wanted.kl).abs() < 1e-5, "{what}");
            }
        }
    }
}

#[test]
fn a_mini_batch_is_an_update_on_some_of_the_groups() {
    let golden = Golden::open();
    let grpo = GrpoSettings { num_mini_batches: 2, ..GrpoSettings::default() };
    let both = learned(&golden, &grpo, 1 << 20);
    assert_eq!(both.len(), 2);
    let (groups, scores) = golden.groups();
    let single = GrpoSettings::default();
    let settings = BatchSettings { grpo: &single, features: &|_| None, placeholders: &[] };
    let mut policy = golden.policy(single.clone(), 1 << 20);
    for (half, found) in [0..2, 2..4].into_iter().zip(&both) {
        let mut batch = Batch::new(&ScoredGroup::of(&groups[half.clone()], &scores[half]), None, settings);
        let wanted = policy.learn(&mut batch, &golden.settings.learning_rates[..1], |_| {}).updates;
        // NaN stands for a divergence that is not there.
        assert_eq!(format!("{:?}", [found]), format!("{wanted:?}"));
    }
}

#[test]
fn every_divergence_can_stand_in_the_loss_or_in_the_reward() {
    let golden = Golden::open();
    let (groups, scores) = golden.groups();
    for kl_estimator in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3] {
        let grpo = GrpoSettings { kl_in: KlIn::Reward, kl_estimator, beta: 0.3, ..GrpoSettings::default() };
        let grpo = GrpoSettings { advantage: AdvantageEstimator::MeanOnly, ..grpo };
        let settings = BatchSettings { grpo: &grpo, features: &|_| None, placeholders: &[] };
        let policy = golden.policy(grpo.clone(), 64);
        let kl = policy.kl_of_rollouts(&ScoredGroup::of(&groups, &scores), settings).unwrap();
        // The reference has the checkpoint's weights, and those that sampled were others by what the golden file says.
        assert!(kl.sums.iter().flatten().all(|sum| *sum != 0.0) && kl.tokens > 100, "{kl:?}");
        let batch = Batch::new(&ScoredGroup::of(&groups, &scores), Some(&kl), settings);
        assert_eq!(batch.kl_in_reward, kl.mean());
        let rewards: Vec<f64> =
            (0..4).map(|member| scores[0][member].total.value().unwrap() - 0.3 * kl.sums[0][member]).collect();
        let mean = rewards.iter().sum::<f64>() / 4.0;
        for (found, reward) in batch.advantages.iter().zip(&rewards) {
            assert!((found - (reward - mean)).abs() < 1e-12, "{kl_estimator:?}");
        }
        // Equal rewards differ by their divergence.
        assert_eq!(batch.groups_without_signal, 0);
        let in_loss = GrpoSettings { kl_in: KlIn::Loss, num_iterations: 2, ..grpo };
        let updates = learned(&golden, &in_loss, 64);
        assert!(updates[0].kl.abs() < 1e-9 && updates[1].kl != 0.0, "{kl_estimator:?}: {updates:?}");
    }
}

#[test]
fn observations_are_learned_where_they_are_not_masked() {
    let golden = Golden::open();
    let (groups, scores) = golden.groups();
    let count = |mask_env_responses, placeholders: &[u32]| {
        let grpo = GrpoSettings { mask_env_responses, num_iterations: 2, ..GrpoSettings::default() };
        let mut batch = Batch::new(
            &ScoredGroup::of(&groups, &scores),
            None,
            BatchSettings { grpo: &grpo, features: &|_| None, placeholders },
        );
        let tokens = batch.tokens();
        let updates = golden.policy(grpo, 64).learn(&mut batch, &[1e-3; 2], |_| {}).updates;
        assert!(updates.iter().all(|update| update.loss.is_finite() && update.ratio_max.is_finite()), "{updates:?}");
        tokens
    };
    let learned = |completion: &&Completion| !completion.truncated && completion.reward.is_some();
    let completions = [0, 2].map(|group: usize| &golden.groups[group]).into_iter().flat_map(|group| &group.completions);
    let observed: Vec<u32> = completions
        .filter(learned)
        .flat_map(|completion| completion.token_ids.iter().zip(&completion.own))
        .filter_map(|(&id, &own)| (own == 0).then_some(id))
        .collect();
    assert!(observed.len() > 3, "{observed:?}");
    assert_eq!(count(false, &[]), count(true, &[]) + observed.len());
    assert_eq!(count(false, &observed), count(true, &[]), "placeholders of images are never learned");
}
