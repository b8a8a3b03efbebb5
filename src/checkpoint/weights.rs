//! Weights from and to safetensors: any of bf16, f16, f32 in; bf16 under released names out.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::path::Path;

use half::bf16;
use safetensors::tensor::{Dtype, View};

use super::files::{HEAD, TensorFiles};
use super::{CheckpointError, ForeignTensor};
use crate::model::Model;
use crate::model::config::Config;
use crate::model::parameters::{Parameters, Spec, Weights};
use crate::ops::{self, Host, HostMut};

/// Largest size of one file that is written.
const SHARD_BYTES: usize = 5_000_000_000;
/// Parts of the names of tensors that only an adapter has.
const ADAPTER_PARTS: &[&str] = &[
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "base_layer",
    "base_model",
    "modules_to_save",
];
/// Parts of the names of tensors that only a quantised checkpoint has: GPTQ and AWQ, bitsandbytes, FP8, compressed-tensors.
const QUANTISED_PARTS: &[&str] = &[
    "qweight",
    "qzeros",
    "g_idx",
    "absmax",
    "quant_map",
    "SCB",
    "weight_scale",
    "weight_scale_inv",
    "weight_packed",
    "input_scale",
];

/// Reads the weights of `model`'s layout from a folder. Warns of the folder's notes ([`TensorFiles::notes`]), of tensors that are not used, and
/// of weights that are rounded to bf16.
///
/// # Errors
/// When the folder's tensors are not those of the layout.
pub fn load(model: &Model, dir: &Path) -> Result<Weights, CheckpointError> {
    let files = open(model, dir)?;
    let mut converted = None;
    let values = Parameters::try_from_layout(&model.layout, |spec| {
        let values = read_parameter(&files, spec, &mut converted)?;
        Ok::<_, CheckpointError>(model.backend.upload(Host::Bf16(&values), &spec.shape, ops::Dtype::Bf16))
    })?;
    if let Some(dtype) = converted {
        tracing::info!("weights of {} are {dtype:?}; converted to bf16", dir.display());
    }
    Ok(Weights { values, version: 0 })
}

/// Reads the weights of a folder over the present ones, in the same tensors. All is looked through before the first is changed, so that an
/// unusable folder changes nothing.
///
/// # Errors
/// As [`load`], and where the folder's config describes another model.
pub fn reload(model: &Model, weights: &mut Weights, dir: &Path) -> Result<(), CheckpointError> {
    let own = &model.config;
    if dir.join("config.json").exists() {
        let Config { context_tokens, init_std, tied, .. } = *own;
        if (Config { context_tokens, init_std, tied, ..Config::open(dir)? }) != *own {
            return Err(CheckpointError::OtherConfig(dir.to_owned()));
        }
    }
    let files = open(model, dir)?;
    for spec in &model.layout.specs {
        read_parameter(&files, spec, &mut None)?;
    }
    for (spec, tensor) in model.layout.specs.iter().zip(weights.values.iter_mut()) {
        model.backend.overwrite(tensor, Host::Bf16(&read_parameter(&files, spec, &mut None)?));
    }
    weights.version += 1;
    Ok(())
}

/// The files of a folder, checked for tensors that the layout has no place for.
fn open(model: &Model, dir: &Path) -> Result<TensorFiles, CheckpointError> {
    let files = TensorFiles::open(dir)?;
    files.notes().iter().for_each(|note| tracing::warn!("{note}"));
    let used: BTreeSet<&str> =
        model.layout.specs.iter().flat_map(|spec| spec.sources.iter().map(|(name, _)| name.as_str())).collect();
    let unused = files.unused(|name| used.contains(name) || (model.config.tied && name == HEAD));
    for (parts, kind) in [(ADAPTER_PARTS, ForeignTensor::Adapter), (QUANTISED_PARTS, ForeignTensor::Quantised)] {
        if let Some(name) = unused.iter().find(|name| name.split('.').any(|part| parts.contains(&part))) {
            return Err(CheckpointError::ForeignTensor { path: dir.to_owned(), name: (*name).to_owned(), kind });
        }
    }
    if model.config.tied && files.has_own_head() {
        return Err(CheckpointError::OwnHead(dir.to_owned()));
    }
    if let [first, ..] = unused.as_slice() {
        tracing::warn!(
            "{} holds {} tensors that config.json does not ask for; they are not used: {first}{}",
            dir.display(),
            unused.len(),
            if unused.len() > 1 { ", ..." } else { "" }
        );
    }
    Ok(files)
}

/// One parameter's values: its sources stacked by rows.
fn read_parameter(
    files: &TensorFiles,
    spec: &Spec,
    converted: &mut Option<Dtype>,
) -> Result<Vec<bf16>, CheckpointError> {
    let mut values = Vec::with_capacity(spec.len());
    let cols = spec.len() / spec.shape[0];
    for (name, rows) in &spec.sources {
        let stored = files.tensor(name)?;
        // Matrices may be stored with more dimensions (the patch embedding's convolution); rows and elements must agree.
        let elements: usize = stored.shape.iter().product();
        if stored.shape.first() != Some(rows) || elements != rows * cols {
            let expected = if spec.shape.len() == 1 { vec![*rows] } else { vec![*rows, cols] };
            return Err(CheckpointError::Shape {
                path: files.dir().to_owned(),
                name: name.clone(),
                found: stored.shape.to_vec(),
                expected,
            });
        }
        let read = stored.values().ok_or_else(|| CheckpointError::Dtype {
            path: files.dir().to_owned(),
            name: name.clone(),
            dtype: format!("{:?}", stored.dtype),
        })?;
        if stored.dtype != Dtype::BF16 {
            *converted = Some(stored.dtype);
        }
        if let Some(index) = read.iter().position(|v| !v.is_finite()) {
            return Err(CheckpointError::NotFinite { path: files.dir().to_owned(), name: name.clone(), index });
        }
        values.extend(read);
    }
    Ok(values)
}

/// Writes all weights into `dir` under their released names, in as many files as their size asks for.
pub fn save(model: &Model, weights: &Weights, dir: &Path) -> Result<(), CheckpointError> {
    let mut tensors = Vec::new();
    for (spec, tensor) in model.layout.specs.iter().zip(weights.values.iter()) {
        let cols = spec.len() / spec.shape[0];
        let mut first = 0;
        for (name, rows) in &spec.sources {
            let part = first * cols..(first + rows) * cols;
            first += rows;
            let bytes = move || {
                let mut values = vec![bf16::ZERO; tensor.len()];
                model.backend.download(tensor, HostMut::Bf16(&mut values));
                let mut bytes = vec![0; 2 * part.len()];
                bytes.as_chunks_mut().0.iter_mut().zip(&values[part.clone()]).for_each(|(to, v)| *to = v.to_le_bytes());
                bytes
            };
            let shape = stored_shape(model, spec, name, *rows, cols);
            tensors.push((name.as_str(), Outgoing { dtype: Dtype::BF16, shape, bytes: Box::new(bytes) }));
        }
    }
    write_shards(dir, tensors)
}

/// The released shape: the patch embedding is a convolution there.
fn stored_shape(model: &Model, spec: &Spec, name: &str, rows: usize, cols: usize) -> Vec<usize> {
    let vision = &model.config.vision;
    if name.ends_with("patch_embed.proj.weight") {
        vec![rows, 3, vision.frames, vision.patch, vision.patch]
    } else if spec.shape.len() == 1 {
        vec![rows]
    } else {
        vec![rows, cols]
    }
}

/// A tensor to write. Its bytes are fetched when its turn comes, so that one tensor is copied at a time.
pub(super) struct Outgoing<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Fetches little-endian elements.
    pub bytes: Box<dyn Fn() -> Vec<u8> + 'a>,
}

impl View for Outgoing<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.bytes)().into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

type Named<'a> = (&'a str, Outgoing<'a>);

fn write_shards(dir: &Path, tensors: Vec<Named<'_>>) -> Result<(), CheckpointError> {
    let total: usize = tensors.iter().map(|(_, tensor)| tensor.data_len()).sum();
    let mut shards: Vec<Vec<Named<'_>>> = vec![Vec::new()];
    let mut size = 0;
    for tensor in tensors {
        if size + tensor.1.data_len() > SHARD_BYTES && size > 0 {
            shards.push(Vec::new());
            size = 0;
        }
        size += tensor.1.data_len();
        shards.last_mut().expect("there is a first shard").push(tensor);
    }
    let count = shards.len();
    if count == 1 {
        return write_safetensors(&dir.join("model.safetensors"), shards.remove(0));
    }
    let mut weight_map = serde_json::Map::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        weight_map.extend(shard.iter().map(|(name, _)| ((*name).to_owned(), file.clone().into())));
        write_safetensors(&dir.join(&file), shard)?;
    }
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    let path = dir.join("model.safetensors.index.json");
    std::fs::write(&path, format!("{index:#}\n")).map_err(CheckpointError::file("write", path))
}

/// Writes one safetensors file marked as transformers expects, and flushes it to the disk.
pub(super) fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (impl AsRef<str> + Ord + Display, Outgoing<'a>)>,
) -> Result<(), CheckpointError> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let as_io = |e: safetensors::SafeTensorError| match e {
        safetensors::SafeTensorError::IoError(e) => e,
        other => std::io::Error::other(other.to_string()),
    };
    // The library writes a file that only its owner may read; this one gets the rights that any new file gets.
    let rights =
        std::fs::File::create(path).and_then(|file| file.metadata()).map_err(CheckpointError::file("create", path))?;
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|e| CheckpointError::file("write", path)(as_io(e)))?;
    let file = std::fs::File::open(path).map_err(CheckpointError::file("read", path))?;
    file.set_permissions(rights.permissions())
        .and_then(|()| file.sync_all())
        .map_err(CheckpointError::file("flush", path))
}
