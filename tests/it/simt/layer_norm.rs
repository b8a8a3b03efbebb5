//! LayerNorm on simt against the reference.

use thyme_engine::ops::layer_norm::LayerNorm;
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, fast, pair, values};

/// Large enough to keep rows of one element smooth.
const EPSILON: f32 = 0.5;

#[test]
fn layer_norm_agrees_with_the_reference_in_both_directions() {
    let cuda = checked();
    let mut random = Random::new(52);
    for (rows, dim) in [(0, 8), (1, 1), (1, 40), (5, 7), (33, 264), (130, 12), (2, 2056)] {
        for add in [false, true] {
            let what = format!("layer_norm [{rows}, {dim}], add {add}");
            let mut activation =
                || pair(&cuda, &exact_in_bf16(&mut random, rows * dim), &[rows, dim], Dtype::Activation);
            let ((x, rx), (a, ra), (dy, rdy), (residual, rresidual)) =
                (activation(), activation(), activation(), activation());
            let (w, rw) = pair(&cuda, &exact_in_bf16(&mut random, dim), &[dim], Dtype::Bf16);
            let (b, rb) = pair(&cuda, &exact_in_bf16(&mut random, dim), &[dim], Dtype::Bf16);
            let (mut dw, mut rdw) = pair(&cuda, &vec![0.25; dim], &[dim], Dtype::F32);
            let (mut db, mut rdb) = pair(&cuda, &vec![0.25; dim], &[dim], Dtype::F32);

            let found = cuda.layer_norm_forward(&x, add.then_some(&a), &w, &b, EPSILON);
            let expected = Reference.layer_norm_forward(&rx, add.then_some(&ra), &rw, &rb, EPSILON);
            expect_close(&format!("{what}: y"), &cuda, &found.y, &expected.y, dim);
            expect_close(&format!("{what}: mean"), &cuda, &found.mean, &expected.mean, dim);
            expect_close(&format!("{what}: rstd"), &cuda, &found.rstd, &expected.rstd, dim);
            assert_eq!(found.sum.is_some(), add);

            let (h, rh) = (found.sum.as_ref().unwrap_or(&x), expected.sum.as_ref().unwrap_or(&rx));
            let (residual, rresidual) = (add.then_some(&residual), add.then_some(&rresidual));
            let dwb = Some((&mut dw, &mut db));
            let dh = cuda.layer_norm_backward(&dy, residual, h, &w, &found.mean, &found.rstd, dwb);
            let dwb = Some((&mut rdw, &mut rdb));
            let rdh = Reference.layer_norm_backward(&rdy, rresidual, rh, &rw, &expected.mean, &expected.rstd, dwb);
            expect_close(&format!("{what}: dh"), &cuda, &dh, &rdh, dim);
            expect_close(&format!("{what}: dw"), &cuda, &dw, &rdw, rows);
            expect_close(&format!("{what}: db"), &cuda, &db, &rdb, rows);
        }
    }
}

#[test]
fn a_normalised_row_has_the_same_bits_in_any_company() {
    let cuda = fast();
    for dim in [5, 64, 131] {
        let x = exact_in_bf16(&mut Random::new(53), 37 * dim);
        let parameter = |seed| cuda.upload(Host::F64(&exact_in_bf16(&mut Random::new(seed), dim)), &[dim], Dtype::Bf16);
        let (w, b) = (parameter(54), parameter(55));
        let normed = |rows: &[f64]| {
            let x = cuda.upload(Host::F64(rows), &[rows.len() / dim, dim], Dtype::Activation);
            values(&cuda, &cuda.layer_norm_forward(&x, Some(&x), &w, &b, EPSILON).y)
        };
        let all = normed(&x);
        for (row, x) in x.chunks(dim).enumerate() {
            assert_eq!(normed(x), all[row * dim..][..dim], "row {row} of width {dim}");
        }
    }
}
