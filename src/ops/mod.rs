//! The contract of every op: formula, shapes, what forward keeps for backward. A backend implements the small traits; model, engine
//! and trainer use a backend through `dyn Backend` with opaque buffers, so they are compiled once and know no device.
//!
//! - **Naming**: the gradient of `x` is `dx`. `T` tokens, `D` model width, `H` heads, `V` vocabulary, `N` rows.
//! - **Allocation**: forward returns new tensors; a backend takes them from an arena of its own and gets them back on drop.
//! - **Accumulation**: the gradient of an activation is returned; the gradient of a parameter is *added* to the `&mut` argument.
//! - **Row invariance**: an element of a forward output depends, to the bit, on its own row's inputs and the parameters only; never
//!   on which other rows share the call, nor on whether keys are packed or paged.
//! - **Shapes** are preconditions: a mismatch is a fault of the caller and panics with the op's name and the shapes.

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
}

/// Everything a device must offer.
pub trait Backend:
    Buffers
    + embedding::Embedding
    + linear::Linear
    + rms_norm::RmsNorm
    + layer_norm::LayerNorm
    + rope::Rope
    + attention::Attention
    + swiglu::Swiglu
    + gelu::Gelu
    + patch_embed::PatchEmbed
    + token_logprob::TokenLogprob
    + rows::Rows
    + sample::Sample
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
