//! Samples in one batch: what stands where, and that a shared beginning changes nothing but the work.

use std::sync::Arc;

use thyme_engine::cpu::Cpu;
use thyme_engine::recipe::LogprobKind;
use thyme_engine::train::learner::{Learner, logprobs};
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage, runs_by_tokens};

use crate::support::small_policy::{CHECKPOINTS, Random, SmallPolicy, learner_settings};

/// A group: one prompt with a picture, and a different completion with a picture behind it for each member.
fn group(policy: &SmallPolicy, random: &mut Random, members: usize) -> Vec<Sample> {
    let (prompt, prompt_pictures) = policy.text_and_pictures(random, 20, 1);
    let completion = |_| {
        let (more, more_pictures) = policy.text_and_pictures(random, 9, 1);
        let pictures = prompt_pictures.iter().chain(&more_pictures);
        Sample {
            ids: [prompt.clone(), more.clone()].concat(),
            trained: (0..prompt.len() + more.len())
                .map(|i| i > prompt.len() && more[i - prompt.len()] < policy.text_tokens as u32)
                .collect(),
            images: pictures
                .map(|picture| SampleImage { prepared: picture.clone(), unmerged_features: None })
                .collect(),
        }
    };
    (0..members).map(completion).collect()
}

fn pack(policy: &SmallPolicy, samples: &[&Sample]) -> Pack {
    Pack::new(samples, Layout::of(&policy.processor))
}

#[test]
fn a_group_stands_in_the_batch_with_its_prompt_once() {
    let policy = SmallPolicy::open(CHECKPOINTS[0], Arc::new(Cpu::new()));
    let mut random = Random::new(1);
    let (alone, members) = (group(&policy, &mut random, 1), group(&policy, &mut random, 3));
    let samples: Vec<&Sample> = alone.iter().chain(&members).collect();
    let pack = pack(&policy, &samples);
    assert_eq!(pack.batch.prefixes, [None, None, Some(1), Some(1), Some(1)]);
    let shared = pack.batch.bounds[2] - pack.batch.bounds[1];
    let tokens: usize = samples.iter().map(|sample| sample.tokens()).sum();
    assert_eq!(pack.batch.ids.len(), tokens - 2 * shared);
    assert_eq!(pack.images.len(), 2 + 1 + 3, "the prompt's picture once");

    let rows = pack.batch.rows.as_ref().unwrap();
    let learned: usize = samples.iter().map(|sample| sample.targets().count()).sum();
    assert_eq!((rows.len(), pack.targets.len(), pack.places.len()), (learned, learned, learned));
    for ((&row, &target), &(member, token)) in rows.iter().zip(&pack.targets).zip(&pack.places) {
        assert_eq!(target, samples[member].ids[token]);
        assert_eq!(pack.batch.ids[row], samples[member].ids[token - 1]);
    }
    let images: Vec<i32> = pack.batch.image_index.iter().copied().filter(|&i| i >= 0).collect();
    assert_eq!(images, (0..images.len() as i32).collect::<Vec<_>>());
}

#[test]
fn a_shared_prompt_changes_no_logprob_and_the_gradient_by_roundings() {
    for name in CHECKPOINTS {
        let policy = SmallPolicy::open(name, Arc::new(Cpu::new()));
        let members = group(&policy, &mut Random::new(2), 4);
        let members: Vec<&Sample> = members.iter().collect();
        let learn = |packs: &[&[&Sample]]| {
            let weights = SmallPolicy::open(name, Arc::new(Cpu::new())).weights;
            let mut learner = Learner::new(policy.model.clone(), weights, learner_settings(&policy.processor, false));
            let mut found = Vec::new();
            for samples in packs {
                let pack = pack(&policy, samples);
                let ones = vec![1.0; pack.targets.len()];
                learner.accumulate(&pack, &ones, LogprobKind::Raw, |output| {
                    found.extend(output.logprob.iter().map(|logprob| logprob.to_bits()));
                    ones.clone()
                });
            }
            (found, learner)
        };
        let (together, shared) = learn(&[&members]);
        let alone: Vec<&[&Sample]> = members.chunks(1).collect();
        let (one_by_one, own) = learn(&alone);
        assert_eq!(together, one_by_one, "{name}");
        let backend = &policy.model.backend;
        for (a, b) in shared.gradients().unwrap().iter().zip(own.gradients().unwrap().iter()) {
            let (Some(a), Some(b)) = (a, b) else { continue };
            let (a, b) = (backend.to_f32(a), backend.to_f32(b));
            let norm = |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            assert!(norm(&difference) <= 1e-5 * norm(&b), "{name}: {} of {}", norm(&difference), norm(&b));
        }
    }
}

/// Placeholders alone do not tell where the first of two images side by side ends; both are shared, and each is there once.
#[test]
fn images_side_by_side_at_a_shared_beginning_are_two() {
    let policy = SmallPolicy::open(CHECKPOINTS[0], Arc::new(Cpu::new()));
    let mut random = Random::new(3);
    let pad = policy.processor.special_ids().image_pad;
    let pictures = &policy.pictures[..2];
    let pads: usize = pictures.iter().map(|picture| policy.processor.image_tokens(picture)).sum();
    let prompt = [policy.text(&mut random, 20), vec![pad; pads], policy.text(&mut random, 20)].concat();
    let sample = |own: Vec<u32>| Sample {
        trained: (0..prompt.len() + own.len()).map(|i| i >= prompt.len()).collect(),
        ids: [prompt.clone(), own].concat(),
        images: pictures
            .iter()
            .map(|picture| SampleImage { prepared: picture.clone(), unmerged_features: None })
            .collect(),
    };
    let samples = [sample(policy.text(&mut random, 5)), sample(policy.text(&mut random, 7))];
    let logprobs = |samples: &[&Sample]| {
        let pack = pack(&policy, samples);
        let ones = vec![1.0; pack.targets.len()];
        let found = logprobs(&policy.model, &policy.weights, &pack, &ones, &learner_settings(&policy.processor, false));
        (found.logprob.into_iter().map(f32::to_bits).collect::<Vec<u32>>(), pack.images.len())
    };
    let (together, images) = logprobs(&[&samples[0], &samples[1]]);
    assert_eq!(images, 2, "each once");
    assert_eq!(together, [logprobs(&[&samples[0]]).0, logprobs(&[&samples[1]]).0].concat());
}

#[test]
fn runs_keep_to_the_budget_and_to_the_order() {
    assert_eq!(runs_by_tokens(&[3, 4, 10, 1, 1], 7), [0..2, 2..3, 3..5]);
    assert!(runs_by_tokens(&[], 7).is_empty());
}
