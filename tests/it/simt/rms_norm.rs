//! RMSNorm on simt against the reference.

use thyme_engine::ops::rms_norm::RmsNorm;
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, fast, pair, values};

const EPSILON: f32 = 1e-5;

#[test]
fn rms_norm_agrees_with_the_reference_in_both_directions() {
    let cuda = checked();
    let mut random = Random::new(40);
    for (rows, dim) in [(0, 8), (1, 1), (1, 40), (5, 7), (33, 264), (130, 12), (2, 2056)] {
        for add in [false, true] {
            let what = format!("rms_norm [{rows}, {dim}], add {add}");
            let mut activation = || exact_in_bf16(&mut random, rows * dim);
            let (x, rx) = pair(&cuda, &activation(), &[rows, dim], Dtype::Activation);
            let (a, ra) = pair(&cuda, &activation(), &[rows, dim], Dtype::Activation);
            let (dy, rdy) = pair(&cuda, &activation(), &[rows, dim], Dtype::Activation);
            let (dresidual, rdresidual) = pair(&cuda, &activation(), &[rows, dim], Dtype::Activation);
            let (w, rw) = pair(&cuda, &exact_in_bf16(&mut random, dim), &[dim], Dtype::Bf16);
            let (mut dw, mut rdw) = pair(&cuda, &vec![0.25; dim], &[dim], Dtype::F32);

            let found = cuda.rms_norm_forward(&x, add.then_some(&a), &w, EPSILON);
            let expected = Reference.rms_norm_forward(&rx, add.then_some(&ra), &rw, EPSILON);
            expect_close(&format!("{what}: y"), &cuda, &found.y, &expected.y, dim);
            expect_close(&format!("{what}: rstd"), &cuda, &found.rstd, &expected.rstd, dim);
            assert_eq!(found.sum.is_some(), add);
            if let (Some(found), Some(expected)) = (&found.sum, &expected.sum) {
                expect_close(&format!("{what}: sum"), &cuda, found, expected, 1);
            }

            let h = found.sum.as_ref().unwrap_or(&x);
            let rh = expected.sum.as_ref().unwrap_or(&rx);
            let residual = add.then_some(&dresidual);
            let dh = cuda.rms_norm_backward(&dy, residual, h, &w, &found.rstd, Some(&mut dw));
            let rresidual = add.then_some(&rdresidual);
            let rdh = Reference.rms_norm_backward(&rdy, rresidual, rh, &rw, &expected.rstd, Some(&mut rdw));
            expect_close(&format!("{what}: dh"), &cuda, &dh, &rdh, dim);
            expect_close(&format!("{what}: dw"), &cuda, &dw, &rdw, rows);
        }
    }
}

/// A race would be found with what another device's launch left in the thread's shared memory.
#[test]
fn several_watched_devices_on_a_thread_do_not_disturb_each_other() {
    for _ in 0..3 {
        let cuda = checked();
        for _ in 0..2 {
            let x = cuda.upload(Host::F32(&[1.0; 5 * 264]), &[5, 264], Dtype::Activation);
            let w = cuda.upload(Host::F32(&[1.0; 264]), &[264], Dtype::Bf16);
            assert!(
                values(&cuda, &cuda.rms_norm_forward(&x, None, &w, EPSILON).y).iter().all(|y| (y - 1.0).abs() < 0.01)
            );
        }
    }
}

#[test]
fn a_normalised_row_has_the_same_bits_in_any_company() {
    let cuda = fast();
    for dim in [5, 64, 131] {
        let x = exact_in_bf16(&mut Random::new(41), 37 * dim);
        let w = cuda.upload(Host::F64(&exact_in_bf16(&mut Random::new(42), dim)), &[dim], Dtype::Bf16);
        let normed = |rows: &[f64]| {
            let x = cuda.upload(Host::F64(rows), &[rows.len() / dim, dim], Dtype::Activation);
            let normed = cuda.rms_norm_forward(&x, Some(&x), &w, EPSILON);
            (values(&cuda, &normed.y), values(&cuda, &normed.rstd))
        };
        let all = normed(&x);
        for (row, x) in x.chunks(dim).enumerate() {
            let alone = normed(x);
            assert_eq!(alone.0, all.0[row * dim..][..dim], "row {row} of width {dim}");
            assert_eq!(alone.1, all.1[row..][..1], "row {row} of width {dim}");
        }
    }
}
