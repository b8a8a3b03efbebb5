//! Device memory as tensors: bf16 for activations and parameters, f32 for the rest of the floats, integers as they are.

use std::ops::Range;

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::bf16;

use super::arena::Piece;
use super::device::{DeviceError, Span, Step};
use super::graph_capture::Replay;
use super::{Cuda, FOOTPRINT};
use crate::ops::{Buffers, CapturedGraph, Dtype, Host, HostMut, MemoryUse, Storage, Tensor};

/// A tensor's bytes.
struct Values(Piece);

impl Storage for Values {}

/// A tensor's bytes, as an argument of a launch or a copy.
pub fn span(tensor: &Tensor) -> Span<'_> {
    tensor.storage::<Values>().0.span()
}

fn element_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Activation | Dtype::Bf16 | Dtype::I16 => 2,
        Dtype::F32 | Dtype::I32 => 4,
        Dtype::U8 => 1,
    }
}

#[track_caller]
fn sound<T>(what: &str, result: Result<T, DeviceError>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

impl Cuda {
    /// A tensor whose values are undefined: for outputs that are written in full.
    #[track_caller]
    pub(super) fn empty(&self, shape: &[usize], dtype: Dtype) -> Tensor {
        let bytes = shape.iter().product::<usize>() * element_bytes(dtype);
        let piece = sound("allocating", self.arena.take(bytes));
        Tensor::new(shape, dtype, Box::new(Values(piece)))
    }

    /// Copies from the host.
    #[track_caller]
    pub(super) fn fill<T: Pod>(&self, tensor: &Tensor, values: &[T]) {
        assert!(!self.graph_capture.is_capturing(), "an upload cannot be captured");
        sound("upload", self.device.copy_in(span(tensor), cast_slice(values)));
    }

    /// Copies within the device.
    #[track_caller]
    pub(super) fn copy(&self, to: Span<'_>, from: Span<'_>) {
        let is_noted = self.graph_capture.note(|| Step::Copy { to: to.unbound(), from: from.unbound() });
        if !is_noted {
            sound("copy", self.device.copy(to, from));
        }
    }

    /// Copies to the host as bytes, and calls `meanwhile` before it waits for them.
    #[track_caller]
    pub(super) fn download_overlapped(&self, tensor: &Tensor, bytes: &mut [u8], meanwhile: &mut dyn FnMut()) {
        assert!(!self.graph_capture.is_capturing(), "a download cannot be captured");
        sound("download", self.device.copy_out_overlapped(bytes, span(tensor), meanwhile));
    }

    #[track_caller]
    fn read<T: Pod>(&self, tensor: &Tensor) -> Vec<T> {
        assert!(!self.graph_capture.is_capturing(), "a download cannot be captured");
        let mut values = vec![T::zeroed(); tensor.len()];
        sound("download", self.device.copy_out(cast_slice_mut(&mut values), span(tensor)));
        values
    }
}

impl Buffers for Cuda {
    fn name(&self) -> &'static str {
        self.device.name()
    }

    fn activation_bytes(&self) -> usize {
        FOOTPRINT.activation_bytes
    }

    fn zeros(&self, shape: &[usize], dtype: Dtype) -> Tensor {
        let mut tensor = self.empty(shape, dtype);
        self.clear(&mut tensor);
        tensor
    }

    fn upload(&self, host: Host<'_>, shape: &[usize], dtype: Dtype) -> Tensor {
        assert_eq!(host.len(), shape.iter().product::<usize>(), "upload {} values as {shape:?}", host.len());
        let mut tensor = self.empty(shape, dtype);
        self.overwrite(&mut tensor, host);
        tensor
    }

    fn overwrite(&self, tensor: &mut Tensor, host: Host<'_>) {
        assert_eq!(host.len(), tensor.len(), "overwrite {tensor:?} with {} values", host.len());
        match (tensor.dtype(), host) {
            (Dtype::Activation | Dtype::Bf16, Host::Bf16(v)) => self.fill(tensor, v),
            (Dtype::Activation | Dtype::Bf16, Host::F32(v)) => self.fill(tensor, &mapped(v, bf16::from_f32)),
            (Dtype::Activation | Dtype::Bf16, Host::F64(v)) => self.fill(tensor, &mapped(v, bf16::from_f64)),
            (Dtype::F32, Host::F32(v)) => self.fill(tensor, v),
            (Dtype::F32, Host::F64(v)) => self.fill(tensor, &mapped(v, |x| x as f32)),
            (Dtype::F32, Host::Bf16(v)) => self.fill(tensor, &mapped(v, bf16::to_f32)),
            (Dtype::I16, Host::I16(v)) => self.fill(tensor, v),
            (Dtype::I32, Host::I32(v)) => self.fill(tensor, v),
            (Dtype::U8, Host::U8(v)) => self.fill(tensor, v),
            (dtype, host) => panic!("upload of {host:?} as {dtype:?}: no such conversion"),
        }
    }

    fn download(&self, tensor: &Tensor, host: HostMut<'_>) {
        match (tensor.dtype(), host) {
            (Dtype::Activation | Dtype::Bf16, HostMut::Bf16(to)) => to.copy_from_slice(&self.read(tensor)),
            (Dtype::Activation | Dtype::Bf16, HostMut::F32(to)) => convert(&self.read(tensor), to, bf16::to_f32),
            (Dtype::Activation | Dtype::Bf16, HostMut::F64(to)) => convert(&self.read(tensor), to, bf16::to_f64),
            (Dtype::F32, HostMut::F32(to)) => to.copy_from_slice(&self.read(tensor)),
            (Dtype::F32, HostMut::F64(to)) => convert(&self.read(tensor), to, |x: f32| f64::from(x)),
            (Dtype::F32, HostMut::Bf16(to)) => convert(&self.read(tensor), to, bf16::from_f32),
            (Dtype::I16, HostMut::I16(to)) => to.copy_from_slice(&self.read(tensor)),
            (Dtype::I32, HostMut::I32(to)) => to.copy_from_slice(&self.read(tensor)),
            (Dtype::U8, HostMut::U8(to)) => to.copy_from_slice(&self.read(tensor)),
            (dtype, host) => panic!("download {tensor:?} of {dtype:?} to {host:?}"),
        }
    }

    fn synchronise(&self) {
        sound("synchronise", self.device.synchronise());
    }

    fn duplicate(&self, tensor: &Tensor) -> Tensor {
        let copy = self.empty(tensor.shape(), tensor.dtype());
        self.copy(span(&copy), span(tensor));
        copy
    }

    fn clear(&self, tensor: &mut Tensor) {
        let is_noted = self.graph_capture.note(|| Step::Zero { to: span(tensor).unbound() });
        if !is_noted {
            sound("clear", self.device.zero(span(tensor)));
        }
    }

    fn copy_indices(&self, tensor: &mut Tensor, at: usize, from: &Tensor, range: Range<usize>) {
        assert_eq!([tensor.dtype(), from.dtype()], [Dtype::I32; 2], "copy_indices: {from:?} to {tensor:?}");
        let bytes = element_bytes(Dtype::I32);
        let part = |of, begin: usize| span(of).part(begin * bytes, range.len() * bytes);
        self.copy(part(tensor, at), part(from, range.start));
    }

    fn addresses(&self, tensor: &Tensor) -> Range<u64> {
        let span = span(tensor);
        span.address()..span.address() + span.bytes() as u64
    }

    fn memory(&self) -> Option<MemoryUse> {
        Some(self.arena.usage())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Tensor) -> Option<Box<dyn CapturedGraph>> {
        Some(Box::new(Replay::capture(&self.graph_capture, &self.device, &self.arena, work)))
    }
}

fn mapped<A: Copy, B>(from: &[A], f: impl Fn(A) -> B) -> Vec<B> {
    from.iter().map(|&x| f(x)).collect()
}

fn convert<A: Copy, B>(from: &[A], to: &mut [B], f: impl Fn(A) -> B) {
    assert_eq!(from.len(), to.len(), "download: lengths");
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = f(from));
}
