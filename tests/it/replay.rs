//! What a run keeps of its rollouts to replay them.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use thyme_engine::cpu::Cpu;
use thyme_engine::prompt::{Grid, PreparedImage, Processor};
use thyme_engine::train::learner::logprobs;
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage};

use crate::support::command::{Workplace, succeed, train};
use crate::support::small_policy::{learner_settings, load};

const STEPS: usize = 10;

/// What a checkpoint has of the rollouts to replay.
fn stored(checkpoint: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(checkpoint.join("replay/rollouts.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as usize).collect()
}

/// Floating-point numbers that stand there as their bits.
fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|bits| f32::from_bits(bits as u32)).collect()
}

fn image(checkpoint: &Path, stored: &Value, name: &str) -> Arc<PreparedImage> {
    let about = &stored["images"][name];
    let ([t, h, w], original, resized) = (
        <[usize; 3]>::try_from(numbers(&about["grid"])).unwrap().map(|size| size as u32),
        numbers(&about["original"]),
        numbers(&about["resized"]),
    );
    Arc::new(PreparedImage {
        patches: std::fs::read(checkpoint.join("replay").join(name)).unwrap(),
        grid: Grid { t, h, w },
        original_width: original[0] as u32,
        original_height: original[1] as u32,
        resized_width: resized[0],
        resized_height: resized[1],
        digest: u128::from_str_radix(name, 16).unwrap(),
    })
}

#[test]
fn a_rollout_that_is_replayed_has_the_log_probabilities_of_the_weights_that_sampled_it() {
    let place = Workplace::new();
    // Random weights never answer; how long they think differs.
    let file = place.write("length.py", "def reward(reasoning):\n    return len(reasoning) % 3 == 0\n");
    let recipe =
        place.grpo(&format!("[data.needle]\n[evaluation]\ntasks = 0\n[reward.settings.length]\nfile = {file:?}\n"));
    let steps = format!("training.max_steps={STEPS}");
    let settings = [
        "grpo.refill='replay'",
        "grpo.num_mini_batches=2",
        "grpo.num_generations=3",
        "sampling.temperature=0.8",
        "training.save_total_limit=20",
        &steps,
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    succeed(train(&recipe, &settings));

    let run = place.path("runs/run");
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let metrics: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(metrics.iter().any(|line| line["replayed_completions"].as_f64() > Some(0.0)), "nothing was replayed");
    assert!(metrics.iter().all(|line| line["mismatched_tokens"] == 0.0), "{text}");

    let processor = Processor::open(&place.path("model")).unwrap();
    let (mut compared, mut moved) = (0, 0);
    for step in 2..=STEPS {
        let [before, after] = [step - 1, step].map(|step| run.join(format!("checkpoint-{step}")));
        let (known, stored) = (stored(&before)["rollouts"].clone(), stored(&after));
        let (model, weights) = load(&before, Arc::new(Cpu::new()));
        let later = load(&after, Arc::new(Cpu::new())).1;
        let fresh = stored["rollouts"].as_array().unwrap().iter();
        for rollout in fresh.filter(|rollout| !known.as_array().unwrap().contains(rollout)) {
            let (ids, learned) = (numbers(&rollout["ids"]), numbers(&rollout["learned"]));
            let names = rollout["images"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
            let images = names
                .map(|name| SampleImage { prepared: image(&after, &stored, name), unmerged_features: None })
                .collect();
            let sample = Sample {
                ids: ids.iter().map(|&id| id as u32).collect(),
                trained: (0..ids.len()).map(|place| learned.contains(&place)).collect(),
                images,
            };
            let pack = Pack::new(&[&sample], Layout::of(&processor));
            let settings = learner_settings(&processor, true);
            let under = |weights| {
                logprobs(&model, weights, &pack, &floats(&rollout["temperatures"]), &settings).logprob_at_temperature
            };
            let (found, after_update, old) = (under(&weights), under(&later), floats(&rollout["old"]));
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&old), "step {step}");
            compared += old.len();
            moved += old.iter().zip(&after_update).filter(|(old, new)| old != new).count();
        }
    }
    assert!(compared > 100 && 2 * moved > compared, "{compared} compared, {moved} moved");
}
