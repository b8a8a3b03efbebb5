//! Direct preference optimisation against TRL on the same pairs, its derivative against differences, rows of preferences, and runs. What the golden
//! file holds, and how it was made: `tests/golden/dpo/README.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use image::RgbImage;
use serde::Deserialize;
use serde_json::{Value, json};
use thyme_engine::model::parameters::Weights;
use thyme_engine::prompt::Processor;
use thyme_engine::recipe::{DpoSettings, Method, PreferenceLoss};
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::dpo::loss::{Answer, pair_loss};
use thyme_engine::train::dpo::pairs::{Pair, pair};
use thyme_engine::train::dpo::{Measured, accumulate};
use thyme_engine::train::flops::training_flops;
use thyme_engine::train::learner::Learner;
use thyme_engine::train::sample::{Layout, Pack, Sample};

use crate::support::command::{Workplace, assert_names, refuse, succeed, train};
use crate::support::golden_learner::{Adam, golden_learner, golden_model};

/// Of losses and metrics of a few units, and of a gradient norm as a share. A summed log-probability is about 60.
const TOLERANCE: f64 = 1e-4;

// ---- updates ----

#[derive(Deserialize)]
struct Golden {
    checkpoint: String,
    settings: Settings,
    pairs: Vec<GoldenPair>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Settings {
    learning_rates: Vec<f64>,
    #[serde(flatten)]
    adam: Adam,
}

#[derive(Deserialize)]
struct GoldenPair {
    prompt: Vec<u32>,
    chosen: Completion,
    rejected: Completion,
}

#[derive(Deserialize)]
struct Completion {
    token_ids: Vec<u32>,
    learned: Vec<u8>,
}

#[derive(Deserialize)]
struct Case {
    beta: f64,
    loss_type: PreferenceLoss,
    label_smoothing: f64,
    updates: Vec<GoldenUpdate>,
}

#[derive(Deserialize)]
struct GoldenUpdate {
    loss: f64,
    grad_norm: f64,
    metrics: BTreeMap<String, f64>,
}

/// A learner at the checkpoint's weights, the reference, and the layout of sequences.
struct Start {
    learner: Learner,
    reference: Weights,
    layout: Layout,
}

impl Golden {
    fn open() -> Golden {
        serde_json::from_str(include_str!("../golden/dpo/updates.json")).unwrap()
    }

    fn pairs(&self) -> Vec<Pair> {
        let sample = |prompt: &[u32], completion: &Completion| Sample {
            ids: [prompt, &completion.token_ids].concat(),
            trained: [vec![false; prompt.len()], completion.learned.iter().map(|&learned| learned == 1).collect()]
                .concat(),
            images: Vec::new(),
        };
        let pair = |pair: &GoldenPair| Pair {
            chosen: sample(&pair.prompt, &pair.chosen),
            rejected: sample(&pair.prompt, &pair.rejected),
        };
        self.pairs.iter().map(pair).collect()
    }

    fn start(&self) -> Start {
        let (learner, layout) = golden_learner(&self.checkpoint, &self.settings.adam);
        Start { learner, reference: golden_model(&self.checkpoint).1, layout }
    }
}

impl Case {
    fn settings(&self) -> DpoSettings {
        DpoSettings { beta: self.beta, loss_type: self.loss_type, label_smoothing: self.label_smoothing }
    }
}

impl Start {
    fn accumulate(&mut self, pairs: &[Pair], settings: &DpoSettings, micro_batch_tokens: usize) -> Measured {
        accumulate(&mut self.learner, &self.reference, pairs, settings, self.layout, micro_batch_tokens)
    }

    fn gradient(&self) -> Vec<f32> {
        let backend = &self.learner.model().backend;
        self.learner.gradients().unwrap().iter().flatten().flat_map(|tensor| backend.to_f32(tensor)).collect()
    }
}

#[test]
fn the_forward_of_the_reference_is_not_among_the_operations_of_an_update() {
    let golden = Golden::open();
    let (pairs, mut start) = (golden.pairs(), golden.start());
    let measured = start.accumulate(&pairs, &golden.cases[0].settings(), 1 << 20);
    assert!(measured.reference > Duration::ZERO);
    let samples: Vec<&Sample> = pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]).collect();
    let pack = Pack::new(&samples, start.layout);
    assert_eq!(start.learner.flops(), training_flops(start.learner.model(), &pack.batch));
    start.learner.update(1e-3);
    assert!(start.learner.optimizer_time() > Duration::ZERO);
}

#[test]
fn three_updates_of_each_loss_are_those_of_trl() {
    let golden = Golden::open();
    let pairs = golden.pairs();
    assert_eq!(golden.cases.len(), 3);
    for case in &golden.cases {
        let mut start = golden.start();
        for (update, &learning_rate) in case.updates.iter().zip(&golden.settings.learning_rates) {
            // Several packs a batch.
            let measured = start.accumulate(&pairs, &case.settings(), 64);
            let found = start.learner.update(learning_rate);
            let what = format!("{:?} with beta {}", case.loss_type, case.beta);
            let near = |name: &str, found: f64, wanted: f64| {
                let tolerance = TOLERANCE * wanted.abs().max(1.0);
                assert!((found - wanted).abs() <= tolerance, "{what}: {name} is {found}, not {wanted}");
            };
            near("the loss", measured.loss(), update.loss);
            near("the gradient's norm", found.grad_norm, update.grad_norm);
            let metrics = measured.metrics(case.beta);
            assert_eq!(metrics.len(), update.metrics.len());
            for (name, value) in metrics {
                near(name, value, update.metrics[name]);
            }
        }
    }
}

/// Each pair alone, in packs of some, all in one: the same loss to the bit, and the same gradient up to the order of sums.
#[test]
fn how_pairs_are_packed_changes_neither_loss_nor_gradient() {
    let golden = Golden::open();
    let pairs = golden.pairs();
    let norm = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    for case in &golden.cases {
        let mut alone = golden.start();
        let wanted = alone.accumulate(&pairs, &case.settings(), 1);
        for micro_batch_tokens in [64, 100, 4096] {
            let mut packed = golden.start();
            let measured = packed.accumulate(&pairs, &case.settings(), micro_batch_tokens);
            assert_eq!(measured.pairs, wanted.pairs, "in packs of {micro_batch_tokens}");
            let (a, b) = (packed.gradient(), alone.gradient());
            let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            assert!(norm(&difference) <= 1e-5 * norm(&b), "{} of {}", norm(&difference), norm(&b));
        }
    }
}

#[test]
fn the_derivative_of_each_loss_is_that_of_its_differences() {
    let settings = [
        DpoSettings::default(),
        DpoSettings { beta: 0.7, label_smoothing: 0.2, ..DpoSettings::default() },
        DpoSettings { beta: 0.3, loss_type: PreferenceLoss::Ipo, ..DpoSettings::default() },
    ];
    let answer = |logp, reference_logp, tokens| Answer { logp, reference_logp, tokens };
    for settings in settings {
        for (chosen, rejected) in [(-40.0, -38.0), (-30.0, -45.0), (-60.0, -31.0)] {
            let loss = |up: f64, down: f64| {
                pair_loss(&settings, answer(chosen + up, -41.5, 12), answer(rejected + down, -37.0, 7))
            };
            let h = 1e-5;
            let slope = |up: f64, down: f64| (loss(up, down).loss - loss(-up, -down).loss) / (2.0 * h);
            let here = loss(0.0, 0.0);
            for (found, wanted) in [(here.dchosen, slope(h, 0.0)), (here.drejected, slope(0.0, h))] {
                assert!((found - wanted).abs() <= 1e-7 * wanted.abs().max(1.0), "{settings:?}: {found}, not {wanted}");
            }
        }
    }
    // Far from the reference the loss grows without overflow.
    let far = pair_loss(&DpoSettings::default(), answer(-9000.0, -1.0, 5), answer(-1.0, -9000.0, 5));
    assert!((far.loss - 0.1 * 2.0 * 8999.0).abs() < 1e-6 && (far.dchosen + 0.1).abs() < 1e-12, "{far:?}");
}

// ---- rows ----

/// A folder with two pictures, and a recipe's lines for its rows.
fn gallery(rows: &[Value]) -> Workplace {
    let place = Workplace::new();
    RgbImage::new(112, 56).save(place.path("a.png")).unwrap();
    RgbImage::from_pixel(56, 56, image::Rgb([9, 200, 7])).save(place.path("b.png")).unwrap();
    place.write("data.jsonl", rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    place
}

fn dpo(place: &Workplace, more: &str) -> std::path::PathBuf {
    let recipe = place.sft(more);
    let text = std::fs::read_to_string(&recipe).unwrap();
    place.write("dpo.toml", text.replace("method = \"sft\"", "method = \"dpo\""))
}

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn open(place: &Workplace) -> Dataset {
    Dataset::from_files(&[place.path("data.jsonl")], Method::Dpo, None).unwrap()
}

fn text(processor: &Processor, sample: &Sample) -> [String; 2] {
    let learned: Vec<u32> = sample.targets().map(|place| sample.ids[place]).collect();
    [&sample.ids, &learned].map(|ids| processor.tokenizer().decode(ids, false))
}

#[test]
fn both_answers_stand_behind_the_prompt_and_only_their_own_words_are_learned() {
    let earlier = [said("user", "<image>\nWhat?"), said("assistant", "A plate."), said("user", "Which digit?")];
    let place = gallery(&[
        json!({"prompt": "<image>\nWhat?", "chosen": "A plate.", "rejected": "A cat.", "images": ["a.png"]}),
        json!({"messages": earlier, "images": ["a.png", "b.png"],
            "chosen": [said("assistant", "Look."), said("user", "Here.<image>"), said("assistant", "It is 7.")],
            "rejected": [said("assistant", "It is 3.")]}),
        json!({"prompt": [said("system", "Be kind."), said("user", "Hm?")], "chosen": [said("assistant", "Yes <image>.")],
            "rejected": "No.", "images": ["b.png"], "rejected_images": []}),
    ]);
    let (dataset, processor) = (open(&place), Processor::open(&place.path("model")).unwrap());
    let pairs: Vec<Pair> = (0..3).map(|number| pair(&dataset, &processor, 4096, number).unwrap()).collect();
    let texts: Vec<[[String; 2]; 2]> =
        pairs.iter().map(|pair| [text(&processor, &pair.chosen), text(&processor, &pair.rejected)]).collect();
    assert_eq!(texts[0][0][1], "A plate.<|im_end|>");
    assert_eq!(texts[0][1][1], "A cat.<|im_end|>");
    assert_eq!(
        texts[1][0][1], "Look.<|im_end|>It is 7.<|im_end|>",
        "not what stands in the prompt, nor what others say"
    );
    assert_eq!(texts[1][1][1], "It is 3.<|im_end|>");
    assert!(texts[1][1][0].contains("A plate.<|im_end|>\n<|im_start|>user\nWhich digit?"), "{}", texts[1][1][0]);
    assert_eq!([pairs[1].chosen.images.len(), pairs[1].rejected.images.len()], [2, 1], "the prompt's picture in both");
    assert_eq!([pairs[2].chosen.images.len(), pairs[2].rejected.images.len()], [1, 0]);
    // The prompt and its picture stand once in the pack of a pair.
    let pack = Pack::new(&[&pairs[1].chosen, &pairs[1].rejected], Layout::of(&processor));
    assert_eq!(pack.images.len(), 2);
    assert!(pack.batch.tokens() < pairs[1].tokens());
}

#[test]
fn a_row_that_is_no_preference_is_named_with_its_line_its_key_and_the_remedy() {
    let prompt = "What?";
    let cases: [(Value, &[&str]); 11] = [
        (json!({"prompt": prompt, "chosen": "a"}), &["data.jsonl:1", "`rejected`", "missing", "the answer's text"]),
        (json!({"prompt": prompt, "rejected": "a"}), &["`chosen`", "missing"]),
        (json!({"chosen": [said("user", "Hm?"), said("assistant", "a")], "rejected": "b"}), &["`prompt`", "missing"]),
        (json!({"prompt": prompt, "chosen": 7, "rejected": "a"}), &["`chosen`", "found a number"]),
        (
            json!({"prompt": prompt, "chosen": [said("user", "a")], "rejected": "b"}),
            &["`chosen`", "message of the user"],
        ),
        (
            json!({"prompt": [said("assistant", "a")], "chosen": "a", "rejected": "b"}),
            &["`prompt`", "ends with the assistant's"],
        ),
        (
            json!({"prompt": "<image>What?", "chosen": "a", "rejected": "b"}),
            &["`images`", "1 `<image>` placeholders for 0"],
        ),
        (
            json!({"prompt": "<image>What?", "chosen": "a", "rejected": "b<image>", "images": ["a.png"]}),
            &["`rejected_images`", "2 `<image>` placeholders for 1"],
        ),
        (
            json!({"prompt": prompt, "messages": [said("user", "a")], "chosen": "a", "rejected": "b"}),
            &["`prompt`", "beside"],
        ),
        (json!({"prompt": prompt, "chosen": "a", "rejected": "b", "margin": 2.0}), &["`margin`", "left unread"]),
        (json!({"question": "q", "response": "r"}), &["`prompt`", "missing; the row has `question`, `response`"]),
    ];
    for (row, parts) in cases {
        let place = gallery(std::slice::from_ref(&row));
        let error = Dataset::from_files(&[place.path("data.jsonl")], Method::Dpo, None).unwrap_err().to_string();
        assert_names(&error, parts);
    }
}

// ---- runs ----

fn rows(count: usize) -> Vec<Value> {
    (0..count)
        .map(|number| {
            let picture = ["a.png", "b.png"][number % 2];
            json!({"prompt": format!("<image>\nWhich digit, {number}?"), "chosen": format!("It is {number}."),
                "rejected": format!("No {number}."), "images": [picture]})
        })
        .collect()
}

const FILES: &str = "[data]\nfiles = [\"data.jsonl\"]\n";

fn metrics(place: &Workplace) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn weights(place: &Workplace, step: u64) -> Vec<u8> {
    std::fs::read(place.path(&format!("runs/run/checkpoint-{step}/model.safetensors"))).unwrap()
}

#[test]
fn a_run_learns_the_preference_and_resumes_to_the_same_bits() {
    let (calm, resumed) = (gallery(&rows(6)), gallery(&rows(6)));
    let recipes = [&calm, &resumed].map(|place| dpo(place, FILES));
    let constant = |steps: &'static str| ["--set", "optimizer.lr_scheduler_type=constant", "--set", steps];
    let said = succeed(train(&recipes[0], &constant("training.max_steps=12")));
    assert_names(&said, &["step 12/12", "margin", "accuracy", "reference"]);
    let logged = metrics(&calm);
    let value = |step: usize, name: &str| logged[step][name].as_f64().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(value(0, "rewards/margins"), 0.0, "the policy begins as the reference");
    assert!((value(0, "loss") - 2f64.ln()).abs() < 1e-9);
    assert!(value(11, "rewards/margins") > 0.0 && value(11, "rewards/accuracies") == 1.0 && value(11, "loss") < 0.69);
    assert!(value(3, "logps/chosen") < 0.0 && value(3, "logps/rejected") < 0.0);
    let shares = ["data", "reference", "update", "checkpoint", "other"];
    let shares = shares.map(|part| value(3, &format!("{part}_seconds/share")));
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9 && shares[1] > 0.0, "{shares:?}");
    succeed(train(&recipes[1], &constant("training.max_steps=5")));
    succeed(train(&recipes[1], &[&constant("training.max_steps=12")[..], &["--resume"]].concat()));
    assert!(weights(&calm, 12) == weights(&resumed, 12), "the reference of a resumed run is the starting weights");
    for name in ["loss", "rewards/chosen", "rewards/rejected", "logps/chosen"] {
        let of = |place: &Workplace| metrics(place).iter().map(|line| line[name].clone()).collect::<Vec<_>>();
        assert_eq!(of(&calm), of(&resumed), "{name}");
    }
}

#[test]
fn pairs_that_cannot_be_used_are_left_out_by_name_and_found_before_a_run() {
    let mut lines = rows(2);
    lines.push(json!({"prompt": "Same?", "chosen": "Yes.", "rejected": "Yes."}));
    lines.push(json!({"prompt": "Long?", "chosen": "many words ".repeat(4000), "rejected": "No."}));
    let place = gallery(&lines);
    let recipe = dpo(&place, &format!("{FILES}shuffle = false\n"));
    let said = succeed(train(&recipe, &["--set", "training.max_steps=2"]));
    assert_names(&said, &["left out at step 2: ", "data.jsonl:3 ", "both answers are the same", "data.jsonl:4 "]);
    let found = refuse(train(&recipe, &["--dry-run", "--check-data"]));
    assert_names(&found, &["data.jsonl:3 ", "data.jsonl:4 ", "2 of 4 rows"]);
}

#[test]
fn the_built_in_task_has_pairs_and_the_plan_counts_the_reference() {
    let place = gallery(&[]);
    let recipe = dpo(&place, "[data.needle]\n");
    let plan = succeed(train(&recipe, &["--dry-run"]));
    assert_names(&plan, &["reference (bf16)", "loss_type = \"sigmoid\""]);
    succeed(train(&recipe, &["--set", "training.max_steps=1"]));
    let first = &metrics(&place)[0];
    assert!(first["trained_tokens"].as_f64() > Some(0.0) && first["rewards/accuracies"] == 0.0);
}

#[test]
fn values_that_cannot_be_are_refused_with_a_remedy() {
    let place = gallery(&rows(2));
    let recipe = dpo(&place, FILES);
    for (setting, parts) in [
        ("dpo.beta=0", &["`dpo.beta` is 0", "above 0"][..]),
        ("dpo.label_smoothing=0.5", &["`dpo.label_smoothing` is 0.5", "below 0.5"]),
        ("dpo.loss_type=hinge", &["`sigmoid`", "`ipo`"]),
        ("dpo.betta=0.1", &["did you mean `beta`?"]),
    ] {
        assert_names(&refuse(train(&recipe, &["--dry-run", "--set", setting])), parts);
    }
    let smoothed = ["--set", "dpo.loss_type=ipo", "--set", "dpo.label_smoothing=0.1"];
    let said = refuse(train(&recipe, &[&["--dry-run"][..], &smoothed].concat()));
    assert_names(&said, &["`dpo.label_smoothing`", "only `dpo.loss_type = \"sigmoid\"`"]);
    let variant = dpo(&place, "[data.needle]\nvariant = \"small\"\n");
    assert_names(&refuse(train(&variant, &["--dry-run"])), &["`data.needle.variant`", "\"dpo\""]);
    let mixture = dpo(&place, "[data.needle]\nmixture = { look = 1.0 }\n");
    assert_names(&refuse(train(&mixture, &["--dry-run"])), &["`data.needle.mixture`"]);
}
