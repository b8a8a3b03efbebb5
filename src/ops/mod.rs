//! The contract of every op: formula, shapes, what forward keeps for backward. A backend implements the small traits; model, engine
//! and trainer use a backend through `dyn Backend` with opaque buffers, so they are compiled once and know no device.
//!
//! - **Naming**: the gradient of `x` is `dx`. `T` tokens, `D` model width, `H` heads, `V` vocabulary, `N` rows.
//! - **Allocation**: forward returns new tensors; a backend takes them from an arena of its own and gets them back on drop.
//! - **Accumulation**: the gradient of an activation is returned; the gradient of a parameter is *added* to the `&mut` argument.
//! - **Row invariance**: an element of a forward output depends, to the bit, on its own row's inputs and the parameters only; never
//!   on which other rows share the call, nor on whether keys are packed or paged.
//! - **Shapes** are preconditions: a mismatch is a fault of the caller and panics with the op's name and the shapes.
#![doc = include_str!("README.md")]

use std::ops::Range;
use std::sync::Arc;

pub mod footprint;
pub mod tensor;

pub mod adamw;
pub mod attention;
pub mod copy_pages;
pub mod embedding;
pub mod gelu;
pub mod grad_norm;
pub mod layer_norm;
pub mod linear;
pub mod patch_embed;
pub mod qk_norm;
pub mod random_normal;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod swiglu;
pub mod token_logprob;

pub use tensor::{Dtype, Host, HostMut, Storage, Tensor};

/// Buffers of a backend: made here, filled from and read to host memory.
pub trait Buffers {
    /// Short name for messages: `"cpu"`, `"reference"`.
    fn name(&self) -> &'static str;
    /// Bytes of an element of [`Dtype::Activation`].
    fn activation_bytes(&self) -> usize;
    /// A tensor of zeros.
    fn zeros(&self, shape: &[usize], dtype: Dtype) -> Tensor;
    /// Copies host values into a new tensor, converting to `dtype` (to bf16: to nearest, ties to even).
    fn upload(&self, values: Host<'_>, shape: &[usize], dtype: Dtype) -> Tensor;
    /// Copies a tensor's values out, converting to the host type. Panics unless the lengths agree.
    fn download(&self, tensor: &Tensor, values: HostMut<'_>);
    /// A copy of `tensor`.
    fn duplicate(&self, tensor: &Tensor) -> Tensor;
    /// Sets every element to zero.
    fn clear(&self, tensor: &mut Tensor);
    /// Writes host values over a tensor's, converting as [`Buffers::upload`] does.
    fn overwrite(&self, tensor: &mut Tensor, values: Host<'_>) {
        *tensor = self.upload(values, tensor.shape(), tensor.dtype());
    }
    /// Writes the elements `range` of `from` over those of `tensor` from `at` on; both I32.
    fn copy_indices(&self, tensor: &mut Tensor, at: usize, from: &Tensor, range: Range<usize>) {
        let [mut to, mut values] = [vec![0; tensor.len()], vec![0; from.len()]];
        self.download(tensor, HostMut::I32(&mut to));
        self.download(from, HostMut::I32(&mut values));
        to[at..at + range.len()].copy_from_slice(&values[range]);
        self.overwrite(tensor, Host::I32(&to));
    }
    /// The addresses that a tensor takes up.
    fn addresses(&self, tensor: &Tensor) -> Range<u64>;
    /// Gives large pieces of memory that no tensor holds back to the system, if the backend keeps such: another use of them is to come.
    fn trim(&self) {}
    /// Gives all memory that no tensor holds back to the system, if the backend keeps such: nothing is computed for a while.
    fn release_unused(&self) {}
    /// Waits until all that was asked for is done; there is nothing to wait for where work is done at once.
    fn synchronise(&self) {}
    /// What tensors hold of the device's memory, where it is counted.
    fn memory(&self) -> Option<MemoryUse> {
        None
    }
    /// Captures what `work` asks for instead of doing it, so that it can be replayed; `None`, with nothing captured, where the
    /// device gains nothing by it. `work` neither uploads nor downloads. The tensors that it touches have to live, and to be changed in
    /// place only, until the last replay.
    fn capture(&self, work: &mut dyn FnMut() -> Tensor) -> Option<Box<dyn CapturedGraph>> {
        let _ = work;
        None
    }
}

/// Work that was captured.
pub trait CapturedGraph: Send + Sync {
    /// Does the work with the values that its tensors have now. The result is overwritten by the next replay.
    fn replay(&self) -> Arc<Tensor>;
}

/// Bytes that tensors hold of a device's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    /// Taken from the device at the start, in one piece.
    pub arena: u64,
    /// Held by tensors.
    pub held: u64,
    /// Held at most.
    pub peak: u64,
    /// Taken from the device beyond the arena, at most.
    pub beyond: u64,
}

/// An arena is larger than what is held by this part of it.
const ARENA_SLACK: u128 = 64;
/// And by these bytes.
const ARENA_SLACK_MIN: u128 = 64 << 20;

/// Bytes of an arena for tensors of `held` bytes: beside what is held, it has room for what no piece fits into.
pub fn arena_bytes(held: u128) -> u64 {
    u64::try_from(held + held / ARENA_SLACK + ARENA_SLACK_MIN).unwrap_or(u64::MAX)
}

/// Bytes that tensors can hold of an arena of `arena` bytes; `None` where it is too small for any.
pub fn usable_bytes(arena: u64) -> Option<u128> {
    Some(u128::from(arena).checked_sub(ARENA_SLACK_MIN)? * ARENA_SLACK / (ARENA_SLACK + 1))
}

/// Everything a device must offer.
pub trait Backend:
    Buffers
    + embedding::Embedding
    + linear::Linear
    + rms_norm::RmsNorm
    + layer_norm::LayerNorm
    + qk_norm::QkNorm
    + rope::Rope
    + attention::Attention
    + swiglu::Swiglu
    + gelu::Gelu
    + patch_embed::PatchEmbed
    + token_logprob::TokenLogprob
    + rows::Rows
    + sample::Sample
    + random_normal::RandomNormal
    + grad_norm::GradNorm
    + adamw::Adamw
    + copy_pages::CopyPages
    + Send
    + Sync
{
}

/// Conveniences over [`Buffers`] that every backend shares.
impl dyn Backend + '_ {
    /// Uploads `values` as an index tensor `[values.len()]`.
    pub fn indices(&self, values: &[i32]) -> Tensor {
        self.upload(Host::I32(values), &[values.len()], Dtype::I32)
    }

    /// The tensor's values as `f32`.
    pub fn to_f32(&self, tensor: &Tensor) -> Vec<f32> {
        let mut values = vec![0.0; tensor.len()];
        self.download(tensor, HostMut::F32(&mut values));
        values
    }
}
