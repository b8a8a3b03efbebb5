//! Updates on rolled-out sequences: forward, backward, AdamW; one step for each batch, the loss on the sampled tokens.

use thyme_engine::engine::Engine;
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::prompt::Prompt;
use thyme_engine::recipe::LogprobKind;
use thyme_engine::recipe::optimizer::OptimizerSettings;
use thyme_engine::train::learner::{Learner, LearnerSettings};
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage, runs_by_tokens};

use super::rollout::{Policy, Rolled};

/// Tokens of one forward and backward.
const MICRO_BATCH_TOKENS: usize = 4096;

/// Takes the policy's weights. With a frozen vision tower its output from the rollout is used again.
pub fn learner(policy: Policy, freeze_vision: bool) -> Learner {
    let image = policy.processor.image_settings();
    let settings = LearnerSettings {
        optimizer: OptimizerSettings::default(),
        freeze_vision_tower: freeze_vision,
        freeze_merger: freeze_vision,
        activation_recompute: false,
        pixel_scale: PixelScale { mean: image.mean, std: image.std },
    };
    Learner::new(policy.model, policy.weights, settings)
}

/// What is learned from: prompts with what was sampled. Sampled placeholders, for which there is no image, become token 0.
pub fn samples(policy: &Policy, engine: &Engine, prompts: &[Prompt], rolled: &[Rolled]) -> Vec<Sample> {
    let special = policy.processor.special_ids();
    let is_marker = |id: u32| id == special.image_pad || id == special.video_pad;
    let sample = |rolled: &Rolled| {
        let prompt = &prompts[rolled.prompt];
        let mut ids = prompt.token_ids.clone();
        ids.extend(rolled.sampled.iter().map(|&id| if is_marker(id) { 0 } else { id }));
        let trained = (0..ids.len()).map(|place| place >= prompt.token_ids.len()).collect();
        let image = |prepared: &std::sync::Arc<thyme_engine::prompt::PreparedImage>| SampleImage {
            prepared: prepared.clone(),
            unmerged_features: engine.unmerged_features(prepared),
        };
        Sample { ids, trained, images: prompt.images.iter().map(image).collect() }
    };
    rolled.iter().map(sample).collect()
}

/// One optimizer step for each `batch` of samples.
pub fn update(learner: &mut Learner, layout: Layout, samples: &[Sample], batch: usize) {
    for samples in samples.chunks(batch) {
        let targets: usize = samples.iter().map(|sample| sample.targets().count()).sum();
        let tokens: Vec<usize> = samples.iter().map(Sample::tokens).collect();
        for run in runs_by_tokens(&tokens, MICRO_BATCH_TOKENS) {
            let members: Vec<&Sample> = samples[run].iter().collect();
            let pack = Pack::new(&members, layout);
            learner.accumulate(&pack, &vec![1.0; pack.targets.len()], LogprobKind::Raw, |logprobs| {
                vec![-1.0 / targets as f32; logprobs.logprob.len()]
            });
        }
        let update = learner.update(1e-6);
        assert!(update.applied, "the gradient is finite");
    }
}
