//! Recipes for `train --dry-run`: those of the corpus changed as text, keys set to numbers on their bounds, chains of `extends`, data files
//! that are looked through.

use std::path::Path;

use super::mutate::{self, Corpus, NUMBERS};
use super::target::{Command, Entry, Folder, Input};
use crate::support::small_policy::Random;

const WORDS: [&str; 18] = [
    "\n",
    "=",
    "[",
    "]",
    "[[",
    ".",
    "\"",
    "'''",
    "true",
    "inf",
    "nan",
    "1979-05-27T07:32:00Z",
    "0x7F",
    "extends = \"base.toml\"\n",
    "[model]\n",
    "[grpo]\n",
    "seed = 1\n",
    "#",
];
/// Keys with values that they may have.
const SETTINGS: [(&str, &[&str]); 35] = [
    ("seed", &["1", "18446744073709551615"]),
    ("name", &["other", "a b", "..", "a/b", "\"\""]),
    ("method", &["sft", "grpo", "ppo"]),
    ("model.random_weights", &["true", "false"]),
    ("model.min_pixels", &["3136", "12544"]),
    ("model.max_pixels", &["12544", "1000000"]),
    ("model.activation_recompute", &["true"]),
    ("training.max_steps", &["1", "10", "1099511627776"]),
    ("training.num_train_epochs", &["1.5", "1e9"]),
    ("training.batch_size", &["1", "64", "1048576"]),
    ("training.micro_batch_tokens", &["1", "4096", "268435456"]),
    ("training.save_strategy", &["steps", "no"]),
    ("training.logging_steps", &["1", "7"]),
    ("optimizer.learning_rate", &["1e-3", "1e9", "1e-300"]),
    ("optimizer.lr_scheduler_type", &["linear", "cosine", "constant", "cosine_with_min_lr"]),
    ("optimizer.warmup_steps", &["0", "5"]),
    ("optimizer.optim", &["adamw", "adamw_8bit"]),
    ("grpo.prompts_per_step", &["1", "12"]),
    ("grpo.num_generations", &["2", "8", "1048576"]),
    ("grpo.beta", &["0", "0.1"]),
    ("grpo.loss_type", &["grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo", "sapo"]),
    ("grpo.advantage", &["grpo", "mean_only", "rloo", "dr_grpo", "reinforce++", "hdpo"]),
    ("grpo.scale_rewards", &["group", "batch", "none"]),
    ("grpo.kl_estimator", &["k1", "k2", "k3"]),
    ("grpo.kl_in", &["loss", "reward", "advantage"]),
    ("grpo.refill", &["none", "repeat", "replay"]),
    ("grpo.epsilon_high", &["0.3"]),
    ("sampling.temperature", &["1.0", "0.5", "0"]),
    ("sampling.top_k", &["0", "20"]),
    ("environment.max_turn_tokens", &["32", "268435456"]),
    ("environment.max_total_tokens", &["32", "4096"]),
    ("engine.max_num_seqs", &["1", "256"]),
    ("engine.kv_cache_bytes", &["0", "1000000"]),
    ("evaluation.tasks", &["0", "16"]),
    ("data.max_left_out", &["0", "1"]),
];

/// A recipe in a folder with a model and data files.
pub fn make(random: &mut Random, corpus: &Corpus, model: &Path) -> Input {
    let mut recipe = corpus.text(random, ".toml");
    if random.one_in(3) {
        let other = corpus.text(random, ".toml");
        recipe = mutate::text(random, &recipe, &other, &WORDS, 3);
    }
    let mut files: Folder = vec![("model".to_owned(), Entry::Link(model.to_owned()))];
    let mut arguments = vec![
        "train".to_owned(),
        "recipe.toml".to_owned(),
        "--dry-run".to_owned(),
        "--device".to_owned(),
        "cpu".to_owned(),
    ];
    for _ in 0..random.below(4) {
        let (key, values) = random.pick(&SETTINGS);
        let value = if random.one_in(5) { random.pick(&NUMBERS) } else { random.pick(values) };
        arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
    }
    if random.one_in(8) {
        recipe = extended(random, &mut files, recipe);
    }
    if random.one_in(20) {
        recipe = deep(random);
    }
    let rows = match random.below(3) {
        0 => corpus.text(random, ".jsonl"),
        1 => corpus.text(random, ".jsonl").repeat(random.pick(&[1, 3, 300])),
        _ => {
            let (rows, other) = (corpus.text(random, ".jsonl"), corpus.text(random, ".jsonl"));
            mutate::text(random, &rows, &other, &["\n", "null", "{}", "<image>", "\u{0}"], 3)
        }
    };
    let rows = if random.one_in(40) {
        random.pick(&[Entry::Fifo, Entry::Folder, Entry::Link("/dev/zero".into())])
    } else {
        Entry::file(rows)
    };
    files.push(("rows.jsonl".to_owned(), rows));
    files.push(("a.png".to_owned(), Entry::file(corpus.pick(random, ".png"))));
    if random.one_in(4) {
        arguments.push("--check-data".to_owned());
    }
    files.push(("recipe.toml".to_owned(), Entry::file(recipe)));
    Input::Command(Command { files, arguments })
}

/// The recipe at the end of a chain; the chain may be a circle.
fn extended(random: &mut Random, files: &mut Folder, recipe: String) -> String {
    let length = random.pick(&[1, 2, 7, 8, 9, 30]);
    let is_circle = random.one_in(3);
    for number in 0..length {
        let next = if number + 1 < length { number + 1 } else { 0 };
        let text = if number + 1 < length || is_circle {
            format!("extends = \"base{next}.toml\"\nseed = {number}\n")
        } else {
            recipe.clone()
        };
        files.push((format!("base{number}.toml"), Entry::file(text)));
    }
    format!("extends = \"base0.toml\"\n{}", if random.one_in(2) { recipe.as_str() } else { "seed = 5\n" })
}

/// TOML that is deep or long.
fn deep(random: &mut Random) -> String {
    let count = random.pick(&[10, 79, 81, 1000, 10_000]);
    match random.below(5) {
        0 => format!("name = {}{}\n", "[".repeat(count), "]".repeat(count)),
        1 => format!("[environment]\na = {}1{}\n", "{a = ".repeat(count), "}".repeat(count)),
        2 => format!("environment.{} = 1\n", vec!["a"; count].join(".")),
        3 => format!("[environment]\n{}", (0..count).map(|i| format!("k{i} = {i}\n")).collect::<String>()),
        _ => format!("name = \"{}\"\n[model]\npath = \"{}\"\n", "a".repeat(count), "../".repeat(count)),
    }
}
