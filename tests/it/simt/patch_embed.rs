//! Vision patch embedding on simt against the reference.

use thyme_engine::ops::patch_embed::{PatchEmbed, PixelScale};
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, fast, pair, values};

/// CLIP's, as the Qwen2-VL family uses.
const SCALE: PixelScale =
    PixelScale { mean: [0.481_454_66, 0.457_827_5, 0.408_210_73], std: [0.268_629_54, 0.261_302_6, 0.275_777_1] };

#[test]
fn patch_embed_agrees_with_the_reference_in_both_directions() {
    let cuda = checked();
    let mut random = Random::new(58);
    for (rows, area, frames, dim) in [(0, 4, 2, 8), (1, 1, 1, 1), (7, 9, 2, 11), (70, 16, 1, 16), (33, 49, 2, 70)] {
        let what = format!("patch_embed {rows} patches of {frames} frames of {area} pixels to {dim}");
        let bytes: Vec<u8> = (0..rows * 3 * area).map(|_| random.below(256) as u8).collect();
        let pixels = |backend: &dyn Buffers| backend.upload(Host::U8(&bytes), &[rows, 3 * area], Dtype::U8);
        let inner = 3 * frames * area;
        let (w, rw) = pair(&cuda, &exact_in_bf16(&mut random, dim * inner), &[dim, inner], Dtype::Bf16);
        let (dy, rdy) = pair(&cuda, &exact_in_bf16(&mut random, rows * dim), &[rows, dim], Dtype::Activation);
        let (mut dw, mut rdw) = pair(&cuda, &vec![0.25; dim * inner], &[dim, inner], Dtype::F32);
        let y = cuda.patch_embed_forward(&pixels(&cuda), &SCALE, &w);
        let ry = Reference.patch_embed_forward(&pixels(&Reference), &SCALE, &rw);
        expect_close(&format!("{what}: y"), &cuda, &y, &ry, inner);
        cuda.patch_embed_backward(&dy, &pixels(&cuda), &SCALE, &mut dw);
        Reference.patch_embed_backward(&rdy, &pixels(&Reference), &SCALE, &mut rdw);
        expect_close(&format!("{what}: dw"), &cuda, &dw, &rdw, rows);
    }
}

/// A one-hot weight shows each term of the factor, exact in bf16.
#[test]
fn channels_are_normalised_by_their_own_numbers_and_frames_are_doubled() {
    let cuda = checked();
    let scale = PixelScale { mean: [0.0, 0.5, 1.0], std: [1.0, 0.5, 0.25] };
    let pixels = cuda.upload(Host::U8(&[255, 0, 0]), &[1, 3], Dtype::U8);
    let one_hot: Vec<f32> = (0..36).map(|i| if i / 6 == i % 6 { 1.0 } else { 0.0 }).collect();
    let w = cuda.upload(Host::F32(&one_hot), &[6, 6], Dtype::Bf16);
    let y = values(&cuda, &cuda.patch_embed_forward(&pixels, &scale, &w));
    assert_eq!(y, [1.0, 1.0, -1.0, -1.0, -4.0, -4.0]);
}

#[test]
fn a_patch_has_the_same_bits_in_any_company() {
    const PATCH: usize = 3 * 14 * 14;
    let (cuda, mut random) = (fast(), Random::new(59));
    let bytes: Vec<u8> = (0..70 * PATCH).map(|_| random.below(256) as u8).collect();
    let w = cuda.upload(Host::F64(&exact_in_bf16(&mut random, 24 * 2 * PATCH)), &[24, 2 * PATCH], Dtype::Bf16);
    let embedded = |bytes: &[u8]| {
        let pixels = cuda.upload(Host::U8(bytes), &[bytes.len() / PATCH, PATCH], Dtype::U8);
        values(&cuda, &cuda.patch_embed_forward(&pixels, &SCALE, &w))
    };
    let all = embedded(&bytes);
    for (row, bytes) in bytes.chunks(PATCH).enumerate() {
        assert_eq!(embedded(bytes), all[row * 24..][..24], "patch {row}");
    }
}
