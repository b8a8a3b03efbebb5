//! Host vectors as buffers: f64 for every float dtype, integers as they are.

use std::ops::Range;

use half::bf16;

use super::Reference;
use crate::ops::{Buffers, Dtype, Host, HostMut, Storage, Tensor};

/// A tensor's elements.
#[derive(Clone)]
enum Memory {
    /// Activation, F32 and Bf16.
    Float(Vec<f64>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    U8(Vec<u8>),
}

impl Storage for Memory {}

impl Buffers for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn activation_bytes(&self) -> usize {
        size_of::<f64>()
    }

    fn zeros(&self, shape: &[usize], dtype: Dtype) -> Tensor {
        let count = shape.iter().product();
        let memory = match dtype {
            Dtype::Activation | Dtype::F32 | Dtype::Bf16 => Memory::Float(vec![0.0; count]),
            Dtype::I16 => Memory::I16(vec![0; count]),
            Dtype::I32 => Memory::I32(vec![0; count]),
            Dtype::U8 => Memory::U8(vec![0; count]),
        };
        Tensor::new(shape, dtype, Box::new(memory))
    }

    /// Values become bf16 for `Dtype::Bf16` unless they come as f64: those stay, so that finite differences can move a parameter a
    /// little.
    fn upload(&self, values: Host<'_>, shape: &[usize], dtype: Dtype) -> Tensor {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "upload: values for {shape:?}");
        let memory = match (dtype, values) {
            (Dtype::I16, Host::I16(v)) => Memory::I16(v.to_vec()),
            (Dtype::I32, Host::I32(v)) => Memory::I32(v.to_vec()),
            (Dtype::U8, Host::U8(v)) => Memory::U8(v.to_vec()),
            (Dtype::Bf16, Host::F32(v)) => Memory::Float(v.iter().map(|x| bf16::from_f32(*x).to_f64()).collect()),
            (Dtype::Activation | Dtype::F32 | Dtype::Bf16, Host::F64(v)) => Memory::Float(v.to_vec()),
            (Dtype::Activation | Dtype::F32 | Dtype::Bf16, Host::Bf16(v)) => {
                Memory::Float(v.iter().map(|x| x.to_f64()).collect())
            }
            (Dtype::Activation | Dtype::F32, Host::F32(v)) => Memory::Float(v.iter().map(|x| f64::from(*x)).collect()),
            _ => panic!("upload: {dtype:?} from other host values than its kind"),
        };
        Tensor::new(shape, dtype, Box::new(memory))
    }

    fn download(&self, tensor: &Tensor, values: HostMut<'_>) {
        match (tensor.storage::<Memory>(), values) {
            (Memory::Float(from), HostMut::F64(to)) => to.copy_from_slice(from),
            (Memory::Float(from), HostMut::F32(to)) => convert(from, to, |x| x as f32),
            (Memory::Float(from), HostMut::Bf16(to)) => convert(from, to, bf16::from_f64),
            (Memory::I16(from), HostMut::I16(to)) => to.copy_from_slice(from),
            (Memory::I32(from), HostMut::I32(to)) => to.copy_from_slice(from),
            (Memory::U8(from), HostMut::U8(to)) => to.copy_from_slice(from),
            _ => panic!("download: {tensor:?} to other host values than its kind"),
        }
    }

    fn duplicate(&self, tensor: &Tensor) -> Tensor {
        Tensor::new(tensor.shape(), tensor.dtype(), Box::new(tensor.storage::<Memory>().clone()))
    }

    fn clear(&self, tensor: &mut Tensor) {
        match tensor.storage_mut() {
            Memory::Float(v) => v.fill(0.0),
            Memory::I16(v) => v.fill(0),
            Memory::I32(v) => v.fill(0),
            Memory::U8(v) => v.fill(0),
        }
    }

    fn addresses(&self, tensor: &Tensor) -> Range<u64> {
        let bytes: &[u8] = match tensor.storage::<Memory>() {
            Memory::Float(v) => bytemuck::cast_slice(v),
            Memory::I16(v) => bytemuck::cast_slice(v),
            Memory::I32(v) => bytemuck::cast_slice(v),
            Memory::U8(v) => v,
        };
        let range = bytes.as_ptr_range();
        range.start as u64..range.end as u64
    }
}

fn convert<T>(from: &[f64], to: &mut [T], with: impl Fn(f64) -> T) {
    assert_eq!(from.len(), to.len(), "download: lengths");
    for (to, from) in to.iter_mut().zip(from) {
        *to = with(*from);
    }
}

/// A new tensor of floats.
pub fn floats(values: Vec<f64>, shape: &[usize], dtype: Dtype) -> Tensor {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "values for {shape:?}");
    Tensor::new(shape, dtype, Box::new(Memory::Float(values)))
}

/// A float tensor's elements.
pub fn f64s(tensor: &Tensor) -> &[f64] {
    match tensor.storage() {
        Memory::Float(values) => values,
        _ => panic!("{tensor:?} where floats are expected"),
    }
}

/// A float tensor's elements, to write.
pub fn f64s_mut(tensor: &mut Tensor) -> &mut [f64] {
    match tensor.storage_mut() {
        Memory::Float(values) => values,
        _ => panic!("integers where floats are expected"),
    }
}

/// An index tensor's elements.
pub fn i32s(tensor: &Tensor) -> &[i32] {
    match tensor.storage() {
        Memory::I32(values) => values,
        _ => panic!("{tensor:?} where indices are expected"),
    }
}

/// A remainder tensor's elements, to write.
pub fn i16s_mut(tensor: &mut Tensor) -> &mut [i16] {
    match tensor.storage_mut() {
        Memory::I16(values) => values,
        _ => panic!("other elements where remainders are expected"),
    }
}

/// A byte tensor's elements.
pub fn u8s(tensor: &Tensor) -> &[u8] {
    match tensor.storage() {
        Memory::U8(values) => values,
        _ => panic!("{tensor:?} where bytes are expected"),
    }
}

/// A byte tensor's elements, to write.
pub fn u8s_mut(tensor: &mut Tensor) -> &mut [u8] {
    match tensor.storage_mut() {
        Memory::U8(values) => values,
        _ => panic!("other elements where bytes are expected"),
    }
}
