//! Rows gathered, scattered back, joined and added on simt.

use thyme_engine::ops::rows::Rows;
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, pair, values};

#[test]
fn rows_are_gathered_and_scattered_as_by_the_reference() {
    let cuda = checked();
    let mut random = Random::new(56);
    for (count, dim) in [(0, 8), (1, 1), (7, 5), (33, 16), (140, 1030), (3, 1032)] {
        let what = format!("{count} of 9 rows of {dim}");
        let index: Vec<i32> = (0..count).map(|_| random.below(9) as i32).collect();
        let index = |backend: &dyn Buffers| backend.upload(Host::I32(&index), &[count], Dtype::I32);
        let (x, rx) = pair(&cuda, &exact_in_bf16(&mut random, 9 * dim), &[9, dim], Dtype::Activation);
        let (dy, rdy) = pair(&cuda, &exact_in_bf16(&mut random, count * dim), &[count, dim], Dtype::Activation);
        let y = values(&cuda, &cuda.gather_rows(&x, &index(&cuda)));
        assert_eq!(y, values(&Reference, &Reference.gather_rows(&rx, &index(&Reference))), "{what}");
        let dx = cuda.gather_rows_backward(&dy, &index(&cuda), 9);
        let rdx = Reference.gather_rows_backward(&rdy, &index(&Reference), 9);
        expect_close(&what, &cuda, &dx, &rdx, count);
    }
}

/// 2²⁴ swallows the first 1 in this order and not in the opposite one, which would give 2; bf16 in between would lose the second 1 too.
#[test]
fn a_scattered_row_is_summed_in_ascending_order_and_rounded_once() {
    let cuda = checked();
    let terms = [2f64.powi(24), 1.0, -2f64.powi(24), 256.0, 1.0, -256.0];
    for dim in [1, 8] {
        let dy: Vec<f64> = terms.iter().flat_map(|x| vec![*x; dim]).collect();
        let dy = cuda.upload(Host::F64(&dy), &[6, dim], Dtype::Activation);
        let index = cuda.upload(Host::I32(&[1; 6]), &[6], Dtype::I32);
        let dx = values(&cuda, &cuda.gather_rows_backward(&dy, &index, 2));
        assert_eq!(dx[..dim], vec![0.0; dim]);
        assert_eq!(dx[dim..], vec![1.0; dim]);
    }
}

#[test]
fn parts_are_joined_and_added_in_place() {
    let cuda = checked();
    let part = |from: usize, rows: usize| {
        let values: Vec<f32> = (from * 5..(from + rows) * 5).map(|i| i as f32).collect();
        cuda.upload(Host::F32(&values), &[rows, 5], Dtype::Activation)
    };
    let mut joined = cuda.concat_rows(&[&part(0, 3), &part(3, 0), &part(3, 1), &part(4, 2)]);
    assert_eq!(joined.shape(), [6, 5]);
    let expected: Vec<f64> = (0..30).map(f64::from).collect();
    assert_eq!(values(&cuda, &joined), expected);
    cuda.add(&mut joined, &part(0, 6));
    assert_eq!(values(&cuda, &joined), expected.iter().map(|x| 2.0 * x).collect::<Vec<f64>>());
}
