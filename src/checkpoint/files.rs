//! Safetensors files of a folder: mapped, checked, looked up by released name.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};

use super::CheckpointError;

/// The tensors of a checkpoint folder, single or sharded.
#[derive(Debug)]
pub struct TensorFiles {
    dir: PathBuf,
    files: Vec<MappedFile>,
    /// Released name -> file and the name in it.
    names: HashMap<String, (usize, String)>,
}

#[derive(Debug)]
struct MappedFile {
    map: Mmap,
    metadata: Metadata,
    /// Where the data begins.
    data: usize,
}

/// One stored tensor.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    /// Element type as stored.
    pub dtype: Dtype,
    /// Shape as stored.
    pub shape: &'a [usize],
    /// Little-endian elements.
    pub bytes: &'a [u8],
}

impl TensorFiles {
    /// Maps `model.safetensors`, or the shards of its index.
    pub fn open(dir: &Path) -> Result<TensorFiles, CheckpointError> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let paths = match (index.exists(), single.exists()) {
            (true, _) => shards(dir, &index)?,
            (false, true) => vec![single],
            (false, false) => return Err(CheckpointError::NoWeights(dir.to_owned())),
        };
        TensorFiles::open_files(dir, &paths)
    }

    /// Maps the given files of `dir`.
    pub fn open_files(dir: &Path, paths: &[PathBuf]) -> Result<TensorFiles, CheckpointError> {
        let files = paths.iter().map(|path| MappedFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.metadata.tensors().keys() {
                names.insert(released_name(name), (i, name.clone()));
            }
        }
        Ok(TensorFiles { dir: dir.to_owned(), files, names })
    }

    /// The folder, for messages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A tensor by its released name.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, CheckpointError> {
        let missing = || CheckpointError::MissingTensor { path: self.dir.clone(), name: name.to_owned() };
        let (file, stored_name) = self.names.get(name).ok_or_else(missing)?;
        let file = &self.files[*file];
        let info = file.metadata.info(stored_name).ok_or_else(missing)?;
        let (start, end) = info.data_offsets;
        let bytes = &file.map[file.data + start..file.data + end];
        Ok(StoredTensor { dtype: info.dtype, shape: &info.shape, bytes })
    }
}

impl MappedFile {
    fn open(path: &Path) -> Result<MappedFile, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::file("read", path))?;
        // SAFETY: the mapping is read-only; checkpoints are replaced by rename, never changed in place.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::file("map", path))?;
        let damaged = |reason: String| CheckpointError::Damaged { path: path.to_owned(), reason };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| damaged(e.to_string()))?;
        let data = header + 8;
        let expected = data + metadata.data_len();
        if map.len() != expected {
            return Err(damaged(format!("it has {} bytes, its header says {expected}", map.len())));
        }
        Ok(MappedFile { map, metadata, data })
    }
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
    let text = std::fs::read_to_string(index).map_err(CheckpointError::file("read", index))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| damaged("it has no `weight_map`".to_owned()))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(damaged(format!("shard name `{name}` points outside the folder")));
    }
    if let Some(name) = names.iter().find(|name| !dir.join(name).is_file()) {
        return Err(damaged(format!("it names `{name}`, which is not in the folder")));
    }
    Ok(names.iter().map(|name| dir.join(name)).collect())
}
