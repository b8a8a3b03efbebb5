//! `thyme-engine init`: a checkpoint with random weights, of any size that a config says.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::device::Device;
use super::jsonl::print;
use crate::checkpoint::{CheckpointError, folder, init, weights};
use crate::files::open::{SETTINGS_BYTES_MAX, is_there, read_text, replace};
use crate::model::Model;
use crate::model::config::Config;
use crate::ops::Tensor;

/// Make a checkpoint with random weights.
#[derive(Debug, Args)]
#[command(after_help = "Example: thyme-engine init --config recipes/tiny/config.json --seed 0 --out tiny

The tokenizer, chat template and preprocessor config beside the config are copied too, so that the folder can be trained and run.")]
pub struct InitArguments {
    /// The config.json of a Qwen2-VL or Qwen2.5-VL.
    #[arg(long, value_name = "config.json")]
    config: PathBuf,
    /// The same seed gives the same weights on every machine.
    #[arg(long, value_name = "S")]
    seed: u64,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where to draw them.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

/// Runs the command.
pub fn run(arguments: &InitArguments) -> anyhow::Result<()> {
    let (path, out) = (&arguments.config, &arguments.out);
    let text = read_text(path, SETTINGS_BYTES_MAX)
        .with_context(|| format!("cannot read {}; give a checkpoint's config.json", path.display()))?;
    let json = serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    let config = Config::from_json(&json).with_context(|| path.display().to_string())?;
    for warning in Config::warnings(&json) {
        tracing::warn!("{}: {warning}", path.display());
    }
    let is_empty = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    let is_taken = is_there(out) && !is_empty;
    anyhow::ensure!(!is_taken, "{} is there already; choose another --out, or remove it first", out.display());
    let out = std::path::absolute(out).with_context(|| format!("{} is no path", out.display()))?;
    let backend = arguments.device.backend(&config)?;
    let model = Model::new(config, backend);
    let random = init::random_weights(&model, arguments.seed);
    let companions = path.parent().unwrap_or(Path::new(""));
    folder::write_whole(&out, |dir| {
        folder::copy_companions(companions, dir)?;
        replace(&dir.join("config.json"), text.as_bytes())
            .map_err(CheckpointError::file("write", dir.join("config.json")))?;
        weights::save(&model, &random, dir)
    })?;
    let parameters: usize = random.values.iter().map(Tensor::len).sum();
    print(&format!("{parameters} parameters in {}\n", out.display()))?;
    Ok(())
}
