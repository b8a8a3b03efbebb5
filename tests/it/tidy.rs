//! The architecture, tested like code: who imports whom, which files make an op, what is deliberately absent. The layers are read from
//! the picture in `src/lib.rs`, so that the map and the land cannot part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thyme_engine::recipe::layers;
use thyme_engine::recipe::plan::{Plan, PlanError};

/// Most lines of a source file.
const LINES_MAX: usize = 700;

/// Where `unsafe` may stand: the allocator's settings, the signals of Ctrl-C, the tiles of a matrix product, `malloc_trim`, vector instructions, the two places
/// where a kernel is launched.
const UNSAFE_FILES: [&str; 10] = [
    "src/cli/allocator.rs",
    "src/cli/interrupt.rs",
    "src/cpu/linear.rs",
    "src/cpu/linear/pack.rs",
    "src/cpu/memory.rs",
    "src/cpu/simd/mod.rs",
    "src/cpu/simd/x86.rs",
    "src/cuda/device/gpu.rs",
    "src/cuda/device/simt.rs",
    "src/prompt/simd.rs",
];

/// Where files are opened by other means than `src/files/open.rs`: it itself, the sandbox's own folders, a cache, and what the kernel makes.
const OPENING: [&str; 8] = [
    "src/cli/doctor.rs",
    "src/cuda/device/simt/library.rs",
    "src/files/open.rs",
    "src/isolated.rs",
    "src/recipe/memory.rs",
    "src/sandbox/",
    "src/telemetry/events.rs",
    "src/telemetry/gpu_sensors.rs",
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
    let ops: Vec<String> = declared("src/ops/mod.rs").into_iter().filter(|name| name != "tensor").collect();
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
    for source in recipes {
        assert!(source.text.starts_with('#'), "{} does not begin with what it proves", source.path);
        let recipe = layers::load(&root().join(&source.path), &[]).unwrap_or_else(|e| panic!("{}: {e}", source.path));
        let checkpoint = recipe.model.path.clone();
        match Plan::new(recipe) {
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
            if lines > LINES_MAX {
                faults.push(format!("{}: {lines} lines of at most {LINES_MAX}", source.path));
            }
            if source.path.ends_with(".rs") && !source.text.starts_with("//! ") {
                faults.push(format!("{}: does not open with a `//!` line", source.path));
            }
        }
    }
    none("files are small and say what they are", faults);
}

/// The files of a module that a file names, as `super::name`, as `crate::module::name`, or, in the `mod.rs` of a folder, as `name`; a file in a
/// folder below is `folder/name`, its `mod.rs` is `folder`.
fn named_beside(source: &Source, module: &str, known: &BTreeMap<String, Source>) -> Vec<String> {
    let own = source.path.trim_start_matches(&format!("src/{module}/"));
    let folder = own.rsplit_once('/').map_or("", |(folder, _)| folder);
    let (above, below) = match own.ends_with("/mod.rs") {
        true => (folder.rsplit_once('/').map_or("", |(above, _)| above), folder),
        false => (folder, "-"),
    };
    let mut found = Vec::new();
    for (_, code) in source.code() {
        for (mark, folder) in [("super::", above), (&format!("crate::{module}::"), ""), ("use ", below)] {
            for (at, _) in code.match_indices(mark) {
                let path = code[at + mark.len()..].replace("::", "/");
                let path: String = path.chars().take_while(|c| c.is_alphanumeric() || "_/".contains(*c)).collect();
                let path = format!("{folder}/{path}").trim_start_matches('/').to_owned();
                let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]).rev();
                found.extend(ends.map(|end| path[..end].to_owned()).find(|name| known.contains_key(name)));
            }
        }
    }
    found
}

#[test]
fn no_circle_stands_among_the_files_of_the_server() {
    let module = "serve";
    let name = |source: &Source| {
        let path = source.path.trim_start_matches("src/serve/").trim_end_matches(".rs");
        path.trim_end_matches("/mod").to_owned()
    };
    let known: BTreeMap<String, Source> =
        files("src/serve", &["rs"]).into_iter().map(|source| (name(&source), source)).collect();
    assert!(known.len() > 20 && known.contains_key("agent/session"), "the files were not found");
    let mut left: BTreeMap<&String, Vec<String>> = known
        .iter()
        .filter(|(name, _)| *name != "mod")
        .map(|(name, source)| (name, named_beside(source, module, &known)))
        .collect();
    for (name, named) in
        [("engine_loop", "agent/session"), ("engine_loop", "engine_loop/fair"), ("response/writer", "response/wire")]
    {
        assert!(left[&name.to_owned()].contains(&named.to_owned()), "{name} names {named}");
    }
    // Takes away, again and again, the files that name none of those that are left.
    loop {
        let names: Vec<String> = left.keys().map(|name| (*name).clone()).collect();
        let before = left.len();
        left.retain(|name, named| named.iter().any(|other| other != *name && names.contains(other)));
        if left.len() == before {
            break;
        }
    }
    none("files that name each other in a circle", left.keys().map(|name| format!("src/serve/{name}.rs")).collect());
}

#[test]
fn behind_a_valid_request_nothing_reads_what_the_client_wrote() {
    const READERS: [&str; 7] = [
        "http/completions.rs",
        "http/control.rs",
        "http/routes.rs",
        "request/constraints.rs",
        "request/mod.rs",
        "request/prompt_input.rs",
        "request/settings.rs",
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
fn the_network_is_the_servers_alone() {
    let network = ["axum", "futures_util", "hyper", "hyper_util", "tokio", "ureq"];
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "serve") {
        for (number, line) in source.code() {
            let named = network.iter().filter(|name| line.contains(&format!("{name}::")));
            faults.extend(named.map(|name| format!("{}:{number}: names {name}", source.path)));
        }
    }
    none("only src/serve names the libraries of the network", faults);
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
