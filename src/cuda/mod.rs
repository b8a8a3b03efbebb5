//! The CUDA backend: activations in bf16, statistics and gradients of weights in f32. An op's file here is its launch code (shapes, grid,
//! one launch each way), the op's kernels are in `kernels/<op>.cu`, and neither knows where the launch goes ([`device`]).
//!
//! A fault of a kernel is a fault of ours: it panics, with the device's report.

pub mod arena;
pub mod device;
pub mod kernels;

mod buffers;
mod columns;
mod elementwise;
mod graph_capture;

mod adamw;
mod attention;
mod copy_pages;
mod embedding;
mod gelu;
mod grad_norm;
mod layer_norm;
mod linear;
mod patch_embed;
mod qk_norm;
mod random_normal;
mod rms_norm;
mod rope;
mod rows;
mod sample;
mod swiglu;
mod table;
mod token_logprob;

use std::sync::Arc;

use crate::ops::footprint::Footprint;
use crate::ops::{Backend, Dtype, Tensor};
use arena::Arena;
use device::target::Target;
use device::{Argument, Device, DeviceError, Launch, Step};
use graph_capture::GraphCapture;

/// Activations are bf16; matrices are multiplied as they lie; decoded tokens attend to splits of their keys.
pub const FOOTPRINT: Footprint =
    Footprint { activation_bytes: size_of::<half::bf16>(), packed_elements_max: 0, splits: Some(attention::SPLITS) };

/// The backend on some device.
#[derive(Clone)]
pub struct Cuda {
    device: Arc<dyn Device>,
    arena: Arc<Arena>,
    graph_capture: Arc<GraphCapture>,
}

impl Cuda {
    /// On a given device, each tensor's memory taken from it as it is needed.
    pub fn new(device: Arc<dyn Device>) -> Cuda {
        Cuda::with_arena(device, 0).expect("no bytes are always there")
    }

    /// On a given device, with `bytes` of its memory taken at once for the tensors to come.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the device has not as much.
    pub fn with_arena(device: Arc<dyn Device>, bytes: u64) -> Result<Cuda, DeviceError> {
        let arena = Arena::new(device.clone(), bytes)?;
        Ok(Cuda { device, arena, graph_capture: Arc::default() })
    }

    /// The device, in words.
    pub fn description(&self) -> String {
        self.device.description()
    }

    /// What the device is, as far as kernels differ by it.
    pub fn target(&self) -> Target {
        self.device.target()
    }

    /// Counts the peak of [`crate::ops::Buffers::memory`] anew from what is held now.
    pub fn forget_peak(&self) {
        self.arena.forget_peak();
    }

    /// Runs a kernel, in blocks of as many threads as it says; nothing at all if the grid is empty, which is what an op on no rows comes to.
    #[track_caller]
    fn launch(&self, kernel: &str, grid: [usize; 3], arguments: &[Argument<'_>]) {
        self.launch_shared(kernel, grid, 0, arguments);
    }

    /// The same, with shared memory whose size the launch decides.
    #[track_caller]
    fn launch_shared(&self, kernel: &str, grid: [usize; 3], shared_bytes: usize, arguments: &[Argument<'_>]) {
        if grid.contains(&0) {
            return;
        }
        let grid = grid.map(|blocks| u32::try_from(blocks).expect("a grid of fewer than 2³² blocks"));
        let block = [kernels::threads(kernel) as u32, 1, 1];
        let launch = Launch { kernel, grid, block, shared_bytes, arguments };
        if self.graph_capture.note(|| Step::from(&launch)) {
            return;
        }
        if let Err(error) = self.device.launch(&launch) {
            panic!("{kernel}: {error}");
        }
    }
}

impl Backend for Cuda {}

/// A tensor as an argument under its name in the kernel.
fn tensor<'a>(role: &'static str, of: &'a Tensor) -> Argument<'a> {
    Argument::Pointer(role, buffers::span(of))
}

/// `count` of a tensor's outermost rows from `first` on, as an argument.
#[track_caller]
fn rows_of<'a>(role: &'static str, of: &'a Tensor, first: usize, count: usize) -> Argument<'a> {
    let all = buffers::span(of);
    let bytes = all.bytes() / of.shape()[0];
    Argument::Pointer(role, all.part(first * bytes, count * bytes))
}

/// An optional tensor: null where there is none.
fn optional<'a>(role: &'static str, of: Option<&'a Tensor>) -> Argument<'a> {
    of.map_or(Argument::Null, |of| tensor(role, of))
}

/// A size as the `int` that kernels take.
#[track_caller]
fn size(of: usize) -> Argument<'static> {
    Argument::I32(i32::try_from(of).expect("a size of fewer than 2³¹"))
}

/// Asserts that an argument has the shape that the contract gives it.
#[track_caller]
fn expect_shape(argument: &str, tensor: &Tensor, shape: &[usize]) {
    assert_eq!(tensor.shape(), shape, "{argument}: found {:?}, expected {shape:?}", tensor.shape());
}
