//! The optimizer's half of a checkpoint: master remainders and moments as safetensors, and the list of saved steps of a run.

use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;

use super::error::CheckpointError;
use super::files::TensorFiles;
use super::folder::{PARTIAL, REPLACED, remove, sibling};
use super::weights::{Outgoing, write_safetensors};
use crate::files::open::is_there;
use crate::model::Model;
use crate::model::parameters::{Parameters, Spec};
use crate::ops::adamw::{CodeMap, MOMENT_BLOCK, Moment, SIGNED, UNSIGNED};
use crate::ops::{self, Host, HostMut, Tensor};

const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Names of checkpoint folders: this, then the step.
pub const CHECKPOINT: &str = "checkpoint-";

/// What the optimizer keeps for each trained parameter.
#[derive(Debug)]
pub struct Moments {
    /// I16: low bits of the fp32 master.
    pub remainder: Tensor,
    /// First moment: running mean of the gradient.
    pub m: Moment,
    /// Second moment: running mean of the gradient's square, as [`Moment`] stores it.
    pub v: Moment,
}

impl Moments {
    /// Values and scales of both moments.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.m, &self.v].into_iter().flat_map(|moment| [Some(&moment.values), moment.scales.as_ref()]).flatten()
    }
}

/// Writes the optimizer's state into a checkpoint folder: of each trained parameter `.remainder`, `.m` and `.v` of the shape that it is held
/// in, padding included; the latter two in F32, or as U8 codes with `.m_scales` and `.v_scales` beside them.
pub fn save_moments(model: &Model, moments: &Parameters<Option<Moments>>, dir: &Path) -> Result<(), CheckpointError> {
    let mut tensors = Vec::new();
    for (spec, moments) in model.layout.specs.iter().zip(moments.iter()) {
        let Some(Moments { remainder, m, v }) = moments else { continue };
        let mut push = |suffix: &str, tensor| {
            tensors.push((format!("{}.{suffix}", spec.name()), outgoing(model, tensor)));
        };
        push("remainder", remainder);
        for (suffix, scales_suffix, moment) in [("m", "m_scales", m), ("v", "v_scales", v)] {
            push(suffix, &moment.values);
            moment.scales.iter().for_each(|scales| push(scales_suffix, scales));
        }
    }
    write_safetensors(&dir.join(OPTIMIZER_FILE), tensors)
}

/// A tensor of F32, I16 or U8 as it goes into a file.
fn outgoing<'a>(model: &'a Model, tensor: &'a Tensor) -> Outgoing<'a> {
    let (dtype, bytes): (_, Box<dyn Fn() -> Vec<u8>>) = match tensor.dtype() {
        ops::Dtype::I16 => (
            Dtype::I16,
            Box::new(|| {
                let mut values = vec![0i16; tensor.len()];
                model.backend.download(tensor, HostMut::I16(&mut values));
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }),
        ),
        ops::Dtype::U8 => (
            Dtype::U8,
            Box::new(|| {
                let mut values = vec![0u8; tensor.len()];
                model.backend.download(tensor, HostMut::U8(&mut values));
                values
            }),
        ),
        _ => (Dtype::F32, Box::new(|| model.backend.to_f32(tensor).iter().flat_map(|v| v.to_le_bytes()).collect())),
    };
    Outgoing { dtype, shape: tensor.shape().to_vec(), bytes }
}

/// Reads back what [`save_moments`] wrote, for the parameters present in `moments`; also where it was written without padding.
///
/// # Errors
/// A parameter without state, one whose moments are stored in another form than those of `moments`, and state that no optimizer has: of
/// another element type or shape, not finite, or a second moment below zero.
pub fn load_moments(
    model: &Model,
    moments: &mut Parameters<Option<Moments>>,
    dir: &Path,
) -> Result<(), CheckpointError> {
    let files = TensorFiles::open_files(dir, &[dir.join(OPTIMIZER_FILE)])?;
    for (spec, moments) in model.layout.specs.iter().zip(moments.iter_mut()) {
        let Some(moments) = moments else { continue };
        let stored = |suffix: &str| {
            let missing = |_| CheckpointError::MissingMoments { path: dir.to_owned(), name: spec.name().to_owned() };
            files.tensor(&format!("{}.{suffix}", spec.name())).map_err(missing)
        };
        let load = |suffix: &str, holds: fn(f32) -> bool, tensor: &mut Tensor| {
            let loaded = stored(suffix)?;
            let name = format!("{}.{suffix}", spec.name());
            let wrong = |problem: String| CheckpointError::State {
                path: dir.join(OPTIMIZER_FILE),
                name: name.clone(),
                problem,
            };
            let expected = stored_dtype(tensor);
            if loaded.dtype != expected {
                return Err(wrong(format!("has element type {:?}; it must be {expected:?}", loaded.dtype)));
            }
            let is_without_padding = spec.is_padded() && loaded.shape == spec.stored_shape();
            if loaded.shape != tensor.shape() && !is_without_padding {
                let (found, expected) = (loaded.shape.to_vec(), tensor.shape().to_vec());
                return Err(CheckpointError::Shape { path: dir.to_owned(), name, found, expected });
            }
            let mut bytes = loaded.read()?;
            if is_without_padding {
                bytes = padded_bytes(spec, &bytes);
            }
            match overwrite(model, &bytes, tensor, holds) {
                None => Ok(()),
                Some((index, value)) => Err(wrong(format!("is {value} at element {index}, which no optimizer keeps"))),
            }
        };
        load("remainder", |_| true, &mut moments.remainder)?;
        let of_second = |value: f32| value.is_finite() && value >= 0.0;
        for (suffix, scales_suffix, holds, moment) in [
            ("m", "m_scales", f32::is_finite as fn(f32) -> bool, &mut moments.m),
            ("v", "v_scales", of_second, &mut moments.v),
        ] {
            let (is_8bit, expects_8bit) = (stored(suffix)?.dtype == Dtype::U8, moment.scales.is_some());
            if is_8bit != expects_8bit {
                let [found, expected] = [is_8bit, expects_8bit].map(|is| if is { "adamw_8bit" } else { "adamw" });
                let (path, name) = (dir.to_owned(), spec.name().to_owned());
                return Err(CheckpointError::MomentKind { path, name, found, expected });
            }
            if is_8bit && spec.is_padded() && stored(suffix)?.shape == spec.stored_shape() {
                let (codes, scales) = (stored(suffix)?.read()?, stored(scales_suffix)?);
                let blocks = codes.len().div_ceil(MOMENT_BLOCK);
                if scales.dtype != Dtype::F32 || scales.shape != [blocks] {
                    let (name, found) = (format!("{}.{scales_suffix}", spec.name()), scales.shape.to_vec());
                    return Err(CheckpointError::Shape { path: dir.to_owned(), name, found, expected: vec![blocks] });
                }
                let scales = floats(&scales.read()?);
                if let Some(index) = scales.iter().position(|&scale| !of_second(scale)) {
                    let problem = format!("is {} at element {index}, which no optimizer keeps", scales[index]);
                    let (path, name) = (dir.join(OPTIMIZER_FILE), format!("{}.{scales_suffix}", spec.name()));
                    return Err(CheckpointError::State { path, name, problem });
                }
                regroup(model, spec, if suffix == "m" { &SIGNED } else { &UNSIGNED }, &codes, &scales, moment);
                continue;
            }
            load(suffix, holds, &mut moment.values)?;
            if let Some(scales) = &mut moment.scales {
                load(scales_suffix, of_second, scales)?;
            }
        }
    }
    files.check_unchanged()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Takes up codes and scales of a moment without its parameter's padding: padded, other elements share a scale.
fn regroup(model: &Model, spec: &Spec, map: &CodeMap, codes: &[u8], scales: &[f32], moment: &mut Moment) {
    let numbers = codes.iter().enumerate().map(|(i, code)| map.value(*code) * scales[i / MOMENT_BLOCK]);
    let numbers = spec.padded(&numbers.collect::<Vec<f32>>());
    let scale = |block: &[f32]| block.iter().fold(0.0f32, |largest, x| largest.max(x.abs())).min(f32::MAX);
    let scales: Vec<f32> = numbers.chunks(MOMENT_BLOCK).map(scale).collect();
    let code = |(i, x): (usize, &f32)| match scales[i / MOMENT_BLOCK] {
        0.0 => 0,
        scale => map.code(x / scale),
    };
    let codes: Vec<u8> = numbers.iter().enumerate().map(code).collect();
    model.backend.overwrite(&mut moment.values, Host::U8(&codes));
    moment.scales.iter_mut().for_each(|to| model.backend.overwrite(to, Host::F32(&scales)));
}

/// Little-endian elements without a parameter's padding as those with it.
fn padded_bytes(spec: &Spec, stored: &[u8]) -> Vec<u8> {
    fn of<const SIZE: usize>(spec: &Spec, stored: &[u8]) -> Vec<u8>
    where
        [u8; SIZE]: Default,
    {
        spec.padded(stored.as_chunks::<SIZE>().0).into_flattened()
    }
    match stored.len() / spec.stored_len() {
        1 => of::<1>(spec, stored),
        2 => of::<2>(spec, stored),
        _ => of::<4>(spec, stored),
    }
}

/// The element type that a tensor is stored with.
fn stored_dtype(tensor: &Tensor) -> Dtype {
    match tensor.dtype() {
        ops::Dtype::I16 => Dtype::I16,
        ops::Dtype::U8 => Dtype::U8,
        _ => Dtype::F32,
    }
}

/// Writes little-endian elements over a tensor's, unless `holds` says no to a float: which one, and its value.
fn overwrite(model: &Model, bytes: &[u8], tensor: &mut Tensor, holds: fn(f32) -> bool) -> Option<(usize, f32)> {
    let own: Vec<f32>;
    let remainders: Vec<i16>;
    let values = match stored_dtype(tensor) {
        Dtype::I16 => {
            remainders = bytes.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b)).collect();
            Host::I16(&remainders)
        }
        Dtype::F32 => {
            own = floats(bytes);
            if let Some(index) = own.iter().position(|&value| !holds(value)) {
                return Some((index, own[index]));
            }
            Host::F32(&own)
        }
        _ => Host::U8(bytes),
    };
    model.backend.overwrite(tensor, values);
    None
}

/// The checkpoints of a run folder, `(step, folder)`, ascending; unfinished ones are not listed.
pub fn list(run: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(CHECKPOINT)?;
            // Only as this program writes it: two names must not mean one step.
            let step = number.parse().ok().filter(|step: &u64| step.to_string() == number)?;
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
            && !is_there(&whole)
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
