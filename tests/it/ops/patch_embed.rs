//! Vision patch embedding.

use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::ops::{Backend, Dtype, Host, Tensor};

use super::{Case, Gradient, Input, ROWS, Random, all_backends, check_backends, check_gradient, start};

/// CLIP's, as the Qwen2-VL family uses.
const SCALE: PixelScale =
    PixelScale { mean: [0.481_454_66, 0.457_827_5, 0.408_210_73], std: [0.268_629_54, 0.261_302_6, 0.275_777_1] };

fn pixels(backend: &dyn Backend, rows: usize, area: usize) -> Tensor {
    let mut random = Random::new(rows as u64);
    let values: Vec<u8> = (0..rows * 3 * area).map(|_| random.below(256) as u8).collect();
    backend.upload(Host::U8(&values), &[rows, 3 * area], Dtype::U8)
}

pub fn cases() -> Vec<Case> {
    let mut random = Random::new(6);
    let sizes = ROWS.into_iter().flat_map(|rows| [(4, 2), (9, 2), (16, 1)].map(|(area, frames)| (rows, area, frames)));
    let case = |(rows, area, frames): (usize, usize, usize)| Case {
        name: format!("patch_embed {rows} patches of {frames} frames of {area} pixels"),
        inputs: vec![Input::parameter(&mut random, &[11, 3 * frames * area])],
        chain: (3 * frames * area).max(rows),
        differentiable: 1,
        forward: Box::new(move |backend, x| {
            vec![backend.patch_embed_forward(&pixels(backend, rows, area), &SCALE, &x[0])]
        }),
        backward: Box::new(move |backend, x, dy| {
            let mut dw = start(backend, x[0].shape(), Dtype::F32);
            backend.patch_embed_backward(&dy[0], &pixels(backend, rows, area), &SCALE, &mut dw);
            vec![Some(Gradient::Added(dw))]
        }),
    };
    sizes.map(case).collect()
}

#[test]
fn its_gradient_is_that_of_finite_differences() {
    cases().iter().for_each(check_gradient);
}

#[test]
fn every_backend_agrees_with_the_reference() {
    cases().iter().for_each(check_backends);
}

#[test]
fn channels_are_normalised_by_their_own_numbers_and_frames_are_doubled() {
    for backend in all_backends() {
        let scale = PixelScale { mean: [0.0, 0.5, 1.0], std: [1.0, 0.5, 0.25] };
        let pixels = backend.upload(Host::U8(&[255, 0, 0]), &[1, 3], Dtype::U8);
        let one_hot: Vec<f32> = (0..36).map(|i| if i / 6 == i % 6 { 1.0 } else { 0.0 }).collect();
        let w = backend.upload(Host::F32(&one_hot), &[6, 6], Dtype::Bf16);
        let y = backend.to_f32(&backend.patch_embed_forward(&pixels, &scale, &w));
        assert_eq!(y, [1.0, 1.0, -1.0, -1.0, -4.0, -4.0], "{}", backend.name());
    }
}
