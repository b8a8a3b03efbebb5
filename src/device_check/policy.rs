//! A tiny policy: what the engine says of the tokens that it samples, from pages, in graphs and with drafts, is what the trainer's forward
//! finds for them, to the bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::{Rgb, RgbImage};

use super::check::{Check, Fault, Sizes, Subject};
use super::values::Values;
use crate::checkpoint::init::random_weights;
use crate::engine::Engine;
use crate::engine::request::{GenerateRequest, Sampled, Sampling, Stops};
use crate::engine::sizing::{EngineSize, PageDemand};
use crate::engine::speculation::Speculation;
use crate::files::open::replace;
use crate::model::Model;
use crate::model::config::Config;
use crate::model::parameters::Weights;
use crate::ops::Backend;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::{PreparedImage, Processor};
use crate::recipe::optimizer::OptimizerSettings;
use crate::train::learner::{LearnerSettings, logprobs};
use crate::train::sample::{Layout, Pack, Sample, SampleImage};

/// The tiny model of `recipes/`, without its weights.
const CONFIG: &str = include_str!("../../recipes/tiny/config.json");
const FILES: [(&str, &str); 2] = [
    ("tokenizer.json", include_str!("../../recipes/tiny/tokenizer.json")),
    ("preprocessor_config.json", include_str!("../../recipes/tiny/preprocessor_config.json")),
];

/// Tokens of that vocabulary that are text.
const TEXT_TOKENS: usize = 700;
/// Tokens of a prompt beside its picture.
const PROMPT_TOKENS: usize = 21;

/// Tokens that its picture takes, at most.
const PICTURE_TOKENS_MAX: usize = 32;

/// The check with drafts and without.
pub fn checks(sizes: Sizes) -> Vec<Check> {
    let (group, tokens) = if sizes == Sizes::Real { (8, 48) } else { (3, 24) };
    let kinds = [(Speculation::Off, "one token a step, in graphs"), (Speculation::Always, "with drafts")];
    let check = |(speculation, how): (Speculation, &str)| {
        let shape = format!("{} tokens of {} sequences, {how}: sampler and trainer", 2 * group * tokens, 2 * group);
        Check::new("policy", shape, move |subject| sampler_and_trainer_agree(subject, speculation, group, tokens))
    };
    kinds.into_iter().map(check).collect()
}

/// A model that can speak.
struct Policy {
    model: Model,
    weights: Weights,
    processor: Arc<Processor>,
}

impl Policy {
    fn new(backend: Arc<dyn Backend>) -> Policy {
        let config = serde_json::from_str(CONFIG).expect("the tiny model's config is JSON");
        let model = Model::new(Config::from_json(&config).expect("the tiny model's config is valid"), backend);
        let weights = random_weights(&model, 7);
        let folder = tempfile::tempdir().expect("a temporary folder for the tiny model's tokenizer");
        for (name, text) in FILES {
            replace(&folder.path().join(name), text.as_bytes()).expect("a file in a temporary folder");
        }
        let processor = Processor::open(folder.path()).expect("the tiny model's tokenizer is valid");
        Policy { model, weights, processor: Arc::new(processor) }
    }

    /// Random text, and between two halves of it a picture if there is one.
    fn prompt(&self, random: &mut Values, picture: Option<&Arc<PreparedImage>>) -> Vec<u32> {
        let mut text = |count| random.indices(count, TEXT_TOKENS).into_iter().map(|id| id as u32).collect::<Vec<_>>();
        let (mut ids, rest) = (text(PROMPT_TOKENS / 2), text(PROMPT_TOKENS - PROMPT_TOKENS / 2));
        if let Some(picture) = picture {
            let special = self.processor.special_ids();
            ids.push(special.vision_start);
            ids.extend(std::iter::repeat_n(special.image_pad, self.processor.image_tokens(picture)));
            ids.push(special.vision_end);
        }
        ids.extend(rest);
        ids
    }

    fn picture(&self) -> Arc<PreparedImage> {
        let level = |x: u32, y: u32, c: u32| (7 * x + 13 * y + x * y + 61 * c) as u8;
        let picture = RgbImage::from_fn(84, 56, |x, y| Rgb([level(x, y, 0), level(x, y, 1), level(x, y, 2)]));
        Arc::new(self.processor.prepare(&picture).expect("a picture of a usable size"))
    }
}

/// A sequence as a rollout records it.
struct Record {
    sample: Sample,
    sampled: Vec<Sampled>,
}

/// Two groups of sequences, one of them on a picture.
fn play(policy: &Policy, speculation: Speculation, group: usize, tokens: usize) -> Vec<Record> {
    let mut random = Values::new(50);
    let demand = PageDemand::of_sequences(2 * group, PROMPT_TOKENS + PICTURE_TOKENS_MAX + tokens + 1);
    let limits = EngineSize::new(2 * group, demand).limits();
    let engine = Engine::new(policy.model.clone(), policy.processor.clone(), limits);
    let mut engine = engine.with_speculation(speculation);
    let mut records = BTreeMap::new();
    let warm = Sampling { temperature: 0.7, top_p: 0.9, repetition_penalty: 1.1, ..Sampling::default() };
    for (number, (picture, sampling)) in
        [(None, Sampling::default()), (Some(policy.picture()), warm)].into_iter().enumerate()
    {
        let ids = policy.prompt(&mut random, picture.as_ref());
        let images: Vec<Arc<PreparedImage>> = picture.into_iter().collect();
        let sequences: Vec<u64> = (0..group).map(|member| (number * group + member) as u64).collect();
        let images_of_sample =
            images.iter().map(|image| SampleImage { prepared: image.clone(), unmerged_features: None });
        let images_of_sample: Vec<SampleImage> = images_of_sample.collect();
        for sequence in &sequences {
            let sample = Sample { ids: ids.clone(), trained: vec![false; ids.len()], images: images_of_sample.clone() };
            records.insert(*sequence, Record { sample, sampled: Vec::new() });
        }
        let stops = Stops { turn_tokens: tokens, total_tokens: tokens, ..Stops::default() };
        let request = GenerateRequest {
            token_ids: ids,
            images,
            sequences,
            seed: 3,
            sampling,
            stops,
            ..GenerateRequest::default()
        };
        engine.open(&request).expect("the engine has room for two groups");
    }
    let mut open = records.len();
    while open > 0 {
        for event in engine.step(&policy.weights).expect("a step") {
            let record = records.get_mut(&event.sequence).expect("an open sequence");
            if let Some(token) = event.token {
                record.sample.ids.push(token.id);
                record.sample.trained.push(true);
                record.sampled.push(token);
            }
            if event.stopped.is_some() {
                engine.close(event.sequence);
                open -= 1;
            }
        }
    }
    records.into_values().collect()
}

/// A number of a sampled token.
type OfSampler = fn(&Sampled) -> f32;

fn sampler_and_trainer_agree(
    subject: &Subject,
    speculation: Speculation,
    group: usize,
    tokens: usize,
) -> Result<(), Fault> {
    let policy = Policy::new(subject.pooled.clone());
    let records = play(&policy, speculation, group, tokens);
    let image = policy.processor.image_settings();
    let settings = LearnerSettings {
        optimizer: OptimizerSettings::default(),
        freeze_vision_tower: false,
        freeze_merger: false,
        activation_recompute: false,
        pixel_scale: PixelScale { mean: image.mean, std: image.std },
    };
    let samples: Vec<&Sample> = records.iter().map(|record| &record.sample).collect();
    let pack = Pack::new(&samples, Layout::of(&policy.processor));
    let sampled: Vec<&Sampled> = records.iter().flat_map(|record| &record.sampled).collect();
    let temperatures: Vec<f32> = sampled.iter().map(|token| token.temperature).collect();
    let found = logprobs(&policy.model, &policy.weights, &pack, &temperatures, &settings);
    let kinds: [(&str, &[f32], OfSampler); 3] = [
        ("logprob", &found.logprob, |token| token.logprob),
        ("logprob_at_temperature", &found.logprob_at_temperature, |token| token.logprob_at_temperature),
        ("entropy", &found.entropy, |token| token.entropy),
    ];
    assert_eq!(sampled.len(), 2 * group * tokens);
    for (kind, trainer, of_sampler) in kinds {
        let differs = |i: &usize| trainer[*i].to_bits() != of_sampler(sampled[*i]).to_bits();
        let differing: Vec<usize> = (0..sampled.len()).filter(differs).collect();
        if let Some(&first) = differing.first() {
            let (sequence, position) = pack.places[first];
            let count = sampled.len();
            return Err(Fault::Value {
                kernel: "policy".to_owned(),
                place: format!(
                    "{kind} of token {position} of sequence {sequence}, one of {} of {count} that differ",
                    differing.len()
                ),
                expected: format!("{:?} as sampled", of_sampler(sampled[first])),
                got: format!("{:?} in training", trainer[first]),
            });
        }
    }
    Ok(())
}
