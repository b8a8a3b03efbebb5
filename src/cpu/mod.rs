//! The fast CPU backend: row-invariant kernels over f32 activations and bf16 parameters, on all cores.
//!
//! Results do not depend on the number of threads: work is cut at fixed places, and every output element is computed by one task.
//!
//! `simd/` is sixteen f32 lanes on AVX-512, AVX2 or plain arrays; `linear.rs` the matrix product that everything large goes through (beside a matrix
//! of up to 16 Mi elements it keeps the same bf16 values in the order in which it reads them, until they are written); `log_sum_exp.rs` the one
//! log-sum-exp that the sampler and the trainer share.

pub mod simd;
mod tasks;

mod adamw;
mod attention;
mod copy_pages;
mod embedding;
mod gelu;
mod grad_norm;
mod layer_norm;
mod linear;
mod log_sum_exp;
mod memory;
mod patch_embed;
mod qk_norm;
mod random_normal;
mod rms_norm;
mod rope;
mod rows;
mod sample;
mod swiglu;
mod token_logprob;

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use rayon::prelude::*;

use crate::ops::{Backend, Buffers, Dtype, Host, HostMut, Storage, Tensor};
pub use memory::FOOTPRINT;
use memory::{Floats, Parameter, Pool};
use simd::Simd;

/// The CPU backend. Clones share one pool of memory.
#[derive(Clone, Debug)]
pub struct Cpu {
    simd: Simd,
    pool: Arc<Pool>,
}

impl Cpu {
    /// With the widest instruction set of this machine.
    pub fn new() -> Cpu {
        Cpu::with_simd(Simd::detect())
    }

    /// With a given instruction set; the bits are the same with any.
    pub fn with_simd(simd: Simd) -> Cpu {
        Cpu { simd, pool: Arc::default() }
    }

    /// A tensor of Activation or F32 whose values are unspecified: for outputs that are written in full.
    fn empty(&self, shape: &[usize], dtype: Dtype) -> Tensor {
        assert!(matches!(dtype, Dtype::Activation | Dtype::F32), "empty {dtype:?}");
        Tensor::new(shape, dtype, Box::new(self.scratch(shape.iter().product())))
    }

    /// `len` floats of unspecified value from the pool, for use within an op.
    fn scratch(&self, len: usize) -> Floats {
        Floats::new(&self.pool, len)
    }
}

impl Default for Cpu {
    fn default() -> Cpu {
        Cpu::new()
    }
}

/// The storage of the other element types.
struct Values<T>(Vec<T>);

impl<T: Any + Send + Sync> Storage for Values<T> {}

/// The values of an Activation or F32 tensor.
fn floats(tensor: &Tensor) -> &[f32] {
    tensor.storage::<Floats>()
}

/// The values of an Activation or F32 tensor, to write.
fn floats_mut(tensor: &mut Tensor) -> &mut [f32] {
    tensor.storage_mut::<Floats>()
}

/// A Bf16 tensor.
fn parameter(tensor: &Tensor) -> &Parameter {
    tensor.storage()
}

/// The values of a Bf16 tensor.
fn bf16s(tensor: &Tensor) -> &[bf16] {
    parameter(tensor).values()
}

/// The values of a Bf16 tensor, to write.
fn bf16s_mut(tensor: &mut Tensor) -> &mut [bf16] {
    tensor.storage_mut::<Parameter>().values_mut()
}

/// The values of a tensor of `T` = i16, i32 or u8.
fn values<T: Any + Send + Sync>(tensor: &Tensor) -> &[T] {
    &tensor.storage::<Values<T>>().0
}

/// The values of a tensor of `T` = i16, i32 or u8, to write.
fn values_mut<T: Any + Send + Sync>(tensor: &mut Tensor) -> &mut [T] {
    &mut tensor.storage_mut::<Values<T>>().0
}

/// Floating-point operations below which a second thread costs more than it saves.
const PARALLEL_COST: usize = 100_000;

/// Runs `work(first_row, rows)` over blocks of whole rows of `values`, on all threads when there is work for them. `cost` is the
/// rough number of operations per row. Blocks differ with the number of threads, so `work` must treat each row by itself.
fn for_row_blocks(values: &mut [f32], cols: usize, cost: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if values.is_empty() {
        return;
    }
    let rows = values.len() / cols;
    let threads = rayon::current_num_threads();
    if threads == 1 || rows == 1 || rows * cost < PARALLEL_COST {
        return work(0, values);
    }
    let block = rows.div_ceil(4 * threads).max(PARALLEL_COST.div_ceil(4 * cost.max(1))).min(rows.div_ceil(threads));
    values.par_chunks_mut(block * cols).enumerate().for_each(|(i, rows)| work(i * block, rows));
}

impl Buffers for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn activation_bytes(&self) -> usize {
        FOOTPRINT.activation_bytes
    }

    fn zeros(&self, shape: &[usize], dtype: Dtype) -> Tensor {
        let len = shape.iter().product();
        match dtype {
            Dtype::Activation | Dtype::F32 => {
                let mut tensor = self.empty(shape, dtype);
                floats_mut(&mut tensor).fill(0.0);
                tensor
            }
            Dtype::Bf16 => Tensor::new(shape, dtype, Box::new(Parameter::new(vec![bf16::ZERO; len]))),
            Dtype::I16 => Tensor::new(shape, dtype, Box::new(Values(vec![0i16; len]))),
            Dtype::I32 => Tensor::new(shape, dtype, Box::new(Values(vec![0i32; len]))),
            Dtype::U8 => Tensor::new(shape, dtype, Box::new(Values(vec![0u8; len]))),
        }
    }

    fn upload(&self, host: Host<'_>, shape: &[usize], dtype: Dtype) -> Tensor {
        assert_eq!(host.len(), shape.iter().product::<usize>(), "upload {} values as {shape:?}", host.len());
        match dtype {
            Dtype::Activation | Dtype::F32 => {
                let mut tensor = self.empty(shape, dtype);
                let to = floats_mut(&mut tensor);
                match host {
                    Host::F32(from) => to.copy_from_slice(from),
                    Host::F64(from) => convert(from, to, |x| x as f32),
                    Host::Bf16(from) => convert(from, to, bf16::to_f32),
                    Host::I16(from) => convert(from, to, f32::from),
                    Host::I32(from) => convert(from, to, |x| x as f32),
                    Host::U8(from) => convert(from, to, f32::from),
                }
                tensor
            }
            Dtype::Bf16 => {
                let values = match host {
                    Host::Bf16(from) => from.to_vec(),
                    Host::F32(from) => from.iter().map(|&x| bf16::from_f32(x)).collect(),
                    Host::F64(from) => from.iter().map(|&x| bf16::from_f64(x)).collect(),
                    Host::I16(_) | Host::I32(_) | Host::U8(_) => refuse_conversion(host, dtype),
                };
                Tensor::new(shape, dtype, Box::new(Parameter::new(values)))
            }
            Dtype::I16 => match host {
                Host::I16(from) => Tensor::new(shape, dtype, Box::new(Values(from.to_vec()))),
                _ => refuse_conversion(host, dtype),
            },
            Dtype::I32 => match host {
                Host::I32(from) => Tensor::new(shape, dtype, Box::new(Values(from.to_vec()))),
                _ => refuse_conversion(host, dtype),
            },
            Dtype::U8 => match host {
                Host::U8(from) => Tensor::new(shape, dtype, Box::new(Values(from.to_vec()))),
                _ => refuse_conversion(host, dtype),
            },
        }
    }

    fn download(&self, tensor: &Tensor, host: HostMut<'_>) {
        match (tensor.dtype(), host) {
            (Dtype::Activation | Dtype::F32, HostMut::F32(to)) => to.copy_from_slice(floats(tensor)),
            (Dtype::Activation | Dtype::F32, HostMut::F64(to)) => convert(floats(tensor), to, f64::from),
            (Dtype::Activation | Dtype::F32, HostMut::Bf16(to)) => convert(floats(tensor), to, bf16::from_f32),
            (Dtype::Bf16, HostMut::Bf16(to)) => to.copy_from_slice(bf16s(tensor)),
            (Dtype::Bf16, HostMut::F32(to)) => convert(bf16s(tensor), to, bf16::to_f32),
            (Dtype::Bf16, HostMut::F64(to)) => convert(bf16s(tensor), to, bf16::to_f64),
            (Dtype::I16, HostMut::I16(to)) => to.copy_from_slice(values(tensor)),
            (Dtype::I16, HostMut::F64(to)) => convert(values::<i16>(tensor), to, f64::from),
            (Dtype::I32, HostMut::I32(to)) => to.copy_from_slice(values(tensor)),
            (Dtype::I32, HostMut::F64(to)) => convert(values::<i32>(tensor), to, f64::from),
            (Dtype::U8, HostMut::U8(to)) => to.copy_from_slice(values(tensor)),
            (Dtype::U8, HostMut::I32(to)) => convert(values::<u8>(tensor), to, i32::from),
            (dtype, host) => panic!("download {tensor:?} of {dtype:?} to {host:?}"),
        }
    }

    fn duplicate(&self, tensor: &Tensor) -> Tensor {
        let (shape, dtype) = (tensor.shape(), tensor.dtype());
        match dtype {
            Dtype::Activation | Dtype::F32 => {
                let mut copy = self.empty(shape, dtype);
                floats_mut(&mut copy).copy_from_slice(floats(tensor));
                copy
            }
            Dtype::Bf16 => Tensor::new(shape, dtype, Box::new(Parameter::new(bf16s(tensor).to_vec()))),
            Dtype::I16 => Tensor::new(shape, dtype, Box::new(Values(values::<i16>(tensor).to_vec()))),
            Dtype::I32 => Tensor::new(shape, dtype, Box::new(Values(values::<i32>(tensor).to_vec()))),
            Dtype::U8 => Tensor::new(shape, dtype, Box::new(Values(values::<u8>(tensor).to_vec()))),
        }
    }

    fn clear(&self, tensor: &mut Tensor) {
        match tensor.dtype() {
            Dtype::Activation | Dtype::F32 => floats_mut(tensor).fill(0.0),
            Dtype::Bf16 => bf16s_mut(tensor).fill(bf16::ZERO),
            Dtype::I16 => values_mut(tensor).fill(0i16),
            Dtype::I32 => values_mut(tensor).fill(0i32),
            Dtype::U8 => values_mut(tensor).fill(0u8),
        }
    }

    fn addresses(&self, tensor: &Tensor) -> Range<u64> {
        let bytes: &[u8] = match tensor.dtype() {
            Dtype::Activation | Dtype::F32 => bytemuck::cast_slice(floats(tensor)),
            Dtype::Bf16 => bytemuck::cast_slice(bf16s(tensor)),
            Dtype::I16 => bytemuck::cast_slice(values::<i16>(tensor)),
            Dtype::I32 => bytemuck::cast_slice(values::<i32>(tensor)),
            Dtype::U8 => values::<u8>(tensor),
        };
        let range = bytes.as_ptr_range();
        range.start as u64..range.end as u64
    }

    fn trim(&self) {
        self.pool.trim();
    }

    fn release_unused(&self) {
        self.pool.release();
    }
}

impl Backend for Cpu {}

fn convert<A: Copy, B>(from: &[A], to: &mut [B], f: impl Fn(A) -> B) {
    assert_eq!(from.len(), to.len(), "copy of {} values to {}", from.len(), to.len());
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f(from);
    }
}

fn refuse_conversion(host: Host<'_>, dtype: Dtype) -> ! {
    let kind = match host {
        Host::F64(_) => "f64",
        Host::F32(_) => "f32",
        Host::Bf16(_) => "bf16",
        Host::I16(_) => "i16",
        Host::I32(_) => "i32",
        Host::U8(_) => "u8",
    };
    panic!("upload of {kind} values as {dtype:?}: no such conversion")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_dropped_tensor_is_used_again() {
        let cpu = Cpu::new();
        let first = floats(&cpu.zeros(&[100, 100], Dtype::Activation)).as_ptr();
        let again = cpu.zeros(&[99, 100], Dtype::F32);
        assert_eq!(floats(&again).as_ptr(), first);
        assert!(floats(&again).iter().all(|&x| x == 0.0));
    }

    #[test]
    fn values_survive_upload_and_download() {
        let cpu = Cpu::new();
        let tensor = cpu.upload(Host::F32(&[1.0, 1.003_906_3, -2.5]), &[3], Dtype::Bf16);
        let mut back = [0.0f32; 3];
        cpu.download(&cpu.duplicate(&tensor), HostMut::F32(&mut back));
        assert_eq!(back, [1.0, 1.0, -2.5]);
    }
}
