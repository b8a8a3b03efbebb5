//! Vision patch embedding: see [`crate::ops::patch_embed`].

use super::buffers::{floats, u8s};
use super::{Reference, expect_shape};
use crate::ops::linear::Linear;
use crate::ops::patch_embed::{PatchEmbed, PixelScale};
use crate::ops::{Dtype, Tensor};

impl PatchEmbed for Reference {
    fn patch_embed_forward(&self, pixels: &Tensor, scale: &PixelScale, w: &Tensor) -> Tensor {
        self.linear_forward(&normalised(pixels, scale, w.cols()), w, None)
    }

    fn patch_embed_backward(&self, dy: &Tensor, pixels: &Tensor, scale: &PixelScale, dw: &mut Tensor) {
        let x = normalised(pixels, scale, dw.cols());
        self.linear_backward_weight(dy, &x, dw, None);
    }
}

/// The patches `[N, 3 · frames · P]` from pixels `[N, 3 · P]`: f32 arithmetic, as the contract says, then widened.
fn normalised(pixels: &Tensor, scale: &PixelScale, width: usize) -> Tensor {
    let (patches, area) = (pixels.rows(), pixels.cols() / 3);
    assert_eq!(pixels.cols() % 3, 0, "patch_embed pixels {pixels:?}");
    let frames = width / pixels.cols().max(1);
    let mut x = Vec::with_capacity(patches * width);
    for (i, plane) in u8s(pixels).chunks_exact(area).enumerate() {
        let (mean, std) = (scale.mean[i % 3], scale.std[i % 3]);
        for _ in 0..frames {
            x.extend(plane.iter().map(|p| f64::from((f32::from(*p) * (1.0 / 255.0) - mean) / std)));
        }
    }
    let x = floats(x, &[patches, 3 * frames * area], Dtype::Activation);
    expect_shape("patch_embed patches", &x, &[patches, width]);
    x
}
