//! Patch embedding: pixels are normalised and doubled chunk by chunk, then multiplied as any other rows.

use super::linear::{self, Size, Start};
use super::{Cpu, floats, floats_mut, for_row_blocks, parameter, values};
use crate::ops::patch_embed::{PatchEmbed, PixelScale};
use crate::ops::{Dtype, Tensor};

/// Normalised values held at a time.
const EXPANDED_MAX: usize = 1 << 22;

impl PatchEmbed for Cpu {
    fn patch_embed_forward(&self, pixels: &Tensor, scale: &PixelScale, w: &Tensor) -> Tensor {
        let dim = w.rows();
        let mut y = self.empty(&[pixels.rows(), dim], Dtype::Activation);
        for_expanded(self, pixels, scale, w.cols(), |first, x| {
            let size = Size { rows: x.len() / w.cols(), cols: dim, depth: w.cols() };
            let y = &mut floats_mut(&mut y)[first * dim..][..size.rows * dim];
            linear::forward(self, x, parameter(w), Start::Zero, size, y);
        });
        y
    }

    fn patch_embed_backward(&self, dy: &Tensor, pixels: &Tensor, scale: &PixelScale, dw: &mut Tensor) {
        let (dim, cols) = (dy.cols(), dw.cols());
        assert!(
            dy.rows() == pixels.rows() && dw.rows() == dim,
            "patch_embed_backward: dy {dy:?}, pixels {pixels:?}, dw {dw:?}"
        );
        for_expanded(self, pixels, scale, cols, |first, x| {
            let rows = x.len() / cols;
            linear::add_weight_gradient(self, &floats(dy)[first * dim..][..rows * dim], x, rows, floats_mut(dw));
        });
    }
}

/// Calls `work(first_row, x)` for each chunk of rows of normalised, doubled patches `[rows, cols]`, in order.
fn for_expanded(cpu: &Cpu, pixels: &Tensor, scale: &PixelScale, cols: usize, mut work: impl FnMut(usize, &[f32])) {
    let (rows, patch) = (pixels.rows(), pixels.cols() / 3);
    assert!(
        pixels.cols() == 3 * patch && patch > 0 && cols.is_multiple_of(3 * patch),
        "patch_embed: pixels {pixels:?}, w [.., {cols}]"
    );
    let frames = cols / (3 * patch);
    let tables = tables(scale);
    let pixels = values::<u8>(pixels);
    let chunk = (EXPANDED_MAX / cols).clamp(1, rows.max(1));
    let mut expanded = cpu.scratch(chunk * cols);
    for first in (0..rows).step_by(chunk) {
        let x = &mut expanded[..chunk.min(rows - first) * cols];
        for_row_blocks(x, cols, cols, |start, block| {
            let from = pixels[(first + start) * 3 * patch..].chunks_exact(patch);
            for (channel, (to, from)) in block.chunks_exact_mut(frames * patch).zip(from).enumerate() {
                let table = &tables[channel % 3];
                for frame in to.chunks_exact_mut(patch) {
                    frame.iter_mut().zip(from).for_each(|(to, &pixel)| *to = table[usize::from(pixel)]);
                }
            }
        });
        work(first, x);
    }
}

/// The normalised value of each 8-bit pixel, by channel.
fn tables(scale: &PixelScale) -> [[f32; 256]; 3] {
    std::array::from_fn(|channel| {
        let (mean, std) = (scale.mean[channel], scale.std[channel]);
        std::array::from_fn(|pixel| (pixel as f32 * (1.0 / 255.0) - mean) / std)
    })
}
