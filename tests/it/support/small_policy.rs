//! A golden checkpoint with a made-up tokenizer and pictures, for tests that let the engine sample: random games of many sequences,
//! recorded as rollout records them, and the training forward over the records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::engine::request::{AdaptiveTemperature, GenerateRequest, GeneratorError, Sampled, Sampling, Stops};
use thyme_engine::engine::sequence::SequenceState;
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Model;
use thyme_engine::model::parameters::Weights;
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::ops::{Backend, Dtype, Host};
use thyme_engine::prompt::{PreparedImage, Processor};
use thyme_engine::recipe::optimizer::OptimizerSettings;
use thyme_engine::rollout::trajectory::Trajectory;
use thyme_engine::train::learner::{LearnerSettings, logprobs};
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage};

pub const CHECKPOINTS: [&str; 4] =
    ["qwen2_5_vl_untied_flat", "qwen2_5_vl_tied_nested", "qwen2_vl_tied_flat", "qwen2_vl_untied_nested"];

/// A small generator (xorshift), so that every run tests the same.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    pub fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

/// A model that can speak.
pub struct SmallPolicy {
    pub model: Model,
    pub weights: Weights,
    pub processor: Arc<Processor>,
    /// Pictures to show, prepared once, as a rollout shares them.
    pub pictures: Vec<Arc<PreparedImage>>,
    /// Tokens below it are text.
    pub text_tokens: usize,
}

impl SmallPolicy {
    pub fn open(name: &str, backend: Arc<dyn Backend>) -> SmallPolicy {
        let folder = golden_folder().join(name);
        let (model, weights) = load(&folder, backend);
        let golden: Value =
            serde_json::from_slice(&std::fs::read(golden_folder().join(format!("{name}.json"))).unwrap()).unwrap();
        let text_tokens = golden["special_token_ids"]["end_of_text"].as_u64().unwrap() as usize;
        let made = tempfile::tempdir().unwrap();
        let preprocessor = "preprocessor_config.json";
        std::fs::copy(folder.join(preprocessor), made.path().join(preprocessor)).unwrap();
        std::fs::write(made.path().join("tokenizer.json"), tokenizer(text_tokens).to_string()).unwrap();
        let processor = Arc::new(Processor::open(made.path()).unwrap());
        assert_eq!(processor.special_ids().image_pad, model.config.image_pad);
        let pictures = pictures(&processor);
        SmallPolicy { model, weights, processor, pictures, text_tokens }
    }

    /// The tiny model of the shipped recipe, a Qwen2.5-VL whose heads CUDA's kernels take.
    pub fn of_recipe(backend: Arc<dyn Backend>) -> SmallPolicy {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny-sft");
        let (model, weights) = load(&folder, backend);
        let processor = Arc::new(Processor::open(&folder).unwrap());
        let pictures = pictures(&processor);
        SmallPolicy { model, weights, processor, pictures, text_tokens: 700 }
    }

    /// Changes the head so that one of the placeholders of pictures has nearly all the mass, wherever the model is asked.
    pub fn prefer_placeholders(&mut self) {
        let (backend, head) = (&*self.model.backend, self.model.layout.head);
        let (mut values, dim) = (backend.to_f32(&self.weights.values[head]), self.model.config.dim);
        for (id, sign) in self.model.config.placeholders().into_iter().zip([1.0, -1.0]) {
            let row = &mut values[id as usize * dim..][..dim];
            row.iter_mut()
                .enumerate()
                .for_each(|(i, value)| *value = if i % 3 == 0 { 48.0 * sign } else { -24.0 * sign });
        }
        let shape = self.weights.values[head].shape().to_vec();
        self.weights.values[head] = backend.upload(Host::F32(&values), &shape, Dtype::Bf16);
    }

    pub fn engine(&self, limits: EngineLimits) -> Engine {
        Engine::new(self.model.clone(), self.processor.clone(), limits)
    }

    pub fn text(&self, random: &mut Random, tokens: usize) -> Vec<u32> {
        (0..tokens).map(|_| random.below(self.text_tokens) as u32).collect()
    }

    /// Random text with pictures at random places.
    pub fn text_and_pictures(
        &self,
        random: &mut Random,
        tokens: usize,
        pictures: usize,
    ) -> (Vec<u32>, Vec<Arc<PreparedImage>>) {
        let special = self.processor.special_ids();
        let pictures: Vec<_> = (0..pictures).map(|_| random.pick(&self.pictures)).collect();
        let mut ids = Vec::new();
        for picture in &pictures {
            let before = random.below(tokens.max(1));
            ids.extend(self.text(random, before));
            // Pictures may also stand at the very start, and one behind the other.
            if random.one_in(2) {
                ids.push(special.vision_start);
            }
            ids.extend(std::iter::repeat_n(special.image_pad, self.processor.image_tokens(picture)));
        }
        ids.extend(self.text(random, tokens));
        (ids, pictures)
    }

    /// Bytes of sampled tokens as the engine reads them.
    pub fn bytes(&self, ids: &[u32]) -> Vec<u8> {
        self.processor.tokenizer().decode_bytes(ids, true)
    }
}

/// A checkpoint's model and weights.
pub fn load(folder: &Path, backend: Arc<dyn Backend>) -> (Model, Weights) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let model = checkpoint.model(backend);
    let weights = checkpoint.weights(&model).unwrap();
    (model, weights)
}

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model")
}

/// A byte-level vocabulary whose tokens are rich in pieces of tags, special tokens at its end.
fn tokenizer(text_tokens: usize) -> Value {
    let mut pieces: Vec<String> =
        ["<code>", "</code>", "<co", "de>", "</co", "</code><code>", "<", ">", "stop", "st", "op", "/", "code", ">s"]
            .map(str::to_owned)
            .into();
    pieces.extend((0..12).map(|i| format!("{i}<code>")));
    pieces.extend((0..12).map(|i| format!("</code>{i}")));
    pieces.extend((pieces.len()..text_tokens).map(|i| format!("t{i}.")));
    let vocabulary: serde_json::Map<String, Value> =
        pieces.into_iter().enumerate().map(|(id, piece)| (piece, json!(id))).collect();
    let names = ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"];
    let added = |(i, name): (usize, &str)| {
        json!({
            "id": text_tokens + i, "content": format!("<|{name}|>"), "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true
        })
    };
    let added: Vec<Value> = names.into_iter().enumerate().map(added).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []
        }
    })
}

/// Pictures of several shapes, windows evenly and unevenly cut among them.
fn pictures(processor: &Processor) -> Vec<Arc<PreparedImage>> {
    let cell = (processor.image_settings().patch_size * processor.image_settings().merge_size) as u32;
    let shapes = [(2, 2), (4, 2), (2, 5), (5, 3), (3, 3)];
    let prepare = |(k, (w, h)): (usize, (u32, u32))| {
        let level = |x: u32, y: u32, c: u32| (7 * x + 13 * y + x * y + 61 * c + 29 * k as u32) as u8;
        let picture =
            RgbImage::from_fn(w * cell, h * cell, |x, y| Rgb([level(x, y, 0), level(x, y, 1), level(x, y, 2)]));
        Arc::new(processor.prepare(&picture).unwrap())
    };
    shapes.into_iter().enumerate().map(prepare).collect()
}

/// A sequence as rollout would record it.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub ids: Vec<u32>,
    /// What was sampled; none for tokens of the prompt and of observations.
    pub sampled: Vec<Option<Sampled>>,
    pub images: Vec<Arc<PreparedImage>>,
}

impl Record {
    pub fn of(trajectory: &Trajectory) -> Record {
        let Trajectory { token_ids, sampled, images, .. } = trajectory;
        Record { ids: token_ids.clone(), sampled: sampled.clone(), images: images.clone() }
    }

    pub fn observe(&mut self, ids: &[u32], images: &[Arc<PreparedImage>]) {
        self.ids.extend(ids);
        self.sampled.extend(ids.iter().map(|_| None));
        self.images.extend_from_slice(images);
    }

    pub fn push_sampled(&mut self, token: Sampled) {
        self.ids.push(token.id);
        self.sampled.push(Some(token));
    }

    pub fn sampled(&self) -> impl Iterator<Item = &Sampled> {
        self.sampled.iter().flatten()
    }
}

/// An open sequence of a game.
struct Player {
    record: Record,
    turns_left: usize,
    steps_left: usize,
}

/// Random openings, observations and closings on one engine.
pub struct Game<'a> {
    pub policy: &'a SmallPolicy,
    pub engine: Engine,
    pub random: Random,
    pauses: Random,
    pub finished: Vec<Record>,
    /// Prompts that were given: others may begin like one of them.
    prompts: Vec<(Vec<u32>, Vec<Arc<PreparedImage>>)>,
    open: BTreeMap<u64, Player>,
    opened: u64,
    sampled: usize,
}

impl<'a> Game<'a> {
    pub fn new(policy: &'a SmallPolicy, engine: Engine, seed: u64) -> Game<'a> {
        Game {
            engine,
            policy,
            random: Random::new(seed),
            pauses: Random::new(!seed),
            finished: Vec::new(),
            prompts: Vec::new(),
            open: BTreeMap::new(),
            opened: 0,
            sampled: 0,
        }
    }

    /// Plays until so many tokens are sampled, then closes what is open.
    pub fn play(&mut self, tokens: usize) {
        while self.sampled < tokens {
            while self.random.one_in(3) && self.open_group() {}
            self.step();
            self.close_some();
        }
        for (number, player) in std::mem::take(&mut self.open) {
            self.engine.close(number);
            self.finished.push(player.record);
        }
    }

    /// False when there is no room.
    fn open_group(&mut self) -> bool {
        let random = &mut self.random;
        // Prompts around the bounds of pages among them.
        let length = if random.one_in(2) { random.below(40) } else { 15 + random.below(3) };
        let pictures = random.pick(&[0, 0, 0, 1, 2]);
        let (mut ids, mut images) = self.policy.text_and_pictures(random, length + 1, pictures);
        if !self.prompts.is_empty() && random.one_in(3) {
            let (begin, shown) = random.pick(&self.prompts);
            ids.splice(0..0, begin);
            // The same picture from elsewhere.
            images.splice(0..0, shown.iter().map(|image| Arc::new(PreparedImage::clone(image))));
        }
        let members = random.pick(&[1, 1, 2, 3, 5]);
        let request = GenerateRequest {
            token_ids: ids,
            images,
            sequences: (self.opened..self.opened + members).collect(),
            seed: random.next(),
            sampling: sampling(random),
            adaptive: random.one_in(2).then(|| AdaptiveTemperature {
                open: "<code>".into(),
                close: "</code>".into(),
                temperature: random.pick(&[0.0, 0.3, 1.0]),
            }),
            stops: Stops {
                strings: vec!["stop".into(), "code></".into()],
                token_ids: vec![self.policy.processor.special_ids().im_end],
                turn_tokens: 1 + random.below(25),
                total_tokens: 20 + random.below(60),
            },
            ..GenerateRequest::default()
        };
        match self.engine.open(&request) {
            Ok(()) => {}
            Err(GeneratorError::Full | GeneratorError::TooLong { .. } | GeneratorError::NeverFits { .. }) => {
                return false;
            }
            Err(error) => panic!("{error}"),
        }
        self.opened += members;
        if request.token_ids.len() < 60 {
            self.prompts.push((request.token_ids.clone(), request.images.clone()));
        }
        let is_decoy = random.one_in(6);
        for number in request.sequences {
            let mut record = Record::default();
            record.observe(&request.token_ids, &request.images);
            let steps_left = if is_decoy { random.below(3) } else { usize::MAX };
            self.open.insert(number, Player { record, turns_left: random.below(5), steps_left });
        }
        true
    }

    /// Lets some sequences rest, and others go on.
    fn pause_some(&mut self) {
        for &number in self.open.keys() {
            match self.engine.state(number) {
                Some(SequenceState::Running | SequenceState::Stopped) if self.pauses.one_in(20) => {
                    self.engine.pause(number);
                }
                Some(SequenceState::Paused | SequenceState::StoppedAside) if self.pauses.one_in(4) => {
                    self.engine.resume(number);
                }
                _ => {}
            }
        }
    }

    fn step(&mut self) {
        self.pause_some();
        let mut stopped = Vec::new();
        for event in self.engine.step(&self.policy.weights).unwrap() {
            if let Some(token) = event.token {
                self.open.get_mut(&event.sequence).unwrap().record.push_sampled(token);
                self.sampled += 1;
            }
            stopped.extend(event.stopped.map(|_| event.sequence));
        }
        for number in stopped {
            let player = self.open.get_mut(&number).unwrap();
            if player.turns_left == 0 || !self.observe(number) {
                self.finish(number);
            }
        }
    }

    /// False where the observation does not fit.
    fn observe(&mut self, number: u64) -> bool {
        let random = &mut self.random;
        let (tokens, pictures) = (1 + random.below(12), random.pick(&[0, 1, 1, 2]));
        let (ids, images) = self.policy.text_and_pictures(random, tokens, pictures);
        if self.engine.append(number, &ids, &images).is_err() {
            return false;
        }
        let player = self.open.get_mut(&number).unwrap();
        player.turns_left -= 1;
        player.record.observe(&ids, &images);
        true
    }

    fn close_some(&mut self) {
        let numbers: Vec<u64> = self.open.keys().copied().collect();
        for number in numbers {
            let player = self.open.get_mut(&number).unwrap();
            player.steps_left = player.steps_left.saturating_sub(1);
            if player.steps_left == 0 || self.random.one_in(150) {
                self.finish(number);
            }
        }
    }

    fn finish(&mut self, number: u64) {
        self.engine.close(number);
        self.finished.push(self.open.remove(&number).unwrap().record);
    }
}

fn sampling(random: &mut Random) -> Sampling {
    Sampling {
        temperature: random.pick(&[1.0, 1.0, 0.7, 1.3, 0.0]),
        turn_temperatures: Vec::new(),
        top_k: random.pick(&[0, 0, 0, 20]),
        top_p: random.pick(&[1.0, 1.0, 0.9]),
        min_p: random.pick(&[0.0, 0.0, 0.02]),
        repetition_penalty: random.pick(&[1.0, 1.0, 1.1]),
        code_temperature: None,
    }
}

/// Sampled tokens compared, and those with other bits in training.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    pub tokens: usize,
    pub differing: usize,
    /// What the engines did meanwhile.
    pub preemptions: u64,
    pub cached_tokens: u64,
    pub cached_images: u64,
    pub accepted_tokens: u64,
    pub overlapped_steps: u64,
}

/// Recomputes the records' log-probs as training does, in random packs.
pub fn compare_with_training(policy: &SmallPolicy, engine: &Engine, records: &[Record], seed: u64) -> Compared {
    let mut random = Random::new(seed);
    let mut compared = Compared::default();
    let mut rest = records;
    while !rest.is_empty() {
        let (records, behind) = rest.split_at((1 + random.below(6)).min(rest.len()));
        rest = behind;
        let settings = learner_settings(&policy.processor, random.one_in(2));
        let samples: Vec<Sample> = records.iter().map(|record| sample(record, engine)).collect();
        let pack = Pack::new(&samples.iter().collect::<Vec<_>>(), Layout::of(&policy.processor));
        let sampled: Vec<&Sampled> = records.iter().flat_map(Record::sampled).collect();
        if sampled.is_empty() {
            continue;
        }
        // Log-probs of tokens sampled at 0 are those at 1.
        let temperature = |token: &&Sampled| if token.temperature == 0.0 { 1.0 } else { token.temperature };
        let temperatures: Vec<f32> = sampled.iter().map(temperature).collect();
        let found = logprobs(&policy.model, &policy.weights, &pack, &temperatures, &settings);
        assert_eq!(pack.targets.len(), sampled.len());
        for (i, token) in sampled.iter().enumerate() {
            assert_eq!(pack.targets[i], token.id);
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits();
            let is_same = same(found.logprob[i], token.logprob)
                && same(found.logprob_at_temperature[i], token.logprob_at_temperature)
                && same(found.entropy[i], token.entropy);
            compared.tokens += 1;
            compared.differing += usize::from(!is_same);
        }
    }
    compared
}

pub fn learner_settings(processor: &Processor, freeze_vision_tower: bool) -> LearnerSettings {
    let image = processor.image_settings();
    LearnerSettings {
        optimizer: OptimizerSettings::default(),
        freeze_vision_tower,
        freeze_merger: false,
        activation_recompute: false,
        pixel_scale: PixelScale { mean: image.mean, std: image.std },
    }
}

/// A record as the learner takes it.
pub fn sample(record: &Record, engine: &Engine) -> Sample {
    let image = |image: &Arc<PreparedImage>| SampleImage {
        prepared: image.clone(),
        unmerged_features: engine.unmerged_features(image),
    };
    Sample {
        ids: record.ids.clone(),
        trained: record.sampled.iter().map(Option::is_some).collect(),
        images: record.images.iter().map(image).collect(),
    }
}
