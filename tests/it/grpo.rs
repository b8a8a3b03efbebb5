//! GRPO's updates against TRL's on the same completions, and what a run of GRPO logs, counts and writes. What the golden file holds, and
//! how it was made: `tests/golden/grpo/README.md`.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::Sampled;
use thyme_engine::ops::Backend;
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::prompt::{ImageSettings, Prompt};
use thyme_engine::recipe::optimizer::OptimizerSettings;
use thyme_engine::recipe::{GrpoSettings, LossType};
use thyme_engine::rollout::Group;
use thyme_engine::rollout::reward::Score;
use thyme_engine::rollout::reward_set::Scores;
use thyme_engine::rollout::trajectory::{End, Trajectory};
use thyme_engine::tasks::jsonl::{NeedleFile, write_needle};
use thyme_engine::tasks::needle::{Mixture, Split};
use thyme_engine::train::batch::Batch;
use thyme_engine::train::learner::{Learner, LearnerSettings};
use thyme_engine::train::policy::{Measured, Policy, PolicySettings};
use thyme_engine::train::sample::Layout;

use crate::support::command::{Workplace, refuse, succeed, train};
use crate::support::small_policy::load;

/// Of a loss, a divergence and a share, absolute; of a gradient norm, relative. Float32 takes 4e-7 of it.
const TOLERANCE: f64 = 1e-5;

// ---- updates ----

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
    temperature: f32,
    max_completion_length: usize,
    learning_rates: Vec<f64>,
    adam_beta1: f32,
    adam_beta2: f32,
    adam_epsilon: f32,
    weight_decay: f32,
    max_grad_norm: f64,
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
}

#[derive(Deserialize)]
struct Case {
    loss_type: LossType,
    beta: f64,
    scale_rewards: bool,
    kl_zero_temperature_tokens: bool,
    updates: Vec<GoldenUpdate>,
}

#[derive(Deserialize)]
struct GoldenUpdate {
    loss: f64,
    kl: Option<f64>,
    clip_low: f64,
    clip_high: f64,
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
                entropy: f32::NAN,
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

    fn policy(&self, case: &Case, grpo: GrpoSettings, backend: Arc<dyn Backend>) -> Policy {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model").join(&self.checkpoint);
        let (model, weights) = load(&folder, backend.clone());
        let reference = (case.beta > 0.0).then(|| load(&folder, backend).1);
        let layout = Layout { merge: model.config.merge(), image_pad: model.config.image_pad };
        let image = ImageSettings::default();
        let settings = LearnerSettings {
            optimizer: OptimizerSettings {
                adam_beta1: self.settings.adam_beta1,
                adam_beta2: self.settings.adam_beta2,
                adam_epsilon: self.settings.adam_epsilon,
                weight_decay: self.settings.weight_decay,
                max_grad_norm: self.settings.max_grad_norm,
                ..OptimizerSettings::default()
            },
            freeze_vision_tower: true,
            freeze_merger: true,
            activation_recompute: false,
            pixel_scale: PixelScale { mean: image.mean, std: image.std },
        };
        let settings = (
            Learner::new(model, weights, settings),
            PolicySettings {
                grpo,
                completion_tokens_max: self.settings.max_completion_length,
                // Several packs a batch.
                micro_batch_tokens: 64,
                layout,
            },
        );
        Policy { learner: settings.0, reference, settings: settings.1 }
    }
}

impl Case {
    fn settings(&self, golden: &Settings, filter_zero_advantage: bool) -> GrpoSettings {
        GrpoSettings {
            beta: self.beta,
            epsilon: golden.epsilon,
            epsilon_high: Some(golden.epsilon_high),
            loss_type: self.loss_type,
            scale_rewards: self.scale_rewards,
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
        ("clip low", found.clip_low, wanted.clip_low),
        ("clip high", found.clip_high, wanted.clip_high),
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
    assert_eq!(golden.cases.len(), 12);
    for case in &golden.cases {
        for filter in [true, false] {
            let settings = case.settings(&golden.settings, filter);
            let zero = case.kl_zero_temperature_tokens;
            let what = format!("{:?} beta {} KL at temperature 0 {zero} filter {filter}", case.loss_type, case.beta);
            let batch = Batch::new(&groups, &scores, &settings, &|_| None);
            assert_eq!((batch.groups_without_signal, batch.groups_left_out), (2, 2 * usize::from(filter)), "{what}");
            let mut policy = golden.policy(case, settings, Arc::new(Cpu::new()));
            let rates = &golden.settings.learning_rates;
            let learned = policy.learn(&batch, rates, |learner| assert!(learner.gradients().is_some()));
            assert_eq!([learned.updates.len(), case.updates.len()], [rates.len(); 2], "each iteration is measured");
            for (found, wanted) in learned.updates.iter().zip(&case.updates) {
                assert_near(found, wanted, &what);
            }
            let mean = learned.updates.iter().map(|update| update.loss).sum::<f64>() / rates.len() as f64;
            assert_eq!(learned.mean(|update| update.loss), mean);
        }
    }
}

// ---- runs ----

/// The lines of `metrics.jsonl` of the steps, evaluations left out.
fn lines(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("learning_rate").is_some()).collect()
}

fn steps(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["step"].as_u64().unwrap()).collect()
}

fn values(lines: &[Value], name: &str) -> Vec<Option<f64>> {
    let value = |line: &Value| line.get(name).unwrap_or_else(|| panic!("{name} is not logged: {line}")).as_f64();
    lines.iter().map(value).collect()
}

const NEEDLE: &str = "[evaluation]\ntasks = 0\n[data.needle]\n";

#[test]
fn a_step_with_nothing_to_learn_logs_null_and_the_third_warns() {
    let place = Workplace::new();
    let recipe = place.grpo(NEEDLE);
    let run = place.path("runs/run");
    let settings =
        ["--set", "grpo.beta=0.0", "--set", "grpo.filter_zero_advantage=true", "--set", "training.max_steps=3"];
    let said = succeed(train(&recipe, &settings));
    let found = lines(&run);
    for name in ["loss", "kl", "entropy", "clip_ratio", "clip_ratio/low_mean", "clip_ratio/high_mean", "grad_norm"] {
        assert_eq!(values(&found, name), [None; 3], "{name}");
    }
    assert_eq!(values(&found, "frac_reward_zero_std"), [Some(1.0); 3]);
    assert_eq!(values(&found, "groups_left_out"), [Some(2.0); 3]);
    assert_eq!(said.matches("warning: nothing could be learned in the last 3 steps").count(), 1, "{said}");
    assert!(said.contains("2 of 2 groups had no two different rewards"), "{said}");

    // Whether groups teach is counted without the filter too; there is an entropy then, and no gradient.
    let unfiltered = ["--overwrite", "--set", "grpo.beta=0.0", "--set", "training.max_steps=3"];
    let said = succeed(train(&recipe, &unfiltered));
    assert_eq!(values(&lines(&run), "frac_reward_zero_std"), [Some(1.0); 3]);
    assert_eq!(values(&lines(&run), "groups_left_out"), [Some(0.0); 3]);
    assert_eq!((values(&lines(&run), "loss"), values(&lines(&run), "grad_norm")), (vec![None; 3], vec![None; 3]));
    assert!(values(&lines(&run), "entropy").iter().all(Option::is_some));
    assert!(said.contains("warning: nothing could be learned"), "{said}");

    // A divergence can be learned.
    let said = succeed(train(&recipe, &["--overwrite", "--set", "training.max_steps=3"]));
    assert!(!said.contains("warning"), "{said}");
    for name in ["loss", "kl", "grad_norm", "advantage/min", "advantage/mean", "advantage/max", "reward_std"] {
        assert!(values(&lines(&run), name).iter().all(Option::is_some), "{name}");
    }
    for (least, mean, most) in [
        ("completion_tokens/min", "completion_tokens", "completion_tokens/max"),
        ("num_turns/min", "num_turns", "num_turns/max"),
    ] {
        let found = lines(&run);
        let [least, mean, most] = [least, mean, most].map(|name| values(&found, name));
        assert!((0..3).all(|i| least[i] > Some(0.0) && least[i] <= mean[i] && mean[i] <= most[i]), "{found:?}");
    }
    for name in ["tool_call_counts", "tool_images"] {
        let found = lines(&run);
        for name in [format!("{name}/min"), name.to_owned(), format!("{name}/max")] {
            assert!(values(&found, &name).iter().all(|value| *value >= Some(0.0)), "{name}: {found:?}");
        }
    }
}

#[test]
fn a_run_folder_says_with_which_versions_it_was_made() {
    for method in ["sft", "grpo"] {
        let place = Workplace::new();
        let recipe = if method == "sft" { place.sft("[data.needle]\n") } else { place.grpo(NEEDLE) };
        succeed(train(&recipe, &["--set", "training.max_steps=1"]));
        let text = std::fs::read_to_string(place.path("runs/run/versions.json")).unwrap();
        let versions: Value = serde_json::from_str(&text).unwrap();
        assert!(versions["thyme-engine"].is_string(), "{text}");
        for name in ["python", "numpy", "opencv", "pillow"] {
            assert_eq!(versions[name].is_string(), method == "grpo", "{name}: {text}");
        }
    }
}

#[test]
fn both_methods_log_averages_over_a_window_and_the_last_step() {
    for method in ["sft", "grpo"] {
        let (each, some) = (Workplace::new(), Workplace::new());
        let recipe = |place: &Workplace| match method {
            "sft" => place.sft("[data.needle]\n"),
            _ => place.grpo(NEEDLE),
        };
        let steps_of_run = ["--set", "training.max_steps=5"];
        succeed(train(&recipe(&each), &steps_of_run));
        succeed(train(&recipe(&some), &[&steps_of_run[..], &["--set", "training.logging_steps=3"]].concat()));
        let (all, windows) = (lines(&each.path("runs/run")), lines(&some.path("runs/run")));
        assert_eq!((steps(&all), steps(&windows)), (vec![1, 2, 3, 4, 5], vec![3, 5]), "{method}");
        for name in ["loss", "grad_norm", "trained_tokens"] {
            let each: Vec<f64> = values(&all, name).into_iter().flatten().collect();
            let wanted = [(each[0] + each[1] + each[2]) / 3.0, (each[3] + each[4]) / 2.0];
            assert_eq!(values(&windows, name), wanted.map(Some), "{method} {name}");
        }
        let rates = values(&all, "learning_rate");
        assert_eq!(values(&windows, "learning_rate"), [rates[2], rates[4]], "{method}");
        let means = |name| (values(&all, name), values(&windows, name));
        if method == "grpo" {
            let (each, window) = means("completion_tokens/max");
            let most = |values: &[Option<f64>]| values.iter().copied().flatten().reduce(f64::max);
            assert_eq!(window, [most(&each[..3]), most(&each[3..])]);
        }
    }
}

/// Lines without what depends on the clock.
fn timeless(lines: Vec<Value>) -> Vec<Value> {
    let depends_on_time = |key: &str| key.contains("second") || key.starts_with("engine/");
    let strip = |mut line: Value| {
        line.as_object_mut().unwrap().retain(|key, _| !depends_on_time(key));
        line
    };
    lines.into_iter().map(strip).collect()
}

#[test]
fn a_window_that_a_checkpoint_cuts_goes_on_in_the_resumed_run() {
    for method in ["sft", "grpo"] {
        let place = Workplace::new();
        let recipe = if method == "sft" { place.sft("[data.needle]\n") } else { place.grpo(NEEDLE) };
        let run = place.path("runs/run");
        let settings = ["--set", "training.max_steps=6", "--set", "training.logging_steps=4", "--set"];
        let settings = [&settings[..], &["training.save_total_limit=0"]].concat();
        succeed(train(&recipe, &settings));
        let calm = timeless(lines(&run));
        assert_eq!(steps(&calm), [4, 6]);
        // As if it had been killed in the first window, then in the second.
        for last in [2, 5] {
            for step in last + 1..=6 {
                std::fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
            }
            succeed(train(&recipe, &[&settings[..], &["--resume"]].concat()));
            assert_eq!(timeless(lines(&run)), calm, "{method} resumed after step {last}");
        }
        // The last line's window goes on where a run gets more steps.
        let more = ["--resume", "--set", "training.max_steps=8", "--set", "training.logging_steps=4"];
        succeed(train(&recipe, &more));
        assert_eq!(steps(&lines(&run)), [4, 6, 8], "{method}");
    }
}

#[test]
fn some_rollouts_of_each_step_are_written_as_pages() {
    let place = Workplace::new();
    let recipe = place.grpo(NEEDLE);
    let pages = || {
        let mut names: Vec<String> = std::fs::read_dir(place.path("runs/run/samples"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".md"))
            .collect();
        names.sort();
        names
    };
    succeed(train(&recipe, &["--set", "training.max_steps=2"]));
    assert!(pages().is_empty(), "{:?}", pages());
    let settings = ["--overwrite", "--set", "training.max_steps=2", "--set", "training.log_completions=3"];
    succeed(train(&recipe, &settings));
    let wanted = ["step-1-0-0.md", "step-1-0-1.md", "step-1-1-0.md", "step-2-0-0.md", "step-2-0-1.md", "step-2-1-0.md"];
    assert_eq!(pages(), wanted);
    let page = std::fs::read_to_string(place.path("runs/run/samples/step-2-1-0.md")).unwrap();
    assert!(page.contains("| reward | ") && page.contains("**question**"), "{page}");
    succeed(train(&recipe, &["--overwrite", "--set", "training.max_steps=2"]));
    assert!(pages().is_empty(), "a run that starts anew keeps no page of the one before: {:?}", pages());
}

#[test]
fn a_recipe_counts_epochs_as_well_as_steps() {
    let place = Workplace::new();
    for (name, kind) in
        [("tasks", NeedleFile::Tasks(None)), ("demonstrations", NeedleFile::Samples(Mixture::DEMONSTRATIONS))]
    {
        write_needle(&place.path(name), kind, 5, Split::Train, 7).unwrap();
    }
    let run = place.path("runs/run");
    for (method, recipe) in [
        ("sft", place.sft("[data]\nfiles = [\"demonstrations/data.jsonl\"]\n")),
        ("grpo", place.grpo("[evaluation]\ntasks = 0\n[data]\nfiles = [\"tasks/data.jsonl\"]\n")),
    ] {
        let own = std::fs::read_to_string(&recipe).unwrap();
        let without_steps = own.replace("max_steps = 12\n", "").replace("max_steps = 6\n", "");
        assert_ne!(own, without_steps);
        std::fs::write(&recipe, without_steps).unwrap();
        // Two examples a step: one pass over five takes three steps, two take five, a fifth takes half of one.
        for (settings, wanted) in [
            (&["training.num_train_epochs=1"][..], 3),
            (&["training.num_train_epochs=2.0"], 5),
            (&["training.num_train_epochs=0.2"], 1),
            (&["training.num_train_epochs=2", "training.max_steps=4"], 4),
            (&["training.num_train_epochs=1", "training.max_steps=4"], 3),
        ] {
            let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
            succeed(train(&recipe, &[&["--overwrite"], &settings[..]].concat()));
            assert_eq!(lines(&run).len(), wanted, "{method} {settings:?}");
            assert!(run.join(format!("checkpoint-{wanted}")).exists());
        }
        let refused = refuse(train(&recipe, &["--set", "training.num_train_epochs=0"]));
        assert!(refused.contains("`training.num_train_epochs` is 0: give a number above 0"), "{refused}");
    }
    let refused = refuse(train(&place.grpo(NEEDLE), &["--set", "training.num_train_epochs=1"]));
    assert!(refused.contains("`training.num_train_epochs` is 1: the built-in task has no end"), "{refused}");
    let refused = refuse(train(
        &place.grpo(NEEDLE),
        &["--set", "grpo.beta=0.0", "--set", "grpo.kl_zero_temperature_tokens=true"],
    ));
    assert!(refused.contains("`grpo.kl_zero_temperature_tokens` is true: there is no KL"), "{refused}");
}
