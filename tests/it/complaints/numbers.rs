//! What sampler and trainer compute of images: tokens, log-probabilities, caches, gradients.

use std::sync::Arc;

use thyme_engine::engine::Engine;
use thyme_engine::engine::request::{GenerateRequest, Sampled, Sampling, Stops};
use thyme_engine::model::Keep;
use thyme_engine::model::parameters::Weights;
use thyme_engine::model::spec::Part;
use thyme_engine::model::vision::ImageBatch;
use thyme_engine::ops::{Dtype, Host};
use thyme_engine::prompt::PreparedImage;
use thyme_engine::recipe::{GrpoSettings, LogprobKind};
use thyme_engine::rollout::Group;
use thyme_engine::rollout::reward::Score;
use thyme_engine::rollout::reward_set::Scores;
use thyme_engine::rollout::trajectory::Trajectory;
use thyme_engine::train::batch::{Batch, BatchSettings, ScoredGroup};
use thyme_engine::train::learner::{Learner, PackLogprobs, logprobs};
use thyme_engine::train::policy::{Learned, Policy, PolicySettings};
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage};

use super::{LIMITS, policy, roll_out, task, tool, trajectories};
use crate::support::small_policy::{Random, Record, SmallPolicy, compare_with_training, learner_settings, sample};

/// Three calls, each of which makes an image.
const TURNS: [&str; 3] = [
    tool!("crop_image", "{\"x\": 10, \"y\": 6, \"width\": 100, \"height\": 84}"),
    tool!("flip_image", "{\"direction\": \"horizontal\"}"),
    tool!("rotate_image", "{\"angle\": 90}"),
];

/// The same but for the second turn's image, whose size is the same.
const OTHER_TURNS: [&str; 3] = [TURNS[0], tool!("flip_image", "{\"direction\": \"vertical\"}"), TURNS[2]];

const TEMPERATURE: f32 = 1.0;

/// One update on rollouts, as GRPO makes it of rewards that differ within each group.
fn learn(policy: SmallPolicy, groups: &[Group]) -> Learned {
    let reward = |sample: usize| Scores { total: Score::Value((sample % 2) as f64), parts: Vec::new() };
    let scores: Vec<Vec<Scores>> =
        groups.iter().map(|group| (0..group.trajectories.len()).map(reward).collect()).collect();
    let grpo = GrpoSettings { mask_truncated_completions: false, ..GrpoSettings::default() };
    let mut batch = Batch::new(
        &ScoredGroup::of(groups, &scores),
        None,
        BatchSettings { grpo: &grpo, features: &|_| None, placeholders: &[] },
    );
    let settings = PolicySettings {
        grpo,
        completion_tokens_max: 900,
        micro_batch_tokens: 1500,
        layout: Layout::of(&policy.processor),
    };
    let learner = Learner::new(policy.model, policy.weights, learner_settings(&policy.processor, false));
    Policy { learner, reference: None, settings }.learn(&mut batch, &[1e-3], |_| {})
}

// ---- 3 ----

/// The text of many rollouts has other tokens than those that were sampled; the update is made on these.
#[test]
fn no_text_is_tokenised_again_between_rollout_and_training() {
    let policy = policy();
    let mut engine = policy.engine(LIMITS);
    let groups = roll_out(&policy, &mut engine, &TURNS, &[task(&[(168, 112)], 1), task(&[(120, 150)], 2)], 3);
    let tokenizer = policy.processor.tokenizer();
    let is_other = |trajectory: &Trajectory| {
        let own: Vec<u32> = trajectory.own().map(|(_, token)| token.id).collect();
        tokenizer.encode(&tokenizer.decode(&own, false)).unwrap() != own
    };
    assert!(trajectories(&groups).any(is_other), "the test would not see it");
    for trajectory in trajectories(&groups) {
        assert!(trajectory.own().all(|(place, token)| trajectory.token_ids[place] == token.id));
    }
    let own: usize = trajectories(&groups).map(Trajectory::own_tokens).sum();
    let learned = learn(policy, &groups);
    assert_eq!((learned.tokens, learned.mismatched), (own, 0));
}

// ---- 5 ----

/// A policy that wants nothing but placeholders rolls out, without one, and learns.
#[test]
fn sampled_placeholder_tokens_cannot_crash_a_run() {
    let mut policy = policy();
    policy.prefer_placeholders();
    let placeholders = policy.model.config.placeholders();
    assert_eq!(placeholders.len(), 2);
    let mut engine = policy.engine(LIMITS);
    let groups = roll_out(&policy, &mut engine, &TURNS, &[task(&[(168, 112), (60, 90)], 1)], 5);
    let own: Vec<&Sampled> = trajectories(&groups).flat_map(Trajectory::own).map(|(_, token)| token).collect();
    assert!(own.iter().all(|token| !placeholders.contains(&token.id)));
    let wanted = own.iter().filter(|token| token.logprob_at_temperature - token.logprob > 3.0).count();
    assert!(wanted * 10 > own.len() * 9, "they are wanted at {wanted} of {} tokens", own.len());
    let tokens = own.len();
    let learned = learn(policy, &groups);
    assert_eq!((learned.tokens, learned.mismatched), (tokens, 0));
    assert!(learned.updates[0].update.applied, "the gradient is finite");
}

// ---- 7 ----

/// Of every token behind an image, and of all others, the learner computes the sampler's bits: whether the tower's features are the rollout's or its
/// own, and wherever the prefill cut an image.
#[test]
fn sampler_and_trainer_agree_on_image_tokens_to_the_bit() {
    let policy = policy();
    let mut behind_images = 0;
    for (seed, prefill_chunk_tokens) in [(1, 5), (2, 500)] {
        let mut engine = policy.engine(thyme_engine::engine::EngineLimits { prefill_chunk_tokens, ..LIMITS });
        let tasks = [task(&[(168, 112), (100, 60)], 1), task(&[(60, 150)], 2)];
        let groups = roll_out(&policy, &mut engine, &TURNS, &tasks, seed);
        let records: Vec<Record> = trajectories(&groups).map(Record::of).collect();
        let tokens: usize = records.iter().map(|record| record.sampled().count()).sum();
        behind_images += trajectories(&groups).map(|trajectory| trajectory.observations().count()).sum::<usize>();
        for packs in 0..4 {
            let compared = compare_with_training(&policy, &engine, &records, packs);
            assert_eq!((compared.tokens, compared.differing), (tokens, 0));
        }
    }
    assert!(behind_images >= 12, "{behind_images} observations with images");
}

// ---- 9 ----

/// A picture that is shown again after an update is encoded again: features and tokens are those of an engine that never saw the old weights.
#[test]
fn image_caches_are_forgotten_when_weights_change() {
    let SmallPolicy { model, weights, processor, pictures, .. } = policy();
    let (image, pad) = (pictures[3].clone(), processor.special_ids().image_pad);
    let settings = learner_settings(&processor, false);
    let mut learner = Learner::new(model.clone(), weights, settings.clone());
    let mut ids: Vec<u32> = (10..30).collect();
    ids.extend(std::iter::repeat_n(pad, processor.image_tokens(&image)));
    ids.extend(40..60);
    let answer = |engine: &mut Engine, weights: &Weights, number: u64| -> Vec<Sampled> {
        let request = GenerateRequest {
            token_ids: ids.clone(),
            images: vec![image.clone()],
            sequences: vec![number],
            first_counter: Some(0),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            stops: Stops { turn_tokens: 12, total_tokens: 12, ..Stops::default() },
            ..GenerateRequest::default()
        };
        engine.open(&request).unwrap();
        let mut sampled = Vec::new();
        while sampled.len() < 12 {
            sampled.extend(engine.step(weights).unwrap().into_iter().filter_map(|event| event.token));
        }
        engine.close(number);
        sampled
    };
    let bits = |values: Vec<f32>| -> Vec<u32> { values.into_iter().map(f32::to_bits).collect() };
    let mut engine = Engine::new(model.clone(), processor.clone(), LIMITS);
    let mut features: Vec<Vec<u32>> = Vec::new();
    for round in 0..3 {
        let weights = learner.weights();
        let sampled = [2 * round, 2 * round + 1].map(|number| answer(&mut engine, weights, number));
        assert_eq!(engine.statistics().encoded_images, round + 1, "encoded once for each version");
        let fresh = answer(&mut Engine::new(model.clone(), processor.clone(), LIMITS), weights, 0);
        assert_eq!(sampled, [fresh.clone(), fresh], "after {round} updates");
        let kept = bits(model.backend.to_f32(&engine.unmerged_features(&image).unwrap()));
        let batch = ImageBatch { images: vec![(image.patches.as_slice(), image.grid)], scale: settings.pixel_scale };
        let computed = bits(model.backend.to_f32(&model.tower_forward(weights, &batch, false).0));
        assert!(kept == computed, "features of old weights after {round} updates");
        assert!(!features.contains(&kept), "the update changed the tower");
        features.push(kept);
        let trained = (0..ids.len()).map(|place| place > 40).collect();
        let images = vec![SampleImage { prepared: image.clone(), unmerged_features: None }];
        let pack = Pack::new(&[&Sample { ids: ids.clone(), trained, images }], Layout::of(&processor));
        let ones = vec![1.0; pack.targets.len()];
        learner.accumulate(&pack, &ones, LogprobKind::Raw, |found| vec![-1.0; found.logprob.len()]);
        assert!(learner.update(1e-2).applied);
    }
}

// ---- 12 ----

/// A sequence with a picture in its prompt and one behind the model's first turn, of which the tokens behind the second are learned.
fn two_turns(policy: &SmallPolicy) -> Pack {
    let mut random = Random::new(4);
    let mut record = Record::default();
    for number in [1, 3] {
        let image = policy.pictures[number].clone();
        let mut ids = policy.text(&mut random, 9);
        ids.extend(std::iter::repeat_n(
            policy.processor.special_ids().image_pad,
            policy.processor.image_tokens(&image),
        ));
        ids.extend(policy.text(&mut random, 7));
        record.observe(&ids, &[image]);
    }
    let trained = (0..record.ids.len()).map(|place| place + 6 > record.ids.len()).collect();
    let engine = policy.engine(LIMITS);
    Pack::new(&[&Sample { trained, ..sample(&record, &engine) }], Layout::of(&policy.processor))
}

/// Where nothing is frozen every tensor of tower, merger and language model has a gradient and moves, and every image token's features have one.
#[test]
fn image_tokens_train_tower_merger_and_language_model() {
    let policy = policy();
    let pack = two_turns(&policy);
    assert_eq!(pack.images.len(), 2);
    let rows = feature_gradients(&policy, &pack);
    assert_eq!(rows.len(), pack.batch.image_index.iter().filter(|&&row| row >= 0).count());
    assert!(rows.iter().all(|row| row.iter().any(|value| *value != 0.0)), "an image token has no gradient");
    for is_frozen in [false, true] {
        let SmallPolicy { model, weights, processor, .. } = super::policy();
        let backend = model.backend.clone();
        let before: Vec<Vec<f32>> = weights.values.iter().map(|tensor| backend.to_f32(tensor)).collect();
        let mut settings = learner_settings(&processor, is_frozen);
        settings.freeze_merger = is_frozen;
        let mut learner = Learner::new(model, weights, settings);
        let ones = vec![1.0; pack.targets.len()];
        learner.accumulate(&pack, &ones, LogprobKind::Raw, |found| vec![-1.0; found.logprob.len()]);
        let specs = learner.model().layout.specs.clone();
        for (spec, gradient) in specs.iter().zip(learner.gradients().unwrap().iter()) {
            let wants = spec.part == Part::Language || !is_frozen;
            let has =
                gradient.as_ref().is_some_and(|gradient| backend.to_f32(gradient).iter().any(|value| *value != 0.0));
            assert_eq!(has, wants, "{:?} {:?}", spec.part, spec.sources[0].name);
        }
        assert!(learner.update(1e-2).applied);
        for ((spec, before), after) in specs.iter().zip(before).zip(learner.weights().values.iter()) {
            let wants = spec.part == Part::Language || !is_frozen;
            assert_eq!(backend.to_f32(after) != before, wants, "{:?} {:?}", spec.part, spec.sources[0].name);
        }
    }
}

/// The gradient of the learned tokens' negative log-likelihood with respect to each image token's features.
fn feature_gradients(policy: &SmallPolicy, pack: &Pack) -> Vec<Vec<f32>> {
    let SmallPolicy { model, weights, processor, .. } = policy;
    let backend = &*model.backend;
    let images = pack.images.iter().map(|image| (image.prepared.patches.as_slice(), image.prepared.grid)).collect();
    let batch = ImageBatch { images, scale: learner_settings(processor, false).pixel_scale };
    let (features, _) = model.merger_forward(weights, &model.tower_forward(weights, &batch, false).0);
    let (h, activations) = model.forward(weights, &pack.batch, Some(&features), Keep::Activations);
    let targets: Vec<i32> = pack.targets.iter().map(|&id| id as i32).collect();
    let (targets, count) = (backend.indices(&targets), targets.len());
    let upload = |value: f32| backend.upload(Host::F32(&vec![value; count]), &[count], Dtype::F32);
    let (ones, head) = (upload(1.0), model.head(weights));
    let scored = backend.token_logprob_forward(&h, head, &targets, &ones, &[]);
    let dh = backend.token_logprob_backward(&upload(-1.0), &h, head, &targets, &ones, &scored.lse_raw, &[], None, None);
    let mut gradients = model.gradients(|_| true);
    let dfeatures = model.backward(weights, &mut gradients, activations, &dh, Some(&features)).unwrap();
    backend.to_f32(&dfeatures.rows).chunks(model.config.dim).map(<[f32]>::to_vec).collect()
}

// ---- 13 ----

/// Another image in the second turn changes what the sampler and the learner make of every token behind it, and of none before.
#[test]
fn the_model_sees_the_images_of_later_turns() {
    let policy = policy();
    let tasks = [(168, 112), (140, 140), (120, 160), (150, 110)].map(|size| task(&[size], size.0));
    let [one, other] =
        [&TURNS, &OTHER_TURNS].map(|turns| roll_out(&policy, &mut policy.engine(LIMITS), turns, &tasks, 6));
    let (mut compared, mut unchanged) = (0, 0);
    for (one, other) in trajectories(&one).zip(trajectories(&other)) {
        let seconds =
            [one, other].map(|trajectory| trajectory.observations().nth(1).map(|(turn, _)| turn.tokens.clone()));
        let [Some(second), Some(of_other)] = seconds else { continue };
        assert_eq!((&second, one.images[2].grid), (&of_other, other.images[2].grid));
        assert_ne!(one.images[2].patches, other.images[2].patches);
        assert_eq!(one.sampled[..second.end], other.sampled[..second.end], "what stands before is the same");
        let [Some(next), Some(of_other)] = [one, other].map(|trajectory| trajectory.sampled.get(second.end)) else {
            continue;
        };
        let entropy = |sampled: &Option<Sampled>| sampled.unwrap().entropy;
        assert_ne!(entropy(next), entropy(of_other), "the sampler does not see the image");

        let learned = learned_logprobs(&policy, one, &one.images);
        let mut images = one.images.clone();
        images[2] = other.images[2].clone();
        let changed = learned_logprobs(&policy, one, &images);
        let before = one.own().filter(|(place, _)| *place < second.start).count();
        assert_eq!(learned.entropy[..before], changed.entropy[..before]);
        assert_eq!(learned.entropy[before], entropy(next), "the learner sees what the sampler saw");
        let behind = learned.entropy[before..].iter().zip(&changed.entropy[before..]);
        unchanged += behind.clone().filter(|(one, other)| one == other).count();
        compared += behind.len();
    }
    // Where the model is sure of a token its entropy may round to the same.
    assert!(
        compared >= 20 && unchanged * 10 <= compared,
        "of {compared} tokens {unchanged} do not see the second turn's image"
    );
}

/// What the learner computes of a trajectory's own tokens with these images in it.
fn learned_logprobs(policy: &SmallPolicy, trajectory: &Trajectory, images: &[Arc<PreparedImage>]) -> PackLogprobs {
    let record = Record { images: images.to_vec(), ..Record::of(trajectory) };
    let sample = sample(&record, &policy.engine(LIMITS));
    let pack = Pack::new(&[&sample], Layout::of(&policy.processor));
    let temperatures = vec![TEMPERATURE; pack.targets.len()];
    logprobs(&policy.model, &policy.weights, &pack, &temperatures, &learner_settings(&policy.processor, false))
}
