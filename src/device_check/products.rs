//! Matrix products with a parameter, and the patch embedding, which is one.

use super::calls::{Calls, real, small};
use super::check::{Check, Sizes};
use super::values::{Values, start};
use crate::ops::patch_embed::PixelScale;
use crate::ops::{Dtype, Host};

/// CLIP's, as the Qwen2-VL family uses.
const SCALE: PixelScale =
    PixelScale { mean: [0.481_454_66, 0.457_827_5, 0.408_210_73], std: [0.268_629_54, 0.261_302_6, 0.275_777_1] };

/// Sizes below a tile, of whole ones and of more with a rest, of odd and even lines; more tiles of rows than go down at a time; results that
/// are large enough for the largest tiles.
const SMALL: [[usize; 3]; 9] = [
    [1, 3, 1],
    [7, 64, 5],
    [32, 64, 24],
    [33, 257, 70],
    [65, 96, 131],
    [130, 40, 64],
    [1027, 8, 70],
    [64, 16, 6152],
    [129, 24, 6200],
];
/// A decoding step's and a micro-batch's, of Qwen2.5-VL-7B and Qwen2-VL-2B.
const REAL: [[usize; 3]; 4] = [[8, 3584, 4608], [64, 3584, 37_888], [33, 18_944, 3584], [512, 1536, 8960]];

/// Elements of a gradient that the host compares.
const GRADIENT_MAX: usize = 1 << 25;

/// The checks of these ops.
pub fn checks(sizes: Sizes) -> Vec<Check> {
    let mut checks = Vec::new();
    for size in SMALL {
        checks.push(small("linear", shape(size), move |calls| linear(calls, size)));
    }
    for size in [[1, 4, 1, 11], [33, 9, 2, 11], [70, 196, 2, 96]] {
        checks.push(small("patch_embed", patches(size), move |calls| patch_embed(calls, size)));
    }
    if sizes == Sizes::Real {
        for size in REAL {
            checks.push(real("linear", shape(size), move |calls| linear(calls, size)));
        }
        let size = [1024, 196, 2, 1280];
        checks.push(real("patch_embed", patches(size), move |calls| patch_embed(calls, size)));
    }
    checks
}

fn shape([rows, inner, columns]: [usize; 3]) -> String {
    format!("[{rows}, {inner}] to {columns}")
}

fn patches([rows, area, frames, columns]: [usize; 4]) -> String {
    format!("{rows} patches of {frames} frames of {area} pixels to {columns}")
}

fn linear(calls: &mut Calls<'_>, [rows, inner, columns]: [usize; 3]) {
    let (backend, mut random) = (calls.backend, Values::new(1));
    let x = random.activation(backend, &[rows, inner]);
    let w = random.matrix(backend, [columns, inner]);
    let b = random.vector(backend, columns);
    let dy = random.activation(backend, &[rows, columns]);
    let chain = inner.max(columns).max(rows);
    for b in [Some(&b), None] {
        let y = calls.call("linear_forward", |backend| backend.linear_forward(&x, &w, b));
        calls.out("y", &y, chain);
    }
    let dx = calls.call("linear_backward_input", |backend| backend.linear_backward_input(&dy, &w));
    calls.out("dx", &dx, chain);
    if columns * inner > GRADIENT_MAX {
        return;
    }
    let [mut dw, mut db] = [start(backend, w.shape(), Dtype::F32), start(backend, b.shape(), Dtype::F32)];
    calls.call("linear_backward_weight", |backend| backend.linear_backward_weight(&dy, &x, &mut dw, Some(&mut db)));
    calls.out("dw", &dw, chain);
    calls.out("db", &db, chain);
}

fn patch_embed(calls: &mut Calls<'_>, [rows, area, frames, columns]: [usize; 4]) {
    let (backend, mut random) = (calls.backend, Values::new(2));
    let pixels: Vec<u8> = (0..rows * 3 * area).map(|_| random.below(256) as u8).collect();
    let pixels = backend.upload(Host::U8(&pixels), &[rows, 3 * area], Dtype::U8);
    let w = random.matrix(backend, [columns, 3 * frames * area]);
    let dy = random.activation(backend, &[rows, columns]);
    let chain = (3 * frames * area).max(rows);
    let y = calls.call("patch_embed_forward", |backend| backend.patch_embed_forward(&pixels, &SCALE, &w));
    calls.out("y", &y, chain);
    let mut dw = start(backend, w.shape(), Dtype::F32);
    calls.call("patch_embed_backward", |backend| backend.patch_embed_backward(&dy, &pixels, &SCALE, &mut dw));
    calls.out("dw", &dw, chain);
}
