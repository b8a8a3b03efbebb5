//! The architecture, tested like code: who imports whom, which files make an op, what is deliberately absent. The layers are read from
//! the picture in `src/lib.rs`, so that the map and the land cannot part.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use thyme_engine::recipe::layers;
use thyme_engine::recipe::plan::{Plan, PlanError};

/// Most lines of a source file, and of one in `src`.
const LINES_MAX: usize = 700;
const SOURCE_LINES_MAX: usize = 400;

/// Where `unsafe` may stand: the allocator's settings, the signals of Ctrl-C, the tiles of a matrix product, `malloc_trim`, vector instructions, the two places
/// where a kernel is launched.
const UNSAFE_FILES: [&str; 18] = [
    "src/cli/allocator.rs",
    "src/cli/interrupt.rs",
    "src/cpu/linear/few_rows.rs",
    "src/cpu/linear/output.rs",
    "src/cpu/linear/pack.rs",
    "src/cpu/linear/tile.rs",
    "src/cpu/memory.rs",
    "src/cpu/simd/lanes.rs",
    "src/cpu/simd/mod.rs",
    "src/cpu/simd/portable.rs",
    "src/cpu/simd/x86.rs",
    "src/cuda/device/gpu.rs",
    "src/cuda/device/gpu/driver.rs",
    "src/cuda/device/gpu/functions.rs",
    "src/cuda/device/gpu/graph.rs",
    "src/cuda/device/gpu/memory.rs",
    "src/cuda/device/simt.rs",
    "src/prompt/simd.rs",
];

/// Where files are opened by other means than `src/files/open.rs`: it itself, the sandbox's own folders, a cache, and what the kernel makes.
const OPENING: [&str; 7] = [
    "src/cli/doctor.rs",
    "src/cuda/device/simt/library.rs",
    "src/files/open.rs",
    "src/isolated.rs",
    "src/sandbox/",
    "src/telemetry/events.rs",
    "src/telemetry/memory.rs",
];

/// Backends, which only `src/cli/device.rs` chooses between.
const BACKENDS: [&str; 3] = ["cpu", "cuda", "reference"];

/// A source file of ours.
struct Source {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The top-level module that a file of `src/` belongs to.
    fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// Its lines of code with their numbers: no comments, and nothing from `#[cfg(test)]` on, where a file's own tests begin.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
        lines.map(|(i, line)| (i + 1, line.split("//").next().unwrap_or(line)))
    }

    /// The modules of this crate that its code names, with the line of each.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (line, code) in self.code() {
            for (_, rest) in code.match_indices("crate::").map(|(at, mark)| (at, &code[at + mark.len()..])) {
                assert!(!rest.starts_with('{'), "{}:{line}: write a `use crate::…` line for each module", self.path);
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((line, name));
            }
        }
        found
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `folder` that end with one of `extensions`, in order.
fn files(folder: &str, extensions: &[&str]) -> Vec<Source> {
    let mut open = vec![root().join(folder)];
    let mut paths: Vec<PathBuf> = Vec::new();
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => open.push(path),
                Some(extension) if extensions.contains(&extension) => paths.push(path),
                _ => {}
            }
        }
    }
    paths.sort();
    let read = |path: PathBuf| Source {
        text: std::fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/"),
    };
    paths.into_iter().map(read).collect()
}

fn sources() -> Vec<Source> {
    let sources = files("src", &["rs"]);
    assert!(sources.len() > 50, "the sources were not found");
    sources
}

/// Fails with all of `faults`, one a line.
fn none(rule: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}

/// The names that `pub mod` lines of a file declare.
fn declared(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    let name = |line: &str| Some(line.trim().strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    text.lines().filter_map(name).collect()
}

/// Each module's height in the picture of `src/lib.rs`, 0 at the top; leaves are lowest.
fn heights() -> BTreeMap<String, usize> {
    let modules = declared("src/lib.rs");
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let picture = text.lines().skip_while(|line| *line != "//! ```text").skip(1).take_while(|line| *line != "//! ```");
    let mut heights = BTreeMap::new();
    for (height, line) in picture.enumerate() {
        let words = line.trim_start_matches("//!").trim().trim_start_matches("leaves:").split_whitespace();
        for name in words.take_while(|word| modules.iter().any(|module| module == word)) {
            let drawn_before = heights.insert(name.to_owned(), height);
            assert!(drawn_before.is_none(), "the picture in src/lib.rs shows {name} twice");
        }
    }
    let missing: Vec<&String> = modules.iter().filter(|module| !heights.contains_key(*module)).collect();
    assert!(missing.is_empty(), "the picture in src/lib.rs does not show {missing:?}");
    heights
}

#[test]
fn a_module_imports_only_modules_drawn_below_it() {
    let heights = heights();
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| heights.contains_key(source.module())) {
        let own = source.module();
        for (line, other) in source.imports() {
            let is_below = heights.get(&other).is_some_and(|height| *height > heights[own]);
            if other != own && !is_below {
                faults.push(format!("{}:{line}: {own} imports {other}", source.path));
            }
        }
    }
    none("a module imports only modules below it in the picture of src/lib.rs", faults);
}

#[test]
fn only_the_device_file_of_the_command_line_names_a_backend() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.path == "src/cli/device.rs" || BACKENDS.contains(&source.module()) {
            continue;
        }
        let named = source.imports().into_iter().filter(|(_, other)| BACKENDS.contains(&other.as_str()));
        faults.extend(named.map(|(line, other)| format!("{}:{line}: names {other}", source.path)));
    }
    none("only src/cli/device.rs names a backend", faults);
}

#[test]
fn below_rollout_nothing_knows_of_tools_or_rewards_and_below_model_nothing_of_qwen() {
    let heights = heights();
    let mut faults = Vec::new();
    for source in sources() {
        let Some(height) = heights.get(source.module()) else { continue };
        let is_layer = !["hub", "prompt", "sandbox", "tasks", "telemetry"].contains(&source.module());
        let mut absent: Vec<&str> = Vec::new();
        if is_layer && *height > heights["rollout"] {
            absent.extend(["tool", "tools", "reward", "rewards", "sandbox"]);
        }
        if is_layer && *height > heights["model"] {
            absent.push("qwen");
        }
        // Comments may explain by what stands above.
        for (number, line) in source.code() {
            let line = line.to_lowercase();
            let spoken: Vec<&str> = line.split(|c: char| !c.is_alphabetic()).collect();
            let words = absent.iter().filter(|word| spoken.contains(*word));
            faults.extend(words.map(|word| format!("{}:{number}: speaks of {word:?}", source.path)));
        }
    }
    none("a layer does not know of what is above it", faults);
}

#[test]
fn every_op_has_its_file_in_each_family() {
    let ops: Vec<String> = declared("src/ops/mod.rs")
        .into_iter()
        .filter(|name| !["footprint", "tensor"].contains(&name.as_str()))
        .collect();
    assert!(ops.len() >= 10, "the ops were not found: {ops:?}");
    let mut faults = Vec::new();
    for op in &ops {
        let families = ["src/ops", "src/reference", "src/cpu", "src/cuda", "tests/it/ops"];
        let wanted = families.map(|family| format!("{family}/{op}.rs")).into_iter().chain([format!("kernels/{op}.cu")]);
        faults.extend(wanted.filter(|file| !root().join(file).exists()).map(|file| format!("{file} is missing")));
    }
    none("an op is one file of one name in each family", faults);
}

#[test]
fn every_recipe_says_what_it_is_and_can_be_planned() {
    let recipes = files("recipes", &["toml"]);
    assert!(!recipes.is_empty(), "no recipe was found");
    // That crate plans its recipe itself, with its own plug-ins; the other file names recipes.
    let others = ["recipes/own_plugins/", "recipes/experiments/experiments.toml"];
    for source in recipes.into_iter().filter(|source| !others.iter().any(|other| source.path.starts_with(other))) {
        assert!(source.text.starts_with('#'), "{} does not begin with what it proves", source.path);
        let recipe = layers::load(&root().join(&source.path), &[]).unwrap_or_else(|e| panic!("{}: {e}", source.path));
        let checkpoint = recipe.model.path.clone();
        match Plan::new(recipe, &Default::default()) {
            Ok(_) => {}
            // A recipe may start from what another one makes.
            Err(PlanError::Checkpoint(_)) if !Path::new(&checkpoint).exists() => {}
            Err(e) => panic!("{}: {e}", source.path),
        }
    }
}

#[test]
fn a_file_has_one_subject_and_opens_with_it() {
    let mut faults = Vec::new();
    for folder in ["src", "tests", "benches", "kernels", "tools"] {
        for source in files(folder, &["rs", "py", "cu", "cuh", "cpp", "h"]) {
            let lines = source.text.lines().count();
            let may_be_long = !source.path.starts_with("src/") || !source.path.ends_with(".rs");
            let most = if may_be_long { LINES_MAX } else { SOURCE_LINES_MAX };
            if lines > most {
                faults.push(format!("{}: {lines} lines of at most {most}", source.path));
            }
            if source.path.ends_with(".rs") && !source.text.starts_with("//! ") {
                faults.push(format!("{}: does not open with a `//!` line", source.path));
            }
        }
    }
    none("files are small and say what they are", faults);
}

/// The name of a file as its path in the crate: `src/engine/mod.rs` is `engine`, `src/engine/request.rs` is `engine/request`.
fn module_of(source: &Source) -> String {
    let path = source.path.trim_start_matches("src/").trim_end_matches(".rs");
    path.trim_end_matches("/mod").to_owned()
}

/// The paths of an import, its braces expanded: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expanded(tree: &str, before: &str, paths: &mut Vec<String>) {
    let (mut depth, mut from) = (0, 0);
    for (at, letter) in tree.char_indices().chain([(tree.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = tree[from..at].trim();
                from = (at + 1).min(tree.len());
                match part.split_once('{') {
                    Some((path, inner)) => expanded(inner.trim_end_matches('}'), &format!("{before}{path}"), paths),
                    None if part.is_empty() => {}
                    None => paths.push(format!("{before}{part}")),
                }
            }
            _ => {}
        }
    }
}

/// The files that a file names: in its imports, and as `crate::` and `super::` paths in its code.
fn named_files(source: &Source, known: &BTreeMap<String, Source>) -> Vec<String> {
    let (mut paths, mut import) = (Vec::new(), String::new());
    for (_, line) in source.code() {
        let line = line.trim();
        let statement = line.split_once("use ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
        if !import.is_empty() || statement.is_some() {
            import += statement.map_or(line, |(_, rest)| rest);
            if import.ends_with(';') {
                expanded(std::mem::take(&mut import).trim_end_matches(';'), "", &mut paths);
            }
            continue;
        }
        for mark in ["crate::", "super::"] {
            let found = line.match_indices(mark).filter(|(at, _)| !line[..*at].ends_with("::"));
            paths.extend(found.map(|(at, _)| {
                line[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect::<String>()
            }));
        }
    }
    let own = module_of(source);
    let folder = own.rsplit_once('/').map_or("", |(folder, _)| folder);
    let resolve = |path: &str| {
        let mut parts: Vec<&str> = path.split(" as ").next().unwrap_or(path).split("::").collect();
        let mut base = match parts[0] {
            "crate" => String::new(),
            "super" => folder.to_owned(),
            // A child's name; what is no child is another crate.
            _ => own.clone(),
        };
        if ["crate", "super"].contains(&parts[0]) {
            parts.remove(0);
        }
        while parts.first() == Some(&"super") {
            base = base.rsplit_once('/').map_or(String::new(), |(above, _)| above.to_owned());
            parts.remove(0);
        }
        let lengths = (0..=parts.len()).rev();
        let names = lengths.map(|count| {
            let name = [&[base.as_str()], &parts[..count]].concat().join("/");
            name.trim_start_matches('/').to_owned()
        });
        names.into_iter().find(|name| known.contains_key(name)).filter(|name| *name != own)
    };
    paths.iter().filter_map(|path| resolve(path)).collect()
}

#[test]
fn no_circle_stands_among_the_files() {
    let known: BTreeMap<String, Source> = sources().into_iter().map(|source| (module_of(&source), source)).collect();
    let mut left: BTreeMap<&String, Vec<String>> =
        known.iter().map(|(name, source)| (name, named_files(source, &known))).collect();
    for (name, named) in [
        ("serve/engine_loop", "serve/agent/session"),
        ("serve/engine_loop", "serve/engine_loop/fair"),
        ("engine/groups", "engine/kv_cache"),
        ("model/rope", "model/keys"),
        ("cli/train", "recipe/plan"),
    ] {
        assert!(
            left[&name.to_owned()].contains(&named.to_owned()),
            "{name} names {named}: {:?}",
            left[&name.to_owned()]
        );
    }
    // Takes away, again and again, the files that name none of those that are left, and those that none of these names.
    loop {
        let names: BTreeSet<String> = left.keys().map(|name| (*name).clone()).collect();
        let named: BTreeSet<String> = left.values().flatten().cloned().collect();
        let before = left.len();
        left.retain(|name, others| named.contains(*name) && others.iter().any(|other| names.contains(other)));
        if left.len() == before {
            break;
        }
    }
    none("files that name each other in a circle", left.keys().map(|name| format!("src/{name}")).collect());
}

/// Most lines of a function, but for the micro-kernel of matrix products, which is one loop written out.
const FUNCTION_LINES_MAX: usize = 80;
const LONG_FUNCTIONS: [&str; 1] = ["src/cpu/linear/tile.rs: tile"];

#[test]
fn functions_fit_on_a_screen() {
    let mut long = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.code().map(|(_, line)| line).collect();
        for (first, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.contains('(')).collect();
            let Some(at) = line.find("fn ").filter(|_| words.contains(&"fn") || line.trim_start().starts_with("fn "))
            else {
                continue;
            };
            let name: String = line[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let closes = |line: &str| line.starts_with(&format!("{}}}", " ".repeat(indent)));
            let ends = |line: &str| {
                closes(line) || line.trim_end().ends_with(';') && !line.starts_with(&" ".repeat(indent + 1))
            };
            let count = lines[first..].iter().position(|line| ends(line)).map_or(0, |last| last + 1);
            if count > FUNCTION_LINES_MAX {
                long.push((format!("{}: {name}", source.path), count));
            }
        }
    }
    let faults = long.iter().filter(|(name, _)| !LONG_FUNCTIONS.contains(&name.as_str()));
    none("functions of more than 80 lines", faults.map(|(name, count)| format!("{name} ({count} lines)")).collect());
}

#[test]
fn behind_a_valid_request_nothing_reads_what_the_client_wrote() {
    const READERS: [&str; 9] = [
        "http/completions.rs",
        "http/control.rs",
        "http/routes.rs",
        "request/constraints.rs",
        "request/forms.rs",
        "request/mod.rs",
        "request/prompt_input.rs",
        "request/settings.rs",
        "request/tool_choice.rs",
    ];
    let names_wire =
        |source: &Source| source.code().any(|(_, line)| line.contains("wire::") && line.contains("Request"));
    let readers: Vec<String> = files("src/serve", &["rs"])
        .into_iter()
        .filter(names_wire)
        .map(|source| source.path.trim_start_matches("src/serve/").to_owned())
        .collect();
    assert_eq!(readers, READERS);
}

#[test]
fn nothing_is_mutable_at_the_level_of_a_module() {
    let shared = ["Atomic", "Mutex", "RwLock", "OnceLock", "LazyLock", "Cell<", "Once"];
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.code() {
            let words = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let is_static = words.starts_with("static ");
            let is_mutable = words.starts_with("static mut ") || shared.iter().any(|name| line.contains(name));
            if line.contains("thread_local!") || (is_static && is_mutable) {
                faults.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    none("state is passed, never fetched", faults);
}

#[test]
fn each_library_of_the_network_and_of_flags_has_its_module() {
    let server = ["axum", "futures_util", "hyper", "hyper_util", "tokio"];
    let mut faults = Vec::new();
    for (module, libraries) in [("serve", server.as_slice()), ("network", &["ureq"]), ("cli", &["clap"])] {
        for source in sources().iter().filter(|source| ![module, "main"].contains(&source.module())) {
            for (number, line) in source.code() {
                let named = libraries.iter().filter(|name| line.contains(&format!("{name}::")));
                faults.extend(named.map(|name| format!("{}:{number}: names {name}", source.path)));
            }
        }
    }
    none(
        "only src/serve names the libraries of a server, only src/network that of a client, only src/cli that of the command line",
        faults,
    );
}

#[test]
fn only_the_engine_makes_its_limits_and_a_recipe_knows_of_it_what_a_user_configures() {
    const CONFIGURED: [&str; 2] = ["request", "speculation"];
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "engine") {
        // The example of `src/lib.rs` stands in a comment.
        let made = source.text.match_indices("EngineLimits {").filter(|(at, _)| !source.text[..*at].ends_with("-> "));
        faults.extend(made.map(|_| format!("{}: makes EngineLimits", source.path)));
        for (number, line) in source.code().filter(|_| source.module() == "recipe") {
            let named =
                line.match_indices("crate::engine").map(|(at, mark)| line[at + mark.len()..].trim_start_matches(':'));
            let inside = named.filter(|rest| !CONFIGURED.iter().any(|module| rest.starts_with(module)));
            faults.extend(inside.map(|_| format!("{}:{number}: {}", source.path, line.trim())));
        }
    }
    none("src/engine/sizing.rs alone makes EngineLimits, and recipes know nothing of the engine's inside", faults);
}

#[test]
fn unsafe_stands_only_behind_its_fences() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !UNSAFE_FILES.contains(&source.path.as_str())) {
        let lines = source.code().filter(|(_, code)| code.split_whitespace().any(|word| word == "unsafe"));
        faults.extend(lines.map(|(number, code)| format!("{}:{number}: {}", source.path, code.trim())));
    }
    none(&format!("`unsafe` stands in {UNSAFE_FILES:?} only"), faults);
}

#[test]
fn files_of_given_names_are_opened_in_one_place() {
    let openings = [
        "File::open(",
        "File::create(",
        "File::create_new(",
        "File::options(",
        "OpenOptions::new(",
        "fs::read(",
        "fs::read_to_string(",
        "fs::write(",
        "fs::copy(",
        "image::open(",
        ".save(&",
    ];
    let is_opening = |code: &str| {
        let mut found = openings.iter().flat_map(|opening| code.match_indices(opening));
        found.any(|(at, opening)| opening.starts_with('.') || !code[..at].ends_with(char::is_alphanumeric))
    };
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !OPENING.iter().any(|start| source.path.starts_with(start))) {
        let lines = source.code().filter(|(_, code)| is_opening(code));
        faults.extend(lines.map(|(number, code)| format!("{}:{number}: {}", source.path, code.trim())));
    }
    none("a file of a given name is opened by src/files/open.rs", faults);
}

#[test]
fn what_is_ignored_or_allowed_has_its_reason_beside_it() {
    let mut faults = Vec::new();
    for source in ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, &["rs"])) {
        for (number, line) in source.text.lines().enumerate().map(|(i, line)| (i + 1, line.trim_start())) {
            let is_bare_ignore = line.starts_with("#[ignore]");
            let is_allow = line.starts_with("#[allow(") || line.starts_with("#![allow(");
            if is_bare_ignore || (is_allow && !line.contains("//") && !line.contains("reason =")) {
                faults.push(format!("{}:{number}: {line}", source.path));
            }
        }
    }
    none("an exception says why", faults);
}
