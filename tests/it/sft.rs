//! Supervised fine-tuning: the loss masks of five systems against labels and losses that transformers gives (how they were made:
//! `tests/golden/sft/README.md`), samples cut to a length, files with weights, and packing.

use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde::Deserialize;
use serde_json::{Value, json};
use thyme_engine::cpu::Cpu;
use thyme_engine::prompt::Processor;
use thyme_engine::recipe::{DataSettings, DataSource, Method, SftSettings, TrainTurns};
use thyme_engine::tasks::{Example, Message, Role};
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::demonstration::sample;
use thyme_engine::train::learner::{Learner, LearnerSettings};
use thyme_engine::train::loss_mask::LossMask;
use thyme_engine::train::max_length::truncate;
use thyme_engine::train::sample::{Layout, Sample};
use thyme_engine::train::sft::accumulate;
use thyme_engine::train::sources::Shares;

use crate::support::command::{Workplace, assert_names, refuse, succeed, train};
use crate::support::small_policy::{learner_settings, load};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

// ---- masks ----

#[derive(Deserialize)]
struct Golden {
    checkpoint: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    settings: SftSettings,
    messages: Vec<Message>,
    image_sizes: Vec<(u32, u32)>,
    token_ids: Vec<u32>,
    labels: Vec<i64>,
    loss: f64,
    grad_norm: f64,
}

fn picture(number: u32, (width, height): (u32, u32)) -> RgbImage {
    let level = |x: u32, y: u32, c: u32| (7 * x + 13 * y + x * y + 61 * c + 29 * number) as u8;
    RgbImage::from_fn(width, height, |x, y| Rgb([level(x, y, 0), level(x, y, 1), level(x, y, 2)]))
}

impl Case {
    fn example(&self) -> Example {
        let images = (0..).zip(&self.image_sizes).map(|(number, &size)| picture(number, size)).collect();
        Example { messages: self.messages.clone(), images, solution: None, question: None, tools: None }
    }
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/sft/masks.json")).unwrap()
}

/// A learner of the language model alone.
fn learner(checkpoint: &Path, processor: &Processor) -> Learner {
    let (model, weights) = load(checkpoint, Arc::new(Cpu::new()));
    Learner::new(model, weights, LearnerSettings { freeze_merger: true, ..learner_settings(processor, true) })
}

#[test]
fn tokens_masks_and_losses_of_every_system_are_those_of_transformers() {
    let Golden { checkpoint, cases } = golden();
    let checkpoint = folder(&checkpoint);
    let processor = Processor::open(&checkpoint).unwrap();
    assert_eq!(cases.len(), 6);
    for case in &cases {
        let sample = sample(&processor, &case.example(), LossMask::of(&case.settings)).unwrap();
        assert_eq!(sample.ids, case.token_ids, "{}", case.name);
        let learned: Vec<bool> = case.labels.iter().map(|&label| label >= 0).collect();
        // The first token has nothing that it could be predicted from.
        assert_eq!(sample.trained[1..], learned[1..], "{}", case.name);
        let mut learner = learner(&checkpoint, &processor);
        let loss = accumulate(&mut learner, &[sample], Layout::of(&processor), 4096);
        assert!((loss - case.loss).abs() < 1e-4, "{}: {loss}, not {}", case.name, case.loss);
        let norm = learner.update(0.0).grad_norm / case.grad_norm;
        assert!((norm - 1.0).abs() < 1e-3, "{}: the gradient's norm is {norm} times that of transformers", case.name);
    }
}

#[test]
fn a_choice_of_turns_beside_all_tokens_is_refused() {
    let place = Workplace::new();
    let recipe = place.sft("[data.needle]\n[sft]\ntrain_turns = \"last\"\ntrain_tokens = \"all\"\n");
    assert_names(&refuse(train(&recipe, &["--dry-run"])), &["`sft.train_tokens`", "`sft.train_turns`"]);
}

// ---- length ----

/// The sample of the golden conversation in one message: two pictures, the second in an observation.
fn long_sample() -> (Processor, Sample) {
    let Golden { checkpoint, cases } = golden();
    let processor = Processor::open(&folder(&checkpoint)).unwrap();
    let case = cases.iter().find(|case| case.name == "Thyme").unwrap();
    let sample = sample(&processor, &case.example(), TrainTurns::All).unwrap();
    (processor, sample)
}

/// At every length: the longest beginning that leaves every picture whole, with the pictures that stand in it.
#[test]
fn a_sample_is_cut_behind_the_last_whole_token_outside_images() {
    let (processor, whole) = long_sample();
    let special = processor.special_ids();
    // Where a cut falls within a picture: behind its <|vision_start|>, up to before its <|vision_end|>.
    let mut is_inside = vec![false; whole.ids.len() + 1];
    let mut pictures_before = vec![0; whole.ids.len() + 1];
    for (place, &id) in whole.ids.iter().enumerate() {
        let opened = id == special.vision_start || (is_inside[place] && id != special.vision_end);
        is_inside[place + 1] = opened;
        pictures_before[place + 1] = pictures_before[place] + usize::from(id == special.vision_end);
    }
    assert_eq!(is_inside.iter().filter(|inside| **inside).count(), (1 + 8) + (1 + 6), "two pictures");
    for limit in 0..whole.ids.len() + 2 {
        let mut cut = whole.clone();
        truncate(&mut cut, limit, &processor);
        let end = (0..=limit.min(whole.ids.len())).rev().find(|&end| !is_inside[end]).unwrap();
        assert_eq!(cut.ids, whole.ids[..end], "at {limit}");
        assert_eq!(cut.trained, whole.trained[..end]);
        assert_eq!(cut.images.len(), pictures_before[end]);
    }
}

fn demonstration(question: &str, response: &str) -> String {
    json!({"image": [], "question": question, "response": response}).to_string()
}

fn metrics(place: &Workplace, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[name].clone()).collect()
}

fn weights(place: &Workplace, step: u64) -> Vec<u8> {
    std::fs::read(place.path(&format!("runs/run/checkpoint-{step}/model.safetensors"))).unwrap()
}

const FILES: &str = "[data]\nfiles = [\"data.jsonl\"]\nshuffle = false\n";

#[test]
fn samples_that_are_too_long_are_left_out_by_name_or_cut() {
    let place = Workplace::new();
    let short = demonstration("What?", "one");
    let long = demonstration("What?", &"many words ".repeat(100));
    let late = demonstration(&"many words ".repeat(100), "one");
    place.write("data.jsonl", [short, long, late].join("\n"));
    let recipe = place.sft(&format!("[sft]\nmax_length = 60\n{FILES}"));
    let steps = ["--set", "training.max_steps=3", "--set", "training.batch_size=1"];
    let said = succeed(train(&recipe, &steps));
    assert_names(&said, &["left out at step 2: ", "data.jsonl:2 ", "`sft.max_length` is 60", "left out at step 3: "]);
    assert_eq!(metrics(&place, "left_out"), [0.0, 1.0, 2.0]);

    let cut = ["--overwrite", "--set", "sft.max_length_action=truncate"];
    let said = succeed(train(&recipe, &[&steps[..], &cut].concat()));
    assert_eq!(metrics(&place, "left_out"), [0.0, 0.0, 1.0]);
    assert_eq!(metrics(&place, "tokens")[1], 60.0);
    assert_names(&said, &["left out at step 3: ", "data.jsonl:3 ", "hold none that is learned"]);
    let checked = refuse(train(&recipe, &["--dry-run", "--check-data", "--set", "sft.max_length_action=truncate"]));
    assert_names(&checked, &["data.jsonl:3 ", "1 of 3 rows"]);

    let missing = place.sft(&format!("[sft]\nmax_length_action = \"truncate\"\n{FILES}"));
    assert_names(&refuse(train(&missing, &["--dry-run"])), &["`sft.max_length_action`", "give `sft.max_length`"]);
    let tiny = place.sft(&format!("[sft]\nmax_length = 1\n{FILES}"));
    assert_names(&refuse(train(&tiny, &["--dry-run"])), &["`sft.max_length` is 1"]);
}

// ---- sources ----

#[test]
fn sources_are_drawn_by_their_shares_and_each_in_its_own_order() {
    let weights = [5.0, 3.0, 1.5, 0.5];
    let total: f64 = weights.iter().sum();
    let orders: Vec<Vec<usize>> = [1, 2]
        .map(|seed| {
            let shares = Shares::new(&weights, seed);
            let mut drawn = [0u64; 4];
            (0..4000u64)
                .map(|number| {
                    let (source, place) = shares.place(number);
                    assert_eq!(place, drawn[source], "draw {number} of seed {seed} takes its source's next");
                    drawn[source] += 1;
                    for (source, weight) in weights.iter().enumerate() {
                        let due = (number + 1) as f64 * weight / total;
                        assert!((drawn[source] as f64 - due).abs() <= 1.0 + source as f64, "after {number}: {drawn:?}");
                    }
                    source
                })
                .collect()
        })
        .into();
    assert_ne!(orders[0], orders[1], "the seed decides where the sources begin");
    let far = Shares::new(&weights, 1);
    let (before, after) = ((1u64 << 40)..(1u64 << 40) + 100, far.place(1 << 40));
    assert!(before.map(|number| far.place(number)).filter(|place| place.0 == after.0).count() > 1);
}

fn source(place: &Workplace, name: &str, weight: f64) -> DataSource {
    DataSource { files: vec![place.path(name)], weight }
}

#[test]
fn each_source_goes_through_its_lines_once_an_epoch() {
    let place = Workplace::new();
    let lines = |name: &str, count: usize| {
        let rows: Vec<String> = (0..count).map(|row| demonstration(&format!("{name} {row}"), "yes")).collect();
        place.write(&format!("{name}.jsonl"), rows.join("\n"));
    };
    lines("a", 7);
    lines("b", 5);
    let data = DataSettings {
        sources: vec![source(&place, "a.jsonl", 3.0), source(&place, "b.jsonl", 1.0)],
        ..DataSettings::default()
    };
    let dataset = Dataset::open(&data, Method::Sft, 9).unwrap();
    assert_eq!(dataset.len(), Some(12));
    let asked: Vec<String> = (0..400).map(|number| dataset.example(number).unwrap().question.unwrap()).collect();
    for (name, lines, draws) in [("a", 7, 300), ("b", 5, 100)] {
        let of_source: Vec<&String> = asked.iter().filter(|question| question.starts_with(name)).collect();
        assert!(of_source.len().abs_diff(draws) <= 1, "{name}: {}", of_source.len());
        let epochs: Vec<Vec<&String>> = of_source.chunks_exact(lines).map(|epoch| epoch.to_vec()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), lines, "{epoch:?}");
        }
        assert_ne!(epochs[0], epochs[1], "each epoch has an order of its own");
    }
    let name = dataset.name_of(0);
    assert!(name.contains(".jsonl:"), "{name}");
    let again = Dataset::open(&data, Method::Sft, 9).unwrap();
    assert!((0..400).all(|number| again.name_of(number) == dataset.name_of(number)));
}

#[test]
fn a_run_over_sources_resumes_to_the_same_bits_and_says_where_a_line_stands() {
    let sources = "[[data.sources]]\nfiles = [\"a.jsonl\"]\nweight = 3.0\n[[data.sources]]\nfiles = [\"b/b.jsonl\"]\n";
    let (calm, resumed) = (Workplace::new(), Workplace::new());
    for place in [&calm, &resumed] {
        place.write("a.jsonl", ["one", "two", "three"].map(|word| demonstration("What?", word)).join("\n"));
        let unusable = json!({"image": ["none.png"], "question": "<image>What?", "response": "four"}).to_string();
        place.write("b/b.jsonl", format!("{}\n{unusable}", demonstration("Which?", "five")));
    }
    let recipes = [&calm, &resumed].map(|place| place.sft(sources));
    let constant = |steps: &'static str| ["--set", "optimizer.lr_scheduler_type=constant", "--set", steps];
    let said = succeed(train(&recipes[0], &constant("training.max_steps=8")));
    assert!(said.contains("b/b.jsonl:2 "), "{said}");
    succeed(train(&recipes[1], &constant("training.max_steps=3")));
    succeed(train(&recipes[1], &[&constant("training.max_steps=8")[..], &["--resume"]].concat()));
    assert!(weights(&calm, 8) == weights(&resumed, 8));
    assert_eq!(metrics(&calm, "loss"), metrics(&resumed, "loss"));

    for (settings, parts) in [
        (&["training.num_train_epochs=2"][..], &["`training.num_train_epochs`", "`training.max_steps`"][..]),
        (&["data.files=[\"a.jsonl\"]"], &["`data.sources`", "`data.files`"]),
        (&["data.sources=[{files = [\"a.jsonl\"], weight = 0.0}]"], &["the weight of data.sources", "above 0"]),
        (&["data.sources=[{weight = 1.0}]"], &["`data.sources`", "without `files`"]),
        (&["data.sources=[{files = [\"a.jsonl\"], wieght = 1.0}]"], &["did you mean `weight`?"]),
    ] {
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        assert_names(&refuse(train(&recipes[0], &[&settings[..], &["--dry-run"]].concat())), parts);
    }
}

// ---- packing ----

/// Samples of two sources, some cut, in packs of any size: the same loss, and the same gradient up to the order of sums.
#[test]
fn how_samples_are_packed_changes_neither_loss_nor_gradient() {
    let Golden { checkpoint, cases } = golden();
    let checkpoint = folder(&checkpoint);
    let processor = Processor::open(&checkpoint).unwrap();
    let shares = Shares::new(&[2.0, 1.0], 3);
    let draws = (0..6).map(|number| {
        let (source, place) = shares.place(number);
        let mut drawn = match source {
            0 => {
                let case = &cases[place as usize % cases.len()];
                sample(&processor, &case.example(), LossMask::of(&case.settings)).unwrap()
            }
            _ => {
                let messages = vec![Message::new(Role::User, "What?"), Message::new(Role::Assistant, "It is 7.")];
                let example = Example { messages, images: Vec::new(), solution: None, question: None, tools: None };
                sample(&processor, &example, TrainTurns::All).unwrap()
            }
        };
        truncate(&mut drawn, 130, &processor);
        drawn
    });
    let samples: Vec<Sample> = draws.collect();
    assert!(
        samples.iter().any(|sample| sample.tokens() == 130) && samples.iter().any(|sample| sample.images.is_empty())
    );
    let learn = |micro_batch_tokens: usize| {
        let mut learner = learner(&checkpoint, &processor);
        let loss = accumulate(&mut learner, &samples, Layout::of(&processor), micro_batch_tokens);
        let backend = learner.model().backend.clone();
        let gradient: Vec<f32> =
            learner.gradients().unwrap().iter().flatten().flat_map(|tensor| backend.to_f32(tensor)).collect();
        (loss, gradient)
    };
    let norm = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let (loss, gradient) = learn(1);
    for micro_batch_tokens in [150, 300, 4096] {
        let (packed_loss, packed) = learn(micro_batch_tokens);
        assert!((packed_loss - loss).abs() < 1e-12, "{packed_loss} in packs of {micro_batch_tokens}, {loss} alone");
        let difference: Vec<f32> = packed.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        assert!(norm(&difference) <= 1e-5 * norm(&gradient), "{} of {}", norm(&difference), norm(&gradient));
    }
}
