//! The optimizer's half of a checkpoint: master remainders and moments as safetensors, and the list of saved steps of a run.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

use super::CheckpointError;
use super::files::TensorFiles;
use super::weights::write_safetensors;
use crate::model::Model;
use crate::model::parameters::Parameters;
use crate::ops::{self, Host, HostMut, Tensor};

const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// What the optimizer keeps for each trained parameter.
#[derive(Debug)]
pub struct Moments {
    /// I16: low bits of the fp32 master.
    pub remainder: Tensor,
    /// F32: first moment.
    pub m: Tensor,
    /// F32: second moment.
    pub v: Tensor,
}

/// Writes the optimizer's state into a checkpoint folder.
pub fn save_moments(model: &Model, moments: &Parameters<Option<Moments>>, dir: &Path) -> Result<(), CheckpointError> {
    let backend = &*model.backend;
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (spec, moments) in model.layout.specs.iter().zip(moments.iter()) {
        let Some(moments) = moments else { continue };
        let mut remainder = vec![0i16; spec.len()];
        backend.download(&moments.remainder, HostMut::I16(&mut remainder));
        let bytes = remainder.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((format!("{}.remainder", spec.name()), Dtype::I16, spec.shape.clone(), bytes));
        for (suffix, tensor) in [("m", &moments.m), ("v", &moments.v)] {
            let mut values = vec![0f32; spec.len()];
            backend.download(tensor, HostMut::F32(&mut values));
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.push((format!("{}.{suffix}", spec.name()), Dtype::F32, spec.shape.clone(), bytes));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("bytes of the stated shape"))
    });
    write_safetensors(&dir.join(OPTIMIZER_FILE), views)
}

/// Reads back what [`save_moments`] wrote, for the parameters present in `moments`.
pub fn load_moments(
    model: &Model,
    moments: &mut Parameters<Option<Moments>>,
    dir: &Path,
) -> Result<(), CheckpointError> {
    let files = TensorFiles::open_files(dir, &[dir.join(OPTIMIZER_FILE)])?;
    for (spec, moments) in model.layout.specs.iter().zip(moments.iter_mut()) {
        let Some(moments) = moments else { continue };
        let bytes = |suffix: &str, width: usize| {
            let name = format!("{}.{suffix}", spec.name());
            let stored = files.tensor(&name)?;
            if stored.bytes.len() != spec.len() * width {
                return Err(CheckpointError::Shape {
                    path: dir.to_owned(),
                    name,
                    found: stored.shape.to_vec(),
                    expected: spec.shape.clone(),
                });
            }
            Ok(stored.bytes)
        };
        let remainder: Vec<i16> =
            bytes("remainder", 2)?.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b)).collect();
        let floats = |suffix| {
            let bytes = bytes(suffix, 4)?;
            let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Ok::<_, CheckpointError>(model.backend.upload(Host::F32(&values), &spec.shape, ops::Dtype::F32))
        };
        moments.m = floats("m")?;
        moments.v = floats("v")?;
        moments.remainder = model.backend.upload(Host::I16(&remainder), &spec.shape, ops::Dtype::I16);
    }
    Ok(())
}

/// The checkpoints of a run folder, `(step, folder)`, ascending; unfinished ones are not listed.
pub fn list(run: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Removes the oldest checkpoints beyond `keep`.
pub fn prune(run: &Path, keep: usize) -> Result<(), CheckpointError> {
    let found = list(run);
    for (_, dir) in &found[..found.len().saturating_sub(keep)] {
        super::folder::remove(dir)?;
    }
    Ok(())
}
