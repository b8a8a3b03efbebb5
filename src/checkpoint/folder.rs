//! Checkpoint folders: where they are, the files that travel with weights, writing a whole folder or nothing.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::CheckpointError;
use super::weights;
use crate::files::open::{SETTINGS_BYTES_MAX, TOKENIZER_BYTES_MAX, is_there, read, read_text, replace};
use crate::model::Model;
use crate::model::config::{self, Config};
use crate::model::parameters::Weights;

/// Ends the name of a folder that is being written, or removed.
pub(super) const PARTIAL: &str = ".partial";
/// Ends the name of a folder while another takes its place.
pub(super) const REPLACED: &str = ".old";

/// What makes a folder usable beside its weights.
const COMPANIONS: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];

/// The folder that `name` means: a folder as it is, or the snapshot of `org/name` (or `org/name@revision`) in the local Hugging Face
/// cache (`HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`).
///
/// # Errors
/// When there is none.
pub fn resolve(name: impl AsRef<Path>) -> Result<PathBuf, CheckpointError> {
    let dir = name.as_ref();
    if dir.is_dir() {
        return Ok(dir.to_owned());
    }
    let (name, cache) = (dir.to_string_lossy(), hub_cache());
    let not_found = || CheckpointError::NotFound { name: name.to_string(), cache: cache.clone() };
    let (repository, revision) = name.split_once('@').unwrap_or((&name, "main"));
    let (organisation, model) = repository.split_once('/').ok_or_else(not_found)?;
    let root = cache.join(format!("models--{organisation}--{model}"));
    let reference = read_text(&root.join("refs").join(revision), SETTINGS_BYTES_MAX);
    let commit = reference.as_deref().map_or(revision, str::trim);
    let snapshot = root.join("snapshots").join(commit);
    if snapshot.is_dir() { Ok(snapshot) } else { Err(not_found()) }
}

fn hub_cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .unwrap_or_else(|| set("HOME").unwrap_or_default().join(".cache/huggingface/hub"))
}

/// Writes weights and, from `companions_from`, everything else that a checkpoint needs into a new folder `dir`.
///
/// `more` adds files (optimizer state, trainer state). All goes under a temporary name first and is renamed when it is on the disk, so
/// `dir` is whole or absent; an older `dir` is replaced.
pub fn save(
    model: &Model,
    weights: &Weights,
    companions_from: &Path,
    dir: &Path,
    more: impl FnOnce(&Path) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    write_whole(dir, |temporary| {
        copy_companions(companions_from, temporary)?;
        say_whether_tied(model, temporary)?;
        weights::save(model, weights, temporary)?;
        more(temporary)
    })
}

/// Makes `config.json` say whether the head is the embedding table: it may say so of weights that hold another head.
fn say_whether_tied(model: &Model, dir: &Path) -> Result<(), CheckpointError> {
    let Ok(mut json) = config::read(dir) else { return Ok(()) };
    if Config::from_json(&json).is_ok_and(|config| config.tied == model.config.tied) {
        return Ok(());
    }
    json["tie_word_embeddings"] = model.config.tied.into();
    if let Some(Value::Object(text)) = json.get_mut("text_config") {
        text.remove("tie_word_embeddings");
    }
    let path = dir.join("config.json");
    replace(&path, format!("{json:#}\n").as_bytes()).map_err(CheckpointError::file("write", path))
}

/// Copies the files beside the weights.
pub fn copy_companions(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    for name in COMPANIONS {
        let source = from.join(name);
        if is_there(&source) {
            let bytes = read(&source, TOKENIZER_BYTES_MAX);
            bytes.and_then(|bytes| replace(&to.join(name), &bytes)).map_err(CheckpointError::file("copy", source))?;
        }
    }
    Ok(())
}

/// Fills a folder under a temporary name and renames it to `dir`.
pub fn write_whole(dir: &Path, fill: impl FnOnce(&Path) -> Result<(), CheckpointError>) -> Result<(), CheckpointError> {
    let temporary = sibling(dir, PARTIAL);
    remove(&temporary)?;
    std::fs::create_dir_all(&temporary).map_err(CheckpointError::file("create", &temporary))?;
    if let Err(error) = fill(&temporary) {
        // The first error is the one to report; what is left is removed at the next attempt too.
        let _ = std::fs::remove_dir_all(&temporary);
        return Err(error);
    }
    let old = sibling(dir, REPLACED);
    remove(&old)?;
    if is_there(dir) {
        std::fs::rename(dir, &old).map_err(CheckpointError::file("replace", dir))?;
    }
    std::fs::rename(&temporary, dir).map_err(CheckpointError::file("rename to", dir))?;
    remove(&old)
}

/// The folder beside `dir` with a longer name.
pub(super) fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    dir.with_file_name(name)
}

/// Removes a folder if it is there.
pub fn remove(dir: &Path) -> Result<(), CheckpointError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CheckpointError::file("remove", dir)(error)),
        _ => Ok(()),
    }
}
