//! What a folder holds that is not the checkpoint of a model, or that is one in a form that is not read; each with its own remedy.

use std::path::Path;

use serde_json::Value;

use super::error::CheckpointError;
use super::other_form::OtherForm;
use crate::files::open::{SETTINGS_BYTES_MAX, is_there, read};

/// Files that trainers write and that are not weights, though their names end as those of pickled weights do.
const NO_WEIGHTS: [&str; 5] = ["training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth"];

/// Refuses a folder with an adapter, and one without weights that can be read.
pub(super) fn refuse_contents(dir: &Path) -> Result<(), CheckpointError> {
    let holds = |form: OtherForm| Err(CheckpointError::OtherForm { path: dir.to_owned(), form });
    let adapter = dir.join("adapter_config.json");
    if is_there(&adapter) {
        return holds(OtherForm::Adapter(base_of(&adapter)));
    }
    if ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| is_there(&dir.join(name))) {
        return Ok(());
    }
    let mut names = names_of(dir);
    names.retain(|name| !NO_WEIGHTS.contains(&name.as_str()) && !name.starts_with("rng_state_"));
    let ending = |ends: &[&str]| {
        let has_end = |name: &&String| ends.iter().any(|end| name.to_lowercase().ends_with(end));
        names.iter().find(has_end).cloned()
    };
    if let Some(name) = ending(&["adapter_model.safetensors", "adapter_model.bin"]) {
        return holds(OtherForm::Adapter(Some(format!("the model that {name} belongs to"))));
    }
    if let Some(name) = ending(&[".safetensors"]) {
        return holds(OtherForm::Unnamed(name));
    }
    if let Some(name) = ending(&[".bin", ".pt", ".pth", ".ckpt", ".distcp"]) {
        return holds(OtherForm::Pickle(name));
    }
    if let Some(name) = ending(&[".gguf", ".ggml"]) {
        return holds(OtherForm::Gguf(name));
    }
    if let Some(name) = ending(&[".h5", ".msgpack", ".npz", ".onnx"]) {
        return holds(OtherForm::OtherLibrary(name));
    }
    match names.iter().rfind(|name| dir.join(name).join("config.json").is_file()) {
        Some(name) => holds(OtherForm::Run(name.clone())),
        None => Err(CheckpointError::NoWeights(dir.to_owned())),
    }
}

/// The model that an adapter says it belongs to.
fn base_of(adapter: &Path) -> Option<String> {
    let json: Value = serde_json::from_slice(&read(adapter, SETTINGS_BYTES_MAX).ok()?).ok()?;
    json["base_model_name_or_path"].as_str().map(str::to_owned)
}

/// What a folder holds, `checkpoint-9` before `checkpoint-10`.
fn names_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
}
