//! What texts name exists: the recipe keys, flags, subcommands, files, tests and benches that messages, doc comments and documents speak of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use regex::Regex;
use thyme_engine::cli::Arguments;
use thyme_engine::recipe::layers::load;
use thyme_engine::recipe::plan::Plan;

use crate::support::command::Workplace;

/// Documents, by folder; all `.md` of these folders are read, not those below them.
const DOCUMENTS: [&str; 12] = [
    "",
    "benches",
    "kernels",
    "recipes",
    "recipes/experiments",
    "src/hub",
    "src/serve",
    "tests/golden/adamw",
    "tests/golden/fuzz",
    "tests/golden/grpo",
    "tests/golden/rewards",
    "tools",
];

/// Dotted names in code marks that are neither recipe keys nor files.
const OTHER_NAMES: [&str; 19] = [
    "b.cat",
    "chat.completion",
    "chat.completion.chunk",
    "cp.async",
    "json.dumps",
    "json_schema.schema",
    "model.embed_tokens.weight",
    "model.language_model",
    "model.layers",
    "model.visual",
    "os.chmod",
    "os.truncate",
    "os.utime",
    "reward_model.ground_truth",
    "self.empty",
    "settings.group_size",
    "size.shortest_edge",
    "transformers.utils.chat_template_utils",
    "vision_config.depth",
];

/// Endings that make a name a file's.
const FILE_ENDINGS: [&str; 17] = [
    "bin",
    "cu",
    "cuh",
    "html",
    "http",
    "index",
    "jinja",
    "json",
    "jsonl",
    "md",
    "png",
    "py",
    "rs",
    "safetensors",
    "sh",
    "svg",
    "toml",
];

/// Flags of other programs that texts name: cargo and its tests, pip, nvcc, jq.
const OTHER_FLAGS: [&str; 26] = [
    "all-targets",
    "bench",
    "budget",
    "check",
    "clippy",
    "disable-pip-version-check",
    "ignored",
    "index-url",
    "large",
    "lib",
    "list",
    "locked",
    "no-deps",
    "no-input",
    "no-run",
    "nocapture",
    "open",
    "path",
    "quiet",
    "rehearse",
    "release",
    "retries",
    "root",
    "test",
    "version",
    "write",
];

/// A text and where it stands.
struct Text {
    path: PathBuf,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Comments and messages of the sources, up to their own tests, and the documents.
fn texts() -> Vec<Text> {
    let mut paths = Vec::new();
    sources_below(&root().join("src"), &mut paths);
    for folder in DOCUMENTS {
        let entries = std::fs::read_dir(root().join(folder)).into_iter().flatten();
        paths.extend(
            entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "md")),
        );
    }
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap().to_owned();
        Text { path: path.strip_prefix(root()).unwrap().to_owned(), text }
    };
    paths.into_iter().map(read).collect()
}

fn sources_below(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, paths);
        } else if path.extension().is_some_and(|end| end == "rs") {
            paths.push(path);
        }
    }
}

/// What a pattern's first group finds in all texts, as "PATH: WORD", where `exists` denies it.
fn missing(pattern: &str, exists: impl Fn(&Text, &str) -> bool) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    let mut missing = BTreeSet::new();
    for text in &texts() {
        for found in pattern.captures_iter(&text.text) {
            let word = &found[1];
            if !exists(text, word) {
                missing.insert(format!("{}: {word}", text.path.display()));
            }
        }
    }
    missing
}

#[track_caller]
fn none(what: &str, missing: &BTreeSet<String>) {
    assert!(missing.is_empty(), "{what}:\n{}", missing.iter().map(|word| format!("  {word}\n")).collect::<String>());
}

#[test]
fn recipe_keys_that_texts_name_are_keys() {
    let workplace = Workplace::new();
    let recipe = workplace.grpo("[data.needle]\n");
    let is_key = |key: &str| {
        let planned = load(&recipe, &[format!("{key}=1")]).map_err(|error| error.to_string());
        let planned =
            planned.and_then(|recipe| Plan::new(recipe, &Default::default()).map_err(|error| error.to_string()));
        !planned
            .is_err_and(|error| ["unknown field", "not known", "unknown key"].iter().any(|word| error.contains(word)))
    };
    assert!(is_key("tool.consent") && is_key("grpo.beta"));
    assert!(!is_key("sandbox.consent") && !is_key("tool.consents") && !is_key("grpo.betas"), "the check itself");
    let missing = missing(r"`([a-z_][a-z_0-9]*(?:\.[a-z_][a-z_0-9]*)+)`", |_, name| {
        let ending = name.rsplit('.').next().unwrap();
        FILE_ENDINGS.contains(&ending) || name.ends_with(".txt") || OTHER_NAMES.contains(&name) || is_key(name)
    });
    none("no key of a recipe", &missing);
}

#[test]
fn flags_and_subcommands_that_texts_name_exist() {
    let mut command = Arguments::command();
    command.build();
    let (mut flags, mut subcommands) = (BTreeSet::new(), BTreeSet::new());
    let mut open = vec![&command];
    while let Some(command) = open.pop() {
        flags.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
        subcommands.extend(command.get_subcommands().map(|command| command.get_name().to_owned()));
        open.extend(command.get_subcommands());
    }
    let missing_flags = missing(r"(?:^|[\s`(\[/])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)", |_, flag| {
        flags.contains(flag) || OTHER_FLAGS.contains(&flag)
    });
    none("no flag", &missing_flags);
    let missing_commands =
        missing(r"(?:`thyme-engine|^thyme-engine|run --release --) ([a-z]+)\b", |_, name| subcommands.contains(name));
    none("no subcommand", &missing_commands);
}

#[test]
fn files_that_texts_name_exist() {
    let missing =
        missing(r"`((?:src|tests|tools|benches|kernels|recipes|\.ci|\.github)/[A-Za-z0-9_./-]*)`", |_, path| {
            root().join(path).exists() || path.contains("DATE-")
        });
    none("no such path", &missing);
}

#[test]
fn tests_and_benches_that_texts_name_exist() {
    let mut sources = Vec::new();
    sources_below(&root().join("tests/it"), &mut sources);
    sources_below(&root().join("src"), &mut sources);
    let names: String = sources.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let modules: BTreeSet<_> =
        sources.iter().filter_map(|path| path.file_stem()?.to_str().map(str::to_owned)).collect();
    let missing_tests = missing(r"cargo test (?:--release )?(?:--test it )?([a-z_]{4,})\b", |_, name| {
        modules.contains(name) || Regex::new(&format!(r"(?:fn|mod) \w*{name}")).unwrap().is_match(&names)
    });
    none("no test", &missing_tests);
    let missing_benches =
        missing(r"cargo bench --bench ([a-z_]+)\b", |_, name| root().join(format!("benches/{name}.rs")).exists());
    none("no bench", &missing_benches);
}
