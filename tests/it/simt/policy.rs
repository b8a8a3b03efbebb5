//! Whole models on CUDA's kernels: one policy in sampler and trainer, and the CPU's numbers but for the precision of bf16.

use std::path::Path;
use std::sync::Arc;

use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::cpu::Cpu;
use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::{Architecture, Simt, SimtOptions};
use thyme_engine::ops::Backend;
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::recipe::optimizer::OptimizerSettings;
use thyme_engine::recipe::{LogprobKind, TrainTurns};
use thyme_engine::tasks::needle::{Kind, Split, example};
use thyme_engine::train::demonstration::sample;
use thyme_engine::train::learner::{Learner, LearnerSettings};
use thyme_engine::train::sample::{Layout, Pack, Sample};

use super::fast;
use crate::one_policy::play_policies;
use crate::ops::{gpu, gpu_only};
use crate::support::command::{Workplace, succeed, train};
use crate::support::small_policy::SmallPolicy;

/// A Qwen2-VL and a Qwen2.5-VL whose heads are as wide as the kernels want them.
fn policies(cuda: &Arc<Cuda>) -> [SmallPolicy; 2] {
    [SmallPolicy::open("qwen2_vl_tied_flat", cuda.clone()), SmallPolicy::of_recipe(cuda.clone())]
}

/// CUDA's kernels on the host, and on a GPU where there is one, each with its name for `--device`.
fn devices() -> impl Iterator<Item = (&'static str, Cuda)> {
    let host = (!gpu_only()).then(|| ("simt", fast()));
    host.into_iter().chain(gpu().map(|gpu| ("cuda", gpu)))
}

#[test]
fn sampler_and_trainer_agree_to_the_bit() {
    for (_, cuda) in devices() {
        let compared = play_policies(&policies(&Arc::new(cuda)), 600, 100);
        assert!(compared.tokens >= 600 && compared.overlapped_steps >= 10, "{compared:?}");
        assert_eq!(compared.differing, 0, "{compared:?}");
    }
}

/// The same on either architecture's tensor cores, for longer.
#[test]
#[ignore = "takes minutes; run: cargo test --release --test it one_policy_on_simt_long -- --ignored --nocapture"]
fn one_policy_on_simt_long() {
    for architecture in [Architecture::Sm80, Architecture::Sm90] {
        let options = SimtOptions { architecture, ..SimtOptions::fast() };
        let cuda = Cuda::new(Arc::new(Simt::new(options).unwrap()));
        let compared = play_policies(&policies(&Arc::new(cuda)), 20_000, 1_000);
        println!("{architecture:?}: {compared:?}");
        assert!(compared.tokens >= 20_000 && compared.overlapped_steps >= 400);
        assert_eq!(compared.differing, 0);
    }
}

/// One step of GRPO on the tiny model of the shipped recipe: two groups of four, pictures and code included.
#[test]
fn a_grpo_step_finds_the_log_probabilities_that_were_sampled() {
    let workplace = Workplace::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny-sft");
    let recipe = workplace.grpo("").with_file_name("step.toml");
    let text = format!(
        "method = \"grpo\"\nname = \"run\"\noutput_dir = {:?}\n[model]\npath = {model:?}\n[data.needle]\n\
         [training]\nmax_steps = 1\n[grpo]\nprompts_per_step = 2\nnum_generations = 4\nfilter_zero_advantage = false\n\
         [sampling]\ncode_temperature = 0.0\n[environment]\nmax_turn_tokens = 96\nmax_total_tokens = 192\n\
         [evaluation]\ntasks = 0\n",
        workplace.path("runs")
    );
    std::fs::write(&recipe, text).unwrap();
    for (device, _) in devices() {
        succeed(train(&recipe, &["--device", device, "--overwrite"]));
        expect_one_policy(&workplace.path("runs/run/metrics.jsonl"));
    }
}

fn expect_one_policy(metrics: &Path) {
    let metrics = std::fs::read_to_string(metrics).unwrap();
    let line: serde_json::Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert_eq!(line["mismatched_tokens"], 0.0, "{line}");
    assert!(line["grad_norm"].as_f64().unwrap() > 0.0, "{line}");
}

/// Log-probabilities of demonstrations of the tiny model, and their sum's gradient by each parameter.
fn learned(backend: Arc<dyn Backend>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny-sft");
    let checkpoint = Checkpoint::open(folder).unwrap();
    let processor = checkpoint.processor(None).unwrap();
    let model = checkpoint.model(backend.clone());
    let weights = checkpoint.weights(&model).unwrap();
    let demonstration = |i| sample(&processor, &example(Kind::Look, Split::Train, 1, i), TrainTurns::All).unwrap();
    let samples: Vec<Sample> = (0..2).map(demonstration).collect();
    let pack = Pack::new(&samples.iter().collect::<Vec<_>>(), Layout::of(&processor));
    let image = processor.image_settings();
    let settings = LearnerSettings {
        optimizer: OptimizerSettings::default(),
        freeze_vision_tower: false,
        freeze_merger: false,
        activation_recompute: false,
        pixel_scale: PixelScale { mean: image.mean, std: image.std },
    };
    let mut learner = Learner::new(model, weights, settings);
    let ones = vec![1.0; pack.targets.len()];
    let mut logprobs = Vec::new();
    learner.accumulate(&pack, &ones, LogprobKind::Raw, |output| {
        logprobs = output.logprob.clone();
        ones.clone()
    });
    let gradients = learner.gradients().unwrap().iter().flatten().map(|gradient| backend.to_f32(gradient)).collect();
    (logprobs, gradients)
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// Roundings to bf16 are off by 2⁻⁹ at most; a forward has some dozens of them one behind the other, backward as many again. They are of
/// random sign, so they add up like their root.
#[test]
fn log_probabilities_and_gradients_are_the_cpus_but_for_bf16() {
    let roundings = 2f64.powi(-9) * 64f64.sqrt();
    let (expected, expected_gradients) = learned(Arc::new(Cpu::new()));
    for (_, cuda) in devices() {
        expect_close(&learned(Arc::new(cuda)), &expected, &expected_gradients, roundings);
    }
}

fn expect_close(
    (found, gradients): &(Vec<f32>, Vec<Vec<f32>>),
    expected: &[f32],
    expected_gradients: &[Vec<f32>],
    roundings: f64,
) {
    let difference = norm(found.iter().zip(expected).map(|(a, b)| a - b)) / (found.len() as f64).sqrt();
    let size = norm(expected.iter().copied()) / (found.len() as f64).sqrt();
    assert!(difference <= roundings * size.max(1.0), "log-probs differ by {difference} of {size}");
    let apart = gradients.iter().flatten().zip(expected_gradients.iter().flatten()).map(|(a, b)| a - b);
    let (apart, size) = (norm(apart), norm(expected_gradients.iter().flatten().copied()));
    assert!(apart <= 2.0 * roundings * size, "gradients differ by {apart} of {size}");
}
