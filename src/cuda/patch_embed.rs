//! Vision patch embedding from 8-bit pixels: `kernels/patch_embed.cu`.

use super::device::Argument;
use super::kernels::patch_embed as kernel;
use super::linear::tiles;
use super::{Cuda, expect_shape, size, tensor};
use crate::ops::patch_embed::{PatchEmbed, PixelScale};
use crate::ops::{Dtype, Tensor};

impl PatchEmbed for Cuda {
    fn patch_embed_forward(&self, pixels: &Tensor, scale: &PixelScale, w: &Tensor) -> Tensor {
        let (rows, columns) = (pixels.rows(), w.rows());
        let y = self.empty(&[rows, columns], Dtype::Activation);
        let mut arguments = vec![tensor("pixels", pixels), tensor("w", w), tensor("y", &y)];
        arguments.extend(scale_and_sizes(pixels, scale, columns, w.cols()));
        self.launch("patch_embed_forward", tiles(rows, columns), &arguments);
        y
    }

    fn patch_embed_backward(&self, dy: &Tensor, pixels: &Tensor, scale: &PixelScale, dw: &mut Tensor) {
        let (rows, columns) = (pixels.rows(), dw.rows());
        expect_shape("patch_embed_backward dy", dy, &[rows, columns]);
        let mut arguments = vec![tensor("dy", dy), tensor("pixels", pixels), tensor("dw", dw)];
        arguments.extend(scale_and_sizes(pixels, scale, columns, dw.cols()));
        self.launch("patch_embed_backward", tiles(columns, dw.cols()), &arguments);
    }
}

/// Mean and standard deviation of each channel, patches, columns of the result, frames, pixels of a patch.
#[track_caller]
fn scale_and_sizes(pixels: &Tensor, scale: &PixelScale, columns: usize, inner: usize) -> Vec<Argument<'static>> {
    let area = pixels.cols() / 3;
    let frames = inner / (3 * area).max(1);
    assert!(
        area > 0 && pixels.cols() == 3 * area && inner == 3 * frames * area,
        "patch_embed: pixels {pixels:?}, w [.., {inner}]"
    );
    let scale = Argument::by_value(&kernel::PixelScale { mean: scale.mean, std: scale.std });
    std::iter::once(scale).chain([pixels.rows(), columns, frames, area].map(size)).collect()
}
