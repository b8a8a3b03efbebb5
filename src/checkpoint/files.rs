//! Safetensors files of a folder, single or sharded: their tensors, looked up by released name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::contents::refuse_contents;
use super::error::CheckpointError;
use super::stored_tensor::StoredTensor;
use super::tensor_file::TensorFile;
use crate::files::open::{TOKENIZER_BYTES_MAX, is_there, read_text};
use crate::hub::is_lfs_pointer;
use crate::hub::keys::shown;

/// Most files that an index may name: all are open at once.
const SHARDS_MAX: usize = 1000;
/// Released name of the embedding table.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Released name of the head, where it is not the embedding table.
pub const HEAD: &str = "lm_head.weight";

/// Parts of a name that training wraps around modules: DataParallel, torch.compile, FSDP, activation checkpointing.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// Ends of the names of rotary tables, which older versions of transformers saved and which are computed anew here.
const TABLES: [&str; 2] = ["rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"];

/// The tensors of a checkpoint folder, single or sharded.
#[derive(Debug)]
pub struct TensorFiles {
    dir: PathBuf,
    files: Vec<TensorFile>,
    /// Released name -> file and the name in it.
    names: HashMap<String, (usize, String)>,
    /// Warnings about the folder, none of which keeps it from being read.
    notes: Vec<String>,
}

impl TensorFiles {
    /// Opens `model.safetensors`, or where there is none the shards of its index, as transformers does.
    ///
    /// # Errors
    /// When the folder holds no weights that can be read, or a file is damaged: the error says what it holds instead.
    pub fn open(dir: &Path) -> Result<TensorFiles, CheckpointError> {
        let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
        refuse_contents(dir)?;
        if !is_there(&single) {
            return TensorFiles::open_files(dir, &shards(dir, &index)?);
        }
        let mut files = TensorFiles::open_files(dir, &[single])?;
        if is_there(&index) {
            let path = index.display();
            files
                .notes
                .push(format!("{path} is not read beside model.safetensors; remove the one that is out of date"));
        }
        Ok(files)
    }

    /// Opens the given files of `dir`.
    ///
    /// # Errors
    /// When one is damaged, or two tensors have one name.
    pub fn open_files(dir: &Path, paths: &[PathBuf]) -> Result<TensorFiles, CheckpointError> {
        let files = paths.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashMap::new();
        let mut wrapped = None;
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
                let plain = unwrapped(name);
                if plain != *name && wrapped.as_ref().is_none_or(|first| name < first) {
                    wrapped = Some(name.clone());
                }
                if let Some((_, other)) = names.insert(released_name(&plain), (i, name.clone())) {
                    return Err(CheckpointError::SameTensor { path: dir.to_owned(), names: [other, name.clone()] });
                }
            }
        }
        let note = |name: &String| {
            format!("tensors of {} have names such as `{name}`; they are read as `{}`", dir.display(), unwrapped(name))
        };
        Ok(TensorFiles { dir: dir.to_owned(), files, names, notes: wrapped.iter().map(note).collect() })
    }

    /// Warnings about the folder, none of which keeps it from being read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Released names of the tensors that `is_used` does not know, in order, without the rotary tables that are computed anew.
    pub fn unused(&self, is_used: impl Fn(&str) -> bool) -> Vec<&str> {
        let is_table = |name: &str| TABLES.iter().any(|end| name.ends_with(end));
        let names = self.names.keys().map(String::as_str);
        let mut unused: Vec<&str> = names.filter(|name| !is_used(name) && !is_table(name)).collect();
        unused.sort_unstable();
        unused
    }

    /// Whether there is a head that differs from the embedding table.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn has_own_head(&self) -> Result<bool, CheckpointError> {
        let (Ok(embedding), Ok(head)) = (self.stored(EMBEDDING), self.stored(HEAD)) else { return Ok(false) };
        Ok(embedding.shape != head.shape || embedding.differs_from(&head)?)
    }

    /// Checks that no file changed since it was opened.
    ///
    /// # Errors
    /// When one did.
    pub fn check_unchanged(&self) -> Result<(), CheckpointError> {
        match self.files.iter().find(|file| file.has_changed()) {
            Some(file) => Err(CheckpointError::Changed(file.path.clone())),
            None => Ok(()),
        }
    }

    /// The folder, for messages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A tensor by its released name. A head is the embedding table too where that is not stored, as in transformers.
    ///
    /// # Errors
    /// When there is none.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, CheckpointError> {
        match self.stored(name) {
            Err(_) if name == EMBEDDING && self.names.contains_key(HEAD) => self.stored(HEAD),
            found => found,
        }
    }

    fn stored(&self, name: &str) -> Result<StoredTensor<'_>, CheckpointError> {
        let missing = || CheckpointError::MissingTensor {
            path: self.dir.clone(),
            name: name.to_owned(),
            example: self.names.values().map(|(_, stored)| stored.clone()).min().unwrap_or("nothing".to_owned()),
        };
        let (file, stored_name) = self.names.get(name).ok_or_else(missing)?;
        let file = &self.files[*file];
        let info = file.tensors.get(stored_name).ok_or_else(missing)?;
        let (start, end) = info.data_offsets;
        Ok(StoredTensor {
            dtype: info.dtype,
            shape: &info.shape,
            file,
            start: file.data + start as u64,
            bytes: end - start,
        })
    }
}

/// A name without the parts that training wraps around modules.
fn unwrapped(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// transformers 5 nests the language model and the tower under `model.`; the released names are flat.
fn released_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        format!("model.{rest}")
    } else if let Some(rest) = name.strip_prefix("model.visual.") {
        format!("visual.{rest}")
    } else {
        name.to_owned()
    }
}

fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let damaged = |reason: String| CheckpointError::Damaged { path: index.to_owned(), reason };
    let text = read_text(index, TOKENIZER_BYTES_MAX).map_err(CheckpointError::file("read", index))?;
    if is_lfs_pointer(text.as_bytes()) {
        return Err(CheckpointError::Pointer(index.to_owned()));
    }
    let json: Value = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| damaged("it has no `weight_map`".to_owned()))?;
    let name = |(tensor, name): (&String, &Value)| {
        let no_name = || damaged(format!("it says that `{tensor}` is in {}, which is no file's name", shown(name)));
        name.as_str().map(str::to_owned).ok_or_else(no_name)
    };
    let mut names = map.iter().map(name).collect::<Result<Vec<String>, _>>()?;
    names.sort_unstable();
    names.dedup();
    if names.len() > SHARDS_MAX {
        return Err(damaged(format!("it names {} files; at most {SHARDS_MAX} are read", names.len())));
    }
    let is_plain = |name: &&String| !name.contains(['/', '\\']) && !["", ".", ".."].contains(&name.as_str());
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(damaged(format!("shard name `{name}` points outside the folder")));
    }
    if let Some(name) = names.iter().find(|name| !is_there(&dir.join(name))) {
        return Err(damaged(format!("it names `{name}`, which is not in the folder")));
    }
    Ok(names.iter().map(|name| dir.join(name)).collect())
}
