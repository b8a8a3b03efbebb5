//! The optimizer's half of a checkpoint: master remainders and moments as safetensors, and the list of saved steps of a run.

use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;

use super::CheckpointError;
use super::files::TensorFiles;
use super::folder::{PARTIAL, REPLACED, remove, sibling};
use super::weights::{Outgoing, write_safetensors};
use crate::model::Model;
use crate::model::parameters::Parameters;
use crate::ops::{self, Host, HostMut, Tensor};

const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Names of checkpoint folders: this, then the step.
pub const CHECKPOINT: &str = "checkpoint-";

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
    let mut tensors = Vec::new();
    for (spec, moments) in model.layout.specs.iter().zip(moments.iter()) {
        let Some(moments) = moments else { continue };
        let mut push = |suffix: &str, dtype, bytes| {
            tensors.push((format!("{}.{suffix}", spec.name()), Outgoing { dtype, shape: spec.shape.clone(), bytes }));
        };
        let remainder = move || {
            let mut values = vec![0i16; spec.len()];
            model.backend.download(&moments.remainder, HostMut::I16(&mut values));
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        };
        push("remainder", Dtype::I16, Box::new(remainder));
        for (suffix, tensor) in [("m", &moments.m), ("v", &moments.v)] {
            let floats = move || model.backend.to_f32(tensor).iter().flat_map(|v| v.to_le_bytes()).collect();
            push(suffix, Dtype::F32, Box::new(floats));
        }
    }
    write_safetensors(&dir.join(OPTIMIZER_FILE), tensors)
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
            let Ok(stored) = files.tensor(&name) else {
                return Err(CheckpointError::MissingMoments { path: dir.to_owned(), name: spec.name().to_owned() });
            };
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
            let step = name.to_str()?.strip_prefix(CHECKPOINT)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Removes the oldest checkpoints beyond `keep`. Each is whole or not listed at any moment.
pub fn prune(run: &Path, keep: usize) -> Result<(), CheckpointError> {
    let found = list(run);
    for (_, dir) in &found[..found.len().saturating_sub(keep)] {
        let partial = sibling(dir, PARTIAL);
        remove(&partial)?;
        std::fs::rename(dir, &partial).map_err(CheckpointError::file("remove", dir))?;
        remove(&partial)?;
    }
    Ok(())
}

/// Clears up what a killed process left in a run folder: unfinished checkpoints go, one that was being replaced comes back.
pub fn tidy(run: &Path) -> Result<(), CheckpointError> {
    for entry in std::fs::read_dir(run).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Some(name) = name.to_str().filter(|name| name.starts_with(CHECKPOINT)) else { continue };
        if let Some(whole) = name.strip_suffix(REPLACED).map(|name| run.join(name))
            && !whole.exists()
        {
            std::fs::rename(&path, &whole).map_err(CheckpointError::file("restore", &whole))?;
        } else if name.ends_with(PARTIAL) || name.ends_with(REPLACED) {
            remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_cleared_up_and_nothing_whole_is_lost() {
        let run = tempfile::tempdir().unwrap();
        for name in
            ["checkpoint-1", "checkpoint-2.old", "checkpoint-3", "checkpoint-3.old", "checkpoint-4.partial", "samples"]
        {
            std::fs::create_dir(run.path().join(name)).unwrap();
            std::fs::write(run.path().join(name).join("file"), name).unwrap();
        }
        tidy(run.path()).unwrap();
        let steps: Vec<u64> = list(run.path()).into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [1, 2, 3]);
        assert_eq!(std::fs::read_to_string(run.path().join("checkpoint-3/file")).unwrap(), "checkpoint-3");
        assert_eq!(std::fs::read_dir(run.path()).unwrap().count(), 4);
        prune(run.path(), 1).unwrap();
        assert_eq!(std::fs::read_dir(run.path()).unwrap().count(), 2);
    }
}
