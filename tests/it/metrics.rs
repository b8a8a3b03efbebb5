//! What a run logs: every metric is in the table of `recipes/metrics.md` and the other way round, parts add up to wholes, and what goes wrong
//! is warned of. The files of `metrics/` have the rest.

mod wandb;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};
use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::cpu::Cpu;
use thyme_engine::rollout::tool::CallStatus;
use thyme_engine::tasks::jsonl::{NeedleFile, write_needle};
use thyme_engine::tasks::needle::Split;
use thyme_engine::train::flops::training_flops;
use thyme_engine::train::sample::{Layout, Pack, Sample};

use crate::support::command::{Workplace, succeed, train};

/// What a run on the CPU has only by chance, or never.
const SELDOM: [&str; 6] = ["tool/NAME/", "judge/", "held_out/judge/", "mfu", "memory/", "gpu/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names in the first column of the tables below a heading of the second order.
fn table(heading: &str) -> BTreeSet<String> {
    let page = std::fs::read_to_string(root().join("recipes/metrics.md")).unwrap();
    let sections = page.split("\n## ").filter(|section| section.starts_with(heading));
    let section = sections.last().unwrap_or_else(|| panic!("{heading} is no heading"));
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let quoted = Regex::new("`([^`]+)`").unwrap();
    cells.flat_map(|cell| quoted.captures_iter(cell).map(|name| name[1].to_owned()).collect::<Vec<_>>()).collect()
}

/// Whether a metric has a name of the table, in which words in capitals stand for names.
fn has_name(metric: &str, name: &str) -> bool {
    let is_variable = |part: &str| part.chars().all(|letter| letter.is_ascii_uppercase());
    let parts = name.split('/').map(|part| if is_variable(part) { ".+".to_owned() } else { regex::escape(part) });
    Regex::new(&format!("^{}$", parts.collect::<Vec<_>>().join("/"))).unwrap().is_match(metric)
}

/// The lines of a run's metrics.
fn lines(run: &Path) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_is_table(heading: &str, lines: &[Map<String, Value>]) {
    let names = table(heading);
    let logged: BTreeSet<&String> = lines.iter().flat_map(Map::keys).filter(|name| *name != "step").collect();
    let unknown: Vec<_> = logged.iter().filter(|metric| !names.iter().any(|name| has_name(metric, name))).collect();
    assert!(unknown.is_empty(), "recipes/metrics.md does not have {unknown:?} under {heading:?}");
    let is_seldom = |name: &String| SELDOM.iter().any(|start| name.starts_with(start));
    let unseen: Vec<_> =
        names.iter().filter(|name| !is_seldom(name) && !logged.iter().any(|metric| has_name(metric, name))).collect();
    assert!(unseen.is_empty(), "no run logs {unseen:?}, which recipes/metrics.md has under {heading:?}");
}

/// A file of tasks of two sources.
fn tasks_of_sources(place: &Workplace) -> PathBuf {
    write_needle(&place.path("tasks"), NeedleFile::Tasks(None), 4, Split::Train, 7).unwrap();
    let text = std::fs::read_to_string(place.path("tasks/data.jsonl")).unwrap();
    let lines = text.lines().zip(["charts", "maps", "charts", "maps"]).map(|(line, source)| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["data_source"] = source.into();
        format!("{row}\n")
    });
    place.write("tasks/data.jsonl", lines.collect::<String>())
}

/// The tiny model that knows how to look, on a recipe of GRPO.
fn shipped_model() -> Vec<String> {
    let path = root().join("recipes/tiny-sft");
    let settings = [
        format!("model.path={path:?}"),
        "model.random_weights=false".to_owned(),
        "environment.max_total_tokens=256".to_owned(),
        "environment.max_turn_tokens=160".to_owned(),
        "optimizer.weight_decay=0.0".to_owned(),
    ];
    settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect()
}

#[test]
fn every_metric_of_grpo_is_in_the_table_and_the_other_way_round() {
    let place = Workplace::new();
    tasks_of_sources(&place);
    let recipe =
        place.grpo("[evaluation]\ntasks = 2\nfiles = [\"tasks/data.jsonl\"]\n[data]\nfiles = [\"tasks/data.jsonl\"]\n[data.curriculum]\n");
    let settings = [
        "training.max_steps=2",
        "training.log_grad_norms=true",
        "model.freeze_vision_tower=false",
        "model.freeze_merger=false",
        "optimizer.learning_rate=1e-5",
        "grpo.num_generations=6",
        "data.shuffle=false",
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let shipped = shipped_model();
    let shipped: Vec<&str> = shipped.iter().map(String::as_str).collect();
    succeed(train(&recipe, &[settings, shipped].concat()));
    let lines = lines(&place.path("runs/run"));
    assert_is_table("Of GRPO", &lines);
    for status in CallStatus::ALL {
        assert!(table("Of GRPO").contains(&format!("tool/NAME/{}", status.name())), "{status:?}");
    }
    let steps: Vec<_> = lines.iter().filter(|line| line.contains_key("learning_rate")).collect();
    assert_eq!((steps.len(), lines.len()), (2, 4));
    for line in steps {
        let value = |name: &str| line[name].as_f64().unwrap_or_else(|| panic!("{name}: {line:?}"));
        let sum = |start: &str, end: &str, of: fn(f64) -> f64| -> f64 {
            let parts = line.iter().filter(|(name, _)| name.starts_with(start) && name.ends_with(end));
            parts.filter_map(|(_, value)| value.as_f64()).map(of).sum()
        };
        assert!((sum("", "seconds/share", |share| share) - 1.0).abs() < 1e-9, "{line:?}");
        let groups = line.keys().filter(|name| name.starts_with("grad_norm/")).count();
        assert_eq!(groups, 6, "all but the head, which is one with the embeddings: {line:?}");
        let whole = value("grad_norm").powi(2);
        assert!((sum("grad_norm/", "", |norm| norm * norm) / whole - 1.0).abs() < 1e-6, "{line:?}");
        assert!(
            (value("completions/mean_length") + value("observation_length") - value("completion_tokens")).abs() < 1e-9
        );
        assert!((sum("difficulty/", "", |share| share) - 1.0).abs() < 1e-9, "{line:?}");
        let accuracy = (value("accuracy/charts") + value("accuracy/maps")) / 2.0;
        assert!((accuracy - value("accuracy")).abs() < 1e-9, "a task of each source in each step: {line:?}");
        assert!(value("checkpoint_seconds") >= 0.0 && value("step_seconds") > value("rollout_seconds"));
    }
    let last = &lines[2];
    assert!(last["checkpoint_seconds"].as_f64() > Some(0.0), "the checkpoint of the step before: {last:?}");
    assert!(lines[1]["evaluation_seconds"].as_f64() > Some(0.0), "the evaluation at the start: {:?}", lines[1]);
}

#[test]
fn every_metric_of_sft_is_in_the_table_and_the_other_way_round() {
    let place = Workplace::new();
    let recipe = place.sft("[data.needle]\n");
    succeed(train(&recipe, &["--set", "training.max_steps=2", "--set", "training.log_grad_norms=true"]));
    let lines = lines(&place.path("runs/run"));
    assert_is_table("Of supervised fine-tuning", &lines);
    for line in &lines {
        let shares = line.iter().filter(|(name, _)| name.ends_with("seconds/share"));
        let sum: f64 = shares.filter_map(|(_, share)| share.as_f64()).sum();
        let value = |name: &str| line[name].as_f64().unwrap();
        assert!((sum - 1.0).abs() < 1e-9, "{line:?}");
        assert!(0.0 < value("optimizer_seconds") && value("optimizer_seconds") < value("update_seconds"), "{line:?}");
    }
    assert!(lines[1]["checkpoint_seconds"].as_f64() > Some(0.0), "the checkpoint of the step before: {lines:?}");
    succeed(train(&recipe, &["--set", "training.max_steps=1", "--overwrite"]));
    let text = std::fs::read_to_string(place.path("runs/run/metrics.jsonl")).unwrap();
    assert!(text.contains("grad_norm") && !text.contains("grad_norm/"), "only on demand: {text}");
}

/// Two sequences that share a prompt of 20 tokens, against the sizes that `config.json` gives.
#[test]
fn the_operations_of_an_update_are_those_of_its_products_and_its_attention() {
    let folder = root().join("recipes/tiny-sft");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let size = |name: &str| config[name].as_f64().unwrap();
    let (dim, hidden, layers) = (size("hidden_size"), size("intermediate_size"), size("num_hidden_layers"));
    let heads = size("num_attention_heads");
    let kv_dim = dim / heads * size("num_key_value_heads");
    let of_layer = 2.0 * dim * dim + 2.0 * dim * kv_dim + 3.0 * dim * hidden;

    let sample = |tokens: u32, id: u32| Sample {
        ids: (0..tokens).map(|i| if i < 20 { 10 + i } else { id }).collect(),
        trained: (0..tokens).map(|i| i > 20).collect(),
        images: Vec::new(),
    };
    let samples = [sample(30, 50), sample(27, 60)];
    let model = Checkpoint::open(folder.to_str().unwrap()).unwrap().model(Arc::new(Cpu::new()));
    let layout = Layout { merge: 2, image_pad: model.config.image_pad };
    let pack = Pack::new(&[&samples[0], &samples[1]], layout);
    assert_eq!((pack.batch.tokens(), pack.targets.len()), (20 + 10 + 7, 9 + 6), "the prompt stands there once");

    let products = 6.0 * (37.0 * layers * of_layer + 15.0 * dim * size("vocab_size"));
    let pairs = 20.0 * 10.0 + 10.0 * (20.0 + 5.0) + 7.0 * (20.0 + 3.5);
    let found = training_flops(&model, &pack.batch);
    assert!((found / (products + 12.0 * layers * dim * pairs) - 1.0).abs() < 1e-12, "{found}");
}

/// A planted run: what is rewarded is not to call. The metrics show tool use fall, and a warning says so once.
#[test]
fn a_run_whose_tool_use_collapses_says_so() {
    let place = Workplace::new();
    let recipe = place.grpo("[evaluation]\ntasks = 0\n[data.needle]\n");
    let settings = [
        "training.max_steps=14",
        "training.save_strategy=no",
        "optimizer.learning_rate=1e-4",
        "grpo.beta=0.0",
        "grpo.prompts_per_step=4",
        "grpo.num_generations=8",
        "reward.weights={answer=0.0, format=0.0, consistency=0.0, tool_success=-1.0}",
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let shipped = shipped_model();
    let shipped: Vec<&str> = shipped.iter().map(String::as_str).collect();
    let said = succeed(train(&recipe, &[settings, shipped].concat()));
    let log = std::fs::read_to_string(place.path("runs/run/log.txt")).unwrap();
    assert_eq!(log.matches("warning: tool use collapses: ").count(), 1, "{said}");
    let use_of: Vec<f64> = lines(&place.path("runs/run")).iter().filter_map(|line| line["tool_use"].as_f64()).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    assert!(use_of[0] > 0.1 && mean(&use_of[11..]) < use_of[0] / 3.0, "{use_of:?}");
}
