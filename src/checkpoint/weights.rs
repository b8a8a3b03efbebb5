//! Weights from and to safetensors: any of bf16, f16, f32 in; bf16 under released names out.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::path::Path;

use half::bf16;
use safetensors::tensor::{Dtype, View};

use super::error::{CheckpointError, ForeignTensor};
use super::files::{HEAD, TensorFiles};
use super::stored_tensor::StoredTensor;
use crate::files::open::{is_there, open_regular, replace};
use crate::model::Model;
use crate::model::config::{self, Config};
use crate::model::parameters::{Parameters, Source, Spec, Weights};
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
/// When the folder's tensors are not those of the layout, or change meanwhile.
pub(super) fn load(model: &Model, dir: &Path) -> Result<Weights, CheckpointError> {
    let files = open(model, dir)?;
    let values = Parameters::try_from_layout(&model.layout, |spec| {
        let values = read_parameter(&files, spec)?;
        Ok::<_, CheckpointError>(model.backend.upload(Host::Bf16(&values), &spec.shape, ops::Dtype::Bf16))
    })?;
    files.check_unchanged()?;
    let mut sources = model.layout.specs.iter().flat_map(|spec| &spec.sources);
    let dtype =
        sources.find_map(|source| Some(files.tensor(&source.name).ok()?.dtype).filter(|dtype| *dtype != Dtype::BF16));
    if let Some(dtype) = dtype {
        tracing::info!("weights of {} are {dtype:?}; converted to bf16", dir.display());
    }
    Ok(Weights::new(values))
}

/// A folder whose weights fit a model: all were looked through, none is kept.
#[derive(Debug)]
pub struct Checked {
    files: TensorFiles,
}

/// Looks through the weights of a folder that are to stand in place of a model's present ones: names, shapes, element types and values.
///
/// # Errors
/// Those of [`super::Checkpoint::weights`], and where the folder's config describes another model.
pub fn check(model: &Model, dir: &Path) -> Result<Checked, CheckpointError> {
    let own = &model.config;
    if is_there(&dir.join("config.json")) {
        let Config { context_tokens, init_std, tied, .. } = *own;
        let stored = Config::from_json(&config::read(dir)?)?;
        if (Config { context_tokens, init_std, tied, ..stored }) != *own {
            return Err(CheckpointError::OtherConfig(dir.to_owned()));
        }
    }
    let files = open(model, dir)?;
    for spec in &model.layout.specs {
        for (source, stored) in parameter(&files, spec)? {
            if let Some(index) = stored.first_not_finite()? {
                return Err(not_finite(&files, &source.name, index));
            }
        }
    }
    files.check_unchanged()?;
    Ok(Checked { files })
}

impl Checked {
    /// Reads the weights over the present ones, in the same tensors.
    ///
    /// # Errors
    /// When the files changed since they were looked through, or cannot be read any more. Then some weights are the old ones and some the
    /// new ones: they are of no use until a folder is read whole.
    pub fn copy(self, model: &Model, weights: &mut Weights) -> Result<(), CheckpointError> {
        // Whatever comes of it, what was computed with the old weights is void.
        weights.version += 1;
        for (spec, tensor) in model.layout.specs.iter().zip(weights.values.iter_mut()) {
            model.backend.overwrite(tensor, Host::Bf16(&read_parameter(&self.files, spec)?));
        }
        self.files.check_unchanged()
    }
}

/// Why a folder's weights do not stand in place of the present ones.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// They cannot be used; the present ones are as they were.
    #[error(transparent)]
    Refused(CheckpointError),
    /// They were read in part only: neither the present weights nor the new ones are there.
    #[error(transparent)]
    Incomplete(CheckpointError),
}

/// Reads the weights of a folder over the present ones, in the same tensors. All is looked through before the first is changed, so that an
/// unusable folder changes nothing, and no weight is there twice.
///
/// # Errors
/// Those of [`check`] and of [`Checked::copy`].
pub fn reload(model: &Model, weights: &mut Weights, dir: &Path) -> Result<(), ReloadError> {
    check(model, dir).map_err(ReloadError::Refused)?.copy(model, weights).map_err(ReloadError::Incomplete)
}

/// The files of a folder, checked for tensors that the layout has no place for, and for those that it asks for.
fn open(model: &Model, dir: &Path) -> Result<TensorFiles, CheckpointError> {
    let files = TensorFiles::open(dir)?;
    files.notes().iter().for_each(|note| tracing::warn!("{note}"));
    let used: BTreeSet<&str> =
        model.layout.specs.iter().flat_map(|spec| spec.sources.iter().map(|source| source.name.as_str())).collect();
    let unused = files.unused(|name| used.contains(name) || (model.config.tied && name == HEAD));
    for (parts, kind) in [(ADAPTER_PARTS, ForeignTensor::Adapter), (QUANTISED_PARTS, ForeignTensor::Quantised)] {
        if let Some(name) = unused.iter().find(|name| name.split('.').any(|part| parts.contains(&part))) {
            return Err(CheckpointError::ForeignTensor { path: dir.to_owned(), name: (*name).to_owned(), kind });
        }
    }
    if model.config.tied && files.has_own_head()? {
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
    // Nothing is allocated for what the files do not hold.
    model.layout.specs.iter().try_for_each(|spec| parameter(&files, spec).map(drop))?;
    Ok(files)
}

/// The stored tensors that a parameter is made of, of the shapes and element types that it asks for.
fn parameter<'a>(
    files: &'a TensorFiles,
    spec: &'a Spec,
) -> Result<Vec<(&'a Source, StoredTensor<'a>)>, CheckpointError> {
    let cols = spec.source_cols;
    let stored = |source: &'a Source| {
        let Source { name, rows } = source;
        let (rows, stored) = (rows.len(), files.tensor(name)?);
        // Matrices may be stored with more dimensions (the patch embedding's convolution); rows and elements must agree.
        if stored.shape.first() != Some(&rows) || stored.len() != rows * cols {
            let expected = if spec.shape.len() == 1 { vec![rows] } else { vec![rows, cols] };
            return Err(CheckpointError::Shape {
                path: files.dir().to_owned(),
                name: name.clone(),
                found: stored.shape.to_vec(),
                expected,
            });
        }
        if !stored.is_float() {
            return Err(CheckpointError::Dtype {
                path: files.dir().to_owned(),
                name: name.clone(),
                dtype: format!("{:?}", stored.dtype),
            });
        }
        Ok((source, stored))
    };
    spec.sources.iter().map(stored).collect()
}

/// One parameter's values: its sources stacked by rows.
fn read_parameter(files: &TensorFiles, spec: &Spec) -> Result<Vec<bf16>, CheckpointError> {
    let sources = parameter(files, spec)?;
    let mut values = vec![bf16::ZERO; spec.len()];
    for (source, stored) in sources {
        // What goes to its place as it is read needs no copy.
        let mut apart = vec![bf16::ZERO; if spec.is_padded() { stored.len() } else { 0 }];
        let own = match spec.is_padded() {
            true => &mut apart[..],
            false => &mut values[source.rows.start * spec.cols()..source.rows.end * spec.cols()],
        };
        stored.read_bf16(own)?;
        if let Some(index) = own.iter().position(|value| !value.is_finite()) {
            return Err(not_finite(files, &source.name, index));
        }
        if spec.is_padded() {
            spec.place_source(source, &apart, &mut values);
        }
    }
    Ok(values)
}

fn not_finite(files: &TensorFiles, name: &str, index: usize) -> CheckpointError {
    CheckpointError::NotFinite { path: files.dir().to_owned(), name: name.to_owned(), index }
}

/// Writes all weights into `dir` under their released names, in as many files as their size asks for.
pub fn save(model: &Model, weights: &Weights, dir: &Path) -> Result<(), CheckpointError> {
    let mut tensors = Vec::new();
    for (spec, tensor) in model.layout.specs.iter().zip(weights.values.iter()) {
        for source in &spec.sources {
            let Source { name, rows } = source;
            let bytes = move || {
                let mut values = vec![bf16::ZERO; tensor.len()];
                model.backend.download(tensor, HostMut::Bf16(&mut values));
                let own = spec.source_elements(source, &values);
                let mut bytes = vec![0; 2 * own.len()];
                bytes.as_chunks_mut().0.iter_mut().zip(own).for_each(|(to, v)| *to = v.to_le_bytes());
                bytes
            };
            let shape = stored_shape(model, spec, name, rows.len(), spec.source_cols);
            tensors.push((name.as_str(), Outgoing { dtype: Dtype::BF16, shape, bytes: Box::new(bytes) }));
        }
    }
    write_shards(dir, tensors)
}

/// The released shape: the patch embedding is a convolution there.
fn stored_shape(model: &Model, spec: &Spec, name: &str, rows: usize, cols: usize) -> Vec<usize> {
    match &model.config.vision {
        Some(vision) if name.ends_with("patch_embed.proj.weight") => {
            vec![rows, 3, vision.frames, vision.patch, vision.patch]
        }
        _ if spec.shape.len() == 1 => vec![rows],
        _ => vec![rows, cols],
    }
}

/// A tensor to write. Its bytes are fetched when its turn comes, so that one tensor is copied at a time.
pub(super) struct Outgoing<'a> {
    pub dtype: Dtype,
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
    replace(&path, format!("{index:#}\n").as_bytes()).map_err(CheckpointError::file("write", path))
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
    let rights = replace(path, &[]).and_then(|()| path.metadata()).map_err(CheckpointError::file("create", path))?;
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|e| CheckpointError::file("write", path)(as_io(e)))?;
    let file = open_regular(path).map_err(CheckpointError::file("read", path))?;
    file.set_permissions(rights.permissions())
        .and_then(|()| file.sync_all())
        .map_err(CheckpointError::file("flush", path))
}
