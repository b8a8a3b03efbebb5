//! The recipes of the systems, `recipes/SYSTEM/NAME.toml`: each has a twin in `recipes/SYSTEM/tiny/` that runs for two steps on the tiny model, with the recipe's
//! loss, rewards and environment. What a researcher of the system looks for is among its metrics.

use std::path::{Path, PathBuf};

use serde_json::Value;
use thyme_engine::recipe::layers::load;

use crate::support::command::{Workplace, succeed, train};

const SYSTEMS: [&str; 7] =
    ["deepeyes", "metis", "mini_o3", "openthinkimg", "pixel_reasoner", "thyme", "verifiers_vision"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

/// Names of the recipes in a folder.
fn recipes(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let recipes = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut names: Vec<String> = recipes.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Runs a twin; the last line of its metrics.
fn run(system: &str, name: &str) -> Value {
    let place = Workplace::new();
    let recipe = folder().join(system).join("tiny").join(format!("{name}.toml"));
    let output = format!("output_dir={:?}", place.path("runs"));
    succeed(train(&recipe, &["--set", &output, "--set", "evaluation.tasks=0"]));
    let run = place.path("runs").join(format!("tiny_{system}_{name}"));
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{system} {name}: {text}");
    lines[1].clone()
}

#[track_caller]
fn assert_has(metrics: &Value, names: &[&str]) {
    for name in names {
        assert!(metrics.get(*name).is_some(), "{name} is not among {metrics}");
    }
}

#[test]
fn every_recipe_of_a_system_has_a_twin_that_extends_it() {
    for system in SYSTEMS {
        let folder = folder().join(system);
        assert_eq!(recipes(&folder), recipes(&folder.join("tiny")), "{system}");
        for name in recipes(&folder) {
            let text = std::fs::read_to_string(folder.join("tiny").join(&name)).unwrap();
            assert!(text.contains(&format!("extends = \"../{name}\"")), "{system} {name}");
            let [real, twin] =
                [folder.join(&name), folder.join("tiny").join(&name)].map(|path| load(&path, &[]).unwrap());
            assert_eq!(
                (real.method, real.sft, real.sampling),
                (twin.method, twin.sft, twin.sampling),
                "{system} {name}"
            );
            let mut grpo = real.grpo.clone();
            (grpo.prompts_per_step, grpo.num_generations) = (twin.grpo.prompts_per_step, twin.grpo.num_generations);
            assert_eq!(grpo, twin.grpo, "{system} {name}");
            assert_eq!(real.reward.weights, twin.reward.weights, "{system} {name}");
        }
    }
}

#[test]
fn the_twins_of_thyme_run() {
    for name in ["sft_stage1", "sft_stage2"] {
        assert_has(&run("thyme", name), &["loss", "grad_norm", "learning_rate"]);
    }
    assert_has(
        &run("thyme", "grpo_ats"),
        &["rewards/answer/mean", "rewards/format/mean", "rewards/consistency/mean", "kl"],
    );
}

#[test]
fn the_twins_of_openthinkimg_run() {
    assert_has(&run("openthinkimg", "sft"), &["loss"]);
    for name in ["v_toolrl", "text_rl"] {
        assert_has(&run("openthinkimg", name), &["rewards/answer/mean", "reward_std", "kl", "tool_call_counts"]);
    }
}

#[test]
fn the_twins_of_verifiers_run() {
    for name in ["grpo", "development", "high_quality"] {
        let metrics = run("verifiers_vision", name);
        assert_has(
            &metrics,
            &["rewards/verifiers_format/mean", "rewards/verifiers_tool/mean", "clip_ratio/low_mean", "kl"],
        );
    }
}

#[test]
fn the_twin_of_deepeyes_runs() {
    let metrics = run("deepeyes", "grpo");
    assert_has(&metrics, &["rewards/tool_use_if_correct/mean", "num_turns/max", "tool_call_counts/max"]);
}

#[test]
fn the_twins_of_pixel_reasoner_run() {
    assert_has(&run("pixel_reasoner", "sft"), &["loss"]);
    let metrics = run("pixel_reasoner", "curiosity_rl");
    assert_has(
        &metrics,
        &["rewards/curiosity/mean", "rewards/call_penalty/mean", "solve_all", "solve_none", "entropy"],
    );
}

#[test]
fn the_twin_of_mini_o3_runs() {
    assert_has(&run("mini_o3", "grpo"), &["num_turns/max", "tool_images", "masked_completions"]);
}

#[test]
fn the_twin_of_metis_runs() {
    assert_has(&run("metis", "hdpo"), &["tool_call_counts", "rewards/answer/mean", "rewards/format/mean"]);
}
