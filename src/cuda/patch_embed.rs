//! Vision patch embedding from 8-bit pixels: `kernels/patch_embed.cu` and linear's products.

use super::device::Argument;
use super::kernels::patch_embed as kernel;
use super::{Cuda, expect_shape, size, tensor};
use crate::ops::linear::Linear;
use crate::ops::patch_embed::{PatchEmbed, PixelScale};
use crate::ops::{Dtype, Tensor};

impl PatchEmbed for Cuda {
    fn patch_embed_forward(&self, pixels: &Tensor, scale: &PixelScale, w: &Tensor) -> Tensor {
        self.linear_forward(&self.expanded(pixels, scale, w.cols()), w, None)
    }

    fn patch_embed_backward(&self, dy: &Tensor, pixels: &Tensor, scale: &PixelScale, dw: &mut Tensor) {
        expect_shape("patch_embed_backward dy", dy, &[pixels.rows(), dw.rows()]);
        self.linear_backward_weight(dy, &self.expanded(pixels, scale, dw.cols()), dw, None);
    }
}

impl Cuda {
    /// x of the formula: normalised pixels, each frame with them, `[N, inner]`.
    #[track_caller]
    fn expanded(&self, pixels: &Tensor, scale: &PixelScale, inner: usize) -> Tensor {
        let (rows, area) = (pixels.rows(), pixels.cols() / 3);
        let frames = inner / (3 * area).max(1);
        assert!(
            area > 0 && pixels.cols() == 3 * area && inner == 3 * frames * area,
            "patch_embed: pixels {pixels:?}, w [.., {inner}]"
        );
        let x = self.empty(&[rows, inner], Dtype::Activation);
        self.launch(
            "patch_embed_expand",
            [rows.div_ceil(kernel::PATCHES_PER_BLOCK), 1, 1],
            &[
                tensor("pixels", pixels),
                tensor("x", &x),
                Argument::by_value(&kernel::PixelScale { mean: scale.mean, std: scale.std }),
                size(rows),
                size(frames),
                size(area),
            ],
        );
        x
    }
}
