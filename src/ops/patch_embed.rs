//! Vision patch embedding from 8-bit pixels: normalise, double the frame, project.

use super::Tensor;

/// `x[n, c, f, p] = (pixel[n, c, p] / 255 − mean[c]) / std[c]` for every frame `f` of the temporal patch, `y = x wᵀ`.
pub trait PatchEmbed {
    /// pixels U8 `[N, 3 · P]` (channel, then the P pixels of a patch); w Bf16 `[D, 3 · frames · P]`. Returns Activation `[N, D]`.
    fn patch_embed_forward(&self, pixels: &Tensor, scale: &PixelScale, w: &Tensor) -> Tensor;
    /// `dw += dyᵀ x`; dw F32 `[D, 3 · frames · P]`.
    fn patch_embed_backward(&self, dy: &Tensor, pixels: &Tensor, scale: &PixelScale, dw: &mut Tensor);
}

/// Per-channel normalisation, computed in f32 as transformers does: `pixel · (1/255)`, minus mean, divided by std.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PixelScale {
    /// Mean of each channel.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}
