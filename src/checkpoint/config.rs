//! A folder's config, with what only the whole folder says: whether the head is the embedding table, and which keys have no effect.

use std::path::Path;

use super::contents::refuse_contents;
use super::error::CheckpointError;
use super::files::TensorFiles;
use crate::files::open::is_there;
use crate::model::config::{self, Config};
use crate::prompt;

/// Reads `dir/config.json`, and warns of the keys in the folder's config files that have no effect. A head of its own beside
/// `tie_word_embeddings` is used, as in transformers 5.
///
/// # Errors
/// When the config cannot be read, or says what is not built.
pub fn open(dir: &Path) -> Result<Config, CheckpointError> {
    // A folder that belongs to another kind says so before its missing config does.
    if !is_there(&dir.join("config.json"))
        && let Err(error @ CheckpointError::OtherForm { .. }) = refuse_contents(dir)
    {
        return Err(error);
    }
    let json = config::read(dir)?;
    let mut config = Config::from_json(&json)?;
    let path = dir.join("config.json");
    for warning in Config::warnings(&json) {
        tracing::warn!("{}: {warning}", path.display());
    }
    for warning in prompt::warnings(dir) {
        tracing::warn!("{warning}");
    }
    // A folder without weights, or with damaged ones, is reported where they are read.
    if config.tied && TensorFiles::open(dir).and_then(|files| files.has_own_head()).unwrap_or(false) {
        tracing::warn!(
            "{}: tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight, so it is the head, as in \
             transformers; set tie_word_embeddings to false",
            path.display()
        );
        config.tied = false;
    }
    Ok(config)
}
